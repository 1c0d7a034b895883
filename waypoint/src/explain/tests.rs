//! Pure: what is explained of a small mesh.
use std::collections::BTreeMap;

use culvert_agent::{
    discovery::WaypointDestination,
    manifest::{self, Folder},
};

use super::*;
use crate::manifest::{Compiled, Compiler, Settings};

const MESH: &str = r"
{kind: Namespace, apiVersion: v1, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}}
---
{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: waypoint, namespace: shop}, spec: {gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.96.0.1, selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: two, namespace: shop}, spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}, {name: tcp, port: 83}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: free, namespace: shop, labels: {istio.io/use-waypoint: none}}, spec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 80}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: cart, namespace: other}, spec: {clusterIP: 10.96.0.4, ports: [{name: http, port: 80}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: web-0, namespace: shop, labels: {team: shop}}, spec: {serviceAccountName: web}, status: {phase: Running, podIP: 10.0.0.9}}
---
{kind: Pod, apiVersion: v1, metadata: {name: plain-0, namespace: plain}, spec: {}, status: {phase: Running, podIP: 10.0.0.8}}
---
{kind: Pod, apiVersion: v1, metadata: {name: cart-1, namespace: shop, labels: {app: cart, version: v1}}, spec: {}, status: {phase: Running, podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: cart-2, namespace: shop, labels: {app: cart, version: v2}}, spec: {}, status: {phase: Running, podIP: 10.0.0.2, conditions: [{type: Ready, status: 'False'}]}}
---
{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: cart, namespace: shop}, spec: {host: cart, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}
";

pub(crate) const RULES: &str = "{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {name: cart, namespace: shop}, spec: {hosts: [cart], http: [\
    {match: [{uri: {prefix: /api}, headers: {x-canary: {exact: 'true'}}}], route: [{destination: {host: cart, subset: v2}}]},\
    {match: [{uri: {prefix: /api}, sourceLabels: {team: shop}}], timeout: 2s, rewrite: {uri: /v1}, route: [{destination: {host: cart, subset: v1}, weight: 90}, {destination: {host: cart, subset: v2}, weight: 9}, {destination: {host: cart, subset: v9}, weight: 1}]},\
    {match: [{uri: {exact: /old}}], redirect: {uri: /new, port: 8443}},\
    {match: [{uri: {exact: /tea}}], directResponse: {status: 418}},\
    {match: [{uri: {exact: /late}}], fault: {delay: {fixedDelay: 1s, percentage: {value: 10}}}, route: [{destination: {host: cart}}]},\
    {match: [{uri: {exact: /broken}}], fault: {abort: {httpStatus: 503, percentage: {value: 100}}}, route: [{destination: {host: cart}}]}]}}";

pub(crate) fn mesh(rules: &str) -> (Mesh, Waypoint) {
    let mut folder = Folder::default();
    let changes = folder.update(BTreeMap::from([
        ("m.yaml".into(), Ok(MESH.into())),
        ("rules.yaml".into(), Ok(rules.into())),
    ]));
    let snapshot = manifest::compile(&folder, &manifest::Settings::default());
    let host: Arc<str> = "waypoint.shop.svc.cluster.local".into();
    let destinations = [WaypointDestination::Host(host.clone())].into();
    let waypoint = crate::manifest::Waypoint { namespace: "shop".into(), destinations };
    let mut compiler = Compiler::new(Settings { waypoint: Some(waypoint), ..Settings::default() });
    let Compiled { table, backends, .. } = compiler.apply(&folder, &changes, &snapshot);
    let gateway = Arc::new(Gateway { host, address: [10, 0, 0, 7].into() });
    let own = Waypoint { gateway, paths: Normalisation::Base };
    (Mesh { snapshot, table, backends, ..Mesh::default() }, own)
}

fn ask(rules: &str, query: &str) -> Result<Value, String> {
    let (mesh, own) = mesh(rules);
    explain(&mesh, &own, &Question::read(query)?)
}

pub(crate) fn cart(request: &str) -> Value {
    ask(RULES, &format!("source=shop/web-0&service=cart.shop{request}")).unwrap()
}

#[test]
fn the_rule_that_decides_and_those_before_it() {
    let said = cart("&path=/x/../api/items?page=1");
    assert_eq!(said["request"]["path"], "/api/items?page=1");
    let over = &said["passedOver"];
    assert_eq!(over.as_array().unwrap().len(), 1);
    assert_eq!(over[0]["unmet"], "header x-canary exact true");
    assert_eq!(over[0]["found"], Value::Null);
    assert_eq!(over[0]["declared"], "rules.yaml:1");
    assert_eq!(said["decided"]["object"], "VirtualService shop/cart");
    assert_eq!(said["decided"]["field"], "http[1].match[0]");
    let does = json!({ "action": "forward", "timeout": "2s", "path": "/v1/items?page=1" });
    assert_eq!(said["does"], does);
    let said = cart("&path=/api&header=x-canary:yes");
    assert_eq!(said["passedOver"][0]["found"], "yes");
}

#[test]
fn who_is_ready_behind_each_destination() {
    let said = cart("&path=/api");
    let [one, two, nine] = [0, 1, 2].map(|index| said["destinations"][index].clone());
    assert_eq!((&one["weight"], &one["of"]), (&json!(90), &json!(100)));
    assert_eq!(one["rules"][0], "DestinationRule shop/cart (m.yaml:22)");
    assert_eq!((&one["ready"], &one["endpoints"][0]["name"]), (&json!(1), &json!("shop/cart-1")));
    assert_eq!(one["endpoints"][0]["address"], "10.0.0.1:8080");
    assert_eq!(one["endpoints"][0]["tunnel"], true);
    assert_eq!((&two["status"], &two["flag"]), (&json!(503), &json!("UH")));
    assert_eq!((&nine["status"], &nine["flag"]), (&json!(503), &json!("NC")));
}

#[test]
fn what_the_waypoint_answers_itself() {
    let status = |said: &Value| said["does"]["status"].as_u64();
    let said = cart("&path=/old?x=1&authority=cart:8080");
    assert_eq!(said["does"]["action"], "redirect");
    assert_eq!(said["does"]["location"], "http://cart:8443/new?x=1");
    assert_eq!(status(&cart("&path=/tea")), Some(418));
    let said = cart("&path=/none");
    assert_eq!((status(&said), &said["does"]["flag"]), (Some(404), &json!("NR")));
    assert_eq!((said.get("decided"), said["passedOver"].as_array().unwrap().len()), (None, 6));
    let said = cart("&path=/broken");
    assert_eq!((status(&said), &said["destinations"]), (Some(503), &Value::Null));
    let said = cart("&path=/late");
    assert_eq!(said["does"]["action"], "forward");
    assert_eq!(status(&cart("&method=CONNECT")), Some(403));
    assert_eq!(status(&cart("&path=/a%2500")), Some(400));
}

#[test]
fn what_is_asked_of_the_wrong_place_is_said() {
    for (query, words) in [
        ("source=shop/nobody&service=cart.shop", "no pod of the mesh"),
        ("source=plain/plain-0&service=cart.shop", "dataplane-mode: ambient"),
        ("source=shop/web-0&service=nothing", "no service nothing"),
        (
            "source=shop/web-0&service=cart",
            "may be any of cart.other.svc.cluster.local, cart.shop.",
        ),
        ("source=shop/web-0&service=free", "label it istio.io/use-waypoint: waypoint"),
        ("source=shop/web-0&service=shop/two", "has ports 80, 83: give --port"),
        ("source=shop/web-0&service=two&port=83", "carries TCP"),
        ("source=shop/web-0&service=two:99", "has no port 99: it has 80, 83"),
    ] {
        let error = ask(RULES, query).unwrap_err();
        assert!(error.contains(words), "{query}: {error}");
    }
    for query in ["service=10.96.0.1&port=80", "service=10.96.0.1:80", "service=cart.shop.svc:80"] {
        let said = ask(RULES, &format!("source=10.0.0.9&{query}&path=/tea")).unwrap();
        assert_eq!(said["dialled"], "10.96.0.1:80", "{query}");
    }
}

#[test]
fn without_rules_a_request_goes_to_the_service() {
    let said = ask("", "source=shop/web-0&service=cart.shop").unwrap();
    assert_eq!(said["decided"]["object"], "the default route");
    assert_eq!(said["destinations"][0]["ready"], 1);
    assert_eq!(said["request"]["authority"], "cart.shop.svc.cluster.local");
}

#[test]
fn the_rules_of_a_service_of_this_waypoint_alone() {
    let (mesh, own) = mesh(RULES);
    let said = routes(&mesh, &own, "shop/cart").unwrap();
    let said = &said["ports"][0];
    assert_eq!((&said["port"], &said["protocol"]), (&json!(80), &json!("http")));
    assert_eq!(said["http"].as_array().unwrap().len(), 6);
    assert!(routes(&mesh, &own, "free").unwrap_err().contains("has no waypoint"));
}
