//! Pure: route tables as operators see them.
//! Never: what is not in force.
use serde_json::{Value, json};

use crate::routing::{Action, Destinations, PortRoutes, Rule, Source, Table, Target};

/// All routes, by service and port.
pub fn routes(table: &Table) -> Value {
    let mut services: Vec<_> = table.services.iter().collect();
    services.sort_by(|a, b| a.0.cmp(b.0));
    let service = |(host, routes): (&std::sync::Arc<str>, &std::sync::Arc<_>)| {
        let routes: &crate::routing::ServiceRoutes = routes;
        let ports = routes.ports.iter().map(|(number, routes)| port(*number, routes));
        json!({ "service": **host, "ports": ports.collect::<Vec<_>>() })
    };
    services.into_iter().map(service).collect()
}

fn port(number: u16, routes: &PortRoutes) -> Value {
    let stream = |source: Option<&std::sync::Arc<Source>>, to: &Destinations| json!({ "declared": declared(source), "destinations": destinations(to) });
    json!({
        "port": number,
        "protocol": format!("{:?}", routes.protocol).to_ascii_lowercase(),
        "http": routes.http.iter().map(rule).collect::<Vec<_>>(),
        "tls": routes.tls.iter().map(|rule| stream(rule.source.as_ref(), &rule.destinations)).collect::<Vec<_>>(),
        "tcp": routes.tcp.iter().map(|rule| stream(rule.source.as_ref(), &rule.destinations)).collect::<Vec<_>>(),
    })
}

fn rule(rule: &Rule) -> Value {
    let mut value = json!({ "name": &*rule.name, "declared": declared(rule.source.as_ref()) });
    match &rule.action {
        Action::Forward(forward) => {
            value["destinations"] = destinations(&forward.destinations);
            let timeout = forward.timeout.map(|time| humantime::format_duration(time).to_string());
            value["timeout"] = timeout.into();
        }
        Action::Redirect(redirect) => value["redirect"] = redirect.status.as_u16().into(),
        Action::Direct(direct) => value["direct"] = direct.status.as_u16().into(),
    }
    value
}

fn declared(source: Option<&std::sync::Arc<Source>>) -> Value {
    source.map(ToString::to_string).into()
}

fn destinations(of: &Destinations) -> Value {
    let one = |destination: &crate::routing::Destination| {
        let to = match &destination.target {
            Target::Backend(backend) => backend.to_string(),
            Target::Missing(why) => format!("missing: {why:?}"),
        };
        json!({ "to": to, "weight": destination.weight })
    };
    of.iter().map(one).collect()
}
