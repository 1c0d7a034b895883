//! Pure: conditions of VirtualServices (checklist lines B28, B34 to B44).
use super::{
    super::Settings,
    world::{World, istio, service},
};

/// A world where a block of conditions leads to `hit`, and everything else to 404.
fn world(block: &str) -> World {
    let spec = format!(
        "{{hosts: [a], http: [{{match: [{block}], route: [{{destination: {{host: hit}}}}]}}]}}"
    );
    let services = service("a", "shop", "http:80 http-b:81") + &service("hit", "shop", "http:80");
    World::of(&(services + &istio("VirtualService", "a", "shop", &spec)))
}

/// Which of these requests meet a block of conditions.
fn check(block: &str, requests: &[(&str, bool)]) {
    let world = world(block);
    assert_eq!(world.problems(), Vec::<String>::new(), "{block}");
    for (request, meets) in requests {
        let expected = if *meets { "hit.shop:80" } else { "404" };
        assert_eq!(world.ask(request), expected, "{block}: {request}");
    }
}

/// B28.
#[test]
fn paths_are_compared_as_text_unless_case_is_ignored() {
    check(
        "{uri: {prefix: /api/v2}}",
        &[
            ("GET a.shop/api/v2", true),
            ("GET a.shop/api/v20", true),
            ("GET a.shop/api/v2?x=1", true),
            ("GET a.shop/API/v2", false),
        ],
    );
    check("{uri: {prefix: /api/v2}, ignoreUriCase: true}", &[("GET a.shop/API/V2/x", true)]);
    check("{uri: {exact: /api}}", &[("GET a.shop/api", true), ("GET a.shop/api/", false)]);
    check(
        "{uri: {regex: '/v[12]/.*'}}",
        &[("GET a.shop/v1/x", true), ("GET a.shop/v3/x", false), ("GET a.shop/x/v1/x", false)],
    );
}

/// B34.
#[test]
fn query_parameters_by_value_beginning_expression_and_presence() {
    check(
        "{queryParams: {v: {exact: two}}}",
        &[
            ("GET a.shop/?v=two", true),
            ("GET a.shop/?w=1&v=two", true),
            ("GET a.shop/?v=twofold", false),
            ("GET a.shop/", false),
        ],
    );
    check(
        "{queryParams: {v: {prefix: tw}}}",
        &[("GET a.shop/?v=two", true), ("GET a.shop/?v=one", false)],
    );
    check(
        "{queryParams: {v: {regex: '[0-9]+'}}}",
        &[("GET a.shop/?v=12", true), ("GET a.shop/?v=12a", false)],
    );
    for presence in ["{}", "{regex: '*'}", "{exact: ''}"] {
        check(
            &format!("{{queryParams: {{v: {presence}}}}}"),
            &[("GET a.shop/?v=", true), ("GET a.shop/?v=x", true), ("GET a.shop/?w=x", false)],
        );
    }
}

/// B35.
#[test]
fn the_method() {
    check("{method: {exact: GET}}", &[("GET a.shop/", true), ("POST a.shop/", false)]);
}

/// B36.
#[test]
fn labels_of_the_client() {
    check(
        "{sourceLabels: {app: web, version: v1}}",
        &[
            ("GET a.shop/ label:app=web label:version=v1 label:x=y", true),
            ("GET a.shop/ label:app=web", false),
        ],
    );
}

/// B37.
#[test]
fn the_namespace_is_the_clients() {
    check(
        "{sourceNamespace: mobile}",
        &[("GET a.shop/ from=mobile", true), ("GET a.shop/ from=shop", false)],
    );
}

/// B38.
#[test]
fn headers_that_must_not_be_there() {
    check(
        "{withoutHeaders: {x: {exact: one}}}",
        &[("GET a.shop/", true), ("GET a.shop/ x=two", true), ("GET a.shop/ x=one", false)],
    );
    for presence in ["{}", "{regex: '*'}"] {
        check(
            &format!("{{withoutHeaders: {{x: {presence}}}}}"),
            &[("GET a.shop/", true), ("GET a.shop/ x=one", false)],
        );
    }
}

/// B39.
#[test]
fn headers_that_must_be_there() {
    for presence in ["{}", "{regex: '*'}"] {
        check(
            &format!("{{headers: {{X-Any: {presence}}}}}"),
            &[("GET a.shop/ x-any=1", true), ("GET a.shop/", false)],
        );
    }
    check(
        "{headers: {x: {exact: 'a,b'}}}",
        &[("GET a.shop/ x=a x=b", true), ("GET a.shop/ x=b x=a", false)],
    );
}

/// B40.
#[test]
fn all_of_a_block_and_any_of_the_blocks() {
    let both = "{uri: {prefix: /x}, method: {exact: GET}}";
    check(
        &format!("{both}, {{headers: {{y: {{exact: '1'}}}}}}"),
        &[
            ("GET a.shop/x", true),
            ("POST a.shop/x", false),
            ("POST a.shop/x y=1", true),
            ("GET a.shop/z", false),
        ],
    );
}

/// B41.
#[test]
fn the_authority_is_seen_as_it_was_sent() {
    check(
        "{authority: {exact: 'shop.example:8080'}}",
        &[
            ("GET a.shop/ authority=shop.example:8080", true),
            ("GET a.shop/ authority=shop.example", false),
        ],
    );
}

/// B42.
#[test]
fn the_port_is_the_services() {
    let world = world("{port: 81}");
    assert_eq!(world.ask("GET a.shop:81/"), "hit.shop:80");
    // A port for which nobody says anything keeps its default.
    assert_eq!(world.ask("GET a.shop:80/"), "a.shop:80");
}

/// B44.
#[test]
fn where_no_rule_matches_there_is_nothing() {
    check("{uri: {exact: /only}}", &[("GET a.shop/only", true), ("GET a.shop/other", false)]);
}

#[test]
fn gateways_of_a_block_must_name_the_mesh() {
    check("{gateways: [mesh]}", &[("GET a.shop/", true)]);
    let world = world("{gateways: [edge]}");
    assert_eq!(world.ask("GET a.shop/"), "a.shop:80");
}

/// Envoy's pseudo-headers are conditions like others, beside the fields of their names.
#[test]
fn pseudo_headers_are_conditions_too() {
    check(
        "{headers: {':path': {exact: '/x?y=1'}}}",
        &[("GET a.shop/x?y=1", true), ("GET a.shop/x", false)],
    );
    check(
        "{headers: {':method': {regex: 'P.*'}}, method: {exact: POST}}",
        &[("POST a.shop/", true), ("PUT a.shop/", false), ("GET a.shop/", false)],
    );
    check(
        "{headers: {':authority': {prefix: a.}, ':scheme': {exact: http}}}",
        &[("GET a.shop/", true), ("GET a.shop/ authority=b", false)],
    );
    check(
        "{withoutHeaders: {':method': {exact: DELETE}, ':path': {prefix: /admin}}}",
        &[("GET a.shop/", true), ("DELETE a.shop/", false), ("GET a.shop/admin", false)],
    );
    check("{headers: {uri: {exact: x}}}", &[("GET a.shop/ uri=x", true), ("GET a.shop/", false)]);
}

/// Of a text that is too long for an expression nobody says that it is not like it.
#[test]
fn nothing_is_said_of_texts_that_are_too_long() {
    let long = "x".repeat(crate::routing::Regex::MAX_TEXT + 1);
    let (long, short) = (format!("GET a.shop/ h={long}"), "GET a.shop/ h=y");
    check("{headers: {h: {regex: 'x*'}}}", &[(&long, false)]);
    check("{withoutHeaders: {h: {regex: 'x*'}}}", &[(&long, false), (short, true)]);
}

/// B36, as Istio's waypoints have it: what speaks of labels is left out, for requests and connections.
#[test]
fn blocks_with_labels_of_clients_may_be_left_out() {
    let spec = "{hosts: [a], http: [{match: [{sourceLabels: {app: web}}], route: [{destination: {host: hit}}]}, {match: [{uri: {prefix: /x}}, {uri: {prefix: /}, sourceLabels: {app: web}}], directResponse: {status: 418}}], tcp: [{match: [{sourceLabels: {app: web}}], route: [{destination: {host: hit}}]}, {route: [{destination: {host: a}}]}]}";
    let all = service("a", "shop", "http:80 tcp:90") + &service("hit", "shop", "http:80");
    let all = all + &istio("VirtualService", "a", "shop", spec);
    let counts = |source_labels: bool| {
        let settings = Settings { source_labels, ..Settings::default() };
        let world = World::with(settings, &all);
        let host = "a.shop.svc.cluster.local";
        let port = |number: u16| world.compiled.table.port(host, number).unwrap();
        (port(80).http.len(), port(90).tcp.len(), world.ask("GET a.shop/x"))
    };
    assert_eq!(counts(true), (3, 2, "418".into()));
    assert_eq!(counts(false), (1, 1, "418".into()));
}

/// What is behind a rule for all paths is never reached, and not kept.
#[test]
fn a_rule_for_all_paths_ends_the_list() {
    for (block, rules) in [
        ("{uri: {prefix: /}}", 1),
        ("{uri: {prefix: /}, ignoreUriCase: true}", 1),
        ("{uri: {exact: /}}", 2),
        ("{uri: {prefix: /}, method: {exact: GET}}", 2),
    ] {
        let spec = format!(
            "{{hosts: [a], http: [{{match: [{block}], route: [{{destination: {{host: hit}}}}]}}, {{directResponse: {{status: 418}}}}]}}"
        );
        let all = service("a", "shop", "http:80") + &service("hit", "shop", "http:80");
        let world = World::of(&(all + &istio("VirtualService", "a", "shop", &spec)));
        let routes = world.compiled.table.port("a.shop.svc.cluster.local", 80);
        assert_eq!(routes.map(|routes| routes.http.len()), Some(rules), "{block}");
    }
}
