//! Shell: one attempt at one endpoint: head and body there, a response or a failure back.
//! Never: retries what an application may have seen, chooses an endpoint.
mod failure;
mod lane;
mod room;
mod streams;
mod tls;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use culvert_agent::{
    clock,
    discovery::{Protocol, Workload},
    drain::Drain,
    hbone::{
        Authority, Baggage, ConnectHead, Forwarded, TraceParent, Tunnel,
        pool::{Pool, PoolKey},
    },
    identity::{Identity, Lease},
};
use http::{Request, Response};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    backend::{CallPolicy, ClientTls, Keepalive},
    balance::{Kind, Permit, Ticket},
    body::RequestBody,
    listener::{TunnelStream, Version},
    outcome::{Failure, Outcome},
    routing::BackendRef,
};

pub use lane::{AnswerBody, Taken};
use lane::{Connection, Lane, Unsent};
use room::Room;
use tls::Originator;
pub use tls::Secured;

/// Pause between two looks for those.
const SWEEP: Duration = Duration::from_secs(15);
/// The shortest and the longest time, and the most probes, that Linux takes for a connection
/// (`tcp(7)`: TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT).
const SHORTEST_PROBE: Duration = Duration::from_secs(1);
const LONGEST_PROBE: Duration = Duration::from_secs(32_767);
const MOST_PROBES: u32 = 127;
/// The port for tunnels.
const HBONE_PORT: u16 = 15008;

/// Who we are to endpoints.
#[derive(Clone, Debug)]
pub struct Own {
    /// Our identity.
    pub identity: Identity,
    /// Its certificates.
    pub lease: Lease,
    /// The address that we dial from; `None` for any.
    pub address: Option<IpAddr>,
    /// What we tell the endpoints' agents of us.
    pub baggage: Baggage,
}

/// Where an attempt goes.
#[derive(Clone, Debug)]
pub struct To {
    /// For whom: endpoints of different backends share no connections.
    pub backend: Arc<BackendRef>,
    /// The endpoint.
    pub at: SocketAddr,
    /// Who is there, if the mesh knows.
    pub workload: Option<Arc<Workload>>,
}

/// A connection to an endpoint.
#[derive(Debug)]
pub enum Opened {
    /// Through its agent.
    Tunnel(Tunnel),
    /// It is outside the mesh.
    Plain(TcpStream),
    /// Through its agent, within TLS of our own.
    SecuredTunnel(Box<Secured<TunnelStream>>),
    /// It is outside the mesh, and spoken to by TLS.
    Secured(Box<Secured<TcpStream>>),
}

/// Open connections to endpoints. Clones share them.
#[derive(Clone, Debug)]
pub struct Upstream {
    own: Arc<Own>,
    tunnels: Pool,
    lanes: Arc<Mutex<HashMap<Key, Arc<Lane>>>>,
    tls: Arc<Originator>,
    drain: Drain,
}

/// What must be equal for a connection to be shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    backend: Arc<BackendRef>,
    at: SocketAddr,
    expected: Option<Identity>,
    version: Version,
    tls: Option<Arc<ClientTls>>,
}

impl Upstream {
    /// No connections yet; those to come live as long as `drain` lets them.
    pub fn new(own: Own, tunnels: Pool, drain: Drain) -> Self {
        let (own, lanes, tls) = (Arc::new(own), Arc::default(), Arc::default());
        let upstream = Self { own, tunnels, lanes, tls, drain };
        let sweeper = upstream.clone();
        upstream.drain.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                sweeper.sweep();
            }
        });
        upstream
    }

    /// Sends a request and waits for the head of its response. On a connection that turns out to be
    /// dead before anything was sent, it goes out again on another.
    ///
    /// # Errors
    /// What it came to if there is no response.
    pub async fn send(
        &self,
        to: &To,
        version: Version,
        mut request: Request<RequestBody>,
        ticket: &Ticket,
    ) -> Result<Response<AnswerBody>, Outcome> {
        let secure = tls::asked(ticket.policy(), to);
        let lane = self.lane(to, version, secure);
        let pool = &ticket.policy().connection_pool;
        lane.follow(ticket.policy());
        if secure.is_some() {
            request = tls::https(request);
        }
        loop {
            let (connection, reused) = match lane.at_once(pool).await {
                Some(connection) => (connection, true),
                // Boxed: dials are few.
                None => {
                    let fresh = Box::pin(self.fresh(&lane, to, version, ticket)).await;
                    fresh.map_err(Outcome::unsent)?
                }
            };
            let Some(place) = ticket.request() else {
                connection.release(&lane);
                return Err(Outcome::unsent(Failure::Overflow));
            };
            ticket.connected();
            match connection.send(&lane, request).await {
                Ok(response) => return Ok(response.map(|body| body.holding(place))),
                Err(Unsent { request: Some(back), .. }) if reused => request = *back,
                Err(Unsent { failure, request }) => {
                    return Err(Outcome::Failed { failure, unsent: request.is_some() });
                }
            }
        }
    }

    /// Opens a connection for bytes that nobody looks at, within the time of its backend. It counts as
    /// open until the permit is dropped.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(&self, to: &To, ticket: &Ticket) -> Result<(Opened, Permit), Failure> {
        let pool = &ticket.policy().connection_pool;
        let place = ticket.limits().take(Kind::Connection, pool.max_connections);
        let place = place.ok_or(Failure::Overflow)?;
        let opened = timeout(pool.connect_timeout, self.dial(to, ticket.policy(), None)).await;
        Ok((opened.map_err(|_| Failure::ConnectTimeout)??, place))
    }

    /// A connection, with HTTP of this version agreed upon where TLS is asked for. Nobody is dialled
    /// before all is there that it takes.
    async fn dial(
        &self,
        to: &To,
        policy: &CallPolicy,
        version: Option<Version>,
    ) -> Result<Opened, Failure> {
        let ready = self.tls.ready(policy, to, version).await?;
        match &to.workload {
            Some(workload) if workload.protocol == Protocol::Hbone => {
                let tunnel = self.tunnel(to, workload).await?;
                let Some(ready) = ready else { return Ok(Opened::Tunnel(tunnel)) };
                let secured = Box::pin(ready.shake(TunnelStream::from(tunnel))).await?;
                Ok(Opened::SecuredTunnel(Box::new(secured)))
            }
            Some(_) | None => {
                let stream = self.plain(to.at, policy.connection_pool.keepalive).await?;
                let Some(ready) = ready else { return Ok(Opened::Plain(stream)) };
                let secured = Box::pin(ready.shake(stream)).await?;
                Ok(Opened::Secured(Box::new(secured)))
            }
        }
    }

    /// Who we are to endpoints.
    pub fn identity(&self) -> &Identity {
        &self.own.identity
    }

    /// Connections to agents of endpoints that are open.
    pub fn tunnels(&self) -> usize {
        self.tunnels.connections()
    }

    /// A new connection; or one that is there after all, or has room again, which this says.
    async fn fresh(
        &self,
        lane: &Arc<Lane>,
        to: &To,
        version: Version,
        ticket: &Ticket,
    ) -> Result<(Connection, bool), Failure> {
        let pool = &ticket.policy().connection_pool;
        let waiting = ticket.limits().take(Kind::Pending, pool.max_pending_requests);
        let _waiting = waiting.ok_or(Failure::Overflow)?;
        let connect = self.connect(lane, to, version, ticket);
        match version {
            Version::Http1 => connect.await,
            Version::Http2 => Box::pin(lane.shared_dial(pool, connect)).await,
        }
    }

    /// Waits for room, and dials if it is for one more connection.
    async fn connect(
        &self,
        lane: &Arc<Lane>,
        to: &To,
        version: Version,
        ticket: &Ticket,
    ) -> Result<(Connection, bool), Failure> {
        let pool = &ticket.policy().connection_pool;
        let open = match lane.room(ticket.limits(), pool).await? {
            Room::On(connection) => return Ok((connection, true)),
            Room::For(open) => open,
        };
        ticket.begin();
        let opened =
            timeout(pool.connect_timeout, self.dial(to, ticket.policy(), Some(version))).await;
        // Before the place is free: whoever waits hears of it first, and does not dial in turn.
        let failed = |failure: &Failure| lane.doors.failed(failure);
        let opened = opened.unwrap_or(Err(Failure::ConnectTimeout)).inspect_err(failed)?;
        let connected = lane.connect(opened, version, open, &self.drain);
        let connected = timeout(pool.connect_timeout, connected).await;
        let connected = connected.unwrap_or(Err(Failure::ConnectTimeout)).inspect_err(failed)?;
        Ok((connected, false))
    }

    async fn tunnel(&self, to: &To, workload: &Workload) -> Result<Tunnel, Failure> {
        let own = &self.own;
        let Some(credentials) = own.lease.current() else {
            return Err(Failure::Connect("our own certificate is not issued yet".into()));
        };
        let address = SocketAddr::new(to.at.ip(), HBONE_PORT);
        let source = own.address.filter(|own| own.is_ipv4() == address.is_ipv4());
        let key = PoolKey {
            worker: culvert_agent::workers::here(),
            own: own.identity.clone(),
            source: source.unwrap_or(IpAddr::from([0, 0, 0, 0])),
            address,
            expected: vec![workload.identity.clone()],
        };
        let head = ConnectHead {
            authority: Authority::from(to.at),
            forwarded: Some(Forwarded { client: None, host: Some(to.backend.host.to_string()) }),
            baggage: Some(own.baggage.clone()),
            trace: TraceParent::new(rand::random()),
        };
        let opened = self.tunnels.open(&key, &credentials, &head, || dial(address, source)).await;
        opened.map(|opened| opened.tunnel).map_err(failure::of_tunnel)
    }

    async fn plain(
        &self,
        at: SocketAddr,
        keepalive: Option<Keepalive>,
    ) -> Result<TcpStream, Failure> {
        if !is_elsewhere(at.ip(), self.own.address) {
            return Err(Failure::Connect(format!("{} is no endpoint's address", at.ip())));
        }
        let stream = dial(at, None).await.map_err(|error| failure::of_dial(&error))?;
        let probed = keepalive.map_or(Ok(()), |keepalive| probe(&stream, keepalive));
        probed.map_err(|error| Failure::Connect(error.to_string()))?;
        Ok(stream)
    }

    fn lane(&self, to: &To, version: Version, tls: Option<&Arc<ClientTls>>) -> Arc<Lane> {
        let meshed = to.workload.as_ref().filter(|w| w.protocol == Protocol::Hbone);
        let key = Key {
            backend: to.backend.clone(),
            at: to.at,
            expected: meshed.map(|workload| workload.identity.clone()),
            version,
            tls: tls.cloned(),
        };
        lock(&self.lanes).entry(key).or_default().clone()
    }

    /// Forgets connections that ended or carried nothing for long.
    fn sweep(&self) {
        let now = clock::now();
        self.tls.sweep(now);
        lock(&self.lanes).retain(|_, lane| lane.is_used(now) || Arc::strong_count(lane) > 1);
    }
}

/// Whether an endpoint outside the mesh may have this address: none that means us, or whoever is nearest.
/// Where our own address is one of the loopback, others that are not us are there, too.
fn is_elsewhere(at: IpAddr, own: Option<IpAddr>) -> bool {
    let (at, own) = (at.to_canonical(), own.map(|own| own.to_canonical()));
    let is_near = match at {
        IpAddr::V4(at) => at.is_link_local() || at.is_broadcast(),
        IpAddr::V6(at) => at.is_unicast_link_local(),
    };
    let is_ours = at.is_loopback() && !own.is_some_and(|own| own.is_loopback());
    !(is_near || is_ours || at.is_unspecified() || at.is_multicast() || own == Some(at))
}

async fn dial(at: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        socket.bind((source, 0).into())?;
    }
    let stream = socket.connect(at).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Has the kernel probe a connection. It counts in whole seconds, from one on.
fn probe(stream: &TcpStream, keepalive: Keepalive) -> io::Result<()> {
    let Keepalive { probes, time, interval } = keepalive;
    let seconds = |time: Duration| time.clamp(SHORTEST_PROBE, LONGEST_PROBE);
    let mut asked = TcpKeepalive::new();
    if let Some(time) = time {
        asked = asked.with_time(seconds(time));
    }
    if let Some(interval) = interval {
        asked = asked.with_interval(seconds(interval));
    }
    if let Some(probes) = probes {
        asked = asked.with_retries(probes.min(MOST_PROBES));
    }
    SockRef::from(stream).set_tcp_keepalive(&asked)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_probes_as_it_is_told_within_what_it_takes() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = dial(listener.local_addr().unwrap(), None).await.unwrap();
        let of = |time, interval, probes| {
            let seconds = |time: u64| Some(Duration::from_secs(time));
            let (time, interval) = (seconds(time), seconds(interval));
            probe(&stream, Keepalive { probes: Some(probes), time, interval }).unwrap();
            let socket = SockRef::from(&stream);
            assert!(socket.keepalive().unwrap());
            let time = socket.tcp_keepalive_time().unwrap().as_secs();
            let interval = socket.tcp_keepalive_interval().unwrap().as_secs();
            (time, interval, socket.tcp_keepalive_retries().unwrap())
        };
        assert_eq!(of(60, 5, 3), (60, 5, 3));
        assert_eq!(of(0, 1_000_000, 1_000), (1, 32_767, 127));
        let _ = probe(&stream, Keepalive::default());
        assert_eq!(SockRef::from(&stream).tcp_keepalive_time().unwrap().as_secs(), 1, "as it was");
    }

    #[test]
    fn nobody_outside_the_mesh_is_where_we_are() {
        let own = Some(IpAddr::from([10, 244, 1, 9]));
        for (at, expected) in [
            ("192.0.2.7", true),
            ("10.244.1.8", true),
            ("2001:db8::7", true),
            ("10.244.1.9", false),
            ("::ffff:10.244.1.9", false),
            ("127.0.0.1", false),
            ("127.9.9.9", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("0.0.0.0", false),
            ("::", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("224.0.0.1", false),
            ("ff02::1", false),
            ("255.255.255.255", false),
        ] {
            assert_eq!(is_elsewhere(at.parse().unwrap(), own), expected, "{at}");
        }
    }
}
