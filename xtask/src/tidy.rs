//! Shell: checks the structure of the repository. Needs no network and no build.
use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::step::{root, say};

const LONGEST_FILE: usize = 500;

/// The entries of the root, beside hidden ones.
const ROOT: [&str; 10] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "agent",
    "deploy",
    "docs",
    "ebpf",
    "tests",
    "waypoint",
];

/// The rooms of a package in layer order: a room uses only rooms of earlier rows.
type Rooms = &'static [&'static [&'static str]];

const PACKAGES: [(&str, Rooms); 2] = [("agent/src/", AGENT), ("waypoint/src/", WAYPOINT)];

/// What stands beside the rooms, and may use all of them.
const FRONTS: [&str; 3] = ["lib", "main", "bin"];

const AGENT: Rooms = &[
    &["clock", "drain", "origin", "read", "settings", "workers"],
    &["identity"],
    &["flow"],
    &["policy"],
    &["discovery"],
    &["manifest"],
    &["route"],
    &["hbone", "redirect"],
    &["relay"],
    &["telemetry"],
    &["process"],
    &["inbound"],
    &["direct"],
    &["outbound", "config"],
    &["app"],
];

const WAYPOINT: Rooms = &[
    &["path", "grpc"],
    &["routing"],
    &["backend"],
    &["manifest"],
    &["outcome"],
    &["balance", "body", "places", "retry"],
    &["listener"],
    &["upstream"],
    &["mesh"],
    &["record", "attachment", "resolver"],
    &["exchange"],
    &["entrance"],
    &["config", "dump"],
    &["explain"],
    &["operators"],
    &["app"],
    &["analyze", "admin", "table"],
    &["connections", "health", "rules", "status"],
];

/// Where HTTP is spoken, and where the waypoint passes on what it heard.
const SPEAKERS: [&str; 8] = [
    "agent/src/telemetry/admin.rs",
    "waypoint/src/body.rs",
    "waypoint/src/exchange.rs",
    "waypoint/src/exchange/asked.rs",
    "waypoint/src/exchange/extended.rs",
    "waypoint/src/exchange/upgrade.rs",
    "waypoint/src/listener/serve.rs",
    "waypoint/src/upstream/",
];

/// Who may name a dependency: crate, and the beginnings of the files that may.
const GATEKEEPERS: [(&str, &[&str]); 8] = [
    ("aya", &["agent/src/redirect"]),
    ("h2", &["tests/", "waypoint/src/upstream/failure.rs"]),
    ("rustls", &["agent/src/identity/tls.rs", "agent/src/hbone/", "waypoint/src/upstream/tls"]),
    ("tokio_rustls", &["agent/src/hbone/", "waypoint/src/upstream/tls"]),
    ("hickory_resolver", &["waypoint/src/resolver.rs"]),
    ("rcgen", &["agent/src/identity/ca.rs"]),
    ("hyper", &SPEAKERS),
    ("serde_saphyr", &["agent/src/manifest/documents"]),
];

/// The table of what is tested, and where the paths in it begin that name no package.
const CONFORMANCE: (&str, &str) = ("docs/conformance.md", "waypoint");

/// What no file may say; split, so that this one does not.
const FORBIDDEN: [(&str, &str); 6] = [
    (concat!("todo", "!("), "do it, or leave it out"),
    (concat!("#[", "ignore"), "a test runs or is removed"),
    (concat!("dbg", "!("), "remove it"),
    (concat!("/wo", "rk/"), "a path of somebody's machine"),
    (concat!("/ro", "ot/"), "a path of somebody's machine"),
    (concat!("art", "ifactory"), "name no registry"),
];

/// Checks every tracked file.
///
/// # Errors
/// Lists what is wrong, with file and line.
pub(crate) fn run() -> Result<()> {
    let wrong = check()?;
    for line in &wrong {
        say(format!("  {line}"));
    }
    ensure!(wrong.is_empty(), "tidy: {} places to mend", wrong.len());
    say("  tidy: everything is where it belongs");
    Ok(())
}

fn check() -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let files = files()?;
    for file in &files {
        let top = file.split('/').next().unwrap_or_default();
        if !top.starts_with('.') && !ROOT.contains(&top) && top != "xtask" {
            wrong.push(format!("{file}:1: the root has no place for {top}"));
        }
        let Ok(text) = fs::read_to_string(root().join(file)) else { continue };
        if !file.ends_with(".lock") {
            wrong.extend(words(file, &text));
        }
        if file == CONFORMANCE.0 {
            wrong.extend(named_tests(&text));
        }
        if Path::new(file).extension().is_some_and(|extension| extension == "rs") {
            wrong.extend(source(file, &text));
        }
    }
    wrong.sort();
    wrong.dedup();
    Ok(wrong)
}

/// Tracked files, and new ones that are not ignored.
fn files() -> Result<Vec<String>> {
    let list = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(list).current_dir(root()).output().context("run git")?;
    ensure!(output.status.success(), "git ls-files failed: tidy checks a git checkout");
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter(|file| root().join(file).is_file()).map(str::to_owned).collect())
}

fn words(file: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        for (word, advice) in FORBIDDEN {
            // The home directory of root inside an image is no machine's path.
            if line.contains(word) && !file.starts_with("xtask/src/tidy.rs") {
                wrong.push(format!("{file}:{number}: {word:?}: {advice}"));
            }
        }
    }
    wrong
}

/// Tests that the table of conformance names, `path.rs::name`, and that are not there.
fn named_tests(table: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, line) in (1..).zip(table.lines()) {
        // What stands between backticks.
        for named in line.split('`').skip(1).step_by(2) {
            let Some((path, name)) = named.split_once(".rs::") else { continue };
            let places = [root().join(path), root().join(CONFORMANCE.1).join(path)];
            let texts = places.map(|place| fs::read_to_string(place.with_extension("rs")));
            if !texts.iter().flatten().any(|text| has_test(text, name)) {
                wrong.push(format!("{}:{number}: there is no test {named}", CONFORMANCE.0));
            }
        }
    }
    wrong
}

fn has_test(text: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    text.lines().zip(text.lines().skip(1)).any(|(before, line)| {
        let attribute = before.trim_start();
        attribute.starts_with("#[") && attribute.contains("test") && line.contains(&head)
    })
}

fn source(file: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let lines = text.lines().count();
    if lines > LONGEST_FILE {
        wrong.push(format!("{file}:{lines}: more than {LONGEST_FILE} lines: split it"));
    }
    if file.ends_with("/mod.rs") {
        wrong.push(format!("{file}:1: name the file after its folder"));
    }
    wrong.extend(head(file, text));
    wrong.extend(gates(file, text));
    wrong.extend(layers(file, text));
    wrong
}

/// Product files say which kind they are.
fn head(file: &str, text: &str) -> Option<String> {
    let free =
        file.ends_with("build.rs") || file.starts_with("tests/e2e/") || file.contains("/fuzz/");
    let kinds = ["Pure:", "Shell:", "Story:", "Front:"];
    let kind =
        text.strip_prefix("//! ").is_some_and(|rest| kinds.iter().any(|k| rest.starts_with(k)));
    (!free && !kind)
        .then(|| format!("{file}:1: begin with `//! Pure:`, `Shell:`, `Story:` or `Front:`"))
}

/// The part of a file before its tests.
fn product(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests = |line: &str| line.starts_with("#[cfg(test)]");
    (1..).zip(text.lines()).take_while(move |(_, line)| !tests(line))
}

fn gates(file: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if !PACKAGES.iter().any(|(source, _)| file.starts_with(source)) {
        return wrong;
    }
    for (name, allowed) in GATEKEEPERS {
        if allowed.iter().any(|prefix| file.starts_with(prefix)) {
            continue;
        }
        for (number, line) in product(text) {
            let code = line.split("//").next().unwrap_or_default();
            if mentions(code, name) {
                wrong.push(format!("{file}:{number}: {name} belongs to {}", allowed.join(", ")));
            }
        }
    }
    wrong
}

/// Whether the code has `name::` as the start of a path.
fn mentions(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| {
        let before = code.get(..at).and_then(|before| before.chars().next_back());
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':')
    })
}

fn layers(file: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (source, rooms) in PACKAGES {
        let Some(path) = file.strip_prefix(source) else { continue };
        let room = path.split(['/', '.']).next().unwrap_or_default();
        let row = |room: &str| rooms.iter().position(|row| row.contains(&room));
        let Some(own) = row(room) else {
            if !FRONTS.contains(&room) {
                wrong.push(format!("{file}:1: the layers have no place for {room}"));
            }
            continue;
        };
        for (number, used) in crate_rooms(text) {
            if used != room && row(&used).is_some_and(|other| other >= own) {
                let what = format!("{room} may not use {used}, which is not before it");
                wrong.push(format!("{file}:{number}: {what}"));
            }
        }
    }
    wrong
}

/// The rooms that a file names: `crate::room`, and the members of `use crate::{...}`.
fn crate_rooms(text: &str) -> Vec<(usize, String)> {
    let mut rooms = Vec::new();
    let mut depth = 0_usize;
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    for (number, line) in product(text) {
        let code = line.split("//").next().unwrap_or_default();
        if depth == 1 {
            rooms.push((number, word(code.trim_start())));
        }
        for (at, path) in code.match_indices("crate::") {
            let rest = code.get(at + path.len()..).unwrap_or_default();
            if let Some(list) = rest.strip_prefix('{') {
                rooms.push((number, word(list)));
                depth = 1;
            } else {
                rooms.push((number, word(rest)));
            }
        }
        if depth > 0 {
            let after = code.rsplit("crate::{").next().unwrap_or_default();
            depth = (depth + after.matches('{').count()).saturating_sub(after.matches('}').count());
        }
    }
    rooms.retain(|(_, room)| !room.is_empty());
    rooms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        assert_eq!(check().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_room_that_looks_up_is_found() {
        let text =
            "use crate::{\n    clock,\n    telemetry::{Record, Reason},\n};\nuse crate::app;\n";
        let wrong = layers("agent/src/relay.rs", text);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[0].starts_with("agent/src/relay.rs:3:"));
        assert!(layers("agent/src/telemetry.rs", "use crate::{clock, relay};\n").is_empty());
        assert_eq!(layers("waypoint/src/routing/find.rs", "use crate::backend;\n").len(), 1);
        assert_eq!(layers("waypoint/src/somewhere.rs", "").len(), 1);
        assert!(layers("waypoint/src/main.rs", "use crate::app;\n").is_empty());
    }

    #[test]
    fn a_dependency_outside_its_room_is_found() {
        assert_eq!(gates("agent/src/relay.rs", "use h2::Reason;\n").len(), 1);
        assert!(gates("agent/src/relay.rs", "use crate::auth2::Reason; // h2::x\n").is_empty());
        assert_eq!(gates("waypoint/src/routing/find.rs", "use hyper::body::Incoming;\n").len(), 1);
        assert!(gates("waypoint/src/upstream/lane.rs", "use hyper::body::Incoming;\n").is_empty());
        assert!(gates("tests/e2e/peer.rs", "use h2::Reason;\n").is_empty());
    }
    #[test]
    fn a_test_that_is_named_and_not_there_is_found() {
        let own = "xtask/src/tidy.rs::a_dependency_outside_its_room_is_found";
        let table = format!("| 1 | `{own}`, `src/lib.rs::nothing` | `mesh` |\n| 2 | `{own}s` |");
        let wrong = named_tests(&table);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong[1].contains(":2: "), "{wrong:?}");
        assert!(!has_test("fn one() {}\n", "one"));
    }
}
