//! Shell: looks up the host names of endpoints, again as their answers end, and makes of each mesh one that
//! knows their addresses.
//! Never: on the way of a request; a name on behalf of a client.
mod schedule;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use culvert_agent::{clock, drain::Drain};
use futures_util::{
    StreamExt,
    future::{BoxFuture, FutureExt},
    stream::FuturesUnordered,
};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use tokio::{sync::watch, time::timeout};

use self::schedule::{Answer, LATEST, RETRY, Schedule};
use crate::{backend::hostnames, mesh::Mesh};

/// Names that are looked up at one time.
const MOST_AT_ONCE: usize = 32;
/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often each is asked before nobody could say.
const ATTEMPTS: usize = 2;
/// How long all of that may take.
const LOOKUP: Duration = Duration::from_secs(10);
/// How long a waypoint that starts waits for its first answers.
const START: Duration = Duration::from_secs(5);

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct Servers {
    /// Where; those of `/etc/resolv.conf` if there is none.
    pub addresses: Vec<SocketAddr>,
    /// Our own address: endpoints have addresses like it.
    pub own: IpAddr,
}

/// Follows `meshes`, and gives the same with the addresses of names. The first is there when each of its
/// names was looked up once, or that took too long.
pub async fn follow(
    meshes: watch::Receiver<Arc<Mesh>>,
    servers: &Servers,
    drain: &Drain,
) -> watch::Receiver<Arc<Mesh>> {
    let resolver = resolver(servers)
        .inspect_err(|error| tracing::warn!(%error, "no host name can be looked up"))
        .ok();
    let (sender, receiver) = watch::channel(meshes.borrow().clone());
    let mut follower = Follower {
        meshes,
        resolver,
        schedule: Schedule::default(),
        asked: FuturesUnordered::new(),
        sender,
    };
    follower.want();
    follower.publish();
    let begun = async { while !follower.schedule.is_begun() && follower.step().await {} };
    // Those that are late come later.
    let _ = timeout(START, begun).await;
    drain.spawn(async move { while follower.step().await {} });
    receiver
}

struct Follower {
    meshes: watch::Receiver<Arc<Mesh>>,
    resolver: Option<TokioResolver>,
    schedule: Schedule,
    asked: FuturesUnordered<BoxFuture<'static, (Arc<str>, Answer)>>,
    sender: watch::Sender<Arc<Mesh>>,
}

impl Follower {
    /// Waits for one thing to happen; `false` when nothing will any more.
    ///
    /// # Cancel safety
    /// What was asked goes on.
    async fn step(&mut self) -> bool {
        let most = MOST_AT_ONCE.saturating_sub(self.asked.len());
        for name in self.schedule.begin(most, clock::now()) {
            self.asked.push(look_up(self.resolver.clone(), name).boxed());
        }
        let next = self.schedule.next().filter(|_| self.asked.len() < MOST_AT_ONCE);
        tokio::select! {
            changed = self.meshes.changed() => {
                if changed.is_err() {
                    return false;
                }
                self.want();
                self.publish();
            }
            Some((name, answer)) = self.asked.next() => self.learn(&name, answer),
            () = until(next) => {}
        }
        true
    }

    fn want(&mut self) {
        let names = hostnames(&self.meshes.borrow_and_update().snapshot);
        self.schedule.want(names, clock::now());
    }

    fn learn(&mut self, name: &Arc<str>, answer: Answer) {
        let why = match &answer {
            Answer::Silence(why) => why.clone(),
            Answer::Found(..) | Answer::Nothing => String::new(),
        };
        let news = self.schedule.learn(name, answer, clock::now());
        match news.heard {
            Some(true) => tracing::info!(%name, "the host name can be looked up again"),
            Some(false) => {
                tracing::warn!(%name, %why, "cannot look up the host name: the addresses that it had stay");
            }
            None => {}
        }
        if news.addresses {
            tracing::info!(%name, addresses = ?self.schedule.names().addresses(name), "looked up");
            self.publish();
        }
    }

    fn publish(&self) {
        let declared = self.meshes.borrow().clone();
        let generation = self.sender.borrow().generation + 1;
        let names = self.schedule.names().clone();
        self.sender.send_replace(Arc::new(Mesh { names, generation, ..(*declared).clone() }));
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// Names are whole: none is looked for below other domains. What is known is kept here, not there.
fn resolver(servers: &Servers) -> Result<TokioResolver, NetError> {
    let mut builder = match servers.addresses.is_empty() {
        true => TokioResolver::builder_tokio()?,
        false => {
            let all = servers.addresses.iter().map(server).collect();
            let config = ResolverConfig::from_name_servers(all);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = PATIENCE;
    options.attempts = ATTEMPTS;
    options.cache_size = 0;
    options.positive_max_ttl = Some(LATEST);
    options.negative_max_ttl = Some(RETRY);
    options.ip_strategy = match servers.own {
        IpAddr::V4(_) => LookupIpStrategy::Ipv4Only,
        IpAddr::V6(_) => LookupIpStrategy::Ipv6Only,
    };
    builder.build()
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

async fn look_up(resolver: Option<TokioResolver>, name: Arc<str>) -> (Arc<str>, Answer) {
    let Some(resolver) = resolver else {
        return (name, Answer::Silence("there is nobody to ask".into()));
    };
    let answer = match timeout(LOOKUP, resolver.lookup_ip(format!("{name}."))).await {
        Ok(Ok(found)) => {
            let good = found.valid_until().saturating_duration_since(clock::now());
            Answer::Found(found.iter().collect(), good)
        }
        Ok(Err(error)) if error.is_no_records_found() => Answer::Nothing,
        Ok(Err(error)) => Answer::Silence(error.to_string()),
        Err(_) => Answer::Silence(format!("no answer within {} s", LOOKUP.as_secs())),
    };
    (name, answer)
}
