//! Front: what balancing promises, checked.
//! Never: a clock.
mod balancing;
mod ejection;
mod gradient;
mod nearness;
mod simulation;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use culvert_agent::{
    discovery::{Locality, Protocol, Workload},
    origin::Origin,
};
use http::StatusCode;

use super::{Balancer, View};
use crate::{
    backend::{CallPolicy, Endpoint, OutlierDetection},
    outcome::{Answered, Outcome},
};

/// Dice with a seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// splitmix64.
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, most: u64) -> u64 {
        self.draw() % most.max(1)
    }
}

/// A workload in `region/zone`.
pub(super) fn workload(number: u8, place: &str) -> Workload {
    let (region, zone) = place.split_once('/').unwrap_or((place, ""));
    let name: Arc<str> = format!("pod-{number}").into();
    Workload {
        uid: format!("c//Pod/shop/pod-{number}").into(),
        name: name.clone(),
        namespace: "shop".into(),
        addresses: vec![[10, 0, 0, number].into()],
        hostname: None,
        node: format!("node-{place}").into(),
        locality: Locality { region: region.into(), zone: zone.into() },
        identity: "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap(),
        protocol: Protocol::Hbone,
        network: "".into(),
        waypoint: None,
        capacity: 1,
        ready: true,
        canonical_name: name.clone(),
        canonical_revision: "latest".into(),
        labels: BTreeMap::new(),
        workload_name: name,
        netns: None,
        cgroup: None,
        origin: Origin { file: "mesh.yaml".into(), line: 1 },
    }
}

pub(super) fn endpoint(number: u8, place: &str) -> Endpoint {
    Endpoint { workload: Arc::new(workload(number, place)), port: 8080 }
}

pub(super) fn endpoints(count: u8) -> Vec<Endpoint> {
    (0..count).map(|number| endpoint(number, "")).collect()
}

pub(super) fn view(endpoints: Vec<Endpoint>, policy: CallPolicy) -> View {
    View { endpoints, policy: Arc::new(policy), ..View::default() }
}

/// The detection of the article.
pub(super) fn article() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: Some(5),
        interval: Duration::from_secs(30),
        base_ejection_time: Duration::from_secs(60),
        max_ejection_percent: 50,
        min_health_percent: 30,
        ..OutlierDetection::default()
    }
}

pub(super) fn detecting(detection: OutlierDetection) -> CallPolicy {
    CallPolicy { outlier_detection: Some(detection), ..CallPolicy::default() }
}

pub(super) fn status(code: u16) -> Outcome {
    let status = StatusCode::from_u16(code).unwrap();
    Outcome::Answered(Answered { status, grpc: None, rate_limited: false, named: false })
}

/// The place of an endpoint in the order of ids, which is that of their coming.
pub(super) fn id(place: u64) -> u64 {
    place + 1
}

pub(super) fn ejected(balancer: &Balancer) -> Vec<u64> {
    balancer.hosts().iter().filter(|host| host.standing.is_ejected()).map(|host| host.id).collect()
}
