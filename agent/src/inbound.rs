//! Story: a connection arriving for a pod, tunnelled or plain: checked, delivered, recorded.
//! Never: parses, touches socket options.
use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

use crate::{
    discovery::{Policies, Service, Snapshot, Workload},
    drain::Drain,
    flow::Direction,
    hbone::{
        self, Authority, Baggage, ConnectHead, Host, Tunnel,
        server::{self, Incoming},
    },
    identity::Identity,
    policy::{Asked, Guard, authorize, noted},
    redirect::{Captured, LocalPod},
    relay::{self, Counters, Ended, relay},
    telemetry::{Failure, Protocol, Reason, Record, Telemetry},
};

/// How long a dial may take, SYN to established.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What inbound connections share.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// What the mesh looks like.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Where records go.
    pub telemetry: Arc<Telemetry>,
    /// Places for connections, of which each tunnel takes one.
    pub places: Arc<Semaphore>,
    /// The name that peers are told of this cluster.
    pub cluster: Arc<str>,
    /// Who owns the tasks of tunnels.
    pub drain: Drain,
}

impl Inbound {
    /// Serves all tunnels of one connection of a peer's agent.
    pub async fn tunnels(self: Arc<Self>, pod: Arc<LocalPod>, captured: Captured) {
        let (source, destination) = (captured.flow.source, captured.flow.destination);
        let Some(credentials) = pod.credentials().current() else {
            let failure =
                Failure::new(Reason::NoCertificate, "the pod's certificate is not issued yet");
            self.record(source, destination).end(failure.reason, Some(failure.detail));
            return relay::reset(captured.stream);
        };
        let on_connect = |incoming| {
            let (inbound, pod) = (self.clone(), pod.clone());
            self.drain.spawn(inbound.tunnel(pod, (source, destination), incoming));
        };
        // Boxed, so that tunnels that live on do not pay for the handshake's room.
        let served =
            Box::pin(server::serve(captured.stream, &credentials, &self.drain, on_connect)).await;
        match served {
            Ok(()) => {}
            // Its tunnels have records of their own.
            Err(hbone::Error::Http2(error)) => {
                tracing::debug!(%source, %error, "connection of a peer's agent broke");
            }
            Err(error) => {
                let failure = Failure::from(error);
                self.record(source, destination).end(failure.reason, Some(failure.detail));
            }
        }
    }

    /// Delivers a connection that came without a tunnel.
    pub async fn plain(&self, pod: Arc<LocalPod>, captured: Captured) {
        let flow = captured.flow;
        let mut record = self.record(flow.source, flow.destination);
        record.destination.workload = Some(pod.workload().clone());
        let asked = Asked { peer: None, source: flow.source, destination: flow.destination };
        let reached = match self.judge(&pod, &asked, &mut record) {
            Ok(()) => deliver(&pod, flow.destination, flow.source).await,
            Err(denied) => Err(denied),
        };
        let ended = match reached {
            Ok(server) => {
                let counters = record.opened();
                let relayed = Box::pin(relay(captured.stream, server, &counters));
                self.while_allowed(&pod, &asked, relayed).await
            }
            Err(failure) => {
                relay::reset(captured.stream);
                Err(failure)
            }
        };
        match ended {
            Ok(ended) => record.end(Reason::from(ended), None),
            Err(failure) => record.end(failure.reason, Some(failure.detail)),
        }
    }

    /// Asks the policies, and notes their answer.
    fn judge(&self, pod: &LocalPod, asked: &Asked<'_>, record: &mut Record) -> Result<(), Failure> {
        let guard = guard(&self.snapshot.borrow(), pod);
        noted(&guard, asked).for_each(|decided| record.note(&decided));
        let verdict = authorize(&guard, asked);
        let denied = (!verdict.is_allowed()).then(|| Failure::new(Reason::Denied, &verdict));
        record.verdict = Some(verdict);
        denied.map_or(Ok(()), Err)
    }

    /// Runs `relayed` for as long as policies allow the connection. Dropped, it resets both sides.
    async fn while_allowed(
        &self,
        pod: &LocalPod,
        asked: &Asked<'_>,
        mut relayed: Pin<Box<impl Future<Output = Ended>>>,
    ) -> Result<Ended, Failure> {
        let mut snapshots = self.snapshot.clone();
        let mut judged = None;
        loop {
            tokio::select! {
                ended = &mut relayed => return Ok(ended),
                Ok(()) = snapshots.changed() => {
                    let snapshot = snapshots.borrow_and_update();
                    let by = Grounds::of(&snapshot, pod);
                    if judged.as_ref() == Some(&by) {
                        continue;
                    }
                    let verdict = authorize(&guard(&snapshot, pod), asked);
                    judged = Some(by);
                    if !verdict.is_allowed() {
                        return Err(Failure::new(Reason::Revoked, verdict));
                    }
                }
            }
        }
    }

    /// Delivers one tunnel; what cannot be delivered is told to the peer as a status.
    async fn tunnel(
        self: Arc<Self>,
        pod: Arc<LocalPod>,
        addresses: (SocketAddr, SocketAddr),
        incoming: Incoming,
    ) {
        // Boxed, so that tunnels that live on do not pay for the room that their beginning needs.
        let begun = Box::pin(self.begin(&pod, addresses, incoming)).await;
        let Some(Delivered { mut record, tunnel, server, caller, _place }) = begun else { return };
        let counters = record.opened();
        let relayed = Box::pin(relay(tunnel, server, &counters));
        match self.while_allowed(&pod, &caller.asked(), relayed).await {
            Ok(ended) => record.end(Reason::from(ended), None),
            Err(failure) => record.end(failure.reason, Some(failure.detail)),
        }
    }

    /// `None` when it has ended already.
    async fn begin(
        &self,
        pod: &Arc<LocalPod>,
        (peer_address, own_address): (SocketAddr, SocketAddr),
        incoming: Incoming,
    ) -> Option<Delivered> {
        let target = incoming.head.as_ref().ok().and_then(|head| address(&head.authority));
        let target = target.unwrap_or(own_address);
        let mut record = Box::new(self.record(client(peer_address, &incoming), target));
        record.protocol = Protocol::Hbone;
        record.source.identity = Some(incoming.peer.clone());
        record.destination.workload = Some(pod.workload().clone());
        record.destination.identity = Some(pod.workload().identity.clone());
        if let Ok(head) = &incoming.head {
            self.describe_peer(head, peer_address, &mut record);
        }
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            incoming.refuse(Reason::LimitExceeded.status());
            record.end(Reason::LimitExceeded, Some("limits.max_connections".into()));
            return None;
        };
        match self.deliver(pod, peer_address, incoming, &mut record).await {
            Ok((tunnel, server, caller)) => {
                Some(Delivered { record, tunnel, server, caller, _place: place })
            }
            Err(failure) => {
                record
                    .end(failure.reason, Some(failure.detail).filter(|detail| !detail.is_empty()));
                None
            }
        }
    }

    async fn deliver(
        &self,
        pod: &LocalPod,
        peer_address: SocketAddr,
        mut incoming: Incoming,
        record: &mut Record,
    ) -> Result<(Tunnel, TcpStream, Caller), Failure> {
        let (identity, source) = (incoming.peer.clone(), client(peer_address, &incoming));
        let allowed = local_target(pod, &incoming).and_then(|target| {
            let caller = Caller { identity, source, target, service: None };
            self.judge(pod, &caller.asked(), record).map(|()| caller)
        });
        let reached = match allowed {
            Ok(caller) => tokio::select! {
                reached = deliver(pod, caller.target, caller.source) => reached.map(|to| (to, caller)),
                () = incoming.given_up() => return Err(Failure::new(Reason::ResetByClient, "")),
            },
            Err(failure) => Err(failure),
        };
        match reached {
            Ok((server, caller)) => {
                let tunnel = incoming
                    .accept(&describe(pod, &self.cluster))
                    .map_err(|error| Failure::new(Reason::ResetByClient, error))?;
                Ok((tunnel, server, caller))
            }
            Err(failure) => {
                incoming.refuse(failure.reason.status());
                Err(failure)
            }
        }
    }

    /// Delivers a connection of another pod of this node, without a tunnel. Who the client is, its
    /// namespace proves: the agent opened the listener in there that it came to.
    ///
    /// # Errors
    /// When a policy refuses it, or the application cannot be reached.
    pub async fn join(
        self: Arc<Self>,
        pod: Arc<LocalPod>,
        caller: Caller,
    ) -> Result<Joined, Failure> {
        let (mut record, judged) = self.arrive(&pod, &caller);
        // Who waited for the application may do so no longer.
        record.unless_told = Reason::ResetByClient;
        let reached = match judged {
            Ok(()) => deliver(&pod, caller.target, caller.source).await,
            Err(denied) => Err(denied),
        };
        record.unless_told = Reason::Cancelled;
        match reached {
            Ok(server) => Ok(Joined { inbound: self, pod, caller, server, record }),
            Err(failure) => {
                record.end(failure.reason, Some(failure.detail.clone()));
                Err(failure)
            }
        }
    }

    /// The record of such a connection, and what policies say to it.
    pub fn arrive(&self, pod: &LocalPod, caller: &Caller) -> (Record, Result<(), Failure>) {
        let mut record = self.record(caller.source, caller.target);
        record.protocol = Protocol::Direct;
        record.service.clone_from(&caller.service);
        record.source.identity = Some(caller.identity.clone());
        record.destination.workload = Some(pod.workload().clone());
        record.destination.identity = Some(pod.workload().identity.clone());
        let judged = self.judge(pod, &caller.asked(), &mut record);
        (record, judged)
    }

    fn describe_peer(&self, head: &ConnectHead, peer_address: SocketAddr, record: &mut Record) {
        let snapshot = self.snapshot.borrow();
        record.authority = Some(head.authority.to_string());
        record.source.workload = snapshot.workload_at(peer_address.ip()).cloned();
        record.source.baggage = head.baggage.clone().map(Box::new);
        let host = head.forwarded.as_ref().and_then(|forwarded| forwarded.host.as_deref());
        record.service = host.and_then(|host| snapshot.service_named(host)).cloned();
    }

    fn record(&self, source: SocketAddr, destination: SocketAddr) -> Record {
        let mut record = Record::open(&self.telemetry, Direction::Inbound, source, destination);
        record.source.workload = self.snapshot.borrow().workload_at(source.ip()).cloned();
        record
    }
}

/// A tunnel that policies allow, and that the application has taken.
struct Delivered {
    record: Box<Record>,
    tunnel: Tunnel,
    server: TcpStream,
    caller: Caller,
    _place: OwnedSemaphorePermit,
}

/// The client's side of a connection.
#[derive(Debug)]
pub struct Caller {
    /// Whose pod it is.
    pub identity: Identity,
    /// The client's address and port.
    pub source: SocketAddr,
    /// The address in the other pod.
    pub target: SocketAddr,
    /// The service that was dialled.
    pub service: Option<Arc<Service>>,
}

impl Caller {
    fn asked(&self) -> Asked<'_> {
        Asked { peer: Some(&self.identity), source: self.source, destination: self.target }
    }
}

/// A connection within one agent that policies allow, and that the application has taken.
#[derive(Debug)]
pub struct Joined {
    inbound: Arc<Inbound>,
    pod: Arc<LocalPod>,
    caller: Caller,
    server: TcpStream,
    record: Record,
}

impl Joined {
    /// Carries it to its end, for as long as policies allow it.
    pub async fn relay(mut self, client: TcpStream, counters: &Arc<Counters>) -> Ended {
        self.record.opened_with(counters);
        let relayed = Box::pin(relay(client, self.server, counters));
        match self.inbound.while_allowed(&self.pod, &self.caller.asked(), relayed).await {
            Ok(ended) => {
                self.record.end(Reason::from(ended), None);
                ended
            }
            Err(failure) => {
                self.record.end(failure.reason, Some(failure.detail));
                Ended::ResetByServer
            }
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

/// What a verdict is made of: the same objects give the same one.
struct Grounds(Arc<Policies>, Option<Arc<Workload>>);

impl Grounds {
    fn of(snapshot: &Snapshot, pod: &LocalPod) -> Self {
        Self(snapshot.policies().clone(), snapshot.workload(pod.uid()).cloned())
    }
}

impl PartialEq for Grounds {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.1, &other.1) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same && Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What decides about connections to the pod, as it is labelled now.
fn guard(snapshot: &Snapshot, pod: &LocalPod) -> Guard {
    snapshot.guard(snapshot.workload(pod.uid()).unwrap_or_else(|| pod.workload()))
}

/// Connects to the application, which sees `client` as its peer.
async fn deliver(
    pod: &LocalPod,
    target: SocketAddr,
    client: SocketAddr,
) -> Result<TcpStream, Failure> {
    if pod.is_agent_port(target.port()) {
        return Err(Failure::new(Reason::Loop, "the port is one of the agent's own"));
    }
    // An address of the other family means nothing to the application.
    let client = Some(client).filter(|client| client.is_ipv4() == target.is_ipv4());
    let dialled = timeout(CONNECT_TIMEOUT, pod.connect(target, client)).await;
    dialled
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| Failure::dial(&error))
}

/// The address in this pod that a CONNECT names. No agent may be used to reach others.
fn local_target(pod: &LocalPod, incoming: &Incoming) -> Result<SocketAddr, Failure> {
    let head = incoming.head.as_ref().map_err(|bad| Failure::new(Reason::BadRequest, bad))?;
    match address(&head.authority) {
        Some(target) if pod.has(target.ip()) => Ok(target),
        Some(_) | None => Err(Failure::new(
            Reason::NotLocal,
            format!("ip mismatch: {} is not an address of this pod", head.authority),
        )),
    }
}

fn address(authority: &Authority) -> Option<SocketAddr> {
    match authority.host {
        Host::Ip(ip) => Some(SocketAddr::new(ip, authority.port)),
        Host::Name(_) => None,
    }
}

/// The client's address and port. The peer's agent dials from the client's own address, so what it
/// says of the port is believed only together with that.
fn client(peer_address: SocketAddr, incoming: &Incoming) -> SocketAddr {
    let told = incoming.head.as_ref().ok().and_then(|head| head.forwarded.as_ref()?.client);
    match told {
        Some(client) if client.ip() == peer_address.ip() => client,
        Some(_) | None => peer_address,
    }
}
