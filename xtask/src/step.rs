//! Shell: runs other programs, and says what is going on while they do.
use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A silent program is reported on this often.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The same where nobody watches.
const HEARTBEAT_IN_A_PIPE: Duration = Duration::from_secs(15);
/// Lines shown of a program that failed.
const TAIL: usize = 40;

/// Writes a line for the reader. A closed pipe is no error.
pub(crate) fn say(line: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout(), "{}", line.as_ref());
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A program that is run in the root of the repository.
pub(crate) fn program(name: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments).current_dir(root());
    command
}

/// The cargo that runs this, without what it set for this.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments)
}

/// Runs a program that speaks for itself.
///
/// # Errors
/// When it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ended(command, status)
}

/// Runs a program whose output matters only when it fails, and says how long it takes.
///
/// # Errors
/// When it fails; the end of its output is shown first.
pub(crate) fn quiet(what: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    let mut lines = Vec::new();
    let status = watch(what, command, |line| lines.push(line.to_owned()))?;
    if status.success() {
        say(format!("  {what}: done in {:.1} s", start.elapsed().as_secs_f32()));
        return Ok(());
    }
    for line in lines.iter().rev().take(TAIL).rev() {
        say(format!("    {line}"));
    }
    ended(command, status)
}

/// Runs a program, hands each line of its output to `line`, and reports when it is silent for long.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn watch(
    what: &str,
    command: &mut Command,
    mut line: impl FnMut(&str),
) -> Result<ExitStatus> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let (sender, receiver) = channel();
    let outputs: [Option<Box<dyn std::io::Read + Send>>; 2] = [
        child.stdout.take().map(|out| Box::new(out) as _),
        child.stderr.take().map(|out| Box::new(out) as _),
    ];
    for output in outputs.into_iter().flatten() {
        let sender = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
    }
    drop(sender);
    let watched = std::io::stdout().is_terminal();
    let beat = if watched { HEARTBEAT } else { HEARTBEAT_IN_A_PIPE };
    let (start, mut next) = (Instant::now(), Instant::now() + beat);
    loop {
        match receiver.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(text) => line(&text),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                say(format!("  {what}: {} s ...", start.elapsed().as_secs()));
                next = Instant::now() + beat;
            }
        }
    }
    child.wait().context("wait for a program")
}

fn ended(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        bail!("{} {} ended with {status}", command.get_program().display(), arguments.join(" "));
    }
    Ok(())
}
