//! Pure: the checklist's section F, as far as it is arithmetic.
//! Never: a clock.
use std::time::Instant;

use super::{
    super::{Balancer, Wish, balancer::Ejections},
    *,
};
use crate::outcome::{Failure, Late};

const SECOND: Duration = Duration::from_secs(1);

#[expect(clippy::disallowed_methods, reason = "only differences count")]
fn zero() -> Instant {
    Instant::now()
}

fn balancer(count: u8, detection: OutlierDetection) -> (Balancer, Instant) {
    let (mut balancer, now) = (Balancer::default(), zero());
    balancer.update(view(endpoints(count), detecting(detection)), now);
    (balancer, now)
}

fn fail(balancer: &mut Balancer, host: u64, times: u32, now: Instant) {
    (0..times).for_each(|_| balancer.report(host, &status(500), now));
}

#[test]
fn five_in_a_row_eject_and_one_success_between_does_not() {
    let (mut balancer, now) = balancer(4, article());
    fail(&mut balancer, id(0), 4, now);
    balancer.report(id(0), &status(200), now);
    fail(&mut balancer, id(0), 4, now);
    assert!(ejected(&balancer).is_empty());
    fail(&mut balancer, id(0), 1, now);
    assert_eq!(ejected(&balancer), [id(0)]);
    let mut dice = Dice::new(1);
    for _ in 0..200 {
        let pick = balancer.pick(&Wish::default(), now, &mut || dice.draw()).unwrap();
        assert_ne!(pick.id, id(0));
    }
}

#[test]
fn errors_count_however_far_apart_they_are() {
    let (mut balancer, mut now) = balancer(2, article());
    for _ in 0..5 {
        now += 200 * SECOND;
        fail(&mut balancer, id(1), 1, now);
    }
    assert_eq!(ejected(&balancer), [id(1)]);
}

#[test]
fn it_returns_at_the_first_sweep_after_its_time() {
    let (mut balancer, start) = balancer(2, article());
    // Sweeps are at 30, 60, 90 s; the time is over at 95 s.
    fail(&mut balancer, id(0), 5, start + 35 * SECOND);
    for (second, out) in
        [(36, true), (94, true), (95, true), (119, true), (120, false), (121, false)]
    {
        balancer.advance(start + second * SECOND);
        assert_eq!(!ejected(&balancer).is_empty(), out, "{second}");
    }
}

#[test]
fn times_out_grow_by_a_base_to_a_bound_and_shrink_while_it_is_well() {
    let (mut balancer, start) = balancer(2, article());
    let settings = article();
    let mut now = start;
    let mut lengths = Vec::new();
    let time_out = |balancer: &Balancer, now: Instant| {
        balancer.hosts()[0].standing.until(&settings).map(|until| (until - now).as_secs())
    };
    // The sweep that lets it return is the one at which it fails again: no healthy one between.
    let fail_and_return = |balancer: &mut Balancer, now: Instant| {
        fail(balancer, id(0), 5, now);
        let seconds = time_out(balancer, now).unwrap();
        let later = now + Duration::from_secs(seconds.div_ceil(30) * 30);
        balancer.advance(later);
        assert!(ejected(balancer).is_empty());
        (later, seconds)
    };
    for _ in 0..7 {
        let (later, seconds) = fail_and_return(&mut balancer, now);
        lengths.push(seconds);
        now = later;
    }
    assert_eq!(lengths, [60, 120, 180, 240, 300, 300, 300]);
    // It counts to six, so that the next after one healthy sweep is still the longest.
    for (sweeps, expected) in [(1, 300), (2, 300), (3, 240), (5, 120), (6, 60), (100, 60)] {
        let (mut balancer, mut now) = self::balancer(2, article());
        for _ in 0..6 {
            (now, _) = fail_and_return(&mut balancer, now);
        }
        now += Duration::from_secs(30) * sweeps;
        balancer.advance(now);
        fail(&mut balancer, id(0), 5, now);
        assert_eq!(time_out(&balancer, now), Some(expected), "{sweeps}");
    }
}

#[test]
fn a_base_longer_than_the_bound_is_the_bound() {
    let detection = OutlierDetection { base_ejection_time: 400 * SECOND, ..article() };
    let (mut balancer, now) = balancer(2, detection.clone());
    fail(&mut balancer, id(0), 5, now);
    assert_eq!(balancer.hosts()[0].standing.until(&detection), Some(now + 400 * SECOND));
}

#[test]
fn only_so_many_are_out_at_one_time() {
    for (hosts, percent, out) in [
        (4, 50, 2),
        (5, 10, 0),
        (10, 10, 1),
        (19, 10, 1),
        (20, 10, 2),
        (1, 50, 0),
        (1, 99, 0),
        (1, 100, 1),
        (2, 50, 1),
        (3, 100, 3),
    ] {
        let (mut balancer, now) =
            balancer(hosts, OutlierDetection { max_ejection_percent: percent, ..article() });
        (0..u64::from(hosts)).for_each(|host| fail(&mut balancer, id(host), 5, now));
        assert_eq!(ejected(&balancer).len(), out, "{hosts} {percent}");
        let overflowed = u64::from(hosts) - out as u64;
        assert_eq!(balancer.ejections(), Ejections { made: out as u64, overflowed });
    }
}

#[test]
fn whoever_could_not_be_left_out_must_fail_anew() {
    let (mut balancer, now) =
        balancer(4, OutlierDetection { max_ejection_percent: 25, ..article() });
    fail(&mut balancer, id(0), 5, now);
    fail(&mut balancer, id(1), 5, now);
    assert_eq!(ejected(&balancer), [id(0)]);
    let later = now + 60 * SECOND;
    fail(&mut balancer, id(1), 4, later);
    assert!(ejected(&balancer).is_empty(), "its count began anew");
    fail(&mut balancer, id(1), 1, later);
    assert_eq!(ejected(&balancer), [id(1)]);
}

#[test]
fn below_the_threshold_health_does_not_count() {
    for (percent, expected) in [(30, 10), (0, 0)] {
        let detection = OutlierDetection {
            max_ejection_percent: 100,
            min_health_percent: percent,
            ..article()
        };
        let (mut balancer, now) = balancer(10, detection);
        let mut dice = Dice::new(2);
        let mut picked = |balancer: &mut Balancer| {
            let picks =
                (0..500).filter_map(|_| balancer.pick(&Wish::default(), now, &mut || dice.draw()));
            picks.map(|pick| pick.id).collect::<std::collections::BTreeSet<_>>().len()
        };
        (0..7).for_each(|host| fail(&mut balancer, id(host), 5, now));
        assert_eq!(picked(&mut balancer), 3, "30 % are left");
        assert!(!balancer.panics());
        (7..10).for_each(|host| fail(&mut balancer, id(host), 5, now));
        assert_eq!(picked(&mut balancer), expected, "nobody is left");
    }
}

#[test]
fn failures_before_an_answer_are_like_503_and_504_unless_told_apart() {
    let lost = |failure| Outcome::Failed { failure, unsent: true };
    let outcomes = [
        lost(Failure::Absent(String::new())),
        lost(Failure::Tls(String::new())),
        lost(Failure::ConnectTimeout),
        Outcome::Late(Late::Try),
        Outcome::Late(Late::Request),
        lost(Failure::Reset),
        Outcome::Cut(Failure::Terminated),
    ];
    let split = OutlierDetection {
        split_local: true,
        consecutive_local: Some(3),
        consecutive_5xx: Some(2),
        ..article()
    };
    for (detection, needed) in [(article(), 5), (split, 3)] {
        for outcome in &outcomes {
            let (mut balancer, now) = balancer(2, detection.clone());
            for count in 1..=needed {
                assert!(ejected(&balancer).is_empty(), "{outcome:?} {count}");
                balancer.report(id(0), outcome, now);
            }
            assert_eq!(ejected(&balancer), [id(0)], "{outcome:?}");
        }
    }
    // Without a number of their own they count for nothing then.
    let (mut balancer, now) =
        balancer(2, OutlierDetection { split_local: true, consecutive_local: None, ..article() });
    (0..20).for_each(|_| balancer.report(id(0), &outcomes[0], now));
    assert!(ejected(&balancer).is_empty());
}

#[test]
fn an_answer_ends_a_run_of_local_failures() {
    let detection = OutlierDetection { split_local: true, consecutive_local: Some(3), ..article() };
    let (mut balancer, now) = balancer(2, detection);
    let lost = Outcome::unsent(Failure::Absent(String::new()));
    for end in [status(500), Outcome::Opened] {
        (0..2).for_each(|_| balancer.report(id(0), &lost, now));
        balancer.report(id(0), &end, now);
    }
    (0..2).for_each(|_| balancer.report(id(0), &lost, now));
    assert!(ejected(&balancer).is_empty());
}

#[test]
fn a_call_fails_by_its_own_status() {
    for (call, fails) in [(14, true), (13, true), (99, true), (0, false), (5, false), (8, false)] {
        let (mut balancer, now) = balancer(2, article());
        let Outcome::Answered(answered) = status(200) else { unreachable!("it is an answer") };
        let outcome = Outcome::Answered(Answered { grpc: Some(call), ..answered });
        (0..5).for_each(|_| balancer.report(id(0), &outcome, now));
        assert_eq!(ejected(&balancer).len(), usize::from(fails), "{call}");
    }
}

#[test]
fn gateway_errors_are_502_to_504_and_off_unless_given() {
    let detection =
        OutlierDetection { consecutive_5xx: None, consecutive_gateway: Some(3), ..article() };
    let (mut balancer, now) = balancer(4, detection);
    for code in [503, 502, 500, 504, 503, 200, 502, 502] {
        balancer.report(id(0), &status(code), now);
    }
    assert!(ejected(&balancer).is_empty(), "500 and 200 end the run");
    balancer.report(id(0), &status(504), now);
    assert_eq!(ejected(&balancer), [id(0)]);
    let (mut balancer, now) =
        self::balancer(2, OutlierDetection { consecutive_5xx: None, ..article() });
    (0..50).for_each(|_| balancer.report(id(0), &status(503), now));
    assert!(ejected(&balancer).is_empty(), "off");
}

#[test]
fn what_is_not_the_endpoints_does_not_count() {
    let (mut balancer, now) = balancer(2, article());
    for outcome in [
        Outcome::unsent(Failure::Unmet(String::new())),
        Outcome::unsent(Failure::Overflow),
        Outcome::unsent(Failure::Request),
        Outcome::unsent(Failure::Denied),
        Outcome::Late(Late::Client),
        status(401),
        status(403),
        status(429),
    ] {
        (0..20).for_each(|_| balancer.report(id(0), &outcome, now));
        assert!(ejected(&balancer).is_empty(), "{outcome:?}");
    }
}

#[test]
fn named_statuses_count_beside_5xx() {
    let (mut balancer, now) =
        balancer(2, OutlierDetection { http_error_codes: vec![429], ..article() });
    (0..5).for_each(|_| balancer.report(id(0), &status(429), now));
    assert_eq!(ejected(&balancer), [id(0)]);
}

#[test]
fn who_stays_keeps_its_standing_and_who_comes_back_begins_anew() {
    let (mut balancer, now) = balancer(4, article());
    fail(&mut balancer, id(0), 5, now);
    fail(&mut balancer, id(1), 4, now);
    let mut some = endpoints(4);
    some.reverse();
    some.pop();
    let policy = detecting(article());
    // The one that is out leaves.
    balancer.update(view(some.clone(), policy.clone()), now);
    assert!(ejected(&balancer).is_empty());
    fail(&mut balancer, id(1), 1, now);
    assert_eq!(ejected(&balancer), [id(1)], "four before the change, one after it");
    balancer.update(view(endpoints(4), policy), now);
    assert_eq!(ejected(&balancer), [id(1)]);
    assert_eq!(balancer.hosts()[0].id, 5, "a new one");
    // Without detection nobody is out.
    balancer.update(view(endpoints(4), CallPolicy::default()), now);
    assert!(ejected(&balancer).is_empty());
}

#[test]
fn a_day_without_requests_costs_nothing_and_forgives() {
    let detection = OutlierDetection { interval: Duration::from_millis(1), ..article() };
    let (mut balancer, now) = balancer(2, detection);
    fail(&mut balancer, id(0), 5, now);
    let tomorrow = now + Duration::from_secs(86_400);
    balancer.advance(tomorrow);
    assert!(balancer.hosts()[0].standing.is_quiet());
}
