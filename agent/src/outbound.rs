//! Story: a pod's connection going out: routed, carried, recorded.
//! Never: parses, touches socket options.
use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpStream, sync::watch, time::timeout};

use crate::{
    clock,
    direct::Direct,
    discovery::Snapshot,
    flow::Flow,
    hbone::{
        Authority, ConnectHead, Forwarded, TraceParent, Tunnel,
        pool::{Opened, Pool, PoolKey},
    },
    identity::Identity,
    inbound::{CONNECT_TIMEOUT, Caller, Joined, describe},
    redirect::{Captured, LocalPod, LocalPods},
    relay::{self, relay},
    route::{self, Choice, Load, Loads, NextHop, Via},
    telemetry::{Failure, Protocol, Reason, Record, Telemetry},
    workers::{self, Place},
};

/// For how long a refusal by the agent of a meshed pod is borne.
const REFUSALS_BORNE: Duration = Duration::from_secs(3);
/// Endpoints of a service that are skipped for one connection.
const MOST_SKIPPED: usize = 4;
/// For how long an endpoint may keep silent while there are others.
const SILENCE_BORNE: Duration = Duration::from_secs(2);
/// Pause before such an agent is asked again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The far side of a connection, reached.
enum Upstream {
    /// Without a tunnel.
    Plain(TcpStream),
    /// Through one.
    Tunnel(Tunnel),
    /// In another pod of this node.
    Joined(Box<Joined>),
}

/// A connection whose other side was reached.
struct Open {
    record: Box<Record>,
    client: TcpStream,
    upstream: Upstream,
    _load: Option<Load>,
    _place: Place,
}

/// What outbound connections share.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// What the mesh looks like.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Open tunnels.
    pub pool: Pool,
    /// Open connections by endpoint.
    pub loads: Loads,
    /// Where records go.
    pub telemetry: Arc<Telemetry>,
    /// The name that peers are told of this cluster.
    pub cluster: Arc<str>,
    /// The pods of this node.
    pub pods: watch::Receiver<LocalPods>,
    /// How connections to them are delivered, if not by tunnels.
    pub joining: Option<Direct>,
}

impl Outbound {
    /// Carries one connection to its end. Dropped half-way it still leaves a record.
    pub async fn serve(&self, pod: Arc<LocalPod>, captured: Captured) {
        // Boxed, so that connections that live on do not pay for the room that their beginning needs.
        let Some(mut open) = Box::pin(self.begin(pod, captured)).await else { return };
        let counters = open.record.opened();
        let ended = match open.upstream {
            Upstream::Plain(server) => relay(open.client, server, &counters).await,
            Upstream::Tunnel(tunnel) => relay(open.client, tunnel, &counters).await,
            // Boxed, so that connections through tunnels do not pay for its room.
            Upstream::Joined(joined) => Box::pin(joined.relay(open.client, &counters)).await,
        };
        open.record.end(Reason::from(ended), None);
    }

    async fn begin(&self, pod: Arc<LocalPod>, captured: Captured) -> Option<Open> {
        let Captured { flow, stream: client, place } = captured;
        let mut record =
            Box::new(Record::open(&self.telemetry, flow.direction, flow.source, flow.destination));
        record.source.workload = Some(pod.workload().clone());
        match self.reach(&pod, &flow, &mut record).await {
            Ok((upstream, load)) => {
                Some(Open { record, client, upstream, _load: load, _place: place })
            }
            Err(failure) => {
                relay::reset(client);
                record.end(failure.reason, Some(failure.detail));
                None
            }
        }
    }

    /// Routes and dials. Of a service, an endpoint that cannot be reached is skipped for another one:
    /// nothing of the application has been read by then. An agent that refuses may be about to enrol
    /// its pod, or have just released it: it is asked again for a while, by what the mesh looks like
    /// then.
    async fn reach(
        &self,
        pod: &Arc<LocalPod>,
        flow: &Flow,
        record: &mut Record,
    ) -> Result<(Upstream, Option<Load>), Failure> {
        let began = clock::now();
        let (mut pause, mut tried, share) = (FIRST_PAUSE, Vec::new(), rand::random());
        loop {
            let snapshot = self.snapshot.borrow().clone();
            let to = flow.destination;
            let hop = self.choose(&snapshot, pod, to, (&tried, share))?;
            record.service.clone_from(&hop.service);
            record.destination.workload.clone_from(&hop.workload);
            // What an earlier one has proven is not this one's.
            (record.source.identity, record.destination.identity) = (None, None);
            let load = hop.workload.as_ref().map(|workload| self.loads.open(&workload.uid));
            // The last one that may be tried gets all the time that there is.
            let skips = hop.others && tried.len() < MOST_SKIPPED;
            let patience = if skips { SILENCE_BORNE } else { Duration::MAX };
            let dialled = timeout(patience, self.dial(pod, flow, &hop, record)).await;
            let failure = match dialled.unwrap_or_else(|_| Err(silent(&hop))) {
                Ok(reached) => return Ok((reached, load)),
                Err(failure) => failure,
            };
            let own = failure.reason.is_endpoints_own();
            if let Some(workload) = hop.workload.as_ref().filter(|_| own) {
                self.loads.failed(&workload.uid, clock::now());
                tried.push(workload.uid.clone());
            }
            let refused = failure.reason == Reason::ConnectRefused && hop.via != Via::Plain;
            let patient = clock::now().saturating_duration_since(began) < REFUSALS_BORNE;
            if own && skips {
                record.skip(hop.dialled(), failure.reason);
            } else if refused && patient {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                tried.clear();
            } else {
                return Err(failure);
            }
        }
    }

    fn choose(
        &self,
        snapshot: &Snapshot,
        pod: &Arc<LocalPod>,
        to: SocketAddr,
        (tried, share): (&[Arc<str>], u32),
    ) -> Result<NextHop, route::Error> {
        let now = clock::now();
        let load = |uid: &str| self.loads.of(uid, now);
        let join = self.joining.is_some();
        let held = &|address| pod.held(address);
        let choice = Choice { tried, load: &load, random: rand::random(), share, join, held };
        route::next_hop(snapshot, pod.uid(), to, &choice)
    }

    async fn dial(
        &self,
        pod: &Arc<LocalPod>,
        flow: &Flow,
        hop: &NextHop,
        record: &mut Record,
    ) -> Result<Upstream, Failure> {
        match &hop.via {
            Via::Plain => plain(pod, flow, hop, record).await,
            Via::Joined => self.join(pod, flow, hop, record).await,
            Via::Tunnel { address, expected } | Via::Waypoint { address, expected } => {
                let head = self.head(pod, flow.source, hop);
                self.tunnel(pod, (*address, expected, &head), record).await
            }
        }
    }

    async fn tunnel(
        &self,
        pod: &Arc<LocalPod>,
        (address, expected, head): (SocketAddr, &[Identity], &ConnectHead),
        record: &mut Record,
    ) -> Result<Upstream, Failure> {
        record.protocol = Protocol::Hbone;
        record.set_destination_address(address);
        record.authority = Some(head.authority.to_string());
        let opened = self.open(pod, record.source_address(), (address, expected), head).await;
        let proven = match (&opened, expected) {
            (Ok(opened), _) => Some(opened.peer.clone()),
            // Who refuses has proven who it is.
            (Err(Failure { reason: Reason::Denied, .. }), [peer]) => Some(peer.clone()),
            (Err(_), _) => None,
        };
        if let Some(peer) = proven {
            record.source.identity = Some(pod.workload().identity.clone());
            record.destination.identity = Some(peer);
        }
        Ok(Upstream::Tunnel(opened?.tunnel))
    }

    /// Delivers to another pod of this node. One that is not enrolled, or not any more, is as one
    /// whose agent refuses.
    async fn join(
        &self,
        pod: &Arc<LocalPod>,
        flow: &Flow,
        hop: &NextHop,
        record: &mut Record,
    ) -> Result<Upstream, Failure> {
        record.protocol = Protocol::Direct;
        record.authority = None;
        record.set_destination_address(hop.endpoint);
        let uid = hop.workload.as_ref().map(|workload| &workload.uid);
        let there = uid.and_then(|uid| self.pods.borrow().get(uid).cloned());
        let there = there.filter(|there| there.has(hop.endpoint.ip()));
        let (Some(there), Some(direct)) = (there, &self.joining) else {
            return Err(Failure::new(Reason::ConnectRefused, "the pod is not enrolled yet"));
        };
        let identity = pod.workload().identity.clone();
        let peer = there.workload().identity.clone();
        let (source, target) = (flow.source, hop.endpoint);
        let caller = Caller { identity, source, target, service: hop.service.clone() };
        record.source.identity = Some(pod.workload().identity.clone());
        record.destination.identity = Some(peer);
        let joined = direct.inbound.clone().join(there.clone(), caller).await;
        let joined = joined.map_err(|failure| failure.as_told())?;
        direct.leave(pod, flow.destination, &there, hop);
        Ok(Upstream::Joined(Box::new(joined)))
    }

    async fn open(
        &self,
        pod: &Arc<LocalPod>,
        source: SocketAddr,
        (address, expected): (SocketAddr, &[Identity]),
        head: &ConnectHead,
    ) -> Result<Opened, Failure> {
        let credentials = pod.credentials().current().ok_or_else(|| {
            Failure::new(Reason::NoCertificate, "the pod's certificate is not issued yet")
        })?;
        let key = PoolKey {
            worker: workers::here(),
            own: pod.workload().identity.clone(),
            source: source.ip(),
            address,
            expected: expected.to_vec(),
        };
        let dial = || {
            let pod = pod.clone();
            async move { pod.connect(address, None).await }
        };
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

fn silent(hop: &NextHop) -> Failure {
    let text = format!("{} kept silent for {SILENCE_BORNE:?}", hop.dialled());
    Failure::new(Reason::ConnectTimeout, text)
}

/// Outside the mesh, or back to the pod itself: no tunnel.
async fn plain(
    pod: &LocalPod,
    flow: &Flow,
    hop: &NextHop,
    record: &mut Record,
) -> Result<Upstream, Failure> {
    record.protocol = Protocol::Tcp;
    record.authority = None;
    record.set_destination_address(hop.endpoint);
    let own = pod.has(hop.endpoint.ip());
    if own && pod.is_agent_port(hop.endpoint.port()) {
        return Err(Failure::new(Reason::Loop, "attempted recursive call to ourselves"));
    }
    let client = own.then_some(flow.source);
    let dialled = timeout(CONNECT_TIMEOUT, pod.connect_outside(hop.endpoint, client)).await;
    let dialled = dialled.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    dialled.map(Upstream::Plain).map_err(|error| Failure::dial(&error))
}
