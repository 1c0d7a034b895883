//! Shell: builds the kernel object, where the agent's build looks for it.
use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    setup::{self, Chain, Part, chain, tool},
    step::{program, quiet, root, say},
};

/// Builds the object for this machine's architecture.
///
/// # Errors
/// When the tool chain or the build fails.
pub(crate) fn run(log: bool) -> Result<()> {
    setup::run(&[Part::Base, Part::Bpf])?;
    build(log)
}

/// Builds the object with a tool chain that is there.
///
/// # Errors
/// When the build fails.
pub(crate) fn build(log: bool) -> Result<()> {
    let linker = tool("bpf-linker");
    let architecture = std::env::consts::ARCH;
    let flags = format!(
        "--cfg bpf_target_arch=\"{architecture}\" -C linker={} -C link-arg=--btf -C debuginfo=2",
        linker.display()
    );
    let mut cargo = match chain()? {
        Chain::Debian => {
            let mut cargo = program("/usr/bin/cargo", &["build"]);
            // That one crate uses an unstable feature; nothing else may.
            cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "aya_ebpf");
            cargo
        }
        Chain::Nightly(_) => {
            let mut cargo = program("rustup", &["run", "nightly", "cargo", "build"]);
            cargo.args(["-Z", "build-std=core"]).env_remove("RUSTC");
            cargo
        }
    };
    let folder = crate::step::target().join("bpf");
    cargo
        .args(["--locked", "--profile", "bpf", "--target", "bpfel-unknown-none"])
        .args(["--package", "culvert-ebpf", "--bin", "culvert", "--target-dir"])
        .arg(&folder)
        .env("RUSTFLAGS", flags)
        .env_remove("CARGO")
        .env_remove("RUSTUP_TOOLCHAIN");
    if log {
        cargo.args(["--features", "log"]);
    }
    quiet("build the kernel object", &mut cargo)?;
    let object = object();
    fs::create_dir_all(root().join("target"))?;
    let built = folder.join("bpfel-unknown-none/bpf/culvert");
    // A copy with the same bytes would make cargo build the agent again.
    if fs::read(&built).ok() != fs::read(&object).ok() {
        fs::copy(&built, &object).with_context(|| format!("copy {}", built.display()))?;
    }
    say(format!(
        "  the kernel object is {} ({} bytes)",
        object.display(),
        fs::metadata(&object)?.len()
    ));
    Ok(())
}

/// Where agent/build.rs looks.
fn object() -> PathBuf {
    root().join("target/culvert.bpf.o")
}
