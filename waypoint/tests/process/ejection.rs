//! Shell: endpoints that fail and return, as clients and operators see them (docs/conformance.md, F).
use std::{process::Command, time::Duration};

use culvert_agent::clock;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    lab::{CART, Lab},
    pod::Pod,
    script::Act,
};

/// Cart with this detection, endpoints in turn, and no second tries.
fn rules(detection: &str) -> String {
    format!(
        "{{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {{name: cart, namespace: shop}}, spec: {{host: cart, trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}, outlierDetection: {detection}}}}}}}\n---\n\
         {{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {{name: cart, namespace: shop}}, spec: {{hosts: [cart], http: [{{retries: {{attempts: 0}}, route: [{{destination: {{host: cart}}}}]}}]}}}}\n"
    )
}

async fn lab(detection: &str, pods: u8) -> (Lab, Vec<Pod>) {
    let lab = Lab::new(&rules(detection)).await;
    let mut all = Vec::new();
    for host in 1..=pods {
        all.push(lab.pod(host, "v1").await);
    }
    (lab, all)
}

/// How many of so many requests fail.
async fn failed(lab: &Lab, count: usize) -> usize {
    let mut failed = 0;
    for _ in 0..count {
        failed += usize::from(lab.client().get((CART, 80), "/").await.status != 200);
    }
    failed
}

/// What an operator is told of one endpoint.
async fn endpoint(lab: &Lab, host: u8) -> Value {
    let answer = lab.get(15000, "/endpoints?service=cart.shop:80").await.expect("an answer");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let all = answer["backends"][0]["endpoints"].as_array().expect("endpoints").clone();
    let name = format!("shop/cart-{host}");
    all.into_iter().find(|one| one["name"] == *name).expect("this endpoint")
}

#[tokio::test]
async fn whoever_fails_is_left_out_for_its_time_and_returns() {
    let detection =
        "{consecutive5xxErrors: 3, interval: 500ms, baseEjectionTime: 2s, maxEjectionPercent: 50}";
    let (lab, pods) = lab(detection, 2).await;
    assert_eq!(endpoint(&lab, 1).await["state"], "healthy");
    pods[0].script.always(Some(Act::Status(500)));
    assert_eq!(failed(&lab, 20).await, 3, "three in a row");
    assert_eq!(pods[0].script.hits(), 3);
    let out = clock::now();
    let shown = endpoint(&lab, 1).await;
    assert_eq!(shown["state"], "ejected", "{shown}");
    assert!(shown["returnsIn"].as_str().is_some_and(|text| text.ends_with('s')), "{shown}");
    let metrics = lab.get(15020, "/metrics").await.expect("metrics");
    let cluster = "{cluster_name=\"inbound-vip|80|http|cart.shop.svc.cluster.local\"}";
    for line in ["membership_healthy", "outlier_detection_ejections_active"] {
        let line = format!("envoy_cluster_{line}{cluster} 1\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    pods[0].script.always(None);
    while pods[0].script.hits() == 3 {
        assert_eq!(failed(&lab, 1).await, 0);
        assert!(out.elapsed() < Duration::from_secs(5), "it does not return");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = out.elapsed();
    // At the first sweep after its time; our clock began a little later than its time.
    assert!((1_700..=2_900).contains(&took.as_millis()), "{took:?}");
    assert_eq!(endpoint(&lab, 1).await["state"], "healthy");
}

#[tokio::test]
async fn by_default_a_tenth_may_be_out_so_none_of_two() {
    let (lab, pods) = lab("{consecutive5xxErrors: 2}", 2).await;
    pods[0].script.always(Some(Act::Status(500)));
    assert_eq!(failed(&lab, 20).await, 10);
}

#[tokio::test]
async fn all_out_is_503_uh_unless_so_few_are_healthy_that_all_are_asked() {
    for (percent, text, hits) in [(0, "no healthy upstream", 2), (30, "", 3)] {
        let detection = format!(
            "{{consecutive5xxErrors: 2, maxEjectionPercent: 100, minHealthPercent: {percent}}}"
        );
        let (lab, pods) = lab(&detection, 1).await;
        pods[0].script.always(Some(Act::Status(500)));
        assert_eq!(failed(&lab, 2).await, 2);
        let answer = lab.client().get((CART, 80), "/").await;
        assert!(answer.text().contains(text), "{}", answer.text());
        assert_eq!(pods[0].script.hits(), hits, "{percent}");
        if percent == 0 {
            lab.line(&["503 UH no_healthy_upstream"]).await;
        }
    }
}

#[tokio::test]
async fn agents_that_say_that_nobody_listens_and_silence_count() {
    let detection = "{consecutive5xxErrors: 2, maxEjectionPercent: 50}";
    let (lab, pods) = lab(detection, 2).await;
    pods[0].script.always(Some(Act::NoListener));
    assert_eq!(failed(&lab, 12).await, 2);
    assert_eq!(pods[0].seen().len(), 2);
    let silent = rules(detection).replace("retries: {attempts: 0}", "timeout: 300ms");
    let lab = Lab::new(&silent).await;
    let pods = [lab.pod(1, "v1").await, lab.pod(2, "v1").await];
    pods[0].script.always(Some(Act::Hang));
    assert_eq!(failed(&lab, 12).await, 2);
    assert_eq!(pods[0].script.hits(), 2);
}

#[tokio::test]
async fn what_is_not_the_endpoints_does_not_count() {
    let detection = "{consecutive5xxErrors: 2, maxEjectionPercent: 100}";
    let faults = rules(detection).replace(
        "retries: {attempts: 0}",
        "match: [{uri: {prefix: /fault}}], fault: {abort: {httpStatus: 503, percentage: {value: 100}}}",
    );
    let text = faults.replace("}}]}]}}\n", "}}]}, {route: [{destination: {host: cart}}]}]}}\n");
    let lab = Lab::new(&text).await;
    let _pod = lab.pod(1, "v1").await;
    // All in a row: an answer between two would end a run.
    for (path, expected) in [("/fault", 503), ("/status/403", 403), ("/status/404", 404)] {
        for _ in 0..5 {
            assert_eq!(lab.client().get((CART, 80), path).await.status, expected);
        }
        assert_eq!(lab.client().get((CART, 80), "/").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn connections_of_bytes_that_cannot_be_made_count_too() {
    let (lab, pods) = lab("{consecutive5xxErrors: 2, maxEjectionPercent: 50}", 2).await;
    pods[0].script.always(Some(Act::NoListener));
    let mut lost = 0;
    for _ in 0..10 {
        let mut stream = lab.client().stream((CART, 83)).await;
        let mut heard = [0; 12];
        let talk = async {
            stream.write_all(b"hello").await?;
            stream.flush().await?;
            stream.read_exact(&mut heard).await
        };
        lost += usize::from(talk.await.is_err());
    }
    assert_eq!(lost, 2);
}

#[tokio::test]
async fn people_see_it_in_a_table() {
    let (lab, pods) = lab("{consecutive5xxErrors: 1, maxEjectionPercent: 50}", 2).await;
    pods[0].script.always(Some(Act::Status(500)));
    assert_eq!(failed(&lab, 4).await, 1);
    let address = format!("{}:15000", lab.address(9));
    let said = tokio::task::spawn_blocking(move || {
        let culvert = env!("CARGO_BIN_EXE_culvert");
        Command::new(culvert).args(["--waypoint", &address, "endpoints", "cart.shop:80"]).output()
    });
    let said = said.await.expect("a task").expect("an answer");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("shop/cart-1")).expect("a line");
    assert!(said.status.success() && line.contains("ejected"), "{text}");
}

#[tokio::test]
async fn of_four_of_which_three_fail_half_are_left_out() {
    let detection = "{consecutive5xxErrors: 2, maxEjectionPercent: 50}";
    let (lab, pods) = lab(detection, 4).await;
    for pod in &pods[..3] {
        pod.script.always(Some(Act::Status(500)));
    }
    failed(&lab, 40).await;
    let mut out = 0;
    for host in 1..=4 {
        out += usize::from(endpoint(&lab, host).await["state"] == "ejected");
    }
    assert_eq!(out, 2);
    let metrics = lab.get(15020, "/metrics").await.expect("metrics");
    let overflow = "outlier_detection_ejections_overflow{cluster_name=\"inbound-vip|80|http|cart.shop.svc.cluster.local\"} 0";
    assert!(!metrics.contains(overflow), "the third would have been one too many");
}

#[tokio::test]
async fn errors_of_gateways_may_be_all_that_counts() {
    let detection =
        "{consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, maxEjectionPercent: 50}";
    let (lab, pods) = lab(detection, 2).await;
    pods[0].script.always(Some(Act::Status(500)));
    assert_eq!(failed(&lab, 20).await, 10);
    pods[0].script.always(Some(Act::Status(503)));
    assert_eq!(failed(&lab, 20).await, 2);
}

#[tokio::test]
async fn two_subsets_know_nothing_of_each_other() {
    let subset = |name: &str| format!("{{name: {name}, labels: {{version: v1}}}}");
    let subsets = format!("spec: {{host: cart, subsets: [{}, {}], ", subset("one"), subset("two"));
    let rules = rules("{consecutive5xxErrors: 2, maxEjectionPercent: 50}")
        .replace("spec: {host: cart, ", &subsets)
        .replace(
            "http: [{",
            "http: [{match: [{uri: {prefix: /one}}], retries: {attempts: 0}, route: [{destination: {host: cart, subset: one}}]}, {",
        )
        .replace("route: [{destination: {host: cart}}]", "route: [{destination: {host: cart, subset: two}}]");
    let lab = Lab::new(&rules).await;
    let pods = [lab.pod(1, "v1").await, lab.pod(2, "v1").await];
    pods[0].script.always(Some(Act::Status(500)));
    for (path, mut failures) in [("/one", 2), ("/two", 2), ("/one", 0), ("/two", 0)] {
        for _ in 0..12 {
            failures -= i32::from(lab.client().get((CART, 80), path).await.status != 200);
        }
        assert_eq!(failures, 0, "{path}");
    }
}

#[tokio::test]
async fn each_request_that_waited_for_a_dial_that_failed_counts_as_in_envoy() {
    let text = rules("{consecutive5xxErrors: 3, maxEjectionPercent: 100}").replace(
        "trafficPolicy: {",
        "trafficPolicy: {connectionPool: {tcp: {connectTimeout: 1500ms}}, ",
    );
    let lab = Lab::new(&text).await;
    // Its agent takes connections and says nothing.
    let at = std::net::SocketAddr::new(lab.address(1), 15008);
    let listener = tokio::net::TcpListener::bind(at).await.expect("a listener");
    lab.declare(1, "v1").await;
    // A second one would mean that they do not share the first.
    let dials = async { (listener.accept().await, listener.accept().await) };
    let client = lab.client();
    let asked = futures_util::future::join_all((0..3).map(|_| client.get((CART, 81), "/")));
    tokio::select! {
        answers = asked => assert!(answers.iter().all(|answer| answer.status == 503)),
        dials = dials => panic!("{dials:?}"),
    }
    let shown = lab.get(15000, "/endpoints?service=cart.shop:81").await.expect("an answer");
    assert!(shown.contains("\"ejected\""), "{shown}");
}
