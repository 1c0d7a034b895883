//! Story: a request's tries, until what one came to is what the client gets.
//! Never: another try once the head of a response has gone to the client.
use std::{future::pending, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response};
use http_body::Body;

use super::{Exchange, asked::Asked, over};
use crate::{
    backend::{Algorithm, Backend},
    balance::{Keyed, Permit, Retries, Ticket, Traffic, Wish, key},
    body::{Meter, Replay, RequestBody, Shelf},
    listener::{Version, deadline::Expiry},
    mesh::{Mesh, Nobody, Picked, Reach},
    outcome::{Answered, Flag, Late, LocalReply, Outcome},
    record::Record,
    retry::{Next, Plan},
    routing::{Onward, Timeouts},
    upstream::AnswerBody,
};

/// Bytes of a request's body that are kept for another try; a longer one is sent once (Envoy's buffer).
const MOST_KEPT: usize = 1 << 20;

/// Whom the tries of a request go to.
pub(super) struct Call<'m> {
    mesh: &'m Mesh,
    reach: Reach,
    pub(super) backend: Backend,
    dialled: SocketAddr,
    wish: Wish,
    /// What its client is given, to come back to the same endpoint.
    pub(super) cookie: Option<HeaderValue>,
}

/// How much time there is.
pub(super) struct Time {
    /// For all tries.
    pub(super) all: Option<Expiry>,
    /// That, and what each has.
    pub(super) each: Timeouts,
}

/// The tries of a request.
pub(super) struct Tries<'m> {
    pub(super) call: Call<'m>,
    pub(super) plan: Plan,
    pub(super) version: Version,
    pub(super) time: Time,
}

impl<'m> Call<'m> {
    /// Whom a request goes to.
    pub(super) fn new(
        mesh: &'m Mesh,
        onward: &Onward<'_>,
        asked: &Asked,
        record: &mut Record,
    ) -> Result<Self, Nobody> {
        record.backend = Some(onward.backend.clone());
        let (client, dialled) = (record.session().client.ip(), record.session().dialled);
        let (reach, backend) = mesh.reach(onward.backend, dialled)?;
        let query = asked.place.query.as_deref();
        let headers = &asked.head.headers;
        let source = key::Source { headers, query, client, drawn: rand::random() };
        let Keyed { key, cookie } = Keyed::of(&backend, source);
        let retry = &onward.forward.retry;
        let algorithm = &backend.policy.load_balancer.algorithm;
        // A key's requests stay where they belong.
        let hashed = matches!(algorithm, Algorithm::ConsistentHash { .. });
        let wish = Wish {
            key,
            avoid_tried: retry.ignore_previous_hosts && !hashed,
            elsewhere: retry.remote_localities,
            ..Wish::default()
        };
        Ok(Self { mesh, reach, backend, dialled, wish, cookie })
    }

    /// Whom the next try goes to.
    fn pick(&mut self, exchange: &Exchange, record: &mut Record) -> Result<Picked, Nobody> {
        let balance = (&exchange.balance, Traffic::Http);
        let reached = (&self.reach, &self.backend);
        let picked = self.mesh.pick(balance, reached, self.dialled, &self.wish)?;
        if let Some(pick) = picked.ticket.pick() {
            self.wish.was_tried(pick);
        }
        record.destination.clone_from(&picked.to.workload);
        record.endpoint = Some(picked.to.at);
        Ok(picked)
    }
}

/// The body, for each try.
enum Bodies {
    /// There is none.
    Empty(Option<RequestBody>),
    /// It is sent once.
    Once(Option<RequestBody>),
    /// It can be sent again while it is short.
    Kept(Replay),
}

impl Bodies {
    fn new(body: RequestBody, repeats: bool, shelf: &Shelf) -> Self {
        match repeats {
            _ if body.is_end_stream() => Self::Empty(Some(body)),
            true => Self::Kept(Replay::new(body, MOST_KEPT, shelf.clone())),
            false => Self::Once(Some(body)),
        }
    }

    /// Whether there can be a next try.
    fn may_repeat(&self) -> bool {
        match self {
            Self::Empty(_) => true,
            Self::Once(body) => body.is_some(),
            Self::Kept(replay) => replay.is_whole(),
        }
    }

    /// There is no next try.
    fn done(&self) {
        match self {
            Self::Kept(replay) => replay.done(),
            Self::Empty(_) | Self::Once(_) => {}
        }
    }

    /// That of the next try, if there can be one.
    fn next(&mut self) -> Option<RequestBody> {
        match self {
            Self::Empty(first) => Some(first.take().unwrap_or_else(RequestBody::nothing)),
            Self::Once(body) => body.take(),
            Self::Kept(replay) => replay.read(),
        }
    }
}

impl Tries<'_> {
    /// Tries until the rule, or the time, says enough.
    pub(super) async fn run(
        mut self,
        exchange: &Exchange,
        request: Request<RequestBody>,
        record: &mut Record,
    ) -> Result<(Response<AnswerBody>, Option<Expiry>), LocalReply> {
        let (head, body) = request.into_parts();
        let mut bodies = Bodies::new(body, self.plan.may_repeat(), &exchange.copies.shelf);
        // There always is a first.
        let mut body = bodies.next().unwrap_or_else(RequestBody::nothing);
        let mut retry = None;
        loop {
            let picked = self.call.pick(exchange, record)?;
            let mut request = Request::from_parts(head.clone(), body);
            if retry.is_some() {
                self.time.each.tell_rest(record.received.running(), request.headers_mut());
            }
            let attempt = self.attempt(exchange, &picked, request, &record.received).await;
            let outcome = match &attempt {
                Ok(answer) => {
                    let (status, headers) = (answer.status(), answer.headers());
                    Outcome::Answered(Answered::read(status, headers, self.plan.names()))
                }
                Err(outcome) => outcome.clone(),
            };
            picked.ticket.report(&outcome);
            let was_retry = retry.take().is_some();
            let Some((next, permit)) = self.next(&outcome, &mut bodies, &picked, record) else {
                bodies.done();
                let answered = matches!(outcome, Outcome::Answered(_));
                let good = was_retry && answered && self.plan.next(&outcome) == Next::Pass;
                return self.finish(attempt, picked, good);
            };
            // Its connection is of no use while its body comes.
            drop((attempt, picked));
            (body, retry) = (next, Some(permit));
            self.pause().await?;
        }
    }

    /// One try, within the time that there is.
    async fn attempt(
        &mut self,
        exchange: &Exchange,
        picked: &Picked,
        request: Request<RequestBody>,
        received: &Arc<Meter>,
    ) -> Result<Response<AnswerBody>, Outcome> {
        let mut idle = exchange.idle(received);
        let Time { all, each } = &mut self.time;
        tokio::select! {
            answer = exchange.upstream.send(&picked.to, self.version, request, &picked.ticket) => answer,
            () = over(all) => Err(Outcome::Late(Late::Request)),
            () = over(&mut idle) => Err(Outcome::Late(Late::Client)),
            () = passed(each.per_try, received, &picked.ticket) => Err(Outcome::Late(Late::Try)),
        }
    }

    /// The body and the place of another try, if there is one.
    fn next(
        &self,
        outcome: &Outcome,
        bodies: &mut Bodies,
        picked: &Picked,
        record: &mut Record,
    ) -> Option<(RequestBody, Permit)> {
        let group = picked.ticket.group();
        match self.plan.next(outcome) {
            Next::Pass => return None,
            Next::Exhausted => {
                Retries::add(&group.retries.exhausted);
                record.flags.add(Flag::RetryLimitExceeded);
                return None;
            }
            Next::Again => {}
        }
        if !bodies.may_repeat() {
            return None;
        }
        // First of all: with the next body, the one that may be passed on loses its own.
        let Some(permit) = group.retry(&self.call.backend.policy) else {
            record.flags.add(Flag::UpstreamOverflow);
            return None;
        };
        let body = bodies.next()?;
        Retries::add(&group.retries.begun);
        Some((body, permit))
    }

    /// Waits before another try.
    async fn pause(&mut self) -> Result<(), LocalReply> {
        let pause = self.plan.begin(rand::random());
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = over(&mut self.time.all) => Err(LocalReply::late(Late::Request)),
        }
    }

    /// What the client gets.
    fn finish(
        self,
        attempt: Result<Response<AnswerBody>, Outcome>,
        picked: Picked,
        good: bool,
    ) -> Result<(Response<AnswerBody>, Option<Expiry>), LocalReply> {
        if good {
            Retries::add(&picked.ticket.group().retries.good);
        }
        match attempt {
            Ok(answer) => Ok((answer.map(|body| body.of(picked.ticket)), self.time.all)),
            Err(outcome) if self.plan.has_repeated() => Err(LocalReply::of(&outcome).retried()),
            Err(outcome) => Err(LocalReply::of(&outcome)),
        }
    }
}

/// Waits until the time of one try is over, which has begun when the request has come and there is a
/// connection for it.
async fn passed(time: Option<Duration>, received: &Meter, ticket: &Ticket) {
    match time {
        Some(time) => received.late_since(ticket.wait_connected().await, time).await,
        None => pending().await,
    }
}
