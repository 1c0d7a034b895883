//! Shell: responses: those of endpoints on their way to the client, and the waypoint's own.
//! Never: lets one that was cut look whole.
use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::{Body, Frame, SizeHint};

use super::{
    extended,
    headers::{self, OVERLOADED},
};
use crate::{
    body::trailers,
    grpc,
    listener::deadline::{Deadline, Expiry},
    outcome::{Failure, Flag, LocalReply},
    places::Place,
    record::Record,
    routing::{Answer, GrpcStatus},
    upstream::AnswerBody,
};

/// The body of a response. Its record ends with it, unless somebody else goes on with the story.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    record: Option<Record>,
    _place: Option<Place>,
}

enum Source {
    /// The waypoint's own words.
    Own(Bytes),
    /// The endpoint's, until it takes too long.
    Endpoint(Box<AnswerBody>, Option<Deadline>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own(body) => f.debug_tuple("Own").field(&body.len()).finish(),
            Self::Endpoint(..) => f.write_str("Endpoint"),
        }
    }
}

/// Why a response broke off.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// The endpoint did.
    #[error("the response broke off: {0}")]
    Endpoint(Failure),
    /// It took too long.
    #[error("the response took too long")]
    Late,
}

/// An endpoint's response on its way to the client.
pub(super) fn pass(
    response: Response<AnswerBody>,
    expiry: Option<Expiry>,
    mut record: Record,
    place: Place,
) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    headers::for_client(&mut head.headers, record.service_time);
    record.details = Some("via_upstream".into());
    record.answered(&head);
    record.whole = body.is_end_stream();
    let deadline = expiry.map(Deadline::new);
    if let Some(deadline) = &deadline {
        head.extensions.insert(deadline.clone());
    }
    let source = Source::Endpoint(Box::new(body), deadline);
    Response::from_parts(head, ResponseBody { source, record: Some(record), _place: Some(place) })
}

/// The waypoint's own response, as it is.
pub(super) fn own(response: Response<Bytes>, mut record: Record) -> Response<ResponseBody> {
    let (mut head, mut body) = response.into_parts();
    headers::for_client(&mut head.headers, None);
    // hyper keeps such an answer short in HTTP/1, and not in HTTP/2.
    if record.is_head() {
        head.headers.insert(CONTENT_LENGTH, body.len().into());
    }
    if record.is_head() || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    {
        body = Bytes::new();
    }
    record.answered(&head);
    record.whole = body.is_empty();
    let body = ResponseBody { source: Source::Own(body), record: Some(record), _place: None };
    Response::from_parts(head, body)
}

/// The head that an endpoint agrees to another protocol with; what follows is not HTTP.
/// It is over when `deadline` is.
pub(super) fn switch(
    mut head: http::response::Parts,
    deadline: Deadline,
    record: &mut Record,
) -> Response<ResponseBody> {
    headers::for_client(&mut head.headers, record.service_time);
    headers::keep_upgrade(&mut head.headers);
    record.details = Some("via_upstream".into());
    record.answered(&head);
    if !record.is_http1() {
        extended::agree(&mut head);
    }
    head.extensions.insert(deadline);
    let source = Source::Own(Bytes::new());
    Response::from_parts(head, ResponseBody { source, record: None, _place: None })
}

/// What a rule answers. A gRPC client reads a failure as the end of its call.
pub(super) fn answered(answer: Answer, mut record: Record) -> Response<ResponseBody> {
    let Answer { status, grpc, headers, body, cause } = answer;
    record.details = Some(cause.details().into());
    let flag = cause.flag().and_then(Flag::named);
    flag.into_iter().for_each(|flag| record.flags.add(flag));
    let is_failure = flag.is_some() || status.is_server_error();
    if record.is_grpc && is_failure {
        let text = String::from_utf8_lossy(&body);
        return own(trailers_only(status, grpc.map(GrpcStatus::code), &text), record);
    }
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    own(response, record)
}

/// The response with which the waypoint refuses; a gRPC client reads it as the end of its call.
pub(super) fn refuse(reply: &LocalReply, mut record: Record) -> Response<ResponseBody> {
    record.replied(reply);
    let mut response = match record.is_grpc {
        true => trailers_only(reply.status, reply.grpc, &reply.body),
        false => plain(reply),
    };
    if reply.is_overload() {
        response.headers_mut().insert(OVERLOADED, HeaderValue::from_static("true"));
    }
    let is_last = reply.is_last() && record.is_http1();
    let mut response = own(response, record);
    if is_last {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn plain(reply: &LocalReply) -> Response<Bytes> {
    let mut response = Response::new(Bytes::copy_from_slice(reply.body.as_bytes()));
    *response.status_mut() = reply.status;
    if !reply.body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    response
}

fn trailers_only(status: StatusCode, grpc: Option<u8>, text: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::OK;
    let code = grpc.unwrap_or_else(|| grpc::status_of(status));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(grpc::STATUS, HeaderValue::from(u16::from(code)));
    if let Ok(message) = HeaderValue::from_str(&grpc::message(text))
        && !message.is_empty()
    {
        headers.insert(grpc::MESSAGE, message);
    }
    response
}

impl ResponseBody {
    fn poll_source(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut self.source {
            Source::Own(body) if body.is_empty() => Poll::Ready(None),
            Source::Own(body) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(body))))),
            Source::Endpoint(body, deadline) => {
                if deadline.as_ref().is_some_and(|at| at.poll_over(context).is_ready()) {
                    return Poll::Ready(Some(Err(Cut::Late)));
                }
                let polled = Pin::new(body).poll_frame(context).map_err(Cut::Endpoint);
                polled.map_ok(|frame| trailers(frame, headers::of_proxies))
            }
        }
    }

    fn note(&mut self, frame: &Frame<Bytes>) {
        let Some(record) = &mut self.record else { return };
        if let Some(data) = frame.data_ref() {
            record.sent.pass(data);
        }
        let trailers: Option<&HeaderMap> = frame.trailers_ref();
        if let Some(trailers) = trailers.filter(|_| record.is_grpc) {
            record.status(trailers);
        }
    }

    fn cut(&mut self, why: &Cut) {
        let Some(record) = &mut self.record else { return };
        let (flag, details) = match why {
            Cut::Late => (Flag::UpstreamRequestTimeout, "response_timeout"),
            Cut::Endpoint(Failure::Request) => {
                (Flag::DownstreamConnectionTermination, "downstream_remote_disconnect")
            }
            Cut::Endpoint(failure) => (failure.flag(), "upstream_reset_after_response_started"),
        };
        record.flags.add(flag);
        record.details = Some(details.into());
        record.whole = false;
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let polled = self.poll_source(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.note(frame),
            Poll::Ready(Some(Err(why))) => self.cut(why),
            Poll::Ready(None) | Poll::Pending => {}
        }
        let ended = matches!(polled, Poll::Ready(None)) || self.is_end_stream();
        if let Some(record) = self.record.as_mut().filter(|_| ended) {
            record.whole = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.is_empty(),
            Source::Endpoint(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => SizeHint::with_exact(body.len() as u64),
            Source::Endpoint(body, _) => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Source::Endpoint(_, Some(deadline)) = &self.source else { return };
        if !deadline.is_over() {
            return deadline.meet();
        }
        // Whoever sends it was waiting for its client.
        self.cut(&Cut::Late);
    }
}
