//! Shell: which endpoint takes a request.
use futures_util::future::join_all;

use super::{
    Pair, Setting, Side,
    policies::{Balancer, Policies},
    upstream::Deed::Late,
};

fn setting(balancer: Balancer, upstreams: u8, shared: bool) -> Setting {
    let policies = Policies { balancer, ..Policies::default() };
    Setting { upstreams, shared, policies, ..Setting::default() }
}

/// So many requests, one after the other, all answered.
async fn requests(side: &Side<'_>, count: usize) {
    for _ in 0..count {
        assert_eq!(side.status().await, 200);
    }
}

#[tokio::test]
async fn requests_are_spread_alike() {
    let settings = [setting(Balancer::RoundRobin, 4, false), setting(Balancer::Random, 4, false)];
    let pair = Pair::new(&settings).await;
    let story = async |side: &Side<'_>| {
        requests(side, 400).await;
        side.hits()
    };
    assert_eq!(pair.same(0, story).await, [100; 4]);
    for hits in pair.both(1, story).await {
        // Five standard deviations.
        assert!(hits.iter().all(|hits| hits.abs_diff(100) <= 43), "{hits:?}");
    }
}

#[tokio::test]
async fn one_that_is_slow_gets_as_little_from_both() {
    let pair = Pair::new(&[setting(Balancer::LeastRequest, 3, false)]).await;
    let hits = pair.both(0, async |side| {
        side.upstreams[0].script.always(Some(Late(40, 200)));
        join_all((0..8).map(|_| requests(side, 40))).await;
        side.hits()
    });
    let [theirs, ours] = hits.await;
    for hits in [&theirs, &ours] {
        assert!(hits[0] < 75, "less than a turn each would give it: {hits:?}");
    }
    assert!(theirs[0].abs_diff(ours[0]) <= 40, "Envoy {theirs:?}, Culvert {ours:?}");
}

/// Whom each of 40 keys leads to.
async fn places(side: &Side<'_>, hits: impl Fn() -> Vec<usize>) -> Vec<usize> {
    let mut places = Vec::new();
    for key in 0..40 {
        let before = hits();
        let answer = side.send("/", &[("x-key", &format!("user-{key}"))]).await;
        let after = hits();
        let place = before.iter().zip(&after).position(|(before, after)| before != after);
        places.push(place.unwrap_or_else(|| panic!("nobody is asked: {answer:?}")));
    }
    places
}

#[tokio::test]
async fn a_key_leads_to_the_same_endpoint() {
    let settings = [setting(Balancer::Ring, 5, true), setting(Balancer::Maglev, 5, true)];
    let pair = Pair::new(&settings).await;
    for (number, setting) in settings.iter().enumerate() {
        let [envoy, culvert] = pair.sides(number);
        // Both have the endpoints of the first.
        let theirs = places(&envoy, || envoy.hits()).await;
        let ours = places(&culvert, || envoy.hits()).await;
        assert_eq!(ours, theirs, "{:?}", setting.policies.balancer);
        let used = (0..5).filter(|place| ours.contains(place)).count();
        assert!(used >= 4, "{ours:?}");
    }
}
