//! Pure: how the agent is, on one screen, and what a person should look at.
//! Never: a list that grows with the mesh.
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value, json};

use super::{dump::version, open::Open};
use crate::{
    discovery::Snapshot,
    flow::Direction,
    identity::{Credentials, Identity},
};

/// Ways for a program of the kernel to end that mean trouble when their number rises.
const TROUBLE: [&str; 5] = [
    "connect_refused",
    "accept_no_memory",
    "lookup_no_agent",
    "lookup_unknown_address",
    "lookup_assign_failed",
];

/// What there is to say.
#[derive(Debug)]
pub struct Standing<'a> {
    /// This node's name.
    pub node: &'a str,
    /// For how long the agent has been running.
    pub uptime: Duration,
    /// The calendar's time, which certificates are compared with.
    pub now: SystemTime,
    /// Whether the agent is about to stop.
    pub draining: bool,
    /// What has to happen before the agent is ready.
    pub pending: &'a [String],
    /// How many pods are enrolled.
    pub enrolled: usize,
    /// Pods that should be enrolled and are not, with the reason.
    pub failed: &'a [(Arc<str>, String)],
    /// Open connections.
    pub open: &'a [Arc<Open>],
    /// Open tunnels to other agents.
    pub tunnels: usize,
    /// Identities of this node, each with its certificate if it has been issued.
    pub certificates: &'a [(Identity, Option<Arc<Credentials>>)],
    /// What the mesh looks like.
    pub snapshot: &'a Snapshot,
    /// How often the kernel's programs ended in which way.
    pub kernel: &'a [(&'static str, u64)],
    /// Log lines that were not written.
    pub lines_dropped: u64,
}

/// The answer to `/status`.
pub fn status(standing: &Standing<'_>) -> Value {
    let snapshot = standing.snapshot;
    let count = |way: Direction| standing.open.iter().filter(|one| one.direction == way).count();
    let state = match (standing.draining, standing.pending.is_empty()) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "starting",
    };
    json!({
        "version": version(),
        "node": standing.node,
        "uptimeSeconds": standing.uptime.as_secs(),
        "state": state,
        "pods": { "enrolled": standing.enrolled, "failed": standing.failed.len() },
        "connections": {
            "outbound": count(Direction::Outbound),
            "inbound": count(Direction::Inbound),
        },
        "tunnels": standing.tunnels,
        "certificates": certificates(standing),
        "manifests": {
            "workloads": snapshot.workloads().count(),
            "services": snapshot.services().count(),
            "policies": snapshot.policies().policies.len(),
            "peerAuthentications": snapshot.policies().peers.len(),
            "problems": snapshot.problems().len(),
        },
        "kernel": trouble(standing.kernel),
        "logLinesDropped": standing.lines_dropped,
        "wrong": wrong(standing),
    })
}

fn certificates(standing: &Standing<'_>) -> Value {
    let issued = standing.certificates.iter().filter_map(|(_, credentials)| credentials.as_ref());
    let first = issued.min_by_key(|credentials| credentials.svid.not_after);
    let first = first.map(|credentials| &credentials.svid);
    json!({
        "identities": standing.certificates.len(),
        "nextExpiry": first.map(|svid| humantime::format_rfc3339_seconds(svid.not_after).to_string()),
        "nextExpirySeconds": first.map(|svid| {
            svid.not_after.duration_since(standing.now).unwrap_or_default().as_secs()
        }),
        "nextIdentity": first.map(|svid| svid.identity.to_string()),
    })
}

fn trouble(kernel: &[(&'static str, u64)]) -> Map<String, Value> {
    let troubling = kernel.iter().filter(|(name, count)| TROUBLE.contains(name) && *count > 0);
    troubling.map(|(name, count)| ((*name).to_owned(), (*count).into())).collect()
}

/// Sentences, each of which somebody should do something about. Counters of the kernel are not among
/// them: they tell of the past as well.
fn wrong(standing: &Standing<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    if !standing.pending.is_empty() {
        wrong.push(format!("the agent is not ready, pending: {}", standing.pending.join(", ")));
    }
    let failed =
        standing.failed.iter().map(|(pod, why)| format!("{pod} cannot be enrolled: {why}"));
    wrong.extend(first(failed));
    let certificates = || standing.certificates.iter();
    let missing = certificates().filter(|(_, credentials)| credentials.is_none());
    wrong.extend(first(missing.map(|(identity, _)| format!("{identity} has no certificate yet"))));
    let expired = certificates().filter(|(_, credentials)| {
        credentials.as_ref().is_some_and(|held| held.svid.not_after <= standing.now)
    });
    let expired = expired.map(|(identity, _)| format!("the certificate of {identity} has expired"));
    wrong.extend(first(expired));
    let problems = standing.snapshot.problems().iter();
    wrong.extend(first(problems.map(|problem| format!("{}: {}", problem.origin, problem.text))));
    wrong
}

/// The first of a kind, and how many there are beside it.
fn first(mut sentences: impl Iterator<Item = String>) -> Option<String> {
    let first = sentences.next()?;
    match sentences.count() {
        0 => Some(first),
        more => Some(format!("{first} (and {more} more)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::{Origin, Problem};

    fn standing(snapshot: &Snapshot) -> Standing<'_> {
        Standing {
            node: "n1",
            uptime: Duration::from_secs(61),
            now: SystemTime::UNIX_EPOCH,
            draining: false,
            pending: &[],
            enrolled: 2,
            failed: &[],
            open: &[],
            tunnels: 0,
            certificates: &[],
            snapshot,
            kernel: &[("connect_refused", 3), ("connect_redirected", 9), ("lookup_no_agent", 0)],
            lines_dropped: 0,
        }
    }

    #[test]
    fn all_is_well_and_the_past_is_only_told() {
        let snapshot = Snapshot::default();
        let answer = status(&standing(&snapshot));
        assert_eq!(answer["wrong"], json!([]));
        assert_eq!(answer["state"], "ready");
        assert_eq!(answer["kernel"], json!({ "connect_refused": 3 }));
    }

    #[test]
    fn each_thing_that_is_wrong_is_named_once() {
        let origin = Origin { file: "m.yaml".into(), line: 3 };
        let problem = |text: &str| Problem { origin: origin.clone(), text: text.into() };
        let mut snapshot = Snapshot::default();
        snapshot.set_problems(vec![problem("bad"), problem("worse")], false);
        let answer = status(&Standing {
            pending: &["enrolment".into()],
            failed: &[("c//Pod/shop/web".into(), "no netns".into())],
            certificates: &[("spiffe://x/ns/a/sa/b".parse().unwrap(), None)],
            ..standing(&snapshot)
        });
        assert_eq!(
            answer["wrong"],
            json!([
                "the agent is not ready, pending: enrolment",
                "c//Pod/shop/web cannot be enrolled: no netns",
                "spiffe://x/ns/a/sa/b has no certificate yet",
                "m.yaml:3: bad (and 1 more)",
            ])
        );
        assert_eq!(answer["state"], "starting");
    }
}
