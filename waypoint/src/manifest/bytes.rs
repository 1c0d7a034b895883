//! Pure: `tls[]` and `tcp[]` of VirtualServices → rules for connections.
//! Never: requests.
use super::{
    conditions::client,
    objects::Held,
    select::source,
    targets::Targets,
    virtual_service::{RouteDestination, VirtualService},
};
use crate::routing::{ClientMatch, Destination, Destinations, HeaderEdits, Kind, TcpRule, TlsRule};

/// The gateway that a waypoint is.
const MESH: &str = "mesh";

/// The rules for connections with a ClientHello, on a port.
pub(super) fn tls(
    held: &Held<VirtualService>,
    port: u16,
    targets: &mut Targets<'_>,
) -> Vec<TlsRule> {
    let mut rules = Vec::new();
    for (index, route) in held.spec.tls.iter().enumerate() {
        for (number, block) in route.matches.iter().enumerate() {
            if !applies((block.port, &block.gateways), port) {
                continue;
            }
            let field = format!("tls[{index}].match[{number}]");
            let pointer = format!("/spec/tls/{index}/match/{number}");
            rules.push(TlsRule {
                source: Some(source(held, Kind::VirtualService, &field, &pointer)),
                sni: block.sni_hosts.iter().map(|sni| sni.to_ascii_lowercase().into()).collect(),
                client: client(&block.source_labels, &block.source_namespace),
                destinations: destinations(&route.route, port, targets),
            });
        }
    }
    rules
}

/// The rules for other connections, on a port.
pub(super) fn tcp(
    held: &Held<VirtualService>,
    port: u16,
    targets: &mut Targets<'_>,
) -> Vec<TcpRule> {
    let mut rules = Vec::new();
    for (index, route) in held.spec.tcp.iter().enumerate() {
        let mut push = |client: ClientMatch, field: String, pointer: String| {
            rules.push(TcpRule {
                source: Some(source(held, Kind::VirtualService, &field, &pointer)),
                client,
                destinations: destinations(&route.route, port, targets),
            });
        };
        if route.matches.is_empty() {
            let field = format!("tcp[{index}]");
            push(ClientMatch::default(), field, format!("/spec/tcp/{index}"));
        }
        for (number, block) in route.matches.iter().enumerate() {
            if applies((block.port, &block.gateways), port) {
                let client = client(&block.source_labels, &block.source_namespace);
                let field = format!("tcp[{index}].match[{number}]");
                push(client, field, format!("/spec/tcp/{index}/match/{number}"));
            }
        }
    }
    rules
}

fn applies((wanted, gateways): (u32, &[String]), port: u16) -> bool {
    (wanted == 0 || wanted == u32::from(port))
        && (gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH))
}

fn destinations(all: &[RouteDestination], port: u16, targets: &mut Targets<'_>) -> Destinations {
    let only = all.len() == 1;
    let destination = |weighted: &RouteDestination| {
        Some(Destination {
            target: targets.destination(weighted.destination.as_ref()?, port),
            weight: if only { 1 } else { u32::try_from(weighted.weight).ok()? },
            headers: HeaderEdits::default(),
        })
    };
    Destinations::new(all.iter().filter_map(destination).collect())
}
