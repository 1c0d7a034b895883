//! Pure: who is picked by each algorithm.
//! Never: a clock.
use std::{collections::BTreeMap, time::Instant};

use super::{
    super::{Balancer, Pick, Wish, xxhash::xxhash64},
    *,
};
use crate::backend::{Algorithm, HashKey, HashTable, LoadBalancer, Warmup};

#[expect(clippy::disallowed_methods, reason = "only differences count")]
fn zero() -> Instant {
    Instant::now()
}

fn by(algorithm: Algorithm) -> CallPolicy {
    let load_balancer = LoadBalancer { algorithm, ..LoadBalancer::default() };
    CallPolicy { load_balancer, ..CallPolicy::default() }
}

fn made(endpoints: Vec<Endpoint>, policy: CallPolicy) -> (Balancer, Instant) {
    let (mut balancer, now) = (Balancer::default(), zero());
    balancer.update(view(endpoints, policy), now);
    (balancer, now)
}

fn counts(balancer: &mut Balancer, now: Instant, times: usize) -> BTreeMap<u64, usize> {
    let mut dice = Dice::new(3);
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        let pick = balancer.pick(&Wish::default(), now, &mut || dice.draw()).unwrap();
        *counts.entry(pick.id).or_default() += 1;
    }
    counts
}

fn heavier(mut endpoints: Vec<Endpoint>, place: usize, capacity: u32) -> Vec<Endpoint> {
    Arc::make_mut(&mut endpoints[place].workload).capacity = capacity;
    endpoints
}

#[test]
fn round_robin_is_exactly_even_and_by_weight() {
    let (mut balancer, now) = made(endpoints(4), by(Algorithm::RoundRobin));
    assert!(counts(&mut balancer, now, 400).values().all(|count| *count == 100));
    let (mut balancer, now) = made(heavier(endpoints(3), 0, 2), by(Algorithm::RoundRobin));
    let counts = counts(&mut balancer, now, 400);
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [200, 100, 100]);
}

#[test]
fn turns_go_on_when_others_change() {
    let (mut balancer, now) = made(endpoints(3), by(Algorithm::RoundRobin));
    let mut dice = Dice::new(11);
    let mut hits = BTreeMap::<u64, usize>::new();
    for _ in 0..300 {
        // Something of the mesh has changed that is not of this backend.
        balancer.update(view(endpoints(3), by(Algorithm::RoundRobin)), now);
        let pick = balancer.pick(&Wish::default(), now, &mut || dice.draw()).unwrap();
        *hits.entry(pick.id).or_default() += 1;
    }
    assert_eq!(hits.into_values().collect::<Vec<_>>(), [100, 100, 100]);
}

#[test]
fn random_is_spread() {
    let (mut balancer, now) = made(endpoints(4), by(Algorithm::Random));
    let counts = counts(&mut balancer, now, 4_000);
    assert!(counts.values().all(|count| (880..1_120).contains(count)), "{counts:?}");
}

#[test]
fn the_idler_of_two_is_preferred() {
    let (mut balancer, now) = made(endpoints(4), by(Algorithm::LeastRequest));
    let mut dice = Dice::new(4);
    // The first has ten requests that do not end.
    let busy: Vec<_> = (0..10).map(|_| balancer.hosts()[0].begin()).collect();
    let mut first = 0;
    for _ in 0..1_600 {
        let pick = balancer.pick(&Wish::default(), now, &mut || dice.draw()).unwrap();
        first += usize::from(pick.id == id(0));
    }
    // Only when both of the two are that one: one in sixteen.
    assert!((60..145).contains(&first), "{first}");
    drop(busy);
    assert_eq!(balancer.hosts()[0].load(), 0);
    let held: Vec<Pick> = (0..400)
        .filter_map(|_| balancer.pick(&Wish::default(), now, &mut || dice.draw()))
        .collect();
    let loads: Vec<_> = balancer.hosts().iter().map(|host| host.load()).collect();
    assert!(loads.iter().all(|load| (94..=106).contains(load)), "{loads:?}");
    drop(held);
}

#[test]
fn weights_count_beside_load() {
    let (mut balancer, now) = made(heavier(endpoints(2), 0, 3), by(Algorithm::LeastRequest));
    let counts = counts(&mut balancer, now, 400);
    assert_eq!(counts[&id(0)], 300);
}

fn hashed(table: HashTable) -> CallPolicy {
    by(Algorithm::ConsistentHash { key: HashKey::SourceIp, table })
}

#[test]
fn one_key_goes_to_one_endpoint_and_few_move() {
    for table in [HashTable::Ring(1024), HashTable::Maglev(65_537)] {
        let (mut balancer, now) = made(endpoints(5), hashed(table));
        let mut dice = Dice::new(5);
        let mut all = |balancer: &mut Balancer| -> Vec<u64> {
            let one = |number: u64| {
                let key = Some(xxhash64(&number.to_le_bytes(), 0));
                let wish = Wish { key, avoid_tried: true, ..Wish::default() };
                balancer.pick(&wish, now, &mut || dice.draw()).unwrap().id
            };
            (0..1_000).map(one).collect()
        };
        let before = all(&mut balancer);
        assert_eq!(before, all(&mut balancer));
        let mut fewer = endpoints(5);
        fewer.remove(2);
        balancer.update(view(fewer, hashed(table)), now);
        let after = all(&mut balancer);
        let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
        assert!((100..350).contains(&moved), "{table:?} {moved}");
        assert!(after.iter().all(|host| *host != id(2)));
    }
}

#[test]
fn without_a_key_anybody_is_picked() {
    let (mut balancer, now) = made(endpoints(3), hashed(HashTable::Ring(64)));
    assert_eq!(counts(&mut balancer, now, 300).len(), 3);
}

#[test]
fn who_was_tried_is_avoided_while_there_is_another() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastRequest, Algorithm::Random] {
        let (mut balancer, now) = made(endpoints(2), by(algorithm.clone()));
        let (mut dice, mut same) = (Dice::new(6), 0);
        for _ in 0..300 {
            let mut wish = Wish { avoid_tried: true, ..Wish::default() };
            let first = balancer.pick(&wish, now, &mut || dice.draw()).unwrap();
            wish.was_tried(&first);
            let second = balancer.pick(&wish, now, &mut || dice.draw()).unwrap();
            same += usize::from(first.id == second.id);
        }
        // Five more looks, each of which may find the same at random.
        assert!(same <= 15, "{algorithm:?} {same}");
    }
    let (mut balancer, now) = made(endpoints(1), by(Algorithm::Random));
    let mut wish = Wish { avoid_tried: true, ..Wish::default() };
    wish.was_tried(&balancer.pick(&wish, now, &mut || 0).unwrap());
    assert!(balancer.pick(&wish, now, &mut || 0).is_some(), "nobody else is there");
}

#[test]
fn a_new_endpoint_begins_with_a_tenth_and_grows() {
    let warmup =
        Warmup { duration: Duration::from_secs(100), minimum_percent: 10.0, aggression: 1.0 };
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastRequest] {
        let load_balancer =
            LoadBalancer { algorithm, warmup: Some(warmup), ..LoadBalancer::default() };
        let policy = CallPolicy { load_balancer, ..CallPolicy::default() };
        let (mut balancer, start) = made(endpoints(1), policy.clone());
        let joined = start + Duration::from_secs(1000);
        balancer.update(view(endpoints(2), policy), joined);
        for (second, least, most) in
            [(0, 80, 100), (10, 80, 100), (50, 320, 345), (99, 485, 505), (100, 450, 550)]
        {
            let now = joined + Duration::from_secs(second);
            let share = counts(&mut balancer, now, 1_000)[&id(1)];
            assert!((least..=most).contains(&share), "{second} s: {share}");
        }
    }
}

#[test]
fn a_new_endpoint_has_its_keys_at_once() {
    let warmup =
        Warmup { duration: Duration::from_secs(100), minimum_percent: 10.0, aggression: 1.0 };
    let mut policy = hashed(HashTable::Maglev(65_537));
    policy.load_balancer.warmup = Some(warmup);
    let (mut balancer, start) = made(endpoints(1), policy.clone());
    let joined = start + Duration::from_secs(1000);
    balancer.update(view(endpoints(2), policy), joined);
    let mut keys = |now| -> Vec<u64> {
        let one = |number: u64| {
            let key = Some(xxhash64(&number.to_le_bytes(), 0));
            balancer.pick(&Wish { key, ..Wish::default() }, now, &mut || 0).unwrap().id
        };
        (0..1_000).map(one).collect()
    };
    let at_once = keys(joined);
    assert_eq!(at_once, keys(joined + Duration::from_secs(100)));
    assert!(at_once.iter().filter(|host| **host == id(1)).count() > 400);
}

#[test]
fn nobody_is_there() {
    let (mut balancer, now) = made(Vec::new(), CallPolicy::default());
    assert!(balancer.pick(&Wish::default(), now, &mut || 0).is_none());
}
