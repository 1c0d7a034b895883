//! Pure: everything that objects say about one service → its routes.
//! Never: other services, except those that its routes name.
use std::{collections::BTreeMap, sync::Arc};

use culvert_agent::{
    discovery::{Service, Speech},
    origin::Problem,
};

use super::{
    bytes,
    grant::Backends,
    intake,
    mesh_route::{self, At, MeshRoutes},
    objects::{Held, Objects},
    rules,
    select::{self, Listed, Order},
    targets::Targets,
    virtual_service::VirtualService,
};
use crate::routing::{
    BackendRef, PathMatch, PortRoutes, Protocol, Rule, ServiceRoutes, TcpRule, TlsRule,
};

/// What the routes of a service are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maker<'a> {
    pub(super) objects: &'a Objects,
    pub(super) domain: &'a str,
    /// The waypoint's namespace.
    pub(super) waypoint: &'a str,
}

/// What stands for itself among VirtualServices: one of them, or all routes of the Gateway API.
enum Said<'a> {
    Istio(&'a Held<VirtualService>, Vec<Listed<'a>>),
    Gateway,
}

impl Maker<'_> {
    /// The routes of a service, with what is wrong with them.
    pub(super) fn routes(
        &self,
        service: &Service,
        targets: &mut Targets<'_>,
    ) -> (ServiceRoutes, Vec<Problem>) {
        let (host, home) = (&service.hostname, &service.namespace);
        let mut problems = Vec::new();
        let chosen = select::virtual_services(self.objects, host, home, self.waypoint);
        let chosen: Vec<_> = chosen
            .into_iter()
            .map(|(order, held)| {
                let listed = select::listed(self.objects, held, &mut problems);
                (order, Said::Istio(held, listed))
            })
            .collect();
        let ports = service.ports.iter().map(|port| {
            let routes = self.port(service, (port.port, port.speech), &chosen, targets);
            (port.port, routes)
        });
        let ports: BTreeMap<_, _> = ports.collect();
        (ServiceRoutes { ports }, problems)
    }

    fn port(
        &self,
        service: &Service,
        (port, speech): (u16, Speech),
        chosen: &[(Order, Said<'_>)],
        targets: &mut Targets<'_>,
    ) -> PortRoutes {
        let mesh = self.mesh_routes(service, port, targets);
        let own = Arc::new(BackendRef { host: service.hostname.clone(), port, subset: None });
        let is_http = !matches!(speech, Speech::Tls | Speech::Tcp);
        let is_bytes = matches!(speech, Speech::Tls | Speech::Tcp | Speech::Unknown);
        let (tls, tcp) = match is_bytes {
            true => streams(chosen, &mesh, (port, &own), targets),
            false => (Vec::new(), Vec::new()),
        };
        let http = match is_http {
            true => requests(chosen, mesh, (port, &own), targets),
            false => Vec::new(),
        };
        PortRoutes { protocol: protocol(speech), http, tls, tcp }
    }

    fn mesh_routes(&self, service: &Service, port: u16, targets: &mut Targets<'_>) -> MeshRoutes {
        let (kind, key) = intake::parent(service);
        let routes: Vec<_> = self.objects.routes_for(&key).collect();
        let grants = Backends { objects: self.objects, domain: self.domain };
        let at = At { service, kind, port, waypoint: self.waypoint };
        mesh_route::rules(&routes, at, &grants, targets)
    }
}

fn protocol(speech: Speech) -> Protocol {
    match speech {
        Speech::Http => Protocol::Http,
        Speech::Http2 => Protocol::Http2,
        Speech::Grpc => Protocol::Grpc,
        Speech::Tls => Protocol::Tls,
        Speech::Tcp => Protocol::Tcp,
        Speech::Unknown => Protocol::Unknown,
    }
}

/// All rules for requests, up to the first that leaves nothing to others. When nobody says anything
/// about a port, requests go to the service itself.
fn requests(
    chosen: &[(Order, Said<'_>)],
    mesh: MeshRoutes,
    (port, own): (u16, &Arc<BackendRef>),
    targets: &mut Targets<'_>,
) -> Vec<Rule> {
    let gateway = mesh.order.clone().map(|order| (order, Said::Gateway));
    let mut said: Vec<_> = chosen.iter().chain(&gateway).collect();
    said.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut mesh = mesh.http;
    let mut all: Vec<Rule> = Vec::new();
    for (_, said) in said {
        match said {
            Said::Gateway => all.append(&mut mesh),
            Said::Istio(_, listed) => {
                for listed in listed {
                    all.extend(rules::rules(listed, port, targets));
                }
            }
        }
    }
    if let Some(last) = all.iter().position(catches_all) {
        all.truncate(last + 1);
    }
    if all.is_empty() {
        all.push(Rule::default_route(own.clone()));
    }
    all
}

/// Whether a rule leaves nothing to those after it.
fn catches_all(rule: &Rule) -> bool {
    let matches = &rule.matches;
    let everywhere = match &matches.uri {
        None => true,
        Some(PathMatch::Prefix { prefix, .. } | PathMatch::Segments(prefix)) => &**prefix == "/",
        Some(PathMatch::Exact { .. } | PathMatch::Regex(_)) => false,
    };
    let texts = [&matches.scheme, &matches.method, &matches.authority];
    everywhere
        && texts.into_iter().all(Option::is_none)
        && matches.headers.is_empty()
        && matches.without_headers.is_empty()
        && matches.query_params.is_empty()
        && matches.client.labels.is_empty()
        && matches.client.namespace.is_none()
}

/// All rules for connections: those of the Gateway API first. What no rule takes goes to the service
/// itself.
fn streams(
    chosen: &[(Order, Said<'_>)],
    mesh: &MeshRoutes,
    (port, own): (u16, &Arc<BackendRef>),
    targets: &mut Targets<'_>,
) -> (Vec<TlsRule>, Vec<TcpRule>) {
    let (mut tls, mut tcp) = (mesh.tls.clone(), mesh.tcp.clone());
    for (_, said) in chosen {
        if let Said::Istio(held, _) = said {
            tls.extend(bytes::tls(held, port, targets));
            tcp.extend(bytes::tcp(held, port, targets));
        }
    }
    let catches_all = |rule: &TcpRule| rule.client == crate::routing::ClientMatch::default();
    match tcp.iter().position(catches_all) {
        Some(last) => tcp.truncate(last + 1),
        None => tcp.push(TcpRule::default_route(own.clone())),
    }
    (tls, tcp)
}
