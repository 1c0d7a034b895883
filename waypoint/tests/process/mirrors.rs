//! Shell: copies of requests (checklist lines B62 and B63).
use std::time::Duration;

use culvert_agent::clock;
use http::Request;

use crate::{
    lab::{CART, Lab},
    pod::{MUTE, Pod, until},
    rules,
};

/// A pod on host `host` with a service of its own, which leads to a port of it.
async fn shadow(lab: &Lab, host: u8, name: &str, port: u16) -> Pod {
    let (pod, ip) = (Pod::start(lab, host).await, lab.address(host));
    lab.write(&format!("{name}.yaml"), &format!(
        "{{kind: Service, apiVersion: v1, metadata: {{name: {name}, namespace: shop}}, spec: {{clusterIP: 10.96.0.{host}, selector: {{app: {name}}}, ports: [{{name: http, port: 80, targetPort: {port}}}]}}}}\n---\n\
         {{kind: Pod, apiVersion: v1, metadata: {{name: {name}-{host}, namespace: shop, labels: {{app: {name}}}}}, spec: {{serviceAccountName: cart}}, status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}}}\n"
    ));
    lab.until(|dump| dump.contains(&format!("{name}-{host}"))).await;
    pod
}

#[tokio::test]
async fn mirrors_get_copies_and_hold_nobody_up() {
    let lab = Lab::new(&rules::http(
        "[{match: [{uri: {prefix: /none}}], route: [{destination: {host: cart, subset: v1}}], mirror: {host: shadow}, mirrorPercentage: {value: 0}}, {match: [{uri: {prefix: /mute}}], route: [{destination: {host: cart, subset: v1}}], mirror: {host: mute}}, {route: [{destination: {host: cart, subset: v1}}], mirror: {host: shadow}}]",
    ))
    .await;
    let _pod = lab.pod(1, "v1").await;
    let shadows = [shadow(&lab, 7, "shadow", 8080).await, shadow(&lab, 8, "mute", MUTE).await];
    let answer = lab.client().send((CART, 80), Request::post("/none"), "hello").await;
    assert_eq!(answer.status, 200);
    assert!(shadows[0].asked().is_empty());
    let request = Request::post("/").header("host", "cart.shop:80");
    let answer = lab.client().send((CART, 80), request, "hello").await;
    assert_eq!(answer.json()["pod"], "cart-1");
    let copy = shadows[0].wait_asked(1).await;
    assert_eq!((copy[0].host.as_str(), copy[0].body.as_str()), ("cart.shop-shadow:80", "hello"));
    // One that never answers, and one that is gone.
    let began = clock::now();
    assert_eq!(lab.client().send((CART, 80), Request::post("/mute"), "x").await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(2), "it waited for its mirror");
    until("the mirror is asked", || shadows[1].seen().len() == 1).await;
    shadows[0].stop();
    assert_eq!(lab.client().send((CART, 80), Request::post("/"), "x").await.status, 200);
    assert_eq!(lab.log().matches("cart-shadow").count(), 0, "copies have no lines");
}

#[tokio::test]
async fn two_mirrors_have_shares_of_their_own() {
    let lab = Lab::new(&rules::http(
        "[{route: [{destination: {host: cart, subset: v1}}], mirrors: [{destination: {host: all}}, {destination: {host: some}, percentage: {value: 30}}]}]",
    ))
    .await;
    let pod = lab.pod(1, "v1").await;
    let shadows = [shadow(&lab, 7, "all", 8080).await, shadow(&lab, 8, "some", 8080).await];
    let mut sender = lab.client().http2((CART, 80)).await;
    for _ in 0..300 {
        let request = Request::get("http://cart/").body(String::new()).expect("a request");
        assert_eq!(sender.send_request(request).await.expect("a response").status(), 200);
    }
    assert_eq!(shadows[0].wait_asked(300).await.len(), 300);
    assert_eq!(pod.asked().len(), 300);
    // Five standard deviations of 300 draws.
    let some = shadows[1].wait_asked(50).await.len();
    assert!(some.abs_diff(90) <= 40, "{some}");
}

#[tokio::test]
async fn a_copy_takes_no_longer_than_its_rule_allows() {
    let lab = Lab::new(&rules::http(
        "[{timeout: 300ms, route: [{destination: {host: cart, subset: v1}}], mirror: {host: shadow}}]",
    ))
    .await;
    let _pod = lab.pod(1, "v1").await;
    let shadow = shadow(&lab, 7, "shadow", 8080).await;
    assert_eq!(lab.client().get((CART, 80), "/sleep/60000").await.status, 504);
    shadow.begun(1).await;
    shadow.left(1).await;
}
