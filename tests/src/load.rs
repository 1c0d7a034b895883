//! Shell: load for benches and the demo: ping-pong, connection rate, bulk streams, held connections.
//! A thread per connection and blocking sockets, so that its own cost is the same under every data
//! plane. Prints one JSON line.
use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use serde_json::{Value, json};

/// What to do, to whom, how much.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The kind of load.
    shape: Shape,
    /// Where the server is.
    #[arg(long)]
    addr: SocketAddr,
    /// Connections at one time.
    #[arg(long, default_value_t = 1)]
    conns: usize,
    /// Seconds.
    #[arg(long, default_value_t = 3.0)]
    secs: f64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 128)]
    size: usize,
    /// Messages per second over all connections; 0 means as fast as it goes.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Download instead of upload.
    #[arg(long)]
    down: bool,
    /// One connection more, that downloads and is not counted.
    #[arg(long)]
    beside: Option<Reader>,
}

/// How a connection reads that is not counted.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Reader {
    /// As fast as it can.
    Busy,
    /// A little, ten times a second.
    Slow,
    /// Never.
    Stalled,
}

/// Kinds of load.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    /// Serve all the others.
    Server,
    /// Messages to and fro on open connections.
    Pingpong,
    /// New connections, one message each.
    Rate,
    /// New connections that nobody uses: each is closed by its server.
    Connect,
    /// Bytes in bulk.
    Stream,
    /// Idle connections.
    Hold,
}

/// The first byte of a connection says what the server is to do.
const ECHO: u8 = b'E';
const SINK: u8 = b'S';
const FLOOD: u8 = b'G';
const ONCE: u8 = b'1';
const CHUNK: usize = 256 << 10;
const WARM_UP: usize = 20;
/// So long it takes until all buffers before a reader that does not read are full.
const FULL: Duration = Duration::from_millis(500);

/// Does it.
///
/// # Errors
/// When the server cannot listen.
pub fn run(arguments: &Arguments) -> Result<()> {
    let _beside = arguments.beside.map(|reader| begin(reader, arguments.addr)).transpose()?;
    let report = match arguments.shape {
        Shape::Server => return server(arguments.addr),
        Shape::Pingpong => timed(arguments, "pingpong", pingpong)?,
        Shape::Rate => timed(arguments, "rate", rate)?,
        Shape::Connect => timed(arguments, "connect", connections)?,
        Shape::Stream => stream(arguments)?,
        Shape::Hold => return hold(arguments),
    };
    writeln!(io::stdout(), "{report}")?;
    Ok(())
}

fn server(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    writeln!(io::stdout(), "listening on {address}")?;
    for stream in listener.incoming().flatten() {
        let serving = thread::Builder::new().stack_size(64 << 10);
        let _ = serving.spawn(move || serve(stream));
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut mode = [0];
    stream.read_exact(&mut mode)?;
    let mut buffer = vec![0; if mode[0] == ECHO { 16 << 10 } else { CHUNK }];
    match mode[0] {
        ECHO => loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                read => stream.write_all(&buffer[..read])?,
            }
        },
        SINK => {
            let mut total = 0_u64;
            loop {
                match stream.read(&mut buffer)? {
                    0 => return stream.write_all(&total.to_be_bytes()),
                    read => total += read as u64,
                }
            }
        }
        ONCE => {
            let read = stream.read(&mut buffer)?;
            stream.write_all(&buffer[..read])
        }
        _ => loop {
            stream.write_all(&buffer)?;
        },
    }
}

fn connect(address: SocketAddr, mode: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(&[mode])?;
    Ok(stream)
}

/// Runs one worker per connection and reports their latencies.
fn timed(
    arguments: &Arguments,
    kind: &str,
    worker: fn(&Arguments, &mut Vec<u32>) -> u64,
) -> Result<Value> {
    let start = Instant::now();
    let work = |_| {
        let arguments = arguments.clone();
        thread::spawn(move || {
            let mut latencies = Vec::new();
            let errors = worker(&arguments, &mut latencies);
            (latencies, errors)
        })
    };
    let workers: Vec<_> = (0..arguments.conns).map(work).collect();
    let (mut all, mut errors) = (Vec::new(), 0);
    for worker in workers {
        let (latencies, failed) = worker.join().map_err(|_| anyhow!("a worker panicked"))?;
        all.extend(latencies);
        errors += failed;
    }
    let seconds = start.elapsed().as_secs_f64();
    all.sort_unstable();
    let quantile = |q: f64| {
        let at = (all.len() as f64 * q) as usize;
        all.get(at.min(all.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    Ok(json!({
        "kind": kind, "conns": arguments.conns, "size": arguments.size, "n": all.len(),
        "per_s": all.len() as f64 / seconds, "p50_us": quantile(0.5), "p90_us": quantile(0.9),
        "p99_us": quantile(0.99), "errors": errors,
    }))
}

fn pingpong(arguments: &Arguments, latencies: &mut Vec<u32>) -> u64 {
    let turns = || -> io::Result<()> {
        let mut stream = connect(arguments.addr, ECHO)?;
        let (out, mut back) = (vec![7; arguments.size], vec![0; arguments.size]);
        for _ in 0..WARM_UP {
            stream.write_all(&out)?;
            stream.read_exact(&mut back)?;
        }
        let gap = (arguments.rate > 0.0)
            .then(|| Duration::from_secs_f64(arguments.conns as f64 / arguments.rate));
        let start = Instant::now();
        let mut due = start;
        while start.elapsed().as_secs_f64() < arguments.secs {
            if let Some(gap) = gap {
                due += gap;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let sent = Instant::now();
            stream.write_all(&out)?;
            stream.read_exact(&mut back)?;
            latencies.push(micros(sent));
        }
        Ok(())
    };
    let mut turns = turns;
    u64::from(turns().is_err())
}

fn rate(arguments: &Arguments, latencies: &mut Vec<u32>) -> u64 {
    let once = || -> io::Result<()> {
        let mut stream = connect(arguments.addr, ONCE)?;
        let mut byte = [0];
        stream.write_all(b"x")?;
        stream.read_exact(&mut byte)?;
        // The server closes first and keeps the waiting port (TIME_WAIT): a client that kept it
        // would run out of ports, and measure nothing else.
        let _ = stream.read(&mut byte)?;
        Ok(())
    };
    let start = Instant::now();
    let mut errors = 0;
    while start.elapsed().as_secs_f64() < arguments.secs {
        let began = Instant::now();
        match once() {
            Ok(()) => latencies.push(micros(began)),
            Err(_) => errors += 1,
        }
    }
    errors
}

/// Opens `--rate` connections per second, and catches up when it falls behind.
fn connections(arguments: &Arguments, latencies: &mut Vec<u32>) -> u64 {
    let once = || -> io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&arguments.addr, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // A reset is how a server ends it that will not wait.
        match stream.read(&mut [0]) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    };
    let gap = (arguments.rate > 0.0)
        .then(|| Duration::from_secs_f64(arguments.conns as f64 / arguments.rate));
    let start = Instant::now();
    let (mut due, mut errors) = (start, 0);
    while start.elapsed().as_secs_f64() < arguments.secs {
        if let Some(gap) = gap {
            due += gap;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let began = Instant::now();
        match once() {
            Ok(()) => latencies.push(micros(began)),
            Err(_) => errors += 1,
        }
    }
    errors
}

fn stream(arguments: &Arguments) -> Result<Value> {
    let (stop, total) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let work = |_| {
        let (arguments, stop, total) = (arguments.clone(), stop.clone(), total.clone());
        thread::spawn(move || {
            let moved = if arguments.down {
                download(arguments.addr, &stop, &total)
            } else {
                upload(arguments.addr, &stop, &total)
            };
            u64::from(moved.is_err())
        })
    };
    let start = Instant::now();
    let workers: Vec<_> = (0..arguments.conns).map(work).collect();
    thread::sleep(Duration::from_secs_f64(arguments.secs));
    stop.store(true, Ordering::Relaxed);
    let mut errors = 0;
    for worker in workers {
        errors += worker.join().map_err(|_| anyhow!("a worker panicked"))?;
    }
    let (seconds, bytes) = (start.elapsed().as_secs_f64(), total.load(Ordering::Relaxed));
    Ok(json!({
        "kind": "stream", "down": arguments.down, "conns": arguments.conns, "bytes": bytes,
        "gbit_s": bytes as f64 * 8e-9 / seconds, "errors": errors,
    }))
}

/// Only what the far end says it read counts.
fn upload(address: SocketAddr, stop: &AtomicBool, total: &AtomicU64) -> io::Result<()> {
    let mut stream = connect(address, SINK)?;
    let (buffer, mut sent) = (vec![9; CHUNK], 0);
    while !stop.load(Ordering::Relaxed) {
        sent += stream.write(&buffer)? as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    let read = u64::from_be_bytes(answer);
    total.fetch_add(read, Ordering::Relaxed);
    if read == sent { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn download(address: SocketAddr, stop: &AtomicBool, total: &AtomicU64) -> io::Result<()> {
    let mut stream = connect(address, FLOOD)?;
    let mut buffer = vec![0; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => total.fetch_add(read as u64, Ordering::Relaxed),
        };
    }
    Ok(())
}

/// Begins a download that lasts as long as the process.
fn begin(reader: Reader, address: SocketAddr) -> io::Result<TcpStream> {
    let stream = connect(address, FLOOD)?;
    let mut reading = stream.try_clone()?;
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while !matches!(reader, Reader::Stalled) && reading.read(&mut buffer).is_ok_and(|n| n > 0) {
            if matches!(reader, Reader::Slow) {
                thread::sleep(Duration::from_millis(100));
            }
        }
    });
    thread::sleep(FULL);
    Ok(stream)
}

/// Opens connections, says so, and keeps them for a while.
fn hold(arguments: &Arguments) -> Result<()> {
    let once = || -> io::Result<TcpStream> {
        let mut stream = connect(arguments.addr, ECHO)?;
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        Ok(stream)
    };
    let open: Vec<_> = (0..arguments.conns).map(|_| once()).collect();
    let errors = open.iter().filter(|stream| stream.is_err()).count();
    let report = json!({ "kind": "hold", "open": open.len() - errors, "errors": errors });
    writeln!(io::stdout(), "{report}")?;
    thread::sleep(Duration::from_secs_f64(arguments.secs));
    Ok(())
}

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}
