//! Shell: what a pod's application does with a request in place of answering it.
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use hyper::body::Incoming;

use crate::pod::{Agent, Answer, frames, full, told};

/// What it does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Answers with this status, when it has read the body.
    Status(u16),
    /// Answers with a gRPC status in the head.
    Grpc(&'static str),
    /// The same in trailers, after some bytes.
    GrpcLate(&'static str),
    /// Answers as usual, but late.
    Sleep(Duration),
    /// Answers with this status, when so much time has passed.
    Late(Duration, u16),
    /// Answers with this status before it has read the body, at length and slowly.
    Early(u16),
    /// Never answers.
    Hang,
    /// Ends the connection, or in HTTP/2 resets the stream for this reason.
    Reset(h2::Reason),
    /// The agent says that nobody listens.
    NoListener,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("reset on purpose")]
    Reset(#[from] h2::Error),
    #[error("broken")]
    Broken(#[from] std::io::Error),
}

/// What it does next, and then always.
#[derive(Debug)]
pub(crate) struct Script<A = Act>(Mutex<Acts<A>>);

#[derive(Debug)]
struct Acts<A> {
    next: VecDeque<A>,
    always: Option<A>,
    hits: usize,
}

impl<A> Default for Script<A> {
    fn default() -> Self {
        Self(Mutex::new(Acts { next: VecDeque::new(), always: None, hits: 0 }))
    }
}

impl<A: Clone> Script<A> {
    pub(crate) fn will(&self, acts: impl IntoIterator<Item = A>) {
        self.lock().next.extend(acts);
    }

    pub(crate) fn always(&self, act: Option<A>) {
        self.lock().always = act;
    }

    /// Requests that came.
    pub(crate) fn hits(&self) -> usize {
        self.lock().hits
    }

    /// What it does with a request.
    pub(crate) fn request(&self) -> Option<A> {
        let mut acts = self.lock();
        acts.hits += 1;
        acts.next.pop_front().or_else(|| acts.always.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Acts<A>> {
        self.0.lock().expect("a script")
    }
}

impl Script {
    /// Whether the agent refuses a connection.
    pub(crate) fn refuses(&self) -> bool {
        let mut acts = self.lock();
        let front = matches!(acts.next.front(), Some(Act::NoListener));
        if front {
            acts.next.pop_front();
        }
        front || matches!(acts.always, Some(Act::NoListener))
    }
}

impl Act {
    pub(crate) async fn answer(
        self,
        request: Request<Incoming>,
        agent: &Agent,
    ) -> Result<Answer, Unanswered> {
        let calls = HeaderValue::from_static("application/grpc");
        Ok(match self {
            Self::Status(status) => {
                let mut answer = told(request, agent).await?;
                *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
                answer
            }
            Self::Grpc(status) => {
                let mut answer = Response::new(full(String::new()));
                answer.headers_mut().insert("content-type", calls);
                answer.headers_mut().insert("grpc-status", HeaderValue::from_static(status));
                answer
            }
            Self::GrpcLate(status) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static(status));
                let data = Frame::data(Bytes::from_static(b"\0\0\0\0\x01x"));
                let mut answer =
                    Response::new(frames(vec![Ok(data), Ok(Frame::trailers(trailers))]));
                answer.headers_mut().insert("content-type", calls);
                answer
            }
            Self::Sleep(time) => {
                tokio::time::sleep(time).await;
                told(request, agent).await?
            }
            Self::Late(time, status) => {
                tokio::time::sleep(time).await;
                return Box::pin(Self::Status(status).answer(request, agent)).await;
            }
            Self::Early(status) => {
                let part = || Ok(Frame::data(Bytes::from_static(&[b'x'; 20])));
                let mut answer = Response::new(frames((0..50).map(|_| part()).collect()));
                *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
                answer
            }
            Self::Hang => std::future::pending().await,
            Self::Reset(reason) => return Err(h2::Error::from(reason).into()),
            Self::NoListener => unreachable!("it is asked before there is a request"),
        })
    }
}
