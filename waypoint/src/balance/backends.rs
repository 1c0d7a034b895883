//! Shell: the balancers and limits of all backends, and who is under way where.
//! Never: holds a lock while it waits.
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use culvert_agent::clock;
use tokio::sync::SetOnce;

use super::{
    balancer::{Balancer, Pick, View, Wish},
    gradient::Gradient,
    limits::{Kind, Limits, Permit},
    recent::Recent,
};
use crate::{
    backend::{CallPolicy, OutlierDetection},
    outcome::{Late, Outcome},
    routing::BackendRef,
};

/// What goes to a backend: both are limited and judged for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Traffic {
    /// Requests.
    Http,
    /// Connections of which nobody looks at the bytes.
    Tcp,
}

impl Traffic {
    /// As in the names of Istio's clusters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

/// Backends that are known while something is under way there, of which at least so many may be over.
const LEAST_PASSING: usize = 64;

type Name = (Arc<BackendRef>, Traffic);

/// All backends that something went to. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Balance {
    all: Arc<Mutex<HashMap<Name, Arc<Group>>>>,
    passing: Arc<Mutex<Passing>>,
}

/// Those that are known only while something is under way there.
#[derive(Debug, Default)]
struct Passing {
    groups: HashMap<Name, Weak<Group>>,
    /// How many there may be until those are forgotten that are over.
    most: usize,
}

/// One of them.
#[derive(Debug)]
pub struct Group {
    /// Who it is.
    pub backend: Arc<BackendRef>,
    /// What goes there.
    pub traffic: Traffic,
    /// What is under way.
    pub limits: Arc<Limits>,
    /// Tries that followed another one, and how many of them brought what was asked for.
    pub retries: Retries,
    balancer: Mutex<Followed>,
    /// The limit of requests that is found out, where it is.
    gradient: Mutex<Option<Gradient>>,
    /// Requests that began lately, where a budget for retries counts by them.
    recent: Mutex<Option<Recent>>,
}

/// A balancer, and the mesh that it follows.
#[derive(Debug, Default)]
struct Followed {
    generation: Option<u64>,
    balancer: Balancer,
}

/// Tries that followed another one.
#[derive(Debug, Default)]
pub struct Retries {
    /// All of them.
    pub begun: AtomicU64,
    /// Those after which no other was due.
    pub good: AtomicU64,
    /// Requests whose tries were used up.
    pub exhausted: AtomicU64,
}

/// One attempt. It is under way until this is dropped.
#[derive(Debug)]
pub struct Ticket {
    group: Arc<Group>,
    policy: Arc<CallPolicy>,
    pick: Option<Pick>,
    begun: AtomicBool,
    /// When the request left, if that is to be known.
    sent: OnceLock<Instant>,
    connected: SetOnce<Instant>,
}

impl Balance {
    /// What is known of a backend.
    pub fn group(&self, backend: &Arc<BackendRef>, traffic: Traffic) -> Arc<Group> {
        let name = (backend.clone(), traffic);
        let group = || Arc::new(Group::new(backend, traffic));
        lock(&self.all).entry(name).or_insert_with(group).clone()
    }

    /// The same of one that is no service, but whatever port of a workload somebody dials: it is
    /// forgotten, and shown nowhere, when nothing is under way there.
    pub fn passing(&self, backend: &Arc<BackendRef>, traffic: Traffic) -> Arc<Group> {
        let name = (backend.clone(), traffic);
        let mut passing = lock(&self.passing);
        if let Some(group) = passing.groups.get(&name).and_then(Weak::upgrade) {
            return group;
        }
        if passing.groups.len() >= passing.most {
            passing.groups.retain(|_, group| group.strong_count() > 0);
            passing.most = 2 * passing.groups.len() + LEAST_PASSING;
        }
        let group = Arc::new(Group::new(backend, traffic));
        passing.groups.insert(name, Arc::downgrade(&group));
        group
    }

    /// All, in the order of their names.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        let mut all: Vec<_> = lock(&self.all).values().cloned().collect();
        all.sort_by(|a, b| (&a.backend, a.traffic).cmp(&(&b.backend, b.traffic)));
        all
    }

    /// Forgets those that are no more, once nothing is under way there.
    pub fn retain(&self, is_there: impl Fn(&BackendRef) -> bool) {
        lock(&self.all)
            .retain(|(backend, _), group| is_there(backend) || Arc::strong_count(group) > 1);
    }
}

impl Group {
    fn new(backend: &Arc<BackendRef>, traffic: Traffic) -> Self {
        Self {
            backend: backend.clone(),
            traffic,
            limits: Arc::default(),
            retries: Retries::default(),
            balancer: Mutex::default(),
            gradient: Mutex::default(),
            recent: Mutex::default(),
        }
    }

    /// Learns who is there in a mesh, unless a later one is known.
    pub fn follow(&self, generation: u64, view: impl FnOnce() -> View) {
        let mut followed = lock(&self.balancer);
        if followed.generation.is_none_or(|known| known < generation) {
            followed.balancer.update(view(), clock::now());
            followed.generation = Some(generation);
        }
    }

    /// Whom an attempt goes to; `None` when there is nobody.
    pub fn pick(self: &Arc<Self>, policy: &Arc<CallPolicy>, wish: &Wish) -> Option<Ticket> {
        let pick = lock(&self.balancer).balancer.pick(wish, clock::now(), &mut rand::random);
        pick.map(|pick| Ticket { pick: Some(pick), ..self.fixed(policy) })
    }

    /// An attempt at somebody who is none of several.
    pub fn fixed(self: &Arc<Self>, policy: &Arc<CallPolicy>) -> Ticket {
        Ticket {
            group: self.clone(),
            policy: policy.clone(),
            pick: None,
            begun: AtomicBool::new(false),
            sent: OnceLock::new(),
            connected: SetOnce::new(),
        }
    }

    /// What Istio calls it.
    pub fn cluster(&self) -> String {
        let BackendRef { host, port, subset } = &*self.backend;
        let subset = subset.as_ref().map(|subset| format!("/{subset}")).unwrap_or_default();
        format!("inbound-vip|{port}|{}{subset}|{host}", self.traffic.as_str())
    }

    /// A place for a retry.
    pub fn retry(&self, policy: &CallPolicy) -> Option<Permit> {
        let (most, budget) = (policy.connection_pool.max_retries, policy.retry_budget.as_ref());
        let recent = self.lately(policy, |recent, now| recent.count(now));
        self.limits.retry(most, budget, recent)
    }

    /// A place for a request.
    fn request(&self, policy: &CallPolicy) -> Option<Permit> {
        let most = policy.connection_pool.max_requests;
        let place = match policy.adaptive {
            true => lock(&self.gradient).get_or_insert_default().admit(&self.limits, most),
            false => self.limits.take(Kind::Request, most),
        }?;
        self.lately(policy, |recent, now| recent.begin(now));
        Some(place)
    }

    /// Looks at the requests that began lately, where a budget counts by them.
    fn lately<T>(&self, policy: &CallPolicy, at: fn(&mut Recent, Instant) -> T) -> Option<T> {
        let interval = policy.retry_budget.as_ref()?.interval?;
        let (now, mut recent) = (clock::now(), lock(&self.recent));
        if recent.as_ref().is_none_or(|recent| !recent.is_for(interval)) {
            *recent = Some(Recent::new(interval, now));
        }
        recent.as_mut().map(|recent| at(recent, now))
    }

    /// How many requests there may be, where that is found out.
    pub fn found_out(&self) -> Option<u32> {
        lock(&self.gradient).as_ref().map(Gradient::limit)
    }

    /// Looks at its endpoints, as they are at this moment.
    pub fn look<T>(&self, at: impl FnOnce(&Balancer) -> T) -> T {
        let mut followed = lock(&self.balancer);
        followed.balancer.advance(clock::now());
        at(&followed.balancer)
    }

    /// What is under way there, of this kind.
    pub fn taken(&self, kind: Kind) -> u32 {
        self.limits.taken(kind)
    }
}

impl Ticket {
    /// Who was picked; `None` when there was no choice.
    pub fn pick(&self) -> Option<&Pick> {
        self.pick.as_ref()
    }

    /// How the backend is called.
    pub fn policy(&self) -> &Arc<CallPolicy> {
        &self.policy
    }

    /// A place among the requests that are under way: it leaves.
    pub fn request(&self) -> Option<Permit> {
        let place = self.group.request(&self.policy)?;
        self.begin();
        if self.policy.adaptive {
            self.sent.get_or_init(clock::now);
        }
        Some(place)
    }

    /// What may be under way.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.group.limits
    }

    /// How long it took, where that says how busy the backend is. Errors may come faster than answers.
    fn took(&self, outcome: &Outcome) {
        let Some(sent) = self.sent.get() else { return };
        let (now, mut gradient) = (clock::now(), lock(&self.group.gradient));
        let (gradient, time) = (gradient.get_or_insert_default(), now.duration_since(*sent));
        match outcome {
            Outcome::Answered(answered) if answered.status.is_server_error() => {}
            Outcome::Answered(_) => gradient.report(time, now),
            Outcome::Late(Late::Try | Late::Request) => gradient.gave_up(time, now),
            Outcome::Late(Late::Client)
            | Outcome::Opened
            | Outcome::Failed { .. }
            | Outcome::Cut(_) => {}
        }
    }

    /// Whom the attempt belongs to.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// It waits for nothing of ours any more: from here on the endpoint is asked.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// There is a connection for it.
    pub fn connected(&self) {
        // Another one, after the first was dead, changes nothing.
        let _first = self.connected.set(clock::now());
    }

    /// Waits until there is; since when.
    pub async fn wait_connected(&self) -> Instant {
        *self.connected.wait().await
    }

    /// What the attempt came to. Time that passed before it began is not the endpoint's.
    pub fn report(&self, outcome: &Outcome) {
        self.took(outcome);
        let Some(pick) = &self.pick else { return };
        if matches!(outcome, Outcome::Late(_)) && !self.begun.load(Ordering::Relaxed) {
            return;
        }
        let (now, mut followed) = (clock::now(), lock(&self.group.balancer));
        let told_apart = |detection: &OutlierDetection| detection.split_local;
        let told_apart = self.policy.outlier_detection.as_ref().is_some_and(told_apart);
        // It ends a run of failures to connect, whatever becomes of the request.
        if told_apart && self.connected.initialized() {
            followed.balancer.report(pick.id, &Outcome::Opened, now);
        }
        followed.balancer.report(pick.id, outcome, now);
    }
}

impl Retries {
    /// One more.
    pub fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_nothing_goes_to_any_more_are_forgotten() {
        let balance = Balance::default();
        let port = |port| Arc::new(BackendRef { host: "c//Pod/shop/a".into(), port, subset: None });
        let held = balance.passing(&port(1), Traffic::Http);
        for number in 2..2_000 {
            drop(balance.passing(&port(number), Traffic::Http).fixed(&Arc::default()));
        }
        assert!(balance.groups().is_empty());
        assert!(lock(&balance.passing).groups.len() <= LEAST_PASSING + 2);
        let again = balance.passing(&port(1), Traffic::Http);
        assert!(Arc::ptr_eq(&held, &again), "one for all that is under way");
    }
}
