//! Pure: of what is refused and was never good nothing passes (checklist line I175).
use super::world::{World, gateway, istio, service};
use crate::routing::{Opening, find_stream};

fn services() -> String {
    ["a", "b"].map(|name| service(name, "shop", "http:80 tcp:90")).concat()
}

const ROUTE: &str = "http: [{route: [{destination: {host: b}}]}]";
const CLOSED: &str = "until it is mended nothing passes for its hosts";

/// Whether bytes that are no HTTP get anywhere at a port of `a`.
fn connects(world: &World, port: u16) -> bool {
    let routes = world.compiled.table.port("a.shop.svc.cluster.local", port).unwrap();
    let labels = Default::default();
    let client = crate::routing::Client {
        address: "10.0.0.1:1".parse().unwrap(),
        identity: None,
        namespace: None,
        labels: &labels,
    };
    let route = find_stream(routes, Opening::Other, &client);
    route.is_some_and(|route| route.destinations.draw(0).is_some())
}

#[test]
fn a_virtual_service_that_never_was_good_closes_its_hosts() {
    let mut world = World::of(&services());
    let write = |world: &mut World, spec: &str| {
        world.write("v.yaml", Some(&istio("VirtualService", "x", "shop", spec)));
    };
    for (spec, streams) in [
        (format!("{{hosts: [a], {ROUTE}, tcp: [{{rout: 1}}]}}"), false),
        ("{hosts: [a], http: [{matches: [], route: [{destination: {host: b}}]}]}".into(), true),
        ("{hosts: [a], htpp: []}".into(), false),
        ("{hosts: [a], http: {}}".into(), true),
    ] {
        write(&mut world, &spec);
        assert_eq!(world.ask("GET a.shop/"), "500", "{spec}");
        assert_eq!(world.ask("GET b.shop/"), "b.shop:80", "{spec}");
        assert_eq!(connects(&world, 90), streams, "{spec}");
        let problems = world.problems();
        assert!(problems.iter().all(|problem| problem.ends_with(CLOSED)), "{problems:?}");
        assert_eq!(world.rule("GET a.shop/").unwrap().source.as_ref().unwrap().name.as_ref(), "x");
    }
    // For whom it is may change while it is refused.
    write(&mut world, "{hosts: [b], htpp: []}");
    assert_eq!(
        (world.ask("GET a.shop/"), world.ask("GET b.shop/")),
        ("a.shop:80".into(), "500".into())
    );
    // Those of the edge, and of all hosts, say nothing here.
    write(&mut world, "{hosts: [a], gateways: [edge], htpp: []}");
    assert_eq!(world.ask("GET a.shop/"), "a.shop:80");
    write(&mut world, &format!("{{hosts: ['*'], {ROUTE}}}"));
    assert_eq!(world.ask("GET a.shop/"), "a.shop:80");
    write(&mut world, &format!("{{hosts: [a], {ROUTE}}}"));
    assert_eq!((world.ask("GET a.shop/"), world.problems()), ("b.shop:80".into(), vec![]));
    world.write("v.yaml", None);
    assert_eq!(world.ask("GET a.shop/"), "a.shop:80");
}

#[test]
fn a_delegate_that_never_was_good_closes_what_is_delegated() {
    let root = "{hosts: [a], http: [{match: [{uri: {prefix: /d}}], delegate: {name: d}}, {route: [{destination: {host: b}}]}]}";
    let mut world = World::of(&(services() + &istio("VirtualService", "r", "shop", root)));
    world.write("d.yaml", Some(&istio("VirtualService", "d", "shop", "{http: [{rout: 1}]}")));
    assert_eq!(
        (world.ask("GET a.shop/d"), world.ask("GET a.shop/x")),
        ("500".into(), "b.shop:80".into())
    );
}

#[test]
fn routes_of_the_gateway_api_that_never_were_good_close_their_parents() {
    let spec = |rules: &str| {
        format!(
            "{{parentRefs: [{{group: '', kind: Service, name: a, port: 80}}], rules: [{{{rules}}}]}}"
        )
    };
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let world = World::of(&(services() + &gateway(kind, "x", "shop", &spec("backendRef: []"))));
        assert_eq!(world.ask("GET a.shop/"), "500", "{kind}");
        assert!(world.problems()[0].ends_with(CLOSED), "{:?}", world.problems());
        assert!(connects(&world, 90));
    }
    let tcp = spec("backendRef: []").replace("port: 80", "port: 90");
    let world = World::of(&(services() + &gateway("TCPRoute", "x", "shop", &tcp)));
    assert!(!connects(&world, 90));
}

#[test]
fn nobody_is_called_as_a_refused_destination_rule_may_not_say() {
    let rule = |spec: &str| istio("DestinationRule", "d", "shop", spec);
    let mut world =
        World::of(&(services() + &rule("{host: a, trafficPolicy: {tls: {mod: SIMPLE}}}")));
    let refused = |world: &World| world.backend("a.shop", 80, None).unwrap().policy.refused;
    assert!(refused(&world));
    assert!(world.problems()[0].ends_with(CLOSED), "{:?}", world.problems());
    world.write(
        "a.yaml",
        Some(&(services() + &rule("{host: a, trafficPolicy: {tls: {mode: DISABLE}}}"))),
    );
    assert!(!refused(&world));
    world.write(
        "a.yaml",
        Some(&(services() + &rule("{host: a, trafficPolicy: {tls: {mod: SIMPLE}}}"))),
    );
    assert!(!refused(&world));
}

#[test]
fn nobody_is_called_without_the_tls_of_a_backend_tls_policy() {
    let policy = "{targetRefs: [{group: '', kind: Service, name: a}], validation: {hostname: a.example, wellKnownCACertificates: System}}";
    let mut world = World::of(&services());
    let refused = |world: &World, name: &str| {
        world.backend(&format!("{name}.shop"), 80, None).unwrap().policy.refused
    };
    for spec in [policy.to_owned(), policy.replace("validation", "validaton")] {
        world.write("t.yaml", Some(&gateway("BackendTLSPolicy", "t", "shop", &spec)));
        assert_eq!((refused(&world, "a"), refused(&world, "b")), (true, false));
        assert!(!world.problems().is_empty());
        world.write("t.yaml", None);
        assert!(!refused(&world, "a"));
    }
}
