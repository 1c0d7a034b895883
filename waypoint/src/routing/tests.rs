//! Pure: requests, rules and tables of the tests of this room.
//! Never: checks.
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use culvert_agent::identity::Identity;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::{
    Action, BackendRef, Client, Decision, Destination, Destinations, Field, Forward, HeaderEdits,
    HeaderMatch, Match, Onward, PathMatch, PortRoutes, Protocol, QueryMatch, Regex, RequestHead,
    Rule, Step, Target, TextMatch, decide,
};

mod gateway;
mod istio;
mod stream;

/// A request of a test.
#[derive(Clone)]
pub(super) struct Asked {
    method: Method,
    scheme: &'static str,
    authority: &'static str,
    target: String,
    pub(super) headers: HeaderMap,
    labels: BTreeMap<String, String>,
    identity: Identity,
}

impl Asked {
    pub(super) fn get(target: &str) -> Self {
        Self {
            method: Method::GET,
            scheme: "http",
            authority: "shop:80",
            target: target.to_owned(),
            headers: HeaderMap::new(),
            labels: BTreeMap::new(),
            identity: Identity::new("cluster.local", "shop", "web").unwrap(),
        }
    }

    pub(super) fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    pub(super) fn authority(self, authority: &'static str) -> Self {
        Self { authority, ..self }
    }

    pub(super) fn scheme(self, scheme: &'static str) -> Self {
        Self { scheme, ..self }
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).unwrap();
        self.headers.append(name, HeaderValue::from_str(value).unwrap());
        self
    }

    fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    fn namespace(self, namespace: &str) -> Self {
        Self { identity: Identity::new("cluster.local", namespace, "web").unwrap(), ..self }
    }

    /// Calls with the head of this request.
    pub(super) fn with<T>(&self, call: impl FnOnce(&RequestHead<'_>) -> T) -> T {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&*self.target, None),
        };
        let client = Client {
            address: "10.1.0.1:40000".parse().unwrap(),
            identity: Some(&self.identity),
            namespace: Some(self.identity.namespace()),
            labels: &self.labels,
        };
        call(&RequestHead {
            method: &self.method,
            scheme: self.scheme,
            authority: self.authority,
            path,
            query,
            version: Version::HTTP_11,
            headers: &self.headers,
            client: &client,
            dialled: "10.96.0.1:80".parse().unwrap(),
            began: SystemTime::UNIX_EPOCH + Duration::new(1_709_210_096, 7_654_321),
        })
    }

    /// What is decided about this request, with always the same number drawn.
    fn decided<'t>(&self, routes: &'t PortRoutes, number: u32) -> Decision<'t> {
        self.with(|head| decide(routes, head, &mut || number))
    }

    /// The same for a request that goes on.
    fn onward<'t>(&self, routes: &'t PortRoutes, number: u32) -> Onward<'t> {
        match self.decided(routes, number).step {
            Step::Forward(onward) => onward,
            Step::Answer(answer) => panic!("{answer:?}"),
        }
    }

    /// The subset that it goes to.
    fn subset<'t>(&self, routes: &'t PortRoutes) -> &'t str {
        self.onward(routes, 0).backend.subset.as_deref().unwrap()
    }
}

fn text(exact: &str) -> TextMatch {
    TextMatch::Exact(exact.into())
}

fn regex(expression: &str) -> TextMatch {
    TextMatch::Regex(Regex::new(expression).unwrap())
}

fn prefix(prefix: &str) -> Match {
    let uri = PathMatch::Prefix { prefix: prefix.into(), ignore_case: false };
    Match { uri: Some(uri), ..Match::default() }
}

fn header(name: &str, value: TextMatch) -> HeaderMatch {
    HeaderMatch { name: Field::named(name).unwrap(), value }
}

fn with_header(name: &str, value: TextMatch) -> Match {
    Match { headers: vec![header(name, value)], ..Match::default() }
}

fn with_query(name: &str, value: TextMatch) -> Match {
    let query_params = vec![QueryMatch { name: name.into(), value }];
    Match { query_params, ..Match::default() }
}

fn to(subset: &str, weight: u32) -> Destination {
    let backend = BackendRef { host: "shop".into(), port: 80, subset: Some(subset.into()) };
    Destination {
        target: Target::Backend(Arc::new(backend)),
        weight,
        headers: HeaderEdits::default(),
    }
}

/// A rule that sends what matches to a subset.
fn rule(matches: Match, subset: &str) -> Rule {
    changed(matches, vec![to(subset, 1)], |_| {})
}

/// A rule that sends what matches to destinations, changed by `change`.
fn changed(
    matches: Match,
    destinations: Vec<Destination>,
    change: impl FnOnce(&mut Forward),
) -> Rule {
    let backend = BackendRef { host: "shop".into(), port: 80, subset: None };
    let mut rule = Rule { matches, ..Rule::default_route(Arc::new(backend)) };
    if let Action::Forward(forward) = &mut rule.action {
        forward.destinations = Destinations::new(destinations);
        change(forward);
    }
    rule
}

fn routes(http: Vec<Rule>) -> PortRoutes {
    PortRoutes { protocol: Protocol::Http, http, tls: Vec::new(), tcp: Vec::new() }
}
