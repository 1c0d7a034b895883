//! Shell: rules of VirtualServices and Gateway API, as clients and endpoints see them.
use std::{collections::BTreeMap, time::Duration};

use culvert_agent::clock;
use http::Request;

use crate::{
    client::Answer,
    lab::{CART, Lab},
};

const SUBSETS: &str = "{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: cart, namespace: shop}, spec: {host: cart, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v9, labels: {version: v9}}]}}\n";

/// A VirtualService of cart with these rules for requests, and the subsets.
pub(crate) fn http(rules: &str) -> String {
    format!(
        "{SUBSETS}---\n{{kind: VirtualService, apiVersion: networking.istio.io/v1beta1, metadata: {{name: cart, namespace: shop}}, spec: {{hosts: [cart], http: {rules}}}}}\n"
    )
}

/// A mesh with these rules and a pod of each version.
async fn lab(rules: &str) -> (Lab, [crate::pod::Pod; 2]) {
    let lab = Lab::new(&http(rules)).await;
    let pods = [lab.pod(1, "v1").await, lab.pod(2, "v2").await];
    (lab, pods)
}

async fn get(lab: &Lab, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    lab.client().send((CART, 80), request, "").await
}

fn seen(answer: &Answer, name: &str) -> Option<String> {
    let json = answer.json();
    let headers = json["headers"].as_array()?.iter();
    let mut of_name = headers.filter(|pair| pair[0] == name);
    of_name.next().and_then(|pair| Some(pair[1].as_str()?.to_owned()))
}

#[tokio::test]
async fn the_first_rule_that_matches_decides() {
    let (lab, _pods) = lab("[{match: [{uri: {prefix: /api/v2}}], route: [{destination: {host: cart, subset: v2}}]}, {match: [{headers: {x-canary: {exact: 'true'}}}], route: [{destination: {host: cart, subset: v2}}]}, {route: [{destination: {host: cart, subset: v1}}]}]").await;
    for (path, headers, pod) in [
        ("/api/v2", &[][..], "cart-2"),
        ("/api/v20?x=1", &[], "cart-2"),
        ("/x/../api/v2", &[], "cart-2"),
        ("/API/v2", &[], "cart-1"),
        ("/", &[("x-canary", "true")], "cart-2"),
        ("/", &[("x-canary", "TRUE")], "cart-1"),
        ("/", &[], "cart-1"),
    ] {
        let answer = get(&lab, path, headers).await;
        assert_eq!(answer.header("x-pod"), Some(pod), "{path} {headers:?}");
    }
    lab.line(&["inbound-vip|80|http/v2|cart.shop.svc.cluster.local"]).await;
}

#[tokio::test]
async fn no_rule_for_a_request_is_404_nr() {
    let (lab, _pods) =
        lab("[{match: [{uri: {exact: /only}}], route: [{destination: {host: cart}}]}]").await;
    let answer = get(&lab, "/other", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (404, ""));
    lab.line(&["404 NR route_not_found"]).await;
}

#[tokio::test]
async fn weights_are_kept() {
    let (lab, _pods) = lab("[{route: [{destination: {host: cart, subset: v1}, weight: 95}, {destination: {host: cart, subset: v2}, weight: 5}]}]").await;
    let mut sender = lab.client().http2((CART, 80)).await;
    let mut counts = BTreeMap::<String, u32>::new();
    for _ in 0..100 {
        let asks = (0..20).map(|_| {
            let request = Request::get("http://cart/").body(String::new()).expect("a request");
            sender.send_request(request)
        });
        for answer in futures_util::future::join_all(asks.collect::<Vec<_>>()).await {
            let answer = answer.expect("a response");
            let pod = answer.headers()["x-pod"].to_str().expect("a name").to_owned();
            *counts.entry(pod).or_default() += 1;
        }
    }
    // 2,000 draws: five standard deviations are 49.
    let canary = counts["cart-2"];
    assert!((51..=149).contains(&canary), "{counts:?}");
}

#[tokio::test]
async fn a_subset_that_is_not_there_is_503_nc_and_one_without_pods_503_uh() {
    let (lab, _pods) = lab("[{match: [{uri: {prefix: /gone}}], route: [{destination: {host: cart, subset: nowhere}}]}, {match: [{uri: {prefix: /nobody}}], route: [{destination: {host: nobody}}]}, {route: [{destination: {host: cart, subset: v9}}]}]").await;
    for path in ["/gone", "/nobody"] {
        let answer = get(&lab, path, &[]).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (503, ""), "{path}");
    }
    lab.line(&["GET /gone", "503 NC cluster_not_found"]).await;
    let answer = get(&lab, "/", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (503, "no healthy upstream"));
    lab.line(&["503 UH no_healthy_upstream"]).await;
}

#[tokio::test]
async fn what_was_to_go_by_tls_goes_in_no_other_way() {
    let strict = SUBSETS
        .replace("spec: {host: cart,", "spec: {host: cart, trafficPolicy: {tls: {mode: SIMPLE}},");
    let lab = Lab::new(&strict).await;
    let _pod = lab.pod(1, "v1").await;
    assert_eq!(get(&lab, "/", &[]).await.status.as_u16(), 503);
    lab.line(&["503 UF unmet_traffic_policy", "trafficPolicy.tls"]).await;
}

#[tokio::test]
async fn redirects_say_where() {
    let (lab, _pods) = lab("[{match: [{uri: {prefix: /old}}], redirect: {uri: /new, authority: other.shop, redirectCode: 308}}, {match: [{uri: {prefix: /secure}}], redirect: {scheme: https}}]").await;
    let answer = get(&lab, "/old/x?y=1", &[]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("location")),
        (308, Some("http://other.shop/new?y=1"))
    );
    let answer = get(&lab, "/secure?y=1", &[]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("location")),
        (301, Some("https://cart.shop/secure?y=1"))
    );
    assert_eq!(answer.header("server"), Some("istio-envoy"));
}

#[tokio::test]
async fn a_rule_may_answer_itself_with_a_large_body_too() {
    let large = "x".repeat(1 << 20);
    let rules = format!(
        "[{{match: [{{uri: {{exact: /tea}}}}], directResponse: {{status: 418, body: {{string: short and stout}}}}, headers: {{response: {{set: {{x-kind: pot}}}}}}}}, {{match: [{{uri: {{exact: /bytes}}}}], directResponse: {{status: 200, body: {{bytes: aGVsbG8=}}}}}}, {{directResponse: {{status: 200, body: {{string: {large}}}}}}}]"
    );
    let (lab, _pods) = lab(&rules).await;
    let answer = get(&lab, "/tea", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (418, "short and stout"));
    assert_eq!(answer.header("x-kind"), Some("pot"));
    lab.line(&["418 - direct_response"]).await;
    assert_eq!(get(&lab, "/bytes", &[]).await.text(), "hello");
    assert_eq!(get(&lab, "/large", &[]).await.body.len(), 1 << 20);
}

#[tokio::test]
async fn paths_and_authorities_are_rewritten() {
    let (lab, _pods) = lab("[{match: [{uri: {prefix: /api}}], rewrite: {uri: /v1, authority: inner.shop}, route: [{destination: {host: cart}}]}, {match: [{uri: {prefix: /re}}], rewrite: {uriRegexRewrite: {match: '^/re/([a-z]+)/([0-9]+)', rewrite: '/\\2/\\1'}}, route: [{destination: {host: cart}}]}, {match: [{uri: {prefix: /host}}], headers: {request: {set: {Host: set.shop}}}, route: [{destination: {host: cart}}]}]").await;
    let answer = get(&lab, "/api/x?y=1", &[]).await;
    assert_eq!(answer.json()["uri"], "/v1/x?y=1");
    assert_eq!(seen(&answer, "host").as_deref(), Some("inner.shop"));
    assert_eq!(seen(&answer, "x-envoy-original-path").as_deref(), Some("/api/x?y=1"));
    lab.line(&["\"GET /api/x?y=1 HTTP/1.1\" 200"]).await;
    assert_eq!(get(&lab, "/re/abc/12?q", &[]).await.json()["uri"], "/12/abc?q");
    assert_eq!(seen(&get(&lab, "/host", &[]).await, "host").as_deref(), Some("set.shop"));
}

#[tokio::test]
async fn headers_change_at_the_rule_and_then_at_the_destination() {
    let (lab, _pods) = lab("[{headers: {request: {set: {x-a: rule, x-b: rule}, add: {x-c: rule}, remove: [x-gone]}, response: {set: {x-answer: rule}, remove: [x-pod]}}, route: [{destination: {host: cart}, headers: {request: {set: {x-b: destination}}, response: {add: {x-more: '1'}}}}]}]").await;
    let answer = get(&lab, "/", &[("x-a", "client"), ("x-c", "client"), ("x-gone", "1")]).await;
    assert_eq!(seen(&answer, "x-a").as_deref(), Some("rule"));
    assert_eq!(seen(&answer, "x-b").as_deref(), Some("destination"));
    assert_eq!(seen(&answer, "x-gone"), None);
    assert_eq!(
        answer.json()["headers"].as_array().unwrap().iter().filter(|h| h[0] == "x-c").count(),
        2
    );
    assert_eq!((answer.header("x-answer"), answer.header("x-more")), (Some("rule"), Some("1")));
    assert_eq!(answer.header("x-pod"), None);
}

#[tokio::test]
async fn faults_delay_and_abort() {
    let (lab, pods) = lab("[{match: [{uri: {prefix: /slow}}], fault: {delay: {fixedDelay: 1s, percentage: {value: 100}}}, route: [{destination: {host: cart}}]}, {match: [{uri: {prefix: /broken}}], fault: {abort: {httpStatus: 555, percentage: {value: 100}}}, route: [{destination: {host: cart}}]}, {match: [{uri: {prefix: /call}}], fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}, route: [{destination: {host: cart}}]}, {fault: {abort: {httpStatus: 500}}, route: [{destination: {host: cart}}]}]").await;
    let began = clock::now();
    assert_eq!(get(&lab, "/slow", &[]).await.status, 200);
    assert!(began.elapsed() >= Duration::from_secs(1));
    lab.line(&["GET /slow", "200 DI"]).await;
    let before = pods[0].seen().len() + pods[1].seen().len();
    let answer = get(&lab, "/broken", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (555, "fault filter abort"));
    lab.line(&["GET /broken", "555 FI fault_filter_abort"]).await;
    let request = Request::post("http://cart/call").header("content-type", "application/grpc");
    let call = lab.client().send2((CART, 80), request, "").await;
    assert_eq!((call.status.as_u16(), call.header("grpc-status")), (200, Some("14")));
    assert_eq!(pods[0].seen().len() + pods[1].seen().len(), before, "an endpoint was asked");
    for _ in 0..20 {
        assert_eq!(get(&lab, "/", &[]).await.status, 200, "no percentage is never");
    }
}

#[tokio::test]
async fn mirrors_get_copies_and_hold_nobody_up() {
    let mirror = "{kind: Service, apiVersion: v1, metadata: {name: shadow, namespace: shop}, spec: {clusterIP: 10.96.0.7, selector: {app: shadow}, ports: [{name: http, port: 80, targetPort: 8080}]}}\n";
    let rules = http(
        "[{match: [{uri: {prefix: /none}}], route: [{destination: {host: cart, subset: v1}}], mirror: {host: shadow}, mirrorPercentage: {value: 0}}, {route: [{destination: {host: cart, subset: v1}}], mirror: {host: shadow}}]",
    );
    let lab = Lab::new(&format!("{mirror}---\n{rules}")).await;
    let _pod = lab.pod(1, "v1").await;
    let shadow = crate::pod::Pod::start(&lab, 7).await;
    let ip = lab.address(7);
    lab.write("shadow.yaml", &format!("{{kind: Pod, apiVersion: v1, metadata: {{name: shadow-7, namespace: shop, labels: {{app: shadow}}}}, spec: {{serviceAccountName: cart}}, status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}}}\n"));
    lab.until(|dump| dump.contains("shadow-7")).await;
    let answer = lab.client().send((CART, 80), Request::post("/none"), "hello").await;
    assert_eq!(answer.status, 200);
    assert!(shadow.asked().is_empty());
    let began = clock::now();
    let request = Request::post("/sleep/1500").header("host", "cart.shop:80");
    let answer = lab.client().send((CART, 80), request, "hello").await;
    assert_eq!(answer.json()["pod"], "cart-1");
    assert!(began.elapsed() < Duration::from_millis(2500), "the mirror's own pause counts");
    let copy = shadow.wait_asked(1).await;
    assert_eq!((copy[0].host.as_str(), copy[0].body.as_str()), ("cart.shop-shadow:80", "hello"));
    shadow.stop();
    assert_eq!(lab.client().send((CART, 80), Request::post("/"), "x").await.status, 200);
    assert_eq!(lab.log().matches("cart-shadow").count(), 0, "copies have no lines");
}

#[tokio::test]
async fn browsers_are_told_who_may_call() {
    let (lab, pods) = lab("[{corsPolicy: {allowOrigins: [{exact: https://shop.example}, {regex: 'https://.*\\.test'}], allowMethods: [GET, PUT], allowHeaders: [x-a], exposeHeaders: [x-pod], maxAge: 24h, allowCredentials: true}, route: [{destination: {host: cart}}]}]").await;
    let preflight = |origin: &'static str| {
        Request::options("/")
            .header("origin", origin)
            .header("access-control-request-method", "PUT")
    };
    let answer = lab.client().send((CART, 80), preflight("https://shop.example"), "").await;
    assert_eq!(answer.status, 200);
    for (name, value) in [
        ("access-control-allow-origin", "https://shop.example"),
        ("access-control-allow-methods", "GET,PUT"),
        ("access-control-allow-headers", "x-a"),
        ("access-control-max-age", "86400"),
        ("access-control-allow-credentials", "true"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert!(pods[0].seen().is_empty() && pods[1].seen().is_empty(), "a preflight ends here");
    let answer = lab.client().send((CART, 80), preflight("https://evil.example"), "").await;
    assert_eq!(answer.json()["method"], "OPTIONS", "it went on");
    let answer = get(&lab, "/", &[("origin", "https://a.test")]).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.test"));
    assert_eq!(answer.header("access-control-expose-headers"), Some("x-pod"));
    let answer = get(&lab, "/", &[("origin", "https://evil.example")]).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_timeout_is_504_ut_from_the_end_of_the_request() {
    let (lab, _pods) = lab("[{timeout: 1s, route: [{destination: {host: cart}}]}]").await;
    let began = clock::now();
    let answer = get(&lab, "/sleep/4000", &[]).await;
    let took = began.elapsed();
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (504, "upstream request timeout"));
    assert!((950..1300).contains(&took.as_millis()), "{took:?}");
    lab.line(&["504 UT response_timeout"]).await;
    let answer = get(&lab, "/", &[]).await;
    assert_eq!(seen(&answer, "x-envoy-expected-rq-timeout-ms").as_deref(), Some("1000"));
    let slow = crate::client::slowly((0..15).map(|_| "0123456789"), Duration::from_millis(150));
    let mut sender = lab.client().http1((CART, 80)).await;
    let request = Request::post("/upload").header("host", "cart").body(slow).expect("a request");
    let answer = crate::client::read(sender.send_request(request).await.expect("a response")).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "150"), "a slow upload");
    for (asked, code) in [("200m", "4"), ("9S", "4")] {
        let began = clock::now();
        let request = Request::post("http://cart/sleep/3000")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", asked);
        let call = lab.client().send2((CART, 81), request, "").await;
        assert_eq!(call.header("grpc-status"), Some(code));
        assert!(began.elapsed() < Duration::from_millis(1500), "{asked}");
    }
}

#[tokio::test]
async fn websockets_outlast_a_timeout() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (lab, _pods) = lab("[{timeout: 300ms, route: [{destination: {host: cart}}]}]").await;
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
async fn connections_go_by_weights_and_names() {
    let tcp = format!(
        "{SUBSETS}---\n{{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {{name: cart, namespace: shop}}, spec: {{hosts: [cart, two.cart], tls: [{{match: [{{port: 84, sniHosts: [two.cart]}}], route: [{{destination: {{host: cart, subset: v2}}}}]}}], tcp: [{{match: [{{port: 83}}], route: [{{destination: {{host: cart, subset: v1}}, weight: 3}}, {{destination: {{host: cart, subset: v2}}, weight: 1}}]}}, {{match: [{{port: 84}}], route: [{{destination: {{host: cart, subset: v1}}}}]}}]}}}}\n"
    );
    let lab = Lab::new(&tcp).await;
    let _pods = [lab.pod(1, "v1").await, lab.pod(2, "v2").await];
    let client = lab.client();
    let mut counts = BTreeMap::<String, u32>::new();
    for _ in 0..200 {
        let name = client.echo((CART, 83), b"x", 7).await;
        *counts.entry(name.split(':').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    assert!((25..=80).contains(&counts["cart-2"]), "{counts:?}");
    for (name, pod) in [("two.cart", "cart-2"), ("one.cart", "cart-1")] {
        let heard = client.echo((CART, 84), &crate::client::hello(name), 7).await;
        assert!(heard.starts_with(pod), "{name}: {heard}");
    }
    lab.line(&["two.cart", "|84|tcp/v2|"]).await;
}

#[tokio::test]
async fn a_change_of_the_rules_loses_no_request() {
    let (lab, _pods) = lab("[{route: [{destination: {host: cart, subset: v1}}]}]").await;
    let client = lab.client();
    assert_eq!(client.get((CART, 80), "/").await.header("x-pod"), Some("cart-1"));
    let asking = async {
        let mut statuses = Vec::new();
        for _ in 0..150 {
            statuses.push(client.get((CART, 80), "/").await.status.as_u16());
        }
        statuses
    };
    let changing = async {
        for subset in ["v2", "v1", "v2", "v1", "v2", "v1"] {
            lab.write(
                "rules.yaml",
                &http(&format!("[{{route: [{{destination: {{host: cart, subset: {subset}}}}}]}}]")),
            );
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        lab.write("rules.yaml", &http("[{route: [{destination: {host: cart, subset: v2}}]}]"));
    };
    let (statuses, ()) = tokio::join!(asking, changing);
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    lab.until(|dump| !dump.contains("subset v1")).await;
    assert_eq!(client.get((CART, 80), "/").await.header("x-pod"), Some("cart-2"));
}

#[tokio::test]
async fn gateway_apis_routes_work_too() {
    let route = "{kind: HTTPRoute, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: cart, namespace: shop}, spec: {parentRefs: [{group: '', kind: Service, name: cart, port: 80}], rules: [{matches: [{path: {type: PathPrefix, value: /v2}}], backendRefs: [{name: missing, port: 80}]}, {backendRefs: [{name: cart, port: 80}]}]}}\n";
    let lab = Lab::new(route).await;
    let _pod = lab.pod(1, "v1").await;
    assert_eq!(get(&lab, "/v2/x", &[]).await.status, 500);
    assert_eq!(get(&lab, "/v2x", &[]).await.status, 200);
}

#[tokio::test]
async fn rules_may_ask_who_the_client_is() {
    let (lab, _pods) = lab("[{match: [{sourceLabels: {team: shop}, sourceNamespace: shop}], route: [{destination: {host: cart, subset: v2}}]}, {route: [{destination: {host: cart, subset: v1}}]}]").await;
    assert_eq!(get(&lab, "/", &[]).await.header("x-pod"), Some("cart-2"));
    // The same address, with another certificate than its workload's.
    let other = crate::client::Client::new(&lab, "spiffe://cluster.local/ns/other/sa/web", 100);
    assert_eq!(other.get((CART, 80), "/").await.header("x-pod"), Some("cart-1"));
}
