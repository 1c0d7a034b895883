//! Shell: what is refused when too much is under way.
use std::time::Duration;

use futures_util::future::join_all;

use super::{
    Pair, Setting, Side, Told,
    policies::{NONE, Policies, Pool, Retries},
    upstream::Deed::Late,
};

/// Between clients; what they ask for takes longer than all of them.
const PAUSE: Duration = Duration::from_millis(30);
const WORK: u64 = 500;

fn setting(pool: Pool, retries: Option<Retries>) -> Setting {
    Setting {
        upstreams: 1,
        policies: Policies { retries, pool, ..Policies::default() },
        ..Setting::default()
    }
}

/// What so many clients are told who ask at one time, in an order of its own. They come one shortly after
/// the other, so that a connection is there before the next one asks.
async fn at_once(side: &Side<'_>, clients: u32) -> Vec<Told> {
    let client = async |number| {
        tokio::time::sleep(PAUSE * number).await;
        side.ask().await
    };
    let mut told: Vec<_> = join_all((0..clients).map(client)).await;
    told.sort();
    told
}

fn short(told: &[Told]) -> Vec<String> {
    told.iter().map(Told::short).collect()
}

#[tokio::test]
async fn connections_and_those_who_wait_are_limited_alike() {
    let pool = Pool { connections: Some(2), pending: Some(1), ..Pool::default() };
    let pair = Pair::new(&[setting(pool, NONE)]).await;
    let told = pair.same(0, async |side| {
        side.upstreams[0].script.always(Some(Late(WORK, 200)));
        let told = at_once(side, 6).await;
        (told, side.hits())
    });
    let (told, hits) = told.await;
    assert_eq!(short(&told), ["200 -", "200 -", "200 -", "503 UO", "503 UO", "503 UO"]);
    assert_eq!(hits, [3]);
}

#[tokio::test]
async fn requests_under_way_are_limited_alike() {
    let pool = Pool { requests: Some(3), ..Pool::default() };
    let pair = Pair::new(&[setting(pool, NONE), setting(pool, None)]).await;
    for number in 0..2 {
        let told = pair.same(number, async |side| {
            side.upstreams[0].script.always(Some(Late(WORK, 200)));
            let told = at_once(side, 5).await;
            (told, side.hits())
        });
        let (told, hits) = told.await;
        assert_eq!(short(&told), ["200 -", "200 -", "200 -", "503 UO", "503 UO"]);
        assert_eq!(hits, [3]);
    }
}

#[tokio::test]
async fn a_refusal_for_want_of_room_reads_alike() {
    let pool = Pool { requests: Some(1), ..Pool::default() };
    let pair = Pair::new(&[setting(pool, None)]).await;
    let refused = pair.same(0, async |side| {
        side.upstreams[0].script.always(Some(Late(WORK, 200)));
        at_once(side, 2).await.remove(1)
    });
    let refused = refused.await;
    assert_eq!((refused.short().as_str(), refused.overloaded), ("503 UO", true));
}

#[tokio::test]
async fn retries_under_way_are_limited_alike() {
    let pool = Pool { retries: Some(1), ..Pool::default() };
    let retries = Some(Retries { attempts: 1, on: "5xx", per_try: None });
    let pair = Pair::new(&[setting(pool, retries)]).await;
    let told = pair.same(0, async |side| {
        // The one retry is under way while the others are judged.
        side.upstreams[0].script.will([Late(WORK, 503); 4]);
        side.upstreams[0].script.always(Some(Late(WORK, 200)));
        let told = at_once(side, 4).await;
        (told, side.hits())
    });
    let (told, hits) = told.await;
    assert_eq!(short(&told), ["200 -", "503 UO", "503 UO", "503 UO"]);
    assert_eq!(hits, [5]);
}
