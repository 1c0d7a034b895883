//! Pure: routes of the Gateway API for one service → rules in the Gateway API's own order.
//! Never: Gateways of the edge; only routes that have the service for a parent.
use std::{cmp::Reverse, sync::Arc};

use culvert_agent::discovery::Service;

use super::{
    filters,
    gateway_api::{BackendRef, BytesRule, GrpcRule, HttpRule, ParentRef, Route},
    grant::{Backends, Referrer},
    mesh_match,
    objects::Held,
    select::{Order, source},
    targets::Targets,
    visibility::Seen,
};
use crate::routing::{
    Action, ClientMatch, Destination, Destinations, Forward, HeaderEdits, Kind, Match, Rule,
    TcpRule, TlsRule,
};

/// What places a rule among others: routes of the client's own namespace first, then the more
/// precise, then the older object, then its name, then its place in there.
type Place = (bool, Reverse<crate::routing::Precedence>, (String, String), usize);

/// Everything that routes of the Gateway API say about a port of a service.
#[derive(Debug, Default)]
pub(super) struct MeshRoutes {
    /// Rules for requests, in order.
    pub(super) http: Vec<Rule>,
    /// Where they come among VirtualServices.
    pub(super) order: Option<Order>,
    /// Rules for connections with a ClientHello, in order.
    pub(super) tls: Vec<TlsRule>,
    /// Rules for other connections, in order.
    pub(super) tcp: Vec<TcpRule>,
}

/// A service port, and the waypoint's namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) service: &'a Service,
    /// `Service` or `ServiceEntry`.
    pub(super) kind: &'a str,
    pub(super) port: u16,
    pub(super) waypoint: &'a str,
}

/// The rules of these routes at a port.
pub(super) fn rules(
    routes: &[&Held<Route>],
    at: At<'_>,
    grants: &Backends<'_>,
    targets: &mut Targets<'_>,
) -> MeshRoutes {
    let mut made = MeshRoutes::default();
    let mut http = Vec::new();
    let mut routes: Vec<_> = routes.iter().filter(|held| is_parent(held, at)).collect();
    routes.sort_by_key(|held| age(held));
    for held in routes {
        let consumer = consumer(held, at);
        let mut maker = Maker { held, grants, targets };
        match &held.spec {
            Route::Http(route) => {
                for (index, rule) in route.rules.iter().enumerate() {
                    http.extend(maker.http(index, rule, &consumer));
                }
                note_order(&mut made.order, held, at);
            }
            Route::Grpc(route) => {
                for (index, rule) in route.rules.iter().enumerate() {
                    http.extend(maker.grpc(index, rule, &consumer));
                }
                note_order(&mut made.order, held, at);
            }
            Route::Tls(route) => {
                // One rule for each name, so that the narrower ones come first.
                let names =
                    route.hostnames.iter().map(|name| vec![name.to_ascii_lowercase().into()]);
                let names: Vec<_> =
                    names.chain(route.hostnames.is_empty().then(Vec::new)).collect();
                for (index, rule) in route.rules.iter().enumerate() {
                    let source = maker.source(Kind::TlsRoute, index, None);
                    let destinations = maker.bytes(rule);
                    made.tls.extend(names.iter().map(|sni| TlsRule {
                        source: Some(source.clone()),
                        sni: sni.clone(),
                        client: consumer.clone(),
                        destinations: destinations.clone(),
                    }));
                }
            }
            Route::Tcp(route) => {
                for (index, rule) in route.rules.iter().enumerate() {
                    let source = Some(maker.source(Kind::TcpRoute, index, None));
                    let (client, destinations) = (consumer.clone(), maker.bytes(rule));
                    made.tcp.push(TcpRule { source, client, destinations });
                }
            }
        }
    }
    // Stable: rules of one route, and blocks of one rule, stay as they are written.
    http.sort_by(|(a, _): &(Place, Rule), (b, _)| a.cmp(b));
    made.http = http.into_iter().map(|(_, rule)| rule).collect();
    let breadth = |sni: &Arc<str>| (!sni.starts_with('*'), sni.len());
    made.tls.sort_by_key(|rule| Reverse(rule.sni.first().map(breadth)));
    made
}

/// The older comes first; those of one age by namespace and name.
fn age(held: &Held<Route>) -> (String, String) {
    let (_, namespace, name) = &held.name;
    (held.declared.metadata.creation_timestamp.clone(), format!("{namespace}/{name}"))
}

fn note_order(order: &mut Option<Order>, held: &Held<Route>, at: At<'_>) {
    let (_, namespace, name) = &held.name;
    let created = held.declared.metadata.creation_timestamp.clone();
    let far = namespace != at.waypoint;
    let own = (Seen::Publicly, far, created, name.clone(), namespace.clone());
    *order = Some(order.take().map_or(own.clone(), |other| other.min(own)));
}

/// Whether the route is for this port of the service.
fn is_parent(held: &Held<Route>, At { service, kind, port, .. }: At<'_>) -> bool {
    let named = service.ports.iter().find(|other| other.port == port).map(|other| &*other.name);
    let is = |parent: &ParentRef| {
        let home = parent.namespace.as_ref().unwrap_or(&held.name.1);
        parent.kind.as_deref() == Some(kind)
            && parent.name == *service.name
            && *home == *service.namespace
            && parent.port.is_none_or(|wanted| wanted == port)
            && parent.section_name.as_deref().is_none_or(|wanted| Some(wanted) == named)
    };
    held.spec.parents().iter().any(is)
}

/// A route of another namespace than the service's is for clients of its own namespace alone.
fn consumer(held: &Held<Route>, at: At<'_>) -> ClientMatch {
    let home = held.name.1.as_str();
    let foreign = home != &*at.service.namespace;
    ClientMatch { namespace: foreign.then(|| home.into()), ..ClientMatch::default() }
}

struct Maker<'m, 'a> {
    held: &'m Held<Route>,
    grants: &'m Backends<'m>,
    targets: &'m mut Targets<'a>,
}

impl Maker<'_, '_> {
    fn source(&self, kind: Kind, rule: usize, block: Option<usize>) -> Arc<crate::routing::Source> {
        let (field, pointer) = match block {
            Some(block) => (
                format!("rules[{rule}].matches[{block}]"),
                format!("/spec/rules/{rule}/matches/{block}"),
            ),
            None => (format!("rules[{rule}]"), format!("/spec/rules/{rule}")),
        };
        source(self.held, kind, &field, &pointer)
    }

    fn place(&self, matches: &Match, rule: usize) -> Place {
        let producer = matches.client.namespace.is_none();
        (producer, Reverse(matches.precedence()), age(self.held), rule)
    }

    fn name(&self, name: Option<&String>, rule: usize) -> String {
        let (_, namespace, object) = &self.held.name;
        name.cloned().unwrap_or_else(|| format!("{namespace}.{object}.{rule}"))
    }

    fn http(
        &mut self,
        index: usize,
        rule: &HttpRule,
        consumer: &ClientMatch,
    ) -> Vec<(Place, Rule)> {
        let blocks: Vec<_> = match rule.matches.is_empty() {
            true => vec![(None, Some(mesh_match::Conditions::default()))],
            false => {
                let blocks = rule.matches.iter().map(mesh_match::http).enumerate();
                blocks.map(|(block, made)| (Some(block), made)).collect()
            }
        };
        let destinations = self.destinations(&rule.backend_refs);
        let name = self.name(rule.name.as_ref(), index);
        let made = blocks.into_iter().filter_map(|(block, made)| {
            let source = self.source(Kind::HttpRoute, index, block);
            let mesh_match::Conditions { mut matches, from } = made?;
            matches.client = consumer.clone();
            let forward = Forward {
                destinations: destinations.clone(),
                rewrite: filters::rewrite(&rule.filters, &from)?,
                mirrors: self.mirrors(&rule.filters),
                timeout: filters::timeout(rule.timeouts, rule.retry.is_some()),
                retry: filters::retry(rule.retry.as_ref(), rule.timeouts),
            };
            let action = match filters::redirect(&rule.filters, &from)? {
                Some(redirect) => Action::Redirect(redirect),
                None => Action::Forward(Box::new(forward)),
            };
            let place = self.place(&matches, index);
            let headers = filters::headers(&rule.filters)?;
            let cors = filters::cors(&rule.filters)?;
            let (name, source) = (name.as_str().into(), Some(source));
            Some((place, Rule { name, source, matches, fault: None, cors, headers, action }))
        });
        made.collect()
    }

    fn grpc(
        &mut self,
        index: usize,
        rule: &GrpcRule,
        consumer: &ClientMatch,
    ) -> Vec<(Place, Rule)> {
        let blocks: Vec<_> = match rule.matches.is_empty() {
            true => vec![(None, Some(Match::default()))],
            false => {
                let blocks = rule.matches.iter().map(mesh_match::grpc).enumerate();
                blocks.map(|(block, made)| (Some(block), made)).collect()
            }
        };
        let destinations = self.destinations(&rule.backend_refs);
        let name = self.name(rule.name.as_ref(), index);
        let made = blocks.into_iter().filter_map(|(block, made)| {
            let source = self.source(Kind::GrpcRoute, index, block);
            let mut matches = made?;
            matches.client = consumer.clone();
            let forward = Forward {
                destinations: destinations.clone(),
                rewrite: crate::routing::Rewrite::default(),
                mirrors: self.mirrors(&rule.filters),
                timeout: None,
                retry: crate::routing::Retry::default(),
            };
            let place = self.place(&matches, index);
            Some((
                place,
                Rule {
                    name: name.as_str().into(),
                    source: Some(source),
                    matches,
                    fault: None,
                    cors: None,
                    headers: filters::headers(&rule.filters)?,
                    action: Action::Forward(Box::new(forward)),
                },
            ))
        });
        made.collect()
    }

    fn mirrors(&mut self, filters: &[super::gateway_api::Filter]) -> Vec<crate::routing::Mirror> {
        let mirrors = filters.iter().filter_map(|filter| filter.request_mirror.as_ref());
        let mirror = |mirror: &super::gateway_api::MirrorFilter| {
            let share = filters::share(mirror)?;
            let target = self.grants.target(referrer(self.held), &mirror.backend_ref, self.targets);
            Some(crate::routing::Mirror { target, share })
        };
        mirrors.filter_map(mirror).collect()
    }

    /// A backend that is missing answers its share with 500.
    fn destinations(&mut self, all: &[BackendRef]) -> Destinations {
        let destination = |reference: &BackendRef| {
            let target = self.grants.target(referrer(self.held), reference, self.targets);
            Some(Destination {
                target,
                weight: reference.weight.unwrap_or(1),
                headers: filters::headers(&reference.filters)?,
            })
        };
        Destinations::new(all.iter().filter_map(destination).collect())
    }

    fn bytes(&mut self, rule: &BytesRule) -> Destinations {
        let destination = |reference: &BackendRef| Destination {
            target: self.grants.target(referrer(self.held), reference, self.targets),
            weight: reference.weight.unwrap_or(1),
            headers: HeaderEdits::default(),
        };
        Destinations::new(rule.backend_refs.iter().map(destination).collect())
    }
}

fn referrer(held: &Held<Route>) -> Referrer<'_> {
    Referrer { kind: held.name.0, namespace: &held.name.1 }
}
