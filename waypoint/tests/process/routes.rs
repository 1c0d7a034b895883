//! Shell: routes of the Gateway API for calls and connections, and what is closed, through a waypoint.
use std::time::Duration;

use culvert_agent::clock;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    client::Client,
    lab::{CART, Lab},
    script::Act,
};

fn route(kind: &str, port: u16, rest: &str) -> String {
    format!(
        "{{kind: {kind}, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: r-{port}, namespace: shop}}, spec: {{parentRefs: [{{group: '', kind: Service, name: cart, port: {port}}}], {rest}}}}}\n---\n"
    )
}

/// What comes back on a connection before it ends or is reset; `None` when it does neither.
async fn heard(client: &Client<'_>, port: u16, said: &[u8]) -> Option<Vec<u8>> {
    let mut stream = client.stream((CART, port)).await;
    // Whoever is reset at once may not even get that far.
    let _ = stream.write_all(said).await;
    let _ = stream.flush().await;
    let mut heard = Vec::new();
    let ended = timeout(Duration::from_secs(5), stream.read_to_end(&mut heard)).await;
    ended.is_ok().then_some(heard)
}

#[tokio::test]
async fn calls_and_connections_go_by_routes_of_the_gateway_api() {
    let marked = "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: grpc}]}}]";
    let calls = format!(
        "rules: [{{matches: [{{method: {{service: shop.Cart, method: Get}}}}], {marked}, backendRefs: [{{name: cart, port: 81}}]}}]"
    );
    let gone = "rules: [{backendRefs: [{name: gone, port: 80}]}]";
    let routes = route("GRPCRoute", 81, &calls)
        + &route("TCPRoute", 83, gone)
        + &route("TLSRoute", 84, &format!("hostnames: [a.example], {gone}"));
    let lab = Lab::new(&routes).await;
    let _pod = lab.pod(1, "v1").await;
    let client = lab.client();
    let call = |path: &str| Request::post(path).header("content-type", "application/grpc");
    let answer = client.send2((CART, 81), call("http://cart/shop.Cart/Get"), "").await;
    assert_eq!(answer.header("x-route"), Some("grpc"));
    let answer = client.send2((CART, 81), call("http://cart/shop.Cart/Put"), "").await;
    assert_eq!(answer.header("grpc-status"), Some("12"), "no rule is for it");
    assert_eq!(heard(&client, 83, b"hello").await, Some(vec![]));
    let hello = crate::client::hello("a.example");
    assert_eq!(heard(&client, 84, &hello).await, Some(vec![]));
    let heard = client.echo((CART, 84), &crate::client::hello("b.example"), 7).await;
    assert!(heard.starts_with("cart-1"), "{heard}");
}

/// Line 197.
#[tokio::test]
async fn an_http_route_limits_time_and_repeats() {
    let rule = |path: &str, more: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], {more}, backendRefs: [{{name: cart, port: 80}}]}}"
        )
    };
    let rules = [
        rule("/sleep", "timeouts: {request: 500ms}"),
        rule("/again", "retry: {codes: [500], attempts: 2, backoff: 10ms}"),
        rule("/try", "timeouts: {request: 20s, backendRequest: 300ms}"),
    ];
    let lab = Lab::new(&route("HTTPRoute", 80, &format!("rules: [{}]", rules.join(", ")))).await;
    let pod = lab.pod(1, "v1").await;
    let client = lab.client();
    let began = clock::now();
    assert_eq!(client.get((CART, 80), "/sleep/5000").await.status, 504);
    let took = began.elapsed();
    assert!((500..3_000).contains(&took.as_millis()), "{took:?}");
    let hits = pod.script.hits();
    pod.script.will([Act::Status(500), Act::Status(500)]);
    assert_eq!(client.get((CART, 80), "/again").await.status, 200);
    assert_eq!(pod.script.hits() - hits, 3);
    pod.script.will([Act::Hang]);
    assert_eq!(client.get((CART, 80), "/try").await.status, 504);
    assert_eq!(client.get((CART, 80), "/else").await.status, 404);
}

/// A rule that is misspelt from the start may be the one that keeps somebody out.
#[tokio::test]
async fn a_rule_that_never_was_good_lets_nothing_pass_until_it_is_mended() {
    let rules = |rule: &str| {
        format!(
            "{{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {{name: cart, namespace: shop}}, spec: {{hosts: [cart], http: [{{match: [{{uri: {{prefix: /admin}}}}], {rule}: {{status: 403}}}}, {{route: [{{destination: {{host: cart}}}}]}}]}}}}\n"
        )
    };
    let lab = Lab::new(&rules("directRespnse")).await;
    let _pod = lab.pod(1, "v1").await;
    let get = async |path: &str| lab.client().get((CART, 80), path).await.status.as_u16();
    assert_eq!((get("/admin").await, get("/").await), (500, 500));
    lab.line(&["directRespnse", "until it is mended nothing passes"]).await;
    lab.write("rules.yaml", &rules("directResponse"));
    lab.until(|dump| dump.contains("\"status\":403") || dump.contains("\"status\": 403")).await;
    assert_eq!((get("/admin").await, get("/").await), (403, 200));
}
