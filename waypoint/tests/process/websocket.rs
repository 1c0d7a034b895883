//! Shell: websockets: how long they last, how they end, and what is known of them.
use std::time::Duration;

use bytes::Bytes;
use culvert_waypoint::listener::{TunnelStream, serve::HEAD_TIMEOUT};
use http::{Method, Request, Response};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http2, ext::Protocol, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{sleep, timeout},
};

use crate::{
    floods,
    hostile::{frame, preface},
    lab::{CART, Lab},
    rules::http,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A socket that its endpoint has agreed to.
async fn open(lab: &Lab, path: &str) -> TunnelStream {
    let mut stream = lab.client().stream((CART, 80)).await;
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("said");
    stream.flush().await.expect("said");
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        heard.push(stream.read_u8().await.expect("a head"));
    }
    assert!(heard.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&heard));
    stream
}

async fn say(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.expect("said");
    stream.flush().await.expect("said");
    let mut heard = vec![0; text.len()];
    let read = timeout(PATIENCE, stream.read_exact(&mut heard)).await;
    read.expect("in time").expect("heard");
    assert_eq!(heard, text.to_uppercase().as_bytes());
}

#[tokio::test]
async fn a_socket_outlasts_the_time_that_a_head_has() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = open(&lab, "/socket").await;
    say(&mut stream, "early").await;
    sleep(HEAD_TIMEOUT + Duration::from_secs(2)).await;
    say(&mut stream, "late").await;
}

#[tokio::test]
async fn a_socket_has_the_place_of_a_request_until_it_ends() {
    let lab = Lab::configured("", "[limits]\nmax_requests = 1").await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = open(&lab, "/socket").await;
    say(&mut stream, "hello").await;
    assert_eq!(lab.client().get((CART, 80), "/").await.status, 503);
    lab.line(&["\"GET / HTTP/1.1\" 503 UO"]).await;
    drop(stream);
    lab.line(&["GET /socket HTTP/1.1"]).await;
    assert_eq!(lab.client().get((CART, 80), "/").await.status, 200);
}

#[tokio::test]
async fn a_socket_has_the_place_of_a_tunnel_until_it_ends() {
    let lab = Lab::configured("", "[limits]\nmax_connections = 1").await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = open(&lab, "/socket").await;
    say(&mut stream, "hello").await;
    assert!(lab.client().tunnel((CART, 80)).await.is_err(), "there is one place");
    drop(stream);
    lab.line(&["GET /socket HTTP/1.1"]).await;
    for _ in 0..50 {
        if lab.client().tunnel((CART, 80)).await.is_ok() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("the place is not given back");
}

#[tokio::test]
async fn what_an_endpoint_says_after_its_client_is_done_arrives() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = open(&lab, "/socket/200000").await;
    say(&mut stream, "hello").await;
    stream.shutdown().await.expect("an end");
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    read.expect("in time").expect("an end");
    assert_eq!(rest.len(), 200_000);
    lab.line(&["GET /socket/200000 HTTP/1.1", "101 - via_upstream", " 5 200005 "]).await;
}

#[tokio::test]
async fn a_socket_that_breaks_is_recorded_with_its_bytes_and_whose_end_broke() {
    let lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    let mut stream = open(&lab, "/socket?client").await;
    say(&mut stream, "hello").await;
    drop(stream);
    lab.line(&["GET /socket?client HTTP/1.1", "101 DC", " 5 5 "]).await;
    let mut stream = open(&lab, "/socket?endpoint").await;
    say(&mut stream, "hello").await;
    pod.stop();
    lab.line(&["GET /socket?endpoint HTTP/1.1", "101 UC", " 5 5 "]).await;
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_goes_no_further() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    assert_eq!(lab.client().get((CART, 80), "/socket").await.status, 502);
    lab.line(&["GET /socket HTTP/1.1", "502 UPE"]).await;
}

#[tokio::test]
async fn to_ask_for_a_socket_takes_no_longer_than_the_rule_allows() {
    let lab = Lab::new(&http("[{timeout: 300ms, route: [{destination: {host: cart}}]}]")).await;
    let _pod = lab.pod(1, "v1").await;
    let request =
        Request::get("/sleep/5000").header("connection", "upgrade").header("upgrade", "websocket");
    assert_eq!(lab.client().send((CART, 80), request, "").await.status, 504);
}

#[tokio::test]
async fn a_socket_is_a_connection_to_its_endpoint_until_it_ends() {
    let pool = "{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: cart, namespace: shop}, spec: {host: cart, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}}}\n";
    let lab = Lab::new(pool).await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = open(&lab, "/socket").await;
    say(&mut stream, "hello").await;
    let client = lab.client();
    let mut waits = Box::pin(client.get((CART, 80), "/"));
    assert!(timeout(Duration::from_millis(700), &mut waits).await.is_err(), "there is one place");
    say(&mut stream, "still there").await;
    drop(stream);
    assert_eq!(timeout(PATIENCE, waits).await.expect("in time").status, 200);
}

/// A connection of HTTP/2 that has heard what the waypoint can do.
async fn second(lab: &Lab, port: u16) -> http2::SendRequest<Empty<Bytes>> {
    let mut sender = lab.client().http2((CART, port)).await;
    let hello = Request::get("http://cart/").body(Empty::new()).expect("a request");
    sender.send_request(hello).await.expect("a response");
    sender
}

/// Asks for another protocol on a stream of HTTP/2 (RFC 8441 §4).
async fn ask(
    sender: &mut http2::SendRequest<Empty<Bytes>>,
    protocol: &'static str,
    path: &str,
) -> Response<Incoming> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://cart{path}"))
        .header("sec-websocket-version", "13")
        .header("content-type", "application/grpc")
        .extension(Protocol::from_static(protocol))
        .body(Empty::new());
    sender.send_request(request.expect("a request")).await.expect("a response")
}

/// A socket on a stream of HTTP/2.
async fn open_second(
    sender: &mut http2::SendRequest<Empty<Bytes>>,
    path: &str,
) -> TokioIo<Upgraded> {
    let answer = ask(sender, "websocket", path).await;
    assert_eq!(answer.status(), 200, "{path}");
    for name in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
        assert!(!answer.headers().contains_key(name), "{name} is of HTTP/1.1");
    }
    TokioIo::new(hyper::upgrade::on(answer).await.expect("a socket"))
}

#[tokio::test]
async fn sockets_of_http2_pass_beside_each_other_and_beside_requests() {
    let lab = Lab::new(&http("[{timeout: 300ms, route: [{destination: {host: cart}}]}]")).await;
    let _pod = lab.pod(1, "v1").await;
    // Whatever the port's endpoints speak, a socket goes on in HTTP/1.1.
    let mut sender = second(&lab, 80).await;
    let mut one = open_second(&mut sender, "/socket/200000?one").await;
    let mut other = open_second(&mut sender, "/socket?other").await;
    for text in ["hello", "again"] {
        say(&mut one, text).await;
        say(&mut other, text).await;
    }
    // It outlasts the rule's timeout.
    sleep(Duration::from_millis(800)).await;
    say(&mut other, "late").await;
    one.shutdown().await.expect("an end");
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, one.read_to_end(&mut rest)).await;
    read.expect("in time").expect("an end");
    assert_eq!(rest.len(), 200_000);
    lab.line(&["GET /socket/200000?one HTTP/2", "101 - via_upstream", " 10 200010 "]).await;
    let hello = Request::get("http://cart/").body(Empty::new()).expect("a request");
    assert_eq!(sender.send_request(hello).await.expect("a response").status(), 200);
    say(&mut other, "still there").await;
}

/// The same byte by byte: hyper says an end where it means a break.
async fn open_raw(lab: &Lab, path: &str) -> TunnelStream {
    let mut stream = lab.client().stream((CART, 80)).await;
    let mut block = vec![0x02, 7];
    block.extend(b"CONNECT");
    block.extend([0x86, 0x04, u8::try_from(path.len()).expect("a short one")]);
    block.extend(path.as_bytes());
    block.extend(b"\x01\x04cart\x00\x09:protocol\x09websocket");
    let said = [preface(), frame(1, 0x4, 1, &block), frame(0, 0, 1, b"hello")].concat();
    floods::say(&mut stream, &said).await;
    while heard(&mut stream).await.3 != b"HELLO" {}
    stream
}

/// The next frame of its stream.
async fn heard(stream: &mut TunnelStream) -> (u8, u8, u32, Vec<u8>) {
    loop {
        let next = timeout(PATIENCE, floods::next(stream)).await;
        let next = next.expect("in time").expect("a frame");
        if next.2 == 1 {
            return next;
        }
    }
}

#[tokio::test]
async fn a_socket_of_http2_that_breaks_breaks_on_the_other_side() {
    const RESET: u8 = 3;
    let lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    let mut stream = open_raw(&lab, "/socket?client").await;
    let cancel = 8_u32.to_be_bytes();
    floods::say(&mut stream, &frame(RESET, 0, 1, &cancel)).await;
    lab.line(&["GET /socket?client HTTP/2", "101 DC", " 5 5 "]).await;
    let mut stream = open_raw(&lab, "/socket?endpoint").await;
    pod.stop();
    let (kind, flags, ..) = heard(&mut stream).await;
    assert_eq!(kind, RESET, "it looks whole: {flags}");
    lab.line(&["GET /socket?endpoint HTTP/2", "101 UC", " 5 5 "]).await;
}

#[tokio::test]
async fn nobody_is_told_of_a_socket_of_http2_that_there_is_not() {
    let rules = "[{match: [{uri: {exact: /own}}], directResponse: {status: 200}}, {route: [{destination: {host: cart}}]}]";
    let lab = Lab::new(&http(rules)).await;
    let _pod = lab.pod(1, "v1").await;
    let mut sender = second(&lab, 80).await;
    // Answers that would be agreements, and another protocol; what refuses passes as it is.
    for (protocol, path, status) in [
        ("websocket", "/plain", 403),
        ("websocket", "/own", 403),
        ("connect-udp", "/socket", 403),
        ("websocket", "/status/404", 404),
        ("websocket", "/status/503", 503),
    ] {
        let answer = ask(&mut sender, protocol, path).await;
        assert_eq!(answer.status(), status, "{protocol} {path}");
    }
}
