//! Shell: HTTP for operators: dumps and levels on loopback, metrics, readiness.
//! Never: on the byte path; tells a secret.
use std::{
    collections::BTreeSet,
    convert::Infallible,
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::{net::TcpListener, sync::Semaphore};

use super::{Telemetry, logging::Logging};
use crate::drain::Drain;

/// A request's head must be whole after this long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is closed after this long, whatever it does.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that one endpoint serves at one time.
const MAX_CONNECTIONS: usize = 64;

/// What an endpoint for operators says.
pub type Answer = Response<Full<Bytes>>;

/// What has to happen before the agent is ready. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<String>>>);

impl Readiness {
    /// Not ready before each of `tasks` is done.
    pub fn waiting_for<const N: usize>(tasks: [&str; N]) -> Self {
        Self(Arc::new(Mutex::new(tasks.into_iter().map(str::to_owned).collect())))
    }

    /// One task is done.
    pub fn done(&self, task: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(task);
    }

    /// What is not done.
    pub fn pending(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Source and destination → what would become of a connection; or what is not known.
pub type Explain = dyn Fn(&str, &str) -> Result<Value, String> + Send + Sync;

/// What the admin endpoint shows and does.
pub struct Admin {
    /// The answer to `/config_dump`.
    pub dump: Box<dyn Fn() -> Value + Send + Sync>,
    /// The answer to `/status`.
    pub status: Box<dyn Fn() -> Value + Send + Sync>,
    /// The answer to `/explain`: source, destination → what would become of a connection.
    pub explain: Box<Explain>,
    /// The answer to `/debug/kernel`.
    pub kernel: Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
    /// What `/quitquitquit` does.
    pub quit: Box<dyn Fn() + Send + Sync>,
    /// Whose level `/logging` changes.
    pub logging: Logging,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

const INDEX: &str = "culvert-agent\n\
    GET  /config_dump            workloads, services, policies, certificates, pods, connections\n\
    GET  /status                 how the agent is, and what is wrong\n\
    GET  /explain?source=NAMESPACE/POD&destination=ADDRESS:PORT   what would happen, and why\n\
    GET  /debug/kernel           how often each kernel program ended in each way\n\
    POST /logging[?level=LEVEL]  show or change the log level\n\
    POST /quitquitquit           stop the agent\n";

impl Admin {
    /// Answers on `listener` until the agent stops.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, drain: Drain) {
        serve(listener, drain, move |request| self.answer(request)).await;
    }

    fn answer(&self, request: &Request<Incoming>) -> Answer {
        match (request.uri().path(), request.method()) {
            ("/", _) => text(StatusCode::OK, INDEX.into()),
            ("/config_dump", _) => json(&(self.dump)()),
            ("/status", _) => json(&(self.status)()),
            ("/explain", _) => self.explained(request.uri().query().unwrap_or_default()),
            ("/debug/kernel", _) => {
                let counters = (self.kernel)().into_iter();
                json(&Value::Object(counters.map(|(name, n)| (name.into(), n.into())).collect()))
            }
            ("/logging", &Method::POST) => self.level(request.uri().query().unwrap_or_default()),
            ("/quitquitquit", &Method::POST) => {
                (self.quit)();
                text(StatusCode::OK, "shutdown now\n".into())
            }
            ("/logging" | "/quitquitquit", _) => {
                text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n".into())
            }
            _ => text(StatusCode::NOT_FOUND, INDEX.into()),
        }
    }

    fn explained(&self, query: &str) -> Answer {
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let (Some(source), Some(destination)) = (value("source"), value("destination")) else {
            return text(StatusCode::BAD_REQUEST, "give source and destination\n".into());
        };
        match (self.explain)(source, destination) {
            Ok(explained) => json(&explained),
            Err(why) => text(StatusCode::NOT_FOUND, format!("{why}\n")),
        }
    }

    fn level(&self, query: &str) -> Answer {
        let level = query.split('&').find_map(|pair| pair.strip_prefix("level="));
        let changed = level.map_or(Ok(()), |level| self.logging.set_level(level));
        match changed {
            Ok(()) => {
                text(StatusCode::OK, format!("current log level is {}\n", self.logging.level()))
            }
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
}

/// Answers `/metrics` and `/stats/prometheus`.
pub async fn serve_metrics(listener: TcpListener, telemetry: Arc<Telemetry>, drain: Drain) {
    serve(listener, drain, move |request| match request.uri().path() {
        "/metrics" | "/stats/prometheus" => match telemetry.encode() {
            Ok(metrics) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                answer(StatusCode::OK, kind, metrics)
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "/metrics\n".into()),
    })
    .await;
}

/// Answers `/healthz/ready`: 200 when nothing is pending, else 500 with what is.
pub async fn serve_readiness(listener: TcpListener, readiness: Readiness, drain: Drain) {
    serve(listener, drain, move |request| match request.uri().path() {
        "/healthz/ready" => match readiness.pending() {
            pending if pending.is_empty() => text(StatusCode::OK, "ready\n".into()),
            pending => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("not ready, pending: {}\n", pending.join(", ")),
            ),
        },
        _ => text(StatusCode::NOT_FOUND, "/healthz/ready\n".into()),
    })
    .await;
}

/// Answers requests on `listener` by `answer` until `drain` says stop.
pub async fn serve(
    listener: TcpListener,
    drain: Drain,
    answer: impl Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
) {
    let answer = Arc::new(answer);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.draining() => return,
        };
        let (Ok((stream, _)), Ok(place)) = (accepted, places.clone().try_acquire_owned()) else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let answer = answer.clone();
        drain.spawn(async move {
            let service = service_fn(|request| {
                let answered = Ok::<_, Infallible>(answer(&request));
                std::future::ready(answered)
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            ignore(tokio::time::timeout(CONNECTION_TIMEOUT, connection)).await;
            drop(place);
        });
    }
}

/// A client of the admin endpoints that leaves early harms nobody.
async fn ignore<T>(work: impl Future<Output = T>) {
    let _ = work.await;
}

/// A line for people.
pub fn text(status: StatusCode, body: String) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

/// JSON for programs.
pub fn json(value: &Value) -> Answer {
    match serde_json::to_string_pretty(value) {
        Ok(body) => answer(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
