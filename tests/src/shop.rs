//! Shell: an application of the demo's shop: serves a little HTTP, and calls its neighbours steadily.
//! Prints one JSON line of counters ten times a second. Asked for `/mood/ill` it refuses every other
//! request and lets the others wait; `/mood/well` ends that.
use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::json;

/// Which application, and whom it calls.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Its name.
    #[arg(long)]
    name: String,
    /// Which version of itself it is.
    #[arg(long)]
    version: String,
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// A neighbour, and what to ask it for: `address=/path`. May be given several times.
    #[arg(long, value_name = "ADDRESS=PATH")]
    call: Vec<String>,
}

/// Requests on one connection before the next one is opened.
const REQUESTS_PER_CONNECTION: usize = 5;
/// Pause between two requests to one neighbour.
const PAUSE: Duration = Duration::from_millis(20);
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often counters are printed.
const REPORT: Duration = Duration::from_millis(100);
/// So long an answer takes of one who is ill.
const ILL: Duration = Duration::from_secs(3);

/// How it does.
#[derive(Debug, Default)]
struct Mood {
    ill: AtomicBool,
    asked: AtomicU64,
}

#[derive(Debug, Default)]
struct Counters {
    answered: AtomicU64,
    failed: AtomicU64,
    last_error: Mutex<Option<String>>,
}

/// Serves and calls until it is killed.
///
/// # Errors
/// When it cannot listen, or nobody reads its counters.
pub fn run(arguments: &Arguments) -> Result<()> {
    let listener = TcpListener::bind(arguments.listen).context("listen")?;
    let counters = Arc::new(Counters::default());
    let (name, version) = (arguments.name.clone(), arguments.version.clone());
    thread::spawn(move || serve(&listener, &name, &version));
    for call in &arguments.call {
        let (address, path) = call.split_once('=').context("a call without a path")?;
        let (address, path): (SocketAddr, _) = (address.parse()?, path.to_owned());
        let (counters, name) = (counters.clone(), arguments.name.clone());
        thread::spawn(move || call_steadily(address, &path, &name, &counters));
    }
    loop {
        let error = counters.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let line = json!({
            "answered": counters.answered.load(Ordering::Relaxed),
            "failed": counters.failed.load(Ordering::Relaxed),
            "error": error,
        });
        writeln!(io::stdout(), "{line}")?;
        thread::sleep(REPORT);
    }
}

fn serve(listener: &TcpListener, name: &str, version: &str) {
    let mood = Arc::new(Mood::default());
    for stream in listener.incoming().flatten() {
        let (name, version, mood) = (name.to_owned(), version.to_owned(), mood.clone());
        thread::spawn(move || answer(&stream, (&name, &version), &mood));
    }
}

/// Answers requests until the client leaves.
fn answer(stream: &TcpStream, (name, version): (&str, &str), mood: &Mood) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    while let Some(request) = head(&mut reader)? {
        let what = request.split(' ').nth(1).unwrap_or("/");
        let status = mood.meet(what);
        let body = format!("{name} says: here is {what}\n");
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nx-version: {version}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        writer.write_all(answer.as_bytes())?;
    }
    Ok(())
}

impl Mood {
    /// The status of an answer, when it is due.
    fn meet(&self, what: &str) -> &'static str {
        match what {
            "/mood/ill" => self.ill.store(true, Ordering::Relaxed),
            "/mood/well" => self.ill.store(false, Ordering::Relaxed),
            _ if !self.is_ill() => {}
            _ if self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => {
                return "500 Internal Server Error";
            }
            _ => self.wait(),
        }
        "200 OK"
    }

    fn is_ill(&self) -> bool {
        self.ill.load(Ordering::Relaxed)
    }

    fn wait(&self) {
        let began = Instant::now();
        while self.is_ill() && began.elapsed() < ILL {
            thread::sleep(PAUSE);
        }
    }
}

/// The first line of a message, past its headers; `None` at the end.
fn head(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    Ok(Some(first))
}

fn call_steadily(address: SocketAddr, path: &str, name: &str, counters: &Counters) {
    // Neighbours start at the same time as we do.
    while TcpStream::connect_timeout(&address, PATIENCE).is_err() {
        thread::sleep(PAUSE);
    }
    let mut number = 0_u64;
    loop {
        if let Err(error) = call(address, path, &mut number, counters) {
            counters.failed.fetch_add(1, Ordering::Relaxed);
            let text = format!("{name} to {address}{path}: {error}");
            *counters.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
            thread::sleep(PAUSE);
        }
    }
}

/// A few requests on one connection.
fn call(address: SocketAddr, path: &str, number: &mut u64, counters: &Counters) -> io::Result<()> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut reader, mut writer) = (BufReader::new(&stream), &stream);
    for _ in 0..REQUESTS_PER_CONNECTION {
        *number += 1;
        let request = format!("GET {path}{number} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        writer.write_all(request.as_bytes())?;
        let status = head(&mut reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if !status.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(status));
        }
        let mut body = String::new();
        reader.read_line(&mut body)?;
        counters.answered.fetch_add(1, Ordering::Relaxed);
        thread::sleep(PAUSE);
    }
    Ok(())
}
