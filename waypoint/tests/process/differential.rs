//! Front: the same failures of the same endpoints through Envoy, configured as istiod would do it, and
//! through Culvert's waypoint: clients and endpoints must see the same (docs/conformance.md).
//! Endpoints are outside the mesh, so that both speak plain HTTP to them.
mod balancing;
mod ejection;
mod envoy;
mod limits;
mod policies;
mod tries;
mod upstream;

use std::{
    fmt::Debug,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use culvert_waypoint::listener::serve::Owned;
use http::Request;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use self::{envoy::Envoy, policies::Policies, upstream::Upstream};
use crate::{
    client::{self, read},
    lab::Lab,
};

/// What clients and endpoints speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Http {
    #[default]
    One,
    Two,
}

/// A service, the same for both.
#[derive(Clone, Copy, Debug, Default)]
struct Setting {
    http: Http,
    upstreams: u8,
    /// The first one of them does not listen.
    absent: bool,
    /// Both have the same endpoints, not each its own.
    shared: bool,
    policies: Policies,
}

/// Envoy and Culvert's waypoint, with the same services.
struct Pair {
    lab: Lab,
    envoy: Envoy,
    services: Vec<Service>,
}

struct Service {
    http: Http,
    /// Envoy's endpoints, then Culvert's.
    upstreams: [Vec<Upstream>; 2],
}

/// One of the two, and a service of it.
struct Side<'p> {
    pair: &'p Pair,
    number: usize,
    is_envoy: bool,
    upstreams: &'p [Upstream],
    asked: AtomicUsize,
}

/// What a client is told, and the access log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    status: u16,
    flags: String,
    details: String,
    body: String,
    overloaded: bool,
    grpc: Option<String>,
}

impl Told {
    /// Status and flags.
    fn short(&self) -> String {
        format!("{} {}", self.status, self.flags)
    }
}

impl Setting {
    /// The endpoints of a service, from this address on.
    async fn start(&self, lab: &Lab, (number, first): (usize, u8), listen: bool) -> Vec<Upstream> {
        let mut upstreams = Vec::new();
        for place in 0..self.upstreams {
            let at = SocketAddr::new(lab.address(first + place), port(9000, number));
            let listens = listen && !(self.absent && place == 0);
            upstreams.push(Upstream::start(at, self.http, listens).await);
        }
        upstreams
    }
}

impl Pair {
    async fn new(settings: &[Setting]) -> Self {
        let lab = Lab::new("").await;
        let mut services = Vec::new();
        for (number, setting) in settings.iter().enumerate() {
            let (theirs, ours) = (20, if setting.shared { 20 } else { 60 });
            let theirs = setting.start(&lab, (number, theirs), true).await;
            let ours = setting.start(&lab, (number, ours), !setting.shared).await;
            services.push(Service { http: setting.http, upstreams: [theirs, ours] });
        }
        let at = |side: usize| {
            let addresses =
                |service: &Service| service.upstreams[side].iter().map(|up| up.at).collect();
            services.iter().map(addresses).collect::<Vec<Vec<SocketAddr>>>()
        };
        let manifests = settings.iter().zip(at(1)).enumerate();
        let manifests = manifests.map(|(n, (setting, at))| policies::manifest(n, setting, &at));
        lab.write("services.yaml", &manifests.collect::<String>());
        let last = policies::host(settings.len() - 1);
        lab.until(|dump| dump.contains(&last)).await;
        let envoy = Envoy::start(lab.address(200), settings, &at(0)).await;
        Self { lab, envoy, services }
    }

    fn sides(&self, number: usize) -> [Side<'_>; 2] {
        [true, false].map(|is_envoy| Side {
            pair: self,
            number,
            is_envoy,
            upstreams: &self.services[number].upstreams[usize::from(!is_envoy)],
            asked: AtomicUsize::new(0),
        })
    }

    /// What comes of the same story on both: Envoy's, then Culvert's.
    async fn both<T>(&self, number: usize, story: impl AsyncFn(&Side<'_>) -> T) -> [T; 2] {
        let [envoy, culvert] = self.sides(number);
        let (theirs, ours) = tokio::join!(story(&envoy), story(&culvert));
        [theirs, ours]
    }

    /// What comes of the same story, which must be the same on both.
    async fn same<T: Debug + PartialEq>(
        &self,
        number: usize,
        story: impl AsyncFn(&Side<'_>) -> T,
    ) -> T {
        let [theirs, ours] = self.both(number, story).await;
        assert_eq!(ours, theirs, "Culvert's is left, Envoy's right");
        ours
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Side<'_> {
    /// Requests that each endpoint has heard.
    fn hits(&self) -> Vec<usize> {
        self.upstreams.iter().map(|upstream| upstream.script.hits()).collect()
    }

    /// One request, and its status.
    async fn status(&self) -> u16 {
        self.send("/", &[]).await.status.as_u16()
    }

    /// So many, one after the other. A little time passes between them, because Envoy's main thread
    /// leaves endpoints out after its worker has answered.
    async fn statuses(&self, count: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        for _ in 0..count {
            statuses.push(self.status().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        statuses
    }

    /// One request, with what the log says of it.
    async fn ask(&self) -> Told {
        self.ask_with(&[]).await
    }

    async fn ask_with(&self, headers: &[(&str, &str)]) -> Told {
        // Tests of one service ask in rounds, each with sides of its own.
        let path =
            format!("/{}-{:x}", self.asked.fetch_add(1, Ordering::Relaxed), rand::random::<u64>());
        let answer = self.send(&path, headers).await;
        let line = self.line(&path).await;
        let (_, rest) = line.split_once(&path).expect("the path");
        let mut words = rest.split_whitespace().skip(1).map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        let (code, flags, details) = (word(), word(), word());
        assert_eq!(code, answer.status.as_str(), "{line}");
        // Envoy has flags in the order in which they came about.
        let mut flags: Vec<_> = flags.split(',').collect();
        flags.sort_unstable();
        Told {
            status: answer.status.as_u16(),
            flags: flags.join(","),
            details: plain(&details),
            body: plain(&answer.text()),
            overloaded: answer.header("x-envoy-overloaded").is_some(),
            grpc: answer.header("grpc-status").map(str::to_owned),
        }
    }

    async fn line(&self, path: &str) -> String {
        if !self.is_envoy {
            return self.pair.lab.line(&[path]).await;
        }
        for _ in 0..500 {
            if let Some(line) = self.pair.envoy.log().lines().find(|line| line.contains(path)) {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no line of {path} in Envoy's log");
    }

    /// One request on a connection of its own.
    async fn send(&self, path: &str, headers: &[(&str, &str)]) -> client::Answer {
        let (host, lab) = (policies::host(self.number), &self.pair.lab);
        let stream: Box<dyn Stream> = if self.is_envoy {
            Box::new(TcpStream::connect(self.pair.envoy.at(self.number)).await.expect("Envoy"))
        } else {
            Box::new(lab.client().stream((policies::vip(self.number), 80)).await)
        };
        let io = TokioIo::new(stream);
        let mut request = Request::get(format!("http://{host}{path}"));
        if self.pair.services[self.number].http == Http::One {
            request = Request::get(path).header("host", host);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        match self.pair.services[self.number].http {
            Http::One => {
                let (mut sender, connection) = http1::handshake(io).await.expect("HTTP/1.1");
                lab.drain.spawn(async move { drop(connection.await) });
                read(sender.send_request(request).await.expect("an answer")).await
            }
            Http::Two => {
                let begun = http2::handshake(Owned(lab.drain.clone()), io).await;
                let (mut sender, connection) = begun.expect("HTTP/2");
                lab.drain.spawn(async move { drop(connection.await) });
                read(sender.send_request(request).await.expect("an answer")).await
            }
        }
    }
}

/// Details or a body without the words in which the two differ on purpose: Envoy says whether there were
/// other tries before; Culvert says in the body, too, why there is no connection, and in the log in a
/// field of its own.
fn plain(text: &str) -> String {
    let text = text.replace("retried and the latest ", "").replace("{remote_", "{");
    let end = text.find([',', '|']).unwrap_or(text.len());
    text[..end].trim_end_matches('}').to_owned()
}

/// A port for each service.
fn port(first: u16, number: usize) -> u16 {
    first + u16::try_from(number).expect("few services")
}
