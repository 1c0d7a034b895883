//! Shell: websockets: how long they last, how they end, and what is known of them.
use std::time::Duration;

use culvert_waypoint::listener::{TunnelStream, serve::HEAD_TIMEOUT};
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use crate::{
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

async fn say(stream: &mut TunnelStream, text: &str) {
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
