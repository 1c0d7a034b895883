//! Shell: clients that do not keep to HTTP, byte by byte.
use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use culvert_agent::clock;
use culvert_waypoint::listener::serve::{HEAD_TIMEOUT, LONGEST_HEAD, Owned};
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use crate::{
    client::slowly,
    lab::{CART, Lab},
    rules::http,
};

/// One connection of an agent that another implementation makes.
pub(crate) async fn others_agent(lab: &Lab) -> http2::SendRequest<Empty<Bytes>> {
    let credentials = lab.credentials("spiffe://cluster.local/ns/shop/sa/web");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((lab.address(100), 0).into()).expect("an address");
    let tcp = socket.connect(lab.waypoint()).await.expect("a connection");
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&credentials.client));
    let name = "waypoint".try_into().expect("a name");
    let tls = connector.connect(name, tcp).await.expect("a session");
    let io = TokioIo::new(tls);
    let begun = http2::handshake(Owned(lab.drain.clone()), io).await;
    let (sender, connection) = begun.expect("a connection");
    lab.drain.spawn(async move {
        let _ = connection.await;
    });
    sender
}

/// Requests that are no CONNECT, on one such connection.
pub(crate) async fn plain_requests(lab: &Lab, methods: &[&str]) -> Vec<String> {
    let mut sender = others_agent(lab).await;
    let mut statuses = Vec::new();
    for method in methods {
        let request = Request::builder().method(*method).uri("https://10.96.0.1:80/");
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        statuses.push(answer.status().as_str().to_owned());
    }
    statuses
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn ambiguous_framing_is_refused_or_means_one_thing() {
    let lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    let client = lab.client();
    for (what, bytes, expected) in [
        (
            "different lengths",
            "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
            "400",
        ),
        (
            "a list of lengths",
            "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 3, 3\r\n\r\nabc",
            "400",
        ),
        (
            "a signed length",
            "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: +3\r\n\r\nabc",
            "400",
        ),
        (
            "a length that overflows",
            "POST / HTTP/1.1\r\nhost: cart\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "400",
        ),
        (
            "an unknown coding",
            "POST / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: gzip\r\n\r\n",
            "400",
        ),
        (
            "chunked not last",
            "POST / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            "400",
        ),
        (
            "chunked in 1.0",
            "POST / HTTP/1.0\r\nhost: cart\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        ("a folded header", "GET / HTTP/1.1\r\nhost: cart\r\nx-a: 1\r\n folded\r\n\r\n", "400"),
        (
            "a blank before the colon",
            "GET / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding : chunked\r\n\r\n",
            "400",
        ),
        ("a NUL in a header", "GET / HTTP/1.1\r\nhost: cart\r\nx-a: a\0b\r\n\r\n", "400"),
        ("a CR in a header", "GET / HTTP/1.1\r\nhost: cart\r\nx-a: a\rb\r\n\r\n", "400"),
        ("no host", "GET / HTTP/1.1\r\n\r\n", "400"),
        ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "400"),
        ("no path", "GET cart HTTP/1.1\r\nhost: cart\r\n\r\n", "400"),
        ("HTTP/2 in words", "GET / HTTP/2.0\r\nhost: cart\r\n\r\n", "400"),
        ("no HTTP", "\u{1}\u{2}\u{3}\u{4}\r\n\r\n", "400"),
    ] {
        let answer = client.raw((CART, 80), bytes.as_bytes()).await;
        assert_eq!(status(&answer), expected, "{what}: {answer}");
    }
    assert!(pod.seen().is_empty(), "an endpoint saw one of them");
}

#[tokio::test]
async fn length_and_chunks_together_smuggle_nothing() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    for lengths in [
        "content-length: 4\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 4",
    ] {
        let smuggled = "GET /admin HTTP/1.1\r\nhost: cart\r\n\r\n";
        let text =
            format!("POST /first HTTP/1.1\r\nhost: cart\r\n{lengths}\r\n\r\n0\r\n\r\n{smuggled}");
        let answer = lab.client().raw((CART, 80), text.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "one request, one answer: {answer}");
        assert!(!answer.contains("content-length\",\"4"), "the endpoint got the length: {answer}");
        assert!(!answer.contains("/admin"), "{answer}");
    }
}

#[tokio::test]
async fn a_line_that_ends_in_a_bare_line_feed_hides_nothing_from_the_endpoint() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let text = "POST / HTTP/1.1\nhost: cart\nx-a: 1\ntransfer-encoding: chunked\nconnection: close\n\n0\n\n";
    let answer = lab.client().raw((CART, 80), text.as_bytes()).await;
    // The head is taken as the two headers that it is; chunks have no such lines.
    assert_eq!(status(&answer), "400", "{answer}");
    assert!(!answer.contains("x-a\",\"1\\n"), "{answer}");
}

#[tokio::test]
async fn bombs_of_headers_are_answered_with_431() {
    let lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    let client = lab.client();
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(LONGEST_HEAD));
    let endless = "x-endless: aaaaaaaaaaaaaaaa\r\n".repeat(5000);
    for headers in [many, long, endless] {
        let text = format!("GET / HTTP/1.1\r\nhost: cart\r\n{headers}\r\n");
        let answer = client.raw((CART, 80), text.as_bytes()).await;
        assert_eq!(status(&answer), "431", "{}", headers.len());
    }
    let request = Request::get("http://cart/").header("x-long", "a".repeat(LONGEST_HEAD + 1));
    assert_eq!(client.send2((CART, 80), request, "").await.status, 431);
    assert!(pod.seen().is_empty());
}

#[tokio::test]
async fn a_head_that_does_not_end_is_given_up_and_a_silent_connection_is_not() {
    let own = "[{match: [{uri: {exact: /own}}], directResponse: {status: 418}}, {route: [{destination: {host: cart}}]}]";
    let lab = Lab::new(&http(own)).await;
    let _pod = lab.pod(1, "v1").await;
    let client = lab.client();
    let mut slow = client.stream((CART, 80)).await;
    // Answered by the endpoint, and at once by the waypoint.
    let mut idle = [client.stream((CART, 80)).await, client.stream((CART, 80)).await];
    for (stream, path) in idle.iter_mut().zip(["/", "/own"]) {
        let head = format!("GET {path} HTTP/1.1\r\nhost: cart\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream.flush().await.expect("sent");
    }
    slow.write_all(b"GET / HTTP/1.1\r\nhost: ca").await.expect("sent");
    slow.flush().await.expect("sent");
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(HEAD_TIMEOUT * 2, slow.read_to_end(&mut bytes)).await;
    assert!(ended.is_ok(), "a slow head was waited for");
    tokio::time::sleep(Duration::from_secs(1)).await;
    for mut stream in idle {
        stream
            .write_all(b"GET /again HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n")
            .await
            .expect("sent");
        stream.flush().await.expect("sent");
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.expect("both answers");
        assert_eq!(heard.matches("HTTP/1.1 ").count(), 2, "{heard}");
    }
}

#[tokio::test]
async fn a_body_that_stops_is_answered_with_408_and_a_slow_one_is_not() {
    let idle = Duration::from_secs(1);
    let lab = Lab::configured("", "[limits]\nrequest_body_idle = \"1s\"").await;
    let _pod = lab.pod(1, "v1").await;
    let client = lab.client();
    let head = "POST /upload HTTP/1.1\r\nhost: cart\r\ncontent-length: 30\r\n\r\nsome of it";
    let (began, stopped) = (clock::now(), client.raw((CART, 80), head.as_bytes()));
    let mut sender = client.http2((CART, 80)).await;
    let endless = slowly((0..2).map(|_| "0123456789"), idle * 20);
    let request = Request::post("http://cart/upload2").body(endless).expect("a request");
    let parts = (0..20).map(|_| "0123456789");
    let mut slow = client.http2((CART, 80)).await;
    let whole = Request::post("http://cart/upload").body(slowly(parts, idle / 4));
    let whole = slow.send_request(whole.expect("a request"));
    let (stopped, second, whole) = tokio::join!(
        async { (stopped.await, began.elapsed()) },
        sender.send_request(request),
        whole,
    );
    let ((answer, took), second) = (stopped, second.expect("an answer"));
    assert_eq!(status(&answer), "408", "{answer}");
    assert!(answer.contains("connection: close") && answer.ends_with("stream timeout"), "{answer}");
    assert!((idle..idle * 4).contains(&took), "{took:?}");
    assert_eq!(second.status(), 408, "by HTTP/2");
    let whole = crate::client::read(whole.expect("an answer")).await;
    assert_eq!((whole.status.as_u16(), whole.text().as_str()), (200, "200"), "it only was slow");
    lab.line(&["POST /upload HTTP/1.1", "408 SI stream_idle_timeout"]).await;
    lab.line(&["POST /upload2 HTTP/2", "408 SI stream_idle_timeout"]).await;
}

#[tokio::test]
async fn a_flood_of_resets_ends_the_connection_and_nothing_else() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let client = lab.client();
    // A request and its reset, thousands of times (CVE-2023-44487).
    let mut flood = preface();
    for number in 0..5_000_u32 {
        let stream = 2 * number + 1;
        flood.extend(frame(1, 0x5, stream, &head()));
        flood.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let heard = client.raw2((CART, 80), &flood).await;
    assert!(heard.iter().any(|(kind, _)| *kind == 7), "no GOAWAY: {heard:?}");
    assert_eq!(client.get((CART, 80), "/").await.status, 200);
}

#[tokio::test]
async fn headers_without_an_end_end_the_connection() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let client = lab.client();
    // HEADERS, then CONTINUATION for ever (CVE-2024-27316).
    let mut flood = preface();
    flood.extend(frame(1, 0x1, 1, &head()));
    let field = [vec![0, 3], b"x-a".to_vec(), vec![100], vec![b'a'; 100]].concat();
    for _ in 0..20_000 {
        flood.extend(frame(9, 0, 1, &field));
    }
    let heard = client.raw2((CART, 80), &flood).await;
    assert!(heard.iter().any(|(kind, _)| *kind == 7), "no GOAWAY: {heard:?}");
    assert_eq!(client.get((CART, 80), "/").await.status, 200);
}

#[tokio::test]
async fn a_large_body_waits_for_its_endpoint_and_not_in_memory() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream((CART, 80)).await;
    // The endpoint of /sleep reads nothing for a while.
    let head = "POST /sleep/3000 HTTP/1.1\r\nhost: cart\r\ncontent-length: 1000000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let chunk = vec![b'a'; 1 << 20];
    let mut taken = 0;
    let sent = async {
        while stream.write_all(&chunk).await.is_ok() && stream.flush().await.is_ok() {
            taken += chunk.len();
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), sent).await;
    assert!(taken > 0, "nothing was taken");
    assert!(taken < 64 << 20, "{taken} bytes were taken that nobody reads");
    assert!(!lab.log().contains("POST /sleep/3000"), "it ended before its time");
}

/// HTTP/2's preface and empty settings.
pub(crate) fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes
}

/// GET http://cart/, without Huffman (RFC 7541, appendix A).
pub(crate) fn head() -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x84, 0x01, 4];
    block.extend(b"cart");
    block
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}
