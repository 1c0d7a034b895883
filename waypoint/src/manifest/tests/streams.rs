//! Pure: rules for connections (checklist lines B67, B68), and what is spoken on ports.
use std::collections::BTreeMap;

use super::world::{World, gateway, istio, service, shares};
use crate::routing::{Client, Opening, Protocol, find_stream};

/// Where a connection to a port goes that begins so.
fn stream(world: &World, host: &str, port: u16, sni: Option<&str>, label: Option<&str>) -> String {
    let host = format!("{host}.svc.cluster.local");
    let routes = world.compiled.table.port(&host, port).unwrap();
    let labels: BTreeMap<_, _> =
        label.map(|label| ("app".to_owned(), label.to_owned())).into_iter().collect();
    let address = "10.0.9.9:1".parse().unwrap();
    let client = Client { address, identity: None, namespace: Some("default"), labels: &labels };
    let opening = sni.map_or(Opening::Other, |sni| Opening::Tls(Some(sni)));
    find_stream(routes, opening, &client).map_or("none".into(), |route| shares(route.destinations))
}

fn services() -> String {
    service("a", "shop", "tcp:90 tls:443 http:80 plain:81")
        + &service("b", "shop", "tcp:90")
        + &service("c", "shop", "tcp:90")
}

/// B67.
#[test]
fn rules_for_connections_leave_requests_alone() {
    let spec = "{hosts: [a], tcp: [{route: [{destination: {host: b}}]}]}";
    let world = World::of(&(services() + &istio("VirtualService", "x", "shop", spec)));
    assert_eq!(world.ask("GET a.shop/"), "a.shop:80");
    assert_eq!(stream(&world, "a.shop", 90, None, None), "b.shop:90");
    // Nobody says what is spoken there: the first bytes tell.
    assert_eq!(world.ask("GET a.shop:81/"), "a.shop:81");
    assert_eq!(stream(&world, "a.shop", 81, None, None), "b.shop:90");
}

/// B68.
#[test]
fn tls_rules_come_before_tcp_rules_and_both_have_weights() {
    let spec = "{hosts: [a, '*.example'], tls: [{match: [{sniHosts: ['*.example'], port: 443}], route: [{destination: {host: b}}]}], \
        tcp: [{match: [{port: 443, sourceLabels: {app: web}}], route: [{destination: {host: c}}]}, \
        {match: [{port: 90}], route: [{destination: {host: b}, weight: 3}, {destination: {host: c}, weight: 1}, {destination: {host: a}, weight: 1}]}]}";
    let world = World::of(&(services() + &istio("VirtualService", "x", "shop", spec)));
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!(stream(&world, "a.shop", 443, Some("x.example"), Some("web")), "b.shop:90");
    assert_eq!(stream(&world, "a.shop", 443, Some("y.other"), Some("web")), "c.shop:90");
    assert_eq!(stream(&world, "a.shop", 443, Some("y.other"), None), "a.shop:443");
    let split = stream(&world, "a.shop", 90, None, None);
    assert_eq!(split, "b.shop:90=3 c.shop:90=1 a.shop:90=1");
}

/// J198, as far as it is compiled.
#[test]
fn routes_of_the_gateway_api_for_connections() {
    let parent = "parentRefs: [{group: '', kind: Service, name: a}]";
    let tls = format!(
        "{{{parent}, hostnames: [x.example, '*.wide'], rules: [{{backendRefs: [{{name: b, port: 90}}]}}]}}"
    );
    let narrow = format!(
        "{{{parent}, hostnames: [n.wide], rules: [{{backendRefs: [{{name: a, port: 90}}]}}]}}"
    );
    let tcp = format!(
        "{{{parent}, rules: [{{backendRefs: [{{name: b, port: 90, weight: 3}}, {{name: c, port: 90}}, {{name: gone, port: 90}}]}}]}}"
    );
    let yaml = services()
        + &gateway("TLSRoute", "t", "shop", &tls)
        + &gateway("TLSRoute", "z", "shop", &narrow)
        + &gateway("TCPRoute", "t", "shop", &tcp);
    let world = World::of(&yaml);
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!(stream(&world, "a.shop", 443, Some("x.example"), None), "b.shop:90");
    assert_eq!(stream(&world, "a.shop", 443, Some("m.wide"), None), "b.shop:90");
    assert_eq!(stream(&world, "a.shop", 443, Some("n.wide"), None), "a.shop:90");
    assert_eq!(
        stream(&world, "a.shop", 90, None, None),
        "b.shop:90=3 c.shop:90=1 Backend(\"backend(gone.shop.svc.cluster.local) not found\")=1"
    );
}

#[test]
fn ports_say_what_is_spoken() {
    let world = World::of(&service("a", "shop", "http:80 http2:81 grpc:82 tls:83 tcp:84 x:85"));
    let routes = |port| world.compiled.table.port("a.shop.svc.cluster.local", port).unwrap();
    for (port, protocol, requests, connections) in [
        (80, Protocol::Http, 1, 0),
        (81, Protocol::Http2, 1, 0),
        (82, Protocol::Grpc, 1, 0),
        (83, Protocol::Tls, 0, 1),
        (84, Protocol::Tcp, 0, 1),
        (85, Protocol::Unknown, 1, 1),
    ] {
        let routes = routes(port);
        assert_eq!(routes.protocol, protocol);
        assert_eq!((routes.http.len(), routes.tcp.len()), (requests, connections), "{port}");
    }
}
