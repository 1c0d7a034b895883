//! Shell: the article's objects, as they are written, in the folder of a waypoint that runs.
use std::{fs, path::Path};

use http::Request;

use crate::{lab::Lab, pod::Pod};

const GATEWAY: &str = "{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: waypoint, namespace: shop}, spec: {gatewayClassName: culvert-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]}}\n---\n";
const PRODUCTION: &str = "{kind: Namespace, apiVersion: v1, metadata: {name: production, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: shop}}}\n";
const PRODUCT: ([u8; 4], u16) = ([10, 98, 0, 1], 80);
const CHECKOUT: ([u8; 4], u16) = ([10, 98, 0, 2], 80);

/// The services and pods that they speak of, at addresses of this lab. What the article upgrades to
/// HTTP/2 is at the port where pods of the lab speak that.
fn services(lab: &Lab, fixtures: &Path) -> String {
    let text = fs::read_to_string(fixtures.join("mission-services.yaml")).expect("services");
    let text = text.replace("clusterIP: 10.96.", "clusterIP: 10.98.");
    let text = text.replacen("targetPort: 8080", "targetPort: 8081", 1);
    (1..=4).fold(text, |text, host| {
        let ready = "conditions: [{type: Ready, status: 'True'}]";
        let status = format!("phase: Running, podIP: {}, {ready}}}", lab.address(host));
        text.replace(&format!("podIP: 10.0.0.{host}}}"), &status)
    })
}

#[tokio::test]
async fn the_articles_rules_decide_about_requests() {
    let lab = Lab::new("").await;
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let identity = "spiffe://cluster.local/ns/production/sa/default";
    let mut pods = Vec::new();
    for host in 1..=4 {
        pods.push(Pod::start_as(&lab, host, identity).await);
    }
    lab.gateway(GATEWAY);
    lab.write("production.yaml", PRODUCTION);
    lab.write("services.yaml", &services(&lab, &fixtures));
    for file in fs::read_dir(fixtures.join("mission")).expect("the article's objects") {
        let path = file.expect("a file").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        lab.write(&name, &fs::read_to_string(path).expect("an object"));
    }
    let files = ["product-service", "checkout-service"];
    lab.until(|dump| files.iter().all(|n| dump.contains(&format!("{n}.virtualservice.yaml"))))
        .await;
    lab.until(|dump| dump.contains("checkout-canary")).await;
    for (service, path, header, pod) in [
        (PRODUCT, "/api/v2/items?x=1", None, "cart-2"),
        (PRODUCT, "/api/v1/items", None, "cart-1"),
        (CHECKOUT, "/", Some(("x-canary-user", "true")), "cart-4"),
        (CHECKOUT, "/", Some(("x-internal-team", "sre")), "cart-4"),
    ] {
        let mut request = Request::get(path);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let answer = lab.client().send(service, request, "").await;
        assert_eq!(answer.header("x-pod"), Some(pod), "{path} {header:?}: {}", answer.text());
    }
    // 95 of 100.
    let mut stable = 0;
    for _ in 0..40 {
        let answer = lab.client().send(CHECKOUT, Request::get("/"), "").await;
        stable += u32::from(answer.header("x-pod") == Some("cart-3"));
    }
    assert!(stable >= 28, "{stable} of 40");
}
