//! Shell: connections of which nobody looks at the bytes.
use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    lab::{CART, Lab},
    pod::until,
};

#[tokio::test]
async fn bytes_pass_both_ways_and_ends_are_passed_on() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream((CART, 83)).await;
    stream.write_all(b"hello").await.expect("said");
    stream.flush().await.expect("said");
    let mut heard = [0; 12];
    stream.read_exact(&mut heard).await.expect("heard");
    assert_eq!(&heard, b"cart-1:hello");
    let (mut read, mut write) = tokio::io::split(stream);
    let (ended, rest) = tokio::join!(write.shutdown(), async {
        let mut rest = Vec::new();
        read.read_to_end(&mut rest).await.map(|_| rest)
    });
    ended.expect("an end");
    assert!(rest.expect("an end").is_empty());
    lab.line(&["\"- - -\" 0 - - - \"-\" 5 12", "inbound-vip|83|tcp|cart.shop"]).await;
    let metrics = lab.get(15020, "/stats/prometheus").await.expect("metrics");
    let series = |name: &str| metrics.lines().find(|l| l.starts_with(name)).expect("a series");
    assert!(series("istio_tcp_sent_bytes_total{").ends_with(" 12"));
    assert!(series("istio_tcp_received_bytes_total{").ends_with(" 5"));
}

#[tokio::test]
async fn a_port_that_says_nothing_serves_http_by_its_first_bytes() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let answer = lab.client().get((CART, 82), "/x").await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "ok"));
    assert_eq!(answer.header("server"), Some("istio-envoy"), "it was routed");
}

#[tokio::test]
async fn a_port_that_says_nothing_passes_other_bytes() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream((CART, 82)).await;
    stream.write_all(b"\x00binary").await.expect("said");
    stream.flush().await.expect("said");
    let mut heard = [0; 14];
    let read = timeout(Duration::from_secs(5), stream.read_exact(&mut heard)).await;
    read.expect("in time").expect("heard");
    assert_eq!(&heard[..8], b"\x00cart-1:");
}

#[tokio::test]
async fn a_server_that_speaks_first_does_not_wait_for_its_client() {
    let named = "{kind: Service, apiVersion: v1, metadata: {name: mail, namespace: shop}, spec: {clusterIP: 10.96.0.8, selector: {app: cart}, ports: [{name: tcp-mail, port: 25, targetPort: 8082}]}}\n";
    let lab = Lab::new(named).await;
    let _pod = lab.pod(1, "v1").await;
    for (vip, port, what) in [([10, 96, 0, 8], 25, "named tcp-"), (CART, 82, "unnamed")] {
        let mut stream = lab.client().stream((vip, port)).await;
        let mut heard = [0; 11];
        let read = timeout(Duration::from_secs(3), stream.read_exact(&mut heard)).await;
        read.expect("the client's silence stalled the server").expect("heard");
        assert_eq!(&heard, b"220 cart-1\n", "{what}");
        stream.write_all(b"HELO\n").await.expect("said");
        stream.flush().await.expect("said");
        let mut heard = [0; 12];
        let read = timeout(Duration::from_secs(3), stream.read_exact(&mut heard)).await;
        read.expect("in time").expect("heard");
        assert_eq!(&heard, b"cart-1:HELO\n", "{what}");
    }
}

#[tokio::test]
async fn a_client_that_speaks_http_late_or_slowly_is_routed_all_the_same() {
    let lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream((CART, 82)).await;
    // Later than the silence after which the server is dialled, earlier than that one speaks.
    until("the server is dialled", || pod.seen().len() == 1).await;
    for part in ["GE", "T /late HT", "TP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n"] {
        stream.write_all(part.as_bytes()).await.expect("said");
        stream.flush().await.expect("said");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.expect("an answer");
    assert!(heard.contains("server: istio-envoy"), "{heard}");
    lab.line(&["GET /late HTTP/1.1", " 200 "]).await;
}

#[tokio::test]
async fn tls_passes_unopened() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream((CART, 84)).await;
    // A ClientHello of which only the head is there: what is no whole one has no name.
    let hello = [22, 3, 1, 0, 5, 1, 0, 0, 1, 3];
    stream.write_all(&hello).await.expect("said");
    stream.flush().await.expect("said");
    let mut heard = [0; 17];
    let read = timeout(Duration::from_secs(5), stream.read_exact(&mut heard)).await;
    read.expect("in time").expect("heard");
    assert_eq!(&heard[7..], &hello);
}

#[tokio::test]
async fn nobody_behind_a_port_is_a_reset() {
    let lab = Lab::new("").await;
    let mut stream = lab.client().stream((CART, 83)).await;
    let mut heard = Vec::new();
    assert!(stream.read_to_end(&mut heard).await.is_err(), "{heard:?}");
    lab.line(&["\"- - -\" 0 UH no_healthy_upstream"]).await;
}
