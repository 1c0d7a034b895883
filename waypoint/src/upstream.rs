//! Shell: one attempt at one endpoint: head and body there, a response or a failure back.
//! Never: retries what an application may have seen, chooses an endpoint.
mod failure;
mod lane;

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
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{body::RequestBody, listener::Version, outcome::Failure, routing::BackendRef};

pub use lane::AnswerBody;
use lane::{Connection, Lane, Unsent};

/// How long a dial may take, SYN to established (Istio's `connectTimeout`).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection to an endpoint that carries nothing is closed after this long.
const IDLE: Duration = Duration::from_secs(90);
/// Pause between two looks for those.
const SWEEP: Duration = Duration::from_secs(15);
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
}

/// Open connections to endpoints. Clones share them.
#[derive(Clone, Debug)]
pub struct Upstream {
    own: Arc<Own>,
    tunnels: Pool,
    lanes: Arc<Mutex<HashMap<Key, Arc<Lane>>>>,
    drain: Drain,
}

/// What must be equal for a connection to be shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    backend: Arc<BackendRef>,
    at: SocketAddr,
    expected: Option<Identity>,
    version: Version,
}

impl Upstream {
    /// No connections yet; those to come live as long as `drain` lets them.
    pub fn new(own: Own, tunnels: Pool, drain: Drain) -> Self {
        let upstream = Self { own: Arc::new(own), tunnels, lanes: Arc::default(), drain };
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
    /// Why there is no response.
    pub async fn send(
        &self,
        to: &To,
        version: Version,
        mut request: Request<RequestBody>,
    ) -> Result<Response<AnswerBody>, Failure> {
        let lane = self.lane(to, version);
        loop {
            let (connection, reused) = match lane.take().await {
                Some(connection) => (connection, true),
                // Boxed: dials are few.
                None => Box::pin(self.fresh(&lane, to, version)).await?,
            };
            match connection.send(&lane, request).await {
                Ok(response) => return Ok(response),
                Err(Unsent { request: Some(back), .. }) if reused => request = *back,
                Err(Unsent { failure, .. }) => return Err(failure),
            }
        }
    }

    /// Opens a connection for bytes that nobody looks at.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(&self, to: &To) -> Result<Opened, Failure> {
        match &to.workload {
            Some(workload) if workload.protocol == Protocol::Hbone => {
                self.tunnel(to, workload).await.map(Opened::Tunnel)
            }
            Some(_) | None => self.plain(to.at).await.map(Opened::Plain),
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

    /// A new connection; or one that is there after all, which this says.
    async fn fresh(
        &self,
        lane: &Arc<Lane>,
        to: &To,
        version: Version,
    ) -> Result<(Connection, bool), Failure> {
        let connect = async {
            let opened = self.open(to).await?;
            lane.connect(opened, version, &self.drain).await
        };
        match version {
            Version::Http1 => connect.await.map(|connection| (connection, false)),
            Version::Http2 => Box::pin(lane.shared_dial(connect)).await,
        }
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

    async fn plain(&self, at: SocketAddr) -> Result<TcpStream, Failure> {
        if !is_elsewhere(at.ip(), self.own.address) {
            return Err(Failure::Connect(format!("{} is no endpoint's address", at.ip())));
        }
        let dialled = timeout(CONNECT_TIMEOUT, dial(at, None)).await;
        let dialled = dialled.map_err(|_| Failure::ConnectTimeout)?;
        dialled.map_err(|error| Failure::Connect(error.to_string()))
    }

    fn lane(&self, to: &To, version: Version) -> Arc<Lane> {
        let meshed = to.workload.as_ref().filter(|w| w.protocol == Protocol::Hbone);
        let key = Key {
            backend: to.backend.clone(),
            at: to.at,
            expected: meshed.map(|workload| workload.identity.clone()),
            version,
        };
        lock(&self.lanes).entry(key).or_default().clone()
    }

    /// Forgets connections that ended or carried nothing for long.
    fn sweep(&self) {
        let now = clock::now();
        lock(&self.lanes).retain(|_, lane| lane.sweep(now, IDLE) || Arc::strong_count(lane) > 1);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

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
