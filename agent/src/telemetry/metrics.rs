//! Shell: Istio's traffic metrics, and the agent's own.
//! Never: more series than the named limit.
use std::{
    fmt::{self, Debug},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        MetricType,
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};
use tokio::sync::watch;

use super::{
    book::{Book, Counts, Owner},
    labels::TrafficLabels,
    open::OpenConnections,
    pods::Pods,
    reason::Reason,
};
use crate::{clock, discovery::Snapshot, flow::Direction};

/// Gone workloads are looked for so many times within the time after which their series expire.
const LOOKS: u32 = 10;
/// The shortest pause between two looks.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// The build of a component.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    component: &'static str,
    tag: &'static str,
}

/// Which side of a connection reports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReporterLabels {
    reporter: &'static str,
}

/// All metrics of the agent, and the connections that are open.
#[derive(Debug)]
pub struct Telemetry {
    registry: Mutex<Registry>,
    traffic: Arc<Mutex<Book>>,
    expiry: Duration,
    open: OpenConnections,
    pods: Pods,
    sockets: Family<ReporterLabels, Gauge>,
    carried: Gauge<i64, AtomicI64>,
    draining: AtomicBool,
}

impl Telemetry {
    /// Metrics of at most `max_series` series of traffic; those of workloads that are gone are
    /// removed after `expiry`.
    pub fn new(max_series: usize, expiry: Duration) -> Self {
        let traffic = Arc::new(Mutex::new(Book::new(max_series)));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Traffic(traffic.clone())));
        let pods = Pods::default();
        registry.register_collector(Box::new(pods.clone()));
        let (sockets, carried) = (Family::default(), Gauge::default());
        registry.register(
            "istio_tcp_sockets_open",
            "Connections that the agent carries at the moment, by reporter",
            sockets.clone(),
        );
        registry.register(
            "culvert_connections_open",
            "Connections that the agent carries at the moment",
            carried.clone(),
        );
        let build = Family::<BuildLabels, Gauge>::default();
        let labels = BuildLabels { component: "culvert-agent", tag: env!("CARGO_PKG_VERSION") };
        build.get_or_create(&labels).set(1);
        registry.register("istio_build", "Build of this component", build);
        Self {
            registry: Mutex::new(registry),
            traffic,
            expiry,
            open: OpenConnections::default(),
            pods,
            sockets,
            carried,
            draining: AtomicBool::new(false),
        }
    }

    /// Adds figures that are read when somebody asks for them.
    pub fn observe(
        &self,
        kernel: impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + 'static,
        gauges: impl Fn() -> Vec<(&'static str, i64)> + Send + Sync + 'static,
    ) {
        let collector = Observed { kernel: Box::new(kernel), gauges: Box::new(gauges) };
        lock(&self.registry).register_collector(Box::new(collector));
    }

    /// Everything, in OpenMetrics' text form.
    ///
    /// # Errors
    /// When a figure cannot be written.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &lock(&self.registry))?;
        Ok(text)
    }

    /// The connections that are open now.
    pub fn open_connections(&self) -> &OpenConnections {
        &self.open
    }

    /// The pods of this node.
    pub fn pods(&self) -> &Pods {
        &self.pods
    }

    /// Removes the series of workloads that are gone, for as long as it runs.
    pub async fn forget_the_gone(self: Arc<Self>, snapshot: watch::Receiver<Arc<Snapshot>>) {
        loop {
            tokio::time::sleep((self.expiry / LOOKS).max(SHORTEST_PAUSE)).await;
            let current = snapshot.borrow().clone();
            self.expire(&current, clock::now());
        }
    }

    /// What a damaged folder does not name may exist all the same.
    fn expire(&self, snapshot: &Snapshot, now: Instant) {
        if snapshot.is_partial() {
            return;
        }
        let owner = |workload: &crate::discovery::Workload| -> Owner {
            (workload.namespace.clone(), workload.workload_name.clone())
        };
        let alive = snapshot.workloads().map(|workload| owner(workload)).collect();
        lock(&self.traffic).expire(&alive, now, self.expiry);
    }

    /// From here on a connection that is dropped was drained.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the agent is about to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn connection_begins(&self, direction: Direction) {
        self.sockets.get_or_create(&reporter(direction)).inc();
        self.carried.inc();
    }

    /// Where a connection with these labels, between workloads of these owners, is counted.
    pub(super) fn enter(&self, labels: TrafficLabels, owners: Vec<Owner>) -> Arc<TrafficLabels> {
        lock(&self.traffic).enter(labels, owners)
    }

    /// The same for a connection that is through.
    pub(super) fn connection_opened(
        &self,
        labels: TrafficLabels,
        owners: Vec<Owner>,
    ) -> Arc<TrafficLabels> {
        let mut book = lock(&self.traffic);
        let account = book.enter(labels, owners);
        book.opened(&account);
        account
    }

    /// `up` are the client's bytes, `down` the server's.
    pub(super) fn connection_ends(
        &self,
        direction: Direction,
        account: &Arc<TrafficLabels>,
        reason: Reason,
        (up, down): (u64, u64),
    ) {
        self.sockets.get_or_create(&reporter(direction)).dec();
        self.carried.dec();
        lock(&self.traffic).leave(account, reason.response_flags(), (up, down));
    }
}

fn reporter(direction: Direction) -> ReporterLabels {
    ReporterLabels {
        reporter: match direction {
            Direction::Outbound => "source",
            Direction::Inbound => "destination",
        },
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The families of traffic. All of one answer are of one moment, so that no connection that changes
/// its place meanwhile is counted twice.
#[derive(Debug)]
struct Traffic(Arc<Mutex<Book>>);

type Rows = Vec<(Arc<TrafficLabels>, Counts)>;

impl Collector for Traffic {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (rows, folded, evicted) = {
            let book = lock(&self.0);
            (book.rows(), book.folded, book.evicted)
        };
        for (name, help, count) in SIMPLE {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, counts) in &rows {
                ConstCounter::new(count(counts)).encode(family.encode_family(&**labels)?)?;
            }
        }
        encode_ended(&rows, &mut encoder)?;
        for (name, help, count) in [
            (
                "culvert_metrics_folded",
                "Connections counted under other labels for want of room: limits.max_metric_series.",
                folded,
            ),
            (
                "culvert_metrics_evicted",
                "Label sets that made room for others; what they had counted is counted under other labels: limits.max_metric_series.",
                evicted,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(metric)?;
        }
        Ok(())
    }
}

type Simple = (&'static str, &'static str, fn(&Counts) -> u64);

/// Families whose flag is always that of a connection that goes well.
const SIMPLE: [Simple; 3] = [
    ("istio_tcp_connections_opened", "Connections opened.", |counts| counts.opened),
    ("istio_tcp_sent_bytes", "Bytes sent to clients, in answers.", |counts| counts.sent),
    ("istio_tcp_received_bytes", "Bytes received from clients, in requests.", |counts| {
        counts.received
    }),
];

fn encode_ended(rows: &Rows, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let name = "istio_tcp_connections_closed";
    let mut family =
        encoder.encode_descriptor(name, "Connections closed.", None, MetricType::Counter)?;
    for (labels, counts) in rows {
        for (flags, count) in &counts.ended {
            let labels = labels.with_flags(flags);
            ConstCounter::new(*count).encode(family.encode_family(&*labels)?)?;
        }
    }
    let name = "istio_tcp_connections_failed";
    let mut family =
        encoder.encode_descriptor(name, "Connections that failed.", None, MetricType::Counter)?;
    for (labels, counts) in rows {
        for (flags, count) in counts.failed() {
            let labels = labels.with_flags(flags);
            ConstCounter::new(count).encode(family.encode_family(&*labels)?)?;
        }
    }
    Ok(())
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

    fn telemetry() -> Telemetry {
        Telemetry::new(1000, Duration::from_secs(300))
    }

    #[test]
    fn a_failed_connection_is_closed_and_failed_with_its_flag() {
        let telemetry = telemetry();
        telemetry.connection_begins(Direction::Outbound);
        let account = telemetry.enter(TrafficLabels::of_source("w1"), Vec::new());
        let reason = Reason::ConnectTimeout;
        telemetry.connection_ends(Direction::Outbound, &account, reason, (5, 7));
        let text = telemetry.encode().unwrap();
        let failed = text.lines().find(|l| l.starts_with("istio_tcp_connections_failed_total{"));
        assert!(failed.unwrap().contains("response_flags=\"NETWORK_POLICY\""), "{text}");
        assert!(text.contains("istio_tcp_sockets_open{reporter=\"source\"} 0\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn labels_stand_in_istios_order() {
        let telemetry = telemetry();
        telemetry.enter(TrafficLabels::of_source("w1"), Vec::new());
        let text = telemetry.encode().unwrap();
        let line =
            text.lines().find(|line| line.starts_with("istio_tcp_connections_opened_total{"));
        let names: Vec<_> = line
            .unwrap()
            .split(['{', ','])
            .filter_map(|part| Some(part.split_once('=')?.0))
            .collect();
        assert_eq!(names.len(), 27, "{names:?}");
        assert_eq!((names[0], names[23]), ("reporter", "source_region"));
        assert_eq!(
            &names[22..],
            [
                "connection_security_policy",
                "source_region",
                "source_zone",
                "destination_region",
                "destination_zone",
            ]
        );
    }
}
