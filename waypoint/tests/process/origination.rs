//! Shell: TLS of the waypoint's own, as DestinationRules ask for it (B70, E120).
use std::{net::SocketAddr, time::Duration};

use culvert_agent::clock;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    foreign::{Authority, Foreign, Noted},
    lab::{CART, Lab},
    pod::until,
};

/// A service outside the mesh, `<name>.example.com` at 10.97.0.`vip`: port 80 is HTTP, 81 HTTP/2, 82 bytes;
/// its one endpoint takes all of them on port 8443.
fn outside(lab: &Lab, name: &str, (vip, host): (u8, u8), policy: &str) -> String {
    let at = lab.address(host);
    format!(
        "{{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: shop}}, spec: {{hosts: [{name}.example.com], addresses: [10.97.0.{vip}], location: MESH_EXTERNAL, resolution: STATIC, ports: [{{number: 80, targetPort: 8443, name: http, protocol: HTTP}}, {{number: 81, targetPort: 8443, name: http2, protocol: HTTP2}}, {{number: 82, targetPort: 8443, name: tcp, protocol: TCP}}], endpoints: [{{address: {at}}}]}}}}\n---\n\
         {{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: shop}}, spec: {{host: {name}.example.com, trafficPolicy: {policy}}}}}\n---\n"
    )
}

fn at(vip: u8, port: u16) -> SocketAddr {
    ([10, 97, 0, vip], port).into()
}

fn session(name: &str, alpn: Option<&str>, client: bool) -> Noted {
    Noted::Session { name: Some(name.into()), alpn: alpn.map(str::to_owned), client }
}

fn asked(scheme: Option<&str>, path: &str) -> Noted {
    Noted::Asked(scheme.map(str::to_owned), path.into())
}

/// One request without another try.
async fn get(lab: &Lab, to: SocketAddr) -> (u16, String) {
    let request = |uri: &str| Request::get(uri.to_owned()).header("x-envoy-max-retries", "0");
    let answer = match to.port() {
        81 => lab.client().send2(to, request("http://cart.shop/x"), "").await,
        _ => lab.client().send(to, request("/x"), "").await,
    };
    (answer.status.as_u16(), answer.text())
}

async fn declare(lab: &Lab, rules: &[String]) {
    let last = rules.len();
    let mark = format!(
        "{{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {{name: mark-{last}, namespace: shop}}, spec: {{hosts: [mark-{last}.example.com], resolution: NONE, ports: [{{number: 80, name: http}}]}}}}\n"
    );
    lab.write("rules.yaml", &(rules.concat() + &mark));
    lab.until(|dump| dump.contains(&format!("mark-{last}.example.com"))).await;
}

#[tokio::test]
async fn a_server_outside_is_spoken_to_by_tls_in_both_versions_and_for_bytes() {
    let (lab, authority) = (Lab::new("").await, Authority::new());
    let ca = lab.keep("ca.crt", &authority.pem);
    let names = ["right.example.com", "other.example.org", "spiffe://x/ns/a/sa/b"];
    let server = Foreign::new(&lab.drain, &authority.card(&names, 1), None);
    let server = server.listen(SocketAddr::new(lab.address(51), 8443)).await;
    let rule = |tls: &str| outside(&lab, "right", (1, 51), &format!("{{tls: {tls}}}"));
    let simple = rule(&format!("{{mode: SIMPLE, caCertificates: {ca}}}"));
    declare(&lab, &[simple]).await;
    for _ in 0..2 {
        assert_eq!(get(&lab, at(1, 80)).await, (200, "from outside".into()));
    }
    let host = "right.example.com";
    let once = [session(host, Some("http/1.1"), false), asked(None, "/x"), asked(None, "/x")];
    assert_eq!(server.noted(), once, "the connection is kept");
    assert_eq!(get(&lab, at(1, 81)).await.0, 200);
    let second = [session(host, Some("h2"), false), asked(Some("https"), "/x")];
    assert_eq!(server.noted()[3..], second);

    let mut stream = lab.client().stream(at(1, 82)).await;
    stream.write_all(b"hello").await.expect("said");
    stream.flush().await.expect("said");
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.expect("heard");
    assert_eq!(&heard, b"HELLO");
    stream.shutdown().await.expect("an end");
    assert_eq!(stream.read(&mut heard).await.expect("an end"), 0, "ends are passed on");
    assert_eq!(server.noted()[5..], [session(host, None, false)]);

    // Other settings are another connection.
    let named =
        "{mode: SIMPLE, sni: other.example.org, subjectAltNames: ['spiffe://x/ns/a/sa/b'], ";
    declare(&lab, &[rule(&format!("{named}caCertificates: {ca}}}")), String::new()]).await;
    assert_eq!(get(&lab, at(1, 80)).await.0, 200);
    let other = [session("other.example.org", Some("http/1.1"), false), asked(None, "/x")];
    assert_eq!(server.noted()[6..], other);
    assert!(!server.noted().contains(&Noted::Clear));
}

/// A service, its endpoint, its TLS, and why nothing goes there; empty for what does.
type Case = (&'static str, u8, String, &'static str);

fn cases(ca: &str, list: &str, empty: &str) -> Vec<Case> {
    let mine = format!("caCertificates: {ca}");
    let list = format!("{mine}, caCrl: {list}");
    vec![
        ("good", 51, mine.clone(), ""),
        ("theirs", 52, mine.clone(), "UnknownIssuer"),
        ("named", 53, mine.clone(), "not valid for name"),
        ("expired", 54, mine.clone(), "expired"),
        (
            "good2",
            51,
            format!("{mine}, sni: good.example.com, subjectAltNames: [x.y]"),
            "NotValidForName",
        ),
        ("good3", 51, "sni: good.example.com".into(), "good3.example.com"),
        ("skip", 52, "insecureSkipVerify: true".into(), ""),
        (
            "gone",
            51,
            "caCertificates: /nowhere/ca.crt".into(),
            "rules.yaml:31: trafficPolicy.tls.caCertificates: read /nowhere/ca.crt: No such file",
        ),
        ("bare", 51, format!("caCertificates: {empty}"), "there is no certificate in it"),
        (
            "secret",
            51,
            "credentialName: certs".into(),
            "trafficPolicy.tls.credentialName: Secrets are not read",
        ),
        ("fresh", 51, format!("{list}, sni: good.example.com"), ""),
        ("revoked", 55, list, "Revoked"),
        ("nameless", 51, format!("{mine}, sni: '*.example.com'"), "trafficPolicy.tls.sni"),
    ]
}

#[tokio::test]
async fn who_is_not_who_was_asked_for_gets_nothing_and_nothing_goes_in_the_clear() {
    let (lab, ours, others) = (Lab::new("").await, Authority::new(), Authority::new());
    let (ca, empty) = (lab.keep("ca.crt", &ours.pem), lab.keep("empty.crt", "nothing\n"));
    let cards = [
        ours.card(&["good.example.com"], 1),
        others.card(&["theirs.example.com"], 1),
        ours.card(&["else.example.com"], 1),
        ours.card(&["expired.example.com"], 3),
        ours.card(&["revoked.example.com"], 1),
    ];
    let list = lab.keep("ca.crl", &ours.revoke(&cards[4]));
    let mut servers = Vec::new();
    for (host, card) in (51..).zip(&cards) {
        let address = SocketAddr::new(lab.address(host), 8443);
        servers.push(Foreign::new(&lab.drain, card, None).listen(address).await);
    }
    let cases = cases(&ca, &list, &empty);
    let rules = (1..).zip(&cases).map(|(vip, (name, host, tls, _))| {
        outside(&lab, name, (vip, *host), &format!("{{tls: {{mode: SIMPLE, {tls}}}}}"))
    });
    let mutual = outside(&lab, "mesh", (20, 51), "{tls: {mode: ISTIO_MUTUAL}}");
    declare(&lab, &rules.chain([mutual]).collect::<Vec<_>>()).await;
    for (vip, (name, _, tls, why)) in (1..).zip(&cases) {
        let expected = if why.is_empty() { 200 } else { 503 };
        for port in [80, 81] {
            let (status, text) = get(&lab, at(vip, port)).await;
            assert_eq!(status, expected, "{name} {tls}: {text}");
        }
        if why.is_empty() {
            continue;
        }
        let host = format!("{name}.example.com");
        lab.line(&["503 UF", &host, why]).await;
        let mut stream = lab.client().stream(at(vip, 82)).await;
        let _ = stream.write_all(b"hello").await;
        assert!(stream.read_to_end(&mut Vec::new()).await.is_err(), "{name} carries no bytes");
    }
    assert_eq!(get(&lab, at(20, 80)).await.0, 503);
    lab.line(&["503 UF", "trafficPolicy.tls.mode: ISTIO_MUTUAL"]).await;
    for server in &servers {
        assert!(!server.noted().contains(&Noted::Clear));
    }
    for refused in &servers[2..] {
        assert_eq!(refused.sessions(), 0);
    }
}

#[tokio::test]
async fn a_server_may_ask_for_the_waypoints_certificate() {
    let (lab, authority) = (Lab::new("").await, Authority::new());
    let ca = lab.keep("ca.crt", &authority.pem);
    let own = authority.card(&["waypoint.shop"], 1);
    let (chain, key) = (lab.keep("own.crt", &own.chain), lab.keep("own.key", &own.key));
    let card = authority.card(&["both.example.com", "one.example.com", "halved.example.com"], 1);
    let server = Foreign::new(&lab.drain, &card, Some(&authority));
    let server = server.listen(SocketAddr::new(lab.address(51), 8443)).await;
    let files = format!("clientCertificate: {chain}, privateKey: {key}, caCertificates: {ca}");
    let simple = format!("{{mode: SIMPLE, caCertificates: {ca}}}");
    let halved = files.replace(&key, "/nowhere/own.key");
    declare(
        &lab,
        &[
            outside(&lab, "both", (1, 51), &format!("{{tls: {{mode: MUTUAL, {files}}}}}")),
            outside(&lab, "one", (2, 51), &format!("{{tls: {simple}}}")),
            outside(&lab, "halved", (3, 51), &format!("{{tls: {{mode: MUTUAL, {halved}}}}}")),
        ],
    )
    .await;
    assert_eq!(get(&lab, at(1, 80)).await.0, 200);
    let expected = [session("both.example.com", Some("http/1.1"), true), asked(None, "/x")];
    assert_eq!(server.noted(), expected);
    assert_eq!(get(&lab, at(2, 80)).await.0, 503);
    assert_eq!(get(&lab, at(3, 80)).await.0, 503);
    lab.line(&["503 UF", "trafficPolicy.tls.privateKey: read /nowhere/own.key"]).await;
    assert_eq!(server.sessions(), 1);
}

#[tokio::test]
async fn ports_and_subsets_have_tls_of_their_own_and_disable_has_none() {
    let (lab, authority) = (Lab::new("").await, Authority::new());
    let ca = lab.keep("ca.crt", &authority.pem);
    let card = authority.card(&["ports.example.com", "plain.example.com"], 1);
    let server = Foreign::new(&lab.drain, &card, None);
    let server = server.listen(SocketAddr::new(lab.address(51), 8443)).await;
    let simple = format!("{{mode: SIMPLE, caCertificates: {ca}}}");
    let ports = format!(
        "{{tls: {{mode: DISABLE}}, portLevelSettings: [{{port: {{number: 80}}, tls: {simple}}}]}}"
    );
    declare(
        &lab,
        &[
            outside(&lab, "ports", (1, 51), &ports),
            outside(&lab, "plain", (2, 51), "{tls: {mode: DISABLE}}")
                .replace("{tls: {mode: DISABLE}}", &format!("{{tls: {{mode: DISABLE}}}}, subsets: [{{name: s, trafficPolicy: {{tls: {simple}}}}}]")),
            "{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {name: plain, namespace: shop}, spec: {hosts: [plain.example.com], http: [{route: [{destination: {host: plain.example.com, subset: s}}]}]}}\n---\n".into(),
        ],
    )
    .await;
    assert_eq!(get(&lab, at(1, 80)).await.0, 200);
    assert_eq!(get(&lab, at(2, 80)).await.0, 200);
    assert_eq!((server.sessions(), server.noted().contains(&Noted::Clear)), (2, false));
    // What is not to be secret is not.
    assert_ne!(get(&lab, at(1, 81)).await.0, 200);
    until("it came in the clear", || server.noted().contains(&Noted::Clear)).await;
    assert_eq!(server.sessions(), 2);
}

#[tokio::test]
async fn a_handshake_takes_no_longer_than_a_connection_may() {
    let (lab, authority) = (Lab::new("").await, Authority::new());
    let ca = lab.keep("ca.crt", &authority.pem);
    let silent = TcpListener::bind(SocketAddr::new(lab.address(51), 8443)).await;
    let _silent = silent.expect("a listener");
    let policy = format!(
        "{{connectionPool: {{tcp: {{connectTimeout: 400ms}}}}, tls: {{mode: SIMPLE, caCertificates: {ca}}}}}"
    );
    declare(&lab, &[outside(&lab, "silent", (1, 51), &policy)]).await;
    let began = clock::now();
    assert_eq!(get(&lab, at(1, 80)).await.0, 503);
    let took = began.elapsed();
    assert!((390..1_500).contains(&took.as_millis()), "{took:?}");
    lab.line(&["503 UF upstream_reset_before_response_started{connection_timeout}"]).await;
    let mut stream = lab.client().stream(at(1, 82)).await;
    let ended = tokio::time::timeout(Duration::from_secs(3), stream.read(&mut [0])).await;
    assert!(ended.expect("in time").is_err());
}

#[tokio::test]
async fn an_endpoint_of_the_mesh_is_spoken_to_by_tls_within_its_tunnel() {
    let (lab, authority) = (Lab::new("").await, Authority::new());
    let ca = lab.keep("ca.crt", &authority.pem);
    let pod = lab.pod(1, "v1").await;
    let server = Foreign::new(&lab.drain, &authority.card(&["inside.shop"], 1), None);
    pod.secure(&server);
    let secure = "{kind: Service, apiVersion: v1, metadata: {name: inside, namespace: shop}, spec: {clusterIP: 10.96.0.8, selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8443}, {name: tcp, port: 82, targetPort: 8443}, {name: http-plain, port: 83, targetPort: 8080}]}}\n---\n";
    let rule = format!(
        "{{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {{name: inside, namespace: shop}}, spec: {{host: inside, trafficPolicy: {{tls: {{mode: SIMPLE, sni: inside.shop, caCertificates: {ca}}}, portLevelSettings: [{{port: {{number: 83}}, tls: {{mode: ISTIO_MUTUAL}}}}]}}}}}}\n---\n"
    );
    declare(&lab, &[secure.into(), rule]).await;
    let inside = [10, 96, 0, 8];
    assert_eq!(get(&lab, (inside, 80).into()).await, (200, "from outside".into()));
    assert_eq!(lab.client().echo((inside, 82), b"hello", 5).await, "HELLO");
    let name = "inside.shop";
    let expected =
        [session(name, Some("http/1.1"), false), asked(None, "/x"), session(name, None, false)];
    assert_eq!(server.noted(), expected);
    assert!(pod.seen().iter().all(|seen| seen.peer == Lab::own_identity()));
    assert_eq!(get(&lab, (inside, 83).into()).await.0, 200, "the mesh's own is enough there");
    assert_eq!(get(&lab, (CART, 80).into()).await.0, 200);
}
