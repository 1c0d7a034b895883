//! Shell: the application of a pod, which says what it has seen, or does what the path asks for.
use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use culvert_agent::drain::Drain;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use super::{Agent, Answer, Heard, Working};

/// What an application does: says what it has seen, or what the path asks for.
pub(super) async fn answer(
    mut request: Request<Incoming>,
    agent: &Agent,
) -> Result<Answer, std::io::Error> {
    let path = request.uri().path().to_owned();
    let mut words = path.split('/').skip(1);
    match (words.next().unwrap_or_default(), words.next().and_then(|w| w.parse::<u64>().ok())) {
        ("sleep", Some(milliseconds)) => {
            let mut working = Working::new(&agent.work);
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            working.1 = true;
            told(request, agent).await
        }
        ("status", Some(status)) => {
            let status = u16::try_from(status).ok().and_then(|s| StatusCode::from_u16(s).ok());
            let mut answer = told(request, agent).await?;
            *answer.status_mut() = status.expect("a status");
            Ok(answer)
        }
        ("cut", _) => Ok(Response::new(frames(vec![
            Ok(Frame::data(Bytes::from_static(b"half of it"))),
            Err(std::io::Error::other("cut")),
        ]))),
        ("drop", _) => Err(std::io::Error::other("dropped")),
        ("upload", _) => {
            let mut length = 0;
            while let Some(Ok(frame)) = request.body_mut().frame().await {
                length += frame.data_ref().map_or(0, Bytes::len);
            }
            Ok(Response::new(full(length.to_string())))
        }
        ("trailers", _) => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("42"));
            trailers.insert("x-envoy-peer-metadata", HeaderValue::from_static("secret"));
            let data = Frame::data(Bytes::from_static(b"body"));
            let mut answer = Response::new(frames(vec![Ok(data), Ok(Frame::trailers(trailers))]));
            answer.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
            Ok(answer)
        }
        ("socket", rest) => {
            let rest = rest.and_then(|rest| usize::try_from(rest).ok());
            Ok(websocket(request, rest.unwrap_or(0), &agent.drain))
        }
        ("shop.Cart", _) => Ok(call(request)),
        _ => told(request, agent).await,
    }
}

pub(crate) async fn told(
    request: Request<Incoming>,
    agent: &Agent,
) -> Result<Answer, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?;
    let trailers: Vec<_> = body.trailers().into_iter().flat_map(HeaderMap::keys).cloned().collect();
    let trailers: Vec<_> = trailers.iter().map(HeaderName::as_str).collect();
    let body = body.to_bytes();
    let name = &*agent.name;
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    agent.heard.lock().expect("a list").push(Heard {
        host: head.headers.get("host").map(text).unwrap_or_default(),
        body: String::from_utf8_lossy(&body).into_owned(),
    });
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let seen = json!({
        "pod": name,
        "method": head.method.as_str(),
        "uri": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
        "trailers": trailers,
    });
    let mut answer = Response::new(full(seen.to_string()));
    let headers = answer.headers_mut();
    headers.insert("server", HeaderValue::from_static("app"));
    headers.insert("x-pod", HeaderValue::from_str(name).expect("a name"));
    headers.insert("x-envoy-peer-metadata", HeaderValue::from_static("secret"));
    headers.insert("keep-alive", HeaderValue::from_static("timeout=5"));
    Ok(answer)
}

/// Says everything back in capitals, and when its client is done so many bytes more.
fn websocket(mut request: Request<Incoming>, rest: usize, drain: &Drain) -> Answer {
    let key = request.headers().get("sec-websocket-key").cloned();
    let upgraded = hyper::upgrade::on(&mut request);
    drain.spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let mut stream = TokioIo::new(upgraded);
        let mut bytes = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut bytes).await {
            let said = bytes[..length].to_ascii_uppercase();
            if stream.write_all(&said).await.is_err() {
                return;
            }
        }
        let _ = stream.write_all(&vec![b'x'; rest]).await;
        let _ = stream.shutdown().await;
    });
    let mut answer = Response::new(full(String::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
    // Without a key there is nothing to prove.
    if let Some(key) = key {
        answer.headers_mut().insert("sec-websocket-accept", key);
    }
    answer
}

/// A gRPC call that says each message back as it comes.
fn call(request: Request<Incoming>) -> Answer {
    let (head, mut body) = request.into_parts();
    let (sender, receiver) = mpsc::channel(4);
    let status = head.headers.get("want-status").cloned();
    let task = async move {
        while let Some(Ok(frame)) = body.frame().await {
            if frame.is_data() && sender.send(Ok(frame)).await.is_err() {
                return;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.unwrap_or(HeaderValue::from_static("0")));
        let _ = sender.send(Ok(Frame::trailers(trailers))).await;
    };
    #[expect(clippy::disallowed_methods, reason = "a test owns what it starts")]
    tokio::spawn(task);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    let mut answer = Response::new(StreamBody::new(stream).boxed_unsync());
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    answer
}

pub(crate) fn full(text: String) -> UnsyncBoxBody<Bytes, std::io::Error> {
    Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {}).boxed_unsync()
}

pub(crate) fn frames(
    all: Vec<Result<Frame<Bytes>, std::io::Error>>,
) -> UnsyncBoxBody<Bytes, std::io::Error> {
    // A pause, so that the head goes before it.
    let stream = futures_util::stream::unfold(all.into_iter(), |mut all| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((all.next()?, all))
    });
    StreamBody::new(stream).boxed_unsync()
}
