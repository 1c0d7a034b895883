//! Shell: how a waypoint stops, and how it follows its folder.
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;

use crate::{
    client::read,
    lab::{CART, Lab},
};

#[tokio::test]
async fn asked_to_stop_it_finishes_what_it_has_begun() {
    let mut lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    let client = lab.client();
    let (mut first, mut second) = (client.http1((CART, 80)).await, client.http2((CART, 80)).await);
    let request = |uri: &str| {
        Request::get(uri).header("host", "cart").body(Empty::<Bytes>::new()).expect("a request")
    };
    let slow = async {
        let asked = tokio::join!(
            first.send_request(request("/sleep/2500")),
            second.send_request(request("http://cart/sleep/2500")),
        );
        let (one, two) = (asked.0.expect("a response"), asked.1.expect("a response"));
        (read(one).await.status, read(two).await.status)
    };
    let stop = async {
        pod.begun(2).await;
        lab.terminate();
        while lab.get(15021, "/healthz/ready").await.is_some() {}
        // GOAWAY: its agents ask for no tunnel any more, and nobody listens for another connection.
        // What came in the moment of the change is still served.
        let refused = tokio::time::timeout(Duration::from_secs(2), nobody_listens(&lab)).await;
        assert!(refused.is_ok(), "it takes further tunnels");
        assert!(!pod.is_idle(), "what was begun ended before");
    };
    let (answers, ()) = tokio::join!(slow, stop);
    assert_eq!((answers.0.as_u16(), answers.1.as_u16()), (200, 200));
    for _ in 0..200 {
        if lab.has_stopped() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it does not stop");
}

async fn nobody_listens(lab: &Lab) {
    while lab.client().tunnel((CART, 80)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn it_follows_pods_that_come_and_go() {
    let lab = Lab::new("").await;
    let first = lab.pod(1, "v1").await;
    assert_eq!(lab.client().get((CART, 80), "/").await.json()["pod"], "cart-1");
    let _second = lab.pod(2, "v1").await;
    lab.write("cart-1.yaml", "");
    lab.until(|dump| !dump.contains("cart-1")).await;
    drop(first);
    for _ in 0..4 {
        assert_eq!(lab.client().get((CART, 80), "/").await.json()["pod"], "cart-2");
    }
}

#[tokio::test]
async fn a_limit_on_requests_is_a_503_that_says_overload() {
    let lab = Lab::configured("", "[limits]\nmax_requests = 1").await;
    let pod = lab.pod(1, "v1").await;
    let client = lab.client();
    let (slow, refused) = tokio::join!(client.get((CART, 80), "/sleep/1000"), async {
        pod.begun(1).await;
        client.get((CART, 80), "/").await
    });
    assert_eq!((slow.status.as_u16(), refused.status.as_u16()), (200, 503));
    assert_eq!(refused.header("x-envoy-overloaded"), Some("true"));
    assert!(refused.text().ends_with("reset reason: overflow"), "{}", refused.text());
    lab.line(&["503 UO"]).await;
}
