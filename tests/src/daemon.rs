//! Shell: a process of Culvert in the lab: its log, its endpoints, its end.
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Factory,
    factory::{binary, lab_command},
    lab::PATIENCE,
};

/// A process that runs `<binary> run --config <file>`; killed when dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    process: Child,
    program: Program,
}

/// What it is, and where.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Its binary.
    pub(crate) name: &'static str,
    /// The file of its network namespace.
    pub(crate) netns: PathBuf,
    /// Its control group.
    pub(crate) cgroup: PathBuf,
    /// Its configuration.
    pub(crate) config: PathBuf,
    /// What it writes.
    pub(crate) log: PathBuf,
}

impl Daemon {
    /// Starts it, and waits until it answers `from` that it is ready.
    pub(crate) fn start(program: Program, from: &Factory) -> Result<Self> {
        let process = spawn(&program)?;
        let mut daemon = Self { process, program };
        daemon.wait_ready(from)?;
        Ok(daemon)
    }

    /// The same again after it ended.
    pub(crate) fn restart(&mut self, from: &Factory) -> Result<()> {
        self.process = spawn(&self.program)?;
        self.wait_ready(from)
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Asks it to stop, and does not wait.
    pub(crate) fn terminate(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM)?)
    }

    /// Waits until it has stopped by itself.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let status = self.process.wait()?;
        ensure!(status.success(), "{} ended with {status}", self.program.name);
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn config(&self) -> &Path {
        &self.program.config
    }

    /// All that it wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.program.log).unwrap_or_default()
    }

    fn wait_ready(&mut self, from: &Factory) -> Result<()> {
        let start = Instant::now();
        while get(from, 15021, "/healthz/ready").is_err() {
            let ended = self.process.try_wait()?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                let (name, log) = (self.program.name, self.log());
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                bail!("{name} did not become ready ({ended:?}); its last lines: {tail:#?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(program: &Program) -> Result<Child> {
    let Program { name, netns, cgroup, config, log } = program;
    let out = File::options().create(true).append(true).open(log)?;
    lab_command(netns, cgroup)
        .arg("--")
        .arg(binary(name)?)
        .args(["run", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stderr(out.try_clone()?)
        .stdout(out)
        .spawn()
        .with_context(|| format!("start {name}"))
}

/// The answer to a GET on the loopback that `from` is in; its status must be 200.
pub(crate) fn get(from: &Factory, port: u16, path: &str) -> Result<String> {
    let answer = request(from, "GET", port, path)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {head}\n{body}");
    Ok(body.to_owned())
}

/// The whole answer to a request on the loopback that `from` is in.
pub(crate) fn request(from: &Factory, method: &str, port: u16, path: &str) -> Result<String> {
    let mut stream = from.connect(([127, 0, 0, 1], port).into())?;
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: lab\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
