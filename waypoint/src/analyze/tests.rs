//! Pure: what is said about which objects (checklist lines I176 to I178).
use std::{fs, path::Path};

use culvert_agent::manifest::{self, Folder};

use super::*;

/// What is said about these files, without the place of each.
fn said(files: &[(&str, &str)]) -> Vec<Message> {
    let mut folder = Folder::default();
    let contents = files.iter().map(|(name, text)| ((*name).into(), Ok((*text).to_owned())));
    folder.update(contents.collect());
    let snapshot = manifest::compile(&folder, &manifest::Settings::default());
    analyze(&folder, &snapshot, &Settings::default())
}

fn check(yaml: &str, expected: &[&str]) {
    assert_eq!(text(&said(&[("a.yaml", yaml)])).lines().collect::<Vec<_>>(), expected, "{yaml}");
}

fn mission(left_out: &str) -> Vec<Message> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let files = fs::read_dir(fixtures.join("mission")).unwrap().map(|file| file.unwrap().path());
    let files = files.chain([fixtures.join("mission-services.yaml")]);
    let texts: Vec<_> = files
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                fs::read_to_string(path).unwrap(),
            )
        })
        .filter(|(name, _)| left_out.is_empty() || !name.contains(left_out))
        .collect();
    said(&texts.iter().map(|(name, text)| (&**name, &**text)).collect::<Vec<_>>())
}

/// I177.
#[test]
fn the_articles_objects_are_clean_with_their_destination_rules() {
    assert_eq!(text(&mission("")), "");
    assert_eq!(
        text(&mission("destinationrule")).lines().collect::<Vec<_>>(),
        [
            "Error [IST0101] (VirtualService production/product-service product-service.virtualservice.yaml:15) Referenced host+subset in destinationrule not found: \"product-service+v2\"",
            "Error [IST0101] (VirtualService production/product-service product-service.virtualservice.yaml:19) Referenced host+subset in destinationrule not found: \"product-service+v1\"",
        ]
    );
    let alone = mission("mission-services");
    let codes: Vec<_> = alone.iter().map(|message| message.code.as_str()).collect();
    assert!(codes.contains(&"IST0101") && codes.contains(&"IST0174") && codes.contains(&"IST0127"));
    let canary = alone.iter().any(|message| message.text.ends_with("\"checkout-service+canary\""));
    assert!(canary, "{alone:?}");
}

const SERVICES: &str = "---\n{kind: Service, apiVersion: v1, metadata: {name: a, namespace: shop}, spec: {clusterIP: 10.96.0.1, selector: {app: a}, ports: [{name: http, port: 80}]}}\n\
    ---\n{kind: Service, apiVersion: v1, metadata: {name: b, namespace: shop}, spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}, {name: x, port: 81}]}}\n\
    ---\n{kind: Pod, apiVersion: v1, metadata: {name: a-1, namespace: shop, labels: {app: a, v: '1'}}, spec: {}, status: {podIP: 10.0.0.1}}\n";

fn istio(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "{SERVICES}---\nkind: {kind}\napiVersion: networking.istio.io/v1\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

fn virtual_service(http: &str) -> String {
    istio("VirtualService", "x", &format!("{{hosts: [a], http: [{http}]}}"))
}

/// I178.
#[test]
fn destinations_that_are_not_there_or_leave_the_port_open() {
    let at = "(VirtualService shop/x a.yaml:11)";
    let not_found = |what: &str| format!("Error [IST0101] {at} Referenced {what}");
    check(
        &virtual_service("{route: [{destination: {host: gone}}]}"),
        &[&not_found("host not found: \"gone\"")],
    );
    check(
        &virtual_service("{route: [{destination: {host: a, port: {number: 9}}}]}"),
        &[&not_found("host:port not found: \"a:9\"")],
    );
    check(
        &virtual_service("{mirror: {host: gone}, route: [{destination: {host: a}}]}"),
        &[&not_found("mirror host not found: \"gone\"")],
    );
    check(
        &virtual_service(
            "{mirrors: [{destination: {host: a, subset: s}}], route: [{destination: {host: a}}]}",
        ),
        &[&not_found("mirror+subset in destinationrule not found: \"a+s\"")],
    );
    check(
        &virtual_service("{route: [{destination: {host: b}}]}"),
        &[&format!(
            "Error [IST0112] {at} This VirtualService routes to a service \"b\" that exposes multiple ports [80 81]. Specifying a port in the destination is required to disambiguate."
        )],
    );
    check(&virtual_service("{route: [{destination: {host: b, port: {number: 81}}}]}"), &[]);
}

/// I178.
#[test]
fn destination_rules_for_nobody() {
    check(
        &istio("DestinationRule", "x", "{host: gone, subsets: [{name: s}]}"),
        &[
            "Warning [IST0174] (DestinationRule shop/x a.yaml:11) The host gone defined in the DestinationRule does not match any services in the mesh.",
        ],
    );
    check(
        &istio(
            "DestinationRule",
            "x",
            "{host: a, subsets: [{name: s, labels: {v: '1'}}, {name: t, labels: {v: '2'}}]}",
        ),
        &[
            "Error [IST0173] (DestinationRule shop/x a.yaml:11) The Subset t defined in the DestinationRule does not select any pods. Which may lead to 503 UH (NoHealthyUpstream).",
        ],
    );
}

/// I178.
#[test]
fn rules_that_others_hide() {
    let route = "route: [{destination: {host: a}}]";
    let at = "(VirtualService shop/x a.yaml:11)";
    check(
        &virtual_service(&format!(
            "{{{route}}}, {{{route}}}, {{match: [{{uri: {{prefix: /x}}}}], {route}}}"
        )),
        &[
            &format!(
                "Warning [IST0130] {at} VirtualService rule #1 not used (only the last rule can have no matches)."
            ),
            &format!(
                "Warning [IST0130] {at} VirtualService rule #2 not used (route without matches defined before)."
            ),
        ],
    );
    let block = "{uri: {exact: /x}, headers: {h: {exact: '1'}}}";
    check(
        &virtual_service(&format!(
            "{{name: one, match: [{block}], {route}}}, {{match: [{block}], {route}}}"
        )),
        &[
            &format!(
                "Warning [IST0130] {at} VirtualService rule #1 not used (all matches used by prior rules)."
            ),
            &format!(
                "Info [IST0131] {at} VirtualService rule #1 match #0 is not used (duplicate/overlapping match in rule \"one\")."
            ),
        ],
    );
    check(
        &virtual_service(&format!(
            "{{match: [{{uri: {{prefix: /x}}}}], {route}}}, {{match: [{{uri: {{prefix: /x/y}}}}], {route}}}"
        )),
        &[&format!(
            "Info [IST0131] {at} VirtualService rule #1 match #0 of prefix /x/y is not used (duplicate/overlapping match in rule #0 of prefix /x on #0)."
        )],
    );
    // What asks for more leaves something to those after it.
    check(
        &virtual_service(&format!(
            "{{match: [{{uri: {{prefix: /x}}, method: {{exact: GET}}}}], {route}}}, {{match: [{{uri: {{prefix: /x/y}}}}], {route}}}"
        )),
        &[],
    );
}

/// I176.
#[test]
fn virtual_services_for_one_host() {
    let one = |name: &str, host: &str, more: &str| {
        format!(
            "---\n{{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: shop}}, \
                 spec: {{hosts: [{host}], {more} http: [{{route: [{{destination: {{host: a}}}}]}}]}}}}\n"
        )
    };
    let conflict = |name: &str, line: u32, scope: &str| {
        format!(
            "Error [IST0109] (VirtualService shop/{name} a.yaml:{line}) The VirtualServices shop/x,shop/y associated with mesh gateway define the same host {scope}/a.shop.svc.cluster.local which can lead to undefined behavior. This can be fixed by merging the conflicting VirtualServices into a single resource."
        )
    };
    let world = |y: String| format!("{SERVICES}{}{y}", one("x", "a", ""));
    check(
        &world(one("y", "a.shop.svc.cluster.local", "")),
        &[&conflict("x", 8, "*"), &conflict("y", 10, "*")],
    );
    check(
        &world(one("y", "a", "exportTo: ['.'],")),
        &[&conflict("x", 8, "shop"), &conflict("y", 10, "shop")],
    );
    check(&world(one("y", "b", "")), &[]);
    let edge = "---\n{kind: Gateway, apiVersion: networking.istio.io/v1, metadata: {name: edge, namespace: shop}, spec: {selector: {app: a}}}\n";
    check(&(world(one("y", "a", "gateways: [edge],")) + edge), &[]);
}

/// I176.
#[test]
fn gateways_that_are_not_there_and_gateways_without_their_secrets() {
    let routed = |gateways: &str| {
        let spec = format!(
            "{{hosts: [a], gateways: {gateways}, http: [{{route: [{{destination: {{host: a}}}}]}}]}}"
        );
        istio("VirtualService", "x", &spec)
    };
    let missing = |name: &str| {
        format!(
            "Error [IST0101] (VirtualService shop/x a.yaml:11) Referenced gateway not found: \"{name}\""
        )
    };
    let gateway = |namespace: &str, spec: &str| {
        format!(
            "---\nkind: Gateway\napiVersion: networking.istio.io/v1beta1\nmetadata: {{name: edge, namespace: {namespace}}}\nspec: {spec}\n"
        )
    };
    let secret = |namespace: &str| {
        format!(
            "---\n{{kind: Secret, apiVersion: v1, metadata: {{name: cert, namespace: {namespace}}}, data: {{tls.key: c2VjcmV0}}}}\n"
        )
    };
    // A Gateway of the Gateway API is none of Istio's.
    let other = "---\n{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: edge, namespace: shop}, spec: {listeners: []}}\n";
    check(&(routed("[edge, mesh]") + other), &[&missing("edge")]);
    let pods = "{selector: {app: a}}";
    check(&(routed("[edge, mesh]") + &gateway("infra", pods)), &[&missing("edge")]);
    check(&(routed("[edge]") + &gateway("shop", pods)), &[]);
    check(&(routed("[infra/edge]") + &gateway("infra", pods)), &[]);
    let tls = "{selector: {app: a}, servers: [{hosts: ['*']}, {hosts: ['*'], tls: {mode: SIMPLE, credentialName: cert}}]}";
    let nobody = "Error [IST0101] (Gateway infra/edge a.yaml:16) Referenced selector not found: \"app=z,b=c\"";
    check(&(routed("[]") + &gateway("infra", "{selector: {app: z, b: c}}")), &[nobody]);
    let lacks = "Error [IST0101] (Gateway infra/edge a.yaml:16) Referenced credentialName not found: \"cert\"";
    check(&(routed("[]") + &gateway("infra", tls)), &[lacks]);
    // It is looked for where the pods are, and not where the Gateway is.
    check(&(routed("[]") + &gateway("infra", tls) + &secret("infra")), &[lacks]);
    check(&(routed("[]") + &gateway("infra", tls) + &secret("shop")), &[]);
}

#[test]
fn what_cannot_be_read_and_what_makes_no_sense() {
    let broken = said(&[("a.yaml", "kind: Service\nmetadata: [\n")]);
    assert_eq!((broken.len(), broken[0].code), (1, Code::SchemaValidationError), "{broken:?}");
    assert!(text(&broken).starts_with("Error [IST0106] (a.yaml:"), "{broken:?}");
    check(
        &virtual_service("{timeout: 1us, route: [{destination: {host: a}}]}"),
        &[
            "Error [IST0106] (VirtualService shop/x a.yaml:11) Schema validation error: duration must be greater than 1ms",
        ],
    );
    check(
        &virtual_service("{rout: [], route: [{destination: {host: a}}]}"),
        &[
            "Error [IST0106] (VirtualService shop/x a.yaml:11) Schema validation error: unknown field \"spec.http[0].rout\"",
        ],
    );
    check(
        &virtual_service(
            "{mirror: {host: a}, mirrorPercent: 5, route: [{destination: {host: a}}]}",
        ),
        &[
            "Warning [IST0133] (VirtualService shop/x a.yaml:11) Schema validation warning: using deprecated setting \"mirrorPercent\", use \"mirrorPercentage\" instead",
        ],
    );
    let policy = |selector: &str| {
        format!(
            "{SERVICES}---\n{{kind: AuthorizationPolicy, apiVersion: security.istio.io/v1, metadata: {{name: p, namespace: shop}}, spec: {{selector: {{matchLabels: {{{selector}}}}}}}}}\n"
        )
    };
    check(&policy("app: a"), &[]);
    check(
        &policy("app: z, b: c"),
        &[
            "Warning [IST0127] (AuthorizationPolicy shop/p a.yaml:8) No matching workloads for this resource with the following labels: app=z,b=c",
        ],
    );
}

/// What only the compiler sees.
#[test]
fn what_is_wrong_with_the_routes_of_a_service() {
    check(
        &virtual_service("{match: [{uri: {prefix: /x}}], delegate: {name: gone, namespace: shop}}"),
        &[
            "Warning [CVT0001] (a.yaml:11) VirtualService shop/x: delegate shop/gone does not exist; the rule does not count",
        ],
    );
}

/// What the API server would refuse is no matter of taste.
#[test]
fn policies_that_are_misspelt_are_errors() {
    let object = |kind: &str, spec: &str| {
        format!(
            "{SERVICES}---\n{{kind: {kind}, apiVersion: security.istio.io/v1, metadata: {{name: p, namespace: shop}}, spec: {spec}}}\n"
        )
    };
    let error = |text: &str| format!("Error [IST0106] (a.yaml:8) Schema validation error: {text}");
    check(&object("AuthorizationPolicy", "{acton: DENY}"), &[&error("spec.acton is not known")]);
    check(
        &object("AuthorizationPolicy", "{action: BLOCK}"),
        &[&error("action BLOCK is not supported: what its rules match is denied")],
    );
    check(
        &object("PeerAuthentication", "{mtls: {mode: STRICKT}}"),
        &[&error(
            "mtls.mode \"STRICKT\" is none of STRICT, PERMISSIVE, DISABLE, UNSET: STRICT is assumed",
        )],
    );
    check(
        &object("PeerAuthentication", "{mtls: {mod: STRICT}}"),
        &[&error("spec.mtls.mod is not known")],
    );
}

#[test]
fn messages_for_programs() {
    let messages = said(&[("a.yaml", &virtual_service("{route: [{destination: {host: gone}}]}"))]);
    let value = json(&messages);
    assert_eq!(value[0]["code"], "IST0101");
    assert_eq!(value[0]["origin"], "VirtualService shop/x");
    assert_eq!(value[0]["reference"], "a.yaml:11");
    assert_eq!(
        value[0]["documentationUrl"],
        "https://istio.io/latest/docs/reference/config/analysis/ist0101/"
    );
    let written = yaml(&value);
    assert!(written.starts_with("- \"code\": \"IST0101\"\n  \"documentationUrl\": "), "{written}");
    assert_eq!(yaml(&json(&[])), "[]\n");
    let nested = serde_json::json!([{"a": [1, {"b": [[2], {}]}], "c": {"d": null}}]);
    assert_eq!(
        yaml(&nested),
        "- \"a\":\n  - 1\n  - \"b\":\n    - - 2\n    - {}\n  \"c\":\n    \"d\": null\n"
    );
    let suppressed: Suppression = "IST0101=VirtualService *.shop".parse().unwrap();
    assert!(suppressed.covers(&messages[0]));
    let other: Suppression = "IST0101=VirtualService shop/y".parse().unwrap();
    assert!(!other.covers(&messages[0]));
}
