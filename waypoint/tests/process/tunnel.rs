//! Shell: who gets a tunnel, and where it leads (checklist A of docs/conformance.md).
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use culvert_agent::{
    clock,
    hbone::{Authority, ConnectHead, Error, Host, TraceParent, http2::Broken},
    identity::{Credentials, ca::LocalCa},
};
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{SignatureScheme, client::ResolvesClientCert, sign::CertifiedKey},
};

use crate::{
    client::Client,
    lab::{CART, FOREIGN, FREE, Lab, seen},
    pod::Pod,
};

fn is_reset<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Http2(Broken::Reset(_))))
}

/// It has no certificate, whatever it is asked.
#[derive(Debug)]
struct Nobody;

impl ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_no_session() {
    let lab = Lab::new("").await;
    for (certified, served) in [(true, true), (false, false)] {
        let credentials = lab.credentials("spiffe://cluster.local/ns/shop/sa/web");
        let mut config = (*credentials.client).clone();
        if !certified {
            config.client_auth_cert_resolver = Arc::new(Nobody);
        }
        let tcp = TcpStream::connect(lab.waypoint()).await.expect("a connection");
        let name = "waypoint".try_into().expect("a name");
        // With TLS 1.3 a client is done before its server has looked for its certificate.
        let connector = TlsConnector::from(Arc::new(config));
        let mut session = connector.connect(name, tcp).await.expect("the client's half");
        session
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .expect("sent");
        let mut heard = [0; 9];
        let read = session.read_exact(&mut heard).await;
        // SETTINGS, or the alert.
        assert_eq!(read.is_ok() && heard[3] == 4, served, "{read:?} {heard:?}");
        if let Err(error) = read {
            assert!(error.to_string().contains("CertificateRequired"), "{error}");
        }
    }
    let mut plain = TcpStream::connect(lab.waypoint()).await.expect("a connection");
    plain.write_all(b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n").await.expect("sent");
    let mut heard = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), plain.read_to_end(&mut heard)).await;
    assert!(!heard.starts_with(b"HTTP/"), "plaintext was answered");
}

#[tokio::test]
async fn clients_of_an_alias_of_the_trust_domain_are_let_in() {
    let rule = "{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {name: c, namespace: shop}, spec: {hosts: [cart], http: [{match: [{sourceLabels: {team: shop}}], directResponse: {status: 299}}]}}";
    let lab = Lab::configured(rule, "trust_domain_aliases = [\"old.domain\"]").await;
    for (identity, served) in [
        ("spiffe://old.domain/ns/shop/sa/web", true),
        ("spiffe://cluster.local/ns/shop/sa/web", true),
        ("spiffe://other.domain/ns/shop/sa/web", false),
    ] {
        let client = Client::new(&lab, identity, 100);
        let tunnel = client.tunnel((CART, 80)).await;
        assert_eq!(tunnel.is_ok(), served, "{identity}: {tunnel:?}");
        if served {
            // It is the workload of that name.
            assert_eq!(client.get((CART, 80), "/").await.status.as_u16(), 299, "{identity}");
        }
    }
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
async fn three_hundred_streams_of_one_connection_are_all_served() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let sender = crate::hostile::others_agent(&lab).await;
    let (open, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let asks = (0..300).map(|_| {
        let (mut sender, open, most) = (sender.clone(), &open, &most);
        async move {
            let request = Request::connect("10.96.0.1:80").body(Empty::new()).expect("a request");
            let answer = sender.send_request(request).await.expect("an answer");
            assert_eq!(answer.status(), 200);
            let now = open.fetch_add(1, Ordering::Relaxed) + 1;
            most.fetch_max(now, Ordering::Relaxed);
            let mut tunnel = TokioIo::new(hyper::upgrade::on(answer).await.expect("a tunnel"));
            let asked = b"GET /sleep/200 HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n";
            tunnel.write_all(asked).await.expect("asked");
            let mut heard = String::new();
            tunnel.read_to_string(&mut heard).await.expect("an answer");
            open.fetch_sub(1, Ordering::Relaxed);
            heard.starts_with("HTTP/1.1 200 ")
        }
    });
    let served = futures_util::future::join_all(asks).await;
    assert!(served.iter().all(|served| *served));
    // As many as are announced, and the others waited.
    let most = most.into_inner();
    assert!((101..=200).contains(&most), "{most} were open at once");
}

#[tokio::test]
async fn who_is_outside_the_mesh_or_has_a_sidecar_is_reached_in_plaintext() {
    let lab = Lab::new("").await;
    let outside = Pod::start_outside(&lab, 1).await;
    let pod = "{kind: Pod, apiVersion: v1, metadata: {name: cart-1, namespace: shop, labels: {app: cart, istio.io/dataplane-mode: none}}, spec: {}, status: {phase: Running, podIP: ADDRESS, conditions: [{type: Ready, status: 'True'}]}}\n";
    lab.write("outside.yaml", &pod.replace("ADDRESS", &lab.address(1).to_string()));
    lab.until(|dump| dump.contains("cart-1")).await;
    for _ in 0..3 {
        let answer = lab.client().get((CART, 80), "/x").await;
        assert_eq!((answer.status.as_u16(), answer.json()["pod"].as_str()), (200, Some("cart-1")));
    }
    assert_eq!(outside.asked().len(), 3);
    // One with a sidecar is none of the mesh's agents', whatever its namespace says.
    let sidecar = pod.replace(
        "istio.io/dataplane-mode: none}",
        "istio.io/dataplane-mode: ambient}, annotations: {sidecar.istio.io/status: injected}",
    );
    let sidecar = sidecar.replace("name: cart-1,", "name: cart-sidecar,");
    lab.write("outside.yaml", &sidecar.replace("ADDRESS", &lab.address(1).to_string()));
    lab.until(|dump| dump.contains("cart-sidecar")).await;
    assert_eq!(lab.client().get((CART, 80), "/x").await.status, 200);
    assert_eq!(outside.asked().len(), 4);
    // Once it is enrolled, nothing goes there in the clear.
    lab.write(
        "outside.yaml",
        &pod.replace("none", "ambient").replace("ADDRESS", &lab.address(1).to_string()),
    );
    let mut last = 200;
    for _ in 0..200 {
        last = lab.client().get((CART, 80), "/x").await.status.as_u16();
        if last == 503 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(last, 503);
}

#[tokio::test]
async fn endpoints_are_told_who_the_client_is_if_the_gateway_says_so() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let gateway = "{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: waypoint, namespace: shop, annotations: {ambient.istio.io/xfcc-include-client-identity: 'true'}}, spec: {gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}\n---\n";
    let told = |answer: &crate::client::Answer| {
        let json = answer.json();
        let headers = json["headers"].as_array().expect("headers").iter();
        let of_name = headers.filter(|pair| pair[0] == "x-forwarded-client-cert");
        of_name.map(|pair| pair[1].to_string()).collect::<Vec<_>>()
    };
    let ask = || async {
        let request = Request::get("/").header("host", "cart");
        let request = request.header("x-forwarded-client-cert", "URI=spiffe://forged");
        told(&lab.client().send((CART, 80), request, "").await)
    };
    assert!(ask().await.is_empty());
    lab.gateway(gateway);
    let mut heard = Vec::new();
    for _ in 0..200 {
        heard = ask().await;
        if !heard.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let expected = "\"By=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/web\"";
    assert_eq!(heard, [expected]);
}

#[tokio::test]
async fn requests_of_one_connection_are_spread_over_all_pods() {
    let lab = Lab::new("").await;
    let pods = [lab.pod(1, "v1").await, lab.pod(2, "v1").await, lab.pod(3, "v2").await];
    let mut sender = lab.client().http2((CART, 80)).await;
    let mut names = std::collections::BTreeSet::new();
    // By chance one of three is never drawn in one of millions of runs.
    for _ in 0..40 {
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
