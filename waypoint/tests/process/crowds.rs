//! Shell: what many connections and ports may take (docs/conformance.md, E).
use std::time::Duration;

use culvert_agent::clock;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    client::slowly,
    lab::{CART, Lab},
    pod::Pod,
    script::Act,
};

/// A rule of this host's.
fn policy(host: &str, text: &str) -> String {
    format!(
        "{{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {{name: {host}, namespace: shop}}, spec: {{host: {host}, trafficPolicy: {text}}}}}\n"
    )
}

/// Longer than the pause between two looks for connections that are over.
const SWEPT: Duration = Duration::from_secs(17);

#[tokio::test]
async fn connections_that_take_no_more_count_until_they_end() {
    let pool = "{connectionPool: {tcp: {maxConnections: 1}, http: {maxRequestsPerConnection: 1}}}";
    let lab = Lab::new(&policy("cart", pool)).await;
    let pod = lab.pod(1, "v1").await;
    // A call whose answer has begun, and lasts.
    let mut sender = lab.client().http2((CART, 81)).await;
    let said = slowly((0..100).map(|_| "more"), Duration::from_secs(1));
    let call = Request::post("http://cart/shop.Cart/Talk").body(said).expect("a request");
    let _call = sender.send_request(call).await.expect("an answer");
    let ask = async || {
        let request = Request::get("http://cart/").header("x-envoy-upstream-rq-timeout-ms", "500");
        lab.client().send2((CART, 81), request, "").await.status
    };
    assert_eq!(ask().await, 504, "it waits for a place");
    tokio::time::sleep(SWEPT).await;
    assert_eq!(ask().await, 504, "it still waits");
    assert_eq!(pod.seen().len(), 1);
}

#[tokio::test]
async fn connections_that_are_too_old_end_also_when_nobody_asks() {
    let lab =
        Lab::new(&policy("cart", "{connectionPool: {tcp: {maxConnectionDuration: 300ms}}}")).await;
    let _pod = lab.pod(1, "v1").await;
    for port in [80, 81] {
        assert_eq!(lab.client().get((CART, port), "/").await.status, 200);
    }
    tokio::time::sleep(SWEPT).await;
    let metrics = lab.get(15020, "/metrics").await.expect("metrics");
    for port in [80, 81] {
        let line = format!(
            "envoy_cluster_upstream_cx_active{{cluster_name=\"inbound-vip|{port}|http|cart.shop.svc.cluster.local\"}} 0\n"
        );
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn an_endpoint_that_takes_few_streams_gets_more_connections() {
    let service = "{kind: Service, apiVersion: v1, metadata: {name: narrow, namespace: shop}, spec: {clusterIP: 10.96.0.8, selector: {app: cart}, ports: [{name: http2, port: 90, targetPort: 8089}]}}\n";
    let lab = Lab::new(service).await;
    let pod = lab.pod(1, "v1").await;
    let ask = async || {
        let to = ([10, 96, 0, 8], 90);
        lab.client().send2(to, Request::get("http://narrow/"), "").await.status
    };
    assert_eq!(ask().await, 200, "it has said how many it takes");
    pod.script.always(Some(Act::Sleep(Duration::from_millis(700))));
    let began = clock::now();
    assert_eq!(tokio::join!(ask(), ask()), (http::StatusCode::OK, http::StatusCode::OK));
    assert!(began.elapsed() < Duration::from_millis(1_250), "{:?}", began.elapsed());
    assert_eq!(pod.seen().len(), 2);
}

#[tokio::test]
async fn ports_of_a_pod_that_somebody_dials_leave_nothing_behind() {
    let lab = Lab::new("").await;
    let pods = "{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: pods, namespace: shop, labels: {istio.io/waypoint-for: workload}}, spec: {gatewayClassName: istio-waypoint}, status: {addresses: [{type: IPAddress, value: ADDRESS}]}}\n---\n{kind: Pod, apiVersion: v1, metadata: {name: db-0, namespace: shop, labels: {istio.io/use-waypoint: pods}}, spec: {serviceAccountName: cart}, status: {phase: Running, podIP: POD, conditions: [{type: Ready, status: 'True'}]}}\n";
    let pods = pods.replace("ADDRESS", &lab.address(9).to_string());
    lab.write("rules.yaml", &pods.replace("POD", &lab.address(5).to_string()));
    lab.until(|dump| dump.contains("db-0")).await;
    let (_db, _cart) = (Pod::start(&lab, 5).await, lab.pod(1, "v1").await);
    for port in 20_000..20_050_u16 {
        assert_eq!(lab.client().get((lab.address(5), port), "/").await.status, 200);
    }
    assert_eq!(lab.client().get((CART, 80), "/").await.status, 200);
    let metrics = lab.get(15020, "/metrics").await.expect("metrics");
    assert!(metrics.contains("|cart.shop.svc.cluster.local\""), "{metrics}");
    assert!(!metrics.contains("//Pod/"), "{metrics}");
}

#[tokio::test]
async fn a_late_client_of_http_holds_no_connection_of_bytes() {
    let lab = Lab::new(&policy("cart", "{connectionPool: {tcp: {maxConnections: 1}}}")).await;
    let _pod = lab.pod(1, "v1").await;
    let mut late = lab.client().stream((CART, 82)).await;
    // The server is dialled, and has not begun.
    tokio::time::sleep(Duration::from_millis(200)).await;
    late.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n").await.expect("said");
    late.flush().await.expect("said");
    let mut heard = [0; 15];
    late.read_exact(&mut heard).await.expect("an answer");
    assert_eq!(&heard, b"HTTP/1.1 200 OK");
    let mut silent = lab.client().stream((CART, 82)).await;
    let mut hello = [0; 10];
    let heard = tokio::time::timeout(Duration::from_secs(5), silent.read_exact(&mut hello)).await;
    heard.expect("in time").expect("the server's own connection");
    assert_eq!(&hello, b"220 cart-1");
}
