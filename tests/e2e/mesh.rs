//! What most promises start from: two nodes, an agent on each, a client here and a server there.
use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use e2e::{Agent, Factory, Lab, Pod, lab::PodSpec, until};
use socket2::SockRef;

/// Fields are dropped in this order: agents first, the lab last.
pub(crate) struct Mesh {
    pub(crate) a1: Agent,
    pub(crate) a2: Agent,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) lab: Lab,
}

impl Mesh {
    pub(crate) fn new() -> Result<Self> {
        Self::with("")
    }

    /// With more lines in the agents' configuration.
    pub(crate) fn with(extra: &str) -> Result<Self> {
        let lab = Lab::new(2)?;
        lab.namespace("shop", true)?;
        let client = pod(&lab, 1, "client")?;
        let server = pod(&lab, 2, "server")?;
        let (a1, a2) = (lab.agent_with(1, extra)?, lab.agent_with(2, extra)?);
        Ok(Self { a1, a2, client, server, lab })
    }

    /// A connection from client to server, both ends of it.
    pub(crate) fn connection(&self, port: u16) -> Result<(TcpStream, TcpStream)> {
        let listener = self.server.inside.listen(self.server.at(port))?;
        let (near, far, _) = joined(&listener, &self.client.inside, self.server.at(port))?;
        Ok((near, far))
    }
}

/// A pod of the namespace `shop`, with a service account of its own.
pub(crate) fn pod(lab: &Lab, node: usize, name: &str) -> Result<Pod> {
    let labels = [("app", name)];
    lab.pod(node, &PodSpec { name, namespace: "shop", account: name, labels: &labels })
}

/// A pod that the cluster knows and the mesh does not.
pub(crate) fn unmeshed(lab: &Lab, node: usize, name: &str) -> Result<Pod> {
    let labels = [("istio.io/dataplane-mode", "none")];
    lab.pod(node, &PodSpec { name, namespace: "shop", account: name, labels: &labels })
}

/// Connects and accepts; and whom the application took for its client.
pub(crate) fn joined(
    listener: &TcpListener,
    client: &Factory,
    to: SocketAddr,
) -> Result<(TcpStream, TcpStream, SocketAddr)> {
    let near = client.connect(to).context("connect")?;
    let (far, peer) = listener.accept().context("accept")?;
    far.set_read_timeout(Some(e2e::factory::PATIENCE))?;
    Ok((near, far, peer))
}

/// Sends `bytes` one way and sees them arrive.
pub(crate) fn say(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    from.write_all(bytes)?;
    let mut heard = vec![0; bytes.len()];
    to.read_exact(&mut heard)?;
    anyhow::ensure!(heard == bytes, "other bytes arrived");
    Ok(())
}

/// Ends one direction of a connection, and sees that the other goes on.
pub(crate) fn ends_alone((mut first, mut second): (TcpStream, TcpStream)) -> Result<()> {
    first.write_all(b"the last of mine")?;
    first.shutdown(Shutdown::Write)?;
    let mut heard = String::new();
    second.read_to_string(&mut heard)?;
    anyhow::ensure!(heard == "the last of mine", "heard {heard:?}");
    say(&mut second, &mut first, b"but I have more to say")?;
    drop(second);
    anyhow::ensure!(first.read(&mut [0; 8])? == 0, "bytes after the end");
    Ok(())
}

/// Resets a connection, and sees that the other side is reset.
pub(crate) fn resets((mut first, mut second): (TcpStream, TcpStream)) -> Result<()> {
    say(&mut first, &mut second, b"hello")?;
    SockRef::from(&first).set_linger(Some(Duration::ZERO))?;
    drop(first);
    match second.read(&mut [0; 8]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => anyhow::bail!("not a reset but {other:?}"),
    }
}

/// Writes to somebody who does not read, until nothing more is taken.
pub(crate) fn stalls(stalled: &mut TcpStream) -> Result<()> {
    stalled.set_write_timeout(Some(Duration::from_millis(500)))?;
    let chunk = vec![7; 1 << 20];
    let full = (0..64).find_map(|_| stalled.write_all(&chunk).err());
    anyhow::ensure!(full.map(|error| error.kind()) == Some(ErrorKind::WouldBlock), "never full");
    Ok(())
}

/// Says everything back, on each connection that comes.
pub(crate) fn echo(listener: TcpListener) {
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || echo_one(stream));
        }
    });
}

fn echo_one(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read])?,
        }
    }
}

/// Steady traffic: each worker keeps one connection busy and opens others beside it.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    turns: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    pub(crate) fn start(client: &Arc<Factory>, to: SocketAddr, workers: usize) -> Result<Self> {
        let (stop, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let worker = |_| {
            let (client, stop, turns) = (client.clone(), stop.clone(), turns.clone());
            thread::spawn(move || work(&client, to, &stop, &turns))
        };
        let traffic = Self {
            stop: stop.clone(),
            turns: turns.clone(),
            workers: (0..workers).map(worker).collect(),
        };
        traffic.goes_on("it began");
        Ok(traffic)
    }

    /// Waits for a hundred further turns.
    #[track_caller]
    pub(crate) fn goes_on(&self, what: &str) {
        let before = self.turns.load(Ordering::Relaxed);
        until(&format!("traffic goes on after {what}"), || {
            self.turns.load(Ordering::Relaxed) > before + 100
                || self.workers.iter().any(JoinHandle::is_finished)
        });
    }

    /// Ends it; fails when any worker saw an error.
    pub(crate) fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.join().map_err(|_| anyhow!("a worker panicked"))??;
        }
        Ok(self.turns.load(Ordering::Relaxed))
    }
}

/// New connections, one after the other, each with one question.
pub(crate) struct Fresh(Traffic);

impl Fresh {
    pub(crate) fn start(client: &Arc<Factory>, to: SocketAddr) -> Self {
        let (stop, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (client, end, count) = (client.clone(), stop.clone(), turns.clone());
        let worker = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let turn = count.fetch_add(1, Ordering::Relaxed);
                ask(&mut client.connect(to)?, turn).context("on a new connection")?;
            }
            Ok(())
        });
        Self(Traffic { stop, turns, workers: vec![worker] })
    }

    #[track_caller]
    pub(crate) fn goes_on(&self) {
        self.0.goes_on("a change");
    }

    pub(crate) fn end(self) -> Result<()> {
        self.0.end().map(drop)
    }
}

fn work(client: &Factory, to: SocketAddr, stop: &AtomicBool, turns: &AtomicU64) -> Result<()> {
    let mut kept = client.connect(to).context("the kept connection")?;
    let mut turn = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        ask(&mut kept, turn).context("on the connection that was kept")?;
        if turn.is_multiple_of(8) {
            let mut fresh = client.connect(to).context("a new connection")?;
            ask(&mut fresh, turn).context("on a new connection")?;
        }
        turns.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Connects, says something, and fails unless the connection is reset, at whichever step.
pub(crate) fn is_cut(client: &Factory, to: SocketAddr, bytes: &[u8]) -> Result<()> {
    let Ok(mut stream) = client.connect(to) else { return Ok(()) };
    let _ = stream.write_all(bytes);
    match stream.read(&mut [0; 8]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => anyhow::bail!("not a reset but {other:?}"),
    }
}

/// One question to an echo, and its answer.
pub(crate) fn ask(stream: &mut TcpStream, number: u64) -> Result<()> {
    let (question, mut answer) = (number.to_be_bytes(), [0; 8]);
    stream.write_all(&question)?;
    stream.read_exact(&mut answer)?;
    anyhow::ensure!(answer == question, "another answer came back");
    Ok(())
}
