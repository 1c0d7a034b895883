//! Shell: every check and every test, in the order in which they are likely to fail soonest.
//! Nothing is skipped: what cannot run fails.
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::{
    bpf, count, setup,
    step::{cargo, program, quiet, say, watch},
    tidy,
};

/// Runs everything and prints how many tests ran.
///
/// # Errors
/// When a check or a test fails, or a suite did not run.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    setup::run(&setup::EVERYTHING)?;
    bpf::build(false)?;
    let mut suites = Vec::new();
    let outcome = gates(&mut suites);
    let (passed, failed) = suites.iter().fold((0, 0), |(p, f), suite| (p + suite.0, f + suite.1));
    say(format!("all of it took {} s", start.elapsed().as_secs()));
    say(format!("{passed} passed, {failed} failed"));
    outcome
}

/// What a suite printed: tests passed and failed.
type Suite = (u32, u32);

fn gates(suites: &mut Vec<Suite>) -> Result<()> {
    headline("form");
    quiet("cargo fmt --check", &mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    headline("lints");
    let all = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    quiet("cargo clippy", &mut cargo(&all))?;
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    quiet("cargo doc", doc.env("RUSTDOCFLAGS", "-D warnings"))?;
    headline("unit and property tests");
    let unit = ["test", "--workspace", "--exclude", "e2e", "--locked"];
    suite(suites, "unit tests", &unit)?;
    headline("end to end, with the real kernel object");
    let bins = [
        "build",
        "--package",
        "culvert-agent",
        "--package",
        "culvert-waypoint",
        "--package",
        "e2e",
        "--bins",
        "--locked",
    ];
    quiet("build agent and lab", &mut cargo(&bins))?;
    let e2e = ["test", "--package", "e2e", "--locked", "--", "--test-threads=2"];
    let ran = suite(suites, "end-to-end tests", &e2e)?;
    ensure!(ran > 0, "no end-to-end test ran");
    headline("instructions of the hot functions, under valgrind");
    suite(suites, "instruction counts", &count::COUNT)?;
    headline("dependencies");
    dependencies()
}

fn headline(text: &str) {
    say(format!("\n== {text}"));
}

/// Runs one suite, shows its output, and counts.
fn suite(suites: &mut Vec<Suite>, what: &str, arguments: &[&str]) -> Result<u32> {
    let (mut passed, mut failed) = (0, 0);
    let status = watch(what, &mut cargo(arguments), |line| {
        if let Some((p, f)) = counts(line) {
            passed += p;
            failed += f;
        }
        say(line);
    })?;
    suites.push((passed, failed));
    ensure!(status.success() && failed == 0, "{what}: {failed} failed ({status})");
    ensure!(passed > 0, "{what}: none ran");
    Ok(passed)
}

/// The counts in a line of libtest: `test result: ok. 3 passed; 0 failed; ...`.
fn counts(line: &str) -> Option<Suite> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, rest) = rest.split_once(". ")?;
    let mut parts = rest.split("; ");
    let mut number = |word: &str| parts.next()?.trim().strip_suffix(word)?.trim().parse().ok();
    Some((number("passed")?, number("failed")?))
}

/// Licences, sources, banned crates and versions always; advisories when their database can be had.
fn dependencies() -> Result<()> {
    let deny = setup::tool("cargo-deny");
    let check = |what: &[&str]| {
        let mut command = program(&deny, &["--workspace", "--config", ".deny.toml", "check"]);
        command.args(what);
        command
    };
    quiet("licences, sources, banned versions", &mut check(&["bans", "licenses", "sources"]))?;
    let advisories = check(&["advisories"]).output().context("start cargo-deny")?;
    let text = String::from_utf8_lossy(&advisories.stderr);
    if advisories.status.success() {
        say("  advisories: none");
    } else if text.contains("failed to fetch advisory database") {
        say(
            "  advisories: the RustSec database cannot be reached from here. What was known to be bad",
        );
        say("  when .deny.toml was last edited is banned there by version, and that was checked.");
    } else {
        bail!("advisories:\n{text}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_a_suite_are_read() {
        let line = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(counts(line), Some((12, 0)));
        let line = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured";
        assert_eq!(counts(line), Some((3, 2)));
        assert_eq!(counts("test result: ok. 16 passed; 0 failed"), Some((16, 0)));
        assert_eq!(counts("running 5 tests"), None);
    }
}
