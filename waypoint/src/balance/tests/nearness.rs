//! Pure: who is picked by where they are.
//! Never: a clock.
use std::{collections::BTreeMap, time::Instant};

use culvert_agent::discovery::Distribution;

use super::{
    super::{Balancer, View, Wish},
    *,
};
use crate::backend::{Algorithm, LoadBalancer, LocalityPolicy, Shares};

#[expect(clippy::disallowed_methods, reason = "only differences count")]
fn zero() -> Instant {
    Instant::now()
}

struct Case {
    endpoints: Vec<Endpoint>,
    locality: Option<LocalityPolicy>,
    detection: Option<OutlierDetection>,
    distribution: Distribution,
    here: &'static str,
}

impl Case {
    fn of(places: &[&str]) -> Self {
        let numbered = (0..).zip(places);
        Self {
            endpoints: numbered.map(|(number, place)| endpoint(number, place)).collect(),
            locality: None,
            detection: Some(OutlierDetection { max_ejection_percent: 100, ..article() }),
            distribution: Distribution::Any,
            here: "eu/a",
        }
    }

    fn balancer(self) -> (Balancer, Instant) {
        let (mut balancer, now) = (Balancer::default(), zero());
        let load_balancer =
            LoadBalancer { algorithm: Algorithm::Random, locality: self.locality, warmup: None };
        let policy = CallPolicy {
            load_balancer,
            outlier_detection: self.detection,
            ..CallPolicy::default()
        };
        let view = View {
            endpoints: self.endpoints,
            policy: Arc::new(policy),
            here: Some(Arc::new(workload(200, self.here))),
            distribution: self.distribution,
        };
        balancer.update(view, now);
        (balancer, now)
    }
}

/// Percents by endpoint.
fn shares(balancer: &mut Balancer, now: Instant) -> Vec<u64> {
    let mut dice = Dice::new(8);
    let mut counts: BTreeMap<u64, u64> = balancer.hosts().iter().map(|host| (host.id, 0)).collect();
    for _ in 0..10_000 {
        if let Some(pick) = balancer.pick(&Wish::default(), now, &mut || dice.draw()) {
            *counts.entry(pick.id).or_default() += 1;
        }
    }
    counts.into_values().map(|count| (count + 50) / 100).collect()
}

fn out(balancer: &mut Balancer, hosts: &[u64], now: Instant) {
    hosts
        .iter()
        .for_each(|host| (0..5).for_each(|_| balancer.report(id(*host), &status(500), now)));
}

#[test]
fn the_zone_then_the_region_then_others() {
    let case = Case::of(&["us/x", "eu/b", "eu/a"]);
    let (mut balancer, now) = case.balancer();
    assert_eq!(shares(&mut balancer, now), [0, 0, 100]);
    out(&mut balancer, &[2], now);
    assert_eq!(shares(&mut balancer, now), [0, 100, 0]);
    out(&mut balancer, &[1], now);
    assert_eq!(shares(&mut balancer, now), [100, 0, 0]);
}

#[test]
fn half_of_the_nearest_gone_is_70_to_30() {
    let (mut balancer, now) = Case::of(&["eu/a", "eu/a", "us/x"]).balancer();
    assert_eq!(shares(&mut balancer, now), [50, 50, 0]);
    out(&mut balancer, &[0], now);
    let [0, near, far] = shares(&mut balancer, now)[..] else { panic!("one is out") };
    assert!((69..=71).contains(&near) && (29..=31).contains(&far), "{near} {far}");
}

#[test]
fn failover_needs_detection_and_a_place() {
    let without = Case { detection: None, ..Case::of(&["eu/a", "us/x"]) };
    let nowhere = Case { here: "", ..Case::of(&["eu/a", "us/x"]) };
    let locality = Some(LocalityPolicy { enabled: Some(false), ..LocalityPolicy::default() });
    let off = Case { locality, ..Case::of(&["eu/a", "us/x"]) };
    for case in [without, nowhere, off] {
        let (mut balancer, now) = case.balancer();
        assert!(shares(&mut balancer, now).iter().all(|share| (48..=52).contains(share)));
    }
}

#[test]
fn the_region_that_stands_in_comes_first() {
    let failover = vec![("eu".into(), "us".into())];
    let locality = Some(LocalityPolicy { failover, ..LocalityPolicy::default() });
    let (mut balancer, now) = Case { locality, ..Case::of(&["asia/x", "us/x", "eu/a"]) }.balancer();
    out(&mut balancer, &[2], now);
    assert_eq!(shares(&mut balancer, now), [0, 100, 0]);
}

#[test]
fn labels_make_endpoints_near() {
    let mut case = Case::of(&["us/x", "us/x", "us/x"]);
    let mut set = |place: usize, value: &str| {
        let labels = &mut Arc::make_mut(&mut case.endpoints[place].workload).labels;
        labels.insert("tier".into(), value.into());
    };
    set(0, "cold");
    set(1, "hot");
    let failover_priority = vec!["tier=hot".into(), "topology.kubernetes.io/zone".into()];
    case.locality = Some(LocalityPolicy { failover_priority, ..LocalityPolicy::default() });
    let (mut balancer, now) = case.balancer();
    assert_eq!(shares(&mut balancer, now), [0, 100, 0]);
}

#[test]
fn labels_and_the_region_that_stands_in_count_both() {
    let mut case = Case::of(&["asia/x", "us/x", "eu/a"]);
    let labels = &mut Arc::make_mut(&mut case.endpoints[0].workload).labels;
    labels.insert("tier".into(), "hot".into());
    let labels = &mut Arc::make_mut(&mut case.endpoints[1].workload).labels;
    labels.insert("tier".into(), "hot".into());
    let failover_priority = vec!["tier=hot".into()];
    let failover = vec![("eu".into(), "us".into())];
    case.locality =
        Some(LocalityPolicy { failover_priority, failover, ..LocalityPolicy::default() });
    let (mut balancer, now) = case.balancer();
    assert_eq!(shares(&mut balancer, now), [0, 100, 0], "of those that are hot");
    out(&mut balancer, &[1], now);
    assert_eq!(shares(&mut balancer, now), [100, 0, 0], "the label comes first");
}

#[test]
fn shares_of_which_none_is_ours_leave_all_alike() {
    let to = BTreeMap::from([("us/*".into(), 100)]);
    let distribute = vec![Shares { from: "asia/*".into(), to }];
    let locality = Some(LocalityPolicy { distribute, ..LocalityPolicy::default() });
    let (mut balancer, now) = Case { locality, ..Case::of(&["eu/a", "us/x"]) }.balancer();
    let shares = shares(&mut balancer, now);
    assert!(shares.iter().all(|share| (48..=52).contains(share)), "{shares:?}");
}

#[test]
fn one_of_many_still_has_its_groups_share() {
    let to = BTreeMap::from([("eu/a".into(), 50), ("us/x".into(), 50)]);
    let distribute = vec![Shares { from: "eu/*".into(), to }];
    let locality = Some(LocalityPolicy { distribute, ..LocalityPolicy::default() });
    let places: Vec<_> = std::iter::repeat_n("eu/a", 150).chain(["us/x"]).collect();
    let mut case = Case { locality, ..Case::of(&places) };
    if let Some(detection) = &mut case.detection {
        detection.min_health_percent = 0;
    }
    let (mut balancer, now) = case.balancer();
    out(&mut balancer, &(0..149).collect::<Vec<_>>(), now);
    let share = shares(&mut balancer, now)[149];
    // It could take 1.4/150 of a half, beside another half.
    assert_eq!(share, 1, "{share}");
}

#[test]
fn shares_are_kept_and_beat_failover() {
    let to = BTreeMap::from([("eu/a".into(), 80), ("us/*".into(), 20)]);
    let distribute = vec![Shares { from: "eu/*".into(), to }];
    let locality = Some(LocalityPolicy { distribute, ..LocalityPolicy::default() });
    let case = Case { locality, ..Case::of(&["eu/a", "eu/a", "us/x", "asia/x"]) };
    let (mut balancer, now) = case.balancer();
    let [one, two, us, asia] = shares(&mut balancer, now)[..] else { panic!("four") };
    assert!((79..=81).contains(&(one + two)) && (19..=21).contains(&us), "{one} {two} {us}");
    assert_eq!(asia, 0, "who is not named gets nothing");
    out(&mut balancer, &[2], now);
    assert_eq!(shares(&mut balancer, now)[2], 0);
}

#[test]
fn a_service_may_ask_for_its_zone_without_detection() {
    let case = Case {
        detection: None,
        distribution: Distribution::SameZone,
        ..Case::of(&["eu/a", "eu/b", "us/x"])
    };
    let (mut balancer, now) = case.balancer();
    assert_eq!(shares(&mut balancer, now), [100, 0, 0]);
    let case = Case {
        detection: None,
        distribution: Distribution::SameZone,
        ..Case::of(&["eu/b", "us/x"])
    };
    let (mut balancer, now) = case.balancer();
    assert_eq!(shares(&mut balancer, now), [100, 0], "then its region");
}

#[test]
fn two_tries_at_home_and_then_elsewhere() {
    let (mut balancer, now) = Case::of(&["eu/a", "eu/a", "us/x"]).balancer();
    let mut dice = Dice::new(9);
    for _ in 0..50 {
        let mut wish = Wish { elsewhere: true, avoid_tried: true, ..Wish::default() };
        let mut places = Vec::new();
        for _ in 0..5 {
            let pick = balancer.pick(&wish, now, &mut || dice.draw()).unwrap();
            places.push(pick.endpoint.workload.locality.region.to_string());
            wish.was_tried(&pick);
        }
        // When everybody was tried, it begins again.
        assert_eq!(places, ["eu", "eu", "us", "us", "eu"]);
    }
}
