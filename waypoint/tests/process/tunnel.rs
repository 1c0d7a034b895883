//! Shell: who gets a tunnel, and where it leads (checklist A of docs/conformance.md).
use std::{net::SocketAddr, time::Duration};

use culvert_agent::{
    clock,
    hbone::{Authority, ConnectHead, Error, Host, TraceParent, http2::Broken},
    identity::{Credentials, ca::LocalCa},
};
use http::Request;

use crate::{
    client::Client,
    lab::{CART, FOREIGN, FREE, Lab, seen},
    pod::Pod,
};

fn is_reset<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Http2(Broken::Reset(_))))
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_no_session() {
    use std::io::{Read, Write};
    let lab = Lab::new("").await;
    let mut stream = std::net::TcpStream::connect(lab.waypoint()).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n").expect("sent");
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    assert!(!heard.starts_with(b"HTTP/"), "plaintext was answered");
}

#[tokio::test]
async fn a_client_of_another_root_or_trust_domain_gets_no_session() {
    let lab = Lab::new("").await;
    let folder = std::env::temp_dir().join(format!("culvert-other-{}", rand::random::<u64>()));
    let hour = Duration::from_secs(3600);
    let other = LocalCa::open(&folder.join("ca.pem"), "cluster.local", hour, clock::wall());
    let svid = other.expect("a root").issue(&Lab::own_identity(), clock::wall());
    let foreign = Credentials::new(svid.expect("a certificate")).expect("credentials");
    let _ = std::fs::remove_dir_all(&folder);
    let alien = lab.credentials("spiffe://other.domain/ns/shop/sa/web");
    for credentials in [std::sync::Arc::new(foreign), alien] {
        let client = Client::new(&lab, "spiffe://cluster.local/ns/shop/sa/web", 101);
        let client = client.with(credentials);
        let refused = client.tunnel((CART, 80)).await;
        assert!(matches!(refused, Err(Error::Tls(_) | Error::Http2(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn what_is_not_connect_is_refused_and_the_connection_goes_on() {
    let lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    let statuses = crate::hostile::plain_requests(&lab, &["GET", "POST"]).await;
    assert_eq!(statuses, ["400", "400"], "on one connection");
    assert_eq!(lab.client().get((CART, 80), "/").await.status, 200);
    drop(pod);
}

#[tokio::test]
async fn what_is_not_attached_is_reset_and_hears_no_http() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let client = lab.client();
    // Each is waited for a moment, in case that the waypoint does not know it yet: all at once.
    let asked = [
        (SocketAddr::from((FREE, 80)), "a service that opted out"),
        (SocketAddr::from((FOREIGN, 80)), "another waypoint's service"),
        (SocketAddr::from((CART, 8080)), "a port that the service does not have"),
        (SocketAddr::from(([10, 96, 9, 9], 80)), "nobody's address"),
        (SocketAddr::new(lab.address(1), 8080), "a pod, of a waypoint that is for services"),
        (SocketAddr::new(lab.address(9), 15000), "the waypoint's own admin port"),
        (SocketAddr::from(([127, 0, 0, 1], 15000)), "the loopback"),
    ];
    let asked = asked.map(async |(to, what)| {
        let refused = client.tunnel(to).await;
        assert!(is_reset(&refused), "{what}: {refused:?}");
    });
    futures_util::future::join_all(asked).await;
    assert!(client.tunnel((CART, 80)).await.is_ok(), "the connection goes on");
}

#[tokio::test]
async fn a_host_name_is_no_target() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let name = "cart.shop.svc.cluster.local".to_owned();
    let head = ConnectHead {
        authority: Authority { host: Host::Name(name), port: 80 },
        forwarded: None,
        baggage: None,
        trace: TraceParent::new([1, 2, 3]),
    };
    assert!(is_reset(&lab.client().ask(&head).await));
}

#[tokio::test]
async fn a_pod_is_served_by_a_waypoint_that_is_for_pods() {
    let lab = Lab::new("").await;
    lab.write("gateway.yaml", "");
    let rules = "{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: pods, namespace: shop, labels: {istio.io/waypoint-for: workload}}, spec: {gatewayClassName: istio-waypoint}, status: {addresses: [{type: IPAddress, value: ADDRESS}]}}\n---\n{kind: Pod, apiVersion: v1, metadata: {name: db-0, namespace: shop, labels: {istio.io/use-waypoint: pods}}, spec: {serviceAccountName: cart}, status: {phase: Running, podIP: POD, conditions: [{type: Ready, status: 'True'}]}}\n";
    let rules = rules.replace("ADDRESS", &lab.address(9).to_string());
    lab.write("rules.yaml", &rules.replace("POD", &lab.address(5).to_string()));
    lab.until(|dump| dump.contains("db-0")).await;
    let pod = Pod::start(&lab, 5).await;
    let answer = lab.client().get(SocketAddr::new(lab.address(5), 8080), "/x").await;
    assert_eq!((answer.status.as_u16(), answer.json()["pod"].as_str()), (200, Some("cart-5")));
    assert_eq!(pod.seen()[0].authority, format!("{}:8080", lab.address(5)));
}

#[tokio::test]
async fn two_hundred_streams_of_one_connection_are_all_served() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let client = lab.client();
    let asks = (0..200).map(|_| client.get((CART, 80), "/sleep/50"));
    let answers = futures_util::future::join_all(asks).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
}

#[tokio::test]
async fn requests_of_one_connection_are_spread_over_all_pods() {
    let lab = Lab::new("").await;
    let pods = [lab.pod(1, "v1").await, lab.pod(2, "v1").await, lab.pod(3, "v2").await];
    let mut sender = lab.client().http2((CART, 80)).await;
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..10 {
        let request = Request::get("http://cart.shop/").body(String::new()).expect("a request");
        let answer = sender.send_request(request).await.expect("a response");
        let answer = crate::client::read(answer).await;
        names.insert(answer.json()["pod"].as_str().map(str::to_owned));
    }
    assert_eq!(names.len(), pods.len());
}

#[tokio::test]
async fn endpoints_see_the_waypoints_identity_and_their_own_address() {
    let lab = Lab::new("").await;
    let pod = lab.pod(1, "v1").await;
    lab.client().get((CART, 80), "/").await;
    let seen = seen(&[&pod]);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].authority, format!("{}:8080", lab.address(1)));
    assert_eq!(seen[0].peer, Lab::own_identity());
}

#[tokio::test]
async fn somebody_elses_certificate_at_an_endpoint_is_no_endpoint() {
    let lab = Lab::new("").await;
    let impostor = Pod::start_as(&lab, 1, "spiffe://cluster.local/ns/shop/sa/web").await;
    lab.declare(1, "v1").await;
    let answer = lab.client().get((CART, 80), "/").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("identity error"), "{}", answer.text());
    assert!(seen(&[&impostor]).is_empty(), "nothing is asked of it");
    lab.line(&["503 UF", "identity"]).await;
}
