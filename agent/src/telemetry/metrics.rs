//! Shell: Istio's traffic metrics, and the agent's own.
//! Never: more series than the named limit.
use std::{
    collections::HashSet,
    fmt::{self, Debug},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

use super::{
    reason::Reason,
    record::{Party, Protocol},
};
use crate::{discovery::Service, flow::Direction};

/// The labels of traffic metrics: Istio's names, so that its dashboards work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TrafficLabels {
    reporter: &'static str,
    source_workload: String,
    source_canonical_service: String,
    source_canonical_revision: String,
    source_workload_namespace: String,
    source_principal: String,
    source_app: String,
    source_version: String,
    source_cluster: String,
    destination_service: String,
    destination_service_namespace: String,
    destination_service_name: String,
    destination_workload: String,
    destination_canonical_service: String,
    destination_canonical_revision: String,
    destination_workload_namespace: String,
    destination_principal: String,
    destination_app: String,
    destination_version: String,
    destination_cluster: String,
    request_protocol: &'static str,
    response_flags: &'static str,
    connection_security_policy: &'static str,
}

impl TrafficLabels {
    /// Labels of a connection that goes well.
    pub fn new(
        direction: Direction,
        protocol: Protocol,
        (source, destination): (&Party, &Party),
        service: Option<&Service>,
    ) -> Self {
        let (s, d) = (Side::of(source), Side::of(destination));
        let text = |value: Option<&str>| value.unwrap_or("unknown").to_owned();
        let configured = destination.workload.as_ref().map(|workload| &workload.identity);
        Self {
            reporter: match direction {
                Direction::Outbound => "source",
                Direction::Inbound => "destination",
            },
            source_principal: principal(source.identity.as_ref()),
            source_workload: s.workload.clone(),
            source_workload_namespace: s.namespace,
            source_canonical_service: s.service.clone(),
            source_canonical_revision: s.revision.clone(),
            source_app: s.service,
            source_version: s.revision,
            source_cluster: s.cluster,
            destination_service: text(service.map(|service| &*service.hostname)),
            destination_service_namespace: text(service.map(|service| &*service.namespace)),
            destination_service_name: text(service.map(|service| &*service.name)),
            destination_principal: principal(destination.identity.as_ref().or(configured)),
            destination_workload: d.workload,
            destination_workload_namespace: d.namespace,
            destination_canonical_service: d.service.clone(),
            destination_canonical_revision: d.revision.clone(),
            destination_app: d.service,
            destination_version: d.revision,
            destination_cluster: d.cluster,
            request_protocol: "tcp",
            response_flags: "-",
            connection_security_policy: match protocol {
                Protocol::Hbone => "mutual_tls",
                Protocol::Direct => "same_node",
                Protocol::Tcp => "unknown",
            },
        }
    }

    /// Where series beyond the limit are counted.
    fn folded(&self) -> Self {
        Self {
            reporter: self.reporter,
            source_workload: "other".into(),
            destination_workload: "other".into(),
            request_protocol: "tcp",
            response_flags: self.response_flags,
            connection_security_policy: self.connection_security_policy,
            ..Self::default()
        }
    }
}

fn principal(identity: Option<&crate::identity::Identity>) -> String {
    identity.map_or_else(|| "unknown".into(), ToString::to_string)
}

struct Side {
    workload: String,
    namespace: String,
    service: String,
    revision: String,
    cluster: String,
}

impl Side {
    fn of(party: &Party) -> Self {
        let known = party.workload.as_deref();
        let told = party.baggage.as_ref();
        let pick = |known: Option<&str>, told: Option<&str>| {
            known.or(told).unwrap_or("unknown").to_owned()
        };
        Self {
            workload: pick(
                known.map(|w| &*w.workload_name),
                told.and_then(|b| b.workload.as_deref()),
            ),
            namespace: pick(
                known.map(|w| &*w.namespace),
                told.and_then(|b| b.namespace.as_deref()),
            ),
            service: pick(
                known.map(|w| &*w.canonical_name),
                told.and_then(|b| b.service.as_deref()),
            ),
            revision: pick(
                known.map(|w| &*w.canonical_revision),
                told.and_then(|b| b.revision.as_deref()),
            ),
            cluster: pick(
                known.and_then(|w| w.uid.split("//").next()),
                told.and_then(|b| b.cluster.as_deref()),
            ),
        }
    }
}

/// The counters of one combination of labels, fetched once per connection.
#[derive(Clone, Debug)]
pub struct Series {
    pub(super) opened: Counter,
    closed: Counter,
    sent: Counter,
    received: Counter,
}

/// A label `reporter`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    component: &'static str,
    tag: &'static str,
}

/// All metrics of the agent.
#[derive(Debug)]
pub struct Telemetry {
    registry: Mutex<Registry>,
    opened: Family<TrafficLabels, Counter>,
    closed: Family<TrafficLabels, Counter>,
    failed: Family<TrafficLabels, Counter>,
    sent: Family<TrafficLabels, Counter>,
    received: Family<TrafficLabels, Counter>,
    known: Mutex<HashSet<TrafficLabels>>,
    max_series: usize,
    folded: Counter,
    open_connections: Gauge<i64, AtomicI64>,
    draining: AtomicBool,
}

impl Telemetry {
    /// Metrics with at most `max_series` combinations of traffic labels.
    pub fn new(max_series: usize) -> Self {
        let mut registry = Registry::default();
        let telemetry = Self {
            registry: Mutex::default(),
            opened: Family::default(),
            closed: Family::default(),
            failed: Family::default(),
            sent: Family::default(),
            received: Family::default(),
            known: Mutex::default(),
            max_series,
            folded: Counter::default(),
            open_connections: Gauge::default(),
            draining: AtomicBool::new(false),
        };
        let istio = registry.sub_registry_with_prefix("istio_tcp");
        istio.register("connections_opened", "Connections opened", telemetry.opened.clone());
        istio.register("connections_closed", "Connections closed", telemetry.closed.clone());
        istio.register("connections_failed", "Connections that failed", telemetry.failed.clone());
        istio.register("sent_bytes", "Bytes sent to clients, in answers", telemetry.sent.clone());
        istio.register(
            "received_bytes",
            "Bytes received from clients, in requests",
            telemetry.received.clone(),
        );
        let build = Family::<BuildLabels, Gauge>::default();
        build
            .get_or_create(&BuildLabels {
                component: "culvert-agent",
                tag: env!("CARGO_PKG_VERSION"),
            })
            .set(1);
        registry.register("istio_build", "Build of this component", build);
        registry.register(
            "culvert_connections_open",
            "Connections that the agent carries at the moment",
            telemetry.open_connections.clone(),
        );
        registry.register(
            "culvert_metrics_folded",
            "Connections counted under other labels, because limits.max_metric_series is reached",
            telemetry.folded.clone(),
        );
        *telemetry.registry.lock().unwrap_or_else(PoisonError::into_inner) = registry;
        telemetry
    }

    /// Adds figures that are read when somebody asks for them.
    pub fn observe(
        &self,
        kernel: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
        gauges: impl Fn() -> Vec<(&'static str, i64)> + Send + Sync + 'static,
    ) {
        let collector = Observed { kernel: Box::new(kernel), gauges: Box::new(gauges) };
        self.registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .register_collector(Box::new(collector));
    }

    /// Everything, in OpenMetrics' text form.
    ///
    /// # Errors
    /// When a figure cannot be written.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(text)
    }

    /// From here on a connection that is dropped was drained.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn connection_begins(&self) {
        self.open_connections.inc();
    }

    pub(super) fn series(&self, labels: &TrafficLabels) -> Series {
        let labels = self.within_budget(labels);
        Series {
            opened: self.opened.get_or_create(&labels).clone(),
            closed: self.closed.get_or_create(&labels).clone(),
            sent: self.sent.get_or_create(&labels).clone(),
            received: self.received.get_or_create(&labels).clone(),
        }
    }

    /// `up` are the client's bytes, `down` the server's.
    pub(super) fn connection_ends(
        &self,
        series: &Series,
        reason: Reason,
        labels: &TrafficLabels,
        (up, down): (u64, u64),
    ) {
        self.open_connections.dec();
        series.received.inc_by(up);
        series.sent.inc_by(down);
        let flags = reason.response_flags();
        if flags == "-" {
            series.closed.inc();
            return;
        }
        let labels = self.within_budget(&TrafficLabels { response_flags: flags, ..labels.clone() });
        self.closed.get_or_create(&labels).inc();
        self.failed.get_or_create(&labels).inc();
    }

    fn within_budget(&self, labels: &TrafficLabels) -> TrafficLabels {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(labels) {
            return labels.clone();
        }
        if known.len() < self.max_series {
            known.insert(labels.clone());
            return labels.clone();
        }
        self.folded.inc();
        labels.folded()
    }
}

/// Figures that others keep.
struct Observed {
    kernel: Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
    gauges: Box<dyn Fn() -> Vec<(&'static str, i64)> + Send + Sync>,
}

impl Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").finish_non_exhaustive()
    }
}

impl Collector for Observed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "culvert_kernel_events",
            "Runs of the kernel's programs, by the way that they ended",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in (self.kernel)() {
            let labels = [("reason", reason)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        for (name, value) in (self.gauges)() {
            let metric =
                encoder.encode_descriptor(name, "At the moment", None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(source: usize) -> TrafficLabels {
        let mut labels = TrafficLabels::new(
            Direction::Outbound,
            Protocol::Hbone,
            (&Party::default(), &Party::default()),
            None,
        );
        labels.source_workload = format!("w{source}");
        labels
    }

    #[test]
    fn series_beyond_the_limit_are_counted_together() {
        let telemetry = Telemetry::new(3);
        for source in 0..10 {
            telemetry.series(&labels(source)).opened.inc();
        }
        let text = telemetry.encode().unwrap();
        let lines = text.lines().filter(|l| l.starts_with("istio_tcp_connections_opened_total{"));
        assert_eq!(lines.count(), 4, "{text}");
        assert!(text.contains("culvert_metrics_folded_total 7"), "{text}");
    }

    #[test]
    fn a_failed_connection_is_closed_and_failed_with_its_flag() {
        let telemetry = Telemetry::new(100);
        let series = telemetry.series(&labels(1));
        telemetry.connection_begins();
        telemetry.connection_ends(&series, Reason::ConnectTimeout, &labels(1), (5, 7));
        let text = telemetry.encode().unwrap();
        let failed = text.lines().find(|l| l.starts_with("istio_tcp_connections_failed_total{"));
        assert!(failed.unwrap().contains("response_flags=\"NETWORK_POLICY\""), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
