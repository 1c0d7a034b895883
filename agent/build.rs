//! Hands the kernel object, which `cargo xtask bpf` builds, to the crate that embeds it.
use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rustc-env=CULVERT_RUSTC={}", rust_version().unwrap_or("unknown".into()));
    println!("cargo::rerun-if-env-changed=CULVERT_BPF_OBJECT");
    let object = env::var_os("CULVERT_BPF_OBJECT").map_or_else(default_object, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    if !object.is_file() {
        println!(
            "cargo::error=no kernel object at {}: run `cargo xtask bpf` first",
            object.display()
        );
        return;
    }
    println!("cargo::rustc-env=CULVERT_BPF_OBJECT={}", object.display());
}

/// The compiler's own words; its path is cargo's choice.
fn rust_version() -> Option<String> {
    let output = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn default_object() -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default())
        .join("../target/culvert.bpf.o")
}
