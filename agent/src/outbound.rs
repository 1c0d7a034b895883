//! Story: a pod's connection going out: routed, carried, recorded.
//! Never: parses, touches socket options.
use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

use crate::{
    discovery::Snapshot,
    hbone::{
        Authority, Baggage, ConnectHead, Forwarded, TraceParent,
        pool::{Opened, Pool, PoolKey},
    },
    identity::Identity,
    redirect::{Captured, LocalPod},
    relay::{self, Ended, relay},
    route::{self, NextHop, Via},
    telemetry::{Failure, Protocol, Reason, Record, Telemetry},
};

/// How long a dial may take, SYN to established.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What outbound connections share.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// What the mesh looks like.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Open tunnels.
    pub pool: Pool,
    /// Where records go.
    pub telemetry: Arc<Telemetry>,
    /// The name that peers are told of this cluster.
    pub cluster: Arc<str>,
}

impl Outbound {
    /// Carries one connection to its end. Dropped half-way it still leaves a record.
    pub async fn serve(self, pod: Arc<LocalPod>, captured: Captured) {
        let flow = &captured.flow;
        let mut record =
            Record::open(&self.telemetry, flow.direction, flow.source, flow.destination);
        record.source.workload = Some(pod.workload().clone());
        match self.carry(&pod, captured, &mut record).await {
            Ok(ended) => record.end(Reason::from(ended), None),
            Err(failure) => record.end(failure.reason, Some(failure.detail)),
        }
    }

    async fn carry(
        &self,
        pod: &LocalPod,
        captured: Captured,
        record: &mut Record,
    ) -> Result<Ended, Failure> {
        let snapshot = self.snapshot.borrow().clone();
        let destination = captured.flow.destination;
        let next_hop = match route::next_hop(&snapshot, pod.uid(), destination, rand::random()) {
            Ok(next_hop) => next_hop,
            Err(error) => {
                relay::reset(captured.stream);
                return Err(error.into());
            }
        };
        record.service.clone_from(&next_hop.service);
        record.destination.workload.clone_from(&next_hop.workload);
        match &next_hop.via {
            Via::Plain => plain(pod, captured, &next_hop, record).await,
            Via::Tunnel { address, expected } => {
                let head = self.head(pod, captured.flow.source, &next_hop);
                self.tunnelled(pod, captured, (*address, expected, head), record).await
            }
        }
    }

    async fn tunnelled(
        &self,
        pod: &LocalPod,
        captured: Captured,
        (address, expected, head): (SocketAddr, &[Identity], ConnectHead),
        record: &mut Record,
    ) -> Result<Ended, Failure> {
        record.protocol = Protocol::Hbone;
        record.set_destination_address(address);
        record.authority = Some(head.authority.to_string());
        match self.open(pod, captured.flow.source, (address, expected), &head).await {
            Ok(opened) => {
                record.source.identity = Some(pod.workload().identity.clone());
                record.destination.identity = Some(opened.peer);
                let counters = record.opened();
                Ok(relay(captured.stream, opened.tunnel, &counters).await)
            }
            Err(failure) => {
                relay::reset(captured.stream);
                Err(failure)
            }
        }
    }

    async fn open(
        &self,
        pod: &LocalPod,
        source: SocketAddr,
        (address, expected): (SocketAddr, &[Identity]),
        head: &ConnectHead,
    ) -> Result<Opened, Failure> {
        let credentials = pod.credentials().current().ok_or_else(|| {
            Failure::new(Reason::NoCertificate, "the pod's certificate is not issued yet")
        })?;
        let key = PoolKey {
            own: pod.workload().identity.clone(),
            source: source.ip(),
            address,
            expected: expected.to_vec(),
        };
        let dial = || pod.connect(address, None);
        // Boxed, so that the connections that live on do not pay for the handshake's room.
        Ok(Box::pin(self.pool.open(&key, &credentials, head, dial)).await?)
    }

    fn head(&self, pod: &LocalPod, client: SocketAddr, next_hop: &NextHop) -> ConnectHead {
        let host = next_hop.service.as_ref().map(|service| service.hostname.to_string());
        ConnectHead {
            authority: Authority::from(next_hop.endpoint),
            forwarded: Some(Forwarded { client: Some(client), host }),
            baggage: Some(describe(pod, &self.cluster)),
            trace: TraceParent::new(rand::random()),
        }
    }
}

/// What a pod's agent tells peers of it.
pub fn describe(pod: &LocalPod, cluster: &str) -> Baggage {
    let workload = pod.workload();
    Baggage {
        cluster: Some(cluster.to_owned()),
        namespace: Some(workload.namespace.to_string()),
        workload: Some(workload.workload_name.to_string()),
        service: Some(workload.canonical_name.to_string()),
        revision: Some(workload.canonical_revision.to_string()),
    }
}

/// Outside the mesh, or back to the pod itself: no tunnel.
async fn plain(
    pod: &LocalPod,
    captured: Captured,
    next_hop: &NextHop,
    record: &mut Record,
) -> Result<Ended, Failure> {
    record.set_destination_address(next_hop.endpoint);
    let own = pod.has(next_hop.endpoint.ip());
    if own && pod.is_agent_port(next_hop.endpoint.port()) {
        relay::reset(captured.stream);
        return Err(Failure::new(Reason::Loop, "attempted recursive call to ourselves"));
    }
    let client = own.then_some(captured.flow.source);
    let dialled = timeout(CONNECT_TIMEOUT, pod.connect(next_hop.endpoint, client)).await;
    match dialled.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
        Ok(server) => {
            let counters = record.opened();
            Ok(relay(captured.stream, server, &counters).await)
        }
        Err(error) => {
            relay::reset(captured.stream);
            Err(Failure::dial(&error))
        }
    }
}
