//! Pure: which VirtualServices make sense (`ValidateVirtualService`).
//! Never: other objects: what a VirtualService names need not be there.
use std::net::IpAddr;

use super::{
    super::{finding::Findings, virtual_service::VirtualService},
    connection, http, names,
};

/// The gateway that every proxy of the mesh is.
const MESH: &str = "mesh";

/// Everything that is wrong with a VirtualService of this namespace.
pub(in super::super) fn virtual_service(
    object: &VirtualService,
    namespace: &str,
    findings: &mut Findings,
) {
    let is_delegate = object.hosts.is_empty();
    if is_delegate {
        delegate(object, findings);
    }
    names::gateways("/spec/gateways", &object.gateways, findings);
    hosts(object, findings);
    if object.http.is_empty() && object.tcp.is_empty() && object.tls.is_empty() {
        findings.invalid("/spec", "http, tcp or tls must be provided in virtual service");
    }
    for (index, route) in object.http.iter().enumerate() {
        let at = format!("/spec/http/{index}");
        http::route(&at, route, is_delegate, findings);
        if !applies_to_gateway(object) {
            claims(&at, object, index, findings);
        }
    }
    for (index, route) in object.tls.iter().enumerate() {
        connection::tls(&format!("/spec/tls/{index}"), route, object, findings);
    }
    for (index, route) in object.tcp.iter().enumerate() {
        connection::tcp(&format!("/spec/tcp/{index}"), route, findings);
    }
    names::export_to("/spec/exportTo", namespace, &object.export_to, findings);
}

/// Whether it is for Gateways of the edge alone.
pub(super) fn applies_to_gateway(object: &VirtualService) -> bool {
    !object.gateways.is_empty() && !object.gateways.iter().any(|gateway| gateway == MESH)
}

fn delegate(object: &VirtualService, findings: &mut Findings) {
    if !object.gateways.is_empty() {
        let text = "delegate virtual service must have no gateways specified";
        findings.invalid("/spec/gateways", text);
    }
    if !object.tls.is_empty() {
        let text = "delegate virtual service must have no tls route specified";
        findings.invalid("/spec/tls", text);
    }
    if !object.tcp.is_empty() {
        let text = "delegate virtual service must have no tcp route specified";
        findings.invalid("/spec/tcp", text);
    }
}

fn hosts(object: &VirtualService, findings: &mut Findings) {
    let in_mesh = !applies_to_gateway(object);
    let mut all_valid = true;
    for (index, name) in object.hosts.iter().enumerate() {
        let at = format!("/spec/hosts/{index}");
        let checked = match names::wildcard_domain(name) {
            Err(_) if name.parse::<IpAddr>().is_ok() => Ok(()),
            Ok(()) if in_mesh && name == "*" => {
                Err("wildcard host * is not allowed for virtual services bound to the mesh gateway"
                    .to_owned())
            }
            checked => checked,
        };
        all_valid &= checked.is_ok();
        findings.check(&at, checked);
    }
    if !all_valid {
        return;
    }
    if let Some((one, other)) = overlapping(&object.hosts) {
        let text = format!("duplicate hosts in virtual service: {one} & {other}");
        findings.invalid("/spec/hosts", text);
    }
}

/// The first two hosts that have a name in common. Read backwards, those that a wildcard covers follow
/// it in order, so that neighbours tell.
fn overlapping(hosts: &[String]) -> Option<(&String, &String)> {
    let key = |host: &String| host.to_ascii_lowercase().chars().rev().collect::<String>();
    let mut sorted: Vec<_> = hosts.iter().enumerate().map(|(at, host)| (key(host), at)).collect();
    sorted.sort_by(|(a, _), (b, _)| a.trim_end_matches('*').cmp(b.trim_end_matches('*')));
    let together = sorted.windows(2).filter_map(|pair| {
        let [(one, first), (other, second)] = pair else { return None };
        let overlap = match one.strip_suffix('*') {
            Some(wide) => other.starts_with(wide),
            None => one == other.trim_end_matches('*'),
        };
        overlap.then_some((*first.min(second), *first.max(second)))
    });
    let (one, other) = together.min()?;
    Some((hosts.get(one)?, hosts.get(other)?))
}

/// Claims of tokens decide nothing within the mesh.
fn claims(at: &str, object: &VirtualService, index: usize, findings: &mut Findings) {
    let blocks = object.http.get(index).into_iter().flat_map(|route| route.matches.iter());
    for (number, block) in blocks.enumerate() {
        for key in block.headers.keys().chain(block.without_headers.keys()) {
            if names::is_claim(key) {
                let gateways = object.gateways.join(" ");
                let text = format!(
                    "JWT claim based routing (key: {key}) is only supported for gateway, found no gateways: [{gateways}]"
                );
                findings.invalid(&format!("{at}/match/{number}"), text);
            }
        }
    }
}
