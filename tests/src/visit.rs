//! Shell: visitors of the demo's shop: ask one service steadily, and count who answers.
//! Prints one JSON line of counters ten times a second.
use std::{
    collections::BTreeMap,
    io::{self, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
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
        writer.write_all(request.as_bytes()).context("ask")?;
        let version = answer(&mut reader)?;
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.versions.entry(version).or_default() += 1;
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
