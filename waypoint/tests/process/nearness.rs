//! Shell: endpoints by where they are, as clients see it (docs/conformance.md, D89, E109, E110).
use crate::{
    lab::{CART, Lab},
    pod::Pod,
    script::Act,
};

/// A policy for calls of cart, and what else is declared.
fn policy(text: &str, more: &str) -> String {
    format!(
        "{{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {{name: cart, namespace: shop}}, spec: {{host: cart, trafficPolicy: {text}}}}}\n{more}"
    )
}

/// A mesh in zone a, with a pod in each of these zones.
async fn lab(rules: &str, zones: &[&'static str]) -> (Lab, Vec<Pod>) {
    let lab = Lab::new(rules).await;
    let (mut pods, mut places) = (Vec::new(), Vec::new());
    for (host, zone) in (1..).zip(zones) {
        pods.push(lab.pod(host, "v1").await);
        places.push((host, *zone));
    }
    lab.place("a", &places).await;
    (lab, pods)
}

/// How many of so many requests went to each, and how many failed.
async fn shares(lab: &Lab, pods: &[Pod], count: usize) -> (Vec<usize>, usize) {
    let before: Vec<_> = pods.iter().map(|pod| pod.script.hits()).collect();
    let mut failed = 0;
    for _ in 0..count {
        failed += usize::from(lab.client().get((CART, 80), "/").await.status != 200);
    }
    let hits = pods.iter().zip(before).map(|(pod, before)| pod.script.hits() - before);
    (hits.collect(), failed)
}

const DETECTION: &str = "outlierDetection: {consecutive5xxErrors: 3, interval: 60s, baseEjectionTime: 60s, maxEjectionPercent: 100}";

#[tokio::test]
async fn shares_of_zones_are_kept() {
    let to = "{from: r/a/*, to: {r/a/*: 80, r/b/*: 20}}";
    let policy =
        format!("{{loadBalancer: {{localityLbSetting: {{enabled: true, distribute: [{to}]}}}}}}");
    let (lab, pods) = lab(&self::policy(&policy, ""), &["a", "b", "c"]).await;
    let (hits, _) = shares(&lab, &pods, 300).await;
    // Five standard deviations of 60.
    assert!((25..=95).contains(&hits[1]), "{hits:?}");
    assert_eq!((hits[0] + hits[1], hits[2]), (300, 0), "nobody named the third");
}

#[tokio::test]
async fn another_zone_takes_over_only_with_detection() {
    let without = policy("{loadBalancer: {localityLbSetting: {enabled: true}}}", "");
    let (lab, pods) = self::lab(&without, &["a", "b"]).await;
    let (hits, _) = shares(&lab, &pods, 40).await;
    assert!(hits[0] > 4 && hits[1] > 4, "{hits:?}");
    let with = policy(&format!("{{{DETECTION}}}"), "");
    let (lab, pods) = self::lab(&with, &["a", "b"]).await;
    assert_eq!(shares(&lab, &pods, 20).await, (vec![20, 0], 0));
    pods[0].script.always(Some(Act::Status(500)));
    assert_eq!(shares(&lab, &pods, 20).await, (vec![3, 17], 3));
}

#[tokio::test]
async fn a_service_may_ask_for_its_zone() {
    let service = |distribution: &str| {
        format!(
            "{{kind: Service, apiVersion: v1, metadata: {{name: close, namespace: shop}}, spec: {{clusterIP: 10.96.0.8, selector: {{app: cart}}{distribution}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}\n"
        )
    };
    for (distribution, stays) in [(", trafficDistribution: PreferClose", true), ("", false)] {
        let (lab, pods) = lab(&service(distribution), &["a", "b"]).await;
        for _ in 0..40 {
            assert_eq!(lab.client().get(([10, 96, 0, 8], 80), "/").await.status, 200);
        }
        assert_eq!(pods[1].script.hits() == 0, stays, "{distribution}");
        assert!(pods[0].script.hits() > 4);
    }
}

#[tokio::test]
async fn after_two_tries_at_home_another_zone_is_tried() {
    for (remote, status) in [("true", 200), ("false", 500)] {
        let retries = format!("{{attempts: 2, retryOn: 5xx, retryRemoteLocalities: {remote}}}");
        let rules = format!(
            "---\n{{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {{name: cart, namespace: shop}}, spec: {{hosts: [cart], http: [{{retries: {retries}, route: [{{destination: {{host: cart}}}}]}}]}}}}\n"
        );
        let never = DETECTION.replace("consecutive5xxErrors: 3", "consecutive5xxErrors: 1000");
        let (lab, pods) = lab(&policy(&format!("{{{never}}}"), &rules), &["a", "a", "b"]).await;
        for pod in &pods[..2] {
            pod.script.always(Some(Act::Status(500)));
        }
        for _ in 0..8 {
            assert_eq!(lab.client().get((CART, 80), "/").await.status, status, "{remote}");
        }
        let hits: Vec<_> = pods.iter().map(|pod| pod.script.hits()).collect();
        match status {
            200 => assert_eq!((hits[0] + hits[1], hits[2]), (16, 8)),
            _ => assert_eq!((hits[0] + hits[1], hits[2]), (24, 0)),
        }
    }
}
