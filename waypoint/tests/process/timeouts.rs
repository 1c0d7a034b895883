//! Shell: how long requests may take (section C of the checklist, and B65).
use std::time::Duration;

use bytes::Bytes;
use culvert_agent::clock;
use http::Request;
use http_body_util::{BodyExt, Empty};

use crate::{
    client::{Client, read, slowly},
    lab::{CART, Lab},
    pod::Pod,
    rules::{self, get, seen},
};

/// The article's rule.
const RULE: &str = "[{timeout: 3s, route: [{destination: {host: cart}}]}]";
/// How far an answer may be from the rule's time, where nothing else keeps the machine busy.
const LATE: Duration = Duration::from_millis(50);
/// How often it is asked, and the pause between two.
const ASKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_timeout_is_504_ut_after_just_that_time() {
    let (lab, _pods) = rules::lab(RULE).await;
    let three = Duration::from_secs(3);
    let ask = async |pause: u32| {
        tokio::time::sleep(PAUSE * pause).await;
        let mut sender = lab.client().http1((CART, 80)).await;
        let request = Request::get("/sleep/4000").header("host", "cart.shop");
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let began = clock::now();
        let answer = read(sender.send_request(request).await.expect("a response")).await;
        let took = began.elapsed();
        let (status, text) = (answer.status.as_u16(), answer.text());
        assert_eq!((status, text.as_str()), (504, "upstream request timeout"));
        assert!(took >= three - LATE, "{took:?}");
        took
    };
    // What keeps the machine busy for a moment does not keep all of them.
    let took = futures_util::future::join_all((0..ASKS).map(ask)).await;
    assert!(took.iter().any(|took| *took <= three + LATE), "{took:?}");
    lab.line(&["504 UT response_timeout"]).await;
    let answer = get(&lab, "/", &[]).await;
    assert_eq!(seen(&answer, "x-envoy-expected-rq-timeout-ms").as_deref(), Some("3000"));
}

#[tokio::test]
async fn the_time_runs_from_the_end_of_the_request() {
    let (lab, _pods) = rules::lab(RULE).await;
    let slow = slowly((0..20).map(|_| "0123456789"), Duration::from_millis(500));
    let mut sender = lab.client().http1((CART, 80)).await;
    let request = Request::post("/upload").header("host", "cart").body(slow).expect("a request");
    let began = clock::now();
    let answer = read(sender.send_request(request).await.expect("a response")).await;
    assert!(began.elapsed() >= Duration::from_secs(10));
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "200"));
}

#[tokio::test]
async fn a_calls_deadline_may_shorten_the_time_and_not_lengthen_it() {
    let (lab, _pods) = rules::lab(RULE).await;
    for (asked, least, most) in [("1S", 950, 2500), ("9S", 2950, 4500)] {
        let request = Request::post("http://cart/sleep/8000")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", asked);
        let began = clock::now();
        let call = lab.client().send2((CART, 81), request, "").await;
        let took = began.elapsed().as_millis();
        assert_eq!((call.status.as_u16(), call.header("grpc-status")), (200, Some("4")));
        assert!((least..most).contains(&took), "{asked}: {took} ms");
    }
}

#[tokio::test]
async fn calls_that_stream_outlast_a_timeout_until_their_client_is_done() {
    let (lab, _pods) = rules::lab("[{timeout: 300ms, route: [{destination: {host: cart}}]}]").await;
    let mut sender = lab.client().http2((CART, 81)).await;
    let said = slowly((0..5).map(|_| "more"), Duration::from_millis(200));
    let call = Request::post("http://cart/shop.Cart/Talk")
        .header("content-type", "application/grpc")
        .body(said)
        .expect("a request");
    let mut answer = sender.send_request(call).await.expect("an answer").into_body();
    let (mut heard, mut status) = (0, None);
    while let Some(frame) = answer.frame().await {
        match frame.expect("a frame").into_data() {
            Ok(data) => heard += data.len(),
            Err(frame) => status = frame.trailers_ref().map(|all| all["grpc-status"].clone()),
        }
    }
    assert_eq!((heard, status.as_ref().map(|s| s.as_bytes())), (20, Some(&b"0"[..])));
}

#[tokio::test]
async fn websockets_outlast_a_timeout() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (lab, _pods) = rules::lab("[{timeout: 300ms, route: [{destination: {host: cart}}]}]").await;
    let mut stream = lab.client().stream((CART, 80)).await;
    stream.write_all(b"GET /socket HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await.expect("said");
    stream.flush().await.expect("said");
    let mut heard = vec![0; 4096];
    let length = stream.read(&mut heard).await.expect("an answer");
    assert!(heard[..length].starts_with(b"HTTP/1.1 101"));
    tokio::time::sleep(Duration::from_millis(800)).await;
    stream.write_all(b"late").await.expect("said");
    stream.flush().await.expect("said");
    let mut late = [0; 4];
    stream.read_exact(&mut late).await.expect("heard");
    assert_eq!(&late, b"LATE");
}

#[tokio::test]
async fn without_a_timeout_an_answer_may_take_a_minute() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let began = clock::now();
    assert_eq!(lab.client().get((CART, 80), "/sleep/60000").await.status, 200);
    assert!(began.elapsed() >= Duration::from_secs(60));
}

#[tokio::test]
async fn a_client_may_limit_its_own_request() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let request = Request::get("/sleep/2000").header("x-envoy-upstream-rq-timeout-ms", "200");
    let answer = lab.client().send((CART, 80), request, "").await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (504, "upstream request timeout"));
    lab.line(&["504 UT response_timeout"]).await;
    let request = Request::get("/").header("x-envoy-upstream-rq-timeout-ms", "2000");
    let answer = lab.client().send((CART, 80), request, "").await;
    assert_eq!(seen(&answer, "x-envoy-expected-rq-timeout-ms").as_deref(), Some("2000"));
    assert_eq!(seen(&answer, "x-envoy-upstream-rq-timeout-ms"), None);
}

#[tokio::test]
async fn a_call_ends_at_its_own_deadline() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let request = Request::post("http://cart/sleep/2000")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "200m");
    let answer = lab.client().send2((CART, 81), request, "").await;
    assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, Some("4")));
}

/// Leaves while the endpoint works, and waits until that knows.
async fn leave(client: &Client<'_>, pod: &Pod, port: u16) {
    let request = Request::get(format!("http://cart/sleep/6000{port}")).header("host", "cart");
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    let mut sender = client.http2((CART, port)).await;
    let asked = sender.send_request(request);
    tokio::select! {
        answer = asked => panic!("{answer:?}"),
        () = pod.begun(1) => {}
    }
    pod.left(1).await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request_at_the_endpoint() {
    for port in [80, 81] {
        let lab = Lab::new("").await;
        let pod = lab.pod(1, "v1").await;
        leave(&lab.client(), &pod, port).await;
        let line = lab.line(&[&format!("GET /sleep/6000{port}")]).await;
        assert!(line.contains(" 0 DC downstream_remote_disconnect "), "{line}");
        if port == 81 {
            // The stream alone was reset: its connection takes the next request.
            assert_eq!(lab.client().get((CART, 81), "/").await.status, 200);
            assert_eq!(pod.seen().len(), 1, "another connection");
        }
    }
}
