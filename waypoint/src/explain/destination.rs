//! Pure: a rule's destinations, and who is ready behind each.
//! Never: picks one.
use std::sync::Arc;

use serde_json::{Value, json};

use super::{NO_CHANCE, answered, refusal};
use crate::{
    backend::endpoints,
    dump::{duration, to, without_nothing},
    mesh::{Mesh, Reach},
    routing::{
        Action, BackendRef, Destination, Destinations, Onward, PortRoutes, Protocol, RequestHead,
        Rule, Step, decide,
    },
    upstream::To,
};

/// How many endpoints of one destination are shown.
const SHOWN: usize = 100;

/// Each destination that a rule may draw, with what happens if it is drawn; null for rules that forward
/// nothing.
pub(super) fn destinations(mesh: &Mesh, rule: &Rule, head: &RequestHead<'_>) -> Value {
    let Action::Forward(forward) = &rule.action else { return Value::Null };
    let all = &forward.destinations;
    let total: u64 = all.iter().map(|destination| u64::from(destination.weight)).sum();
    all.iter()
        .map(|destination| {
            let mut value = json!({
                "to": to(&destination.target),
                "weight": destination.weight,
                "of": total,
            });
            for (key, found) in fields(drawn(mesh, rule, destination, head)) {
                value[key] = found;
            }
            without_nothing(value)
        })
        .collect()
}

fn fields(value: Value) -> impl Iterator<Item = (String, Value)> {
    let fields = if let Value::Object(fields) = value { fields } else { Default::default() };
    fields.into_iter()
}

/// What happens when this one is drawn.
fn drawn(mesh: &Mesh, rule: &Rule, destination: &Destination, head: &RequestHead<'_>) -> Value {
    match decide(&alone(rule, destination), head, &mut || NO_CHANCE).step {
        Step::Answer(answer) => answered(&answer),
        Step::Forward(onward) => behind(mesh, onward.backend, head),
    }
}

/// What a rule makes of a request that goes on; `None` when it goes on to nobody.
pub(super) fn forwarded(rule: &Rule, head: &RequestHead<'_>) -> Option<Value> {
    let Action::Forward(forward) = &rule.action else { return None };
    forward.destinations.iter().find_map(|destination| {
        match decide(&alone(rule, destination), head, &mut || NO_CHANCE).step {
            Step::Answer(_) => None,
            Step::Forward(onward) => Some(changed(&onward)),
        }
    })
}

/// The rule, as if it had no other destination.
fn alone(rule: &Rule, destination: &Destination) -> PortRoutes {
    let mut rule = rule.clone();
    if let Action::Forward(forward) = &mut rule.action {
        forward.destinations = Destinations::new(vec![destination.clone()]);
    }
    PortRoutes { protocol: Protocol::Http, http: vec![rule], tls: vec![], tcp: vec![] }
}

/// What it changes that clients or endpoints see.
fn changed(onward: &Onward<'_>) -> Value {
    let Onward { target, authority, timeouts, mirrors, .. } = onward;
    let authority = authority.as_ref();
    without_nothing(json!({
        "action": "forward",
        "timeout": timeouts.request.map(duration),
        "path": target.as_ref().map(ToString::to_string),
        "authority": authority.map(|value| String::from_utf8_lossy(value.as_bytes())),
        "copies": mirrors.iter().map(ToString::to_string).collect::<Vec<_>>(),
    }))
}

/// Who may take requests for a backend; else the answer that there is nobody.
fn behind(mesh: &Mesh, backend: &Arc<BackendRef>, head: &RequestHead<'_>) -> Value {
    let (reach, called) = match mesh.reach(backend, head.dialled) {
        Ok(reached) => reached,
        Err(nobody) => return refusal(&nobody.into()),
    };
    let all = match reach {
        Reach::At(to) => vec![to],
        Reach::Among(_) => {
            let all = endpoints(&mesh.snapshot, &mesh.names, &called);
            all.iter().filter_map(|one| To::endpoint(backend, one, head.dialled)).collect()
        }
    };
    let shown: Vec<_> = all.iter().take(SHOWN).map(endpoint).collect();
    let rules = called.rules.iter();
    json!({
        "host": *backend.host,
        "port": backend.port,
        "subset": backend.subset.as_deref(),
        "labels": *called.labels,
        "rules": rules
            .map(|rule| format!("DestinationRule {}/{} ({})", rule.namespace, rule.name, rule.origin))
            .collect::<Vec<_>>(),
        "ready": all.len(),
        "endpoints": shown,
    })
}

fn endpoint(to: &To) -> Value {
    let workload = to.workload.as_ref();
    json!({
        "workload": workload.map(|workload| &workload.uid),
        "name": workload.map(|workload| format!("{}/{}", workload.namespace, workload.name)),
        "address": to.at,
        "tunnel": to.is_meshed(),
        "declared": workload.map(|workload| workload.origin.to_string()),
    })
}
