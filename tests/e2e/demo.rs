//! The demo shows what it says it shows, and leaves nothing behind.
use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use e2e::{factory::binary, lab::ensure_nothing_left};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[test]
fn the_demo_runs_once_through_all_its_acts() -> Result<()> {
    let child = Command::new(binary("demo")?).arg("--once").stdout(Stdio::piped()).spawn()?;
    let prefix = format!("cv{}-", child.id());
    let output = child.wait_with_output()?;
    let said = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{said}");
    for expected in [
        "GET /charge?card=4111-1111-1111-1111",
        "istio.io/dataplane-mode=ambient",
        ":15008  TLS application data",
        "0 readable",
        "spiffe://cluster.local/ns/shop/sa/checkout",
        "istio.io/use-waypoint=waypoint",
        "virtualservice-catalog.yaml is edited: weight 50 for v1, weight 50 for v2",
        "answers, 0 failed.",
        "0 failed, 0 pods restarted",
        "catalog-v2 refuses every other request",
        "ejected",
        "catalog-v2 is well again",
        "0 pods restarted.",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in:\n{said}");
    }
    let last: u64 = said
        .split("The last readable frame passed ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .context("no time")?;
    let split =
        said.lines().find(|line| line.starts_with("Answered by v2: ")).context("no split")?;
    let parts = shares(split);
    let [canary, tried, half, all] = parts.as_slice() else { anyhow::bail!("{split}") };
    assert_eq!((*canary, *all), (100, 100), "{split}");
    assert!((1..=10).contains(tried) && (35..=65).contains(half), "{split}");
    println!("the last readable frame passed {last} ms after the label");
    ensure_nothing_left(&prefix)
}

/// The numbers before a percent sign.
fn shares(line: &str) -> Vec<u64> {
    let before = line.split(" %").filter_map(|part| part.rsplit(' ').next()?.parse().ok());
    before.collect()
}

#[test]
fn the_demo_cleans_up_after_ctrl_c() -> Result<()> {
    let mut child = Command::new(binary("demo")?).stdout(Stdio::piped()).spawn()?;
    let prefix = format!("cv{}-", child.id());
    let mut said = BufReader::new(child.stdout.take().context("stdout")?);
    let mut line = String::new();
    while !line.contains("A shop is running") {
        line.clear();
        anyhow::ensure!(said.read_line(&mut line)? > 0, "the demo ended by itself");
    }
    assert!(ensure_nothing_left(&prefix).is_err(), "a lab that nobody can see");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
    let mut rest = String::new();
    said.read_to_string(&mut rest)?;
    assert!(child.wait()?.success(), "{rest}");
    assert!(rest.contains("Cleaned up"), "{rest}");
    ensure_nothing_left(&prefix)
}
