//! Pure: routes of the Gateway API for one service → rules in the Gateway API's own order.
//! Never: Gateways of the edge; only routes that have the service for a parent.
use std::{cmp::Reverse, sync::Arc};

use culvert_agent::{discovery::Service, origin::Problem};

use super::{
    budget::{Budget, FULL, Size},
    filters,
    gateway_api::{BackendRef, BytesRule, GrpcRule, HttpRule, ParentRef, Route},
    grant::{Backends, Referrer},
    mesh_match,
    objects::{Held, place},
    rules::closed,
    select::{Order, source},
    targets::Targets,
    visibility::Seen,
};
use crate::routing::{
    Action, ClientMatch, Destination, Destinations, Forward, HeaderEdits, Kind, Match, Missing,
    Rule, Target, TcpRule, TlsRule,
};

/// What places a rule among others: routes of the client's own namespace first, then the more
/// precise, then the older object, then its name, then its place in there.
type Place = (bool, Reverse<crate::routing::Precedence>, (String, String), usize);

/// Everything that routes of the Gateway API say about a port of a service.
#[derive(Debug, Default)]
pub(super) struct MeshRoutes {
    /// Rules for requests, in order.
    pub(super) http: Vec<Rule>,
    /// Where they come among VirtualServices; `None` when all are consumers', which come last.
    pub(super) order: Option<Order>,
    /// Rules for connections with a ClientHello, in order.
    pub(super) tls: Vec<TlsRule>,
    /// Rules for other connections, in order.
    pub(super) tcp: Vec<TcpRule>,
    /// What is wrong with them.
    pub(super) problems: Vec<Problem>,
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
    // What consumers write takes no room from the service's own.
    let (mut own, mut theirs) = (Budget::of(1), Budget::of(1));
    for held in routes {
        let consumer = consumer(held, at);
        let budget = if consumer.namespace.is_some() { &mut theirs } else { &mut own };
        let count = held.spec.count_rules();
        let fit = (0..count).take_while(|index| budget.take(size(held, *index))).count();
        let mut maker = Maker { held, grants, targets };
        maker.add((fit, &consumer), &mut http, &mut made);
        if fit < count {
            let (kind, namespace, name) = &held.name;
            let origin = place(held, &format!("/spec/rules/{fit}"));
            made.problems
                .push(Problem { origin, text: format!("{kind} {namespace}/{name}: {FULL}") });
            maker.add_closed((fit, &consumer), &mut http, &mut made);
        }
        if matches!(held.spec, Route::Http(_) | Route::Grpc(_)) {
            note_order(&mut made.order, held, at);
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

/// What one of its rules comes to; one of a TLSRoute is one for each name.
fn size(held: &Held<Route>, index: usize) -> Size {
    let size = Size::of(held.declared.object.pointer(&format!("/spec/rules/{index}")));
    match &held.spec {
        Route::Tls(route) => size.times(route.hostnames.len()),
        Route::Http(_) | Route::Grpc(_) | Route::Tcp(_) => size,
    }
}

/// What a consumer writes moves nobody else's rules.
fn note_order(order: &mut Option<Order>, held: &Held<Route>, at: At<'_>) {
    if consumer(held, at).namespace.is_some() {
        return;
    }
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

/// What a rule does with requests that are like its conditions.
struct Does {
    headers: HeaderEdits,
    cors: Option<crate::routing::Cors>,
    action: Action,
}

struct Maker<'m, 'a> {
    held: &'m Held<Route>,
    grants: &'m Backends<'m>,
    targets: &'m mut Targets<'a>,
}

impl Maker<'_, '_> {
    /// The first so many of its rules.
    fn add(
        &mut self,
        (fit, consumer): (usize, &ClientMatch),
        http: &mut Vec<(Place, Rule)>,
        made: &mut MeshRoutes,
    ) {
        match &self.held.spec {
            Route::Http(route) => {
                for (index, rule) in route.rules.iter().enumerate().take(fit) {
                    http.extend(self.http(index, rule, consumer));
                }
            }
            Route::Grpc(route) => {
                for (index, rule) in route.rules.iter().enumerate().take(fit) {
                    http.extend(self.grpc(index, rule, consumer));
                }
            }
            Route::Tls(route) => {
                // One rule for each name, so that the narrower ones come first.
                let names =
                    route.hostnames.iter().map(|name| vec![name.to_ascii_lowercase().into()]);
                let names: Vec<_> =
                    names.chain(route.hostnames.is_empty().then(Vec::new)).collect();
                for (index, rule) in route.rules.iter().enumerate().take(fit) {
                    let source = self.source(Kind::TlsRoute, index, None);
                    let destinations = self.bytes(rule);
                    made.tls.extend(names.iter().map(|sni| TlsRule {
                        source: Some(source.clone()),
                        sni: sni.clone(),
                        client: consumer.clone(),
                        destinations: destinations.clone(),
                    }));
                }
            }
            Route::Tcp(route) => {
                for (index, rule) in route.rules.iter().enumerate().take(fit) {
                    let source = Some(self.source(Kind::TcpRoute, index, None));
                    let (client, destinations) = (consumer.clone(), self.bytes(rule));
                    made.tcp.push(TcpRule { source, client, destinations });
                }
            }
        }
    }

    /// In place of the rules for which there is no room: nothing passes.
    fn add_closed(
        &mut self,
        (index, consumer): (usize, &ClientMatch),
        http: &mut Vec<(Place, Rule)>,
        made: &mut MeshRoutes,
    ) {
        let client = consumer.clone();
        match &self.held.spec {
            Route::Http(_) | Route::Grpc(_) => {
                let http_route = matches!(self.held.spec, Route::Http(_));
                let kind = if http_route { Kind::HttpRoute } else { Kind::GrpcRoute };
                let source = self.source(kind, index, None);
                let (_, rule) = self.rule((index, ""), (Match::default(), consumer), None, source);
                let nothing = Match { client, ..Match::default() };
                let producer = nothing.client.namespace.is_none();
                let last = (producer, Reverse(nothing.precedence(true)), age(self.held), index);
                http.push((last, rule));
            }
            Route::Tls(_) => {
                let source = Some(self.source(Kind::TlsRoute, index, None));
                let (sni, destinations) = (Vec::new(), Destinations::default());
                made.tls.push(TlsRule { source, sni, client, destinations });
            }
            Route::Tcp(_) => {
                let source = Some(self.source(Kind::TcpRoute, index, None));
                made.tcp.push(TcpRule { source, client, ..TcpRule::closed() });
            }
        }
    }

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
        let calls = matches!(self.held.spec, Route::Grpc(_));
        (producer, Reverse(matches.precedence(calls)), age(self.held), rule)
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
        let mirrors = self.mirrors(&rule.filters);
        let done = |from: &Arc<str>| {
            let forward = Forward {
                destinations: destinations.clone(),
                rewrite: filters::rewrite(&rule.filters, from)?,
                mirrors: mirrors.clone(),
                timeout: filters::timeout(rule.timeouts, rule.retry.is_some()),
                retry: filters::retry(rule.retry.as_ref(), rule.timeouts),
            };
            let action = match filters::redirect(&rule.filters, from)? {
                Some(redirect) => Action::Redirect(redirect),
                None => Action::Forward(Box::new(forward)),
            };
            let (headers, cors) = (filters::headers(&rule.filters)?, filters::cors(&rule.filters)?);
            Some(Does { headers, cors, action })
        };
        let made = blocks.into_iter().map(|(block, made)| {
            let source = self.source(Kind::HttpRoute, index, block);
            let does = made.as_ref().and_then(|conditions| done(&conditions.from));
            let matches = made.map(|conditions| conditions.matches).unwrap_or_default();
            self.rule((index, &name), (matches, consumer), does, source)
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
        let forward = Forward {
            destinations,
            rewrite: crate::routing::Rewrite::default(),
            mirrors: self.mirrors(&rule.filters),
            timeout: None,
            retry: crate::routing::Retry::default(),
        };
        let headers = filters::headers(&rule.filters);
        let made = blocks.into_iter().map(|(block, made)| {
            let source = self.source(Kind::GrpcRoute, index, block);
            let does = made.is_some().then(|| {
                let action = Action::Forward(Box::new(forward.clone()));
                headers.clone().map(|headers| Does { headers, cors: None, action })
            });
            self.rule((index, &name), (made.unwrap_or_default(), consumer), does.flatten(), source)
        });
        made.collect()
    }

    /// A rule and its place. What cannot be obeyed though it was checked lets nothing pass.
    fn rule(
        &self,
        (index, name): (usize, &str),
        (mut matches, consumer): (Match, &ClientMatch),
        does: Option<Does>,
        source: Arc<crate::routing::Source>,
    ) -> (Place, Rule) {
        matches.client = consumer.clone();
        let place = self.place(&matches, index);
        let Some(Does { headers, cors, action }) = does else {
            return (place, Rule { matches, ..closed(source) });
        };
        let (name, source) = (name.into(), Some(source));
        (place, Rule { name, source, matches, fault: None, cors, headers, action })
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
            let (target, headers) = match filters::headers(&reference.filters) {
                Some(headers) => {
                    let target = self.grants.target(referrer(self.held), reference, self.targets);
                    (target, headers)
                }
                None => {
                    let why = "its filters cannot be obeyed".into();
                    (Target::Missing(Missing::Backend(why)), HeaderEdits::default())
                }
            };
            Destination { target, weight: reference.weight.unwrap_or(1), headers }
        };
        Destinations::new(all.iter().map(destination).collect())
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
