//! Pure: what is written once is kept once, and rules come to no more than their bound.
use bytes::Bytes;

use super::world::{World, gateway, istio, service};
use crate::routing::{Action, PathMatch};

const BOUND: &str = "the rules of this service come to more than 32 MiB";

fn blocks(count: usize) -> String {
    let block = |n| format!("{{uri: {{prefix: /{n}}}}}");
    (0..count).map(block).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_body_and_an_expression_are_made_once() {
    let body = "x".repeat(100_000);
    let spec = format!(
        "{{hosts: [a, b], http: [{{match: [{{uri: {{regex: '/x.*'}}, port: 80}}, {}], directResponse: {{status: 403, body: {{string: {body}}}}}}}]}}",
        blocks(500)
    );
    let services = ["a", "b"].map(|name| service(name, "shop", "http:80 http-b:81")).concat();
    let world = World::of(&(services + &istio("VirtualService", "x", "shop", &spec)));
    assert_eq!(world.problems(), [] as [&str; 0]);
    let rules = world.compiled.table.services.values().flat_map(|service| service.ports.values());
    let rules: Vec<_> = rules.flat_map(|port| &port.http).collect();
    assert_eq!(rules.len(), 4 * 500 + 2);
    let bodies: Vec<&Bytes> = rules
        .iter()
        .filter_map(|rule| match &rule.action {
            Action::Direct(direct) => Some(&direct.body),
            Action::Redirect(_) | Action::Forward(_) => None,
        })
        .collect();
    assert!(bodies.iter().all(|body| body.as_ptr() == bodies[0].as_ptr()));
    let texts: Vec<_> = rules
        .iter()
        .filter_map(|rule| {
            let Some(PathMatch::Regex(regex)) = &rule.matches.uri else { return None };
            Some(regex.as_str().as_ptr())
        })
        .collect();
    assert_eq!(texts.len(), 2);
    assert_eq!(texts[0], texts[1]);
}

#[test]
fn rules_that_come_to_too_much_let_nothing_pass() {
    let long = "x".repeat(100_000);
    let many = format!(
        "{{hosts: [a], http: [{{match: [{{uri: {{prefix: /first}}}}], route: [{{destination: {{host: a}}}}]}}, \
         {{match: [{}], redirect: {{uri: /{long}}}}}, {{route: [{{destination: {{host: a}}}}]}}]}}",
        blocks(1000)
    );
    let world = World::of(
        &(service("a", "shop", "http:80") + &istio("VirtualService", "x", "shop", &many)),
    );
    assert_eq!(world.ask("GET a.shop/first"), "a.shop:80");
    assert_eq!((world.ask("GET a.shop/0"), world.ask("GET a.shop/")), ("500".into(), "500".into()));
    assert!(world.problems()[0].contains(BOUND), "{:?}", world.problems());
}

#[test]
fn what_is_delegated_is_bounded_too() {
    let root =
        format!("{{hosts: [a], http: [{{match: [{}], delegate: {{name: d}}}}]}}", blocks(2000));
    let leaf =
        format!("{{http: [{{match: [{}], route: [{{destination: {{host: a}}}}]}}]}}", blocks(2000));
    let objects =
        istio("VirtualService", "x", "shop", &root) + &istio("VirtualService", "d", "shop", &leaf);
    let world = World::of(&(service("a", "shop", "http:80") + &objects));
    assert_eq!(world.ask("GET a.shop/1"), "500");
    assert!(world.problems()[0].contains(BOUND), "{:?}", world.problems());
}

#[test]
fn routes_of_a_consumer_take_no_room_from_the_services_own() {
    let parent = "parentRefs: [{group: '', kind: Service, name: a, namespace: shop}]";
    let matches =
        (0..1000).map(|n| format!("{{path: {{value: /{n}}}}}")).collect::<Vec<_>>().join(", ");
    let evil = format!(
        "{{{parent}, rules: [{{matches: [{matches}], filters: [{{type: RequestRedirect, requestRedirect: {{path: {{type: ReplaceFullPath, replaceFullPath: /{}}}}}}}]}}]}}",
        "x".repeat(100_000)
    );
    let own = format!("{{{parent}, rules: [{{backendRefs: [{{name: a, port: 80}}]}}]}}");
    let world = World::of(
        &(service("a", "shop", "http:80")
            + &gateway("HTTPRoute", "evil", "evil", &evil)
            + &gateway("HTTPRoute", "own", "shop", &own)),
    );
    assert!(world.problems()[0].contains(BOUND), "{:?}", world.problems());
    assert_eq!(world.ask("GET a.shop/"), "a.shop:80");
    assert_eq!(world.ask("GET a.shop/ from=evil"), "500");
}
