//! Pure: an object as it stands → what it says, checked, with host names in full.
//! Never: other objects.
use culvert_agent::{discovery::Service, manifest::Declared};

use super::{
    destination_rule::DestinationRule,
    finding::{Finding, Findings},
    gateway_api::{Grant, ParentRef, Route, TlsPolicy},
    host::full,
    read, validate,
    virtual_service::{Destination, RouteDestination, VirtualService},
};

/// The annotation of a DestinationRule by which the number of its host's requests at once is found out,
/// and its only value.
const CONCURRENCY: &str = "culvert.dev/concurrency";
const ADAPTIVE: &str = "adaptive";

/// What an object says.
pub(super) enum Object {
    VirtualService(Box<VirtualService>),
    DestinationRule(Box<DestinationRule>),
    /// With the hosts of its parents.
    Route(Box<Route>, Vec<String>),
    Grant(Grant),
    /// With the hosts of its targets.
    Tls(Vec<String>),
}

/// Everything that is wrong with an object by itself.
pub(crate) fn findings(declared: &Declared, domain: &str) -> Vec<Finding> {
    let mut findings = Findings::default();
    if let Some(Object::VirtualService(object)) = object(declared, domain, &mut findings) {
        validate::shadowed(&object, &mut findings);
    }
    findings.0
}

/// Reads and checks an object; `None` when it cannot be read at all.
pub(super) fn object(declared: &Declared, domain: &str, findings: &mut Findings) -> Option<Object> {
    let namespace = declared.metadata.namespace.as_str();
    match declared.kind {
        "VirtualService" => {
            let mut object: VirtualService = read::spec(declared, findings)?;
            validate::virtual_service(&object, namespace, findings);
            resolve(&mut object, namespace, domain);
            Some(Object::VirtualService(object.into()))
        }
        "DestinationRule" => {
            let mut object: DestinationRule = read::spec(declared, findings)?;
            validate::destination_rule(&object, namespace, findings);
            object.adaptive = adaptive(declared, findings);
            object.host = full(&object.host, namespace, domain);
            Some(Object::DestinationRule(object.into()))
        }
        "HTTPRoute" => {
            route(Route::Http(read::spec(declared, findings)?), namespace, domain, findings)
        }
        "GRPCRoute" => {
            route(Route::Grpc(read::spec(declared, findings)?), namespace, domain, findings)
        }
        "TCPRoute" => {
            route(Route::Tcp(read::spec(declared, findings)?), namespace, domain, findings)
        }
        "TLSRoute" => {
            route(Route::Tls(read::spec(declared, findings)?), namespace, domain, findings)
        }
        "ReferenceGrant" => Some(Object::Grant(read::spec(declared, findings)?)),
        "BackendTLSPolicy" => {
            let policy: TlsPolicy = read::spec(declared, findings)?;
            findings.discouraged(
                "/spec",
                "BackendTLSPolicies are not obeyed: nothing goes to its targets",
            );
            Some(Object::Tls(tls_hosts(&policy, namespace, domain)))
        }
        _ => None,
    }
}

/// Whether a DestinationRule's annotation asks for a limit that is found out.
fn adaptive(declared: &Declared, findings: &mut Findings) -> bool {
    let said = declared.metadata.annotations.get(CONCURRENCY).map(String::as_str);
    if said.is_some_and(|said| said != ADAPTIVE) {
        let pointer = format!("/metadata/annotations/{}", CONCURRENCY.replace('/', "~1"));
        findings.invalid(&pointer, format!("{CONCURRENCY} can only be `{ADAPTIVE}`"));
    }
    said == Some(ADAPTIVE)
}

fn route(route: Route, namespace: &str, domain: &str, findings: &mut Findings) -> Option<Object> {
    validate::route(&route, findings);
    let hosts = parent_hosts(&route, namespace, domain);
    Some(Object::Route(route.into(), hosts))
}

/// The keys under which a route is found, each once.
pub(super) fn parent_hosts(route: &Route, namespace: &str, domain: &str) -> Vec<String> {
    let parents =
        route.parents().iter().filter_map(|parent| parent_host(parent, namespace, domain));
    let mut hosts: Vec<_> = parents.collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// The key under which routes of a parent are found: the host of a Service, or the name of a
/// ServiceEntry, whose hosts others know.
fn parent_host(parent: &ParentRef, namespace: &str, domain: &str) -> Option<String> {
    let home = parent.namespace.as_deref().unwrap_or(namespace);
    match (parent.group.as_deref(), parent.kind.as_deref()) {
        (Some("" | "core"), Some("Service")) => {
            Some(format!("{}.{home}.svc.{domain}", parent.name))
        }
        (Some("networking.istio.io"), Some("ServiceEntry")) => Some(entry(home, &parent.name)),
        _ => None,
    }
}

/// The hosts of the Services that a BackendTLSPolicy is for.
fn tls_hosts(policy: &TlsPolicy, namespace: &str, domain: &str) -> Vec<String> {
    let services = policy.target_refs.iter().filter(|target| target.kind == "Service");
    services.map(|target| format!("{}.{namespace}.svc.{domain}", target.name)).collect()
}

/// How a ServiceEntry is written among hosts.
fn entry(namespace: &str, name: &str) -> String {
    format!("ServiceEntry/{namespace}/{name}")
}

/// The kind of object that a service is, and the key under which routes of it are found.
pub(super) fn parent(service: &Service) -> (&'static str, String) {
    let Service { name, namespace, hostname, .. } = service;
    match hostname.starts_with(&format!("{name}.{namespace}.svc.")) {
        true => ("Service", hostname.to_string()),
        false => ("ServiceEntry", entry(namespace, name)),
    }
}

fn resolve(object: &mut VirtualService, namespace: &str, domain: &str) {
    let name = |host: &mut String| *host = full(host, namespace, domain);
    object.hosts.iter_mut().for_each(name);
    let named = |destination: &mut Option<Destination>| {
        if let Some(destination) = destination {
            destination.host = full(&destination.host, namespace, domain);
        }
    };
    for route in &mut object.http {
        route.route.iter_mut().for_each(|weighted| named(&mut weighted.destination));
        named(&mut route.mirror);
        route.mirrors.iter_mut().for_each(|mirror| named(&mut mirror.destination));
    }
    let all = |routes: &mut Vec<RouteDestination>| {
        routes.iter_mut().for_each(|weighted| named(&mut weighted.destination));
    };
    object.tls.iter_mut().for_each(|route| all(&mut route.route));
    object.tcp.iter_mut().for_each(|route| all(&mut route.route));
}
