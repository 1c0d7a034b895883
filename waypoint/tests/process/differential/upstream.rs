//! Shell: an endpoint outside the mesh, which does with its requests what a script says.
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use culvert_agent::{clock, drain::Drain};
use http::{HeaderMap, HeaderValue, Response};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::Http;
use crate::script::Script;

/// What it does with a request in place of answering 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Answers with this status.
    Status(u16),
    /// The same after so many milliseconds.
    Late(u64, u16),
    /// Answers with a gRPC status in the head.
    Grpc(&'static str),
    /// The same in trailers (HTTP/2).
    GrpcLate(&'static str),
    /// Never answers.
    Hang,
    /// Ends the connection.
    Close,
    /// Resets the connection.
    Break,
    /// Resets the stream (HTTP/2).
    Reset(h2::Reason),
    /// Says this, and ends the connection (HTTP/1.1).
    Say(&'static str),
}

const GRPC: &str = "application/grpc";

/// An endpoint. It is gone when this is dropped.
pub(super) struct Upstream {
    pub(super) at: SocketAddr,
    pub(super) script: Arc<Script<Deed>>,
    hits: Arc<Mutex<Vec<Instant>>>,
    drain: Drain,
}

impl Upstream {
    /// One at this address; only there if it `listens`.
    pub(super) async fn start(at: SocketAddr, http: Http, listens: bool) -> Self {
        let (script, hits, drain) =
            (Arc::<Script<Deed>>::default(), Arc::default(), Drain::default());
        let upstream = Self { at, script, hits, drain };
        if listens {
            let listener = TcpListener::bind(at).await.expect("a listener");
            upstream.drain.spawn(accept(listener, http, upstream.told()));
        }
        upstream
    }

    /// When its requests came.
    pub(super) fn times(&self) -> Vec<Instant> {
        self.hits.lock().expect("a list").clone()
    }

    fn told(&self) -> Application {
        Application {
            script: self.script.clone(),
            hits: self.hits.clone(),
            drain: self.drain.clone(),
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.drain.force();
    }
}

#[derive(Clone)]
struct Application {
    script: Arc<Script<Deed>>,
    hits: Arc<Mutex<Vec<Instant>>>,
    drain: Drain,
}

async fn accept(listener: TcpListener, http: Http, application: Application) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("an option");
        let (owner, application) = (application.drain.clone(), application.clone());
        owner.spawn(async move {
            match http {
                // How a connection ends is for the other side to judge.
                Http::One => drop(application.http1(stream).await),
                Http::Two => drop(application.http2(stream).await),
            }
        });
    }
}

impl Application {
    fn next(&self) -> Deed {
        self.hits.lock().expect("a list").push(clock::now());
        self.script.request().unwrap_or(Deed::Status(200))
    }

    async fn http1(self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = String::new();
            while stream.read_line(&mut line).await? > 0 && line != "\r\n" {
                line.clear();
            }
            if line.is_empty() {
                return Ok(());
            }
            let said = match self.next() {
                Deed::Status(status) => plain(status),
                Deed::Late(milliseconds, status) => {
                    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                    plain(status)
                }
                Deed::Grpc(status) => {
                    format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: {GRPC}\r\ngrpc-status: {status}\r\ncontent-length: 0\r\n\r\n"
                    )
                }
                Deed::Hang => {
                    let _ = stream.read_u8().await;
                    return Ok(());
                }
                Deed::Close => return Ok(()),
                Deed::Break => return stream.get_ref().set_zero_linger(),
                Deed::Say(text) => return stream.write_all(text.as_bytes()).await,
                Deed::GrpcLate(_) | Deed::Reset(_) => unreachable!("HTTP/2 has that"),
            };
            stream.write_all(said.as_bytes()).await?;
        }
    }

    async fn http2(self, stream: TcpStream) -> Result<(), h2::Error> {
        let mut connection = h2::server::handshake(stream).await?;
        let mut unanswered = Vec::new();
        while let Some(asked) = connection.accept().await {
            let (_, mut respond) = asked?;
            let head = Response::builder();
            match self.next() {
                Deed::Status(status) => {
                    let head = head.status(status).body(()).expect("a head");
                    respond
                        .send_response(head, false)?
                        .send_data(Bytes::from_static(b"ok"), true)?;
                }
                Deed::Grpc(status) => {
                    let head = head.header("content-type", GRPC).header("grpc-status", status);
                    respond.send_response(head.body(()).expect("a head"), true)?;
                }
                Deed::GrpcLate(status) => {
                    let head = head.header("content-type", GRPC).body(()).expect("a head");
                    let mut body = respond.send_response(head, false)?;
                    body.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), false)?;
                    let status = HeaderValue::from_static(status);
                    body.send_trailers(HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        status,
                    )]))?;
                }
                Deed::Hang => unanswered.push(respond),
                Deed::Close => return Ok(()),
                Deed::Reset(reason) => respond.send_reset(reason),
                Deed::Late(..) | Deed::Break | Deed::Say(_) => unreachable!("HTTP/1.1 has that"),
            }
        }
        Ok(())
    }
}

fn plain(status: u16) -> String {
    format!("HTTP/1.1 {status} Said\r\ncontent-length: 2\r\n\r\nok")
}
