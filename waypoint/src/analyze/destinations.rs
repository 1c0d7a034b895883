//! Pure: destinations of VirtualServices that are not there (IST0101), or leave the port open (IST0112).
//! Never: routes of the Gateway API, whose backends answer 500 when they are missing.
use std::sync::Arc;

use culvert_agent::discovery::{Service, Snapshot};

use super::{
    message::{Code, Message},
    schema::Typed,
};
use crate::manifest::{
    Settings, host,
    virtual_service::{Destination, VirtualService},
};

pub(super) fn messages(
    objects: &Typed<'_>,
    snapshot: &Snapshot,
    settings: &Settings,
) -> Vec<Message> {
    let mut messages = Vec::new();
    for (declared, object) in &objects.virtual_services {
        let home = declared.metadata.namespace.as_str();
        for (pointer, mirror, destination) in destinations(object) {
            let name = host::full(&destination.host, home, &settings.cluster_domain);
            let found = check(destination, service(snapshot, &name).as_deref(), mirror);
            let subset = subset(destination, &name, mirror, objects);
            for (code, text) in found.into_iter().chain(subset) {
                messages.push(Message::about(code, declared, &format!("{pointer}/host"), text));
            }
        }
    }
    messages
}

/// The service with a host name, or the one whose wildcard covers it.
pub(super) fn service(snapshot: &Snapshot, name: &str) -> Option<Arc<Service>> {
    let wide = || snapshot.services().find(|service| host::covers(&service.hostname, name));
    snapshot.service_named(name).or_else(wide).cloned()
}

/// All destinations of a VirtualService, with their JSON pointers, and whether they get copies.
fn destinations(object: &VirtualService) -> Vec<(String, bool, &Destination)> {
    let mut all = Vec::new();
    for (index, route) in object.http.iter().enumerate() {
        let at = format!("/spec/http/{index}");
        for (number, weighted) in route.route.iter().enumerate() {
            let pointer = format!("{at}/route/{number}/destination");
            all.extend(weighted.destination.iter().map(|one| (pointer.clone(), false, one)));
        }
        all.extend(route.mirror.iter().map(|one| (format!("{at}/mirror"), true, one)));
        for (number, mirror) in route.mirrors.iter().enumerate() {
            let pointer = format!("{at}/mirrors/{number}/destination");
            all.extend(mirror.destination.iter().map(|one| (pointer.clone(), true, one)));
        }
    }
    let tls = object.tls.iter().map(|route| &route.route).enumerate();
    let tcp = object.tcp.iter().map(|route| &route.route).enumerate();
    let tls = tls.map(|(index, routes)| (format!("/spec/tls/{index}"), routes));
    let tcp = tcp.map(|(index, routes)| (format!("/spec/tcp/{index}"), routes));
    for (at, routes) in tls.chain(tcp) {
        for (number, weighted) in routes.iter().enumerate() {
            let pointer = format!("{at}/route/{number}/destination");
            all.extend(weighted.destination.iter().map(|one| (pointer.clone(), false, one)));
        }
    }
    all
}

pub(super) fn not_found(what: &str, name: &str) -> (Code, String) {
    (Code::ReferencedResourceNotFound, format!("Referenced {what} not found: {name:?}"))
}

fn check(
    destination: &Destination,
    service: Option<&Service>,
    mirror: bool,
) -> Option<(Code, String)> {
    let name = &destination.host;
    let Some(service) = service else {
        return Some(not_found(if mirror { "mirror host" } else { "host" }, name));
    };
    let ports: Vec<_> = service.ports.iter().map(|port| u32::from(port.port)).collect();
    match destination.port {
        None if ports.len() > 1 => {
            let ports: Vec<_> = ports.iter().map(u32::to_string).collect();
            let text = format!(
                "This VirtualService routes to a service {name:?} that exposes multiple ports [{}]. Specifying a port in the destination is required to disambiguate.",
                ports.join(" ")
            );
            Some((Code::VirtualServiceDestinationPortSelectorRequired, text))
        }
        Some(port) if !ports.contains(&port.number) => {
            Some(not_found("host:port", &format!("{name}:{}", port.number)))
        }
        None | Some(_) => None,
    }
}

/// A subset that no DestinationRule has.
fn subset(
    destination: &Destination,
    name: &str,
    mirror: bool,
    objects: &Typed<'_>,
) -> Option<(Code, String)> {
    let wanted = &destination.subset;
    let mut rules = objects.rules.iter().filter(|(_, own, _)| host::covers(own, name));
    let mut has = || rules.any(|(.., rule)| rule.subsets.iter().any(|other| other.name == *wanted));
    if wanted.is_empty() || has() {
        return None;
    }
    let what = if mirror { "mirror+subset" } else { "host+subset" };
    let pair = format!("{}+{wanted}", destination.host);
    Some(not_found(&format!("{what} in destinationrule"), &pair))
}
