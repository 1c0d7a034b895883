//! Pure: the pods of this node and their open connections, as `istioctl ztunnel-config` reads them.
//! Never: a connection that has ended.
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use serde_json::{Map, Value, json};

use super::View;
use crate::{
    discovery::Workload,
    flow::Direction,
    telemetry::{Protocol, open::Open},
};

/// A pod with its connections.
struct Pod<'a> {
    workload: &'a Workload,
    enrolled: bool,
    inbound: Vec<Value>,
    outbound: Vec<Value>,
}

impl<'a> Pod<'a> {
    fn new(workload: &'a Workload, enrolled: bool) -> Self {
        Self { workload, enrolled, inbound: Vec::new(), outbound: Vec::new() }
    }
}

/// Enrolled pods, and those that are released by now and still have connections.
pub(super) fn pods(view: &View<'_>) -> Map<String, Value> {
    let mut pods: BTreeMap<&str, Pod<'_>> =
        view.pods.iter().map(|pod| (&*pod.uid, Pod::new(pod, true))).collect();
    for open in view.open {
        let Some(workload) = open.pod() else { continue };
        let pod = pods.entry(&workload.uid).or_insert_with(|| Pod::new(workload, false));
        let connection = connection(open, view.now);
        match open.direction {
            Direction::Inbound => pod.inbound.push(connection),
            Direction::Outbound => pod.outbound.push(connection),
        }
    }
    pods.into_iter().map(|(uid, pod)| (uid.to_owned(), state(pod))).collect()
}

fn state(pod: Pod<'_>) -> Value {
    json!({
        "state": if pod.enrolled { "Up" } else { "Draining" },
        "info": {
            "name": pod.workload.name,
            "namespace": pod.workload.namespace,
            "serviceAccount": pod.workload.identity.service_account(),
            "trustDomain": pod.workload.identity.trust_domain(),
        },
        "connections": { "inbound": pod.inbound, "outbound": pod.outbound },
    })
}

/// Bytes are sent and received as the record will have them: by the side that reports.
fn connection(open: &Open, now: Instant) -> Value {
    let up = open.counters.sent.load(Ordering::Relaxed);
    let down = open.counters.received.load(Ordering::Relaxed);
    let service = open.service.as_ref().map(|service| &*service.hostname);
    let (original, sent, received) = match open.direction {
        Direction::Outbound => (Some(open.dialled.to_string()), up, down),
        Direction::Inbound => (service.map(str::to_owned), down, up),
    };
    let name = |workload: &Option<Arc<Workload>>| {
        workload.as_ref().map(|known| format!("{}/{}", known.namespace, known.name))
    };
    json!({
        "src": open.source_address,
        "originalDst": original,
        "actualDst": open.reached,
        "protocol": match open.protocol {
            Protocol::Hbone => "HBONE",
            Protocol::Direct => "DIRECT",
            Protocol::Tcp => "TCP",
        },
        "source": name(&open.source.0),
        "sourceIdentity": open.source.1.as_ref().map(ToString::to_string),
        "destination": name(&open.destination.0),
        "destinationIdentity": open.destination.1.as_ref().map(ToString::to_string),
        "service": service,
        "bytesSent": sent,
        "bytesReceived": received,
        "ageMs": u64::try_from(now.saturating_duration_since(open.since).as_millis()).ok(),
    })
}
