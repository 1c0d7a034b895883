//! Shell: tries that follow others, as endpoints and clients see them (docs/conformance.md, D).
use std::time::{Duration, Instant};

use culvert_agent::clock;
use futures_util::future::join_all;
use http::Request;

use crate::{
    client::Answer,
    lab::{CART, Lab},
    pod::Pod,
    script::Act,
};

/// Rules of cart with these `retries`, and what else a rule says.
fn rules(retries: &str, more: &str) -> String {
    format!(
        "{{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {{name: cart, namespace: shop}}, spec: {{hosts: [cart], http: [{{retries: {retries}, route: [{{destination: {{host: cart}}}}]{more}}}]}}}}\n"
    )
}

async fn lab(retries: &str) -> (Lab, Pod) {
    let lab = Lab::new(&rules(retries, "")).await;
    let pod = lab.pod(1, "v1").await;
    (lab, pod)
}

async fn get(lab: &Lab) -> Answer {
    lab.client().get((CART, 80), "/").await
}

/// A request to the port whose application speaks HTTP/2.
async fn call(lab: &Lab) -> Answer {
    let request = Request::post("http://cart.shop/shop.Cart/Get").header("te", "trailers");
    lab.client().send2((CART, 81), request, "").await
}

#[tokio::test]
async fn two_failures_are_hidden_by_a_third_try() {
    let (lab, pod) = lab("{attempts: 3, retryOn: 5xx}").await;
    pod.script.will([Act::Status(500), Act::Status(500)]);
    assert_eq!(get(&lab).await.status, 200);
    assert_eq!(pod.script.hits(), 3);
    lab.line(&["\"GET / HTTP/1.1\" 200 - via_upstream"]).await;
}

#[tokio::test]
async fn three_attempts_are_four_tries_and_the_last_answer_passes() {
    let (lab, pod) = lab("{attempts: 3, retryOn: 5xx}").await;
    pod.script.will([500, 501, 502, 503].map(Act::Status));
    let answer = get(&lab).await;
    assert_eq!((answer.status.as_u16(), pod.script.hits()), (503, 4));
    assert_eq!(answer.header("x-pod"), Some("cart-1"), "the endpoint's own");
    lab.line(&["503 URX via_upstream"]).await;
    let metrics = lab.get(15020, "/metrics").await.expect("metrics");
    let cluster = "{cluster_name=\"inbound-vip|80|http|cart.shop.svc.cluster.local\"}";
    for (name, value) in [("retry", 3), ("retry_limit_exceeded", 1), ("retry_success", 0)] {
        let line = format!("envoy_cluster_upstream_rq_{name}{cluster} {value}\n");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn a_try_that_hangs_is_given_up_and_repeated() {
    let (lab, pod) = lab("{attempts: 1, perTryTimeout: 500ms, retryOn: 5xx}").await;
    pod.script.will([Act::Hang]);
    let began = clock::now();
    assert_eq!((get(&lab).await.status.as_u16(), pod.script.hits()), (200, 2));
    let took = began.elapsed();
    assert!((500..1_500).contains(&took.as_millis()), "{took:?}");
    pod.script.always(Some(Act::Hang));
    let answer = get(&lab).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (504, "upstream request timeout"));
    lab.line(&["504 UT,URX upstream_per_try_timeout"]).await;
}

#[tokio::test]
async fn the_timeout_covers_all_tries() {
    let rules = rules("{attempts: 3, perTryTimeout: 600ms, retryOn: 5xx}", ", timeout: 1s");
    let lab = Lab::new(&rules).await;
    let pod = lab.pod(1, "v1").await;
    pod.script.always(Some(Act::Hang));
    let began = clock::now();
    assert_eq!(get(&lab).await.status, 504);
    let took = began.elapsed();
    assert!((950..1_500).contains(&took.as_millis()), "{took:?}");
    assert_eq!(pod.script.hits(), 2, "the second is cut");
    lab.line(&["504 UT response_timeout"]).await;
    let metrics = lab.get(15020, "/metrics").await.expect("metrics");
    let good = "envoy_cluster_upstream_rq_retry_success{cluster_name=\"inbound-vip|80|http|cart.shop.svc.cluster.local\"} 0\n";
    assert!(metrics.contains(good), "{metrics}");
    // A body changes nothing.
    let began = clock::now();
    assert_eq!(lab.client().send((CART, 80), Request::post("/"), "x").await.status, 504);
    let took = began.elapsed();
    assert!((950..1_500).contains(&took.as_millis()), "{took:?}");
    assert_eq!(pod.script.hits(), 4);
}

#[tokio::test]
async fn of_4xx_only_409_is_repeated() {
    let (lab, pod) = lab("{attempts: 1, retryOn: retriable-4xx}").await;
    for (status, seen, hits) in [(409, 200, 2), (400, 400, 1), (404, 404, 1), (429, 429, 1)] {
        let before = pod.script.hits();
        pod.script.will([Act::Status(status)]);
        assert_eq!(get(&lab).await.status, seen);
        assert_eq!(pod.script.hits() - before, hits, "{status}");
    }
}

#[tokio::test]
async fn without_a_rule_nobody_listening_is_hidden_by_another_endpoint() {
    let lab = Lab::new("").await;
    let (dead, live) = (lab.pod(1, "v1").await, lab.pod(2, "v1").await);
    dead.script.always(Some(Act::NoListener));
    for _ in 0..20 {
        let answer = get(&lab).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-pod")), (200, Some("cart-2")));
    }
    assert!(!dead.seen().is_empty(), "it was tried");
    // 503 is an answer, and passes.
    live.script.will([Act::Status(503)]);
    let before = live.script.hits();
    assert_eq!(get(&lab).await.status, 503);
    assert_eq!(live.script.hits() - before, 1);
}

#[tokio::test]
async fn a_refused_stream_is_repeated_and_a_cancelled_one_is_not() {
    let (lab, pod) = lab("{attempts: 1, retryOn: refused-stream}").await;
    pod.script.will([Act::Reset(h2::Reason::REFUSED_STREAM)]);
    assert_eq!((call(&lab).await.status.as_u16(), pod.script.hits()), (200, 2));
    pod.script.will([Act::Reset(h2::Reason::CANCEL)]);
    assert_eq!((call(&lab).await.status.as_u16(), pod.script.hits()), (503, 3));
    lab.line(&["503 UR "]).await;
}

#[tokio::test]
async fn a_status_of_grpc_in_the_head_is_repeated_and_in_trailers_it_is_not() {
    let (lab, pod) = lab("{attempts: 1, retryOn: 'unavailable,cancelled'}").await;
    for status in ["14", "1"] {
        let before = pod.script.hits();
        pod.script.will([Act::Grpc(status)]);
        assert_eq!(call(&lab).await.header("grpc-status"), None, "the second try's");
        assert_eq!(pod.script.hits() - before, 2);
        pod.script.will([Act::GrpcLate(status)]);
        let trailers = call(&lab).await.trailers.expect("trailers");
        assert_eq!(trailers["grpc-status"], status);
        assert_eq!(pod.script.hits() - before, 3);
    }
}

#[tokio::test]
async fn codes_and_words_stand_side_by_side() {
    let (lab, pod) = lab("{attempts: 1, retryOn: '503,reset'}").await;
    let cut = || Act::Reset(h2::Reason::CANCEL);
    for (act, seen, hits) in
        [(Act::Status(503), 200, 2), (Act::Status(502), 502, 1), (cut(), 200, 2)]
    {
        let before = pod.script.hits();
        pod.script.will([act.clone()]);
        assert_eq!(get(&lab).await.status, seen, "{act:?}");
        assert_eq!(pod.script.hits() - before, hits, "{act:?}");
    }
}

#[tokio::test]
async fn nothing_is_repeated_once_an_answer_has_begun() {
    let (lab, pod) = lab("{attempts: 3, retryOn: '5xx,reset'}").await;
    let heard = lab.client().raw((CART, 80), b"GET /cut HTTP/1.1\r\nhost: cart\r\n\r\n").await;
    assert!(heard.contains("half of it"), "{heard}");
    lab.line(&["GET /cut", "upstream_reset_after_response_started"]).await;
    assert_eq!(pod.script.hits(), 1);
}

#[tokio::test]
async fn a_body_is_sent_again_byte_for_byte_up_to_a_bound() {
    let (lab, pod) = lab("{attempts: 1, retryOn: 5xx}").await;
    for (length, status, tries) in [(0, 200, 2), (300_000, 200, 2), (1_200_000, 503, 1)] {
        let before = pod.asked().len();
        let body: String = ('a'..='z').cycle().take(length).collect();
        pod.script.will([Act::Status(503)]);
        let answer = lab.client().send((CART, 80), Request::post("/x"), &body).await;
        assert_eq!(answer.status, status, "{length}");
        let asked = pod.asked();
        assert_eq!(asked.len() - before, tries, "{length}");
        assert!(asked.iter().skip(before).all(|heard| heard.body == body), "{length}");
    }
}

#[tokio::test]
async fn so_many_retries_are_under_way_at_one_time() {
    let pool = "{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: cart, namespace: shop}, spec: {host: cart, trafficPolicy: {connectionPool: {http: {maxRetries: 1}}}}}\n";
    let rules = rules("{attempts: 1, retryOn: 5xx, backoff: 2s}", "");
    let lab = Lab::new(&format!("{rules}---\n{pool}")).await;
    let pod = lab.pod(1, "v1").await;
    // All fail at the same moment.
    let acts = (0..10).map(|_| Act::Sleep(Duration::from_millis(300)));
    pod.script.will(acts);
    pod.script.always(Some(Act::Status(503)));
    let warm = join_all((0..10).map(|_| get(&lab))).await;
    assert!(warm.iter().all(|answer| answer.status == 200));
    let before = pod.script.hits();
    let answers = join_all((0..10).map(|_| get(&lab))).await;
    assert!(answers.iter().all(|answer| answer.status == 503));
    let hits = pod.script.hits() - before;
    // A pause near none lets a second one follow.
    assert!((11..=13).contains(&hits), "{hits}");
    lab.line(&["503 UO via_upstream"]).await;
    let metrics = lab.get(15020, "/metrics").await.expect("metrics");
    assert!(metrics.contains("culvert_retries_active{cluster_name=\"inbound-vip|80|http|cart.shop.svc.cluster.local\"} 0\n"));
}

#[tokio::test]
async fn a_client_may_ask_for_tries() {
    let lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    pod.script.will([Act::Status(500), Act::Status(500)]);
    let request =
        Request::get("/").header("x-envoy-retry-on", "5xx").header("x-envoy-max-retries", "2");
    let answer = lab.client().send((CART, 80), request, "").await;
    assert_eq!((answer.status.as_u16(), pod.script.hits()), (200, 3));
    assert!(!answer.text().contains("x-envoy-retry-on"), "it goes no further");
}

#[tokio::test]
async fn a_pause_is_part_of_the_time() {
    let rules = rules("{attempts: 50, retryOn: 5xx, backoff: 100ms}", ", timeout: 1s");
    let lab = Lab::new(&rules).await;
    let pod = lab.pod(1, "v1").await;
    pod.script.always(Some(Act::Status(503)));
    let began: Instant = clock::now();
    assert_eq!(get(&lab).await.status, 504);
    assert!((950..1_500).contains(&began.elapsed().as_millis()));
    assert!((2..40).contains(&pod.script.hits()), "{}", pod.script.hits());
}

#[tokio::test]
async fn what_nobody_listened_for_is_repeated_without_a_rule_where_the_waypoint_is_told_so() {
    for (config, hidden) in [("[retries]\nno_listener = true", true), ("", false)] {
        let lab = Lab::configured(&rules("{attempts: 0}", ""), config).await;
        let (dead, live) = (lab.pod(1, "v1").await, lab.pod(2, "v1").await);
        dead.script.always(Some(Act::NoListener));
        let mut failed = 0;
        for _ in 0..20 {
            let answer = lab.client().send((CART, 80), Request::post("/"), "a body").await;
            failed += u32::from(answer.status == 503);
        }
        assert!(!dead.seen().is_empty(), "it was tried");
        assert_eq!(failed == 0, hidden, "{failed} of 20");
        let asked = live.asked();
        assert!(
            asked.len() as u32 == 20 - failed && asked.iter().all(|heard| heard.body == "a body")
        );
        // What was read by somebody is not.
        live.script.will([Act::Status(503)]);
        dead.script.always(None);
        dead.script.will([Act::Status(503)]);
        let before = dead.script.hits() + live.script.hits();
        let mut statuses = Vec::new();
        while dead.script.hits() + live.script.hits() < before + 40 {
            statuses.push(get(&lab).await.status.as_u16());
        }
        let passed = statuses.iter().filter(|status| **status == 503).count();
        assert_eq!((passed, statuses.len()), (2, 40), "answers pass");
    }
}

#[tokio::test]
async fn the_default_repeats_503_where_the_waypoint_is_told_so() {
    let lab = Lab::configured("", "[retries]\ndefault_503 = true").await;
    let pod = lab.pod(1, "v1").await;
    pod.script.will([Act::Status(503), Act::Status(503)]);
    assert_eq!((get(&lab).await.status.as_u16(), pod.script.hits()), (200, 3));
    pod.script.will([Act::Status(502)]);
    assert_eq!(get(&lab).await.status, 502);
}

#[tokio::test]
async fn a_budget_is_a_share_of_requests_of_now_or_of_an_interval() {
    let budget = |interval: &str| {
        let rules = rules("{attempts: 1, retryOn: 5xx, backoff: 3s}", "");
        format!(
            "{rules}---\n{{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {{name: cart, namespace: shop}}, spec: {{host: cart, trafficPolicy: {{retryBudget: {{percent: 50, minRetryConcurrency: 1{interval}}}}}}}}}\n"
        )
    };
    // The kth of twenty finds 21 - k under way, so about every third may.
    for (interval, hits) in [("", 23..=32), (", budgetInterval: 60s", 40..=40)] {
        let lab = Lab::new(&budget(interval)).await;
        let pod = lab.pod(1, "v1").await;
        // Connections are there, so that all of them fail at the same moment.
        pod.script.always(Some(Act::Sleep(Duration::from_millis(500))));
        join_all((0..20).map(|_| get(&lab))).await;
        let before = pod.script.hits();
        pod.script.always(Some(Act::Late(Duration::from_millis(500), 503)));
        let answers = join_all((0..20).map(|_| get(&lab))).await;
        assert!(answers.iter().all(|answer| answer.status == 503));
        let tried = pod.script.hits() - before;
        assert!(hits.contains(&tried), "{tried} with {interval:?}");
    }
}

#[tokio::test]
async fn pauses_are_as_long_as_their_base_says() {
    let lab = Lab::new(&rules("{attempts: 3, retryOn: 5xx, backoff: 100ms}", "")).await;
    let pod = lab.pod(1, "v1").await;
    pod.script.always(Some(Act::Status(503)));
    let timed = || async {
        let began = clock::now();
        assert_eq!(get(&lab).await.status, 503);
        began.elapsed().as_millis()
    };
    let took = join_all((0..24).map(|_| timed())).await;
    assert_eq!(pod.script.hits(), 96);
    // Pauses are even below 100, 300 and 700 ms: 550 ms together, give or take 46 for the mean of 24.
    let mean = took.iter().sum::<u128>() / 24;
    assert!((320..1_000).contains(&mean), "{mean} of {took:?}");
    assert!(took.iter().max() > took.iter().min().map(|least| least * 3 / 2).as_ref(), "{took:?}");
}

#[tokio::test]
async fn a_time_for_a_try_that_is_not_below_that_of_all_is_none() {
    let rules = rules("{attempts: 3, perTryTimeout: 400ms, retryOn: 5xx}", ", timeout: 400ms");
    let lab = Lab::new(&rules).await;
    let pod = lab.pod(1, "v1").await;
    pod.script.always(Some(Act::Hang));
    for tries in 1..=5 {
        assert_eq!(get(&lab).await.status, 504);
        assert_eq!(pod.script.hits(), tries);
        lab.line(&["504 UT response_timeout"]).await;
    }
    assert!(!lab.log().contains("upstream_per_try_timeout"));
}
