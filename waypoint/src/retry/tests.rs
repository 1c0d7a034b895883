//! Pure: the checklist's lines on retries, as far as they are decisions.
//! Never: a clock.
use http::HeaderValue;

use super::*;

fn rule(on: &[&str]) -> Retry {
    let on = on.iter().map(|word| word.parse().unwrap()).collect();
    Retry { attempts: 3, on, ..Retry::default() }
}

fn plan(on: &[&str]) -> Plan {
    Plan::of(&rule(on), &HeaderMap::new(), Beyond::default())
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let one = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    pairs.iter().map(one).collect()
}

fn answer(status: u16) -> Outcome {
    answer_with(status, &[])
}

fn answer_with(status: u16, pairs: &[(&'static str, &'static str)]) -> Outcome {
    let status = StatusCode::from_u16(status).unwrap();
    Outcome::Answered(Answered::read(
        status,
        &headers(pairs),
        &[HeaderName::from_static("x-again")],
    ))
}

fn failed(failure: Failure) -> Outcome {
    Outcome::Failed { failure, unsent: false }
}

#[test]
fn each_word_has_its_failures() {
    let all = [
        ("500", answer(500)),
        ("502", answer(502)),
        ("503", answer(503)),
        ("504", answer(504)),
        ("409", answer(409)),
        ("400", answer(400)),
        ("404", answer(404)),
        ("429", answer(429)),
        ("200", answer(200)),
        ("grpc 1", answer_with(200, &[("grpc-status", "1")])),
        ("grpc 4", answer_with(200, &[("grpc-status", "4")])),
        ("grpc 8", answer_with(200, &[("grpc-status", "8")])),
        ("grpc 13", answer_with(200, &[("grpc-status", "13")])),
        ("grpc 14", answer_with(200, &[("grpc-status", "14")])),
        ("absent", failed(Failure::Absent(String::new()))),
        ("tls", failed(Failure::Tls("x".into()))),
        ("connect", failed(Failure::Connect("x".into()))),
        ("connect late", failed(Failure::ConnectTimeout)),
        ("denied", failed(Failure::Denied)),
        ("ended", failed(Failure::Terminated)),
        ("ended unsent", Outcome::unsent(Failure::Terminated)),
        ("reset", failed(Failure::Reset)),
        ("refused", failed(Failure::Refused)),
        ("protocol", failed(Failure::Protocol)),
        ("overflow", failed(Failure::Overflow)),
        ("client", failed(Failure::Request)),
        ("try late", Outcome::Late(Late::Try)),
        ("late", Outcome::Late(Late::Request)),
        ("stopped", Outcome::Late(Late::Client)),
        ("cut", Outcome::Cut(Failure::Reset)),
        ("named", answer_with(200, &[("x-again", "1")])),
        ("limited", answer_with(503, &[("x-envoy-ratelimited", "true")])),
    ];
    const SILENCE: &str =
        "absent,tls,connect,connect late,ended,ended unsent,reset,refused,protocol,try late";
    for (word, expected) in [
        ("5xx", format!("500,502,503,504,{SILENCE}")),
        ("gateway-error", format!("502,503,504,{SILENCE}")),
        ("reset", SILENCE.into()),
        ("reset-before-request", "ended unsent".into()),
        ("connect-failure", "absent,tls,connect,connect late".into()),
        ("refused-stream", "refused".into()),
        ("retriable-4xx", "409".into()),
        ("retriable-status-codes", "404".into()),
        ("retriable-headers", "named".into()),
        ("envoy-ratelimited", "limited".into()),
        ("http3-post-connect-failure", String::new()),
        ("cancelled", "grpc 1".into()),
        ("deadline-exceeded", "grpc 4".into()),
        ("resource-exhausted", "grpc 8".into()),
        ("internal", "grpc 13".into()),
        ("unavailable", "grpc 14".into()),
    ] {
        let mut plan = plan(&[word]);
        plan.codes = vec![StatusCode::NOT_FOUND];
        let again = all.iter().filter(|(_, outcome)| plan.next(outcome) == Next::Again);
        let again: Vec<_> = again.map(|(name, _)| *name).collect();
        assert_eq!(again.join(","), expected, "{word}");
    }
}

#[test]
fn attempts_are_counted_and_the_last_is_told() {
    let mut plan = plan(&["5xx"]);
    for _ in 0..3 {
        assert_eq!(plan.next(&answer(500)), Next::Again);
        plan.begin(0);
    }
    assert_eq!(plan.next(&answer(500)), Next::Exhausted);
    assert_eq!(plan.next(&answer(200)), Next::Pass);
    assert_eq!(plan.next(&Outcome::Late(Late::Request)), Next::Pass);
}

#[test]
fn none_are_none() {
    let plan = Plan::of(&Retry::none(), &HeaderMap::new(), Beyond::default());
    assert!(!plan.may_repeat());
    assert_eq!(plan.next(&failed(Failure::Absent(String::new()))), Next::Pass);
}

#[test]
fn istios_default_repeats_what_cannot_have_done_anything() {
    let plan = Plan::of(&Retry::default(), &HeaderMap::new(), Beyond::default());
    let again = |outcome| plan.next(&outcome) == Next::Again;
    assert!(again(failed(Failure::Absent(String::new()))) && again(failed(Failure::Refused)));
    assert!(again(answer_with(200, &[("grpc-status", "14")])));
    assert!(!again(answer(503)) && !again(failed(Failure::Reset)));
    assert!(!again(failed(Failure::Unmet(String::new()))), "it would lack the same again");
    assert!(!again(Outcome::Late(Late::Try)));
}

#[test]
fn what_nobody_listened_for_may_be_repeated_whatever_the_rule_says() {
    let absent = || Failure::Absent(String::new());
    let beyond = Beyond { no_listener: true, ..Beyond::default() };
    for rule in [Retry::none(), rule(&["retriable-4xx"]), Retry::default()] {
        let plan = |pairs: &[_], beyond| Plan::of(&rule, &headers(pairs), beyond);
        let mut with = plan(&[], beyond);
        assert!(with.may_repeat());
        for _ in 0..rule.attempts.max(if rule.attempts == 0 { 2 } else { 0 }) {
            assert_eq!(with.next(&Outcome::unsent(absent())), Next::Again);
            with.begin(0);
        }
        assert_eq!(with.next(&Outcome::unsent(absent())), Next::Exhausted);
        let with = plan(&[], beyond);
        for other in [
            // Somebody may have read of it.
            failed(Failure::Terminated),
            Outcome::unsent(Failure::Denied),
            Outcome::unsent(Failure::Overflow),
            answer(503),
            Outcome::Late(Late::Try),
        ] {
            assert_eq!(with.next(&other), plan(&[], Beyond::default()).next(&other), "{other:?}");
        }
        // A client may ask for none.
        assert!(!plan(&[("x-envoy-max-retries", "0")], beyond).may_repeat());
    }
    let without = Plan::of(&rule(&["retriable-4xx"]), &HeaderMap::new(), Beyond::default());
    assert_eq!(without.next(&Outcome::unsent(absent())), Next::Pass);
}

#[test]
fn the_default_may_be_told_to_repeat_503() {
    let beyond = Beyond { default_503: true, ..Beyond::default() };
    let next =
        |rule: &Retry, status| Plan::of(rule, &HeaderMap::new(), beyond).next(&answer(status));
    assert_eq!(next(&Retry::default(), 503), Next::Again);
    assert_eq!(next(&Retry::default(), 502), Next::Pass);
    assert_eq!(next(&Retry::none(), 503), Next::Pass);
    assert_eq!(next(&rule(&["connect-failure"]), 503), Next::Pass);
}

#[test]
fn a_code_beside_reset_is_that_code_alone() {
    let on = [RetryOn::StatusCodes, RetryOn::Reset].into();
    let rule = Retry { on, codes: vec![StatusCode::SERVICE_UNAVAILABLE], ..Retry::default() };
    let plan = Plan::of(&rule, &HeaderMap::new(), Beyond::default());
    assert_eq!(plan.next(&answer(503)), Next::Again);
    assert_eq!(plan.next(&failed(Failure::Reset)), Next::Again);
    assert_eq!(plan.next(&answer(502)), Next::Pass);
}

#[test]
fn pauses_are_drawn_below_a_bound_that_doubles() {
    for (base, bounds) in
        [(25, [25, 75, 175, 250, 250, 250]), (100, [100, 300, 700, 1000, 1000, 1000])]
    {
        let rule = Retry { backoff: Duration::from_millis(base), ..rule(&["5xx"]) };
        let mut plan = Plan::of(&rule, &HeaderMap::new(), Beyond::default());
        for bound in bounds {
            let bound = Duration::from_millis(bound);
            let at = |drawn| plan.clone().begin(drawn);
            assert_eq!(at(0), Duration::ZERO);
            assert!(at(u32::MAX) < bound && at(u32::MAX) > bound * 99 / 100, "{bound:?}");
            assert_eq!(at(u32::MAX / 2 + 1), bound / 2);
            plan.begin(0);
        }
    }
}

#[test]
fn pauses_are_spread_evenly() {
    // A chi-square of ten parts over what dice with a seed give.
    let mut seed = 7_u32;
    let mut dice = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed
    };
    let mut parts = [0_i64; 10];
    for _ in 0..10_000 {
        let pause = plan(&["5xx"]).begin(dice());
        parts[usize::try_from(pause.as_micros() / 2_500).unwrap()] += 1;
    }
    let chi: i64 = parts.iter().map(|part| (part - 1000).pow(2) / 1000).sum();
    assert!(chi < 27, "{parts:?}");
}

#[test]
fn clients_may_ask_for_more() {
    let asked = |pairs: &[_]| Plan::of(&Retry::none(), &headers(pairs), Beyond::default());
    let plan = asked(&[
        ("x-envoy-retry-on", "5xx, nonsense,retriable-status-codes"),
        ("x-envoy-retriable-status-codes", "404,x"),
    ]);
    assert!(plan.may_repeat());
    assert_eq!((plan.left, plan.next(&answer(404))), (1, Next::Again));
    assert_eq!(plan.next(&answer(500)), Next::Again);
    let plan = asked(&[("x-envoy-retry-grpc-on", "unavailable"), ("x-envoy-max-retries", "7")]);
    assert_eq!(plan.left, 7);
    assert_eq!(
        asked(&[("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "4000000000")]).left,
        MOST_ASKED
    );
    assert!(!asked(&[("x-envoy-max-retries", "7")]).may_repeat());
    let plan =
        Plan::of(&rule(&["5xx"]), &headers(&[("x-envoy-max-retries", "0")]), Beyond::default());
    assert!(!plan.may_repeat());
    let plan = Plan::of(
        &rule(&["retriable-headers"]),
        &headers(&[("x-envoy-retriable-header-names", "x-again, x-b")]),
        Beyond::default(),
    );
    assert_eq!(plan.names().len(), 2);
}
