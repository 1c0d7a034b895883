//! Story: a peer's connection and its tunnels, from CONNECT to the end.
//! Never: parses, touches a socket; serves what is not attached to this waypoint.
mod lately;
mod opaque;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use culvert_agent::{
    clock,
    drain::Drain,
    hbone::{
        self, Authority, Baggage, Host,
        server::{self, Incoming},
    },
    identity::Lease,
};
use http::StatusCode;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{timeout, timeout_at},
};

use crate::{
    attachment::{self, Gateway, Target, target},
    exchange::{Exchange, Port},
    listener::{
        Opening, Version,
        idle::IDLE,
        serve::{HEAD_TIMEOUT, serve, unread},
        sniff::{Guess, guess},
    },
    mesh::Mesh,
    places::Places,
    record::{Record, Session},
    routing::Protocol,
};

pub use lately::Lately;

/// A client that says nothing for so long may be waiting for its server to speak first.
const SILENCE: Duration = Duration::from_millis(100);

/// The client's agent may have heard of a change before us, so long.
const UNHEARD: Duration = Duration::from_secs(1);

/// What tunnels share.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// What everything is decided by.
    pub mesh: watch::Receiver<Arc<Mesh>>,
    /// Which waypoint this is.
    pub gateway: Arc<Gateway>,
    /// Our certificates.
    pub lease: Lease,
    /// What we tell peers of us.
    pub baggage: Arc<Baggage>,
    /// What becomes of requests.
    pub exchange: Arc<Exchange>,
    /// Places for tunnels.
    pub places: Places,
    /// What was served a moment ago.
    pub lately: Arc<Lately>,
    /// Who owns the tasks of tunnels.
    pub drain: Drain,
}

impl Entrance {
    /// Serves all tunnels of one connection of a peer's agent.
    pub async fn connection(self, stream: TcpStream, peer: SocketAddr) {
        // Before the first certificate there is no readiness, so nobody was sent here.
        let Some(credentials) = self.lease.current() else { return };
        let on_connect = |incoming| {
            self.drain.spawn(self.clone().tunnel(peer, incoming));
        };
        // Boxed, so that tunnels that live on do not pay for the handshake's room.
        let served = Box::pin(server::serve(stream, &credentials, &self.drain, on_connect)).await;
        match served {
            Ok(()) => {}
            // Its tunnels have records of their own.
            Err(hbone::Error::Http2(error)) => {
                tracing::debug!(%peer, %error, "connection of a peer's agent broke");
            }
            Err(error) => tracing::info!(%peer, %error, "peer refused"),
        }
    }

    async fn tunnel(self, peer: SocketAddr, incoming: Incoming) {
        let head = match &incoming.head {
            Ok(head) => head.clone(),
            Err(bad) => {
                tracing::info!(%peer, error = %bad, "request refused");
                return incoming.refuse(StatusCode::BAD_REQUEST);
            }
        };
        // Unanswered, its stream is reset: whoever asks for what is not here gets no HTTP.
        let Some(dialled) = address(&head.authority) else {
            return tracing::info!(%peer, authority = %head.authority, "no address");
        };
        let Some(place) = self.places.take(peer.ip()) else {
            return tracing::warn!(%peer, "limits.max_connections tunnels, or this peer's share, are open");
        };
        let (mesh, target) = match Box::pin(self.find(dialled)).await {
            Ok(found) => found,
            Err(error) => return tracing::info!(%peer, %dialled, %error, "tunnel refused"),
        };
        let told = head.forwarded.as_ref().and_then(|forwarded| forwarded.client);
        let session = Session {
            // The peer's agent dials from the client's own address, so what it says of the port is
            // believed only together with that.
            client: told.filter(|told| told.ip() == peer.ip()).unwrap_or(peer),
            source: mesh.snapshot.workload_at(peer.ip()).cloned(),
            peer: incoming.peer.clone(),
            dialled,
            service: match &target {
                Target::Service(service) => Some(service.clone()),
                Target::Workload(_) => None,
            },
            server_name: None,
            place: Some(Arc::new(place)),
        };
        let port = port(&mesh, &target, dialled);
        drop(mesh);
        let Ok(tunnel) = incoming.accept(&self.baggage) else { return };
        Box::pin(self.speak(Opening::from(tunnel), port, session)).await;
    }

    /// What the tunnel leads to, by what the mesh looks like now, or in a moment.
    async fn find(&self, dialled: SocketAddr) -> Result<(Arc<Mesh>, Target), attachment::Error> {
        let mut meshes = self.mesh.clone();
        let deadline = clock::now() + UNHEARD;
        loop {
            let mesh = meshes.borrow_and_update().clone();
            let now = clock::now();
            let error = match target(&mesh, &self.gateway, (dialled, false)) {
                Ok(found) => {
                    self.lately.note((dialled, found.name()), now);
                    return Ok((mesh, found));
                }
                Err(error) => error,
            };
            if let Ok(found) = target(&mesh, &self.gateway, (dialled, true))
                && self.lately.has((dialled, found.name()), now)
            {
                return Ok((mesh, found));
            }
            if !matches!(timeout_at(deadline.into(), meshes.changed()).await, Ok(Ok(()))) {
                return Err(error);
            }
        }
    }

    /// Finds out what is spoken, if the port does not say.
    async fn speak(self, mut opening: Opening, port: Port, session: Session) {
        let version = match port.protocol {
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => http_version(&mut opening).await,
            Protocol::Tcp => return self.opaque(opening, port, session).await,
            Protocol::Tls => return Box::pin(self.tls(opening, port, session)).await,
            Protocol::Unknown => match timeout(SILENCE, opening.more()).await {
                Err(_) => return Box::pin(self.silent(opening, port, session)).await,
                Ok(Ok(true)) => match whole_guess(&mut opening).await {
                    Guess::Http1 => Some(Version::Http1),
                    Guess::Http2 => Some(Version::Http2),
                    Guess::Tls => return Box::pin(self.tls(opening, port, session)).await,
                    Guess::Opaque | Guess::More => {
                        return self.opaque(opening, port, session).await;
                    }
                },
                Ok(Ok(false) | Err(_)) => None,
            },
        };
        match version {
            Some(version) => self.requests(opening, (port, version), session).await,
            None => opening.abort(),
        }
    }

    async fn requests(self, opening: Opening, via: (Port, Version), session: Session) {
        let (exchange, session, version) = (self.exchange.clone(), Arc::new(session), via.1);
        let asking = session.clone();
        let answer = move |request| {
            let answered = exchange.clone().answer(asking.clone(), via.clone(), request);
            // Boxed: it is moved into what hyper keeps of the connection.
            Box::pin(answered)
        };
        let served = serve(opening.into_stream(), version, &self.drain, answer).await;
        let Err(error) = served else { return };
        if let Some(reply) = unread(&error).filter(|_| version == Version::Http1) {
            Record::open(&self.exchange.telemetry, &session).unread(&reply);
        }
        tracing::debug!(%error, "connection of a client broke");
    }
}

/// HTTP/2 begins with its preface; what else comes is for HTTP/1 to judge. `None` when nothing does.
async fn http_version(opening: &mut Opening) -> Option<Version> {
    if !matches!(timeout(IDLE, opening.more()).await, Ok(Ok(true))) {
        return None;
    }
    Some(match whole_guess(opening).await {
        Guess::Http2 => Version::Http2,
        Guess::Http1 | Guess::Tls | Guess::Opaque | Guess::More => Version::Http1,
    })
}

/// What the first bytes are, as soon as that can be said: within a bound of bytes, which `guess` keeps,
/// and of time. What could still be HTTP when the time is over is taken for it, so that nobody gets
/// past the rules by being slow.
async fn whole_guess(opening: &mut Opening) -> Guess {
    let sniffed = async {
        loop {
            let guess = guess(opening.first());
            if guess != Guess::More {
                return guess;
            }
            if !matches!(opening.more().await, Ok(true)) {
                return Guess::Http1;
            }
        }
    };
    timeout(HEAD_TIMEOUT, sniffed).await.unwrap_or(Guess::Http1)
}

/// The port that a tunnel to `dialled` leads to.
pub(crate) fn port(mesh: &Mesh, target: &Target, dialled: SocketAddr) -> Port {
    match target {
        Target::Service(service) => {
            let (host, number) = (service.hostname.clone(), dialled.port());
            let routes = mesh.table.port(&host, number);
            let backend =
                crate::routing::BackendRef { host: host.clone(), port: number, subset: None };
            let protocol = routes.map_or_else(|| mesh.protocol(&backend), |routes| routes.protocol);
            Port { host, number, protocol }
        }
        Target::Workload(workload) => {
            Port { host: workload.uid.clone(), number: dialled.port(), protocol: Protocol::Unknown }
        }
    }
}

fn address(authority: &Authority) -> Option<SocketAddr> {
    match authority.host {
        Host::Ip(ip) => Some(SocketAddr::new(ip, authority.port)),
        Host::Name(_) => None,
    }
}
