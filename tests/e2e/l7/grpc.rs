//! gRPC as tonic speaks it: calls, streams, deadlines, statuses.
use std::{
    convert::Infallible,
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::until;
use futures_util::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, runtime::Runtime, sync::mpsc};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    client::{Grpc, GrpcService},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::shop::Shop;

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

fn text(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

type Codec = ProstCodec<Text, Text>;
type Answered<T> = Result<Response<T>, Status>;

/// The application: `Ask` answers, `Watch` answers three times, `Talk` says each message back, `Wait`
/// takes three seconds. Who asks for `nothing` is told that it is sold out.
async fn answer(
    request: http::Request<Incoming>,
    version: &'static str,
) -> Result<http::Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut grpc = tonic::server::Grpc::new(Codec::default());
    let method = path.strip_prefix("/shop.Cart/").unwrap_or_default();
    Ok(match method {
        "Watch" => {
            let watch = service_fn(move |request: Request<Text>| async move {
                let name = request.into_inner().text;
                let all = (1..=3).map(move |n| Ok(text(format!("{version}: {name} {n}"))));
                Answered::Ok(Response::new(stream::iter(all)))
            });
            grpc.server_streaming(watch, request).await
        }
        "Talk" => {
            let talk = service_fn(move |request: Request<Streaming<Text>>| async move {
                let said = request.into_inner();
                let back = said.map(move |said| Ok(text(format!("{version}: {}", said?.text))));
                Answered::Ok(Response::new(back))
            });
            grpc.streaming(talk, request).await
        }
        _ => {
            let wait = Duration::from_secs(if method == "Wait" { 3 } else { 0 });
            let ask = service_fn(move |request| ask(request, version, wait));
            grpc.unary(ask, request).await
        }
    })
}

async fn ask(request: Request<Text>, version: &'static str, wait: Duration) -> Answered<Text> {
    tokio::time::sleep(wait).await;
    let deadline = request.metadata().get("grpc-timeout").cloned();
    let asked = request.into_inner().text;
    if asked == "nothing" {
        let mut status =
            Status::with_details(Code::ResourceExhausted, "sold out", b"\x08\x01".to_vec().into());
        status.metadata_mut().insert("x-version", version.parse().expect("a value"));
        return Err(status);
    }
    let mut answer = Response::new(text(format!("{version}: {asked}")));
    if let Some(deadline) = deadline {
        answer.metadata_mut().insert("x-deadline", deadline);
    }
    Ok(answer)
}

/// Serves on a thread of its own.
fn serve(listener: TcpListener, version: &'static str) -> Result<()> {
    let runtime = Runtime::new()?;
    listener.set_nonblocking(true)?;
    thread::spawn(move || runtime.block_on(accept(listener, version)));
    Ok(())
}

async fn accept(listener: TcpListener, version: &'static str) -> std::io::Result<Infallible> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = hyper::service::service_fn(move |request| answer(request, version));
        let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(http2.serve_connection(TokioIo::new(stream), service));
    }
}

fn to(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}

/// tonic's client over one connection of HTTP/2, without its channel: that ends calls by its own clock,
/// before the waypoint can.
async fn tonic(
    shop: &Shop,
) -> Result<Grpc<impl GrpcService<Body, ResponseBody = Incoming> + use<>>> {
    let stream = shop.client.inside.connect(Shop::at(81))?;
    stream.set_nonblocking(true)?;
    let stream = TokioIo::new(TcpStream::from_std(stream)?);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(connection);
    let send = service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    Ok(Grpc::with_origin(send, "http://product.shop:81".parse()?))
}

/// One call with one message each way.
async fn call<T>(grpc: &mut Grpc<T>, method: &'static str, request: Request<Text>) -> Answered<Text>
where
    T: GrpcService<Body, ResponseBody = Incoming>,
{
    ready(grpc).await?;
    grpc.unary(request, to(method), Codec::default()).await
}

async fn ready<T: GrpcService<Body>>(grpc: &mut Grpc<T>) -> Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::unknown(error.into().to_string()))
}

async fn all(mut said: Streaming<Text>) -> Result<(Vec<String>, tonic::metadata::MetadataMap)> {
    let mut texts = Vec::new();
    while let Some(message) = said.message().await? {
        texts.push(message.text);
    }
    Ok((texts, said.trailers().await?.unwrap_or_default()))
}

fn shop() -> Result<(Shop, Runtime)> {
    let shop = Shop::new()?;
    for (server, version) in shop.servers.iter().zip(["v1", "v2"]) {
        serve(server.inside.listen(server.at(8081))?, version)?;
    }
    Ok((shop, Runtime::new()?))
}

#[test]
fn tonics_calls_and_streams_pass_with_their_trailers_and_are_counted() -> Result<()> {
    let (shop, runtime) = shop()?;
    runtime.block_on(async {
        let mut grpc = tonic(&shop).await?;
        let answer = call(&mut grpc, "/shop.Cart/Ask", Request::new(text("apples"))).await?;
        assert_eq!(answer.get_ref().text, "v1: apples");
        assert!(answer.metadata().contains_key("x-envoy-upstream-service-time"));
        let mut canary = Request::new(text("pears"));
        canary.metadata_mut().insert("x-canary-user", "true".parse()?);
        let answer = call(&mut grpc, "/shop.Cart/Ask", canary).await?;
        assert_eq!(answer.get_ref().text, "v2: pears");
        let refused = call(&mut grpc, "/shop.Cart/Ask", Request::new(text("nothing"))).await;
        let status = refused.err().context("a refusal")?;
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "sold out"));
        assert_eq!(status.details(), b"\x08\x01", "grpc-status-details-bin");
        assert_eq!(status.metadata().get("x-version").context("its metadata")?, "v1");
        ready(&mut grpc).await?;
        let watch = Request::new(text("plums"));
        let watched =
            grpc.server_streaming(watch, to("/shop.Cart/Watch"), Codec::default()).await?;
        let (texts, _) = all(watched.into_inner()).await?;
        assert_eq!(texts, ["v1: plums 1", "v1: plums 2", "v1: plums 3"]);
        talk(&mut grpc).await
    })?;
    // By v1: two calls, of which one is refused without a message, three for one, and five for five.
    for (workload, calls, messages) in [("v1", 4, (1 + 1 + 1 + 5, 1 + 3 + 5)), ("v2", 1, (1, 1))] {
        let workload = format!("destination_workload=\"product-{workload}\"");
        let labels = ["reporter=\"waypoint\"", &*workload];
        until("each message is counted", || {
            let sent = shop.metric("istio_request_messages_total", &labels).ok();
            let received = shop.metric("istio_response_messages_total", &labels).ok();
            sent.zip(received) == Some(messages)
        });
        let labels = [&*workload, "request_protocol=\"grpc\""];
        assert_eq!(shop.metric("istio_requests_total", &labels)?, calls);
    }
    let refused = ["grpc_response_status=\"8\"", "response_code=\"200\""];
    assert_eq!(shop.metric("istio_requests_total", &refused)?, 1);
    Ok(())
}

/// Each message is heard before the next is said.
async fn talk<T>(grpc: &mut Grpc<T>) -> Result<()>
where
    T: GrpcService<Body, ResponseBody = Incoming>,
{
    ready(grpc).await?;
    let (say, said) = mpsc::channel::<Text>(1);
    let request = Request::new(messages(said));
    say.send(text("0")).await?;
    let heard = grpc.streaming(request, to("/shop.Cart/Talk"), Codec::default()).await?;
    let mut heard = heard.into_inner();
    for number in 0..5 {
        let message = heard.message().await?.context("a message")?;
        assert_eq!(message.text, format!("v1: {number}"));
        if number < 4 {
            say.send(text((number + 1).to_string())).await?;
        }
    }
    drop(say);
    ensure!(heard.message().await?.is_none(), "the stream ends with its client's");
    Ok(())
}

fn messages(said: mpsc::Receiver<Text>) -> impl Stream<Item = Text> + Send + 'static {
    stream::unfold(said, |mut said| async move { Some((said.recv().await?, said)) })
}

#[test]
fn tonics_deadlines_shorten_the_rules_timeout_and_never_lengthen_it() -> Result<()> {
    let (shop, runtime) = shop()?;
    runtime.block_on(async {
        let mut grpc = tonic(&shop).await?;
        let mut patient = Request::new(text("soon"));
        patient.set_timeout(Duration::from_secs(20));
        let answer = call(&mut grpc, "/shop.Cart/Ask", patient).await?;
        assert!(answer.metadata().contains_key("x-deadline"), "the application knows it too");
        let mut patient = Request::new(text("late"));
        patient.set_timeout(Duration::from_secs(20));
        let began = Instant::now();
        let status =
            call(&mut grpc, "/shop.Cart/Wait", patient).await.err().context("a deadline")?;
        assert_eq!(
            (status.code(), status.message()),
            (Code::DeadlineExceeded, "upstream request timeout")
        );
        let took = began.elapsed().as_millis();
        ensure!((950..2000).contains(&took), "the rule says 1 s, it took {took} ms");
        let mut hasty = Request::new(text("late"));
        hasty.set_timeout(Duration::from_millis(300));
        let began = Instant::now();
        let status = call(&mut grpc, "/shop.Cart/Wait", hasty).await.err().context("a deadline")?;
        assert_eq!(
            (status.code(), status.message()),
            (Code::DeadlineExceeded, "upstream request timeout")
        );
        let took = began.elapsed().as_millis();
        ensure!((250..950).contains(&took), "the call says 300 ms, it took {took} ms");
        Ok::<_, anyhow::Error>(())
    })?;
    let labels = ["grpc_response_status=\"4\"", "response_flags=\"UT\""];
    until("both are counted", || {
        shop.metric("istio_requests_total", &labels).is_ok_and(|counted| counted == 2)
    });
    Ok(())
}
