//! Shell: who is left out, when, for how long.
use std::time::{Duration, Instant};

use culvert_agent::clock;

use super::{
    Http, Pair, Setting, Side,
    policies::{Detection, NONE, Policies},
    upstream::Deed::{self, Close, Grpc, Hang, Status},
};

/// The pause between sweeps, and the first time out, where times are measured; milliseconds.
const INTERVAL: u64 = 200;
const BASE: u64 = 600;
/// What a busy machine and the pause between requests may add.
const SLACK: u64 = 250;

fn setting(upstreams: u8, detection: Detection) -> Setting {
    let policies = Policies { retries: NONE, detection: Some(detection), ..Policies::default() };
    Setting { upstreams, policies, ..Setting::default() }
}

fn detection(server: u32) -> Detection {
    Detection { server, ..Detection::default() }
}

/// The first of two endpoints always does this; so many of 24 requests fail until it is left out, or
/// all of its own.
type Row = (Setting, &'static [Deed], usize);

#[tokio::test]
async fn the_same_failures_in_a_row_leave_an_endpoint_out() {
    let two = |detection| setting(2, detection);
    let gateway = Detection { gateway: Some(2), ..detection(0) };
    let local = Detection { local: Some(2), ..detection(0) };
    let absent = |detection| Setting { absent: true, ..two(detection) };
    let late = |detection| {
        let mut setting = two(detection);
        setting.policies.timeout = Some(100);
        setting
    };
    let grpc = |detection| Setting { http: Http::Two, ..two(detection) };
    let rows: &[Row] = &[
        (two(detection(3)), &[Status(500)], 3),
        (two(detection(3)), &[Status(500), Status(503), Status(200)], 8),
        (two(detection(3)), &[Status(404)], 12),
        (two(detection(2)), &[Close], 2),
        (late(detection(2)), &[Hang], 2),
        (absent(detection(2)), &[], 2),
        (two(gateway), &[Status(500)], 12),
        (two(gateway), &[Status(503)], 2),
        (two(gateway), &[Status(502), Status(500)], 12),
        (two(gateway), &[Close], 2),
        (two(local), &[Status(503)], 12),
        // A connection ends a run of those; that it breaks then begins another.
        (two(local), &[Close], 12),
        (absent(local), &[], 2),
        (late(local), &[Hang], 12),
        (two(Detection { local: Some(1), ..local }), &[Close], 1),
        (grpc(detection(2)), &[Status(500)], 2),
        // Too few to be left out: half of one, a tenth of two.
        (two(Detection { most: 10, ..detection(2) }), &[Status(500)], 12),
    ];
    let settings: Vec<_> = rows.iter().map(|(setting, ..)| *setting).collect();
    let pair = Pair::new(&settings).await;
    let pair = &pair;
    let check = async |(number, (setting, deeds, failed)): (usize, &Row)| {
        let seen = pair.both(number, async |side| {
            side.upstreams[0].script.will(deeds.iter().copied().cycle().take(24));
            let statuses = side.statuses(24).await;
            statuses.iter().filter(|status| **status != 200).count()
        });
        let detection = setting.policies.detection;
        let seen = seen.await;
        (seen != [*failed; 2])
            .then(|| format!("{deeds:?} under {detection:?}: {seen:?}, not {failed}\n"))
    };
    let apart = futures_util::future::join_all(rows.iter().enumerate().map(check)).await;
    let apart: String = apart.into_iter().flatten().collect();
    assert!(apart.is_empty(), "Envoy's, Culvert's:\n{apart}");
}

#[tokio::test]
async fn a_call_that_fails_by_its_status_counts_alike() {
    let pair = Pair::new(&[Setting { http: Http::Two, ..setting(2, detection(2)) }]).await;
    let hits = pair.same(0, async |side| {
        side.upstreams[0].script.always(Some(Grpc("14")));
        for _ in 0..24 {
            side.ask_with(&[("content-type", "application/grpc")]).await;
        }
        side.hits()
    });
    assert_eq!(hits.await, [2, 22]);
}

/// How often those are asked that fail always, of so many endpoints.
async fn hits_of(side: &Side<'_>, failing: usize, requests: usize) -> Vec<usize> {
    for upstream in &side.upstreams[..failing] {
        upstream.script.always(Some(Status(500)));
    }
    side.statuses(requests).await;
    let mut hits = side.hits()[..failing].to_vec();
    hits.sort_unstable();
    hits
}

#[tokio::test]
async fn as_many_are_left_out_at_one_time() {
    let tenth = Detection { most: 10, ..detection(2) };
    let settings = [setting(4, detection(3)), setting(10, tenth), setting(5, tenth)];
    let pair = Pair::new(&settings).await;
    // Two of four; then the other two take turns.
    for hits in pair.both(0, async |side| hits_of(side, 3, 80).await).await {
        assert_eq!(hits[..2], [3, 3]);
        assert!((33..=38).contains(&hits[2]), "{hits:?}");
    }
    // One of ten.
    for hits in pair.both(1, async |side| hits_of(side, 2, 60).await).await {
        assert_eq!(hits[0], 2);
        assert!((5..=7).contains(&hits[1]), "{hits:?}");
    }
    // None of five.
    assert_eq!(pair.same(2, async |side| hits_of(side, 1, 50).await).await, [10]);
}

#[tokio::test]
async fn when_all_are_out_the_threshold_decides_alike() {
    let all = Detection { most: 100, ..detection(2) };
    let settings = [setting(1, all), setting(1, Detection { healthy: 30, ..all })];
    let pair = Pair::new(&settings).await;
    for (number, told, hits) in [(0, "503 UH", 2), (1, "500 -", 3)] {
        let seen = pair.same(number, async |side| {
            side.upstreams[0].script.always(Some(Status(500)));
            let first = side.statuses(2).await;
            (first, side.ask().await, side.hits())
        });
        let (first, last, asked) = seen.await;
        assert_eq!((first, asked), (vec![500, 500], vec![hits]));
        assert_eq!(last.short(), told);
    }
}

/// The pauses, longer than half of the first time out, between requests that one endpoint heard.
fn pauses(times: &[Instant]) -> Vec<u64> {
    let pair = times.iter().zip(times.iter().skip(1));
    let pause = |(before, after): (&Instant, &Instant)| {
        let pause = after.saturating_duration_since(*before).as_millis();
        u64::try_from(pause).expect("short")
    };
    pair.map(pause).filter(|pause| *pause > BASE / 2).collect()
}

/// Asks until the first endpoint has heard so many requests.
async fn until(side: &Side<'_>, hits: usize) {
    let start = clock::now();
    while side.hits()[0] < hits {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not return");
        side.status().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn times_out_are_as_long_grow_and_shrink_alike() {
    let short = Detection { interval: INTERVAL, base: BASE, ..detection(1) };
    let pair = Pair::new(&[setting(2, short)]).await;
    let story = async |side: &Side<'_>| {
        let script = &side.upstreams[0].script;
        script.always(Some(Status(500)));
        until(side, 3).await;
        script.always(None);
        until(side, 4).await;
        // So many sweeps, of which each forgives one.
        let well = clock::now();
        while well.elapsed() < Duration::from_millis(6 * INTERVAL) {
            side.status().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        script.always(Some(Status(500)));
        let hits = side.hits()[0];
        until(side, hits + 2).await;
        pauses(&side.upstreams[0].times())
    };
    let [theirs, ours] = pair.both(0, story).await;
    for pauses in [&theirs, &ours] {
        assert_eq!(pauses.len(), 4, "Envoy {theirs:?}, Culvert {ours:?}");
        for (pause, bases) in pauses.iter().zip([1, 2, 3, 1]) {
            let least = bases * BASE;
            assert!((least..=least + INTERVAL + SLACK).contains(pause), "{pauses:?}");
        }
    }
    let apart = theirs.iter().zip(&ours).map(|(theirs, ours)| theirs.abs_diff(*ours));
    assert!(apart.max() <= Some(INTERVAL + SLACK), "Envoy {theirs:?}, Culvert {ours:?}");
}
