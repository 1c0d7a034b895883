//! Shell: builds every room, spawns every long task, owns the order of stopping.
//! Never: a protocol detail.
use std::{io::Write, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::{
    runtime::Builder,
    sync::{Notify, Semaphore, watch},
};

use crate::{
    clock,
    config::{CaptureMode, Config, SameNode},
    direct::Direct,
    discovery::Snapshot,
    drain::Drain,
    hbone::pool::{Pool, PoolLimits},
    identity::{Keeper, ca::LocalCa},
    inbound::Inbound,
    manifest,
    outbound::Outbound,
    process::{self, Stop, bind},
    redirect::{self, Arrival, Captured, Enrolment, LocalPod, LocalPods},
    relay,
    route::{Choice, Loads},
    telemetry::{
        Reason, Record, Telemetry,
        admin::{self, Admin, Readiness},
        dump::{View, dump},
        explain::explain,
        logging::Logging,
        status::{Standing, status},
    },
    workers::Workers,
};

/// Pause before pods that could not be enrolled are tried again, and before pods are looked at whose
/// network namespace was made anew.
const ENROL_PAUSE: Duration = Duration::from_secs(1);

const ENROLLED: &str = "enrolment";

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(
    path: &Path,
    manifests: Option<std::path::PathBuf>,
    node: Option<String>,
) -> anyhow::Result<ExitCode> {
    let mut config = Config::read(path)?;
    if let Some(manifests) = manifests {
        config.manifests.directory = manifests;
    }
    if let Some(node) = node {
        config.node = node;
    }
    config.check(path)?;
    let logging = Logging::start(config.log.format, &config.log.level)?;
    // Its connections are on threads of their own: see `workers`.
    process::run(&mut Builder::new_current_thread(), &logging, agent(config, logging.clone()))
}

/// Removes everything that agents with this configuration left in the kernel.
///
/// # Errors
/// When something cannot be removed.
pub fn unload(path: &Path) -> anyhow::Result<ExitCode> {
    let pin = Config::read(path)?.capture.pin;
    let removed = redirect::unload(&pin)?;
    writeln!(std::io::stdout(), "removed {removed} pins from {}", pin.display())?;
    Ok(ExitCode::SUCCESS)
}

/// Lists kernel features; fails when one is missing.
///
/// # Errors
/// When standard output is closed.
pub fn check(as_json: bool) -> anyhow::Result<ExitCode> {
    let features = redirect::features();
    let mut out = std::io::stdout();
    if as_json {
        let rows: Vec<_> = features
            .iter()
            .map(|f| json!({ "feature": f.name, "since": f.since, "present": f.present == Ok(true) }))
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
    } else {
        for feature in &features {
            let state = match &feature.present {
                Ok(true) => "present".to_owned(),
                Ok(false) => format!("MISSING, since Linux {}", feature.since),
                Err(why) => format!("UNKNOWN ({why}), since Linux {}", feature.since),
            };
            writeln!(out, "{:<48} {state}", feature.name)?;
        }
    }
    let whole = features.iter().all(|feature| feature.present == Ok(true));
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn agent(config: Config, logging: Logging) -> anyhow::Result<()> {
    let (connections, background) = (Drain::default(), Drain::default());
    let limits = &config.limits;
    let telemetry = Arc::new(Telemetry::new(limits.max_metric_series, limits.metric_expiry));
    let now = clock::wall();
    let ca = LocalCa::open(&config.ca.file, &config.trust_domain, config.ca.ttl, now)?;
    let keeper = Keeper::new(ca, config.ca.renew_at, background.clone());
    let directory = &config.manifests.directory;
    let snapshot = manifest::watch(directory, manifest_settings(&config), &background).await?;
    let limits =
        PoolLimits { connections: config.limits.max_tunnels, idle: config.limits.tunnel_idle };
    let pool = Pool::new(limits, background.clone());
    background.spawn(telemetry.clone().forget_the_gone(snapshot.clone()));
    let (enrolled, pods) = watch::channel(LocalPods::new());
    let inbound = Arc::new(Inbound {
        snapshot: snapshot.clone(),
        telemetry: telemetry.clone(),
        places: Arc::new(Semaphore::new(config.limits.max_connections)),
        cluster: config.cluster.as_str().into(),
        drain: connections.clone(),
    });
    let workers = Workers::start(config.workers).context("start the workers")?;
    let enrolment = Enrolment::open(
        config.node.clone(),
        capture_settings(&config),
        config.capture.mode == CaptureMode::All,
        (connections.clone(), workers),
    )?;
    enrolment.follow_kernel_log(&background);
    let loads = Loads::default();
    let direct = direct(&config, (&inbound, &pods, &loads), &enrolment, &background)?;
    let stories = Arc::new(Stories::new(inbound, &pool, &pods, loads, direct.clone()));
    let operators = Operators {
        config: &config,
        telemetry: telemetry.clone(),
        keeper: keeper.clone(),
        snapshot: snapshot.clone(),
        logging,
        pool,
        background: background.clone(),
        pods,
    };
    let (readiness, quit) = operators.start(&enrolment).await?;
    let node = Node { enrolment, keeper, stories, readiness, pods: enrolled };
    let stopped = Box::pin(node.follow(snapshot, &quit)).await;
    tracing::info!("stopping");
    telemetry.begin_drain();
    let finished = connections.stop(config.shutdown.grace).await;
    if let Some(direct) = &direct {
        direct.cut().await;
    }
    background.force();
    background.stop(Duration::ZERO).await;
    tracing::info!(finished, "stopped");
    stopped
}

/// What lets pods of this node reach each other without the agent, unless they are to use tunnels.
fn direct(
    config: &Config,
    (inbound, pods, loads): (&Arc<Inbound>, &watch::Receiver<LocalPods>, &Loads),
    enrolment: &Enrolment,
    background: &Drain,
) -> anyhow::Result<Option<Direct>> {
    // Opened in any case: an earlier agent may have been configured otherwise.
    let shortcuts = enrolment.shortcuts()?;
    let leaves = config.same_node == SameNode::Kernel;
    let events = shortcuts.events()?;
    let direct = Direct::new(inbound.clone(), pods.clone(), loads.clone(), (shortcuts, leaves))?;
    background.spawn(direct.clone().follow(events));
    inbound.drain.spawn(direct.clone().finish(inbound.drain.clone()));
    Ok((config.same_node != SameNode::Hbone).then_some(direct))
}

/// What becomes of captured connections.
struct Stories {
    places: Arc<Semaphore>,
    outbound: Outbound,
    inbound: Arc<Inbound>,
}

impl Stories {
    fn new(
        inbound: Arc<Inbound>,
        pool: &Pool,
        pods: &watch::Receiver<LocalPods>,
        loads: Loads,
        joining: Option<Direct>,
    ) -> Self {
        let outbound = Outbound {
            snapshot: inbound.snapshot.clone(),
            pool: pool.clone(),
            loads,
            telemetry: inbound.telemetry.clone(),
            cluster: inbound.cluster.clone(),
            pods: pods.clone(),
            joining,
        };
        Self { places: inbound.places.clone(), outbound, inbound }
    }

    async fn serve(self: Arc<Self>, pod: Arc<LocalPod>, arrival: Arrival, captured: Captured) {
        let Ok(_place) = self.places.try_acquire() else {
            let flow = &captured.flow;
            let record = Record::open(
                &self.outbound.telemetry,
                flow.direction,
                flow.source,
                flow.destination,
            );
            relay::reset(captured.stream);
            return record.end(Reason::LimitExceeded, Some("limits.max_connections".into()));
        };
        match arrival {
            Arrival::Outbound => self.outbound.serve(pod, captured).await,
            // Boxed, because each of them would keep as much room as the largest.
            Arrival::Hbone => Box::pin(self.inbound.clone().tunnels(pod, captured)).await,
            Arrival::Plain => Box::pin(self.inbound.plain(pod, captured)).await,
        }
    }
}

/// Follows the mesh for this node's pods.
struct Node {
    enrolment: Enrolment,
    keeper: Keeper,
    stories: Arc<Stories>,
    readiness: Readiness,
    pods: watch::Sender<LocalPods>,
}

impl Node {
    /// Applies each snapshot, and what failed again, until a signal or an operator says stop.
    async fn follow(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        quit: &Notify,
    ) -> anyhow::Result<()> {
        let mut stop = Stop::listen()?;
        let mut whole = false;
        loop {
            if !whole || snapshots.has_changed().unwrap_or(true) || !self.enrolment.is_current() {
                let snapshot = snapshots.borrow_and_update().clone();
                whole = self.apply(&snapshot).await?;
            }
            self.enrolment.forget_released()?;
            tokio::select! {
                changed = snapshots.changed() => {
                    changed.context("the manifests are no longer followed")?;
                    whole = false;
                }
                () = tokio::time::sleep(ENROL_PAUSE) => {}
                () = stop.told() => return Ok(()),
                () = quit.notified() => return Ok(()),
            }
        }
    }

    /// Says whether every pod that should be enrolled is.
    async fn apply(&mut self, snapshot: &Snapshot) -> anyhow::Result<bool> {
        let stories = self.stories.clone();
        let serve = move |pod, arrival, captured| stories.clone().serve(pod, arrival, captured);
        let keeper = self.keeper.clone();
        // Before another pod can be enrolled with an address that wandered, and once it is.
        self.judge_direct();
        let failed = self.enrolment.apply(snapshot, |w| keeper.hold(&w.identity), serve).await?;
        self.pods.send_replace(self.enrolment.pods());
        self.judge_direct();
        self.report(&failed);
        for (pod, error) in &failed {
            let error = anyhow::format_err!("{error}");
            tracing::warn!(%pod, "cannot enrol: {error:#}");
        }
        if failed.is_empty() {
            self.readiness.done(ENROLLED);
        }
        Ok(failed.is_empty())
    }

    fn judge_direct(&self) {
        if let Some(direct) = &self.stories.outbound.joining {
            direct.judge();
        }
    }

    fn report(&self, failed: &[(Arc<str>, redirect::Error)]) {
        let why = |error: &redirect::Error| match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        let failed = failed.iter().map(|(pod, error)| (pod.clone(), why(error))).collect();
        let pods = self.stories.outbound.telemetry.pods();
        pods.update(self.pods.borrow().keys().cloned(), failed);
    }
}

/// What operators see.
struct Operators<'a> {
    config: &'a Config,
    telemetry: Arc<Telemetry>,
    keeper: Keeper,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    logging: Logging,
    pool: Pool,
    background: Drain,
    pods: watch::Receiver<LocalPods>,
}

impl Operators<'_> {
    async fn start(self, enrolment: &Enrolment) -> anyhow::Result<(Readiness, Arc<Notify>)> {
        let listen = &self.config.listen;
        let admin_listener = bind("listen.admin", listen.admin).await?;
        let metrics_listener = bind("listen.metrics", listen.metrics).await?;
        let ready_listener = bind("listen.ready", listen.ready).await?;
        let quit = Arc::new(Notify::new());
        let readiness = Readiness::waiting_for([ENROLLED]);
        self.observe(enrolment, self.pods.clone());
        let join = self.config.same_node != SameNode::Hbone;
        let (dump, status) = (self.dump()?, self.status(enrolment, readiness.clone()));
        let (explained, held, stop) = (self.snapshot, enrolment.held(), quit.clone());
        let admin = Arc::new(Admin {
            explain: Box::new(move |source, destination| {
                let choice = Choice { join, held: &held, ..Choice::default() };
                explain(&explained.borrow(), &choice, (source, destination))
            }),
            dump: Box::new(dump),
            status: Box::new(status),
            kernel: Box::new(enrolment.counters()),
            quit: Box::new(move || stop.notify_one()),
            logging: self.logging,
        });
        let background = self.background;
        background.spawn(admin.serve(admin_listener, background.clone()));
        let metrics = admin::serve_metrics(metrics_listener, self.telemetry, background.clone());
        background.spawn(metrics);
        let ready = admin::serve_readiness(ready_listener, readiness.clone(), background.clone());
        background.spawn(ready);
        Ok((readiness, quit))
    }

    fn dump(&self) -> anyhow::Result<impl Fn() -> Value + Send + Sync + use<>> {
        let config = serde_json::to_value(self.config).context("write the configuration")?;
        let (snapshot, keeper) = (self.snapshot.clone(), self.keeper.clone());
        let (telemetry, pods) = (self.telemetry.clone(), self.pods.clone());
        Ok(move || {
            let snapshot = snapshot.borrow().clone();
            let local: Vec<_> = pods.borrow().values().map(|pod| pod.workload().clone()).collect();
            dump(&View {
                snapshot: &snapshot,
                certificates: &keeper.certificates(),
                pods: &local,
                open: &telemetry.open_connections().all(),
                config: &config,
                now: clock::now(),
            })
        })
    }

    fn status(
        &self,
        enrolment: &Enrolment,
        readiness: Readiness,
    ) -> impl Fn() -> Value + Send + Sync + use<> {
        let (began, node, kernel) = (clock::now(), self.config.node.clone(), enrolment.counters());
        let (snapshot, keeper) = (self.snapshot.clone(), self.keeper.clone());
        let (telemetry, logging) = (self.telemetry.clone(), self.logging.clone());
        let pool = self.pool.clone();
        move || {
            let snapshot = snapshot.borrow().clone();
            status(&Standing {
                node: &node,
                uptime: clock::now().saturating_duration_since(began),
                now: clock::wall(),
                draining: telemetry.is_draining(),
                pending: &readiness.pending(),
                enrolled: telemetry.pods().enrolled(),
                failed: &telemetry.pods().failed(),
                open: &telemetry.open_connections().all(),
                tunnels: pool.connections(),
                certificates: &keeper.certificates(),
                snapshot: &snapshot,
                kernel: &kernel(),
                lines_dropped: logging.dropped(),
            })
        }
    }

    fn observe(&self, enrolment: &Enrolment, pods: watch::Receiver<LocalPods>) {
        let (pool, logging) = (self.pool.clone(), self.logging.clone());
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.telemetry.observe(enrolment.counters(), move || {
            vec![
                ("workload_manager_active_proxy_count", count(pods.borrow().len())),
                ("culvert_tunnels_open", count(pool.connections())),
                ("culvert_log_lines_dropped", i64::try_from(logging.dropped()).unwrap_or(i64::MAX)),
            ]
        });
    }
}

fn manifest_settings(config: &Config) -> manifest::Settings {
    manifest::Settings {
        trust_domain: config.trust_domain.clone(),
        cluster: config.cluster.clone(),
        cluster_domain: config.cluster_domain.clone(),
        root_namespace: config.root_namespace.clone(),
    }
}

fn capture_settings(config: &Config) -> redirect::Settings {
    let capture = &config.capture;
    let (pods, node) = redirect::default_cgroups();
    redirect::Settings {
        pin: capture.pin.clone(),
        pods_cgroup: capture.pods_cgroup.clone().unwrap_or(pods),
        node_cgroup: capture.node_cgroup.clone().unwrap_or(node),
        congestion_control: match config.congestion_control.as_str() {
            "system" => None,
            name => Some(name.into()),
        },
    }
}
