//! Shell: requests without rules: what endpoints and clients see, and what is recorded.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::{
    client::{Answer, read},
    lab::{CART, Lab},
};

/// What the endpoint saw under a name.
fn seen(answer: &Answer, name: &str) -> Vec<String> {
    let json = answer.json();
    let headers = json["headers"].as_array().expect("headers").iter();
    let of_name = headers.filter(|pair| pair[0] == name);
    of_name.filter_map(|pair| Some(pair[1].as_str()?.to_owned())).collect()
}

#[tokio::test]
async fn endpoints_and_clients_see_what_istios_see() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let request = Request::post("/a/../x?y=1")
        .header("host", "cart.shop:80")
        .header("connection", "keep-alive, x-hop")
        .header("x-hop", "1")
        .header("keep-alive", "timeout=9")
        .header("x-envoy-peer-metadata", "forged")
        .header("x-envoy-peer-metadata-id", "forged")
        .header("x-forwarded-client-cert", "URI=spiffe://forged")
        .header("x-forwarded-for", "192.0.2.7")
        .header("x-kept", "1");
    let answer = lab.client().send((CART, 80), request, "hello").await;
    let json = answer.json();
    assert_eq!((json["method"].as_str(), json["uri"].as_str()), (Some("POST"), Some("/x?y=1")));
    assert_eq!(
        (json["version"].as_str(), json["body"].as_str()),
        (Some("HTTP/1.1"), Some("hello"))
    );
    for (name, value) in [
        ("host", "cart.shop:80"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-for", "192.0.2.7"),
        ("x-kept", "1"),
        ("content-length", "5"),
    ] {
        assert_eq!(seen(&answer, name), [value], "{name}");
    }
    assert_eq!(seen(&answer, "x-request-id")[0].len(), 36);
    for gone in [
        "x-hop",
        "keep-alive",
        "connection",
        "x-envoy-peer-metadata",
        "x-envoy-peer-metadata-id",
        "x-forwarded-client-cert",
        "x-envoy-expected-rq-timeout-ms",
    ] {
        assert!(seen(&answer, gone).is_empty(), "{gone}");
    }
    assert_eq!(answer.header("server"), Some("istio-envoy"));
    assert!(answer.header("x-envoy-upstream-service-time").is_some());
    assert!(answer.header("date").is_some());
    for gone in ["keep-alive", "x-envoy-peer-metadata", "x-request-id"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn a_request_id_stays_and_is_in_the_log() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let request = Request::get("/x").header("x-request-id", "my-own-id");
    let answer = lab.client().send((CART, 80), request, "").await;
    assert_eq!(seen(&answer, "x-request-id"), ["my-own-id"]);
    lab.line(&["\"my-own-id\""]).await;
}

#[tokio::test]
async fn connections_to_endpoints_are_reused() {
    let lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    for _ in 0..20 {
        assert_eq!(lab.client().get((CART, 80), "/").await.status, 200);
    }
    assert_eq!(pod.seen().len(), 1, "one connection for requests one after another");
}

#[tokio::test]
async fn http2_clients_are_served_on_ports_of_either_version() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let client = lab.client();
    for (port, version) in [(80, "HTTP/1.1"), (81, "HTTP/2.0")] {
        let request =
            Request::post("http://cart.shop/x?y=1").header("cookie", "a=1").header("cookie", "b=2");
        let answer = client.send2((CART, port), request, "hello").await;
        assert_eq!(answer.json()["version"], version, "{port}");
        assert_eq!(answer.json()["body"], "hello");
        let cookies = if port == 80 { vec!["a=1; b=2"] } else { vec!["a=1", "b=2"] };
        assert_eq!(seen(&answer, "cookie"), cookies);
    }
    let answer = client.get((CART, 81), "/").await;
    assert_eq!(answer.json()["version"], "HTTP/2.0", "also for clients of HTTP/1.1");
}

#[tokio::test]
async fn a_call_streams_both_ways_and_its_trailers_arrive() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let (say, said) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(4);
    let stream =
        futures_util::stream::unfold(
            said,
            |mut said| async move { Some((said.recv().await?, said)) },
        );
    let mut sender = lab.client().http2((CART, 81)).await;
    let request = Request::post("http://cart.shop/shop.Cart/Talk")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("want-status", "7")
        .body(StreamBody::new(Box::pin(stream)))
        .expect("a request");
    let message = |text: &'static str| {
        let head = [vec![0, 0, 0, 0], vec![text.len() as u8]].concat();
        Ok(Frame::data(Bytes::from([head.as_slice(), text.as_bytes()].concat())))
    };
    say.send(message("one")).await.expect("said");
    let mut answer = sender.send_request(request).await.expect("a response").into_body();
    for text in ["one", "two", "three"] {
        // Each is heard before the next is said.
        let frame = answer.frame().await.expect("a frame").expect("a frame");
        assert!(frame.data_ref().expect("data").ends_with(text.as_bytes()));
        match text {
            "one" => say.send(message("two")).await.expect("said"),
            "two" => say.send(message("three")).await.expect("said"),
            _ => {}
        }
    }
    drop(say);
    let trailers = answer.frame().await.expect("trailers").expect("trailers");
    let trailers: &HeaderMap = trailers.trailers_ref().expect("trailers");
    assert_eq!(trailers["grpc-status"], "7");
    lab.line(&["POST /shop.Cart/Talk HTTP/2", "200 -"]).await;
    let metrics = lab.get(15020, "/stats/prometheus").await.expect("metrics");
    let mut calls = metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
    let call = calls.find(|line| line.contains("grpc_response_status=\"7\"")).expect("a series");
    assert!(call.contains("request_protocol=\"grpc\""), "{call}");
    for name in ["istio_request_messages_total{", "istio_response_messages_total{"] {
        let line = metrics.lines().find(|line| line.starts_with(name)).expect("a series");
        assert!(line.ends_with(" 3"), "{line}");
    }
}

#[tokio::test]
async fn a_websocket_passes() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut sender = lab.client().http1((CART, 80)).await;
    let request = Request::get("/socket")
        .header("host", "cart")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let mut answer = sender.send_request(request).await.expect("a response");
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["upgrade"], "websocket");
    let upgraded = hyper::upgrade::on(&mut answer).await.expect("an upgrade");
    let mut stream = TokioIo::new(upgraded);
    for text in ["hello", "again"] {
        stream.write_all(text.as_bytes()).await.expect("said");
        let mut heard = vec![0; text.len()];
        stream.read_exact(&mut heard).await.expect("heard");
        assert_eq!(heard, text.to_uppercase().as_bytes());
    }
    stream.shutdown().await.expect("an end");
    lab.line(&["GET /socket HTTP/1.1", "101 -", " 10 10 "]).await;
}

#[tokio::test]
async fn other_upgrades_and_connect_are_refused() {
    let lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    let request = Request::get("/").header("connection", "upgrade").header("upgrade", "foo");
    assert_eq!(lab.client().send((CART, 80), request, "").await.status, 403);
    let answer = lab.client().raw((CART, 80), b"CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(pod.seen().is_empty());
}

#[tokio::test]
async fn whoever_cannot_be_reached_is_a_503_that_says_why() {
    let lab = Lab::new("").await;
    // Nobody is there.
    lab.declare(1, "v1").await;
    let answer = lab.client().get((CART, 80), "/").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().starts_with("upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure"), "{}", answer.text());
    // By default it is tried twice more.
    lab.line(&["503 UF,URX upstream_reset_before_response_started{connection_failure}"]).await;
    let request =
        Request::post("http://cart/shop.Cart/Say").header("content-type", "application/grpc");
    let call = lab.client().send2((CART, 81), request, "").await;
    assert_eq!((call.status.as_u16(), call.header("grpc-status")), (200, Some("14")));
}

#[tokio::test]
async fn without_a_ready_endpoint_it_is_503_uh_and_counted() {
    let lab = Lab::new("").await;
    let answer = lab.client().get((CART, 80), "/").await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (503, "no healthy upstream"));
    lab.line(&["\"GET / HTTP/1.1\" 503 UH no_healthy_upstream"]).await;
    let metrics = lab.get(15020, "/stats/prometheus").await.expect("metrics");
    let line =
        metrics.lines().find(|line| line.starts_with("istio_requests_total{")).expect("a series");
    for part in [
        "response_code=\"503\"",
        "response_flags=\"UH\"",
        "destination_workload=\"unknown\"",
        "destination_service=\"cart.shop.svc.cluster.local\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[tokio::test]
async fn an_endpoint_that_drops_a_request_is_503_uc_and_one_that_cuts_an_answer_is_cut() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let answer = lab.client().get((CART, 80), "/drop").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().ends_with("reset reason: connection termination"), "{}", answer.text());
    lab.line(&["GET /drop", "503 UC"]).await;
    for path in ["/cut"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: cart\r\n\r\n");
        let heard = lab.client().raw((CART, 80), request.as_bytes()).await;
        assert!(heard.starts_with("HTTP/1.1 200") && heard.contains("half of it"), "{heard}");
        assert!(heard.ends_with("<ConnectionReset>"), "it looks whole: {heard}");
        lab.line(&["GET /cut", "200 UC"]).await;
    }
}

#[tokio::test]
async fn a_large_body_arrives_whole_both_ways() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let body = "x".repeat(20 << 20);
    let client = lab.client();
    let answer = client.send((CART, 80), Request::post("/upload"), &body).await;
    assert_eq!(answer.text(), body.len().to_string());
    let answer = client.send2((CART, 81), Request::post("http://cart/x"), &body).await;
    assert_eq!(answer.json()["body"].as_str().map(str::len), Some(body.len()));
}

#[tokio::test]
async fn the_log_and_the_metrics_tell_of_a_request() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let request =
        Request::get("/x?y=1").header("user-agent", "test 1.0").header("host", "cart.shop");
    lab.client().send((CART, 80), request, "").await;
    let line = lab.line(&["GET /x?y=1 HTTP/1.1"]).await;
    let (own, pod) = (lab.address(100), lab.address(1));
    let end = format!(
        "\"{pod}:8080\" inbound-vip|80|http|cart.shop.svc.cluster.local - 10.96.0.1:80 {own}:"
    );
    assert!(line.contains("\" 200 - via_upstream - \"-\" 0 "), "{line}");
    assert!(
        line.contains("\"test 1.0\"") && line.contains("\"cart.shop\"") && line.contains(&end),
        "{line}"
    );
    let metrics = lab.get(15020, "/stats/prometheus").await.expect("metrics");
    let line =
        metrics.lines().find(|line| line.starts_with("istio_requests_total{")).expect("a series");
    for part in [
        "reporter=\"waypoint\"",
        "source_workload=\"web-0\"",
        "source_workload_namespace=\"shop\"",
        "source_canonical_service=\"web\"",
        "source_canonical_revision=\"v1\"",
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/web\"",
        "source_cluster=\"Kubernetes\"",
        "destination_workload=\"cart-1\"",
        "destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\"",
        "destination_service_name=\"cart\"",
        "destination_service_namespace=\"shop\"",
        "request_protocol=\"http\"",
        "response_code=\"200\"",
        "grpc_response_status=\"\"",
        "response_flags=\"-\"",
        "connection_security_policy=\"mutual_tls\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    for name in [
        "istio_request_duration_milliseconds_bucket{",
        "istio_request_bytes_sum{",
        "istio_response_bytes_count{",
    ] {
        assert!(metrics.contains(name), "{name}");
    }
}

#[tokio::test]
async fn the_log_can_be_json() {
    let lab = Lab::configured("", "[access_log]\nformat = \"json\"").await;
    let _pod = lab.pod(1, "v1").await;
    lab.client().get((CART, 80), "/x").await;
    let line = lab.line(&["\"path\":\"/x\""]).await;
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((line["response_code"].as_u64(), line["method"].as_str()), (Some(200), Some("GET")));
}

#[tokio::test]
async fn a_client_that_ends_its_side_before_its_answer_has_left() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream((CART, 80)).await;
    stream.write_all(b"GET /sleep/2000 HTTP/1.1\r\nhost: cart\r\n\r\n").await.expect("said");
    stream.shutdown().await.expect("an end");
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    assert!(heard.is_empty(), "{}", String::from_utf8_lossy(&heard));
    lab.line(&["GET /sleep/2000", " 0 DC downstream_remote_disconnect "]).await;
}

#[tokio::test]
async fn trailers_arrive_in_either_version() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let request = Request::get("/trailers").header("te", "trailers");
    let first = lab.client().send((CART, 80), request, "").await;
    let second = lab.client().send2((CART, 81), Request::get("http://cart/trailers"), "").await;
    for answer in [first, second] {
        let trailers = answer.trailers.expect("trailers");
        assert_eq!(trailers["x-sum"], "42");
        assert!(!trailers.contains_key("x-envoy-peer-metadata"), "what proxies say to each other");
    }
}

#[tokio::test]
async fn a_clients_trailers_arrive_without_what_it_may_not_say() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    trailers.insert("x-forwarded-client-cert", HeaderValue::from_static("URI=spiffe://forged"));
    let frames =
        [http_body::Frame::data(Bytes::from_static(b"body")), http_body::Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, std::io::Error>)));
    let mut sender = lab.client().http2((CART, 81)).await;
    let request = Request::post("http://cart/").body(body).expect("a request");
    let answer = read(sender.send_request(request).await.expect("a response")).await;
    assert_eq!(answer.json()["trailers"], serde_json::json!(["x-sum"]), "{}", answer.text());
}

#[tokio::test]
async fn requests_one_behind_the_other_are_answered_in_their_order() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let one = |path: &str, rest: &str| format!("GET {path} HTTP/1.1\r\nhost: cart\r\n{rest}\r\n");
    let text = [one("/sleep/200", ""), one("/two", ""), one("/three", "connection: close\r\n")];
    let heard = lab.client().raw((CART, 80), text.concat().as_bytes()).await;
    let places = ["/sleep/200", "/two", "/three"].map(|path| heard.find(&format!("\"{path}\"")));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{heard}");
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_told_to_go_on() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream((CART, 80)).await;
    let head = "POST /x HTTP/1.1\r\nhost: cart\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("said");
    stream.flush().await.expect("said");
    let mut heard = [0; 25];
    stream.read_exact(&mut heard).await.expect("heard");
    assert_eq!(&heard, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.expect("said");
    stream.flush().await.expect("said");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.expect("heard");
    assert!(rest.contains("\"body\":\"hello\"") && !rest.contains("\"expect\""), "{rest}");
}

#[tokio::test]
async fn what_endpoints_agents_refuse_is_told_apart() {
    let service = "{kind: Service, apiVersion: v1, metadata: {name: picky, namespace: shop}, spec: {clusterIP: 10.96.0.8, selector: {app: cart}, ports: [{name: http-dead, port: 86, targetPort: 8086}, {name: http-denied, port: 87, targetPort: 8087}]}}\n";
    let lab = Lab::new(service).await;
    let _pod = lab.pod(1, "v1").await;
    for (port, words) in [
        (86, "http status: 503 Service Unavailable"),
        (87, "the endpoint's policy denies this waypoint"),
    ] {
        let answer = lab.client().get(([10, 96, 0, 8], port), "/").await;
        assert_eq!(answer.status, 503);
        assert!(answer.text().ends_with(words), "{}", answer.text());
        lab.line(&["503 UF", words]).await;
    }
}
