//! Shell: what the admin endpoint and the command line say of rules, beside what they do.
use std::process::{Command, Output};

use http::Request;
use serde_json::Value;

use crate::lab::{CART, Lab};

const RULES: &str = "{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {name: cart, namespace: shop}, spec: {host: cart, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}\n---\n{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {name: cart, namespace: shop}, spec: {hosts: [cart], http: [{match: [{headers: {x-canary: {exact: 'true'}}}], route: [{destination: {host: cart, subset: v2}}]}, {match: [{uri: {prefix: /api}}], timeout: 2s, route: [{destination: {host: cart, subset: v1}}]}, {match: [{uri: {prefix: /old}}], redirect: {uri: /new}}]}}\n";

/// Runs `culvert`, which asks the waypoint.
async fn culvert(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
    command.arg("--waypoint").arg(format!("{}:15000", lab.address(9))).args(arguments);
    let ran = tokio::task::spawn_blocking(move || command.output());
    ran.await.expect("a task").expect("culvert runs")
}

async fn json(lab: &Lab, arguments: &[&str]) -> Value {
    let output = culvert(lab, &[arguments, &["-o", "json"]].concat()).await;
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test]
async fn explain_agrees_with_what_happens_to_requests() {
    let lab = Lab::new(RULES).await;
    let _pods = [lab.pod(1, "v1").await, lab.pod(2, "v2").await];
    for (path, canary, field) in [
        ("/api/x?y=1", None, Some("http[1].match[0]")),
        ("/x/../api", None, Some("http[1].match[0]")),
        ("/api", Some("true"), Some("http[0].match[0]")),
        ("/api", Some("no"), Some("http[1].match[0]")),
        ("/old", None, Some("http[2].match[0]")),
        ("/none", None, None),
    ] {
        let mut request = Request::get(path);
        let mut arguments =
            vec!["explain", "shop/web-0", "cart.shop", "--port", "80", "--path", path];
        let header = canary.map(|value| format!("x-canary: {value}"));
        if let (Some(value), Some(header)) = (canary, &header) {
            request = request.header("x-canary", value);
            arguments.extend(["-H", header]);
        }
        let answer = lab.client().send((CART, 80), request, "").await;
        let said = json(&lab, &arguments).await;
        assert_eq!(said["decided"]["field"].as_str(), field, "{path} {canary:?}: {said}");
        let pod = said["destinations"][0]["endpoints"][0]["name"].as_str();
        let pod = pod.and_then(|name| name.strip_prefix("shop/"));
        assert_eq!(answer.header("x-pod"), pod, "{path} {canary:?}: {said}");
        let status = said["does"]["status"].as_u64().unwrap_or(200);
        assert_eq!(u64::from(answer.status.as_u16()), status, "{path} {canary:?}: {said}");
    }
}

#[tokio::test]
async fn commands_say_what_is_and_how_they_end() {
    let lab = Lab::new(RULES).await;
    let _pod = lab.pod(1, "v1").await;
    let output = culvert(&lab, &["routes", "cart.shop"]).await;
    let text = String::from_utf8(output.stdout).expect("text");
    let rule = text.lines().find(|line| line.contains("uri prefix /api")).expect("the rule");
    assert!(rule.contains("subset v1; timeout 2s") && rule.contains("rules.yaml:3"), "{text}");
    let said = json(&lab, &["routes", "shop/cart"]).await;
    assert_eq!(said["ports"][0]["http"][0]["object"], "VirtualService shop/cart");
    for (arguments, code, words) in [
        (&["explain", "shop/web-0", "cart.shop:80", "--path", "/api"][..], 0, "1 ready"),
        (&["explain", "shop/web-0", "cart.shop:80", "--method", "GET"], 1, "answer 404 NR"),
        (&["explain", "shop/web-0", "cart.shop:80", "-H", "x-canary: true"], 1, "503 UH"),
        (&["explain", "shop/web-0", "cart.shop", "--method", "GET"], 2, "give --port"),
        (&["explain", "shop/web-0", "cart.shop:80"], 2, "ask the agent"),
        (&["explain", "shop/web-0", "foreign:80", "--path", "/"], 2, "ask its own, other.shop."),
        (&["routes", "free"], 2, "label it istio.io/use-waypoint: waypoint"),
        (&["routes", "nothing.shop"], 2, "there is no service nothing.shop"),
    ] {
        let output = culvert(&lab, arguments).await;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    }
    assert!(lab.get(15000, "/").await.is_some_and(|index| index.contains("/routes?service=NAME")));
}
