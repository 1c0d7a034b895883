//! Shell: the demo, act by act. Two nodes, a shop that runs already, and the moment it joins the mesh.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "only the product reads its clock in one place; a tool measures where it works"
)]

mod canary;
mod failing;
mod shop;
mod split;
mod talk;
mod visitors;
mod wire;

use std::{
    io::{IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use clap::Parser;

use crate::{
    canary::Canary,
    failing::Failing,
    shop::Shop,
    wire::{Seen, examples},
};

/// Two Kubernetes nodes made of network namespaces, a shop of seven pods that talk to each other,
/// and the moment in which their namespace is labelled for the mesh: the same traffic, readable
/// before, is mutual TLS a moment later, and nothing fails or restarts. Then a waypoint sends some of
/// the catalog's visitors to its second version, as a file says that is edited meanwhile. At last that
/// version fails and hangs, and two resources keep it from everybody who calls.
#[derive(Parser)]
#[command(name = "cargo xtask demo")]
struct Arguments {
    /// Show everything once and end, instead of staying until Ctrl-C.
    #[arg(long)]
    once: bool,
}

/// Ctrl-C was pressed.
#[derive(Clone)]
struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn listen() -> Result<Self> {
        let pressed = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let flag = pressed.clone();
        thread::spawn(move || {
            let heard = runtime.block_on(tokio::signal::ctrl_c());
            flag.store(heard.is_ok(), Ordering::Relaxed);
        });
        Ok(Self(pressed))
    }

    fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Waits, unless Ctrl-C is pressed.
    fn pause(&self, time: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.check()?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let interrupt = Interrupt::listen()?;
    let played = play(&arguments, &interrupt);
    if interrupt.0.load(Ordering::Relaxed) {
        say("\nCleaned up: no namespace, control group or pinned program is left.");
        return Ok(());
    }
    played
}

fn say(text: impl AsRef<str>) {
    // A closed pipe ends the show at the next act.
    let _ = writeln!(std::io::stdout(), "{}", text.as_ref());
}

fn play(arguments: &Arguments, interrupt: &Interrupt) -> Result<()> {
    say(
        "Setting up two nodes, seven pods in network namespaces of their own, and an agent per node ...",
    );
    let mut shop = Shop::open()?;
    canary::declare(&shop.lab)?;
    before(&shop, interrupt)?;
    join(&shop, interrupt)?;
    interrupt.pause(Duration::from_secs(2))?;
    say("\n== 4. Who talks to whom, from the agents' own records\n");
    say(talk::table(&shop));
    let stays = !arguments.once && std::io::stdout().is_terminal();
    let mut canary = Canary::open(&shop, if stays { 6 } else { 2 })?;
    let split = canary.play(&mut shop, interrupt)?;
    say(split);
    say(totals(&shop, &canary)?);
    let mut failing = Failing::open(&shop, canary.close()?, if stays { 6 } else { 3 })?;
    say(failing.play(&shop, interrupt)?);
    if stays {
        Canary::again(&shop, failing.close())?.stay(&shop, interrupt)?;
    }
    Ok(())
}

/// The traffic as it is without a mesh.
fn before(shop: &Shop, interrupt: &Interrupt) -> Result<()> {
    say("\n== 1. A shop is running; what passes between the nodes can be read by anybody\n");
    let capture = shop.lab.capture()?;
    interrupt.pause(Duration::from_secs(2))?;
    let seen = Seen::of(&capture.finish());
    let requests: Vec<_> = seen.readable.iter().filter(|line| line.contains("GET ")).collect();
    for line in examples(&requests) {
        say(format!("  {line}"));
    }
    say(format!(
        "\n  {} frames in two seconds: {} readable, {} encrypted.",
        seen.frames,
        seen.readable.len(),
        seen.encrypted.len()
    ));
    ensure!(!seen.readable.is_empty(), "nothing readable passed: the shop is not running");
    ensure!(seen.encrypted.is_empty(), "something is encrypted already");
    Ok(())
}

/// The namespace is labelled; until nothing readable passes any more.
fn join(shop: &Shop, interrupt: &Interrupt) -> Result<()> {
    say("\n== 2. kubectl label namespace shop istio.io/dataplane-mode=ambient\n");
    let capture = shop.lab.capture()?;
    let start = Instant::now();
    shop.lab.namespace("shop", true)?;
    let mut last_readable = Duration::ZERO;
    // Everything must have been silent for a while before "the last" is the last.
    while start.elapsed() < last_readable + Duration::from_secs(1) {
        interrupt.check()?;
        thread::sleep(Duration::from_millis(10));
        let seen = Seen::of(&capture.take());
        if !seen.readable.is_empty() {
            last_readable = start.elapsed();
        }
        ensure!(start.elapsed() < Duration::from_secs(20), "readable traffic goes on and on");
    }
    say(format!(
        "  The last readable frame passed {} ms later, on a connection that was open already.",
        last_readable.as_millis()
    ));
    say("\n== 3. The same traffic now: TLS 1.3 between the agents, on port 15008\n");
    interrupt.pause(Duration::from_secs(1))?;
    let seen = Seen::of(&capture.finish());
    for line in examples(&seen.encrypted.iter().collect::<Vec<_>>()) {
        say(format!("  {line}"));
    }
    let (readable, encrypted) = (seen.readable.len(), seen.encrypted.len());
    say(format!("\n  {} frames: {readable} readable, {encrypted} encrypted.", seen.frames));
    ensure!(readable == 0 && encrypted > 0, "the traffic is not what it should be");
    Ok(())
}

/// What must not have happened.
fn totals(shop: &Shop, canary: &Canary) -> Result<String> {
    let (answered, failed) = shop.requests();
    let failed = failed + canary.failed();
    let restarts = shop.restarts();
    if let Some(error) = shop.error().or_else(|| canary.error()) {
        say(format!("  a request failed: {error}"));
    }
    ensure!(failed == 0 && restarts == 0, "{failed} requests failed, {restarts} pods restarted");
    Ok(format!(
        "{answered} requests answered between the pods, {failed} failed, {restarts} pods restarted."
    ))
}
