//! Shell: the agent's sockets in a pod's namespace: three listeners, and those it dials with.
//! Never: reads a byte, decides who may connect.
use std::{
    future::Future,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Handle,
};

use super::{Error, addresses::canonical, maps::Maps, netns::Netns, pod::LocalPod};
use crate::{
    drain::Drain,
    flow::{Direction, Flow},
    workers::{Place, Workers, here},
};

/// Connections that may wait to be accepted, per listener.
const BACKLOG: i32 = 4096;
/// Pause after `accept` failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// An idle connection is probed after this long, and then as often again.
const KEEPALIVE: Duration = Duration::from_secs(180);
/// Unanswered probes after which a connection counts as dead.
const KEEPALIVE_PROBES: u32 = 9;

/// A connection that the kernel brought to the agent.
#[derive(Debug)]
pub struct Captured {
    /// Its socket.
    pub stream: TcpStream,
    /// Whence and whither, as the client meant it. Tunnels know more later.
    pub flow: Flow,
    /// Where it is carried.
    pub place: Place,
}

/// How a connection arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A process of the pod dialled a mesh destination.
    Outbound,
    /// A peer of the mesh brings tunnels.
    Hbone,
    /// Somebody connects to the pod without a tunnel.
    Plain,
}

/// The listeners of one pod, and the cookie of the namespace that they are in.
pub(super) struct Listeners {
    pub(super) outbound: Socket,
    pub(super) plain: Socket,
    pub(super) hbone: Socket,
    pub(super) netns_cookie: u64,
}

impl Listeners {
    /// Opens the listeners, on ports that the kernel chooses: they are reached by steering, and
    /// must not collide with the application's.
    pub(super) fn open(
        maps: &Maps,
        netns: &Netns,
        congestion: Option<&str>,
    ) -> Result<Self, Error> {
        let tuned = || {
            let socket = listen(maps)?;
            // What it accepts inherits it.
            control(&socket, congestion).map_err(|source| cannot("tune a listener", source))?;
            Ok(socket)
        };
        let entered = netns.within(|| {
            let outbound = tuned()?;
            let netns_cookie = maps.netns_of(&outbound)?;
            Ok(Self { outbound, plain: listen(maps)?, hbone: tuned()?, netns_cookie })
        });
        entered.map_err(|source| cannot("enter the pod's network namespace", source))?
    }

    /// The ports that they are on; a connection that names one of them would come back to the agent.
    pub(super) fn ports(&self) -> Result<[u16; 3], Error> {
        Ok([port(&self.outbound)?, port(&self.plain)?, port(&self.hbone)?])
    }
}

/// `congestion`, if this kernel lets sockets have it.
pub(super) fn available(congestion: Option<Arc<str>>) -> Option<Arc<str>> {
    let tried = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
        .and_then(|socket| control(&socket, congestion.as_deref()));
    if let Err(error) = &tried {
        tracing::warn!(%error, ?congestion, "no such congestion control here: the system's is used");
    }
    congestion.filter(|_| tried.is_ok())
}

/// The cookie of the agent's own namespace, which is the node's.
pub(super) fn node_cookie(maps: &Maps) -> Result<u64, Error> {
    maps.netns_of(&listen(maps)?)
}

/// A socket in the pod's namespace for dialling, never captured by the kernel. An application that
/// accepts the connection sees `client`.
pub(super) fn dialling(
    maps: &Maps,
    netns: &Netns,
    congestion: Option<&str>,
    (to, client): (SocketAddr, Option<SocketAddr>),
) -> Result<TcpSocket, Error> {
    let socket = netns
        .within(|| {
            Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))
        })
        .and_then(std::convert::identity)
        .and_then(|socket| {
            tune(&SockRef::from(&socket))?;
            control(&socket, congestion)?;
            Ok(socket)
        })
        .map_err(|source| cannot("open a socket in the pod's network namespace", source))?;
    maps.mark_dialling(&socket, client)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// What becomes of the connections that a pod's listener accepts.
pub(super) struct Acceptor<S> {
    pub(super) pod: Arc<LocalPod>,
    pub(super) arrival: Arrival,
    pub(super) drain: Drain,
    pub(super) workers: Workers,
    pub(super) serve: S,
}

impl<S, F> Acceptor<S>
where
    S: Fn(Arc<LocalPod>, Arrival, Captured) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    /// Accepts connections until the pod is released, and hands each to `serve` as a task of its own.
    pub(super) async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.pod.released() => return,
                () = self.drain.draining() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.place(stream, canonical(peer)),
                // A client that gave up before it was accepted is its own affair.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, pod = %self.pod.uid(), "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn place(&self, stream: TcpStream, peer: SocketAddr) {
        let Some(flow) = self.pod.flow(&stream, peer, self.arrival) else { return };
        let (place, runtime) = self.workers.place(here());
        let moved = if place.is_here() { Ok(stream) } else { moved(stream, runtime) };
        match moved {
            Ok(stream) => {
                let captured = Captured { stream, flow, place };
                let served = (self.serve)(self.pod.clone(), self.arrival, captured);
                self.drain.spawn_on(runtime, served);
            }
            Err(error) => tracing::warn!(%error, "cannot move a connection to another worker"),
        }
    }
}

impl LocalPod {
    /// Who talks to whom. `None` for a connection that the kernel did not bring but that dialled the
    /// agent's listener by itself: it has no destination, and is reset.
    fn flow(&self, stream: &TcpStream, peer: SocketAddr, arrival: Arrival) -> Option<Flow> {
        let destination = match arrival {
            Arrival::Outbound => self.original_destination(stream),
            Arrival::Hbone | Arrival::Plain => {
                let local = stream.local_addr().ok().map(canonical);
                local.filter(|local| !self.is_listener(local.port()))
            }
        };
        let Some(destination) = destination else {
            tracing::debug!(%peer, pod = %self.uid(), "a connection that the kernel did not bring is reset");
            // The client sees a reset rather than an end that looks orderly.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            return None;
        };
        let direction = match arrival {
            Arrival::Outbound => Direction::Outbound,
            Arrival::Hbone | Arrival::Plain => Direction::Inbound,
        };
        Some(Flow { direction, source: peer, destination, peer: None })
    }
}

/// The same socket, waited for by another runtime.
fn moved(stream: TcpStream, runtime: &Handle) -> io::Result<TcpStream> {
    let stream = stream.into_std()?;
    let _entered = runtime.enter();
    TcpStream::from_std(stream)
}

fn listen(maps: &Maps) -> Result<Socket, Error> {
    let dual = (Domain::IPV6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    let only_v4 = (Domain::IPV4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    listen_on(maps, dual).or_else(|_| listen_on(maps, only_v4))
}

fn listen_on(maps: &Maps, (domain, address): (Domain, SocketAddr)) -> Result<Socket, Error> {
    let bound = || {
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let socket = bound().map_err(|source| cannot("open a listener", source))?;
    // What it accepts inherits it.
    tune(&SockRef::from(&socket)).map_err(|source| cannot("tune a listener", source))?;
    maps.mark_listener(&socket)?;
    socket.listen(BACKLOG).map_err(|source| cannot("listen", source))?;
    Ok(socket)
}

fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Before it is connected: what another algorithm has set up by then stays (tcp(7), TCP_CONGESTION).
fn control(socket: &Socket, congestion: Option<&str>) -> io::Result<()> {
    congestion.map_or(Ok(()), |name| socket.set_tcp_congestion(name.as_bytes()))
}

fn port(socket: &Socket) -> Result<u16, Error> {
    let address = socket.local_addr().map_err(|source| cannot("examine a listener", source))?;
    Ok(address.as_socket().map_or(0, |address| address.port()))
}

fn cannot(what: &'static str, source: io::Error) -> Error {
    Error::File { what, path: String::new(), source }
}
