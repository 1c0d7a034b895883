//! Pure: the services that are asked, and their rules: as VirtualServices and as Envoy's routes.
//! Never: two rules of one list that mean different things to the two planes.
use std::fmt::Write;

use serde_json::{Value, json};

/// What the path of every request begins with.
pub(super) const PATH: &str = "/app/items/4711?page=2";

/// A service that is asked: its rules, and who must answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) rules: usize,
    pub(super) name: &'static str,
    pub(super) vip: [u8; 4],
    /// The subset that the rules send the requests to; `None` for both in turn.
    pub(super) subset: Option<&'static str>,
}

pub(super) const SERVICES: [Service; 3] = [
    Service { rules: 0, name: "free", vip: [10, 96, 1, 10], subset: None },
    Service { rules: 1, name: "one", vip: [10, 96, 1, 11], subset: Some("v1") },
    Service { rules: 50, name: "fifty", vip: [10, 96, 1, 12], subset: Some("v2") },
];

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Http {
    #[value(name = "1")]
    One,
    #[value(name = "2")]
    Two,
}

impl Http {
    pub(super) const BOTH: [Self; 2] = [Self::One, Self::Two];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::One => "HTTP/1.1",
            Self::Two => "HTTP/2",
        }
    }

    pub(super) const fn number(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Two => "2",
        }
    }

    /// The services' port for it.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::One => 80,
            Self::Two => 81,
        }
    }

    /// The pods' port for it.
    pub(super) const fn target(self) -> u16 {
        match self {
            Self::One => 8080,
            Self::Two => 8081,
        }
    }
}

/// What a rule asks of a request.
enum Match {
    Prefix(String),
    Header(String),
}

impl Service {
    /// Only the last one takes the requests of the load: half of the others look at the path, half at
    /// a header.
    fn matches(&self) -> Vec<Match> {
        let one = |number: usize| match number {
            last if last + 1 == self.rules => Match::Prefix("/app/".into()),
            even if even % 2 == 0 => Match::Prefix(format!("/api/v{even}/")),
            odd => Match::Header(format!("x-group-{odd}")),
        };
        (0..self.rules).map(one).collect()
    }

    /// Service and rules.
    pub(super) fn manifest(&self) -> String {
        let Self { name, vip: [a, b, c, d], .. } = self;
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, labels: {{istio.io/use-waypoint: waypoint}}}}\n\
             spec: {{clusterIP: {a}.{b}.{c}.{d}, selector: {{app: product}}, ports: [{{name: http, port: 80, targetPort: 8080}}, \
             {{name: http2, port: 81, targetPort: 8081}}]}}\n"
        );
        let Some(subset) = self.subset else { return text };
        let _ = write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{host: {name}, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  hosts: [{name}]\n  http:\n"
        );
        for what in self.matches() {
            let asked = match what {
                Match::Prefix(prefix) => format!("uri: {{prefix: {prefix}}}"),
                Match::Header(name) => format!("headers: {{{name}: {{exact: \"yes\"}}}}"),
            };
            let _ = writeln!(
                text,
                "  - match: [{{{asked}}}]\n    route: [{{destination: {{host: {name}, subset: {subset}}}}}]"
            );
        }
        text
    }

    /// The same as routes of Envoy, to clusters that are named as [`cluster`] says.
    pub(super) fn routes(&self, http: Http) -> Value {
        let to = |what: Value| {
            json!({ "match": what,
                    "route": { "cluster": cluster(self.subset, http), "timeout": "0s" } })
        };
        let rules = self.matches().into_iter().map(|what| match what {
            Match::Prefix(prefix) => to(json!({ "prefix": prefix })),
            Match::Header(name) => to(json!({ "prefix": "/",
                "headers": [{ "name": name, "string_match": { "exact": "yes" } }] })),
        });
        let mut rules: Vec<Value> = rules.collect();
        if rules.is_empty() {
            rules.push(to(json!({ "prefix": "/" })));
        }
        rules.into()
    }
}

/// The cluster of a subset, or of both.
pub(super) fn cluster(subset: Option<&str>, http: Http) -> String {
    format!("product-{}-{}", subset.unwrap_or("all"), http.number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_planes_have_as_many_rules_and_only_the_last_is_for_the_load() {
        for service in SERVICES {
            let routes = service.routes(Http::One);
            let routes = routes.as_array().unwrap();
            assert_eq!(routes.len(), service.rules.max(1));
            assert_eq!(service.manifest().matches("- match").count(), service.rules);
            let takes = |route: &Value| {
                let prefix = route["match"]["prefix"].as_str().unwrap();
                PATH.starts_with(prefix) && route["match"]["headers"].is_null()
            };
            assert_eq!(routes.iter().position(takes), Some(routes.len() - 1));
        }
    }
}
