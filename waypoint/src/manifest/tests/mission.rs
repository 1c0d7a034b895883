//! Pure: the mission article's YAML, as written, and what it means (checklist lines marked S).
use std::time::Duration;

use http::StatusCode;

use super::world::World;
use crate::{
    backend::{Algorithm, Names, endpoints, model::Upgrade},
    routing::{Action, Forward, RetryOn},
};

fn forward<'w>(world: &'w World, request: &str) -> &'w Forward {
    match &world.rule(request).unwrap().action {
        Action::Forward(forward) => forward,
        Action::Redirect(_) | Action::Direct(_) => panic!("{request} does not go on"),
    }
}

#[test]
fn the_articles_yaml_compiles_unchanged() {
    let world = World::mission();
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!(world.snapshot.problems(), []);
    let policies = world.snapshot.policies();
    assert_eq!(policies.peers.len(), 2);
}

/// B27, B28.
#[test]
fn the_prefix_goes_to_v2_and_everything_else_to_v1() {
    let world = World::mission();
    let host = "product-service.production";
    for (path, subset) in [
        ("/api/v2", "v2"),
        ("/api/v2/", "v2"),
        ("/api/v20", "v2"),
        ("/api/v2?x=1", "v2"),
        ("/API/v2", "v1"),
        ("/api/v1", "v1"),
        ("/", "v1"),
    ] {
        assert_eq!(
            world.ask(&format!("GET {host}{path}")),
            format!("{host}:80/{subset}"),
            "{path}"
        );
    }
    let rule = world.rule("GET product-service.production/api/v2").unwrap();
    let source = rule.source.as_ref().unwrap().to_string();
    assert_eq!(
        source,
        "VirtualService production/product-service http[0].match[0] (product-service.virtualservice.yaml:11)"
    );
}

/// B29.
#[test]
fn the_first_rule_wins() {
    let mut world = World::mission();
    let swapped = "{kind: VirtualService, apiVersion: networking.istio.io/v1beta1, metadata: {name: product-service, namespace: production}, \
        spec: {hosts: [product-service], http: [\
        {route: [{destination: {host: product-service, subset: v1}}]}, \
        {match: [{uri: {prefix: /api/v2}}], route: [{destination: {host: product-service, subset: v2}}]}]}}";
    world.write("product-service.virtualservice.yaml", Some(swapped));
    assert_eq!(
        world.ask("GET product-service.production/api/v2"),
        "product-service.production:80/v1"
    );
}

/// B30, B31, B33.
#[test]
fn headers_lead_to_the_canary_before_weights_do() {
    let world = World::mission();
    let host = "checkout-service.production";
    let canary = format!("{host}:80/canary");
    let split = format!("{host}:80/stable=95 {host}:80/canary=5");
    for (header, expected) in [
        ("x-canary-user=true", &canary),
        ("X-Canary-User=true", &canary),
        ("x-canary-user=TRUE", &split),
        ("x-canary-user=true_", &split),
        ("x-internal-team=platform", &canary),
        ("x-internal-team=sre", &canary),
        ("x-internal-team=platforms", &split),
        ("x-internal-team=the_sre", &split),
        ("x-other=true", &split),
    ] {
        assert_eq!(&world.ask(&format!("GET {host}/ {header}")), expected, "{header}");
    }
}

/// B32.
#[test]
fn of_ten_thousand_requests_five_percent_go_to_the_canary() {
    let world = World::mission();
    let destinations = &forward(&world, "GET checkout-service.production/").destinations;
    let mut canary = 0;
    for step in 0..10_000_u64 {
        // Numbers that are spread over all `u32`.
        let number = u32::try_from(step * u64::from(u32::MAX) / 10_000).unwrap();
        let drawn = destinations.draw(number).unwrap();
        canary += u32::from(drawn.weight == 5);
    }
    assert!((499..=501).contains(&canary), "{canary}");
}

/// C74 and C75, as far as they are compiled.
#[test]
fn timeouts_and_retries_are_those_of_the_article() {
    let world = World::mission();
    let payment = forward(&world, "GET payment-service.ecommerce:8080/");
    assert_eq!(payment.timeout, Some(Duration::from_secs(3)));
    assert_eq!(payment.retry, crate::routing::Retry::default());
    let inventory = forward(&world, "GET inventory-service.ecommerce:8080/");
    assert_eq!(inventory.timeout, Some(Duration::from_secs(5)));
    let retry = &inventory.retry;
    assert_eq!((retry.attempts, retry.per_try_timeout), (3, Some(Duration::from_secs(2))));
    assert!(retry.remote_localities && retry.ignore_previous_hosts);
    let on = [
        RetryOn::ConnectFailure,
        RetryOn::RefusedStream,
        RetryOn::Unavailable,
        RetryOn::Cancelled,
        RetryOn::Conflict,
        RetryOn::ServerError,
    ];
    assert_eq!(retry.on, on.into());
    assert_eq!(retry.codes, Vec::<StatusCode>::new());
}

/// E101, E102, E111, E113, E114, as far as they are compiled.
#[test]
fn subsets_inherit_block_by_block() {
    let world = World::mission();
    let host = "product-service.production";
    for (subset, algorithm, pod) in
        [("v1", Algorithm::LeastRequest, "product-v1"), ("v2", Algorithm::RoundRobin, "product-v2")]
    {
        let backend = world.backend(host, 80, Some(subset)).unwrap();
        let pool = &backend.policy.connection_pool;
        assert_eq!(backend.policy.load_balancer.algorithm, algorithm, "{subset}");
        assert_eq!((pool.max_connections, pool.max_pending_requests), (100, 50));
        assert_eq!(pool.upgrade, Upgrade::Http2);
        let found = endpoints(&world.snapshot, &Names::default(), &backend);
        let names: Vec<_> = found.iter().map(|e| (&*e.workload.name, e.port)).collect();
        assert_eq!(names, [(pod, 8080)]);
    }
    let whole = world.backend(host, 80, None).unwrap();
    assert_eq!(endpoints(&world.snapshot, &Names::default(), &whole).len(), 2);
    assert_eq!(world.backend(host, 80, Some("v3")), None);
}

/// F122 to F130, as far as they are compiled.
#[test]
fn the_circuit_breaker_is_that_of_the_article() {
    let world = World::mission();
    let backend = world.backend("order-service.ecommerce", 8080, None).unwrap();
    let outlier = backend.policy.outlier_detection.as_ref().unwrap();
    assert_eq!(outlier.consecutive_5xx, Some(5));
    assert_eq!(outlier.interval, Duration::from_secs(30));
    assert_eq!(outlier.base_ejection_time, Duration::from_secs(60));
    assert_eq!((outlier.max_ejection_percent, outlier.min_health_percent), (50, 30));
    let pool = &backend.policy.connection_pool;
    assert_eq!((pool.max_requests, pool.max_requests_per_connection), (200, Some(10)));
    assert_eq!((pool.max_connections, pool.max_pending_requests), (100, 50));
    assert_eq!(backend.rules[0].origin.to_string(), "order-service.destinationrule.yaml:1");
}

/// B47: 503 with flag NC, as far as it is compiled.
#[test]
fn without_its_destination_rule_a_subset_is_missing() {
    let mut world = World::mission();
    world.write("product-service.destinationrule.yaml", None);
    assert_eq!(
        world.ask("GET product-service.production/"),
        "Cluster(\"no DestinationRule of service product-service.production.svc.cluster.local has a subset v1\")"
    );
}
