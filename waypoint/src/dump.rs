//! Pure: route tables as operators see them.
//! Never: what is not in force.
use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};

use crate::routing::{
    AbortStatus, Action, Destination, Destinations, Fault, Forward, PathRewrite, PortRoutes,
    Redirect, RedirectPort, Retry, Rule, ServiceRoutes, Source, Table, Target,
};

/// All routes, by service and port.
pub fn routes(table: &Table) -> Value {
    let mut services: Vec<_> = table.services.iter().collect();
    services.sort_by(|a, b| a.0.cmp(b.0));
    services.into_iter().map(|(host, routes)| service(host, routes)).collect()
}

/// The routes of one service: its ports, and their rules in the order in which they are asked.
pub fn service(host: &str, routes: &ServiceRoutes) -> Value {
    let ports: Vec<_> = routes.ports.iter().map(|(number, routes)| port(*number, routes)).collect();
    json!({ "service": host, "ports": ports })
}

fn port(number: u16, routes: &PortRoutes) -> Value {
    let tls = routes.tls.iter().map(|rule| {
        let mut value = stream(rule.source.as_ref(), &rule.destinations);
        let names = rule.sni.iter().map(|name| format!("server name {name}"));
        value["match"] = names.chain(rule.client.conditions().map(|c| c.to_string())).collect();
        value
    });
    let tcp = routes.tcp.iter().map(|rule| {
        let mut value = stream(rule.source.as_ref(), &rule.destinations);
        value["match"] = rule.client.conditions().map(|condition| condition.to_string()).collect();
        value
    });
    json!({
        "port": number,
        "protocol": format!("{:?}", routes.protocol).to_ascii_lowercase(),
        "http": routes.http.iter().map(rule).collect::<Vec<_>>(),
        "tls": tls.collect::<Vec<_>>(),
        "tcp": tcp.collect::<Vec<_>>(),
    })
}

fn stream(source: Option<&Arc<Source>>, to: &Destinations) -> Value {
    let mut value = declared(source);
    value["destinations"] = destinations(to);
    value
}

/// One rule: who wrote it and where, what it asks, and what it does.
pub fn rule(rule: &Rule) -> Value {
    let mut value = declared(rule.source.as_ref());
    value["name"] = (*rule.name).into();
    value["match"] = rule.matches.conditions().map(|condition| condition.to_string()).collect();
    value["fault"] = rule.fault.as_ref().map_or(Value::Null, fault);
    value["cors"] = rule.cors.is_some().into();
    value["requestHeaders"] = text(&rule.headers.request);
    value["responseHeaders"] = text(&rule.headers.response);
    match &rule.action {
        Action::Forward(forward) => forwards(&mut value, forward),
        Action::Redirect(to) => value["redirect"] = redirect(to),
        Action::Direct(direct) => {
            value["directResponse"] =
                json!({ "status": direct.status.as_u16(), "bytes": direct.body.len() });
        }
    }
    without_nothing(value)
}

fn forwards(value: &mut Value, forward: &Forward) {
    value["destinations"] = destinations(&forward.destinations);
    value["timeout"] = forward.timeout.map(duration).into();
    value["retries"] = retries(&forward.retry);
    value["rewrite"] = path(&forward.rewrite.path);
    let authority = forward.rewrite.authority.as_ref();
    value["rewriteAuthority"] =
        authority.map(|value| String::from_utf8_lossy(value.as_bytes())).into();
    let mirrors = forward.mirrors.iter();
    value["mirrors"] = mirrors
        .map(|mirror| json!({ "to": to(&mirror.target), "share": mirror.share.to_string() }))
        .collect();
}

fn redirect(of: &Redirect) -> Value {
    let Redirect { status, scheme, authority, port, path: to } = of;
    let port = match port {
        RedirectPort::Keep => Value::Null,
        RedirectPort::Number(number) => (*number).into(),
        RedirectPort::OfScheme => "default of the scheme".into(),
        RedirectPort::OfRequest => "as dialled".into(),
    };
    without_nothing(json!({
        "status": status.as_u16(),
        "scheme": scheme.as_deref(),
        "authority": authority.as_deref(),
        "port": port,
        "path": path(to),
    }))
}

fn path(rewrite: &PathRewrite) -> Value {
    (*rewrite != PathRewrite::Keep).then(|| rewrite.to_string()).into()
}

/// Those that are not Istio's default.
fn retries(retry: &Retry) -> Value {
    if *retry == Retry::default() {
        return Value::Null;
    }
    let per_try = retry.per_try_timeout.map(duration);
    without_nothing(json!({ "attempts": retry.attempts, "perTryTimeout": per_try }))
}

fn fault(fault: &Fault) -> Value {
    let delay = fault
        .delay
        .as_ref()
        .map(|delay| json!({ "share": delay.share.to_string(), "length": duration(delay.length) }));
    let abort = fault.abort.as_ref().map(|abort| {
        let status = match abort.status {
            AbortStatus::Http(status) => format!("HTTP {}", status.as_u16()),
            AbortStatus::Grpc(status) => format!("gRPC {}", status.code()),
        };
        json!({ "share": abort.share.to_string(), "status": status })
    });
    without_nothing(json!({ "delay": delay, "abort": abort }))
}

/// Who wrote a rule, and where; nobody wrote the default route.
fn declared(source: Option<&Arc<Source>>) -> Value {
    let Some(source) = source else { return json!({ "object": "the default route" }) };
    let Source { kind, namespace, name, origin, field } = &**source;
    json!({
        "object": format!("{} {namespace}/{name}", kind.as_str()),
        "kind": kind.as_str(),
        "namespace": **namespace,
        "objectName": **name,
        "field": **field,
        "declared": origin.to_string(),
    })
}

fn destinations(of: &Destinations) -> Value {
    let one = |destination: &Destination| {
        without_nothing(json!({
            "to": to(&destination.target),
            "weight": destination.weight,
            "requestHeaders": text(&destination.headers.request),
            "responseHeaders": text(&destination.headers.response),
        }))
    };
    of.iter().map(one).collect()
}

/// A destination in one line.
pub fn to(target: &Target) -> String {
    match target {
        Target::Backend(backend) => backend.to_string(),
        Target::Missing(missing) => missing.to_string(),
    }
}

/// Text for people: nothing for an empty one.
fn text(of: &impl ToString) -> Value {
    Some(of.to_string()).filter(|text| !text.is_empty()).into()
}

/// For people: `1s 500ms`.
pub fn duration(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// Leaves out of an object what says nothing.
pub fn without_nothing(value: Value) -> Value {
    let says = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Object(_) | Value::Number(_) | Value::Bool(true) => true,
    };
    let Value::Object(fields) = value else { return value };
    Value::Object(fields.into_iter().filter(|(_, value)| says(value)).collect::<Map<_, _>>())
}
