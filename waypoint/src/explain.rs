//! Pure: what the waypoint would do with a request, and why: the very functions that requests go through.
//! Never: a second opinion; dice, for all that can happen is told with its share.
mod destination;
mod endpoints;
mod question;
mod service;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::SystemTime};

use culvert_agent::{
    discovery::{Protocol as Carried, Snapshot, Workload},
    telemetry::explain::workload,
};
use http::header::LOCATION;
use serde_json::{Value, json};

use self::destination::{destinations, forwarded};
pub use self::endpoints::endpoints;
pub use self::question::{Question, decoded};
use crate::{
    attachment::{Gateway, Target, target},
    dump::{self, duration, without_nothing},
    entrance,
    exchange::{Port, asked},
    mesh::Mesh,
    outcome::LocalReply,
    path::Normalisation,
    record::Session,
    routing::{Answer, Cause, Decision, PortRoutes, Protocol, RequestHead, Rule, Step, decide},
};

/// A draw that only shares of all requests hit.
const NO_CHANCE: u32 = u32::MAX;

/// The waypoint that is asked.
#[derive(Clone, Debug)]
pub struct Waypoint {
    /// Who it is.
    pub gateway: Arc<Gateway>,
    /// How far it normalises paths.
    pub paths: Normalisation,
}

/// The rules of a service as this waypoint has them.
///
/// # Errors
/// Says why it has none.
pub fn routes(mesh: &Mesh, own: &Waypoint, name: &str) -> Result<Value, String> {
    let (service, _) = service::named(&mesh.snapshot, name)?;
    match mesh.table.services.get(&service.hostname) {
        Some(routes) => Ok(dump::service(&service.hostname, routes)),
        None => Err(service::foreign(service, &own.gateway)),
    }
}

/// What would become of a request, and which rule decides.
///
/// # Errors
/// Says why this waypoint would never get it.
pub fn explain(mesh: &Mesh, own: &Waypoint, question: &Question) -> Result<Value, String> {
    let source = client(&mesh.snapshot, &question.source)?;
    let (service, port) = service::named(&mesh.snapshot, &question.service)?;
    let dialled = service::dialled(service, &question.service, question.port.or(port))?;
    let found = target(mesh, &own.gateway, (dialled, false));
    let found = found.map_err(|error| service::refused(&error, service, &own.gateway))?;
    let port = http_port(mesh, &found, dialled)?;
    let session = Session {
        client: SocketAddr::new(own_address(source, dialled), 0),
        peer: source.identity.clone(),
        source: Some(source.clone()),
        dialled,
        service: Some(service.clone()),
        server_name: None,
        place: None,
    };
    let host = match dialled.port() {
        80 => service.hostname.to_string(),
        port => format!("{}:{port}", service.hostname),
    };
    let mut head = question.head(&host);
    let mut said = json!({
        "source": { "workload": source.uid, "identity": source.identity.to_string(),
            "declared": source.origin.to_string() },
        "service": service.hostname,
        "declared": service.origin.to_string(),
        "dialled": dialled,
        "protocol": format!("{:?}", port.protocol).to_ascii_lowercase(),
    });
    if let Err(reply) = mesh.may(session.service.as_deref(), &session.judged()) {
        said["does"] = refusal(&reply);
        return Ok(said);
    }
    match asked::read(&mut head, own.paths, 0) {
        Ok((place, _)) => {
            let nobodys = BTreeMap::new();
            let client = asked::client(&session, &nobodys);
            // Nothing is decided by when it comes.
            let began = SystemTime::UNIX_EPOCH;
            let head = asked::head(&head, &place, &client, (dialled, began));
            said["request"] = request(&head);
            decided(&mut said, mesh, &port, &head);
        }
        Err(reply) => said["does"] = refusal(&reply),
    }
    Ok(said)
}

/// Who may reach a waypoint: only what the mesh carries goes through tunnels.
fn client<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Arc<Workload>, String> {
    let client = workload(snapshot, name)
        .ok_or_else(|| format!("{name} is no pod of the mesh: give namespace/pod or an address"))?;
    if client.protocol == Carried::Hbone {
        return Ok(client);
    }
    Err(format!(
        "{name} is not in the mesh ({}): its requests pass no waypoint; label its namespace istio.io/dataplane-mode: ambient",
        client.origin
    ))
}

fn own_address(client: &Workload, like: SocketAddr) -> std::net::IpAddr {
    let same = client.addresses.iter().find(|address| address.is_ipv4() == like.is_ipv4());
    same.or_else(|| client.addresses.first()).copied().unwrap_or(like.ip())
}

fn http_port(mesh: &Mesh, found: &Target, dialled: SocketAddr) -> Result<Port, String> {
    let port = entrance::port(mesh, found, dialled);
    match port.protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Unknown => Ok(port),
        Protocol::Tcp | Protocol::Tls => Err(format!(
            "port {} of {} carries {}, no requests: name it http, or set appProtocol; culvert routes shows its rules",
            port.number,
            port.host,
            if port.protocol == Protocol::Tls { "TLS" } else { "TCP" }
        )),
    }
}

fn request(head: &RequestHead<'_>) -> Value {
    json!({
        "method": head.method.as_str(),
        "scheme": head.scheme,
        "authority": head.authority,
        "path": head.target(),
    })
}

/// Which rule decides, which ones do not, and what happens.
fn decided(said: &mut Value, mesh: &Mesh, port: &Port, head: &RequestHead<'_>) {
    let default = port.default_routes();
    let routes = mesh.table.port(&port.host, port.number).unwrap_or(&default);
    let decision = decide(routes, head, &mut || NO_CHANCE);
    said["passedOver"] = passed_over(routes, &decision, head);
    said["does"] = match (&decision.step, decision.rule) {
        // Nobody is asked for any of its destinations.
        (
            Step::Answer(answer @ Answer { cause: Cause::FaultAbort | Cause::Preflight, .. }),
            Some(rule),
        ) => {
            said["decided"] = dump::rule(rule);
            answered(answer)
        }
        (step, Some(rule)) => {
            said["decided"] = dump::rule(rule);
            said["destinations"] = destinations(mesh, rule, head);
            // That nobody is behind one destination stands there.
            forwarded(rule, head).or_else(|| own_answer(step)).unwrap_or_default()
        }
        (step, None) => own_answer(step).unwrap_or_default(),
    };
    if let Some(delay) = decision.delay {
        said["does"]["delay"] = duration(delay).into();
    }
}

/// Every rule before the one that decides, and the first condition of each that does not hold.
fn passed_over(routes: &PortRoutes, decision: &Decision<'_>, head: &RequestHead<'_>) -> Value {
    let decides = |rule: &Rule| decision.rule.is_some_and(|decided| std::ptr::eq(decided, rule));
    let before = routes.http.iter().take_while(|&rule| !decides(rule));
    before
        .map(|rule| {
            let mut value = dump::rule(rule);
            let unmet = rule.matches.unmet(head);
            value["unmet"] = unmet.map(|condition| condition.to_string()).into();
            value["found"] = unmet.and_then(|condition| condition.found(head)).into();
            value
        })
        .collect()
}

fn own_answer(step: &Step<'_>) -> Option<Value> {
    match step {
        Step::Answer(answer) => Some(answered(answer)),
        Step::Forward(_) => None,
    }
}

/// What a rule answers.
fn answered(answer: &Answer) -> Value {
    let Answer { status, grpc, headers, body, cause } = answer;
    let (action, why) = match cause {
        Cause::Redirect => ("redirect", None),
        Cause::ClusterNotFound(why) => ("answer", Some(&**why)),
        Cause::RouteNotFound => ("answer", Some("no rule matches, and there is no other route")),
        Cause::NoDestination => ("answer", Some("no destination has a weight")),
        Cause::BadRewrite => ("answer", Some("the rewritten path is none")),
        Cause::Direct => ("answer", Some("the rule answers itself")),
        Cause::FaultAbort => ("answer", Some("the rule has all requests fail")),
        Cause::Preflight => ("answer", Some("the rule answers browsers' preflights")),
    };
    let location = headers.get(LOCATION);
    without_nothing(json!({
        "action": action,
        "status": status.as_u16(),
        "grpcStatus": grpc.map(|grpc| grpc.code()),
        "flag": cause.flag(),
        "details": cause.details(),
        "location": location.map(|value| String::from_utf8_lossy(value.as_bytes())),
        "bytes": (!body.is_empty()).then_some(body.len()),
        "why": why,
    }))
}

/// What it answers because it cannot go on.
fn refusal(reply: &LocalReply) -> Value {
    without_nothing(json!({
        "action": "answer",
        "status": reply.status.as_u16(),
        "flag": reply.flag.map(|flag| flag.as_str()),
        "details": reply.details,
        "why": reply.body,
    }))
}

#[cfg(test)]
pub(crate) mod tests;
