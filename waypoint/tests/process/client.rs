//! Shell: a client in the mesh: its agent's tunnels to the waypoint, and what it says in them.
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use culvert_agent::{
    hbone::{Authority, ConnectHead, Error, TraceParent, Tunnel, pool::PoolKey},
    identity::Credentials,
};
use culvert_waypoint::listener::{TunnelStream, serve::Owned};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use crate::lab::Lab;

/// How long an end is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) struct Client<'a> {
    lab: &'a Lab,
    own: String,
    source: IpAddr,
    credentials: Arc<Credentials>,
}

/// A response that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    /// What a pod says it has seen.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl<'a> Client<'a> {
    pub(crate) fn new(lab: &'a Lab, own: &str, host: u8) -> Self {
        let credentials = lab.credentials(own);
        Self { lab, own: own.into(), source: lab.address(host), credentials }
    }

    /// A tunnel to an address and port behind the waypoint.
    pub(crate) async fn tunnel(&self, to: impl Into<SocketAddr>) -> Result<Tunnel, Error> {
        let head = ConnectHead {
            authority: Authority::from(to.into()),
            forwarded: None,
            baggage: None,
            trace: TraceParent::new([1, 2, 3]),
        };
        self.ask(&head).await
    }

    pub(crate) async fn ask(&self, head: &ConnectHead) -> Result<Tunnel, Error> {
        let key = PoolKey {
            worker: culvert_agent::workers::here(),
            own: self.own.parse().expect("an identity"),
            source: self.source,
            address: self.lab.waypoint(),
            expected: vec![Lab::own_identity()],
        };
        let (source, waypoint) = (self.source, self.lab.waypoint());
        let dial = || async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind((source, 0).into())?;
            let stream = socket.connect(waypoint).await?;
            // As agents do; otherwise each small request waits for an acknowledgement.
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let opened = self.lab.pool.open(&key, &self.credentials, head, dial).await;
        opened.map(|opened| opened.tunnel)
    }

    pub(crate) async fn stream(&self, to: impl Into<SocketAddr>) -> TunnelStream {
        self.tunnel(to).await.expect("a tunnel").into()
    }

    /// Says `bytes` and hears everything until the end; an end that is none is marked.
    pub(crate) async fn raw(&self, to: impl Into<SocketAddr>, bytes: &[u8]) -> String {
        let mut stream = self.stream(to).await;
        stream.write_all(bytes).await.expect("sent");
        stream.flush().await.expect("sent");
        let mut heard = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut heard)).await;
        let mut text = String::from_utf8_lossy(&heard).into_owned();
        match ended {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => text.push_str(&format!("<{:?}>", error.kind())),
            Err(_) => text.push_str("<silence>"),
        }
        text
    }

    /// A connection that speaks HTTP/1.1.
    pub(crate) async fn http1<B>(&self, to: impl Into<SocketAddr>) -> http1::SendRequest<B>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let io = TokioIo::new(self.stream(to).await);
        let (sender, connection) = http1::handshake(io).await.expect("a connection");
        self.lab.drain.spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        sender
    }

    /// A connection that speaks HTTP/2.
    pub(crate) async fn http2<B>(&self, to: impl Into<SocketAddr>) -> http2::SendRequest<B>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let io = TokioIo::new(self.stream(to).await);
        let begun = http2::handshake(Owned(self.lab.drain.clone()), io).await;
        let (sender, connection) = begun.expect("a connection");
        self.lab.drain.spawn(async move {
            let _ = connection.await;
        });
        sender
    }

    /// One request by HTTP/1.1 on a connection of its own.
    pub(crate) async fn get(&self, to: impl Into<SocketAddr>, path: &str) -> Answer {
        self.send(to, Request::get(path), "").await
    }

    pub(crate) async fn send(
        &self,
        to: impl Into<SocketAddr>,
        request: http::request::Builder,
        body: &str,
    ) -> Answer {
        let mut sender = self.http1(to).await;
        let mut request = request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request");
        request.headers_mut().entry("host").or_insert_with(|| "cart.shop".parse().expect("a host"));
        read(sender.send_request(request).await.expect("a response")).await
    }

    /// One request by HTTP/2 on a connection of its own.
    pub(crate) async fn send2(
        &self,
        to: impl Into<SocketAddr>,
        request: http::request::Builder,
        body: &str,
    ) -> Answer {
        let mut sender = self.http2(to).await;
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request");
        read(sender.send_request(request).await.expect("a response")).await
    }
}

pub(crate) async fn read(response: Response<hyper::body::Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body");
    let trailers = body.trailers().cloned();
    Answer { status: head.status, headers: head.headers, body: body.to_bytes(), trailers }
}

impl Client<'_> {
    /// The same with other certificates.
    pub(crate) fn with(self, credentials: Arc<Credentials>) -> Self {
        Self { credentials, ..self }
    }

    /// Says `bytes` as HTTP/2 and hears frames until the end: kind and stream.
    pub(crate) async fn raw2(&self, to: impl Into<SocketAddr>, bytes: &[u8]) -> Vec<(u8, u32)> {
        let (mut read, mut write) = tokio::io::split(self.stream(to).await);
        let mut heard = Vec::new();
        // The other side may be gone before all of it is said.
        let said = async {
            let _ = write.write_all(bytes).await;
            let _ = write.flush().await;
        };
        let listened = async {
            let _ = read.read_to_end(&mut heard).await;
        };
        let both = async { tokio::join!(said, listened) };
        let _ = tokio::time::timeout(PATIENCE, both).await;
        frames(&heard)
    }
}

fn frames(mut bytes: &[u8]) -> Vec<(u8, u32)> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, _, s1, s2, s3, s4, ..] = *bytes {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        frames.push((kind, u32::from_be_bytes([s1, s2, s3, s4])));
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    frames
}

impl Client<'_> {
    /// Says `bytes` on a connection of its own and hears so many back.
    pub(crate) async fn echo(
        &self,
        to: impl Into<SocketAddr>,
        bytes: &[u8],
        most: usize,
    ) -> String {
        let mut stream = self.stream(to).await;
        stream.write_all(bytes).await.expect("said");
        stream.flush().await.expect("said");
        let mut heard = vec![0; most];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut heard)).await;
        read.expect("in time").expect("heard");
        stream.shutdown().await.expect("an end");
        String::from_utf8_lossy(&heard).into_owned()
    }
}

/// A body that comes in parts, with a pause before each.
pub(crate) fn slowly(
    parts: impl Iterator<Item = &'static str> + Send + 'static,
    pause: Duration,
) -> impl Body<Data = Bytes, Error = std::io::Error> + Send + Unpin + 'static {
    let stream = futures_util::stream::unfold(parts, move |mut parts| async move {
        tokio::time::sleep(pause).await;
        Some((Ok(http_body::Frame::data(Bytes::from(parts.next()?))), parts))
    });
    http_body_util::StreamBody::new(Box::pin(stream))
}

/// A ClientHello that asks for this name.
pub(crate) fn hello(name: &str) -> Vec<u8> {
    let short = |length: usize| u16::try_from(length).expect("a short one").to_be_bytes();
    let length = name.len();
    let names = [&[0][..], &short(length), name.as_bytes()].concat();
    let list = [&short(names.len())[..], &names].concat();
    let extension = [&[0, 0][..], &short(list.len()), &list].concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(short(extension.len()));
    body.extend(extension);
    let message = [&[1, 0][..], &short(body.len()), &body].concat();
    [&[22, 3, 1][..], &short(message.len()), &message].concat()
}
