//! Shell: builds every room, spawns every long task, owns the order of stopping.
//! Never: a protocol detail.
use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use culvert_agent::{
    clock,
    drain::Drain,
    hbone::{
        Baggage,
        pool::{Pool, PoolLimits},
    },
    identity::{Identity, Keeper, Lease, ca::LocalCa},
    manifest::{self, Changes, Compiler, Folder, Known},
    process::{self, Stop, bind},
    telemetry::logging::Logging,
};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    sync::{Notify, watch},
};

use crate::{
    attachment::{self, Gateway},
    backend::Names,
    balance::Balance,
    config::{AccessFormat, Config},
    entrance::Entrance,
    exchange::{Copies, Exchange},
    explain::Waypoint,
    manifest as routes,
    mesh::{self, Mesh},
    operators::Operators,
    places::Places,
    record::{self, Telemetry},
    resolver::{self, Servers},
    upstream::{Own, Upstream},
};

/// The annotation of a Gateway whose endpoints are told who the client is.
const TELLS_CLIENTS: &str = "ambient.istio.io/xfcc-include-client-identity";
/// Pause before another connection is accepted when none could be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Runs the waypoint until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub fn run(path: &Path, manifests: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let mut config = Config::read(path)?;
    if let Some(manifests) = manifests {
        config.manifests.directory = manifests;
    }
    let address = config.check(path)?;
    let logging = Logging::start(config.log.format, &config.log.level)?;
    process::run(
        Builder::new_multi_thread().thread_name("waypoint"),
        &logging,
        waypoint(config, address, logging.clone()),
    )
}

async fn waypoint(config: Config, address: IpAddr, logging: Logging) -> anyhow::Result<()> {
    let (connections, background) = (Drain::default(), Drain::default());
    let (identity, keeper) = certificates(&config, &background)?;
    let lease = keeper.hold(&identity);
    let balance = Balance::default();
    let mesh = mesh(&config, address, &background, &balance).await?;
    let telemetry = telemetry(&config, &logging);
    let own =
        Own { identity, lease: lease.clone(), address: Some(address), baggage: baggage(&config) };
    let upstream = Upstream::new(own, pool(&config, &background), background.clone());
    let exchange = Exchange {
        mesh: mesh.clone(),
        upstream: upstream.clone(),
        telemetry: telemetry.clone(),
        places: Places::new(config.limits.max_requests),
        paths: config.path_normalization.into(),
        body_idle: config.limits.request_body_idle,
        copies: Copies::default(),
        drain: connections.clone(),
        background: background.clone(),
        balance: balance.clone(),
        retries: config.retries.into(),
    };
    let gateway = Arc::new(gateway(&config, address));
    let entrance = Entrance {
        mesh: mesh.clone(),
        gateway: gateway.clone(),
        lease: lease.clone(),
        baggage: Arc::new(baggage(&config)),
        exchange: Arc::new(exchange),
        places: Places::new(config.limits.max_connections),
        lately: Arc::default(),
        drain: connections.clone(),
    };
    let (ready, quit) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let operators = Operators {
        mesh,
        own: Waypoint { gateway, paths: config.path_normalization.into() },
        keeper,
        telemetry: telemetry.clone(),
        upstream,
        balance,
        config: Arc::new(serde_json::to_value(&config).context("write the configuration")?),
        logging,
        ready: ready.clone(),
        quit: quit.clone(),
    };
    start(&config, (entrance, operators), &lease, (&connections, &background)).await?;
    ready.store(true, Ordering::Relaxed);
    tracing::info!(listen = %config.listen.hbone, "ready");
    told_to_stop(&quit).await?;
    ready.store(false, Ordering::Relaxed);
    telemetry.begin_drain();
    stop(&connections, &background, config.shutdown.grace).await;
    Ok(())
}

/// Lets what has begun finish, for a while, and then ends what serves it.
async fn stop(connections: &Drain, background: &Drain, grace: Duration) {
    tracing::info!("stopping");
    let finished = connections.stop(grace).await;
    background.force();
    background.stop(Duration::ZERO).await;
    tracing::info!(finished, "stopped");
}

/// Waits for a signal, or for an operator.
async fn told_to_stop(quit: &Notify) -> anyhow::Result<()> {
    let mut stop = Stop::listen()?;
    tokio::select! {
        () = stop.told() => {}
        () = quit.notified() => {}
    }
    Ok(())
}

fn pool(config: &Config, background: &Drain) -> Pool {
    let limits = &config.limits;
    let limits = PoolLimits { connections: limits.max_tunnels, idle: limits.tunnel_idle };
    Pool::new(limits, background.clone())
}

fn certificates(config: &Config, background: &Drain) -> anyhow::Result<(Identity, Keeper)> {
    let identity = Identity::new(&config.trust_domain, &config.namespace, &config.service_account);
    let identity = identity.context("`trust_domain`, `namespace` and `service_account`")?;
    let ca = LocalCa::open(&config.ca.file, &config.trust_domain, config.ca.ttl, clock::wall())?;
    let ca = ca.with_aliases(config.trust_domain_aliases.clone());
    Ok((identity, Keeper::new(ca, config.ca.renew_at, background.clone())))
}

/// The folder, compiled: each change of it comes whole, and so do the addresses of names in it.
async fn mesh(
    config: &Config,
    address: IpAddr,
    background: &Drain,
    balance: &Balance,
) -> anyhow::Result<watch::Receiver<Arc<Mesh>>> {
    let settings = manifest::Settings {
        trust_domain: config.trust_domain.clone(),
        cluster: config.cluster.clone(),
        cluster_domain: config.cluster_domain.clone(),
        root_namespace: config.root_namespace.clone(),
    };
    let (mut compiler, mut known) = (Compiler::new(settings), Known::default());
    let gateway = gateway(config, address);
    let home: Arc<str> = format!("{}/{}", config.namespace, config.gateway).into();
    let mut routes = routes::Compiler::new(route_settings(config));
    let (balance, mut generation) = (balance.clone(), 0);
    let make = move |folder: &Folder, changes: &Changes| {
        let snapshot = compiler.apply(folder, changes);
        routes.set_names(attachment::names(&snapshot, &gateway));
        let routes::Compiled { table, backends, problems } =
            routes.apply(folder, changes, &snapshot);
        let problems = [snapshot.problems(), &problems].concat();
        known.report(&problems);
        tracing::info!(
            workloads = snapshot.workloads().len(),
            services = snapshot.count_services(),
            problems = problems.len(),
            "manifests read"
        );
        // What a service that is gone leaves behind would stay for ever.
        balance.retain(|backend| {
            snapshot.service_named(&backend.host).is_some()
                || snapshot.workload(&backend.host).is_some()
        });
        generation += 1;
        let here = snapshot.workload_at(address).cloned();
        let (namespace, name) = home.split_once('/').unwrap_or_default();
        let tells = compiler.annotation_of_gateway(namespace, name, TELLS_CLIENTS) == Some("true");
        let own = mesh::Own { gateway: home.clone(), tells_clients: tells };
        let names = Names::default();
        Mesh { snapshot, names, table, backends, problems, generation, here, own }
    };
    let declared = manifest::follow(&config.manifests.directory, background, make).await?;
    let servers = Servers { addresses: config.dns.clone(), own: address };
    Ok(resolver::follow(declared, &servers, background).await)
}

fn route_settings(config: &Config) -> routes::Settings {
    let namespace = config.namespace.clone();
    routes::Settings {
        cluster_domain: config.cluster_domain.clone(),
        root_namespace: config.root_namespace.clone(),
        waypoint: Some(routes::Waypoint { namespace, destinations: HashSet::new() }),
        source_labels: config.source_labels,
    }
}

fn telemetry(config: &Config, logging: &Logging) -> Arc<Telemetry> {
    let form = match config.access_log.format {
        AccessFormat::Text => Some(record::Form::Text),
        AccessFormat::Json => Some(record::Form::Json),
        AccessFormat::Off => None,
    };
    let log = form.map(|form| (form, logging.clone()));
    Arc::new(Telemetry::new(config.limits.max_metric_series, log))
}

fn gateway(config: &Config, address: IpAddr) -> Gateway {
    let Config { gateway, namespace, cluster_domain, .. } = config;
    let host = format!("{gateway}.{namespace}.svc.{cluster_domain}");
    Gateway { host: host.into(), address }
}

fn baggage(config: &Config) -> Baggage {
    Baggage {
        cluster: Some(config.cluster.clone()),
        namespace: Some(config.namespace.clone()),
        workload: Some(config.gateway.clone()),
        service: Some(config.gateway.clone()),
        revision: Some("latest".into()),
    }
}

/// Listens, once there is a certificate.
async fn start(
    config: &Config,
    (entrance, operators): (Entrance, Operators),
    lease: &Lease,
    (connections, background): (&Drain, &Drain),
) -> anyhow::Result<()> {
    let listen = &config.listen;
    let admin = bind("listen.admin", listen.admin).await?;
    let metrics = bind("listen.metrics", listen.metrics).await?;
    let ready = bind("listen.ready", listen.ready).await?;
    operators.serve([admin, metrics, ready], background);
    lease.ready().await;
    let tunnels = bind("listen.hbone", listen.hbone).await?;
    connections.spawn(accept(tunnels, entrance, connections.clone()));
    Ok(())
}

/// Accepts peers' connections until `drain` says stop.
async fn accept(listener: TcpListener, entrance: Entrance, drain: Drain) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.draining() => return,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Fails only for what is not a socket.
        let _ = stream.set_nodelay(true);
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        drain.spawn(entrance.clone().connection(stream, peer));
    }
}
