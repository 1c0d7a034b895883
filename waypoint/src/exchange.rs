//! Story: one request from its head to the end of its response.
//! Never: parses, touches a socket.
pub(crate) mod asked;
mod deadline;
mod headers;
mod mirror;
mod place;
mod respond;
mod upgrade;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use culvert_agent::{clock, drain::Drain};
use http::{Request, Response};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tokio::sync::{Semaphore, watch};

pub use self::{mirror::Mirrors, respond::ResponseBody};
use self::{
    asked::Asked,
    deadline::Limit,
    headers::Upgrade,
    place::Place,
    respond::{Expiry, own, pass, refuse},
};
use crate::{
    backend::{self, Backend},
    body::{Meter, RequestBody},
    grpc,
    listener::Version,
    mesh::{Mesh, Nobody},
    outcome::{Failure, Flag, LocalReply},
    path::Normalisation,
    record::{Record, Session, Telemetry},
    routing::{
        Action, BackendRef, Destination, Fault, Forward, Missing, PortRoutes, Protocol, Rule, Target, TcpRule,
    },
    upstream::{AnswerBody, To, Upstream},
};

/// What requests share.
#[derive(Debug)]
pub struct Exchange {
    /// What everything is decided by.
    pub mesh: watch::Receiver<Arc<Mesh>>,
    /// Connections to endpoints.
    pub upstream: Upstream,
    /// Where records go.
    pub telemetry: Arc<Telemetry>,
    /// Places for requests.
    pub places: Arc<Semaphore>,
    /// How far paths are normalised.
    pub paths: Normalisation,
    /// Room for mirrors' copies.
    pub mirrors: Mirrors,
    /// Who owns what outlives a request: upgraded connections.
    pub drain: Drain,
    /// Who owns what nobody waits for.
    pub background: Drain,
    /// Whose turn it is.
    pub turn: AtomicUsize,
}

/// What became of it.
enum Done {
    /// The endpoint's response, until when it must be over.
    Passed(Response<AnswerBody>, Option<Expiry>),
    /// The waypoint's own.
    Own(Response<Bytes>),
    /// Both sides agreed to speak something else.
    Switched(Response<AnswerBody>, OnUpgrade),
}

impl Exchange {
    /// Answers one request of a session to a port with these routes.
    pub async fn answer(
        self: Arc<Self>,
        session: Arc<Session>,
        (port, version): (Port, Version),
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let (mut head, body) = request.into_parts();
        let mut record = Record::open(&self.telemetry, &session);
        record.asked(&head);
        record.is_grpc = grpc::is_grpc(&head.headers);
        record.received = Arc::new(Meter::new(record.is_grpc));
        record.sent = Arc::new(Meter::new(record.is_grpc));
        let Ok(room) = self.places.clone().try_acquire_owned() else {
            return refuse(&LocalReply::failed(&Failure::Overflow), record);
        };
        let place = match Place::read(&head, self.paths) {
            Ok(place) => place,
            Err(reply) => return refuse(&reply, record),
        };
        let client = match headers::upgrade(&head.headers, head.version) {
            Upgrade::WebSocket => head.extensions.remove::<OnUpgrade>(),
            Upgrade::No => None,
            Upgrade::Other => return refuse(&LocalReply::no_upgrade(), record),
        };
        let limit = Limit::read(&head.headers);
        let body = RequestBody::new(body, record.received.clone());
        let asked = Asked { head, body, place, client, version, limit };
        match self.decide(&port, asked, &mut record).await {
            Ok(Done::Passed(response, expiry)) => pass(response, expiry, record, room),
            Ok(Done::Own(response)) => own(response, record),
            Ok(Done::Switched(response, client)) => {
                upgrade::join(response, client, record, &self.drain)
            }
            Err(reply) => refuse(&reply, record),
        }
    }

    /// Finds the rule, and does what it says.
    async fn decide(
        &self,
        port: &Port,
        mut asked: Asked,
        record: &mut Record,
    ) -> Result<Done, LocalReply> {
        let mesh = self.mesh.borrow().clone();
        let default = port.default_routes();
        let routes = mesh.table.port(&port.host, port.number).unwrap_or(&default);
        let session = record.session().clone();
        let rule = asked.rule(routes, &session).ok_or_else(LocalReply::no_route)?;
        record.route = Some(rule.name.clone()).filter(|name| !name.is_empty());
        if let Some(fault) = &rule.fault {
            inject(fault, record).await?;
        }
        headers::for_endpoint(&mut asked.head.headers, asked.place.scheme, rand::random());
        if let Some(id) = asked.head.headers.get(crate::record::REQUEST_ID) {
            record.set_request_id(id);
        }
        match &rule.action {
            Action::Redirect(_) => Err(LocalReply::no_route()),
            Action::Direct(direct) => {
                record.details = Some("direct_response".into());
                let mut response = Response::new(direct.body.clone());
                *response.status_mut() = direct.status;
                Ok(Done::Own(response))
            }
            Action::Forward(forward) => {
                let routed = Routed { mesh: &mesh, rule, forward };
                self.forward(&routed, asked, record).await
            }
        }
    }

    /// Sends it to one of the rule's destinations.
    async fn forward(
        &self,
        routed: &Routed<'_>,
        mut asked: Asked,
        record: &mut Record,
    ) -> Result<Done, LocalReply> {
        let Routed { mesh, rule, forward } = routed;
        let destination = forward.destinations.draw(rand::random());
        let destination = destination.ok_or_else(LocalReply::no_backend)?;
        let (to, backend) = self.endpoint(mesh, destination, record)?;
        let timeout = asked.limit.with(forward.timeout).filter(|_| asked.client.is_none());
        headers::expect(&mut asked.head.headers, timeout);
        let _ = rule;
        asked.rewrite(forward)?;
        let version = version(mesh, &backend, &asked);
        self.mirror(mesh, forward, &mut asked);
        let expiry = timeout.map(|timeout| expiry(record.received.clone(), timeout));
        let client = asked.client.take();
        let request = asked.into_request(version, client.is_some())?;
        let sent = clock::now();
        let (answer, expiry) = self.send(&to, version, request, expiry).await?;
        record.service_time = Some(clock::now().saturating_duration_since(sent));
        match client {
            Some(client) if answer.status() == http::StatusCode::SWITCHING_PROTOCOLS => {
                Ok(Done::Switched(answer, client))
            }
            Some(_) | None => Ok(Done::Passed(answer, expiry)),
        }
    }

    fn endpoint(
        &self,
        mesh: &Mesh,
        destination: &Destination,
        record: &mut Record,
    ) -> Result<(To, Backend), LocalReply> {
        let reference = match &destination.target {
            Target::Backend(reference) => reference,
            Target::Missing(Missing::Cluster(_)) => return Err(LocalReply::no_cluster()),
            Target::Missing(Missing::Backend(_)) => return Err(LocalReply::no_backend()),
        };
        record.backend = Some(reference.clone());
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let picked = mesh.pick(reference, record.session().dialled, turn);
        let (to, backend) = picked.map_err(|nobody| match nobody {
            Nobody::Unknown => LocalReply::no_cluster(),
            Nobody::NotReady => LocalReply::no_healthy_upstream(),
        })?;
        record.destination.clone_from(&to.workload);
        record.endpoint = Some(to.at);
        Ok((to, backend))
    }

    /// One attempt, within the time that there is.
    async fn send(
        &self,
        to: &To,
        version: Version,
        request: Request<RequestBody>,
        expiry: Option<Expiry>,
    ) -> Result<(Response<AnswerBody>, Option<Expiry>), LocalReply> {
        let sent = self.upstream.send(to, version, request);
        let Some(mut expiry) = expiry else {
            let answer = sent.await.map_err(|failure| LocalReply::failed(&failure))?;
            return Ok((answer, None));
        };
        tokio::select! {
            answer = sent => {
                let answer = answer.map_err(|failure| LocalReply::failed(&failure))?;
                Ok((answer, Some(expiry)))
            }
            () = &mut expiry => Err(LocalReply::timeout()),
        }
    }

    /// Sends copies to the rule's mirrors.
    fn mirror(&self, mesh: &Mesh, forward: &Forward, asked: &mut Asked) {
        for mirror in &forward.mirrors {
            let Target::Backend(reference) = &mirror.target else { continue };
            let turn = self.turn.load(Ordering::Relaxed);
            let dialled = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
            if !mirror.share.hits(rand::random()) {
                continue;
            }
            let (Ok((to, backend)), Some(room)) =
                (mesh.pick(reference, dialled, turn), self.mirrors.room())
            else {
                continue;
            };
            let version = version(mesh, &backend, asked);
            let Some(copy) = asked.copy(version) else { continue };
            let upstream = self.upstream.clone();
            let within = (forward.timeout, room);
            self.background.spawn(mirror::send(upstream, to, version, copy, within));
        }
    }
}

/// A rule that was found, and where.
struct Routed<'a> {
    mesh: &'a Mesh,
    rule: &'a Rule,
    forward: &'a Forward,
}

/// The port that a session is to.
#[derive(Clone, Debug)]
pub struct Port {
    /// The service's host name.
    pub host: Arc<str>,
    /// The service port.
    pub number: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

impl Port {
    /// Where requests go while no table names the port.
    pub(crate) fn default_routes(&self) -> PortRoutes {
        let Self { host, number, protocol } = self;
        let backend = Arc::new(BackendRef { host: host.clone(), port: *number, subset: None });
        PortRoutes {
            protocol: *protocol,
            http: vec![Rule::default_route(backend.clone())],
            tls: Vec::new(),
            tcp: vec![TcpRule::default_route(backend)],
        }
    }
}

/// Fails on purpose: a pause, an answer, or both.
async fn inject(fault: &Fault, record: &mut Record) -> Result<(), LocalReply> {
    if let Some(delay) = fault.delay.as_ref().filter(|delay| delay.share.hits(rand::random())) {
        record.flags.add(Flag::DelayInjected);
        tokio::time::sleep(delay.length).await;
    }
    Ok(())
}

/// Over when the time is that a request has from its end.
fn expiry(meter: Arc<Meter>, timeout: Duration) -> Expiry {
    Box::pin(async move {
        meter.ended().await;
        tokio::time::sleep(timeout).await;
    })
}

/// What the endpoint is spoken to in.
fn version(mesh: &Mesh, backend: &Backend, asked: &Asked) -> Version {
    if asked.client.is_some() {
        return Version::Http1;
    }
    match (mesh.protocol(&backend.reference), backend.policy.connection_pool.upgrade) {
        (Protocol::Http2 | Protocol::Grpc, _) | (_, backend::Upgrade::Http2) => Version::Http2,
        (_, backend::Upgrade::LikeClient) | (Protocol::Unknown, backend::Upgrade::No) => {
            asked.version
        }
        (Protocol::Http | Protocol::Tcp | Protocol::Tls, backend::Upgrade::No) => Version::Http1,
    }
}
