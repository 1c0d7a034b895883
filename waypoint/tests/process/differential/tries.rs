//! Shell: what clients see of endpoints that fail, and how often those are asked.
use super::{
    Http, Pair, Setting,
    policies::{Balancer, NONE, Policies, Retries},
    upstream::Deed::{self, Break, Close, Grpc, GrpcLate, Hang, Reset, Say, Status},
};

/// What the endpoint does, one request after the other; what the client is told; how many requests the
/// endpoint has heard.
type Row = (&'static [Deed], &'static str, usize);

/// A service with these retries, and what comes of it.
type Table = (Setting, &'static [Row]);

const GARBAGE: Deed = Say("SSH-2.0-OpenSSH_10.0\r\n\r\n");
const REFUSED: Deed = Reset(h2::Reason::REFUSED_STREAM);
const CANCELLED: Deed = Reset(h2::Reason::CANCEL);
const HALF_A_HEAD: Deed = Say("HTTP/1.1 200 OK\r\ncontent-le");

fn setting(http: Http, retries: Option<Retries>, timeout: Option<u64>) -> Setting {
    let policies = Policies { retries, timeout, ..Policies::default() };
    Setting { http, upstreams: 1, policies, ..Setting::default() }
}

fn on(words: &'static str, attempts: u32) -> Setting {
    setting(Http::One, Some(Retries { attempts, on: words, per_try: None }), None)
}

fn on2(words: &'static str) -> Setting {
    setting(Http::Two, Some(Retries { attempts: 1, on: words, per_try: None }), None)
}

/// Both must tell the client the same, in status, flags, details and body, after the same requests.
async fn check(tables: &[Table]) {
    let settings: Vec<_> = tables.iter().map(|(setting, _)| *setting).collect();
    let pair = Pair::new(&settings).await;
    let mut apart = String::new();
    for (number, (_, rows)) in tables.iter().enumerate() {
        for (deeds, told, hits) in *rows {
            let seen = pair.both(number, async |side| {
                let before = side.hits()[0];
                side.upstreams[0].script.will(deeds.iter().copied());
                (side.ask().await, side.hits()[0] - before)
            });
            let [theirs, ours] = seen.await;
            if ours != theirs || (ours.0.short().as_str(), ours.1) != (*told, *hits) {
                let retries = settings[number].policies.retries;
                apart += &format!(
                    "{deeds:?} under {retries:?}: {told}, {hits} hits\n  Envoy {theirs:?}\n  Culvert {ours:?}\n"
                );
            }
        }
    }
    assert!(apart.is_empty(), "\n{apart}");
}

#[tokio::test]
async fn failures_are_told_and_repeated_alike() {
    let default = setting(Http::One, None, None);
    check(&[
        (
            default,
            &[
                (&[Status(200)], "200 -", 1),
                (&[Status(404)], "404 -", 1),
                (&[Status(500)], "500 -", 1),
                (&[Status(503)], "503 -", 1),
                (&[Close], "503 UC", 1),
                (&[Break], "503 UC", 1),
                (&[GARBAGE], "502 UPE", 1),
                (&[Grpc("14")], "200 -", 2),
                (&[Grpc("1"), Grpc("14")], "200 -", 3),
                (&[Grpc("14"), Grpc("14"), Grpc("14")], "200 URX", 3),
                (&[Grpc("13")], "200 -", 1),
            ],
        ),
        (setting(Http::One, NONE, None), &[(&[Close], "503 UC", 1), (&[Grpc("14")], "200 -", 1)]),
        (
            on("5xx", 2),
            &[
                (&[Status(500), Status(501)], "200 -", 3),
                (&[Status(500), Status(501), Status(502)], "502 URX", 3),
                (&[Close, Break], "200 -", 3),
                (&[Break, Status(503), Close], "503 UC,URX", 3),
                (&[GARBAGE], "200 -", 2),
                (&[HALF_A_HEAD], "200 -", 2),
                (&[Status(404)], "404 -", 1),
                (&[Grpc("14")], "200 -", 1),
            ],
        ),
    ])
    .await;
}

#[tokio::test]
async fn each_word_has_the_same_failures() {
    check(&[
        (
            on("gateway-error", 1),
            &[
                (&[Status(500)], "500 -", 1),
                (&[Status(502)], "200 -", 2),
                (&[Status(503)], "200 -", 2),
                (&[Status(504), Status(500)], "500 -", 2),
                (&[Close], "200 -", 2),
            ],
        ),
        (
            on("reset", 1),
            &[(&[Status(503)], "503 -", 1), (&[Close], "200 -", 2), (&[Break], "200 -", 2)],
        ),
        (on("connect-failure", 1), &[(&[Close], "503 UC", 1)]),
        (
            on("retriable-4xx", 1),
            &[
                (&[Status(409)], "200 -", 2),
                (&[Status(409), Status(409)], "409 URX", 2),
                (&[Status(404)], "404 -", 1),
                (&[Status(429)], "429 -", 1),
            ],
        ),
        (
            on("503,reset", 1),
            &[(&[Status(503)], "200 -", 2), (&[Status(502)], "502 -", 1), (&[Close], "200 -", 2)],
        ),
        (on("404,500", 1), &[(&[Status(404)], "200 -", 2), (&[Status(500)], "200 -", 2)]),
    ])
    .await;
}

/// hyper does not say whether a connection ended within a head or before it.
#[tokio::test]
async fn half_a_head_is_no_http_to_envoy_and_an_end_to_culvert() {
    let pair = Pair::new(&[setting(Http::One, None, None)]).await;
    let seen = pair.both(0, async |side| {
        side.upstreams[0].script.will([HALF_A_HEAD]);
        (side.ask().await.short(), side.hits())
    });
    let [theirs, ours] = seen.await;
    assert_eq!((theirs.0.as_str(), theirs.1), ("502 UPE", vec![1]));
    assert_eq!((ours.0.as_str(), ours.1), ("503 UC", vec![1]));
}

#[tokio::test]
async fn streams_of_http2_fail_and_are_repeated_alike() {
    check(&[
        (
            setting(Http::Two, None, None),
            &[
                (&[Status(503)], "503 -", 1),
                (&[REFUSED], "200 -", 2),
                (&[CANCELLED], "503 UR", 1),
                (&[Close], "503 UC", 1),
                (&[Grpc("14")], "200 -", 2),
                (&[GrpcLate("14")], "200 -", 1),
            ],
        ),
        (on2("reset"), &[(&[REFUSED], "200 -", 2), (&[CANCELLED], "200 -", 2)]),
        (on2("5xx"), &[(&[REFUSED], "200 -", 2), (&[CANCELLED], "200 -", 2)]),
        (on2("deadline-exceeded"), &[(&[Grpc("4")], "200 -", 2), (&[Grpc("14")], "200 -", 1)]),
        (on2("resource-exhausted"), &[(&[Grpc("8")], "200 -", 2)]),
        (on2("internal"), &[(&[Grpc("13")], "200 -", 2), (&[GrpcLate("13")], "200 -", 1)]),
    ])
    .await;
}

#[tokio::test]
async fn silence_ends_alike() {
    let tries = |attempts, on, per_try| Some(Retries { attempts, on, per_try: Some(per_try) });
    check(&[
        (setting(Http::One, NONE, Some(300)), &[(&[Hang], "504 UT", 1)]),
        (
            setting(Http::One, tries(2, "5xx", 300), None),
            &[
                (&[Hang], "200 -", 2),
                (&[Hang, Status(500)], "200 -", 3),
                (&[Hang, Hang, Hang], "504 URX,UT", 3),
            ],
        ),
        (setting(Http::One, tries(2, "connect-failure", 300), None), &[(&[Hang], "504 UT", 1)]),
        // The third is cut by the time for all of them.
        (
            setting(Http::One, tries(3, "5xx", 400), Some(1_100)),
            &[(&[Hang, Hang, Hang], "504 UT", 3)],
        ),
        (setting(Http::Two, NONE, Some(300)), &[(&[Hang], "504 UT", 1)]),
    ])
    .await;
}

#[tokio::test]
async fn nobody_listening_is_told_and_passed_over_alike() {
    let absent = |retries, upstreams| {
        let policies = Policies { retries, ..Policies::default() };
        Setting { upstreams, absent: true, policies, ..Setting::default() }
    };
    let reset = Some(Retries { attempts: 1, on: "reset", per_try: None });
    let pair =
        Pair::new(&[absent(None, 1), absent(NONE, 1), absent(reset, 1), absent(None, 2)]).await;
    for (number, told) in [(0, "503 UF,URX"), (1, "503 UF"), (2, "503 UF,URX")] {
        let seen = pair.same(number, async |side| side.ask().await).await;
        assert_eq!(seen.short(), told, "{number}");
    }
    // Another one is tried.
    let (statuses, hits) = pair.same(3, async |side| (side.statuses(10).await, side.hits())).await;
    assert_eq!((statuses, hits), (vec![200; 10], vec![0, 10]));
}

#[tokio::test]
async fn one_that_always_fails_is_asked_as_often_by_both() {
    let setting = |upstreams, balancer| {
        let retries = Some(Retries { attempts: 1, on: "gateway-error", per_try: None });
        let policies = Policies { retries, balancer, ..Policies::default() };
        Setting { upstreams, policies, ..Setting::default() }
    };
    let settings = [setting(2, Balancer::RoundRobin), setting(4, Balancer::Random)];
    let pair = Pair::new(&settings).await;
    let story = async |side: &super::Side<'_>, count: usize| {
        side.upstreams[0].script.always(Some(Status(503)));
        let mut good = 0;
        for _ in 0..count {
            good += usize::from(side.status().await == 200);
        }
        (good, side.hits())
    };
    // In turn each request but perhaps the first begins with the one that fails.
    for (good, hits) in pair.both(0, async |side| story(side, 20).await).await {
        assert_eq!((good, hits[1]), (20, 20), "{hits:?}");
        assert!((19..=20).contains(&hits[0]), "{hits:?}");
    }
    // At random: within five standard deviations of what dice give.
    for (good, hits) in pair.both(1, async |side| story(side, 400).await).await {
        assert!(good >= 399, "another one is drawn up to five times: {good}");
        assert!(hits[0].abs_diff(100) <= 43, "{hits:?}");
        assert!(hits[1..].iter().all(|hits| hits.abs_diff(133) <= 50), "{hits:?}");
    }
}

#[tokio::test]
async fn a_service_of_which_some_fail_now_and_then_is_seen_alike() {
    let retries = Some(Retries { attempts: 1, on: "5xx", per_try: None });
    let policies = Policies { retries, balancer: Balancer::Random, ..Policies::default() };
    let pair = Pair::new(&[Setting { upstreams: 3, policies, ..Setting::default() }]).await;
    let seen = pair.both(0, async |side| {
        for (upstream, deed) in side.upstreams.iter().zip([Status(500), Close]) {
            let third = [deed, Status(200), Status(200)];
            upstream.script.will(third.into_iter().cycle().take(900));
        }
        let mut good = 0;
        for _ in 0..400 {
            good += usize::from(side.status().await == 200);
        }
        (good, side.hits())
    });
    let [theirs, ours] = seen.await;
    // Of two ninths the second try fails, too, with one in six: 15 in the mean. Five standard deviations.
    assert!(theirs.0.abs_diff(ours.0) <= 27, "Envoy {theirs:?}, Culvert {ours:?}");
    assert!([theirs.0, ours.0].iter().all(|good| (366..400).contains(good)), "{theirs:?} {ours:?}");
    let mut apart = theirs.1.iter().zip(&ours.1).map(|(theirs, ours)| theirs.abs_diff(*ours));
    assert!(apart.all(|apart| apart <= 70), "Envoy {theirs:?}, Culvert {ours:?}");
}
