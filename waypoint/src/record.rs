//! Shell: one request's, or opaque connection's, story: what is known of it while it lives; one line
//! and the metrics when it drops.
//! Never: blocks; forgets a request that was cancelled.
pub mod book;
pub mod labels;
pub mod line;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use culvert_agent::{
    clock,
    discovery::{Service, Workload},
    identity::Identity,
    policy,
    telemetry::logging::Logging,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};

use self::{
    book::{Book, Request},
    labels::{Kind, Parties},
    line::Line,
};
use crate::{
    body::Meter,
    outcome::{Flag, Flags, LocalReply},
    places::Place,
    routing::BackendRef,
};

/// `x-forwarded-for`.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `x-request-id`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Istio's default text format.
    Text,
    /// One JSON object a line, with Istio's keys.
    Json,
}

/// Where records go.
#[derive(Debug)]
pub struct Telemetry {
    book: Mutex<Book>,
    log: Option<(Form, Logging)>,
    open: AtomicUsize,
    draining: AtomicBool,
}

/// Who asks whom.
#[derive(Clone, Debug)]
pub struct Session {
    /// The client's address.
    pub client: SocketAddr,
    /// What its certificate proved.
    pub peer: Identity,
    /// Its workload, if the mesh knows it.
    pub source: Option<Arc<Workload>>,
    /// What it dialled.
    pub dialled: SocketAddr,
    /// The service that is.
    pub service: Option<Arc<Service>>,
    /// The TLS server name it asked for.
    pub server_name: Option<Arc<str>>,
    /// Its place among the open tunnels, which it has until the last of its stories ends.
    pub place: Option<Arc<Place>>,
}

impl Session {
    /// The connection as policies see it.
    pub fn judged(&self) -> policy::Asked<'_> {
        policy::Asked { peer: Some(&self.peer), source: self.client, destination: self.dialled }
    }
}

/// What is remembered of a request's head as the client sent it. Clones of its parts cost little.
#[derive(Clone, Debug)]
struct Asked {
    method: Method,
    uri: Uri,
    /// Path and query as everything is decided by them, where the URI has others.
    normal: Option<String>,
    version: Version,
    authority: Option<HeaderValue>,
    forwarded_for: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    bytes: u64,
}

/// One story. Dropped, it writes exactly one line.
#[derive(Debug)]
pub struct Record {
    telemetry: Arc<Telemetry>,
    session: Arc<Session>,
    /// When it began.
    pub start: SystemTime,
    began: Instant,
    asked: Option<Asked>,
    /// Whether it is a gRPC call.
    pub is_grpc: bool,
    /// What the client has sent.
    pub received: Arc<Meter>,
    /// What was sent to it.
    pub sent: Arc<Meter>,
    /// The status; 0 for none.
    pub code: u16,
    /// gRPC's.
    pub grpc: Option<u16>,
    /// Bytes of the response's head.
    pub head: u64,
    /// What went wrong.
    pub flags: Flags,
    /// Why the status is what it is.
    pub details: Option<String>,
    /// Why there was no connection to the endpoint.
    pub transport_failure: Option<String>,
    /// The rule.
    pub route: Option<Arc<str>>,
    /// Whom it went to.
    pub backend: Option<Arc<BackendRef>>,
    /// The endpoint.
    pub destination: Option<Arc<Workload>>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// How long it took to answer.
    pub service_time: Option<Duration>,
    /// Everything was said.
    pub whole: bool,
    /// It was counted when it was opened.
    is_open: bool,
    forgotten: bool,
}

impl Telemetry {
    /// Metrics of at most `series` series; lines go to `log`, if there is one.
    pub fn new(series: usize, log: Option<(Form, Logging)>) -> Self {
        let book = Mutex::new(Book::new(series));
        Self { book, log, open: AtomicUsize::new(0), draining: AtomicBool::new(false) }
    }

    /// Everything, in Prometheus' text format.
    pub fn text(&self) -> String {
        // Requests that end meanwhile do not wait for the text.
        let page = lock(&self.book).page();
        let mut text = String::new();
        // Text takes everything.
        let _ = page.write(&mut text);
        text
    }

    /// Requests and opaque connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// From here on what is dropped was drained.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

impl Record {
    /// Begins the story of a connection of which nobody looks at the bytes.
    pub fn open(telemetry: &Arc<Telemetry>, session: &Arc<Session>) -> Self {
        telemetry.open.fetch_add(1, Ordering::Relaxed);
        Self {
            telemetry: telemetry.clone(),
            session: session.clone(),
            start: clock::wall(),
            began: clock::now(),
            asked: None,
            is_grpc: false,
            received: Arc::default(),
            sent: Arc::default(),
            code: 0,
            grpc: None,
            head: 0,
            flags: Flags::default(),
            details: None,
            transport_failure: None,
            route: None,
            backend: None,
            destination: None,
            endpoint: None,
            service_time: None,
            whole: false,
            is_open: false,
            forgotten: false,
        }
    }

    /// It is that of a request with this head.
    pub fn asked(&mut self, head: &http::request::Parts) {
        let own = |name: HeaderName| head.headers.get(name).cloned();
        let of_uri = || HeaderValue::from_str(head.uri.authority()?.as_str()).ok();
        self.asked = Some(Asked {
            method: head.method.clone(),
            uri: head.uri.clone(),
            normal: None,
            version: head.version,
            authority: of_uri().or_else(|| own(header::HOST)),
            forwarded_for: own(FORWARDED_FOR),
            user_agent: own(header::USER_AGENT),
            request_id: own(REQUEST_ID),
            bytes: size(&head.headers) + head.uri.path().len() as u64,
        });
    }

    /// The id that it goes by.
    pub fn set_request_id(&mut self, headers: &HeaderMap) {
        if let Some(asked) = &mut self.asked {
            asked.request_id = headers.get(REQUEST_ID).cloned();
        }
    }

    /// The path that is decided by, with the query, where it is another than was asked for.
    pub fn set_path(&mut self, path: &str, query: Option<&str>) {
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.uri.path() != path) {
            let query = query.map(|query| format!("?{query}")).unwrap_or_default();
            asked.normal = Some(format!("{path}{query}"));
        }
    }

    /// It is that of a request whose head could not be read, and was answered so.
    pub fn unread(mut self, reply: &LocalReply) {
        self.replied(reply);
        self.code = reply.status.as_u16();
        self.whole = true;
        self.asked = Some(Asked {
            method: Method::from_bytes(b"-").unwrap_or_default(),
            uri: Uri::default(),
            normal: Some("-".into()),
            version: Version::HTTP_11,
            authority: None,
            forwarded_for: None,
            user_agent: None,
            request_id: None,
            bytes: 0,
        });
    }

    /// Its connection has an endpoint; nobody looks at the bytes.
    pub fn opened(&mut self) {
        let parties = self.parties();
        let mut book = lock(&self.telemetry.book);
        let parties = book.labels(&parties);
        book.opened(&parties);
        self.is_open = true;
    }

    /// It has carried nothing for long.
    pub fn idled(&mut self) {
        self.flags.add(Flag::DownstreamConnectionTermination);
        self.details = Some("idle_timeout".into());
    }

    /// Whether its client wants no body, whatever the status (RFC 9110 §9.3.2).
    pub fn is_head(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.method == Method::HEAD)
    }

    /// There is no such story: somebody else tells it.
    pub fn forget(mut self) {
        self.forgotten = true;
    }

    /// Who asks whom.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Whether its client speaks HTTP/1.
    pub fn is_http1(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.version < Version::HTTP_2)
    }

    /// How long it has taken so far.
    pub fn elapsed(&self) -> Duration {
        clock::now().saturating_duration_since(self.began)
    }

    /// The waypoint answers itself.
    pub fn replied(&mut self, reply: &LocalReply) {
        if let Some(flag) = reply.flag {
            self.flags.add(flag);
        }
        self.details = Some(reply.details.to_string());
        self.transport_failure.clone_from(&reply.transport_failure);
    }

    /// The head of a response goes to the client.
    pub fn answered(&mut self, head: &http::response::Parts) {
        self.code = head.status.as_u16();
        self.head = size(&head.headers);
        if self.is_grpc {
            self.status(&head.headers);
        }
    }

    /// gRPC's status may stand in the head or in the trailers.
    pub fn status(&mut self, headers: &HeaderMap) {
        let status = headers.get(crate::grpc::STATUS).and_then(|value| value.to_str().ok());
        self.grpc = status.map(crate::grpc::known).or(self.grpc);
    }

    fn parties(&self) -> Parties {
        let Session { source, peer, service, .. } = &*self.session;
        Parties {
            source: source.clone(),
            peer: Some(peer.clone()),
            service: service.clone(),
            destination: self.destination.clone(),
        }
    }

    fn count(&self, duration: Duration) {
        let parties = self.parties();
        let mut book = lock(&self.telemetry.book);
        let parties = book.labels(&parties);
        let (received, sent) = (self.received.bytes(), self.sent.bytes());
        let Some(asked) = &self.asked else {
            let kind = Kind::Connection { flags: self.flags };
            if !self.is_open {
                book.opened(&parties);
            }
            return book.connection(&parties, kind, (received, sent));
        };
        let kind = Kind::Request {
            protocol: if self.is_grpc { "grpc" } else { "http" },
            code: labels::known(self.code),
            grpc: self.grpc,
            flags: self.flags,
        };
        let request = Request {
            duration: duration.as_micros() as f64 / 1e3,
            received: received + asked.bytes,
            sent: sent + self.head,
        };
        book.request(&parties, kind, &request);
        if self.is_grpc {
            book.messages(&parties, (self.received.messages(), self.sent.messages()));
        }
    }

    fn line(&self, duration: Duration) -> Line<'_> {
        let asked = self.asked.as_ref();
        let session = &*self.session;
        let cluster = |backend: &Arc<BackendRef>| {
            let BackendRef { host, port, subset } = &**backend;
            let kind = if asked.is_some() { "http" } else { "tcp" };
            let subset = subset.as_ref().map(|subset| format!("/{subset}")).unwrap_or_default();
            format!("inbound-vip|{port}|{kind}{subset}|{host}")
        };
        Line {
            start: self.start,
            method: asked.map(|asked| asked.method.as_str()),
            path: asked.and_then(|asked| match &asked.normal {
                Some(normal) => Some(normal.as_str()),
                None => Some(asked.uri.path_and_query()?.as_str()),
            }),
            protocol: asked.map(|asked| protocol(asked.version)),
            code: self.code,
            flags: self.flags,
            details: self.details.as_deref(),
            transport_failure: self.transport_failure.as_deref(),
            received: self.received.bytes(),
            sent: self.sent.bytes(),
            duration,
            service_time: self.service_time,
            forwarded_for: asked.and_then(|asked| text(&asked.forwarded_for)),
            user_agent: asked.and_then(|asked| text(&asked.user_agent)),
            request_id: asked.and_then(|asked| text(&asked.request_id)),
            authority: asked.and_then(|asked| text(&asked.authority)),
            upstream_host: self.endpoint,
            upstream_cluster: self.backend.as_ref().map(cluster),
            downstream_local: session.dialled,
            downstream_remote: session.client,
            server_name: session.server_name.as_deref(),
            route: self.route.as_deref(),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.telemetry.open.fetch_sub(1, Ordering::Relaxed);
        if self.forgotten {
            return;
        }
        if !self.whole && !self.flags.say_why() {
            let drained = self.telemetry.draining.load(Ordering::Relaxed);
            let why = if drained { "drained" } else { "downstream_remote_disconnect" };
            self.details = Some(why.into());
            self.flags.add(Flag::DownstreamConnectionTermination);
        }
        let duration = self.elapsed();
        if let Some((form, log)) = &self.telemetry.log {
            let line = self.line(duration);
            let text = match form {
                Form::Text => line.text(),
                Form::Json => line.json(),
            };
            log.line(text.into_bytes());
        }
        self.count(duration);
    }
}

/// Bytes of headers as HTTP/1.1 would write them.
fn size(headers: &HeaderMap) -> u64 {
    let one = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    headers.iter().map(one).sum::<usize>() as u64
}

fn text(value: &Option<HeaderValue>) -> Option<&str> {
    value.as_ref().and_then(|value| value.to_str().ok())
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
