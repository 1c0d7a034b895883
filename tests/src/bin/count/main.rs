//! Shell: counts instructions of the hot functions under valgrind, beside a committed budget.
//! Never: a clock: the counts are the same on a busy machine.
#![forbid(unsafe_code)]

mod hot;
mod report;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde::{Deserialize, Serialize};
use tikv_jemallocator::Jemalloc;

use crate::hot::{HOT, Hot, TIMES};

/// The agent's own, so that allocations count as they do there, whatever the C library.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// A count may grow by so much, per cent: hash maps have another seed in each process, and the
/// compiler's next release another taste.
const TOLERANCE: u64 = 10;
/// So few instructions more are no growth, whatever they are in per cent.
const SLACK: u64 = 30;
/// How a justified growth is accepted.
const BLESS: &str = "cargo xtask count --bless";
const HEAD: &str = "\
# Instructions per call of the functions on the way of each connection. `cargo xtask test` fails when
# one needs a tenth more. `cargo xtask count --bless` writes this file; the commit that changes it
# says why.
";

/// The committed file.
#[derive(Debug, Deserialize, Serialize)]
struct Budget {
    /// Who compiled what was counted.
    compiler: String,
    /// Another architecture has other instructions.
    architecture: String,
    instructions: BTreeMap<String, u64>,
}

/// Counts the instructions of the hot functions under valgrind, beside tests/budget.toml. The same on
/// a busy machine.
#[derive(Parser)]
#[command(name = "cargo xtask count")]
struct Arguments {
    /// Accept what is counted: write it as the new budget.
    #[arg(long)]
    bless: bool,
    /// Only functions whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Be what is counted.
    #[arg(long, hide = true)]
    run: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(name) = &arguments.run {
        let hot = HOT.iter().find(|hot| hot.name == name).context("no such function")?;
        (hot.run)();
        return Ok(());
    }
    let chosen: Vec<_> = HOT.iter().filter(|hot| hot.name.contains(&arguments.only)).collect();
    if arguments.bless {
        ensure!(arguments.only.is_empty(), "the whole budget is blessed, or none of it");
        return bless(&chosen);
    }
    check(&chosen)
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("budget.toml")
}

/// Prints as libtest does, so that whoever counts tests counts these.
fn check(chosen: &[&Hot]) -> Result<()> {
    let text = fs::read_to_string(file()).context("read the budget")?;
    let budget: Budget = toml::from_str(&text).context("the budget makes no sense")?;
    ensure!(
        budget.architecture == std::env::consts::ARCH,
        "the budget is {}'s: count there",
        budget.architecture
    );
    let mut out = std::io::stdout();
    let mut complaints = Vec::new();
    for hot in chosen {
        let counted = instructions(hot)?;
        let verdict = match budget.instructions.get(hot.name) {
            None => Err(format!("{} has no budget: {BLESS}", hot.name)),
            Some(budget) => judge(hot.name, counted, *budget),
        };
        let word = if verdict.is_ok() { "ok" } else { "FAILED" };
        writeln!(out, "test {} ... {word} ({counted} instructions)", hot.name)?;
        match verdict {
            Ok(None) => {}
            Ok(Some(remark)) => writeln!(out, "  {remark}")?,
            Err(complaint) => complaints.push(complaint),
        }
    }
    for complaint in &complaints {
        writeln!(out, "\n{complaint}")?;
    }
    let now = compiler()?;
    if !complaints.is_empty() && now != budget.compiler {
        writeln!(out, "\nThe budget was made with {}, and this is {now}.", budget.compiler)?;
    }
    let (word, failed) = (if complaints.is_empty() { "ok" } else { "FAILED" }, complaints.len());
    writeln!(out, "\ntest result: {word}. {} passed; {failed} failed", chosen.len() - failed)?;
    ensure!(failed == 0, "{failed} functions are beyond their budgets");
    Ok(())
}

/// A remark when it is fine, a complaint when it is not.
fn judge(name: &str, counted: u64, budget: u64) -> Result<Option<String>, String> {
    let change = || (counted as f64 / budget.max(1) as f64 - 1.0) * 100.0;
    if counted > budget + SLACK.max(budget * TOLERANCE / 100) {
        return Err(format!(
            "{name}: {counted} instructions a call, {:+.0} % beyond the budget of {budget}. Find out \
             what it does in addition; if that is worth it, `{BLESS}` and say why in the commit.",
            change()
        ));
    }
    let much_less = counted + SLACK.max(budget * TOLERANCE / 100) < budget;
    Ok(much_less.then(|| format!("{:+.0} %: `{BLESS}` keeps the gain", change())))
}

fn bless(chosen: &[&Hot]) -> Result<()> {
    let mut instructions = BTreeMap::new();
    for hot in chosen {
        let counted = self::instructions(hot)?;
        writeln!(std::io::stdout(), "{}: {counted} instructions", hot.name)?;
        instructions.insert(hot.name.to_owned(), counted);
    }
    let architecture = std::env::consts::ARCH.to_owned();
    let budget = Budget { compiler: compiler()?, architecture, instructions };
    fs::write(file(), format!("{HEAD}{}", toml::to_string(&budget)?)).context("write the budget")
}

/// Instructions per call, in a process of its own.
fn instructions(hot: &Hot) -> Result<u64> {
    let file = std::env::temp_dir().join(format!("culvert-count-{}", std::process::id()));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet", "--toggle-collect=*hot*counted*"]);
    valgrind.arg(format!("--callgrind-out-file={}", file.display()));
    valgrind.arg(std::env::current_exe()?).args(["--run", hot.name]);
    // The C library would copy with an instruction that valgrind counts once for each byte.
    valgrind.env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-ERMS");
    // What is counted may log.
    let output = valgrind.stdout(Stdio::null()).output().context("start valgrind")?;
    let text = fs::read_to_string(&file);
    let _ = fs::remove_file(&file);
    if !output.status.success() {
        bail!("{} under valgrind:\n{}", hot.name, String::from_utf8_lossy(&output.stderr));
    }
    let all = report::instructions(&text.context("valgrind wrote no report")?);
    let all = all.filter(|all| *all > 0);
    Ok(all.with_context(|| format!("{}: valgrind did not find it", hot.name))? / TIMES)
}

fn compiler() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().context("start rustc")?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}
