//! Shell: policies that are attached to services and waypoints.
use http::Request;

use crate::lab::{CART, Lab};

fn policy(target: &str, rest: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  targetRefs: [{target}]\n  {rest}\n"
    )
}

const SERVICE: &str = "{kind: Service, group: '', name: cart}";

#[tokio::test]
async fn policies_of_services_and_gateways_are_asked_and_what_they_say_of_http_opens_nothing() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let web = "rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]";
    let somebody = "rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/other]}}]}]";
    let path = "rules: [{to: [{operation: {paths: [/]}}]}]";
    let gateway = "{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}";
    for (number, (target, rest, status, problem)) in [
        (SERVICE, web, 200, ""),
        (SERVICE, somebody, 403, ""),
        (gateway, somebody, 403, ""),
        ("{kind: Service, name: free}", somebody, 200, "shop/free, which is no service that passes a waypoint: for it nobody asks this policy"),
        ("{kind: Gateway, name: other}", somebody, 200, ""),
        // The path is not asked: nothing is allowed by it, and everything that it may forbid is.
        (SERVICE, path, 403, "rule 0: to.operation.paths is not asked by waypoints yet: the rule allows nothing"),
        (SERVICE, &format!("action: DENY\n  {path}"), 403, "to.operation.paths is not asked by waypoints yet: the rule denies whatever its other fields match"),
        (SERVICE, &format!("action: DENY\n  {somebody}"), 200, ""),
        ("{kind: Thing, name: x}", somebody, 403, "targetRefs must name a Service"),
    ]
    .into_iter()
    .enumerate()
    {
        let mark = format!("{{kind: Service, apiVersion: v1, metadata: {{name: mark-{number}, namespace: shop}}, spec: {{}}}}\n---\n");
        lab.write("rules.yaml", &(mark + &policy(target, rest)));
        lab.until(|dump| dump.contains(&format!("mark-{number}.")) && dump.contains(problem)).await;
        let answer = lab.client().get((CART, 80), "/x").await;
        assert_eq!(answer.status.as_u16(), status, "{target} {rest}");
        if status == 403 {
            assert_eq!(answer.text(), "RBAC: access denied");
        }
    }
    let log = lab.log();
    assert!(log.contains("rbac_access_denied_matched_policy[none]"), "{log}");
    assert!(log.contains("rbac_access_denied_matched_policy[shop/p]"), "{log}");
}

#[tokio::test]
async fn a_policy_refuses_bytes_too_and_counts_from_the_next_request() {
    let lab = Lab::new("").await;
    let _pod = lab.pod(1, "v1").await;
    let mut open = lab.client().http2((CART, 80)).await;
    let mut ask = async || {
        let request = Request::get("http://cart.shop/").body(String::new()).expect("a request");
        open.send_request(request).await.expect("a response").status().as_u16()
    };
    assert_eq!(ask().await, 200);
    assert_eq!(lab.client().echo((CART, 83), b"hello", 12).await, "cart-1:hello");
    lab.write("rules.yaml", &policy(SERVICE, ""));
    let mut status = 200;
    for _ in 0..200 {
        status = ask().await;
        if status != 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(status, 403, "on a connection that was open before");
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = lab.client().stream((CART, 83)).await;
    let _ = stream.write_all(b"hello").await;
    let mut heard = Vec::new();
    assert!(stream.read_to_end(&mut heard).await.is_err() && heard.is_empty(), "{heard:?}");
}
