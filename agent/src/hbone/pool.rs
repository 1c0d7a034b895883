//! Shell: open connections to peers' agents, reused for the same pair of identities.
//! Never: shares a connection between identities, holds a lock while it waits.
use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, sync::oneshot, time::timeout};

use super::{
    ConnectHead, Error, Tunnel,
    client::{ConnectError, Connection},
    http2::Broken,
};
use crate::{
    clock,
    drain::Drain,
    identity::{Credentials, Identity},
};

/// How long a dial may take, SYN to established.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds of the pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Connections that are open at one time.
    pub connections: usize,
    /// A connection without streams is closed after this long.
    pub idle: Duration,
}

/// What must be equal for a connection to be shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// As whom we dial.
    pub own: Identity,
    /// From which pod's address.
    pub source: IpAddr,
    /// Where the peer's agent listens.
    pub address: SocketAddr,
    /// Who may be there.
    pub expected: Vec<Identity>,
    /// On which worker (`workers::here`).
    pub worker: usize,
}

/// A tunnel, and how it came about.
#[derive(Debug)]
pub struct Opened {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// Whom the peer proved to be.
    pub peer: Identity,
    /// Whether the connection was there already.
    pub reused: bool,
}

/// The open connections of an agent. Clones share them.
#[derive(Clone, Debug)]
pub struct Pool {
    limits: PoolLimits,
    lanes: Arc<Mutex<HashMap<PoolKey, Arc<Lane>>>>,
    open: Arc<AtomicUsize>,
    drain: Drain,
}

/// All connections of one key.
#[derive(Debug, Default)]
struct Lane {
    connections: Mutex<Vec<Arc<Shared>>>,
    /// One dial at a time. Holds when and why the last one failed, for those who waited for it.
    dial: Arc<tokio::sync::Mutex<Option<(Instant, Error)>>>,
}

#[derive(Debug)]
struct Shared {
    connection: Connection,
    streams: AtomicUsize,
    last_used: Mutex<Instant>,
    open: Arc<AtomicUsize>,
}

/// One stream of a connection, counted until it is dropped.
#[derive(Debug)]
pub struct StreamPermit(Arc<Shared>);

impl Pool {
    /// An empty pool, whose connections live as long as `drain` lets them.
    pub fn new(limits: PoolLimits, drain: Drain) -> Self {
        let pool = Self { limits, lanes: Arc::default(), open: Arc::default(), drain };
        let sweeper = pool.clone();
        pool.drain.spawn(async move {
            loop {
                tokio::time::sleep((limits.idle / 4).max(Duration::from_millis(50))).await;
                sweeper.sweep(clock::now());
            }
        });
        pool
    }

    /// Opens a tunnel over a connection that is there, or over a new one for which `dial` gives the
    /// socket. A connection that turns out to be dead before the peer saw the request is replaced.
    ///
    /// # Errors
    /// Why there is no tunnel. All who waited for the same dial get the same answer.
    pub async fn open<F>(
        &self,
        key: &PoolKey,
        credentials: &Arc<Credentials>,
        head: &ConnectHead,
        dial: impl Fn() -> F,
    ) -> Result<Opened, Error>
    where
        F: Future<Output = io::Result<TcpStream>> + Send + 'static,
    {
        let lane = self.lane(key);
        loop {
            let (permit, reused) = match lane.reserve() {
                Some(permit) => (permit, true),
                None => self.fresh(&lane, key, credentials, &dial).await?,
            };
            match permit.0.connection.connect(head).await {
                Ok(stream) => {
                    let peer = permit.0.connection.peer().clone();
                    let tunnel = Tunnel::new(stream, Some(permit));
                    return Ok(Opened { tunnel, peer, reused });
                }
                Err(ConnectError { error: _, lost: true }) if reused => {
                    lane.remove(&permit.0);
                }
                Err(ConnectError { error, .. }) => return Err(error),
            }
        }
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn lane(&self, key: &PoolKey) -> Arc<Lane> {
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.get(key) {
            return lane.clone();
        }
        lanes.entry(key.clone()).or_default().clone()
    }

    /// Dials, or waits for somebody else who does. Says whether the connection was there after all. Who
    /// no longer waits does not end a dial that others may wait for.
    async fn fresh<F>(
        &self,
        lane: &Arc<Lane>,
        key: &PoolKey,
        credentials: &Arc<Credentials>,
        dial: impl Fn() -> F,
    ) -> Result<(StreamPermit, bool), Error>
    where
        F: Future<Output = io::Result<TcpStream>> + Send + 'static,
    {
        let asked = clock::now();
        let mut last = lane.dial.clone().lock_owned().await;
        if let Some(permit) = lane.reserve() {
            return Ok((permit, true));
        }
        if let Some((at, error)) = &*last
            && *at >= asked
        {
            return Err(error.clone());
        }
        let (tell, told) = oneshot::channel();
        let (pool, lane, credentials) = (self.clone(), lane.clone(), credentials.clone());
        let (expected, dialling) = (key.expected.clone(), dial());
        self.drain.spawn(async move {
            let made = pool.dial(&expected, &credentials, dialling).await;
            *last = made.as_ref().err().map(|error| (clock::now(), error.clone()));
            // Nobody may wait any more; the connection is there for the next.
            let _ = tell.send(made.map(|connection| lane.keep(connection, &pool.open)));
        });
        let made = told.await.unwrap_or(Err(Error::Http2(Broken::Ended)))?;
        Ok((made, false))
    }

    async fn dial(
        &self,
        expected: &[Identity],
        credentials: &Credentials,
        dialling: impl Future<Output = io::Result<TcpStream>>,
    ) -> Result<Connection, Error> {
        let counted = Counted::new(&self.open, self.limits.connections)?;
        let stream = timeout(DIAL_TIMEOUT, dialling).await.map_err(|_| Error::DialTimeout)?;
        let stream = stream.map_err(|error| {
            let late = error.kind() == io::ErrorKind::TimedOut;
            if late { Error::DialTimeout } else { Error::Dial(Arc::new(error)) }
        })?;
        let connection = Connection::open(stream, credentials, expected, &self.drain).await?;
        counted.keep();
        Ok(connection)
    }

    /// Forgets connections that ended or carried nothing for long. They close when the last stream
    /// is done.
    fn sweep(&self, now: Instant) {
        let mut lanes = lock(&self.lanes);
        lanes.retain(|_, lane| {
            let mut connections = lock(&lane.connections);
            connections.retain(|shared| !shared.is_spent(now, self.limits.idle));
            !connections.is_empty() || Arc::strong_count(lane) > 1
        });
    }
}

impl Lane {
    /// Adds a connection, and takes the first stream of it.
    fn keep(&self, connection: Connection, open: &Arc<AtomicUsize>) -> StreamPermit {
        let shared = Arc::new(Shared {
            connection,
            streams: AtomicUsize::new(0),
            last_used: Mutex::new(clock::now()),
            open: open.clone(),
        });
        let permit = StreamPermit::new(shared.clone());
        lock(&self.connections).push(shared);
        permit
    }

    /// A stream on a connection that lives and has room.
    fn reserve(&self) -> Option<StreamPermit> {
        let mut connections = lock(&self.connections);
        connections.retain(|shared| !shared.connection.is_closed());
        let free = connections.iter().find(|shared| {
            shared.streams.load(Ordering::Relaxed) < shared.connection.max_streams()
        })?;
        Some(StreamPermit::new(free.clone()))
    }

    fn remove(&self, dead: &Arc<Shared>) {
        lock(&self.connections).retain(|shared| !Arc::ptr_eq(shared, dead));
    }
}

impl Shared {
    fn is_spent(&self, now: Instant, idle: Duration) -> bool {
        let quiet = now.saturating_duration_since(*lock(&self.last_used)) >= idle;
        self.connection.is_closed() || (quiet && self.streams.load(Ordering::Relaxed) == 0)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl StreamPermit {
    fn new(shared: Arc<Shared>) -> Self {
        shared.streams.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        *lock(&self.0.last_used) = clock::now();
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place among the open connections, given back unless it is kept.
struct Counted<'a>(Option<&'a AtomicUsize>);

impl<'a> Counted<'a> {
    fn new(open: &'a AtomicUsize, limit: usize) -> Result<Self, Error> {
        if open.fetch_add(1, Ordering::Relaxed) >= limit {
            open.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Full(limit));
        }
        Ok(Self(Some(open)))
    }

    /// From here on the connection itself gives the place back.
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(open) = self.0 {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
