//! Shell: the load: requests through tunnels to a waypoint, and what came of them, as one line of JSON.
//! Never: counts an answer that is not the one that the rules ask for: the first such ends the load.
use std::{
    io::{BufRead, Write},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use culvert_agent::{
    drain::Drain,
    hbone::{
        Authority, ConnectHead, TraceParent,
        pool::{Pool, PoolKey, PoolLimits},
    },
    identity::Credentials,
    workers::here,
};
use culvert_waypoint::listener::TunnelStream;
use h2::client::SendRequest;
use http::Request;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use super::{
    ACCOUNT, BODY, CLIENT, VERSION, WAYPOINT, credentials, http1, identity, latency,
    rules::{Http, PATH},
};

/// TLS connections to the waypoint.
const CONNECTIONS: usize = 8;
/// Requests that are open at one time on each of them.
const EACH: usize = 4;
/// Requests of each worker before anything counts.
const WARM_UP: usize = 20;
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// What clients and their tracing usually send beside.
const HEADERS: [(&str, &str); 5] = [
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-US,en;q=0.5"),
    ("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"),
    ("x-user", "4711"),
];

/// What to ask, whom, how much.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The file of the certificate authority.
    #[arg(long)]
    ca: PathBuf,
    /// The client's own address.
    #[arg(long)]
    source: IpAddr,
    /// Where the waypoint takes tunnels.
    #[arg(long)]
    to: SocketAddr,
    /// The service.
    #[arg(long)]
    service: SocketAddr,
    #[arg(long)]
    http: Http,
    /// Who must answer; whoever, if it is not said.
    #[arg(long)]
    expect: Option<String>,
    #[arg(long)]
    secs: f64,
    /// Requests a second; 0 means as fast as answers come.
    #[arg(long)]
    rate: f64,
}

/// When a worker sends its next request.
enum Pace {
    /// After the answer to the last one, until then.
    Closed(Instant),
    /// When it is due, whatever became of the last one.
    Open(UnboundedReceiver<Instant>),
}

impl Pace {
    /// Waits until then. The moment that the request is late since; `None` after the last one.
    async fn next(&mut self) -> Option<Instant> {
        match self {
            Self::Closed(until) => Some(Instant::now()).filter(|now| now < until),
            Self::Open(due) => due.recv().await,
        }
    }
}

/// Connects, says `ready`, waits for a line, and puts the load on.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(load(arguments))
}

async fn load(arguments: &Arguments) -> Result<()> {
    let mut workers = Vec::new();
    for _ in 0..CONNECTIONS {
        workers.extend(connection(arguments).await?);
    }
    for worker in &mut workers {
        for _ in 0..WARM_UP {
            worker.ask(arguments.expect.as_deref()).await?;
        }
    }
    writeln!(std::io::stdout(), "ready")?;
    std::io::stdin().lock().read_line(&mut String::new())?;
    let start = Instant::now();
    let paces = paces(arguments, start, workers.len());
    let mut tasks = Vec::new();
    for (worker, pace) in workers.into_iter().zip(paces) {
        tasks.push(tokio::spawn(worker.work(pace, arguments.expect.clone())));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let seconds = start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let report = json!({
        "n": latencies.len(), "per_s": latencies.len() as f64 / seconds,
        "p50_us": latency::percentile(&latencies, 0.5),
        "p99_us": latency::percentile(&latencies, 0.99),
        "max_us": latencies.last(),
    });
    Ok(writeln!(std::io::stdout(), "{report}")?)
}

fn paces(arguments: &Arguments, start: Instant, workers: usize) -> Vec<Pace> {
    if arguments.rate == 0.0 {
        let until = start + Duration::from_secs_f64(arguments.secs);
        return (0..workers).map(|_| Pace::Closed(until)).collect();
    }
    let (senders, paces): (Vec<_>, Vec<_>) = (0..workers)
        .map(|_| unbounded_channel())
        .map(|(sender, due)| (sender, Pace::Open(due)))
        .unzip();
    let (rate, secs) = (arguments.rate, arguments.secs);
    // A thread of its own sleeps more precisely than the runtime's timer.
    thread::spawn(move || pace(&senders, (rate, secs), start));
    paces
}

/// Says to workers in turn when a request is due.
fn pace(workers: &[UnboundedSender<Instant>], (rate, secs): (f64, f64), start: Instant) {
    let all = (rate * secs) as u64;
    for (number, worker) in (0..all).zip(workers.iter().cycle()) {
        let due = start + latency::due(number, rate);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // Fails only when the worker failed, which its task says.
        let _ = worker.send(due);
    }
}

/// One TLS connection with its requests: as many tunnels for HTTP/1.1, one for HTTP/2.
async fn connection(arguments: &Arguments) -> Result<Vec<Worker>> {
    let drain = Drain::default();
    let limits = PoolLimits { connections: 1, idle: Duration::from_secs(3600) };
    let pool = Pool::new(limits, drain.clone());
    let credentials = Arc::new(credentials(&arguments.ca, CLIENT)?);
    let mut workers = Vec::new();
    match arguments.http {
        Http::One => {
            for _ in 0..EACH {
                let stream = tunnel(arguments, &pool, &credentials).await?;
                let asked = request(arguments.service);
                workers.push(Worker::One { stream, asked, buffer: BytesMut::new() });
            }
        }
        Http::Two => {
            let stream = tunnel(arguments, &pool, &credentials).await?;
            let (sender, connection) = h2::client::handshake(stream).await?;
            // How it ended, its requests say.
            drain.spawn(async move { drop(connection.await) });
            let asked = head(arguments.service)?;
            for _ in 0..EACH {
                workers.push(Worker::Two { sender: sender.clone(), asked: asked.clone() });
            }
        }
    }
    Ok(workers)
}

async fn tunnel(
    arguments: &Arguments,
    pool: &Pool,
    credentials: &Arc<Credentials>,
) -> Result<TunnelStream> {
    let Arguments { source, to, service, .. } = *arguments;
    let key = PoolKey {
        own: identity(CLIENT)?,
        source,
        address: to,
        expected: vec![identity(WAYPOINT)?],
        worker: here(),
    };
    let head = ConnectHead {
        authority: Authority::from(service),
        forwarded: None,
        baggage: None,
        trace: TraceParent::new([1, 2, 3]),
    };
    let dial = || async move {
        let stream = TcpSocket::new_v4()?.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    let opened = pool.open(&key, credentials, &head, dial).await;
    Ok(opened.with_context(|| format!("a tunnel through {to} to {ACCOUNT}"))?.tunnel.into())
}

/// One request after the other.
enum Worker {
    One { stream: TunnelStream, asked: Arc<[u8]>, buffer: BytesMut },
    Two { sender: SendRequest<bytes::Bytes>, asked: Request<()> },
}

impl Worker {
    async fn work(mut self, mut pace: Pace, expect: Option<String>) -> Result<Vec<u32>> {
        let mut latencies = Vec::new();
        while let Some(since) = pace.next().await {
            let asked = tokio::time::timeout(PATIENCE, self.ask(expect.as_deref()));
            asked.await.context("no answer")??;
            let took = since.elapsed().as_micros();
            latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
        }
        Ok(latencies)
    }

    /// Sends a request, reads its answer to the end, and looks whether it is the right one.
    async fn ask(&mut self, expect: Option<&str>) -> Result<()> {
        let (status, version, length) = match self {
            Self::One { stream, asked, buffer } => {
                stream.write_all(asked).await?;
                stream.flush().await?;
                let head = whole(stream, buffer).await?;
                (head.status, head.version, head.body)
            }
            Self::Two { sender, asked } => {
                let mut ready = sender.clone().ready().await?;
                let answer = ready.send_request(asked.clone(), true)?.0.await?;
                let (head, mut body) = answer.into_parts();
                let mut length = 0;
                while let Some(piece) = body.data().await {
                    let piece = piece?;
                    length += piece.len();
                    body.flow_control().release_capacity(piece.len())?;
                }
                let version = head.headers.get(VERSION).and_then(|version| version.to_str().ok());
                (head.status.as_u16(), version.unwrap_or("-").to_owned(), length)
            }
        };
        if status == 200 && length == BODY && expect.is_none_or(|expected| expected == version) {
            return Ok(());
        }
        bail!("status {status} with {length} bytes of {version} instead of 200 of {expect:?}")
    }
}

/// Reads a whole answer, with its body.
async fn whole(stream: &mut TunnelStream, buffer: &mut BytesMut) -> Result<http1::Head> {
    loop {
        let head = http1::head(buffer).map_err(anyhow::Error::msg)?;
        if let Some(head) = head.filter(|head| buffer.len() >= head.head + head.body) {
            buffer.advance(head.head + head.body);
            ensure!(buffer.is_empty(), "bytes behind the answer");
            return Ok(head);
        }
        ensure!(stream.read_buf(buffer).await? > 0, "the connection ended");
    }
}

fn request(service: SocketAddr) -> Arc<[u8]> {
    let mut text = format!("GET {PATH} HTTP/1.1\r\nhost: {service}\r\n");
    for (name, value) in HEADERS {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n").into_bytes().into()
}

fn head(service: SocketAddr) -> Result<Request<()>> {
    let mut request = Request::get(format!("http://{service}{PATH}"));
    for (name, value) in HEADERS {
        request = request.header(name, value);
    }
    Ok(request.body(())?)
}
