//! Shell: a pod of the service cart: its agent, and an application that says what it has seen.
mod application;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use culvert_agent::{
    drain::Drain,
    hbone::{
        Baggage,
        server::{self, Incoming as Connect},
    },
    identity::{Credentials, Identity},
};
use culvert_waypoint::listener::{TunnelStream, serve::Owned};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};

use application::answer;
pub(crate) use application::{frames, full, told};

use crate::{
    foreign::Foreign,
    lab::Lab,
    script::{Script, Unanswered},
};

/// A CONNECT that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) authority: String,
    pub(crate) peer: Identity,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) host: String,
    pub(crate) body: String,
}

/// Who connects to this port hears nothing for as long as it waits.
pub(crate) const MUTE: u16 = 8085;

#[derive(Default)]
pub(crate) struct Pod {
    seen: Arc<Mutex<Vec<Seen>>>,
    heard: Arc<Mutex<Vec<Heard>>>,
    work: Arc<Work>,
    /// What it does in place of answering.
    pub(crate) script: Arc<Script>,
    secure: Arc<OnceLock<Foreign>>,
    drain: Drain,
}

/// Requests that the application works on.
#[derive(Debug, Default)]
struct Work {
    begun: AtomicUsize,
    ended: AtomicUsize,
    left: AtomicUsize,
}

/// One of them, until it is done or nobody waits for it any more.
struct Working(Arc<Work>, bool);

impl Working {
    fn new(work: &Arc<Work>) -> Self {
        work.begun.fetch_add(1, Ordering::Relaxed);
        Self(work.clone(), false)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
        self.0.left.fetch_add(usize::from(!self.1), Ordering::Relaxed);
    }
}

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

impl Pod {
    pub(crate) async fn start(lab: &Lab, host: u8) -> Self {
        let identity = "spiffe://cluster.local/ns/shop/sa/cart";
        Self::start_as(lab, host, identity).await
    }

    pub(crate) async fn start_as(lab: &Lab, host: u8, identity: &str) -> Self {
        let name = format!("cart-{host}");
        let at = SocketAddr::new(lab.address(host), 15008);
        let listener = TcpListener::bind(at).await.expect("a listener");
        let credentials = lab.credentials(identity);
        let pod = Self::default();
        let (seen, heard, work) = (pod.seen.clone(), pod.heard.clone(), pod.work.clone());
        let (script, drain) = (pod.script.clone(), pod.drain.clone());
        let secure = pod.secure.clone();
        let agent = Agent { name, seen, heard, work, script, secure, drain };
        pod.drain.spawn(accept(listener, credentials, agent));
        pod
    }

    /// An application outside the mesh: on port 8080 it speaks HTTP in the clear.
    pub(crate) async fn start_outside(lab: &Lab, host: u8) -> Self {
        let at = SocketAddr::new(lab.address(host), 8080);
        let listener = TcpListener::bind(at).await.expect("a listener");
        let pod = Self::default();
        let (seen, heard, work) = (pod.seen.clone(), pod.heard.clone(), pod.work.clone());
        let (script, drain) = (pod.script.clone(), pod.drain.clone());
        let (name, secure) = (format!("cart-{host}"), pod.secure.clone());
        let agent = Agent { name, seen, heard, work, script, secure, drain };
        pod.drain.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                agent.drain.clone().spawn(agent.clone().http(stream, false));
            }
        });
        pod
    }

    /// On port 8443 it speaks TLS, like this server.
    pub(crate) fn secure(&self, server: &Foreign) {
        let _ = self.secure.set(server.clone());
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("a list").clone()
    }

    pub(crate) fn asked(&self) -> Vec<Heard> {
        self.heard.lock().expect("a list").clone()
    }

    pub(crate) async fn wait_asked(&self, count: usize) -> Vec<Heard> {
        until("so many have asked", || self.asked().len() >= count).await;
        self.asked()
    }

    /// Waits until so many have asked for what takes its time.
    pub(crate) async fn begun(&self, count: usize) {
        until("it has begun", || self.work.begun.load(Ordering::Relaxed) >= count).await;
    }

    /// Whether it works on nothing.
    pub(crate) fn is_idle(&self) -> bool {
        let Work { begun, ended, .. } = &*self.work;
        begun.load(Ordering::Relaxed) == ended.load(Ordering::Relaxed)
    }

    /// Waits until so many requests have been given up by those who asked.
    pub(crate) async fn left(&self, count: usize) {
        let left = || self.work.left.load(Ordering::Relaxed);
        until("the endpoint knows that nobody waits", || left() >= count).await;
    }

    /// Goes away with all its connections.
    pub(crate) fn stop(&self) {
        self.drain.force();
    }
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain until {what}");
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.stop();
    }
}

#[derive(Clone)]
pub(crate) struct Agent {
    name: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    heard: Arc<Mutex<Vec<Heard>>>,
    script: Arc<Script>,
    secure: Arc<OnceLock<Foreign>>,
    work: Arc<Work>,
    drain: Drain,
}

async fn accept(listener: TcpListener, credentials: Arc<Credentials>, agent: Agent) {
    while let Ok((stream, _)) = listener.accept().await {
        let (credentials, agent, drain) = (credentials.clone(), agent.clone(), agent.drain.clone());
        agent.drain.clone().spawn(async move {
            let on_connect = |connect| agent.connect(connect);
            let _ = server::serve(stream, &credentials, &drain, on_connect).await;
        });
    }
}

impl Agent {
    fn connect(&self, connect: Connect) {
        let authority = connect.head.as_ref().expect("a CONNECT").authority.clone();
        let seen = Seen { authority: authority.to_string(), peer: connect.peer.clone() };
        self.seen.lock().expect("a list").push(seen);
        match authority.port {
            // The application does not listen.
            _ if self.script.refuses() => connect.refuse(StatusCode::SERVICE_UNAVAILABLE),
            8086 => connect.refuse(StatusCode::SERVICE_UNAVAILABLE),
            // The policy denies it.
            8087 => connect.refuse(StatusCode::UNAUTHORIZED),
            port => {
                let tunnel = connect.accept(&Baggage::default()).expect("a live stream");
                self.drain.spawn(self.clone().serve(TunnelStream::from(tunnel), port));
            }
        }
    }

    async fn serve(self, stream: TunnelStream, port: u16) {
        match port {
            8081 => self.http(stream, true).await,
            8082 => self.either(stream).await,
            8088 => settings_first(stream).await,
            8443 => {
                if let Some(server) = self.secure.get().cloned() {
                    server.serve(stream).await;
                }
            }
            8089 => self.narrow(stream).await,
            8090 => self.leaving(stream).await,
            8083 | 8084 => echo(stream, &self.name).await,
            MUTE => {
                // Held until the mesh is gone.
                std::future::pending::<()>().await;
                drop(stream);
            }
            _ => self.http(stream, false).await,
        }
    }

    /// It says hello first, unless it hears HTTP.
    async fn either(self, mut stream: TunnelStream) {
        let mut first = [0; 1];
        let wait = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut first));
        match wait.await {
            Err(_) => {
                let _ = stream.write_all(format!("220 {}\n", self.name).as_bytes()).await;
                let _ = stream.flush().await;
                echo(stream, &self.name).await;
            }
            Ok(Ok(_)) if first == *b"G" => {
                let _ = stream
                    .write_all(
                        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
                    )
                    .await;
                let _ = stream.shutdown().await;
            }
            Ok(_) => {
                let _ = stream.write_all(&first).await;
                echo(stream, &self.name).await;
            }
        }
    }

    async fn http(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        second: bool,
    ) {
        let (io, owner) = (TokioIo::new(stream), self.drain.clone());
        let service = service_fn(move |request| self.clone().work(request));
        if second {
            let _ = http2::Builder::new(Owned(owner)).serve_connection(io, service).await;
        } else {
            let _ = http1::Builder::new().serve_connection(io, service).with_upgrades().await;
        }
    }

    async fn work(self, request: Request<Incoming>) -> Result<Answer, Unanswered> {
        match self.script.request() {
            Some(act) => act.answer(request, &self).await,
            None => answer(request, &self).await.map_err(Unanswered::from),
        }
    }

    /// HTTP/2, one stream at a time.
    async fn narrow(self, stream: TunnelStream) {
        let (io, owner) = (TokioIo::new(stream), self.drain.clone());
        let service = service_fn(move |request| self.clone().work(request));
        let mut builder = http2::Builder::new(Owned(owner));
        let _ = builder.max_concurrent_streams(1).serve_connection(io, service).await;
    }

    /// HTTP/2, but not on the first connection: there it says that it leaves, and took no stream.
    async fn leaving(self, mut stream: TunnelStream) {
        if self.seen.lock().expect("a list").len() > 1 {
            return self.http(stream, true).await;
        }
        let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        let _ = stream.flush().await;
        let mut bytes = [0; 4096];
        let mut heard = 0;
        // The client's first frames, and what it asks for.
        while !bytes[..heard].windows(5).any(|part| part == b"hello") {
            match stream.read(&mut bytes[heard..]).await {
                Ok(length @ 1..) => heard += length,
                Ok(0) | Err(_) => return,
            }
        }
        let _ = stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await;
        let _ = stream.flush().await;
        while let Ok(1..) = stream.read(&mut bytes).await {}
    }
}

/// Begins with HTTP/2's settings, and says nothing more.
async fn settings_first(mut stream: TunnelStream) {
    let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
    let _ = stream.flush().await;
    let mut bytes = [0; 1024];
    while let Ok(1..) = stream.read(&mut bytes).await {}
}

/// Says its name with every line back.
async fn echo(stream: TunnelStream, name: &str) {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut bytes = vec![0; 64 << 10];
    let mut first = true;
    while let Ok(length @ 1..) = read.read(&mut bytes).await {
        let head = if std::mem::take(&mut first) { format!("{name}:") } else { String::new() };
        let said = [head.as_bytes(), &bytes[..length]].concat();
        if write.write_all(&said).await.is_err() || write.flush().await.is_err() {
            return;
        }
    }
    let _ = write.shutdown().await;
}
