//! Shell: what no client, endpoint or rule gets beyond, and what is recorded of it.
use std::time::Duration;

use culvert_agent::clock;
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use crate::{
    hostile::{frame, preface},
    lab::{CART, Lab},
    rules::http,
};

#[tokio::test]
async fn who_waits_for_the_same_dial_has_the_same_answer() {
    // One try each.
    let once = "[{retries: {attempts: 0}, route: [{destination: {host: cart}}]}]";
    let lab = Lab::new(&http(once)).await;
    // It takes connections, and says nothing.
    let at = (lab.address(1), 15008);
    let _silent = tokio::net::TcpListener::bind(at).await.expect("a listener");
    lab.declare(1, "v1").await;
    let began = clock::now();
    let client = lab.client();
    let asks = (0..4).map(|_| client.get((CART, 81), "/"));
    let answers = futures_util::future::join_all(asks).await;
    assert!(answers.iter().all(|answer| answer.status == 503));
    let took = began.elapsed();
    assert!(took < Duration::from_secs(19), "one dial after the other: {took:?}");
}

#[tokio::test]
async fn nobody_reaches_the_waypoints_own_ports_through_it() {
    let entry = "{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: evil, namespace: shop}, spec: {hosts: [evil.example], addresses: [10.96.7.7], location: MESH_EXTERNAL, resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP, targetPort: 15000}], endpoints: [{address: ADDRESS}]}}\n";
    let lab = Lab::new("").await;
    lab.write("rules.yaml", &entry.replace("ADDRESS", &lab.address(9).to_string()));
    lab.until(|dump| dump.contains("evil.example")).await;
    let answer = lab.client().get(([10, 96, 7, 7], 80), "/config_dump").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().ends_with("is no endpoint's address"), "{}", answer.text());
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_also_when_it_has_said_more() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream((CART, 80)).await;
    let head = b"GET /sleep/60000 HTTP/1.1\r\nhost: cart\r\n\r\nG";
    stream.write_all(head).await.expect("said");
    stream.flush().await.expect("said");
    sleep(Duration::from_millis(300)).await;
    drop(stream);
    let line = lab.line(&["GET /sleep/60000"]).await;
    assert!(line.contains(" 0 DC downstream_remote_disconnect "), "{line}");
}

#[tokio::test]
async fn a_client_that_leaves_during_a_delay_is_recorded_as_such() {
    let rule = "[{fault: {delay: {fixedDelay: 60s, percentage: {value: 100}}}, route: [{destination: {host: cart}}]}]";
    let lab = Lab::new(&http(rule)).await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream((CART, 80)).await;
    stream.write_all(b"GET /x HTTP/1.1\r\nhost: cart\r\n\r\n").await.expect("said");
    stream.flush().await.expect("said");
    sleep(Duration::from_millis(300)).await;
    drop(stream);
    lab.line(&["GET /x", " 0 DC,DI downstream_remote_disconnect "]).await;
}

#[tokio::test]
async fn rules_do_not_see_what_a_client_may_not_say() {
    let rule = "[{match: [{headers: {x-forwarded-client-cert: {prefix: URI}}}, {headers: {x-hop: {exact: '1'}}}], directResponse: {status: 418}}, {route: [{destination: {host: cart}}]}]";
    let lab = Lab::new(&http(rule)).await;
    let _pod = lab.pod(1, "v1").await;
    let request = Request::get("/").header("x-forwarded-client-cert", "URI=spiffe://forged");
    assert_eq!(lab.client().send((CART, 80), request, "").await.status, 200);
    let request = Request::get("/")
        .header("connection", "keep-alive, x-hop, x-request-id, x-forwarded-proto")
        .header("x-hop", "1");
    let answer = lab.client().send((CART, 80), request, "").await;
    assert_eq!(answer.status, 200);
    for name in ["x-request-id", "x-forwarded-proto"] {
        assert!(answer.text().contains(name), "{name}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_request_is_routed_however_its_line_is_written() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let rest = "host: cart\r\nconnection: close\r\n\r\n";
    for (line, status) in [
        (format!("{}GET /x HTTP/1.1\r\n", "\r\n".repeat(13)), "200"),
        ("GET /x HTTP/1.1 \r\n".into(), "400"),
        ("GET\t/x HTTP/1.1\r\n".into(), "400"),
        ("GET /x\r\n".into(), "400"),
    ] {
        let answer = lab.client().raw((CART, 82), format!("{line}{rest}").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line:?}: {answer}");
        assert!(!answer.contains("cart-1:"), "{line:?} passed unseen: {answer}");
    }
}

#[tokio::test]
async fn a_server_that_begins_with_http_does_not_open_the_way_past_the_rules() {
    let service = "{kind: Service, apiVersion: v1, metadata: {name: first, namespace: shop}, spec: {clusterIP: 10.96.0.8, selector: {app: cart}, ports: [{port: 85, targetPort: 8088}]}}\n---\n{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {name: first, namespace: shop}, spec: {hosts: [first], http: [{directResponse: {status: 418}}]}}\n";
    let lab = Lab::new(service).await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream(([10, 96, 0, 8], 85)).await;
    // Longer than the silence after which the server is dialled.
    sleep(Duration::from_millis(500)).await;
    let head = b"GET / HTTP/1.1\r\nhost: first\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.expect("said");
    stream.flush().await.expect("said");
    let mut heard = Vec::new();
    let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut heard)).await;
    read.expect("in time").expect("an end");
    assert!(heard.starts_with(b"HTTP/1.1 418"), "{}", String::from_utf8_lossy(&heard));
}

#[tokio::test]
async fn a_name_in_several_records_is_found() {
    let rules = "{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: cart, namespace: shop}, spec: {host: cart, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}\n---\n{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {name: cart, namespace: shop}, spec: {hosts: [cart, two.cart], tls: [{match: [{port: 84, sniHosts: [two.cart]}], route: [{destination: {host: cart, subset: v2}}]}], tcp: [{match: [{port: 84}], route: [{destination: {host: cart, subset: v1}}]}]}}\n";
    let lab = Lab::new(rules).await;
    let _pods = [lab.pod(1, "v1").await, lab.pod(2, "v2").await];
    let hello = crate::client::hello("two.cart");
    let message = &hello[5..];
    let (first, second) = message.split_at(20);
    let cut: Vec<u8> = [first, second]
        .into_iter()
        .flat_map(|part| [&[22, 3, 1, 0, part.len() as u8], part].concat())
        .collect();
    let heard = lab.client().echo((CART, 84), &cut, 7).await;
    assert!(heard.starts_with("cart-2"), "{heard}");
}

#[tokio::test]
async fn requests_that_are_given_up_at_once_end_the_connection() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream((CART, 80)).await;
    stream.write_all(&preface()).await.expect("said");
    let mut block = vec![0x82, 0x86, 0x04, 12];
    block.extend(b"/sleep/20000");
    block.extend([0x01, 4]);
    block.extend(b"cart");
    let mut said = true;
    for round in 0..150_u32 {
        let streams = (0..10).map(|number| 2 * (round * 10 + number) + 1);
        let ask: Vec<u8> = streams.clone().flat_map(|id| frame(1, 0x5, id, &block)).collect();
        let cancel = 8_u32.to_be_bytes();
        let leave: Vec<u8> = streams.flat_map(|id| frame(3, 0, id, &cancel)).collect();
        for bytes in [ask, leave] {
            said = said && stream.write_all(&bytes).await.is_ok() && stream.flush().await.is_ok();
            // So that they are accepted before they are given up.
            sleep(Duration::from_millis(15)).await;
        }
    }
    assert!(!said, "1,500 requests were begun and given up");
    assert_eq!(lab.client().get((CART, 80), "/").await.status, 200);
}

#[tokio::test]
async fn an_answer_of_ours_has_no_body_where_it_may_have_none() {
    let lab = Lab::new("").await;
    let head = lab.client().send2((CART, 80), Request::head("http://cart/"), "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (503, 0));
    assert_eq!(head.header("content-length"), Some("19"));
    let head = lab.client().send((CART, 80), Request::head("/"), "").await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (503, Some("19")));
    lab.write(
        "rules.yaml",
        &http("[{directResponse: {status: 204, body: {string: none of that}}}]"),
    );
    lab.until(|dump| dump.contains("none of that") || dump.contains("204")).await;
    for _ in 0..100 {
        let answer = lab.client().send2((CART, 80), Request::get("http://cart/"), "").await;
        if answer.status == 204 {
            return assert!(answer.body.is_empty(), "{}", answer.text());
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("the rule does not come");
}

#[tokio::test]
async fn codings_beside_chunked_are_refused() {
    let lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    for codings in [
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    ] {
        let text = format!("POST / HTTP/1.1\r\nhost: cart\r\n{codings}\r\n\r\n0\r\n\r\n");
        let answer = lab.client().raw((CART, 80), text.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{codings}: {answer}");
    }
    assert!(pod.seen().is_empty(), "an endpoint saw one of them");
}

#[tokio::test]
async fn heads_that_cannot_be_read_are_recorded() {
    let lab = Lab::new("").await;
    lab.client().raw((CART, 80), b"GET / HTTP/1.1\r\nno colon\r\n\r\n").await;
    lab.line(&["\"- - HTTP/1.1\" 400 DPE http1.codec_error"]).await;
    let long = format!("GET / HTTP/1.1\r\nx-long: {}\r\n\r\n", "a".repeat(70_000));
    lab.client().raw((CART, 80), long.as_bytes()).await;
    lab.line(&["\"- - HTTP/1.1\" 431 DPE http1.headers_too_large"]).await;
    let metrics = lab.get(15020, "/stats/prometheus").await.expect("metrics");
    for code in ["response_code=\"400\"", "response_code=\"431\""] {
        let counted = |line: &str| line.starts_with("istio_requests_total{") && line.contains(code);
        assert!(metrics.lines().any(counted), "{code} in {metrics}");
    }
}

#[tokio::test]
async fn the_log_has_the_path_that_was_decided_by() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    lab.client().get((CART, 80), "/a/../x?y=/../z").await;
    lab.line(&["\"GET /x?y=/../z HTTP/1.1\" 200"]).await;
}

#[tokio::test]
async fn a_connection_is_counted_when_it_is_opened() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream((CART, 83)).await;
    stream.write_all(b"x").await.expect("said");
    stream.flush().await.expect("said");
    let mut heard = [0; 8];
    stream.read_exact(&mut heard).await.expect("heard");
    let metrics = lab.get(15020, "/stats/prometheus").await.expect("metrics");
    let of = |name: &str| metrics.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    let opened = of("istio_tcp_connections_opened_total{").expect("a series");
    assert!(opened.ends_with(" 1"), "{opened}");
    let closed = of("istio_tcp_connections_closed_total{").expect("a series");
    assert!(closed.ends_with(" 0"), "{closed}");
}

#[tokio::test]
async fn a_timeout_begins_with_the_last_byte_that_can_come() {
    let lab = Lab::new(&http("[{timeout: 300ms, route: [{destination: {host: cart}}]}]")).await;
    let _pod = lab.pod(1, "v1").await;
    let mut stream = lab.client().stream((CART, 81)).await;
    // POST with all of its five bytes, and no end.
    let mut block = vec![0x83, 0x86, 0x04, 12];
    block.extend(b"/sleep/20000");
    block.extend([0x01, 4]);
    block.extend(b"cart");
    block.extend([0x0f, 13, 1, b'5']);
    let said = [preface(), frame(1, 0x4, 1, &block), frame(0, 0, 1, b"hello")].concat();
    stream.write_all(&said).await.expect("said");
    stream.flush().await.expect("said");
    let answered = timeout(Duration::from_secs(5), frame_of(&mut stream, &[1]));
    answered.await.expect("the timeout does not begin");
    lab.line(&["POST /sleep/20000", "504 UT"]).await;
}

#[tokio::test]
async fn errors_that_make_us_reset_end_the_connection() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut block = vec![0x82, 0x86, 0x84, 0x01, 4];
    block.extend(b"cart");
    // A request, and a window that must not grow by nothing (CVE-2025-8671).
    let mut flood = preface();
    for number in 0..1_000_u32 {
        let stream = 2 * number + 1;
        flood.extend(frame(1, 0x5, stream, &block));
        flood.extend(frame(8, 0, stream, &0_u32.to_be_bytes()));
    }
    let heard = lab.client().raw2((CART, 80), &flood).await;
    assert!(heard.iter().any(|(kind, _)| *kind == 7), "no GOAWAY: {heard:?}");
    assert_eq!(lab.client().get((CART, 80), "/").await.status, 200);
}

#[tokio::test]
async fn framing_of_the_older_version_does_not_pass_by_the_newer() {
    let lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    let mut head = vec![0x83, 0x86, 0x84, 0x01, 4];
    head.extend(b"cart");
    let chunked = [&head[..], &[0x00, 17], b"transfer-encoding", &[7], b"chunked"].concat();
    // Less than is sent.
    let short = [&head[..], &[0x0f, 13, 1, b'2']].concat();
    let smuggled = b"0\r\n\r\nGET /admin HTTP/1.1\r\nhost: cart\r\n\r\n";
    for (what, block) in [("transfer-encoding", chunked), ("a short length", short)] {
        let said = [preface(), frame(1, 0x4, 1, &block), frame(0, 0x1, 1, smuggled)].concat();
        let mut stream = lab.client().stream((CART, 80)).await;
        stream.write_all(&said).await.expect("said");
        stream.flush().await.expect("said");
        let reset = frame_of(&mut stream, &[3, 7]);
        timeout(Duration::from_secs(5), reset).await.unwrap_or_else(|_| panic!("{what} passed"));
    }
    assert!(pod.asked().is_empty(), "an endpoint heard {:?}", pod.asked());
}

#[tokio::test]
async fn requests_are_counted_under_istios_labels_and_no_others() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    lab.client().get((CART, 80), "/").await;
    lab.line(&["GET / HTTP/1.1"]).await;
    let metrics = lab.get(15020, "/stats/prometheus").await.expect("metrics");
    let mut lines = metrics.lines();
    let line = lines.find(|line| line.starts_with("istio_requests_total{")).expect("a series");
    let (labels, value) =
        line.trim_start_matches("istio_requests_total{").split_once("\"} ").expect("labels");
    let names: Vec<_> = labels.split("\",").filter_map(|label| label.split('=').next()).collect();
    let side = |side: &str| {
        [
            "workload",
            "workload_namespace",
            "canonical_service",
            "canonical_revision",
            "app",
            "version",
            "cluster",
            "principal",
        ]
        .map(|what| format!("{side}_{what}"))
    };
    let expected: Vec<String> = ["reporter".to_owned()]
        .into_iter()
        .chain(side("source"))
        .chain(side("destination"))
        .chain(
            ["destination_service", "destination_service_name", "destination_service_namespace"]
                .map(str::to_owned),
        )
        .chain(
            [
                "request_protocol",
                "response_code",
                "grpc_response_status",
                "response_flags",
                "connection_security_policy",
            ]
            .map(str::to_owned),
        )
        .collect();
    assert_eq!((names, value), (expected.iter().map(String::as_str).collect(), "1"));
}

/// Reads until a frame of one of these kinds has come.
async fn frame_of(stream: &mut (impl AsyncRead + Unpin), kinds: &[u8]) {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        stream.read_exact(&mut vec![0; length]).await.expect("a frame");
        if kinds.contains(&head[3]) {
            return;
        }
    }
}
