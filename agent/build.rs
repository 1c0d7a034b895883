//! Hands the kernel object, which `cargo xtask bpf` builds, to the crate that embeds it.
use std::{env, path::PathBuf};

fn main() {
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

fn default_object() -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default())
        .join("../target/culvert.bpf.o")
}
