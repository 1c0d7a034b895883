//! Shell: what agent and waypoint do alike as processes: threads, files, operators' sockets, the end.
//! Never: what only one of them does.
use std::{net::SocketAddr, process::ExitCode};

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::telemetry::logging::Logging;

/// Does `work` on a runtime made by `threads`, with as many files as the machine lets a process have.
/// Why it failed is in the log, too, and no line of that is left unwritten.
///
/// # Errors
/// When there are no threads, or as `work` does.
pub fn run(
    threads: &mut Builder,
    logging: &Logging,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<ExitCode> {
    raise_file_limit();
    let runtime = threads.enable_all().build().context("start the runtime")?;
    let done = runtime.block_on(work);
    if let Err(error) = &done {
        tracing::error!("{error:#}");
    }
    logging.flush();
    done.map(|()| ExitCode::SUCCESS)
}

/// Each connection needs a file or two; the soft limit is made for programs that use `select(2)`.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Listens on the address of the configuration's key `key`.
///
/// # Errors
/// As `bind(2)`, with the key and the address.
pub async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {key} = {address}"))
}

/// The signals by which a process is asked to stop.
#[derive(Debug)]
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// From here on they no longer end the process by themselves.
    ///
    /// # Errors
    /// When the system does not let it listen.
    pub fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
        })
    }

    /// Waits for one of them.
    ///
    /// # Cancel safety
    /// A signal that came meanwhile is told by the next call.
    pub async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
