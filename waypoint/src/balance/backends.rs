//! Shell: the balancers and limits of all backends, and who is under way where.
//! Never: holds a lock while it waits.
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use culvert_agent::clock;

use super::{
    balancer::{Balancer, Pick, View, Wish},
    limits::{Kind, Limits, Permit},
};
use crate::{
    backend::{CallPolicy, OutlierDetection},
    outcome::Outcome,
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

type Name = (Arc<BackendRef>, Traffic);

/// All backends that something went to. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Balance(Arc<Mutex<HashMap<Name, Arc<Group>>>>);

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
    connected: AtomicBool,
}

impl Balance {
    /// What is known of a backend.
    pub fn group(&self, backend: &Arc<BackendRef>, traffic: Traffic) -> Arc<Group> {
        let name = (backend.clone(), traffic);
        let group = || Group {
            backend: backend.clone(),
            traffic,
            limits: Arc::default(),
            retries: Retries::default(),
            balancer: Mutex::default(),
        };
        lock(&self.0).entry(name).or_insert_with(|| Arc::new(group())).clone()
    }

    /// All, in the order of their names.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        let mut all: Vec<_> = lock(&self.0).values().cloned().collect();
        all.sort_by(|a, b| (&a.backend, a.traffic).cmp(&(&b.backend, b.traffic)));
        all
    }

    /// Forgets those that are no more, once nothing is under way there.
    pub fn retain(&self, is_there: impl Fn(&BackendRef) -> bool) {
        lock(&self.0)
            .retain(|(backend, _), group| is_there(backend) || Arc::strong_count(group) > 1);
    }
}

impl Group {
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
            connected: AtomicBool::new(false),
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
        self.limits.retry(policy.connection_pool.max_retries, policy.retry_budget.as_ref())
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

    /// What may be under way.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.group.limits
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
        self.connected.store(true, Ordering::Relaxed);
    }

    /// What the attempt came to. Time that passed before it began is not the endpoint's.
    pub fn report(&self, outcome: &Outcome) {
        let Some(pick) = &self.pick else { return };
        if matches!(outcome, Outcome::Late(_)) && !self.begun.load(Ordering::Relaxed) {
            return;
        }
        let (now, mut followed) = (clock::now(), lock(&self.group.balancer));
        let told_apart = |detection: &OutlierDetection| detection.split_local;
        let told_apart = self.policy.outlier_detection.as_ref().is_some_and(told_apart);
        // It ends a run of failures to connect, whatever becomes of the request.
        if told_apart && self.connected.load(Ordering::Relaxed) {
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
