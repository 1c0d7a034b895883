//! Shell: rules of VirtualServices and Gateway API, as clients and endpoints see them.
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use culvert_agent::clock;
use http::Request;

use crate::{
    client::{Answer, Client},
    lab::{CART, Lab},
};

pub(crate) const SUBSETS: &str = "{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: cart, namespace: shop}, spec: {host: cart, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v9, labels: {version: v9}}]}}\n";

/// A VirtualService of cart with these rules for requests, and the subsets.
pub(crate) fn http(rules: &str) -> String {
    format!(
        "{SUBSETS}---\n{{kind: VirtualService, apiVersion: networking.istio.io/v1beta1, metadata: {{name: cart, namespace: shop}}, spec: {{hosts: [cart], http: {rules}}}}}\n"
    )
}

/// A mesh with these rules and a pod of each version.
pub(crate) async fn lab(rules: &str) -> (Lab, [crate::pod::Pod; 2]) {
    let lab = Lab::new(&http(rules)).await;
    let pods = [lab.pod(1, "v1").await, lab.pod(2, "v2").await];
    (lab, pods)
}

pub(crate) async fn get(lab: &Lab, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    lab.client().send((CART, 80), request, "").await
}

/// What the endpoint saw under a name.
pub(crate) fn seen(answer: &Answer, name: &str) -> Option<String> {
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
        let asks = (0..100).map(|_| {
            let request = Request::get("http://cart/").body(String::new()).expect("a request");
            sender.send_request(request)
        });
        for answer in futures_util::future::join_all(asks.collect::<Vec<_>>()).await {
            let answer = answer.expect("a response");
            let pod = answer.headers()["x-pod"].to_str().expect("a name").to_owned();
            *counts.entry(pod).or_default() += 1;
        }
    }
    // One percent of 10,000 draws is more than four standard deviations.
    let canary = counts["cart-2"];
    assert!((400..=600).contains(&canary), "{counts:?}");
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
    let strict = SUBSETS.replace(
        "spec: {host: cart,",
        "spec: {host: cart, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}},",
    );
    let lab = Lab::new(&strict).await;
    let pod = lab.pod(1, "v1").await;
    assert_eq!(get(&lab, "/", &[]).await.status.as_u16(), 503);
    lab.line(&["503 UF", "TLS_error"]).await;
    assert!(pod.asked().is_empty(), "it does not speak TLS, and was told nothing");
}

#[tokio::test]
async fn redirects_say_where() {
    let (lab, pods) = lab("[{match: [{uri: {prefix: /whole}}], redirect: {uri: /new, authority: other.shop, redirectCode: 308}}, {match: [{uri: {prefix: /secure}}], redirect: {scheme: https}}, {match: [{uri: {prefix: /old}}], redirect: {prefixRewrite: /new}}, {match: [{uri: {prefix: /derived}}], redirect: {scheme: https, derivePort: FROM_PROTOCOL_DEFAULT}}, {match: [{uri: {prefix: /port}}], redirect: {port: 8443, redirectCode: 302}}]").await;
    for (host, path, status, location) in [
        ("cart.shop", "/whole/x?y=1", 308, "http://other.shop/new?y=1"),
        ("cart.shop", "/secure?y=1", 301, "https://cart.shop/secure?y=1"),
        ("cart.shop:80", "/secure", 301, "https://cart.shop/secure"),
        ("cart.shop:8080", "/derived", 301, "https://cart.shop/derived"),
        ("cart.shop", "/port", 302, "http://cart.shop:8443/port"),
        ("cart.shop", "/old/x?y=1", 301, "http://cart.shop/new/x?y=1"),
        ("cart.shop", "/old", 301, "http://cart.shop/new"),
    ] {
        let answer = get(&lab, path, &[("host", host)]).await;
        let told = (answer.status.as_u16(), answer.header("location"));
        assert_eq!(told, (status, Some(location)), "{host}{path}");
        assert_eq!(answer.header("server"), Some("istio-envoy"));
    }
    assert!(pods.iter().all(|pod| pod.seen().is_empty()), "an endpoint was asked");
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
    let (lab, _pods) = lab("[{match: [{uri: {exact: /api/one}}], rewrite: {uri: /1}, route: [{destination: {host: cart}}]}, {match: [{uri: {prefix: /api}}], rewrite: {uri: /v1, authority: inner.shop}, route: [{destination: {host: cart}}]}, {match: [{uri: {prefix: /re}}], rewrite: {uriRegexRewrite: {match: '^/re/([a-z]+)/([0-9]+)', rewrite: '/\\2/\\1'}}, route: [{destination: {host: cart}}]}, {match: [{uri: {prefix: /host}}], headers: {request: {set: {Host: set.shop}}}, route: [{destination: {host: cart}}]}]").await;
    let answer = get(&lab, "/api/x?y=1", &[]).await;
    assert_eq!(answer.json()["uri"], "/v1/x?y=1");
    assert_eq!(seen(&answer, "host").as_deref(), Some("inner.shop"));
    assert_eq!(seen(&answer, "x-envoy-original-path").as_deref(), Some("/api/x?y=1"));
    lab.line(&["\"GET /api/x?y=1 HTTP/1.1\" 200"]).await;
    let answer = get(&lab, "/api/one?y=1", &[]).await;
    assert_eq!(answer.json()["uri"], "/1?y=1");
    assert_eq!(seen(&answer, "x-envoy-original-path").as_deref(), Some("/api/one?y=1"));
    assert_eq!(seen(&answer, "host").as_deref(), Some("cart.shop"));
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
    let (lab, pods) = lab("[{match: [{uri: {prefix: /slow}}], fault: {delay: {fixedDelay: 5s, percentage: {value: 100}}}, timeout: 2s, route: [{destination: {host: cart}}]}, {match: [{uri: {prefix: /broken}}], fault: {abort: {httpStatus: 555, percentage: {value: 100}}}, route: [{destination: {host: cart}}]}, {match: [{uri: {prefix: /call}}], fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}, route: [{destination: {host: cart}}]}, {fault: {delay: {fixedDelay: 5s}, abort: {httpStatus: 500, percentage: {value: 0}}}, route: [{destination: {host: cart}}]}]").await;
    let began = clock::now();
    // The delay is none of the time that the rule gives.
    assert_eq!(get(&lab, "/slow", &[]).await.status, 200);
    let took = began.elapsed().as_millis();
    assert!((5000..6000).contains(&took), "{took} ms");
    lab.line(&["GET /slow", "200 DI"]).await;
    let before = pods[0].seen().len() + pods[1].seen().len();
    let answer = get(&lab, "/broken", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (555, "fault filter abort"));
    lab.line(&["GET /broken", "555 FI fault_filter_abort"]).await;
    let request = Request::post("http://cart/call").header("content-type", "application/grpc");
    let call = lab.client().send2((CART, 80), request, "").await;
    assert_eq!((call.status.as_u16(), call.header("grpc-status")), (200, Some("14")));
    assert_eq!(pods[0].seen().len() + pods[1].seen().len(), before, "an endpoint was asked");
    let began = clock::now();
    for _ in 0..20 {
        assert_eq!(get(&lab, "/", &[]).await.status, 200, "no percentage is never");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "it was delayed");
}

#[tokio::test]
async fn browsers_are_told_who_may_call() {
    let (lab, pods) = lab("[{match: [{uri: {prefix: /ignored}}], corsPolicy: {allowOrigins: [{exact: https://shop.example}], unmatchedPreflights: IGNORE}, route: [{destination: {host: cart}}]}, {corsPolicy: {allowOrigins: [{exact: https://shop.example}, {regex: 'https://.*\\.test'}], allowMethods: [GET, PUT], allowHeaders: [x-a], exposeHeaders: [x-pod], maxAge: 24h, allowCredentials: true}, route: [{destination: {host: cart}}]}]").await;
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
    let ignored = Request::options("/ignored")
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "PUT");
    let answer = lab.client().send((CART, 80), ignored, "").await;
    let allowed = answer.header("access-control-allow-origin");
    assert_eq!((answer.status.as_u16(), answer.text().as_str(), allowed), (200, "", None));
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
async fn connections_go_by_weights_and_names() {
    let tcp = format!(
        "{SUBSETS}---\n{{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {{name: cart, namespace: shop}}, spec: {{hosts: [cart, two.cart], tls: [{{match: [{{port: 84, sniHosts: [two.cart]}}], route: [{{destination: {{host: cart, subset: v2}}}}]}}], tcp: [{{match: [{{port: 83}}], route: [{{destination: {{host: cart, subset: v1}}, weight: 3}}, {{destination: {{host: cart, subset: v2}}, weight: 1}}, {{destination: {{host: cart, subset: v9}}, weight: 1}}]}}, {{match: [{{port: 84}}], route: [{{destination: {{host: cart, subset: v1}}}}]}}]}}}}\n"
    );
    let lab = Lab::new(&tcp).await;
    let _pods = [lab.pod(1, "v1").await, lab.pod(2, "v2").await, lab.pod(3, "v9").await];
    let client = lab.client();
    let mut counts = BTreeMap::<String, u32>::new();
    for _ in 0..500 {
        let name = client.echo((CART, 83), b"x", 7).await;
        *counts.entry(name.split(':').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    // Five standard deviations: 55 for three in five, 45 for one.
    for (pod, expected, most) in [("cart-1", 300_u32, 55), ("cart-2", 100, 45), ("cart-3", 100, 45)]
    {
        assert!(counts[pod].abs_diff(expected) <= most, "{counts:?}");
    }
    for (name, pod) in [("two.cart", "cart-2"), ("one.cart", "cart-1")] {
        let heard = client.echo((CART, 84), &crate::client::hello(name), 7).await;
        assert!(heard.starts_with(pod), "{name}: {heard}");
    }
    lab.line(&["two.cart", "|84|tcp/v2|"]).await;
}

/// Asks until this pod answers.
async fn reaches(client: &Client<'_>, pod: &str) {
    while client.get((CART, 80), "/").await.header("x-pod") != Some(pod) {}
}

#[tokio::test]
async fn a_change_of_the_rules_loses_no_request() {
    // Everything that a rule does tells its generation: the way there, the request, and the answer.
    let rules = |pod: u8| {
        format!(
            "[{{headers: {{request: {{set: {{x-rule: cart-{pod}}}}}}}, route: [{{destination: {{host: cart, subset: v{pod}}}, headers: {{response: {{set: {{x-rule: cart-{pod}}}}}}}}}]}}]"
        )
    };
    let (lab, _pods) = lab(&rules(1)).await;
    let (client, done) = (lab.client(), AtomicBool::new(false));
    let asking = async {
        let mut pods = BTreeMap::<String, u32>::new();
        while !done.load(Ordering::Relaxed) {
            let answer = client.get((CART, 80), "/").await;
            assert_eq!(answer.status, 200);
            let pod = answer.header("x-pod").map(str::to_owned);
            assert_eq!(answer.header("x-rule"), pod.as_deref(), "half of one and half of another");
            assert_eq!(seen(&answer, "x-rule"), pod, "half of one and half of another");
            *pods.entry(pod.unwrap_or_default()).or_default() += 1;
        }
        pods
    };
    let changing = async {
        for pod in [2, 1, 2, 1, 2, 1, 2] {
            lab.write("rules.yaml", &http(&rules(pod)));
            reaches(&client, &format!("cart-{pod}")).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let (pods, ()) = tokio::join!(asking, changing);
    assert_eq!(pods.len(), 2, "{pods:?}");
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

#[tokio::test]
async fn values_of_headers_say_when_a_request_came_and_where_it_went() {
    let (lab, _pods) = lab(
        "[{headers: {request: {set: {x-start: 't=%START_TIME(%s.%3f)%', x-from: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %PROTOCOL%'}}, response: {set: {x-upstream: '%UPSTREAM_HOST%', x-flags: '%RESPONSE_FLAGS%'}}}, route: [{destination: {host: cart, subset: v1}}]}]",
    )
    .await;
    let answer = get(&lab, "/", &[]).await;
    let now = culvert_agent::clock::wall().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let start = seen(&answer, "x-start").expect("a time");
    let start: f64 = start.strip_prefix("t=").expect("a time").parse().expect("seconds");
    assert!((now.as_secs_f64() - 20.0..now.as_secs_f64()).contains(&start), "{start} at {now:?}");
    let from = format!("{} HTTP/1.1", lab.address(100));
    assert_eq!(seen(&answer, "x-from"), Some(from));
    assert_eq!(answer.header("x-upstream"), Some(&*format!("{}:8080", lab.address(1))));
    assert_eq!(answer.header("x-flags"), Some("-"));
}
