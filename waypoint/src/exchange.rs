//! Story: one request from its head to the end of its response.
//! Never: parses, touches a socket.
pub(crate) mod asked;
mod attempt;
mod extended;
mod headers;
mod mirror;
mod place;
mod respond;
mod upgrade;

use std::{
    future::pending,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use culvert_agent::{clock, drain::Drain};
use http::{Request, Response, StatusCode, header::SET_COOKIE, request::Parts};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tokio::sync::watch;

use self::{
    asked::Asked,
    attempt::{Call, Time, Tries},
    respond::{answered, pass, refuse},
};
pub use self::{mirror::Mirrors, respond::ResponseBody};
use crate::{
    backend::{self, Backend},
    balance::{Balance, Traffic, Wish},
    body::{Meter, RequestBody, Shelf},
    grpc,
    listener::{Version, deadline::Expiry},
    mesh::Mesh,
    outcome::{Failure, Flag, LocalReply},
    path::Normalisation,
    places::Places,
    record::{Record, Session, Telemetry},
    retry::{Beyond, Plan},
    routing::{Answer, BackendRef, Onward, PortRoutes, Protocol, Rule, Step, TcpRule, Told},
    upstream::{AnswerBody, Upstream},
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
    pub places: Places,
    /// How far paths are normalised.
    pub paths: Normalisation,
    /// How long a body may stop before its request is given up, unless it was answered.
    pub body_idle: Duration,
    /// Room for what is copied of requests.
    pub copies: Copies,
    /// Who owns what outlives a request: upgraded connections.
    pub drain: Drain,
    /// Who owns what nobody waits for.
    pub background: Drain,
    /// Who takes what, and how much there may be.
    pub balance: Balance,
    /// Tries beyond what rules say.
    pub retries: Beyond,
}

/// Room for what is copied of requests.
#[derive(Clone, Debug, Default)]
pub struct Copies {
    /// For mirrors.
    pub mirrors: Mirrors,
    /// For other tries.
    pub shelf: Shelf,
}

/// What became of it.
enum Done {
    /// The endpoint's response, until when it must be over.
    Passed(Response<AnswerBody>, Option<Expiry>),
    /// The waypoint's own.
    Own(Answer),
    /// Both sides agreed to speak something else.
    Switched(Response<AnswerBody>, OnUpgrade),
}

impl Done {
    /// Whether it is a response that says that all went well.
    fn is_success(&self) -> bool {
        match self {
            Self::Passed(response, _) => response.status().is_success(),
            Self::Own(answer) => answer.status.is_success(),
            Self::Switched(..) => false,
        }
    }
}

impl Exchange {
    /// Answers one request of a session to a port with these routes. Its record begins here and now:
    /// who never waits for the answer has asked, too.
    pub fn answer(
        self: Arc<Self>,
        session: Arc<Session>,
        via: (Port, Version),
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send {
        let mut record = Record::open(&self.telemetry, &session);
        let (mut head, body) = request.into_parts();
        extended::into_get(&mut head, rand::random);
        record.asked(&head);
        self.recorded((session, record), via, (head, body))
    }

    async fn recorded(
        self: Arc<Self>,
        (session, mut record): (Arc<Session>, Record),
        (port, version): (Port, Version),
        (mut head, body): (Parts, Incoming),
    ) -> Response<ResponseBody> {
        let is_connect = extended::is_connect(&head);
        record.is_grpc = grpc::is_grpc(&head.headers) && !is_connect;
        record.received = Arc::new(Meter::new(record.is_grpc));
        record.sent = Arc::new(Meter::new(record.is_grpc));
        let Some(room) = self.places.take(session.client.ip()) else {
            return refuse(&LocalReply::failed(&Failure::Overflow), record);
        };
        let (place, websocket) = match asked::read(&mut head, self.paths, rand::random()) {
            Ok(read) => read,
            Err(reply) => return refuse(&reply, record),
        };
        let client = websocket.then(|| head.extensions.remove::<OnUpgrade>()).flatten();
        record.set_request_id(&head.headers);
        record.set_path(&place.path, place.query.as_deref());
        let is_stream = head.version == http::Version::HTTP_2;
        let body =
            RequestBody::new(body, is_stream, record.received.clone(), headers::for_endpoint);
        let asked = Asked { head, body, place, client, version };
        let done = Box::pin(self.decide(&port, asked, &mut record)).await;
        match done {
            // It would say that there is a websocket.
            Ok(done) if is_connect && done.is_success() => {
                refuse(&LocalReply::no_upgrade(), record)
            }
            Ok(Done::Passed(response, expiry)) => pass(response, expiry, record, room),
            Ok(Done::Own(answer)) => answered(answer, record),
            Ok(Done::Switched(response, client)) => {
                upgrade::join(response, client, (record, room), &self.drain)
            }
            Err(reply) => refuse(&reply, record),
        }
    }

    /// Does what the rule says.
    async fn decide(
        &self,
        port: &Port,
        mut asked: Asked,
        record: &mut Record,
    ) -> Result<Done, LocalReply> {
        let mesh = self.mesh.borrow().clone();
        let session = record.session().clone();
        mesh.may(session.service.as_deref(), &session.judged())?;
        if mesh.own.tells_clients {
            asked.tell_client(self.upstream.identity(), &session.peer);
        }
        let default = port.default_routes();
        let routes = mesh.table.port(&port.host, port.number).unwrap_or(&default);
        let decision = asked.decide(routes, (&session, record.start), &mut rand::random);
        let name = decision.rule.map(|rule| rule.name.clone());
        record.route = name.filter(|name| !name.is_empty());
        let mut now = mesh.clone();
        if let Some(delay) = decision.delay {
            record.flags.add(Flag::DelayInjected);
            tokio::time::sleep(delay).await;
            record.received.begin();
            // The rule stays; who was ready then may be gone.
            now = self.mesh.borrow().clone();
        }
        match decision.step {
            Step::Answer(answer) => Ok(Done::Own(answer)),
            Step::Forward(onward) => self.forward(&now, &onward, asked, record).await,
        }
    }

    /// Sends it where the rule says.
    async fn forward(
        &self,
        mesh: &Mesh,
        onward: &Onward<'_>,
        mut asked: Asked,
        record: &mut Record,
    ) -> Result<Done, LocalReply> {
        let plan = Plan::of(&onward.forward.retry, &asked.head.headers, self.retries);
        let mut call = Call::new(mesh, onward, &asked, record)?;
        asked.change(onward)?;
        let version = version(mesh, &call.backend, &asked);
        self.mirror(mesh, onward, &mut asked);
        let client = asked.client.take();
        let received = &record.received;
        let time = Time {
            all: onward.timeouts.request.map(|timeout| expiry(received.clone(), timeout)),
            each: onward.timeouts,
        };
        let request = asked.into_request(version, client.is_some())?;
        let (sent, cookie) = (clock::now(), call.cookie.take());
        let tries = Tries { call, plan, version, time };
        let (mut answer, expiry) = Box::pin(tries.run(self, request, record)).await?;
        record.service_time = Some(clock::now().saturating_duration_since(sent));
        let status = answer.status();
        if !onward.response.is_empty() {
            let flags = record.flags.to_string();
            let told =
                Told { status: Some(status), flags: Some(&flags), upstream: record.endpoint };
            onward.response.apply(told, answer.headers_mut());
        }
        if let Some(cookie) = cookie {
            answer.headers_mut().append(SET_COOKIE, cookie);
        }
        match client {
            // It may last.
            Some(client) if status == StatusCode::SWITCHING_PROTOCOLS => {
                Ok(Done::Switched(answer, client))
            }
            // Nobody asked for it.
            None if status == StatusCode::SWITCHING_PROTOCOLS => {
                Err(LocalReply::failed(&Failure::Protocol))
            }
            Some(_) | None => Ok(Done::Passed(answer, expiry)),
        }
    }

    /// Over when the client does not go on with its request.
    fn idle(&self, body: &Arc<Meter>) -> Option<Expiry> {
        let (body, patience) = (body.clone(), self.body_idle);
        (!body.has_ended()).then(|| Box::pin(async move { body.stalled(patience).await }) as Expiry)
    }

    /// Sends copies to the rule's mirrors.
    fn mirror(&self, mesh: &Mesh, onward: &Onward<'_>, asked: &mut Asked) {
        for reference in &onward.mirrors {
            let Ok((reach, backend)) = mesh.reach(reference, NOWHERE) else { continue };
            let Some(room) = self.copies.mirrors.room() else { return };
            let balance = (&self.balance, Traffic::Http);
            let wish = Wish::default();
            let picked = mesh.pick(balance, (&reach, &backend), NOWHERE, &wish);
            let Ok(picked) = picked else { continue };
            let version = version(mesh, &backend, asked);
            let Some(copy) = asked.copy(version) else { continue };
            let within = (onward.timeouts.request, room);
            let sending = mirror::send(self.upstream.clone(), picked, version, copy, within);
            self.background.spawn(sending);
        }
    }
}

/// What a mirror's client dialled.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

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

/// Waits for what there may be to wait for.
async fn over(expiry: &mut Option<Expiry>) {
    match expiry {
        Some(expiry) => expiry.await,
        None => pending().await,
    }
}

/// Over when the time is that a request has.
fn expiry(meter: Arc<Meter>, timeout: Duration) -> Expiry {
    Box::pin(async move { meter.late(timeout).await })
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
