//! Pure: an object that is refused and was never good → what stands for it: nothing passes for its hosts.
//! Never: what it says beyond whom it is for.
use culvert_agent::manifest::Declared;
use serde_json::Value;

use super::{
    destination_rule::DestinationRule,
    gateway_api::{
        BytesRule, GrpcRoute, GrpcRule, HttpRoute as GatewayRoute, HttpRule, ParentRef, Route,
        TcpRoute as TcpObject, TlsRoute as TlsObject,
    },
    host::full,
    intake::{Object, parent_hosts},
    virtual_service::{HttpRoute, TcpRoute, VirtualService},
};

/// What stands for it; `None` when nobody can tell whom it is for, or when without it nothing passes
/// anyway.
pub(super) fn object(declared: &Declared, domain: &str) -> Option<Object> {
    let namespace = declared.metadata.namespace.as_str();
    let spec = declared.object.get("spec")?;
    match declared.kind {
        "VirtualService" => {
            Some(Object::VirtualService(virtual_service(spec, namespace, domain).into()))
        }
        "DestinationRule" => {
            let host = full(spec.get("host")?.as_str()?, namespace, domain);
            let export_to = texts(spec, "exportTo");
            let rule =
                DestinationRule { host, export_to, refused: true, ..DestinationRule::default() };
            Some(Object::DestinationRule(rule.into()))
        }
        "BackendTLSPolicy" => {
            let all = spec.get("targetRefs").and_then(Value::as_array).into_iter().flatten();
            let names = all.filter_map(|target| target.get("name")?.as_str());
            let hosts = names.map(|name| format!("{name}.{namespace}.svc.{domain}"));
            Some(Object::Tls(hosts.collect()))
        }
        kind => {
            let route = route(kind, parents(spec))?;
            let hosts = parent_hosts(&route, namespace, domain);
            Some(Object::Route(route.into(), hosts))
        }
    }
}

/// For a delegate, whose hosts are those of others, the rule that stands in place of all of its own.
fn virtual_service(spec: &Value, namespace: &str, domain: &str) -> VirtualService {
    // What stands for all hosts is never admitted, and closes nothing.
    let hosts = texts(spec, "hosts").into_iter().filter(|host| host != "*");
    let hosts = hosts.map(|host| full(&host, namespace, domain)).collect();
    let known = ["hosts", "gateways", "exportTo", "http", "tls", "tcp"];
    let misspelt = spec.as_object().is_none_or(|s| s.keys().any(|key| !known.contains(&&**key)));
    let streams = misspelt || spec.get("tls").is_some() || spec.get("tcp").is_some();
    VirtualService {
        hosts,
        gateways: texts(spec, "gateways"),
        export_to: texts(spec, "exportTo"),
        http: vec![HttpRoute::closed()],
        tls: Vec::new(),
        tcp: if streams { vec![TcpRoute::default()] } else { Vec::new() },
    }
}

fn route(kind: &str, parent_refs: Vec<ParentRef>) -> Option<Route> {
    Some(match kind {
        "HTTPRoute" => {
            let rules = vec![HttpRule::default()];
            Route::Http(GatewayRoute { parent_refs, rules, ..GatewayRoute::default() })
        }
        "GRPCRoute" => {
            let rules = vec![GrpcRule::default()];
            Route::Grpc(GrpcRoute { parent_refs, rules, ..GrpcRoute::default() })
        }
        "TCPRoute" => {
            let rules = vec![BytesRule::default()];
            Route::Tcp(TcpObject { parent_refs, rules, ..TcpObject::default() })
        }
        "TLSRoute" => {
            let rules = vec![BytesRule::default()];
            Route::Tls(TlsObject { parent_refs, rules, ..TlsObject::default() })
        }
        _ => return None,
    })
}

fn texts(spec: &Value, field: &str) -> Vec<String> {
    let all = spec.get(field).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A misspelt field of a parent does not hide whom the route is for.
fn parents(spec: &Value) -> Vec<ParentRef> {
    let all = spec.get("parentRefs").and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|parent| serde_json::from_value(parent.clone()).ok()).collect()
}
