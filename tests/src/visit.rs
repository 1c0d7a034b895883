//! Shell: visitors of the demo's shop: ask one service steadily, and count who answers.
//! Prints one JSON line of counters ten times a second.
use std::{
    collections::BTreeMap,
    io::{self, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::http::head;

/// Whom to ask, and as whom.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Address and port of the service.
    #[arg(long)]
    to: SocketAddr,
    /// Name of the service.
    #[arg(long)]
    host: String,
    /// A header of each request: `name: value`.
    #[arg(long)]
    header: Option<String>,
    /// How many visitors ask at the same time.
    #[arg(long, default_value_t = 1)]
    visitors: u8,
}

/// What became of the requests.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Counts {
    /// Answers by the version that gave them.
    pub versions: BTreeMap<String, u64>,
    /// Requests that were not answered as they should be.
    pub failed: u64,
    /// Why the last of those failed.
    pub error: Option<String>,
    /// How many took how long, in milliseconds of two digits, upward.
    pub took: BTreeMap<u64, u64>,
}

impl Counts {
    /// Counts a request that took so long.
    fn add(&mut self, took: Duration) {
        let mut milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let mut unit = 1;
        while milliseconds >= 100 {
            (milliseconds, unit) = (milliseconds.div_ceil(10), unit * 10);
        }
        *self.took.entry(milliseconds * unit).or_default() += 1;
    }

    /// What came after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        fn less<K: Clone + Ord>(
            now: &BTreeMap<K, u64>,
            then: &BTreeMap<K, u64>,
        ) -> BTreeMap<K, u64> {
            let less = |(key, count): (&K, &u64)| {
                (key.clone(), count.saturating_sub(then.get(key).copied().unwrap_or_default()))
            };
            now.iter().map(less).collect()
        }
        Self {
            versions: less(&self.versions, &before.versions),
            failed: self.failed.saturating_sub(before.failed),
            error: self.error.clone(),
            took: less(&self.took, &before.took),
        }
    }

    /// Of a hundred requests 99 took no longer, in milliseconds; `None` of none.
    pub fn p99(&self) -> Option<u64> {
        let all: u64 = self.took.values().sum();
        let mut left = all.saturating_mul(99).div_ceil(100);
        self.took.iter().find_map(|(milliseconds, count)| {
            left = left.saturating_sub(*count);
            (left == 0 && all > 0).then_some(*milliseconds)
        })
    }
}

/// Requests on one connection before the next one is opened.
const REQUESTS_PER_CONNECTION: usize = 5;
/// Pause of one visitor between two requests.
const PAUSE: Duration = Duration::from_millis(20);
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often counters are printed.
const REPORT: Duration = Duration::from_millis(100);
/// Bytes of an answer's body, at most.
const MOST_BODY: usize = 64 * 1024;

/// Asks until it is killed.
///
/// # Errors
/// When nobody reads its counters.
pub fn run(arguments: &Arguments) -> Result<()> {
    let counts = Arc::new(Mutex::new(Counts::default()));
    let header = arguments.header.as_ref().map_or(String::new(), |line| format!("{line}\r\n"));
    let request = format!("GET /offers HTTP/1.1\r\nhost: {}\r\n{header}\r\n", arguments.host);
    for _ in 0..arguments.visitors {
        let (to, request, counts) = (arguments.to, request.clone(), counts.clone());
        thread::spawn(move || visit(to, &request, &counts));
    }
    loop {
        let line = serde_json::to_string(&*counts.lock().unwrap_or_else(PoisonError::into_inner))?;
        writeln!(io::stdout(), "{line}")?;
        thread::sleep(REPORT);
    }
}

fn visit(to: SocketAddr, request: &str, counts: &Mutex<Counts>) {
    loop {
        if let Err(error) = connection(to, request, counts) {
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.failed += 1;
            counts.error = Some(format!("{error:#}"));
            drop(counts);
            thread::sleep(PAUSE);
        }
    }
}

/// A few requests on one connection.
fn connection(to: SocketAddr, request: &str, counts: &Mutex<Counts>) -> Result<()> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).context("connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut reader, mut writer) = (BufReader::new(&stream), &stream);
    for _ in 0..REQUESTS_PER_CONNECTION {
        let asked = Instant::now();
        writer.write_all(request.as_bytes()).context("ask")?;
        let answered = answer(&mut reader);
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.add(asked.elapsed());
        *counts.versions.entry(answered?).or_default() += 1;
        drop(counts);
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// The version that a whole answer tells.
fn answer(reader: &mut BufReader<&TcpStream>) -> Result<String> {
    let (status, headers) = head(reader).context("hear")?.context("closed before the answer")?;
    ensure!(status.starts_with("HTTP/1.1 200"), "{status}");
    let told = |name: &str| headers.get(name).and_then(Value::as_str);
    let length: usize = told("content-length").context("an answer without a length")?.parse()?;
    ensure!(length <= MOST_BODY, "an answer of {length} bytes");
    reader.read_exact(&mut vec![0; length]).context("hear the body")?;
    Ok(told("x-version").context("an answer without a version")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_hundred_the_slowest_but_one_is_told() {
        let mut counts = Counts::default();
        assert_eq!(counts.p99(), None);
        (0..99).for_each(|_| counts.add(Duration::from_millis(7)));
        counts.add(Duration::from_millis(3_021));
        assert_eq!(counts.p99(), Some(7));
        let before = counts.clone();
        (0..2).for_each(|_| counts.add(Duration::from_millis(3_021)));
        assert_eq!((counts.p99(), counts.since(&before).p99()), (Some(3_100), Some(3_100)));
    }
}
