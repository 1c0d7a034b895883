//! Pure: which rules for connections make sense (`tls[]`, `tcp[]`), and destinations.
//! Never: rules for requests (see `http`).
use std::net::IpAddr;

use super::{
    super::{
        finding::Findings,
        host,
        virtual_service::{
            Destination, RouteDestination, TcpRoute, TlsMatch, TlsRoute, VirtualService,
        },
    },
    names,
};

pub(super) fn tls(at: &str, route: &TlsRoute, object: &VirtualService, findings: &mut Findings) {
    if route.matches.is_empty() {
        findings.invalid(at, "TLS route must have at least one match condition");
    }
    for (index, block) in route.matches.iter().enumerate() {
        tls_match(&format!("{at}/match/{index}"), block, object, findings);
    }
    if route.route.is_empty() {
        findings.invalid(at, "TLS route is required");
    }
    destinations(at, &route.route, findings);
}

fn tls_match(at: &str, block: &TlsMatch, object: &VirtualService, findings: &mut Findings) {
    if block.sni_hosts.is_empty() {
        findings.invalid(at, "TLS match must have at least one SNI host");
    }
    for (index, sni) in block.sni_hosts.iter().enumerate() {
        sni_host(&format!("{at}/sniHosts/{index}"), sni, object, findings);
    }
    subnets(at, &block.destination_subnets, findings);
    if block.port != 0 {
        findings.check(&format!("{at}/port"), names::port(block.port));
    }
    names::labels(&format!("{at}/sourceLabels"), &block.source_labels, findings);
    names::gateways(&format!("{at}/gateways"), &block.gateways, findings);
}

fn sni_host(at: &str, sni: &str, object: &VirtualService, findings: &mut Findings) {
    if let Err(text) = names::wildcard_domain(sni) {
        if sni.parse::<IpAddr>().is_err() {
            return findings.invalid(at, text);
        }
        let text = format!(
            "using an IP address ({sni:?}) goes against SNI spec and most clients do not support this"
        );
        return findings.discouraged(at, text);
    }
    if !object.hosts.iter().any(|wide| host::covers(wide, sni)) {
        let hosts = object.hosts.join(", ");
        let text = format!(
            "SNI host {sni:?} is not a compatible subset of any of the virtual service hosts: [{hosts}]"
        );
        findings.invalid(at, text);
    }
}

fn subnets(at: &str, all: &[String], findings: &mut Findings) {
    let at = format!("{at}/destinationSubnets");
    for (index, subnet) in all.iter().enumerate() {
        findings.check(&format!("{at}/{index}"), names::subnet(subnet));
    }
    if !all.is_empty() {
        let text = "destinationSubnets has no effect at waypoints: the address selects the service";
        findings.discouraged(&at, text);
    }
}

pub(super) fn tcp(at: &str, route: &TcpRoute, findings: &mut Findings) {
    for (index, block) in route.matches.iter().enumerate() {
        let at = format!("{at}/match/{index}");
        subnets(&at, &block.destination_subnets, findings);
        if !block.source_subnet.is_empty() {
            findings.discouraged(
                &format!("{at}/sourceSubnet"),
                "sourceSubnet has no effect at waypoints",
            );
        }
        if block.port != 0 {
            findings.check(&format!("{at}/port"), names::port(block.port));
        }
        names::labels(&format!("{at}/sourceLabels"), &block.source_labels, findings);
        names::gateways(&format!("{at}/gateways"), &block.gateways, findings);
    }
    if route.route.is_empty() {
        findings.invalid(at, "TCP route is required");
    }
    destinations(at, &route.route, findings);
}

fn destinations(at: &str, all: &[RouteDestination], findings: &mut Findings) {
    for (index, one) in all.iter().enumerate() {
        let at = format!("{at}/route/{index}");
        weighted(&at, one.destination.as_ref(), one.weight, findings);
    }
    total(at, all.iter().map(|one| one.weight), findings);
}

/// One of several destinations.
pub(super) fn weighted(
    at: &str,
    destination: Option<&Destination>,
    weight: i32,
    findings: &mut Findings,
) {
    match destination {
        Some(one) => self::destination(&format!("{at}/destination"), one, findings),
        None => findings.invalid(at, "destination is required"),
    }
    if weight < 0 {
        findings.invalid(&format!("{at}/weight"), format!("weight {weight} < 0"));
    }
}

/// Of several destinations one must have a weight.
pub(super) fn total(
    at: &str,
    weights: impl ExactSizeIterator<Item = i32>,
    findings: &mut Findings,
) {
    if weights.len() > 1 && weights.map(i64::from).sum::<i64>() == 0 {
        findings.invalid(&format!("{at}/route"), "total destination weight = 0");
    }
}

pub(super) fn destination(at: &str, destination: &Destination, findings: &mut Findings) {
    let at_host = format!("{at}/host");
    if destination.host == "*" {
        findings.invalid(&at_host, "invalid destination host *");
    } else {
        findings.check(&at_host, names::wildcard_domain(&destination.host));
    }
    if !destination.subset.is_empty() {
        findings.check(&format!("{at}/subset"), names::subset(&destination.subset));
    }
    if let Some(port) = destination.port {
        findings.check(&format!("{at}/port/number"), names::port(port.number));
    }
}
