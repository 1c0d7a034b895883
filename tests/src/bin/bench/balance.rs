//! Shell: what it costs a request that one of many endpoints is chosen for it, and judged by it.
//! Never: endpoints that are asked: nothing here leaves the process.
use std::{
    fmt::Write,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use culvert_waypoint::{
    backend::Algorithm,
    balance::{Balance, Group, Traffic, Wish},
    outcome::Outcome,
};
use e2e::balancing::{BALANCERS, Requests, answered, backend, view};
use http::StatusCode;

/// Endpoints of the backend.
const ENDPOINTS: [usize; 3] = [10, 100, 1_000];
/// Requests between two looks at the clock.
const BATCH: u32 = 1_000;
/// Endpoints that are left out, one after the other, each time by another balancer; the median counts.
const EJECTIONS: usize = 15;

/// How long.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 0.1)]
    secs: f64,
    /// Turns of each measurement; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// One balancer with so many endpoints.
struct Case {
    name: &'static str,
    algorithm: Algorithm,
    count: usize,
    requests: Requests,
    group: Arc<Group>,
    /// Nanoseconds of each turn: the decision alone, as requests do it, and on all processors.
    turns: [Vec<f64>; 3],
}

/// The table.
pub(crate) fn run(arguments: Arguments) -> Result<String> {
    let all = ENDPOINTS.iter().flat_map(|count| BALANCERS.map(|balancer| (balancer, *count)));
    let mut cases: Vec<_> = all.map(|(balancer, count)| Case::new(balancer, count)).collect();
    let time = Duration::from_secs_f64(arguments.secs);
    for round in 1..=arguments.rounds {
        eprintln!("turn {round} of {}", arguments.rounds);
        for case in &mut cases {
            case.turn(time)?;
        }
    }
    let threads = threads();
    let mut text = format!(
        "| endpoints | balancer | pick and report, ns | with lock, clock and dice, ns | on {threads} threads at one time, ns each | the first pick after an ejection, µs |\n\
         |---:|---|---:|---:|---:|---:|\n"
    );
    for case in &mut cases {
        let ejection = case.ejection()?.as_secs_f64() * 1e6;
        let [alone, whole, crowded] = &mut case.turns;
        let (alone, whole, crowded) = (median(alone)?, median(whole)?, median(crowded)?);
        let Case { name, count, .. } = case;
        writeln!(
            text,
            "| {count} | {name} | {alone:.0} | {whole:.0} | {crowded:.0} | {ejection:.1} |"
        )?;
    }
    Ok(text)
}

impl Case {
    fn new((name, algorithm): (&'static str, Algorithm), count: usize) -> Self {
        let requests = Requests::new(&algorithm, count, Instant::now());
        let group = Balance::default().group(&Arc::new(backend()), Traffic::Http);
        group.follow(1, || view(algorithm.clone(), count));
        // The first request works out who is chosen how.
        asking(&group)();
        Self { name, algorithm, count, requests, group, turns: Default::default() }
    }

    fn turn(&mut self, time: Duration) -> Result<()> {
        let [alone, whole, crowded] = &mut self.turns;
        alone.push(cost(time, || self.requests.request()));
        let ask = asking(&self.group);
        whole.push(cost(time, ask));
        let costs = thread::scope(|scope| {
            let one = || scope.spawn(|| cost(time, asking(&self.group)));
            let all: Vec<_> = (0..threads()).map(|_| one()).collect();
            all.into_iter().map(|thread| thread.join().ok()).collect::<Option<Vec<f64>>>()
        });
        let costs = costs.context("a thread failed")?;
        crowded.push(costs.iter().sum::<f64>() / costs.len() as f64);
        ensure!(self.group.look(|balancer| balancer.ejected()) == 0, "none is left out");
        Ok(())
    }

    /// The first pick after one was left out works out anew who is chosen how.
    fn ejection(&self) -> Result<Duration> {
        let mut times = Vec::new();
        for _ in 0..EJECTIONS {
            let mut requests = Requests::new(&self.algorithm, self.count, Instant::now());
            requests.eject();
            ensure!(requests.ejected() == 1, "one is left out");
            let start = Instant::now();
            requests.request();
            times.push(start.elapsed());
        }
        times.sort_unstable();
        times.get(EJECTIONS / 2).copied().context("no ejection")
    }
}

/// A request as the exchange makes it, but for its way to the endpoint.
fn asking(group: &Arc<Group>) -> impl FnMut() {
    let policy = group.look(|balancer| balancer.policy().clone());
    let (group, good): (_, Outcome) = (group.clone(), answered(StatusCode::OK));
    let mut wish = Wish::default();
    move || {
        wish.key = Some(wish.key.unwrap_or_default().wrapping_add(0x9E37_79B9_7F4A_7C15));
        if let Some(ticket) = group.pick(&policy, &wish) {
            ticket.begin();
            ticket.report(&good);
        }
    }
}

/// Nanoseconds for each.
fn cost(time: Duration, mut work: impl FnMut()) -> f64 {
    let (start, mut done) = (Instant::now(), 0.0);
    while start.elapsed() < time {
        (0..BATCH).for_each(|_| work());
        done += f64::from(BATCH);
    }
    start.elapsed().as_secs_f64() * 1e9 / done
}

fn median(turns: &mut [f64]) -> Result<f64> {
    turns.sort_by(f64::total_cmp);
    turns.get(turns.len() / 2).copied().context("no turn")
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}
