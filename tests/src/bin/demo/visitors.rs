//! Shell: visitors: a process in a pod that asks a service steadily, and what it counted.
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result};
use e2e::{
    Pod,
    factory::{binary, lab_command},
    visit::Counts,
};

/// Visitors of one kind; dropped, they leave.
pub(crate) struct Visitors {
    process: Child,
    counts: Arc<Mutex<Counts>>,
}

impl Visitors {
    /// So many in `pod` that ask `host` at `to`, with one more header or none.
    pub(crate) fn start(
        pod: &Pod,
        to: SocketAddr,
        host: &str,
        header: Option<&str>,
        visitors: u8,
    ) -> Result<Self> {
        let mut command = lab_command(pod.netns(), pod.cgroup());
        command.arg("--").arg(binary("lab")?).args(["visit", "--host", host]);
        command.args(["--to", &to.to_string(), "--visitors", &visitors.to_string()]);
        if let Some(header) = header {
            command.args(["--header", header]);
        }
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let counts = Arc::new(Mutex::new(Counts::default()));
        let (out, seen) = (process.stdout.take().context("stdout")?, counts.clone());
        thread::spawn(move || read(out, &seen));
        Ok(Self { process, counts })
    }

    /// What they counted so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Visitors {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(out: ChildStdout, counts: &Mutex<Counts>) {
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        // A line that was cut off by the end of the process says nothing.
        if let Ok(told) = serde_json::from_str(&line) {
            *counts.lock().unwrap_or_else(PoisonError::into_inner) = told;
        }
    }
}
