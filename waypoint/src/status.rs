//! Pure: an agent's status → one screen for people.
use std::{fmt::Write, time::Duration};

use serde_json::Value;

/// One screen, a line for each part, and one for each thing that is wrong.
pub fn status(answer: &Value) -> String {
    let mut text = String::new();
    for (title, line) in [
        ("agent", agent(answer)),
        ("state", shown(&answer["state"])),
        ("pods", pods(&answer["pods"])),
        ("connections", counted(&answer["connections"])),
        ("tunnels", shown(&answer["tunnels"])),
        ("certificates", certificates(&answer["certificates"])),
        ("manifests", counted(&answer["manifests"])),
        ("kernel", kernel(&answer["kernel"])),
        ("log", format!("{} lines dropped", shown(&answer["logLinesDropped"]))),
    ] {
        let _ = writeln!(text, "{title:<14}{line}");
    }
    for wrong in wrong(answer) {
        let _ = writeln!(text, "{:<14}{}", "WRONG", shown(wrong));
    }
    text
}

/// What is wrong.
pub fn wrong(answer: &Value) -> &[Value] {
    answer["wrong"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn agent(answer: &Value) -> String {
    let version = &answer["version"];
    format!(
        "{} {} on {}, up {}",
        shown(&version["component"]),
        shown(&version["version"]),
        shown(&answer["node"]),
        duration(&answer["uptimeSeconds"]),
    )
}

fn pods(pods: &Value) -> String {
    match pods["failed"].as_u64().unwrap_or_default() {
        0 => format!("{} enrolled", shown(&pods["enrolled"])),
        failed => format!("{} enrolled, {failed} cannot be", shown(&pods["enrolled"])),
    }
}

fn certificates(certificates: &Value) -> String {
    let number = shown(&certificates["identities"]);
    match certificates["nextIdentity"].as_str() {
        None => number,
        Some(identity) => format!(
            "{number}, next to expire in {} ({}): {identity}",
            duration(&certificates["nextExpirySeconds"]),
            shown(&certificates["nextExpiry"]),
        ),
    }
}

/// Numbers since the programs were loaded: they tell of the past as well.
fn kernel(kernel: &Value) -> String {
    match kernel.as_object() {
        Some(counters) if !counters.is_empty() => counted(kernel),
        Some(_) | None => "nothing refused or dropped".into(),
    }
}

/// `3 workloads, 1 peer authentications`
fn counted(object: &Value) -> String {
    let words = |name: &str| {
        let mut text = String::new();
        for letter in name.chars() {
            if letter.is_ascii_uppercase() {
                text.push(' ');
            }
            text.push(letter.to_ascii_lowercase());
        }
        text
    };
    let parts = object.as_object().into_iter().flatten();
    let parts: Vec<_> =
        parts.map(|(name, number)| format!("{} {}", shown(number), words(name))).collect();
    parts.join(", ")
}

fn duration(seconds: &Value) -> String {
    let whole = Duration::from_secs(seconds.as_u64().unwrap_or_default());
    humantime::format_duration(whole).to_string()
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_stands_on_one_screen() {
        let answer = json!({
            "version": { "component": "culvert-agent", "version": "0.1.0" },
            "node": "n1",
            "uptimeSeconds": 61,
            "state": "ready",
            "pods": { "enrolled": 2, "failed": 1 },
            "connections": { "inbound": 1, "outbound": 0 },
            "tunnels": 3,
            "certificates": {
                "identities": 2,
                "nextExpiry": "2026-01-01T00:00:00Z",
                "nextExpirySeconds": 3600,
                "nextIdentity": "spiffe://x/ns/a/sa/b",
            },
            "manifests": { "workloads": 4, "peerAuthentications": 1 },
            "kernel": {},
            "logLinesDropped": 0,
            "wrong": ["m.yaml:3: bad"],
        });
        assert_eq!(
            status(&answer),
            "agent         culvert-agent 0.1.0 on n1, up 1m 1s\n\
             state         ready\n\
             pods          2 enrolled, 1 cannot be\n\
             connections   1 inbound, 0 outbound\n\
             tunnels       3\n\
             certificates  2, next to expire in 1h (2026-01-01T00:00:00Z): spiffe://x/ns/a/sa/b\n\
             manifests     1 peer authentications, 4 workloads\n\
             kernel        nothing refused or dropped\n\
             log           0 lines dropped\n\
             WRONG         m.yaml:3: bad\n"
        );
    }
}
