//! Shell: whose time a request's time is, while its connection or its body is waited for
//! (docs/conformance.md, C and D).
use std::{net::SocketAddr, time::Duration};

use culvert_agent::clock;
use futures_util::future::join_all;
use http::Request;
use tokio::net::TcpListener;

use crate::{
    client::Answer,
    lab::{CART, Lab},
    rules::seen,
    script::Act,
};

/// Cart called like this, by these rules.
fn rules(policy: &str, rule: &str) -> String {
    format!(
        "{{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {{name: cart, namespace: shop}}, spec: {{host: cart, trafficPolicy: {policy}}}}}\n---\n\
         {{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {{name: cart, namespace: shop}}, spec: {{hosts: [cart], http: [{{{rule}, route: [{{destination: {{host: cart}}}}]}}]}}}}\n"
    )
}

/// An endpoint that takes connections and says nothing.
async fn silent(lab: &Lab, host: u8) -> TcpListener {
    let at = SocketAddr::new(lab.address(host), 15008);
    let listener = TcpListener::bind(at).await.expect("a listener");
    lab.declare(host, "v1").await;
    listener
}

/// A request with a body, of a client that waits for so many milliseconds, by the port's version.
async fn post(lab: &Lab, port: u16, time: Option<u32>, body: &str) -> (Answer, Duration) {
    let mut request = Request::post("http://cart/").header("host", "cart");
    if let Some(time) = time {
        request = request.header("x-envoy-upstream-rq-timeout-ms", time.to_string());
    }
    let began = clock::now();
    let client = lab.client();
    let answer = match port {
        80 => client.send((CART, port), request, body).await,
        _ => client.send2((CART, port), request, body).await,
    };
    (answer, began.elapsed())
}

fn is_late((answer, took): &(Answer, Duration)) {
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!((290..1_500).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn a_body_that_nobody_takes_yet_does_not_stop_the_time() {
    let policy = "{connectionPool: {tcp: {connectTimeout: 3s}}}";
    let lab = Lab::new(&rules(policy, "timeout: 300ms")).await;
    let _silent = silent(&lab, 1).await;
    for port in [80, 81] {
        is_late(&post(&lab, port, None, "x").await);
    }
    lab.line(&["504 UT response_timeout"]).await;
}

#[tokio::test]
async fn a_body_that_waits_for_a_place_does_not_stop_the_time() {
    let policy = "{connectionPool: {tcp: {maxConnections: 1}}}";
    let lab = Lab::new(&rules(policy, "retries: {attempts: 0}")).await;
    let pod = lab.pod(1, "v1").await;
    pod.script.always(Some(Act::Hang));
    let (client, late) = (lab.client(), async {
        while pod.script.hits() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        post(&lab, 80, Some(300), "x").await
    });
    tokio::select! {
        answer = client.get((CART, 80), "/") => panic!("{answer:?}"),
        late = tokio::time::timeout(Duration::from_secs(5), late) => is_late(&late.expect("an answer")),
    }
}

#[tokio::test]
async fn an_endpoint_that_takes_no_more_of_a_body_has_the_time_of_the_rule() {
    let lab = Lab::new(&rules("{loadBalancer: {simple: RANDOM}}", "timeout: 300ms")).await;
    let pod = lab.pod(1, "v1").await;
    pod.script.always(Some(Act::Hang));
    let long = "x".repeat(8 << 20);
    let asked = post(&lab, 81, None, &long);
    let answer = tokio::time::timeout(Duration::from_secs(10), asked).await.expect("an answer").0;
    assert_eq!(answer.status, 504);
    lab.line(&["504 UT response_timeout"]).await;
}

#[tokio::test]
async fn the_time_of_a_try_begins_with_its_connection() {
    let policy =
        "{loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {tcp: {connectTimeout: 800ms}}}";
    let rule = "retries: {attempts: 1, perTryTimeout: 300ms, retryOn: connect-failure}";
    let lab = Lab::new(&rules(policy, rule)).await;
    let _silent = silent(&lab, 1).await;
    let pod = lab.pod(2, "v1").await;
    for _ in 0..4 {
        assert_eq!(lab.client().get((CART, 80), "/").await.status, 200);
        assert_eq!(post(&lab, 80, None, "x").await.0.status, 200);
    }
    assert_eq!(pod.script.hits(), 8);
}

#[tokio::test]
async fn a_dial_that_fails_fails_for_all_who_wait() {
    let policy = "{connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s}}}";
    let lab = Lab::new(&rules(policy, "retries: {attempts: 0}")).await;
    let _silent = silent(&lab, 1).await;
    let client = lab.client();
    let began = clock::now();
    let answers = join_all((0..5).map(|_| client.get((CART, 80), "/"))).await;
    assert!(answers.iter().all(|answer| answer.status == 503));
    assert!(began.elapsed() < Duration::from_millis(1_900), "{:?}", began.elapsed());
    // Whoever comes later dials anew.
    let began = clock::now();
    assert_eq!(client.get((CART, 80), "/").await.status, 503);
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test]
async fn each_try_is_told_what_time_is_left() {
    let rule = "timeout: 2s, retries: {attempts: 1, perTryTimeout: 500ms, retryOn: 5xx}";
    let lab = Lab::new(&rules("{loadBalancer: {simple: RANDOM}}", rule)).await;
    let pod = lab.pod(1, "v1").await;
    let told = |answer: &Answer| -> u64 {
        let text = seen(answer, "x-envoy-expected-rq-timeout-ms").expect("a time");
        text.parse().expect("a number")
    };
    assert_eq!(told(&lab.client().get((CART, 80), "/").await), 500);
    let all = rules(
        "{loadBalancer: {simple: RANDOM}}",
        "timeout: 2s, retries: {attempts: 1, retryOn: 5xx}",
    );
    let slow = Lab::new(&all).await;
    let late = slow.pod(1, "v1").await;
    late.script.will([Act::Late(Duration::from_millis(600), 503)]);
    let left = told(&slow.client().get((CART, 80), "/").await);
    assert!((900..=1_400).contains(&left), "{left}");
    assert_eq!((pod.script.hits(), late.script.hits()), (1, 2));
}
