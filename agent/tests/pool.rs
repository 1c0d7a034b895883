//! Shell: the pool of tunnels against a real server of ours on the loopback.
#![forbid(unsafe_code)]
#![allow(clippy::large_futures, reason = "nothing else runs on the stack of a test")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use culvert_agent::{
    clock,
    drain::Drain,
    hbone::{
        Authority, Baggage, ConnectHead, Error, STREAMS_OPENED, TraceParent,
        http2::Pieces,
        pool::{Opened, Pool, PoolKey, PoolLimits},
        server,
    },
    identity::{Credentials, Identity, ca::LocalCa},
};
use tokio::net::{TcpListener, TcpStream};

const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/server";
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";

/// A server that accepts every tunnel and keeps it, and the means to dial it.
struct Fixture {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    connections: Drain,
    ca: LocalCa,
    folder: PathBuf,
}

impl Fixture {
    async fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("culvert-pool-{}", rand::random::<u64>()));
        let hour = Duration::from_secs(3600);
        let ca = LocalCa::open(&folder.join("ca.pem"), "cluster.local", hour, clock::wall());
        let ca = ca.expect("a root");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a listener");
        let (accepted, connections) = (Arc::new(AtomicUsize::new(0)), Drain::default());
        let fixture = Self {
            address: listener.local_addr().expect("its address"),
            accepted: accepted.clone(),
            connections: connections.clone(),
            ca,
            folder,
        };
        let credentials = Arc::new(fixture.credentials(SERVER));
        connections.spawn(accept(listener, credentials, connections.clone(), accepted));
        fixture
    }

    fn credentials(&self, identity: &str) -> Credentials {
        let svid = self.ca.issue(&identity.parse().expect("an identity"), clock::wall());
        Credentials::new(svid.expect("a certificate")).expect("credentials")
    }

    fn key(&self, own: &str, source: [u8; 4]) -> PoolKey {
        let identity = |text: &str| text.parse::<Identity>().expect("an identity");
        PoolKey {
            worker: 0,
            own: identity(own),
            source: source.into(),
            address: self.address,
            expected: vec![identity(SERVER)],
        }
    }

    async fn open(&self, pool: &Pool, key: &PoolKey) -> Result<Opened, Error> {
        let head = ConnectHead {
            authority: Authority::from(SocketAddr::from(([10, 0, 0, 1], 80))),
            forwarded: None,
            baggage: None,
            trace: TraceParent::new([1, 2, 3]),
        };
        let credentials = Arc::new(self.credentials(&key.own.to_string()));
        let address = self.address;
        pool.open(key, &credentials, &head, || TcpStream::connect(address)).await
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    credentials: Arc<Credentials>,
    drain: Drain,
    accepted: Arc<AtomicUsize>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::Relaxed);
        drain.spawn(serve(stream, credentials.clone(), drain.clone()));
    }
}

/// Accepts every tunnel, and hears it out.
async fn serve(stream: TcpStream, credentials: Arc<Credentials>, drain: Drain) {
    let keep = |incoming: server::Incoming| {
        let tunnel = incoming.accept(&Baggage::default()).expect("a live stream");
        let (mut source, _sink) = tunnel.split();
        drain.spawn(async move {
            let mut pieces = Pieces::new();
            while let Ok(true) = source.next(&mut pieces).await {
                pieces.clear();
            }
        });
    };
    let _ = server::serve(stream, &credentials, &drain, keep).await;
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.connections.force();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn pool(connections: usize, idle: Duration) -> Pool {
    Pool::new(PoolLimits { connections, idle }, Drain::default())
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn tunnels_share_a_connection_until_it_is_full() {
    let (fixture, pool) = (Fixture::new().await, pool(10, LONG));
    let key = fixture.key(CLIENT, [10, 0, 0, 2]);
    let mut open = Vec::new();
    for number in 0..STREAMS_OPENED {
        let opened = fixture.open(&pool, &key).await.expect("a tunnel");
        assert_eq!(opened.reused, number > 0);
        open.push(opened);
    }
    assert_eq!((fixture.accepted(), pool.connections()), (1, 1));
    open.push(fixture.open(&pool, &key).await.expect("one more"));
    assert_eq!((fixture.accepted(), pool.connections()), (2, 2));
}

#[tokio::test]
async fn two_identities_or_two_pods_never_share() {
    let (fixture, pool) = (Fixture::new().await, pool(10, LONG));
    let other = "spiffe://cluster.local/ns/shop/sa/other";
    let keys = [
        fixture.key(CLIENT, [10, 0, 0, 2]),
        fixture.key(CLIENT, [10, 0, 0, 3]),
        fixture.key(other, [10, 0, 0, 2]),
    ];
    for key in &keys {
        assert!(!fixture.open(&pool, key).await.expect("a tunnel").reused);
    }
    assert_eq!(fixture.accepted(), keys.len());
}

#[tokio::test]
async fn many_who_ask_at_once_wait_for_one_dial() {
    let (fixture, pool) = (Fixture::new().await, pool(10, LONG));
    let key = fixture.key(CLIENT, [10, 0, 0, 2]);
    let asks = (0..50).map(|_| fixture.open(&pool, &key));
    let opened = futures_util::future::join_all(asks).await;
    assert!(opened.iter().all(Result::is_ok));
    assert_eq!(fixture.accepted(), 1);
}

#[tokio::test]
async fn a_limit_on_connections_is_an_error_that_names_it() {
    let (fixture, pool) = (Fixture::new().await, pool(1, LONG));
    let _first = fixture.open(&pool, &fixture.key(CLIENT, [10, 0, 0, 2])).await.expect("a tunnel");
    let error = fixture.open(&pool, &fixture.key(CLIENT, [10, 0, 0, 3])).await.expect_err("full");
    assert!(error.to_string().contains("limits.max_tunnels"), "{error}");
}

#[tokio::test]
async fn another_identity_than_expected_is_refused_before_anything_is_asked() {
    let (fixture, pool) = (Fixture::new().await, pool(10, LONG));
    let mut key = fixture.key(CLIENT, [10, 0, 0, 2]);
    key.expected = vec!["spiffe://cluster.local/ns/shop/sa/payment".parse().expect("an identity")];
    let error = fixture.open(&pool, &key).await.expect_err("somebody else");
    assert!(matches!(&error, Error::Identity { found, .. } if found == SERVER), "{error}");
    assert_eq!(pool.connections(), 0);
}

#[tokio::test]
async fn a_connection_without_streams_is_closed_after_its_time() {
    let (fixture, pool) = (Fixture::new().await, pool(10, Duration::from_millis(100)));
    let key = fixture.key(CLIENT, [10, 0, 0, 2]);
    let kept = fixture.open(&pool, &key).await.expect("a tunnel");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(pool.connections(), 1, "a connection with a stream was closed");
    drop(kept);
    let closed = async {
        while pool.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("an idle connection stayed");
    assert!(!fixture.open(&pool, &key).await.expect("a new one").reused);
}

#[tokio::test]
async fn a_connection_that_died_meanwhile_is_replaced() {
    let (fixture, pool) = (Fixture::new().await, pool(10, LONG));
    let key = fixture.key(CLIENT, [10, 0, 0, 2]);
    drop(fixture.open(&pool, &key).await.expect("a tunnel"));
    let replacement = Fixture::new().await;
    let (from, to) = (fixture.address, replacement.address);
    // The server goes away with all its connections; the pool hears of it, or of the next request.
    fixture.connections.force();
    let head = ConnectHead {
        authority: Authority::from(SocketAddr::from(([10, 0, 0, 1], 80))),
        forwarded: None,
        baggage: None,
        trace: TraceParent::new([1, 2, 3]),
    };
    let mut key = key;
    key.address = from;
    // Certificates of the other server come from another root: only the dial is looked at.
    let credentials = Arc::new(fixture.credentials(CLIENT));
    let answer = pool.open(&key, &credentials, &head, || TcpStream::connect(to)).await;
    assert!(matches!(answer, Err(Error::Tls(_))), "{answer:?}");
    assert_eq!(replacement.accepted(), 1, "the dead connection was not replaced");
}
