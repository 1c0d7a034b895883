//! Pure: the same objects give the same table, whatever their order and history (checklist lines I174,
//! B73), and a change costs the change.
use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::world::{World, aged, gateway, istio, service};

/// One file with one object of a small world, or none.
fn file() -> impl Strategy<Value = (usize, Option<String>)> {
    let host =
        || prop_oneof![Just("a"), Just("b"), Just("'*.shop.svc.cluster.local'"), Just("gone")];
    let name =
        || prop_oneof![Just("a"), Just("b"), Just("c.other.svc.cluster.local"), Just("gone")];
    let namespace =
        || prop_oneof![4 => Just("shop"), 1 => Just("other"), 1 => Just("istio-system")];
    let export = || prop_oneof![3 => Just(""), 1 => Just("exportTo: ['.'],"), 1 => Just("exportTo: [shop],")];
    let routes = (0..4_usize, host(), name(), namespace(), export(), 0..3_u8, 0..5_u8).prop_map(
        |(n, host, to, namespace, export, second, form)| {
            let route = match form {
                0 => format!("{{match: [{{uri: {{prefix: /{n}}}}}], route: [{{destination: {{host: {to}, subset: s}}}}]}}"),
                1 => format!("{{match: [{{port: 80}}], delegate: {{name: v{}}}}}", (n + 1) % 4),
                2 => "{route: [{destination: {host: '*'}}]}".to_owned(),
                _ => format!("{{route: [{{destination: {{host: {to}}}}}]}}"),
            };
            let hosts = if form == 4 { String::new() } else { format!("hosts: [{host}],") };
            let spec = format!("{{{hosts} {export} http: [{route}]}}");
            (n, aged("VirtualService", &format!("v{n}"), namespace, (second, &spec)))
        },
    );
    let rules = (4..7_usize, host(), namespace(), export(), 0..3_u8, any::<bool>()).prop_map(
        |(n, host, namespace, export, second, subset)| {
            let subsets = if subset { "subsets: [{name: s}]," } else { "" };
            let spec = format!("{{host: {host}, {export} {subsets} trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {n}}}}}}}}}");
            (n, aged("DestinationRule", &format!("d{n}"), namespace, (second, &spec)))
        },
    );
    let services = (7..10_usize, 80..82_u16, any::<bool>()).prop_map(|(n, port, two)| {
        let (name, namespace) = [("a", "shop"), ("b", "shop"), ("c", "other")][n - 7];
        let more = if two { " tcp:90" } else { "" };
        (n, service(name, namespace, &format!("http:{port}{more}")))
    });
    let mesh = (10..12_usize, namespace(), prop_oneof![Just("shop"), Just("other")]).prop_map(|(n, namespace, to)| {
        let to = if to == "shop" { "name: b".to_owned() } else { format!("name: c, namespace: {to}") };
        let spec = format!("{{parentRefs: [{{group: '', kind: Service, name: a, namespace: shop}}], rules: [{{matches: [{{path: {{value: /{n}}}}}], backendRefs: [{{{to}, port: 80}}]}}]}}");
        (n, gateway("HTTPRoute", &format!("h{n}"), namespace, &spec))
    });
    let grants = (12..13_usize, namespace()).prop_map(|(n, namespace)| {
        let spec = format!("{{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {namespace}}}], to: [{{group: '', kind: Service}}]}}");
        (n, gateway("ReferenceGrant", "g", "other", &spec))
    });
    let present = prop_oneof![6 => routes, 3 => rules, 3 => services, 2 => mesh, 1 => grants];
    (present, any::<u8>()).prop_map(|((n, text), luck)| (n, (luck > 50).then_some(text)))
}

/// What a world says, but its problems: those tell of versions that were refused.
fn said(world: &World) -> String {
    let table: BTreeMap<_, _> = world.compiled.table.services.iter().collect();
    let backends: BTreeMap<_, _> = world.compiled.backends.services.iter().collect();
    format!("{table:?} {backends:?}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]
    /// Against the slow way: a compiler that is shown all files at once. Of an object that makes no sense
    /// now, it is shown the last good version.
    #[test]
    fn changes_give_what_all_objects_give(steps in prop::collection::vec(file(), 1..40)) {
        let mut world = World::of("");
        let mut good = BTreeMap::<usize, String>::new();
        let mut present = BTreeMap::<usize, (String, String)>::new();
        for (n, text) in steps {
            world.write(&format!("{n}.yaml"), text.as_deref());
            match &text {
                None => drop(good.remove(&n)),
                Some(text) if text.contains("host: '*'}") => {
                    // The last good one stays if it has the same name.
                    let key = |text: &str| text.split("metadata: {").nth(1).and_then(|rest| rest.split(", creation").next()).map(str::to_owned);
                    // One that never was good is closed, which it is anew too.
                    let was_good = |last: &String| key(last) == key(text) && !last.contains("host: '*'}");
                    if !good.get(&n).is_some_and(was_good) {
                        good.insert(n, text.clone());
                    }
                }
                Some(text) => drop(good.insert(n, text.clone())),
            }
            present.clear();
            present.extend(good.iter().map(|(n, text)| (*n, (format!("{n}.yaml"), text.clone()))));
        }
        let anew = World::of_files(present.into_values());
        prop_assert_eq!(said(&world), said(&anew));
    }
}

fn big(services: usize, routed: usize) -> World {
    let mut world = World::of("");
    let all: String =
        (0..services).map(|n| service(&format!("s{n}"), "shop", "http:80 http-b:81")).collect();
    let rules: String = (0..routed).map(|n| routes(n, "v2")).collect();
    world.write("services.yaml", Some(&all));
    for n in 0..routed / 100 {
        let some: String = (n * 100..(n + 1) * 100).map(rule).collect();
        world.write(&format!("rules-{n}.yaml"), Some(&some));
    }
    world.write("routes.yaml", Some(&rules));
    world
}

fn rule(n: usize) -> String {
    istio(
        "DestinationRule",
        &format!("d{n}"),
        "shop",
        &format!("{{host: s{n}, subsets: [{{name: v1}}, {{name: v2}}]}}"),
    )
}

fn routes(n: usize, subset: &str) -> String {
    istio(
        "VirtualService",
        &format!("v{n}"),
        "shop",
        &format!(
            "{{hosts: [s{n}], http: [{{match: [{{uri: {{prefix: /api}}, headers: {{x: {{regex: 'a|b'}}}}}}], route: [{{destination: {{host: s{n}, subset: {subset}}}}}]}}, \
         {{route: [{{destination: {{host: s{n}, subset: v1}}}}]}}]}}"
        ),
    )
}

/// B73: what did not change is shared with the last table, so that a change of one service is swapped in
/// whole and costs that one.
#[test]
fn a_change_of_one_service_touches_no_other() {
    let mut world = big(300, 100);
    assert_eq!(world.problems(), Vec::<String>::new());
    let before = world.compiled.clone();
    world.write("one.yaml", Some(&routes(200, "gone")));
    let after = &world.compiled;
    for (host, routes) in &before.table.services {
        let same = Arc::ptr_eq(routes, after.table.services.get(host).unwrap());
        assert_eq!(same, !host.starts_with("s200."), "{host}");
    }
    assert_eq!(before.backends, after.backends);
    // Endpoints that come and go change no routes.
    let before = world.compiled.table.clone();
    world.write("pod.yaml", Some("{kind: Pod, apiVersion: v1, metadata: {name: p, namespace: shop, labels: {app: s1}}, spec: {}, status: {podIP: 10.1.0.1}}"));
    assert!(before.services.iter().all(|(host, routes)| Arc::ptr_eq(
        routes,
        world.compiled.table.services.get(host).unwrap()
    )));
    // A DestinationRule concerns its service and those that route there.
    world.write(
        "two.yaml",
        Some(&istio(
            "DestinationRule",
            "d200",
            "shop",
            "{host: s200, subsets: [{name: gone}, {name: v1}]}",
        )),
    );
    assert_eq!(world.ask("GET s200.shop/api x=a"), "s200.shop:80/gone");
}

/// A service that is a wildcard follows the objects of each host that it stands for.
#[test]
fn wildcard_services_follow() {
    let entry = "{hosts: ['*.example', one.example], addresses: [10.97.0.1], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 192.0.2.1}]}";
    let mut world = World::of(&istio("ServiceEntry", "wide", "shop", entry));
    assert_eq!(world.ask("GET *.example/"), "*.example:80");
    let spec = |host: &str| {
        format!("{{hosts: [{host}], http: [{{timeout: 0s, directResponse: {{status: 418}}}}]}}")
    };
    world.write("v.yaml", Some(&istio("VirtualService", "v", "shop", &spec("one.example"))));
    assert_eq!(world.problems(), Vec::<String>::new());
    assert!(world.rule("GET *.example/").unwrap().source.is_some());
    assert_eq!(world.ask("GET one.example/"), "418");
    world.write("v.yaml", None);
    assert_eq!(world.ask("GET *.example/"), "*.example:80");
    let parent = "{parentRefs: [{group: networking.istio.io, kind: ServiceEntry, name: wide}], rules: [{filters: [{type: RequestRedirect, requestRedirect: {hostname: x.example}}]}]}";
    world.write("h.yaml", Some(&gateway("HTTPRoute", "h", "shop", parent)));
    assert_eq!(world.ask("GET one.example/"), "302");
    world.write("h.yaml", None);
    assert_eq!(world.ask("GET one.example/"), "one.example:80");
}
