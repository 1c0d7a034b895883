//! Shell: who takes requests, and how many there may be (docs/conformance.md, E).
use std::{collections::BTreeMap, time::Duration};

use culvert_agent::clock;
use futures_util::future::join_all;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    client::Answer,
    lab::{CART, Lab},
    pod::Pod,
    script::Act,
};

/// A policy for calls of cart.
fn policy(text: &str) -> String {
    format!(
        "{{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {{name: cart, namespace: shop}}, spec: {{host: cart, trafficPolicy: {text}}}}}\n"
    )
}

/// A mesh with this policy, and so many pods.
async fn lab(text: &str, pods: u8) -> (Lab, Vec<Pod>) {
    let lab = Lab::new(&policy(text)).await;
    let mut all = Vec::new();
    for host in 1..=pods {
        all.push(lab.pod(host, "v1").await);
    }
    (lab, all)
}

async fn get(lab: &Lab, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get("/?user=9");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    lab.client().send((CART, 80), request, "").await
}

fn pod_of(answer: &Answer) -> String {
    answer.header("x-pod").unwrap_or_default().to_owned()
}

/// How many of so many requests at once come to which status.
async fn at_once(lab: &Lab, port: u16, count: usize) -> BTreeMap<u16, usize> {
    let client = lab.client();
    let mut statuses = BTreeMap::new();
    for answer in join_all((0..count).map(|_| client.get((CART, port), "/"))).await {
        *statuses.entry(answer.status.as_u16()).or_default() += 1;
        if answer.status == 503 {
            assert_eq!(answer.header("x-envoy-overloaded"), Some("true"));
            assert_eq!(
                answer.text(),
                "upstream connect error or disconnect/reset before headers. reset reason: overflow"
            );
        }
    }
    statuses
}

/// A policy that says nothing new.
const BALANCED: &str = "{loadBalancer: {simple: LEAST_REQUEST}}";

const SLOW: Act = Act::Sleep(Duration::from_millis(700));

#[tokio::test]
async fn endpoints_take_turns() {
    let (lab, pods) = lab("{loadBalancer: {simple: ROUND_ROBIN}}", 3).await;
    for _ in 0..30 {
        assert_eq!(get(&lab, &[]).await.status, 200);
    }
    let hits: Vec<_> = pods.iter().map(|pod| pod.script.hits()).collect();
    assert_eq!(hits, [10, 10, 10]);
}

#[tokio::test]
async fn the_one_with_fewer_requests_is_preferred() {
    let (lab, pods) = lab("{loadBalancer: {simple: LEAST_REQUEST}}", 2).await;
    pods[0].script.always(Some(Act::Hang));
    let (lab, slow) = (&lab, &pods[0]);
    // Whoever meets the slow one stays there.
    let stuck = join_all((0..6).map(|_| get(lab, &[])));
    let others = async {
        while slow.script.hits() == 0 {
            let _ = tokio::time::timeout(Duration::from_millis(300), get(lab, &[])).await;
        }
        let before = slow.script.hits();
        for _ in 0..160 {
            let _ = tokio::time::timeout(Duration::from_millis(100), get(lab, &[])).await;
        }
        slow.script.hits() - before
    };
    // Both of the two are the slow one for 40 of 160; at random it would be 80.
    tokio::select! {
        on_slow = others => assert!((20..=60).contains(&on_slow), "{on_slow}"),
        _ = async { stuck.await; std::future::pending::<()>().await } => {}
    }
}

#[tokio::test]
async fn a_key_leads_to_one_endpoint() {
    for hash in [
        "{httpHeaderName: x-user}",
        "{httpHeaderName: x-user, maglev: {tableSize: 251}}",
        "{httpQueryParameterName: user}",
        "{useSourceIp: true}",
        "{httpCookie: {name: user}}",
    ] {
        let (lab, _pods) = lab(&format!("{{loadBalancer: {{consistentHash: {hash}}}}}"), 4).await;
        let mut pods = Vec::new();
        for _ in 0..8 {
            let answer = get(&lab, &[("x-user", "anna"), ("cookie", "user=anna")]).await;
            pods.push(pod_of(&answer));
        }
        pods.dedup();
        assert_eq!(pods.len(), 1, "{hash}");
    }
}

#[tokio::test]
async fn a_client_without_its_cookie_is_given_one() {
    let hash = "{httpCookie: {name: user, path: /, ttl: 60s}}";
    let (lab, _pods) = lab(&format!("{{loadBalancer: {{consistentHash: {hash}}}}}"), 4).await;
    let first = get(&lab, &[]).await;
    let given = first.header("set-cookie").expect("a cookie").to_owned();
    assert!(given.ends_with("; Max-Age=60; Path=/; HttpOnly"), "{given}");
    let cookie = given.split(';').next().expect("a pair");
    for _ in 0..8 {
        let again = get(&lab, &[("cookie", cookie)]).await;
        assert_eq!(pod_of(&again), pod_of(&first));
        assert_eq!(again.header("set-cookie"), None);
    }
}

#[tokio::test]
async fn beyond_connections_requests_wait_and_beyond_those_they_are_refused() {
    let pool = "{connectionPool: {tcp: {maxConnections: 4}, http: {http1MaxPendingRequests: 3}}}";
    let (lab, pods) = lab(pool, 1).await;
    pods[0].script.always(Some(SLOW));
    // Requests wait also while a connection is made, so not all come at one moment.
    let at = async |after: u64, count: usize| {
        tokio::time::sleep(Duration::from_millis(after)).await;
        at_once(&lab, 80, count).await
    };
    let (three, one, five) = tokio::join!(at(0, 3), at(200, 1), at(400, 5));
    assert_eq!((three, one), ([(200, 3)].into(), [(200, 1)].into()));
    assert_eq!(five, [(200, 3), (503, 2)].into());
    assert_eq!(pods[0].seen().len(), 4, "connections");
    lab.line(&["503 UO upstream_reset_before_response_started{overflow}"]).await;
    let metrics = lab.get(15020, "/metrics").await.expect("metrics");
    assert!(metrics.contains("envoy_cluster_upstream_rq_pending_overflow{cluster_name=\"inbound-vip|80|http|cart.shop.svc.cluster.local\"} 2\n"), "{metrics}");
    for gauge in ["rq_pending_active", "rq_active"] {
        let line = format!(
            "envoy_cluster_upstream_{gauge}{{cluster_name=\"inbound-vip|80|http|cart.shop.svc.cluster.local\"}} 0\n"
        );
        assert!(metrics.contains(&line), "{line}");
    }
    // The port whose application speaks HTTP/2 shares one connection.
    assert_eq!(at_once(&lab, 81, 1).await, [(200, 1)].into());
    assert_eq!(at_once(&lab, 81, 9).await, [(200, 9)].into());
}

#[tokio::test]
async fn an_application_is_spoken_to_as_its_rule_says() {
    let service = "{kind: Service, apiVersion: v1, metadata: {name: picky, namespace: shop}, spec: {clusterIP: 10.96.0.8, selector: {app: cart}, ports: [{name: http-two, port: 90, targetPort: 8081}, {name: http-one, port: 91, targetPort: 8080}]}}\n";
    let rule = |http: &str| {
        let pool = format!("{{connectionPool: {{http: {{{http}}}}}}}");
        format!("{service}---\n{}", policy(&pool).replace("host: cart", "host: picky"))
    };
    let picky = |port| ([10, 96, 0, 8], port);
    let lab = Lab::new(&rule("h2UpgradePolicy: UPGRADE")).await;
    let _pod = lab.pod(1, "v1").await;
    let answer = lab.client().get(picky(90), "/").await;
    assert_eq!(answer.json()["version"], "HTTP/2.0", "from a client of HTTP/1.1");
    let lab = Lab::new(&rule("useClientProtocol: true")).await;
    let _pod = lab.pod(1, "v1").await;
    assert_eq!(lab.client().get(picky(91), "/").await.json()["version"], "HTTP/1.1");
    let answer = lab.client().send2(picky(90), Request::get("http://picky/"), "").await;
    assert_eq!(answer.json()["version"], "HTTP/2.0");
}

#[tokio::test]
async fn so_many_requests_are_under_way_at_one_time() {
    let (lab, pods) = lab("{connectionPool: {http: {http2MaxRequests: 4}}}", 1).await;
    pods[0].script.always(Some(SLOW));
    for port in [80, 81] {
        assert_eq!(at_once(&lab, port, 6).await, [(200, 4), (503, 2)].into(), "{port}");
        assert_eq!(at_once(&lab, port, 4).await, [(200, 4)].into(), "places are back");
    }
}

#[tokio::test]
async fn a_connection_carries_so_many_requests() {
    let (lab, pods) = lab("{connectionPool: {http: {maxRequestsPerConnection: 3}}}", 1).await;
    for (port, connections) in [(80, 3), (81, 6)] {
        for _ in 0..9 {
            assert_eq!(lab.client().get((CART, port), "/").await.status, 200);
        }
        assert_eq!(pods[0].seen().len(), connections, "{port}");
    }
}

#[tokio::test]
async fn each_endpoint_may_have_one_connection() {
    let policy =
        "{loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {tcp: {maxConnections: 1}}}";
    let (lab, pods) = lab(policy, 2).await;
    for pod in &pods {
        pod.script.always(Some(SLOW));
    }
    let began = clock::now();
    assert_eq!(at_once(&lab, 80, 2).await, [(200, 2)].into());
    assert!(began.elapsed() < Duration::from_millis(1_300), "not one after the other");
    assert_eq!(pods.iter().map(|pod| pod.seen().len()).collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn a_connection_is_given_up_in_time() {
    let lab = Lab::new(&policy("{connectionPool: {tcp: {connectTimeout: 400ms}}}")).await;
    // It takes connections and says nothing.
    let at = std::net::SocketAddr::new(lab.address(1), 15008);
    let _silent = TcpListener::bind(at).await.expect("a listener");
    lab.declare(1, "v1").await;
    let began = clock::now();
    let request = Request::get("/").header("x-envoy-max-retries", "0");
    let answer = lab.client().send((CART, 80), request, "").await;
    assert_eq!(answer.status, 503);
    let took = began.elapsed();
    assert!((390..1_500).contains(&took.as_millis()), "{took:?}");
    lab.line(&["503 UF upstream_reset_before_response_started{connection_timeout}"]).await;
}

#[tokio::test]
async fn connections_end_when_they_are_idle_or_old() {
    for pool in ["{http: {idleTimeout: 300ms}}", "{tcp: {maxConnectionDuration: 300ms}}"] {
        for port in [80, 81] {
            let (lab, pods) = lab(&format!("{{connectionPool: {pool}}}"), 1).await;
            assert_eq!(lab.client().get((CART, port), "/").await.status, 200);
            tokio::time::sleep(Duration::from_millis(600)).await;
            assert_eq!(lab.client().get((CART, port), "/").await.status, 200);
            assert_eq!(pods[0].seen().len(), 2, "{pool} {port}");
        }
    }
}

#[tokio::test]
async fn connections_of_bytes_are_limited_too() {
    let (lab, _pods) = lab("{connectionPool: {tcp: {maxConnections: 1}}}", 1).await;
    let first = lab.client().stream((CART, 83)).await;
    // It is open once its bytes come back.
    let (mut read, mut write) = tokio::io::split(first);
    write.write_all(b"hello").await.expect("said");
    write.flush().await.expect("said");
    let mut heard = [0; 12];
    read.read_exact(&mut heard).await.expect("heard");
    let mut second = lab.client().stream((CART, 83)).await;
    let mut nothing = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), second.read_to_end(&mut nothing));
    assert!(ended.await.expect("an end").is_err() && nothing.is_empty(), "it is reset");
    lab.line(&[" UO "]).await;
    drop((read, write));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(lab.client().echo((CART, 83), b"hello", 12).await, "cart-1:hello");
}

#[tokio::test]
async fn connections_of_bytes_end_when_they_are_idle_or_old() {
    for (pool, flag) in
        [("idleTimeout: 600ms", " DC idle_timeout "), ("maxConnectionDuration: 600ms", " DT ")]
    {
        let (lab, _pods) = lab(&format!("{{connectionPool: {{tcp: {{{pool}}}}}}}"), 1).await;
        let mut stream = lab.client().stream((CART, 83)).await;
        stream.write_all(b"hello").await.expect("said");
        stream.flush().await.expect("said");
        let mut heard = Vec::new();
        let began = clock::now();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut heard));
        let _ = ended.await.expect("an end");
        assert_eq!(heard, b"cart-1:hello");
        assert!((400..2_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        lab.line(&[flag]).await;
    }
}

#[tokio::test]
async fn whoever_is_being_terminated_is_never_picked() {
    let lab = Lab::new("").await;
    let pods = [lab.pod(1, "v1").await, lab.pod(2, "v1").await];
    let ip = lab.address(1);
    lab.write(
        "cart-1.yaml",
        &format!(
            "{{kind: Pod, apiVersion: v1, metadata: {{name: cart-1, namespace: shop, labels: {{app: cart}}, deletionTimestamp: '2026-01-01T00:00:00Z'}}, spec: {{serviceAccountName: cart}}, status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}}}\n"
        ),
    );
    for _ in 0..250 {
        let shown = lab.get(15000, "/endpoints?service=cart.shop:80").await.expect("an answer");
        if !shown.contains("cart-1") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..20 {
        assert_eq!(pod_of(&get(&lab, &[]).await), "cart-2");
    }
    assert_eq!(pods[0].script.hits(), 0);
}

#[tokio::test]
async fn how_many_requests_there_may_be_is_found_out() {
    let adaptive = policy(BALANCED).replace(
        "name: cart, namespace: shop}",
        "name: cart, namespace: shop, annotations: {culvert.dev/concurrency: adaptive}}",
    );
    let lab = Lab::new(&adaptive).await;
    let pod = lab.pod(1, "v1").await;
    pod.script.always(Some(SLOW));
    // It begins with twenty.
    assert_eq!(at_once(&lab, 80, 30).await, [(200, 20), (503, 10)].into());
    lab.line(&["503 UO upstream_reset_before_response_started{overflow}"]).await;
    let limit = async || {
        let metrics = lab.get(15020, "/metrics").await.expect("metrics");
        let name = "culvert_concurrency_limit{cluster_name=\"inbound-vip|80|http|cart.shop.svc.cluster.local\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.expect("a limit").parse::<u32>().expect("a number")
    };
    // Where nobody waits it may be more, and where everybody does it is less.
    let load = async |takes: u64, seconds: u64, count: usize| {
        pod.script.always(Some(Act::Sleep(Duration::from_millis(takes))));
        let began = clock::now();
        while began.elapsed() < Duration::from_secs(seconds) {
            at_once(&lab, 80, count).await;
        }
    };
    load(150, 5, 16).await;
    let high = limit().await;
    assert!(high > 20, "{high}");
    load(1_500, 8, 30).await;
    let low = limit().await;
    assert!(low < high, "{low} after {high}");
}

#[tokio::test]
async fn without_the_annotation_nothing_is_found_out_and_it_has_but_one_value() {
    let (lab, pods) = lab(BALANCED, 1).await;
    pods[0].script.always(Some(SLOW));
    assert_eq!(at_once(&lab, 80, 30).await, [(200, 30)].into());
    let wrong = policy(BALANCED).replace(
        "name: cart, namespace: shop}",
        "name: cart, namespace: shop, annotations: {culvert.dev/concurrency: adaptiv}}",
    );
    lab.write("rules.yaml", &wrong);
    lab.until(|dump| dump.contains("culvert.dev/concurrency can only be")).await;
    assert_eq!(at_once(&lab, 80, 30).await, [(200, 30)].into(), "the last good one counts");
}

#[tokio::test]
async fn a_connection_whose_other_end_does_not_answer_pings_is_given_up() {
    let service = "{kind: Service, apiVersion: v1, metadata: {name: picky, namespace: shop}, spec: {clusterIP: 10.96.0.8, selector: {app: cart}, ports: [{name: http-two, port: 90, targetPort: 8088}]}}\n";
    for (pings, ends) in
        [(", http2KeepAlive: {interval: 300ms, timeout: 300ms}", true), ("", false)]
    {
        let pool = format!("{{connectionPool: {{http: {{h2UpgradePolicy: UPGRADE{pings}}}}}}}");
        let rule = policy(&pool).replace("host: cart", "host: picky");
        let lab = Lab::new(&format!("{service}---\n{rule}")).await;
        let _pod = lab.pod(1, "v1").await;
        let client = lab.client();
        let asked = client.send(([10, 96, 0, 8], 90), Request::get("/"), "");
        let answer = tokio::time::timeout(Duration::from_secs(4), asked).await;
        assert_eq!(answer.map(|answer| answer.status.as_u16()).ok(), ends.then_some(503));
    }
}

#[tokio::test]
async fn a_new_endpoint_begins_with_a_small_share() {
    let warmup = "{loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 6s}}}";
    let (lab, _old) = lab(warmup, 1).await;
    // It is known from the first request on.
    assert_eq!(get(&lab, &[]).await.status, 200);
    tokio::time::sleep(Duration::from_millis(6_200)).await;
    let new = lab.pod(2, "v1").await;
    let share = async || {
        let before = new.script.hits();
        for _ in 0..40 {
            assert_eq!(get(&lab, &[]).await.status, 200);
        }
        new.script.hits() - before
    };
    let first = share().await;
    assert!((1..=12).contains(&first), "{first} of 40");
    tokio::time::sleep(Duration::from_millis(6_200)).await;
    assert_eq!(share().await, 20);
}

#[tokio::test]
async fn limits_are_each_replicas() {
    let (mut lab, pods) = lab("{connectionPool: {http: {http2MaxRequests: 4}}}", 1).await;
    pods[0].script.always(Some(SLOW));
    lab.replicate(8).await;
    let of = async |host: u8| {
        let client = lab.client().by(host);
        let answers = join_all((0..6).map(|_| client.get((CART, 80), "/"))).await;
        answers.iter().filter(|answer| answer.status == 200).count()
    };
    assert_eq!(tokio::join!(of(9), of(8)), (4, 4));
}

#[tokio::test]
async fn behind_a_services_address_passthrough_is_any_endpoint() {
    let (lab, pods) = lab("{loadBalancer: {simple: PASSTHROUGH}}", 2).await;
    for _ in 0..40 {
        assert_eq!(get(&lab, &[]).await.status, 200);
    }
    assert!(pods.iter().all(|pod| pod.script.hits() >= 4));
}

#[tokio::test]
async fn a_connection_of_http2_carries_so_many_streams() {
    let (lab, pods) = lab("{connectionPool: {http: {maxConcurrentStreams: 2}}}", 1).await;
    pods[0].script.always(Some(SLOW));
    assert_eq!(at_once(&lab, 81, 6).await, [(200, 6)].into());
    assert_eq!(pods[0].seen().len(), 3);
}
