//! Shell: what operators see: dumps and levels on loopback, metrics, readiness.
//! Never: on the byte path; tells a secret.
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use culvert_agent::{
    clock,
    drain::Drain,
    identity::Keeper,
    origin::Problem,
    telemetry::{
        admin::{self, Answer, text},
        dump::{View, dump},
        logging::Logging,
    },
};
use http::{HeaderValue, Method, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};

use crate::{
    balance::Balance,
    dump::routes,
    explain::{self, Question, Waypoint, decoded},
    mesh::Mesh,
    record::Telemetry,
    upstream::Upstream,
};

const INDEX: &str = "culvert-waypoint\n\
    GET  /config_dump            routes, workloads, services, policies, certificates\n\
    GET  /routes?service=NAME    the rules of a service, in order\n\
    GET  /explain/request?source=NAMESPACE/POD&service=NAME[&port=&method=&path=&authority=&header=NAME:VALUE]\n\
    \x20                            which rule would take a request, and where it would go\n\
    GET  /endpoints?service=NAME who takes requests for a service, who is left out, what is under way\n\
    POST /logging[?level=LEVEL]  show or change the log level\n\
    POST /quitquitquit           stop the waypoint\n";

/// What operators may look at and do.
#[derive(Clone)]
pub struct Operators {
    /// What everything is decided by.
    pub mesh: watch::Receiver<Arc<Mesh>>,
    /// Which waypoint this is.
    pub own: Waypoint,
    /// Our certificates.
    pub keeper: Keeper,
    /// Metrics.
    pub telemetry: Arc<Telemetry>,
    /// Connections to endpoints.
    pub upstream: Upstream,
    /// Endpoints, and what is known of them.
    pub balance: Balance,
    /// The configuration, with its keys as the file has them.
    pub config: Arc<Value>,
    /// Whose level can be changed.
    pub logging: Logging,
    /// Whether requests are welcome.
    pub ready: Arc<AtomicBool>,
    /// Stops the waypoint.
    pub quit: Arc<Notify>,
}

impl fmt::Debug for Operators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operators").finish_non_exhaustive()
    }
}

impl Operators {
    /// Answers on the three listeners until `drain` says stop.
    pub fn serve(self, [admin, metrics, ready]: [TcpListener; 3], drain: &Drain) {
        let (own, counting, standing) = (self.clone(), self.clone(), self.ready);
        drain.spawn(admin::serve(admin, drain.clone(), move |request| {
            own.answer(request.uri().path(), request.method(), request.uri().query())
        }));
        drain.spawn(admin::serve(metrics, drain.clone(), move |request| {
            match request.uri().path() {
                "/stats/prometheus" | "/metrics" => prometheus(counting.metrics()),
                _ => text(StatusCode::NOT_FOUND, "/stats/prometheus\n".into()),
            }
        }));
        drain.spawn(admin::serve(ready, drain.clone(), move |request| {
            match (request.uri().path(), standing.load(Ordering::Relaxed)) {
                ("/healthz/ready", true) => text(StatusCode::OK, "ready\n".into()),
                ("/healthz/ready", false) => {
                    text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n".into())
                }
                _ => text(StatusCode::NOT_FOUND, "/healthz/ready\n".into()),
            }
        }));
    }

    fn answer(&self, path: &str, method: &Method, query: Option<&str>) -> Answer {
        match (path, method) {
            ("/", _) => text(StatusCode::OK, INDEX.into()),
            ("/config_dump", _) => admin::json(&self.dump()),
            ("/routes", _) => said(self.routes(query.unwrap_or_default())),
            ("/explain/request", _) => said(self.explain(query.unwrap_or_default())),
            ("/endpoints", _) => said(self.endpoints(query.unwrap_or_default())),
            ("/stats/prometheus", _) => prometheus(self.metrics()),
            ("/logging", &Method::POST) => self.level(query.unwrap_or_default()),
            ("/quitquitquit", &Method::POST) => {
                self.quit.notify_one();
                text(StatusCode::OK, "shutdown now\n".into())
            }
            ("/logging" | "/quitquitquit", _) => {
                text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n".into())
            }
            _ => text(StatusCode::NOT_FOUND, INDEX.into()),
        }
    }

    fn dump(&self) -> Value {
        let mesh = self.mesh.borrow().clone();
        let mut value = dump(&View {
            snapshot: &mesh.snapshot,
            certificates: &self.keeper.certificates(),
            pods: &[],
            open: &[],
            config: &self.config,
            now: clock::now(),
        });
        value["routes"] = routes(&mesh.table);
        let problem = |of: &Problem| json!({ "at": of.origin.to_string(), "text": of.text });
        value["problems"] = mesh.problems.iter().map(problem).collect();
        value["version"]["component"] = "culvert-waypoint".into();
        value
    }

    fn routes(&self, query: &str) -> Result<Value, String> {
        let name = service_of(query)?;
        explain::routes(&self.mesh.borrow().clone(), &self.own, &name)
    }

    fn endpoints(&self, query: &str) -> Result<Value, String> {
        let name = service_of(query)?;
        let mesh = self.mesh.borrow().clone();
        explain::endpoints(&mesh, &self.balance, &name, clock::now())
    }

    fn explain(&self, query: &str) -> Result<Value, String> {
        let question = Question::read(query)?;
        explain::explain(&self.mesh.borrow().clone(), &self.own, &question)
    }

    fn metrics(&self) -> String {
        let mut text = self.telemetry.text();
        for (name, value) in [
            ("culvert_requests_open", self.telemetry.open()),
            ("culvert_tunnels_open", self.upstream.tunnels()),
        ] {
            text.push_str(&format!("# TYPE {name} gauge\n{name} {value}\n"));
        }
        text.push_str(&self.balance.metrics());
        let dropped = self.logging.dropped();
        let version = env!("CARGO_PKG_VERSION");
        text.push_str(&format!(
            "# TYPE culvert_log_lines_dropped_total counter\nculvert_log_lines_dropped_total {dropped}\n\
             # TYPE istio_build gauge\nistio_build{{component=\"culvert-waypoint\",tag=\"{version}\"}} 1\n"
        ));
        text
    }

    fn level(&self, query: &str) -> Answer {
        let level = query.split('&').find_map(|pair| pair.strip_prefix("level="));
        match level.map_or(Ok(()), |level| self.logging.set_level(level)) {
            Ok(()) => {
                text(StatusCode::OK, format!("current log level is {}\n", self.logging.level()))
            }
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
}

fn service_of(query: &str) -> Result<String, String> {
    let mut names = query.split('&').filter_map(|pair| pair.strip_prefix("service="));
    Ok(names.next().and_then(decoded).ok_or("give service")?)
}

fn said(answer: Result<Value, String>) -> Answer {
    match answer {
        Ok(value) => admin::json(&value),
        Err(why) => text(StatusCode::NOT_FOUND, format!("{why}\n")),
    }
}

/// Prometheus' text format, version 0.0.4.
fn prometheus(metrics: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(metrics)));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
