//! Pure: a backend with many endpoints, and what each request asks of its balancer: `bench` and `count`
//! run it.
//! Never: a clock, or dice without a seed.
use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use culvert_agent::manifest::{Folder, Settings, compile};
use culvert_waypoint::{
    backend::{
        Algorithm, Backend, CallPolicy, HashKey, HashTable, LoadBalancer, OutlierDetection,
        endpoints,
    },
    balance::{Balancer, View, Wish},
    outcome::{Answered, Outcome},
    routing::BackendRef,
};
use http::StatusCode;

/// Every balancer, by its name.
pub const BALANCERS: [(&str, Algorithm); 5] = [
    ("round robin", Algorithm::RoundRobin),
    ("least request", Algorithm::LeastRequest),
    ("random", Algorithm::Random),
    ("ring", keyed(HashTable::Ring(HashTable::RING))),
    ("maglev", keyed(HashTable::Maglev(MAGLEV))),
];

/// Istio's size of a Maglev table.
const MAGLEV: u64 = 65_537;
/// Requests come so far apart.
const PAUSE: Duration = Duration::from_micros(100);
/// Of so many requests one fails.
const FAILING: u64 = 100;
/// Failures in a row that leave an endpoint out.
const IN_A_ROW: u32 = 5;

const fn keyed(table: HashTable) -> Algorithm {
    Algorithm::ConsistentHash { key: HashKey::SourceIp, table }
}

/// The backend of [`view`].
pub fn backend() -> BackendRef {
    BackendRef { host: "cart.shop.svc.cluster.local".into(), port: 80, subset: None }
}

/// So many endpoints, chosen in this way, with outlier detection.
///
/// # Panics
/// When the manifests do not compile.
pub fn view(algorithm: Algorithm, count: usize) -> View {
    let mut text = "{kind: Namespace, apiVersion: v1, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}\n---\n\
                    {kind: Service, apiVersion: v1, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.96.0.1, selector: {app: cart}, ports: [{port: 80, targetPort: 8080}]}}\n".to_owned();
    for number in 0..count {
        let (high, low) = (number / 250, 1 + number % 250);
        text += &format!(
            "---\n{{kind: Pod, apiVersion: v1, metadata: {{name: p{number}, namespace: shop, labels: {{app: cart}}}}, \
             spec: {{serviceAccountName: cart}}, \
             status: {{phase: Running, podIP: 10.1.{high}.{low}, conditions: [{{type: Ready, status: 'True'}}]}}}}\n"
        );
    }
    let mut folder = Folder::default();
    folder.update(BTreeMap::from([("mesh.yaml".into(), Ok(text))]));
    let snapshot = compile(&folder, &Settings::default());
    let detection = OutlierDetection {
        consecutive_5xx: Some(IN_A_ROW),
        max_ejection_percent: 50,
        ..OutlierDetection::default()
    };
    let policy = Arc::new(CallPolicy {
        load_balancer: LoadBalancer { algorithm, ..LoadBalancer::default() },
        outlier_detection: Some(detection),
        ..CallPolicy::default()
    });
    let (reference, labels, rules) = (backend(), Arc::default(), Arc::default());
    let backend = Backend { reference, labels, policy: policy.clone(), rules };
    let endpoints = endpoints(&snapshot, &backend);
    assert_eq!(endpoints.len(), count, "all pods are endpoints");
    View { endpoints, policy, ..View::default() }
}

/// A status that an endpoint answered.
pub fn answered(status: StatusCode) -> Outcome {
    Outcome::Answered(Answered { status, grpc: None, rate_limited: false, named: false })
}

/// A balancer under load.
pub struct Requests {
    balancer: Balancer,
    wish: Wish,
    now: Instant,
    dice: Dice,
    good: Outcome,
    bad: Outcome,
}

impl Requests {
    /// One of so many endpoints that has been asked before.
    pub fn new(algorithm: &Algorithm, count: usize, now: Instant) -> Self {
        let mut balancer = Balancer::default();
        balancer.update(view(algorithm.clone(), count), now);
        let good = answered(StatusCode::OK);
        let bad = answered(StatusCode::SERVICE_UNAVAILABLE);
        let mut requests =
            Self { balancer, wish: Wish::default(), now, dice: Dice::default(), good, bad };
        requests.request();
        requests
    }

    /// One request: who takes it, and what came of it.
    pub fn request(&mut self) {
        self.now += PAUSE;
        // Read by the balancers that go by keys alone.
        self.wish.key = Some(self.dice.draw());
        let Self { balancer, wish, now, dice, good, bad } = self;
        let pick = balancer.pick(black_box(wish), *now, &mut || dice.draw());
        let outcome = if dice.draw().is_multiple_of(FAILING) { &*bad } else { &*good };
        if let Some(pick) = &pick {
            balancer.report(pick.id, black_box(outcome), *now);
        }
    }

    /// The first endpoint fails until it is left out.
    pub fn eject(&mut self) {
        let first = self.balancer.hosts().first().map(|host| host.id).unwrap_or_default();
        for _ in 0..IN_A_ROW {
            self.balancer.report(first, &self.bad, self.now);
        }
    }

    /// How many are left out.
    pub fn ejected(&self) -> usize {
        self.balancer.ejected()
    }
}

/// splitmix64.
#[derive(Debug, Default)]
struct Dice(u64);

impl Dice {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
