//! Shell: what counts against an endpoint, and what its clients or we ourselves broke
//! (docs/conformance.md, D and F).
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;

use crate::{
    client::slowly,
    hostile::{frame, preface},
    lab::{CART, Lab},
    pod::until,
    script::Act,
};

/// A rule of cart's.
fn policy(text: &str) -> String {
    format!(
        "{{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {{name: cart, namespace: shop}}, spec: {{host: cart, trafficPolicy: {text}}}}}\n"
    )
}

/// POST http://cart/ without an end (RFC 7541, appendix A).
fn post() -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x84, 0x01, 4];
    block.extend(b"cart");
    block
}

#[tokio::test]
async fn a_client_that_breaks_its_request_off_is_no_failure_of_the_endpoint() {
    let detection = "{outlierDetection: {consecutive5xxErrors: 2, maxEjectionPercent: 100, baseEjectionTime: 60s}}";
    let lab = Lab::new(&policy(detection)).await;
    let pod = lab.pod(1, "v1").await;
    // INTERNAL_ERROR, and PROTOCOL_ERROR.
    for (number, reason) in [2_u32, 1, 2, 1, 2, 1, 2, 1].into_iter().enumerate() {
        let mut stream = lab.client().stream((CART, 81)).await;
        let begun = [preface(), frame(1, 0x4, 1, &post()), frame(0, 0, 1, b"half")].concat();
        stream.write_all(&begun).await.expect("said");
        stream.flush().await.expect("said");
        until("the application has it", || pod.script.hits() > number).await;
        stream.write_all(&frame(3, 0, 1, &reason.to_be_bytes())).await.expect("said");
        stream.flush().await.expect("said");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let answer = lab.client().send2((CART, 81), Request::get("http://cart/"), "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn half_a_body_is_none_whatever_its_client_says_when_it_leaves() {
    let lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    for number in 0..20_usize {
        let mut stream = lab.client().stream((CART, 80)).await;
        let begun = [preface(), frame(1, 0x4, 1, &post()), frame(0, 0, 1, b"half")].concat();
        stream.write_all(&begun).await.expect("said");
        stream.flush().await.expect("said");
        until("the application has it", || pod.script.hits() > number).await;
        // NO_ERROR.
        stream.write_all(&frame(3, 0, 1, &[0; 4])).await.expect("said");
        stream.flush().await.expect("said");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(pod.asked().is_empty(), "the application took it for whole: {:?}", pod.asked());
}

#[tokio::test]
async fn a_request_that_a_leaving_endpoint_did_not_take_is_tried_again() {
    let lab = Lab::new(LEAVING).await;
    let pod = lab.pod(1, "v1").await;
    let to = ([10, 96, 0, 8], 90);
    let answer = lab.client().send2(to, Request::post("http://leaving/"), "hello").await;
    assert_eq!((answer.status.as_u16(), pod.seen().len()), (200, 2), "{}", answer.text());
    assert_eq!(answer.json()["body"], "hello");
}

/// On the first connection the application answers with GOAWAY.
const LEAVING: &str = "{kind: Service, apiVersion: v1, metadata: {name: leaving, namespace: shop}, spec: {clusterIP: 10.96.0.8, selector: {app: cart}, ports: [{name: http2, port: 90, targetPort: 8090}]}}\n";

#[tokio::test]
async fn an_answer_passes_whole_also_when_another_try_was_refused() {
    let budget = "{retryBudget: {percent: 0, minRetryConcurrency: 0}}";
    let lab = Lab::new(&policy(budget)).await;
    let pod = lab.pod(1, "v1").await;
    pod.script.will([Act::Early(503)]);
    let body = slowly((0..20).map(|_| "0123456789"), Duration::from_millis(100));
    let request = Request::post("/").header("host", "cart").header("x-envoy-retry-on", "5xx");
    let mut sender = lab.client().http1((CART, 80)).await;
    let answer = sender.send_request(request.body(body).expect("a request")).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 503);
    let body: Bytes = answer.into_body().collect().await.expect("a whole body").to_bytes();
    assert_eq!(body.len(), 1_000);
    assert_eq!(pod.script.hits(), 1);
    lab.line(&["503 UO via_upstream"]).await;
}

#[tokio::test]
async fn an_agent_that_denies_us_says_so_and_is_not_left_out() {
    let detection = "{outlierDetection: {consecutive5xxErrors: 2, maxEjectionPercent: 100}}";
    let service = "{kind: Service, apiVersion: v1, metadata: {name: denied, namespace: shop}, spec: {clusterIP: 10.96.0.9, selector: {app: cart}, ports: [{name: http, port: 90, targetPort: 8087}]}}\n";
    let rules = policy(detection).replace("host: cart", "host: denied");
    let lab = Lab::new(&format!("{service}---\n{rules}")).await;
    let _pod = lab.pod(1, "v1").await;
    for _ in 0..4 {
        let answer = lab.client().get(([10, 96, 0, 9], 90), "/").await;
        assert_eq!(answer.status, 503);
        assert!(answer.text().contains("policy denies"), "{}", answer.text());
    }
    lab.line(&["503 UF upstream_reset_before_response_started{connection_denied}"]).await;
}
