//! Pure: everything that objects say about one service → its routes.
//! Never: other services, except those that its routes name.
use std::{collections::BTreeMap, sync::Arc};

use culvert_agent::{
    discovery::{Service, Speech},
    origin::Problem,
};

use super::{
    budget::{Budget, FULL},
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
    BackendRef, ClientMatch, Kind, PathMatch, PortRoutes, Protocol, Rule, ServiceRoutes, TcpRule,
    TlsRule,
};

/// Whether there was room for a VirtualService's rules for connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Streams {
    Fit,
    Full,
}

/// What the routes of a service are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maker<'a> {
    pub(super) objects: &'a Objects,
    pub(super) domain: &'a str,
    /// The waypoint's namespace.
    pub(super) waypoint: &'a str,
    /// Whether `sourceLabels` count.
    pub(super) source_labels: bool,
}

/// What stands for itself among VirtualServices: one of them, or all routes of the Gateway API.
enum Said<'a> {
    Istio(&'a Held<VirtualService>, Vec<Listed<'a>>, Streams),
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
        let mut budget = Budget::of(service.ports.len());
        let chosen: Vec<_> = chosen
            .into_iter()
            .map(|(order, held)| {
                let listed = select::listed(self.objects, held, &mut budget, &mut problems);
                let streams = fit(held, &mut budget, &mut problems);
                (order, Said::Istio(held, listed, streams))
            })
            .collect();
        let mut ports = BTreeMap::new();
        for port in &service.ports {
            let at = (port.port, port.speech);
            let mut mesh = self.mesh_routes(service, port.port, targets);
            problems.append(&mut mesh.problems);
            ports.insert(port.port, self.port((service, mesh), at, &chosen, targets));
        }
        (ServiceRoutes { ports }, problems)
    }

    fn port(
        &self,
        (service, mesh): (&Service, MeshRoutes),
        (port, speech): (u16, Speech),
        chosen: &[(Order, Said<'_>)],
        targets: &mut Targets<'_>,
    ) -> PortRoutes {
        let own = Arc::new(BackendRef { host: service.hostname.clone(), port, subset: None });
        let is_http = !matches!(speech, Speech::Tls | Speech::Tcp);
        let is_bytes = matches!(speech, Speech::Tls | Speech::Tcp | Speech::Unknown);
        let (tls, tcp) = match is_bytes {
            true => self.streams(chosen, &mesh, (port, &own), targets),
            false => (Vec::new(), Vec::new()),
        };
        let http = match is_http {
            true => self.requests(chosen, mesh, (port, &own), targets),
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

    /// All rules for requests, up to the first that leaves nothing to others. When nobody but consumers says
    /// anything about a port, requests go to the service itself.
    fn requests(
        &self,
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
                Said::Istio(_, listed, _) => {
                    let rules = listed.iter().flat_map(|one| rules::rules(one, port, targets));
                    all.extend(rules.filter(|rule| self.counts(&rule.matches.client)));
                }
            }
        }
        all.append(&mut mesh);
        if let Some(last) = all.iter().position(catches_all) {
            all.truncate(last + 1);
        }
        if all.iter().all(is_consumers) {
            all.push(Rule::default_route(own.clone()));
        }
        all
    }

    /// All rules for connections: those of the Gateway API first. What no rule takes goes to the service
    /// itself.
    fn streams(
        &self,
        chosen: &[(Order, Said<'_>)],
        mesh: &MeshRoutes,
        (port, own): (u16, &Arc<BackendRef>),
        targets: &mut Targets<'_>,
    ) -> (Vec<TlsRule>, Vec<TcpRule>) {
        let (mut tls, mut tcp) = (mesh.tls.clone(), mesh.tcp.clone());
        for (_, said) in chosen {
            match said {
                Said::Istio(held, _, Streams::Fit) => {
                    let rules = bytes::tls(held, port, targets).into_iter();
                    tls.extend(rules.filter(|rule| self.counts(&rule.client)));
                    let rules = bytes::tcp(held, port, targets).into_iter();
                    tcp.extend(rules.filter(|rule| self.counts(&rule.client)));
                }
                Said::Istio(_, _, Streams::Full) => tcp.push(TcpRule::closed()),
                Said::Gateway => {}
            }
        }
        let catches_all = |rule: &TcpRule| rule.client == ClientMatch::default();
        match tcp.iter().position(catches_all) {
            Some(last) => tcp.truncate(last + 1),
            None => tcp.push(TcpRule::default_route(own.clone())),
        }
        (tls, tcp)
    }

    /// Whether a block of a VirtualService counts.
    fn counts(&self, client: &ClientMatch) -> bool {
        self.source_labels || client.labels.is_empty()
    }
}

/// Whether there is room for the rules for connections of a VirtualService.
fn fit(held: &Held<VirtualService>, budget: &mut Budget, problems: &mut Vec<Problem>) -> Streams {
    let tls = (0..held.spec.tls.len()).map(|index| ("tls", index));
    let mut all = tls.chain((0..held.spec.tcp.len()).map(|index| ("tcp", index)));
    let Some((section, index)) =
        all.find(|(section, index)| !budget.take(select::size(held, section, *index)))
    else {
        return Streams::Fit;
    };
    select::report(held, &format!("/spec/{section}/{index}"), FULL, problems);
    Streams::Full
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

/// Whether a rule is a consumer's, and so says nothing to anybody else: a route of the Gateway API for
/// one namespace.
fn is_consumers(rule: &Rule) -> bool {
    let routed = rule.source.as_ref().is_some_and(|source| source.kind != Kind::VirtualService);
    routed && rule.matches.client.namespace.is_some()
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
