//! Shell: namespaces and control groups of this machine.
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

/// Where named network namespaces are.
pub const NETNS: &str = "/run/netns";
/// Where the BPF file system is.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Says what this machine lacks for tests with real namespaces and a real kernel object.
///
/// # Errors
/// Names everything that is missing.
pub fn preflight() -> Result<()> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root privileges: run as root".to_owned());
    }
    if Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_err() {
        missing.push("the `ip` command: apt-get install iproute2".to_owned());
    }
    if cgroup2().is_err() {
        missing
            .push("control groups version 2: mount -t cgroup2 none /sys/fs/cgroup/unified".into());
    }
    if let Err(error) = mount_bpffs() {
        missing.push(format!("the BPF file system at {BPFFS}: {error:#}"));
    }
    ensure!(missing.is_empty(), "this machine cannot run the lab; it lacks {}", missing.join("; "));
    Ok(())
}

/// Runs `ip` on a list of commands, in the namespace `netns` or in the machine's own.
///
/// # Errors
/// When one of them fails.
pub fn ip(netns: Option<&str>, script: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(netns) = netns {
        command.args(["-n", netns]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start ip")?;
    child.stdin.take().context("stdin of ip")?.write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip failed: {}in:\n{script}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Writes settings below `/proc/sys` inside a namespace.
///
/// # Errors
/// When the namespace or a setting does not exist.
pub fn sysctl(netns: &Path, settings: &[(&str, &str)]) -> Result<()> {
    within(netns, || {
        for (name, value) in settings {
            fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("set {name}"))?;
        }
        Ok(())
    })?
}

/// Runs `work` inside a network namespace, on a thread of its own.
///
/// # Errors
/// When it cannot be entered.
pub fn within<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let there = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
    thread::scope(|scope| {
        let done = scope.spawn(|| {
            setns(&there, CloneFlags::CLONE_NEWNET).context("enter a namespace")?;
            Ok(work())
        });
        done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Where control groups of version 2 are mounted.
///
/// # Errors
/// When they are not.
pub fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
        .context("cgroup2 is not mounted")
}

/// Kills every process below a control group, and removes it.
pub fn remove_cgroup(path: &Path) {
    let _ = fs::write(path.join("cgroup.kill"), "1");
    if let Ok(children) = fs::read_dir(path) {
        for child in children.flatten().filter(|child| child.path().is_dir()) {
            remove_cgroup(&child.path());
        }
    }
    // The kernel needs a moment to reap what was killed.
    for _ in 0..200 {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                thread::sleep(std::time::Duration::from_millis(5));
            }
            Ok(()) | Err(_) => return,
        }
    }
}

/// Everything of this machine whose name begins with `prefix`: namespaces, control groups, pins.
pub fn leftovers(prefix: &str) -> Vec<String> {
    let roots = [PathBuf::from(NETNS), cgroup2().unwrap_or_default(), PathBuf::from(BPFFS)];
    let entries = roots.iter().filter_map(|root| fs::read_dir(root).ok()).flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().display().to_string())
        .collect()
}

/// Removes everything that [`leftovers`] finds.
pub fn sweep(prefix: &str) {
    for path in leftovers(prefix).into_iter().map(PathBuf::from) {
        if path.starts_with(NETNS) {
            let name = path.file_name().unwrap_or_default();
            let _ = Command::new("ip").args(["netns", "del"]).arg(name).status();
        } else if path.starts_with(BPFFS) {
            let _ = fs::remove_dir_all(&path);
        } else {
            remove_cgroup(&path);
        }
    }
}

fn mount_bpffs() -> Result<()> {
    let kind = nix::sys::statfs::statfs(BPFFS)?.filesystem_type();
    if kind != nix::sys::statfs::BPF_FS_MAGIC {
        let nothing = None::<&str>;
        nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), nix::mount::MsFlags::empty(), nothing)?;
    }
    Ok(())
}
