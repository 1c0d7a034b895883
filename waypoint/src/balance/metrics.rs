//! Shell: backends in Prometheus' text format, under the names that Envoy's users search for.
//! Never: more than a fixed number of series for each.
use std::{
    fmt::Write,
    sync::{Arc, atomic::Ordering},
};

use super::{
    backends::{Balance, Group},
    limits::Kind,
};

/// The most backends that are written; others are counted.
const MOST: usize = 1_000;

/// A family: its name, its kind, and what it says of a backend.
type Family = (&'static str, &'static str, fn(&Group) -> u64);

const FAMILIES: [Family; 16] = [
    ("envoy_cluster_membership_total", "gauge", |group| group.look(|b| b.hosts().len() as u64)),
    ("envoy_cluster_membership_healthy", "gauge", |group| {
        group.look(|b| (b.hosts().len() - b.ejected()) as u64)
    }),
    ("envoy_cluster_outlier_detection_ejections_active", "gauge", |group| {
        group.look(|b| b.ejected() as u64)
    }),
    ("envoy_cluster_outlier_detection_ejections_enforced_total", "counter", |group| {
        group.look(|b| b.ejections().made)
    }),
    ("envoy_cluster_outlier_detection_ejections_overflow", "counter", |group| {
        group.look(|b| b.ejections().overflowed)
    }),
    ("envoy_cluster_upstream_cx_active", "gauge", |group| group.taken(Kind::Connection).into()),
    ("envoy_cluster_upstream_rq_pending_active", "gauge", |group| {
        group.taken(Kind::Pending).into()
    }),
    ("envoy_cluster_upstream_rq_active", "gauge", |group| group.taken(Kind::Request).into()),
    ("envoy_cluster_upstream_cx_overflow", "counter", |g| g.limits.refused(Kind::Connection)),
    ("envoy_cluster_upstream_rq_pending_overflow", "counter", |group| {
        group.limits.refused(Kind::Pending) + group.limits.refused(Kind::Request)
    }),
    ("envoy_cluster_upstream_rq_retry", "counter", |g| g.retries.begun.load(Ordering::Relaxed)),
    ("envoy_cluster_upstream_rq_retry_success", "counter", |group| {
        group.retries.good.load(Ordering::Relaxed)
    }),
    ("envoy_cluster_upstream_rq_retry_limit_exceeded", "counter", |group| {
        group.retries.exhausted.load(Ordering::Relaxed)
    }),
    ("envoy_cluster_upstream_rq_retry_overflow", "counter", |g| g.limits.refused(Kind::Retry)),
    ("culvert_retries_active", "gauge", |group| group.taken(Kind::Retry).into()),
    ("culvert_concurrency_limit", "gauge", |group| group.found_out().unwrap_or_default().into()),
];

impl Balance {
    /// All backends that something went to.
    pub fn metrics(&self) -> String {
        let groups = self.groups();
        let shown: Vec<(String, &Arc<Group>)> =
            groups.iter().take(MOST).map(|group| (group.cluster(), group)).collect();
        let mut text = String::new();
        // Text takes everything.
        for (name, kind, value) in FAMILIES {
            let _ = writeln!(text, "# TYPE {name} {kind}");
            for (cluster, group) in &shown {
                let _ = writeln!(text, "{name}{{cluster_name=\"{cluster}\"}} {}", value(group));
            }
        }
        let left = groups.len() - shown.len();
        let _ = writeln!(
            text,
            "# TYPE culvert_backends_not_shown gauge\nculvert_backends_not_shown {left}"
        );
        text
    }
}
