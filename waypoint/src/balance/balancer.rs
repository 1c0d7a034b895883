//! Pure: who takes a request of one backend, by what is known of its endpoints.
//! Never: the clock, dice, a lock.
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use culvert_agent::discovery::{Distribution, Workload};

use super::{
    choose::{Chooser, Moment, index},
    host::{Busy, Host, Key},
    level::{Count, Loads},
    locality::{Group, levels},
    outlier,
    xxhash::xxhash64,
};
use crate::{
    backend::{Algorithm, CallPolicy, Endpoint, OutlierDetection, Warmup},
    outcome::Outcome,
};

/// How often another endpoint is looked for when the one that was found has been tried (Envoy's
/// `host_selection_retry_max_attempts` as Istio sets it).
const MOST_PICKS: usize = 5;
/// After so many tries, those to come go to other levels (Istio's `previous_priorities`).
const TRIES_OF_A_LEVEL: usize = 2;

/// What a group of endpoints of which enough are well has of its share: fine enough for one of many.
const WHOLE: usize = 1_000_000;

/// The shortest time.
const NOTHING: Duration = Duration::from_nanos(1);

/// Who is behind a backend, and how it is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Its ready endpoints.
    pub endpoints: Vec<Endpoint>,
    /// How it is called.
    pub policy: Arc<CallPolicy>,
    /// The waypoint itself, where it is known.
    pub here: Option<Arc<Workload>>,
    /// Which endpoints its service prefers.
    pub distribution: Distribution,
}

/// What counts for one try.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The request's key, if keys count.
    pub key: Option<u64>,
    /// Tries go to endpoints that were not tried.
    pub avoid_tried: bool,
    /// Later tries go to levels that were not tried.
    pub elsewhere: bool,
    /// Who was tried.
    pub tried: Tried,
}

/// Who was tried, in this order.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    hosts: Vec<u64>,
    levels: Vec<usize>,
}

/// Who takes a try.
#[derive(Debug)]
pub struct Pick {
    /// Who it is.
    pub id: u64,
    /// What is known of it.
    pub endpoint: Endpoint,
    /// It has one more request until this is dropped.
    pub busy: Busy,
    level: usize,
}

impl Wish {
    /// This one was tried.
    pub fn was_tried(&mut self, pick: &Pick) {
        self.tried.hosts.push(pick.id);
        self.tried.levels.push(pick.level);
    }

    /// The levels of the tries so far, after each of which others are looked for.
    fn rounds(&self) -> impl Iterator<Item = &[usize]> {
        let levels = if self.elsewhere { &*self.tried.levels } else { &[] };
        levels.chunks_exact(TRIES_OF_A_LEVEL)
    }
}

/// How often endpoints were left out, or should have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ejections {
    /// They were.
    pub made: u64,
    /// They would have been too many.
    pub overflowed: u64,
}

/// All endpoints of one backend.
#[derive(Debug, Default)]
pub struct Balancer {
    view: View,
    hosts: Vec<Host>,
    /// Where each is in that list.
    places: HashMap<u64, usize>,
    last_id: u64,
    next_sweep: Option<Instant>,
    plan: Option<Plan>,
    ejections: Ejections,
}

/// What is worked out of health, until that changes.
#[derive(Debug)]
struct Plan {
    loads: Loads,
    levels: Vec<Vec<(u64, Chooser)>>,
    /// When it must be made again because new endpoints are new no longer.
    until: Option<Instant>,
}

impl Balancer {
    /// Follows who is there. Who stays keeps what is known of it.
    pub fn update(&mut self, view: View, now: Instant) {
        self.advance(now);
        let mut known: HashMap<Key, Host> =
            self.hosts.drain(..).map(|host| (host.key.clone(), host)).collect();
        for endpoint in &view.endpoints {
            let mut host = known.remove(&Key::from(endpoint)).unwrap_or_else(|| {
                self.last_id += 1;
                Host::new(self.last_id, endpoint.clone(), now)
            });
            host.endpoint = endpoint.clone();
            if view.policy.outlier_detection.is_none() {
                host.standing = outlier::Standing::default();
            }
            self.hosts.push(host);
        }
        self.places = self.hosts.iter().enumerate().map(|(place, host)| (host.id, place)).collect();
        let interval = view.policy.outlier_detection.as_ref().map(outlier::interval);
        let next = interval.map(|interval| now + interval);
        self.next_sweep = self.next_sweep.and_then(|old| Some(old.min(next?))).or(next);
        // Whose turn it is, and tables, are worked out anew only for others.
        if self.view != view {
            self.view = view;
            self.plan = None;
        }
    }

    /// Who takes a try; `None` when nobody can. `draw` gives numbers that are drawn from all `u64` alike.
    pub fn pick(
        &mut self,
        wish: &Wish,
        now: Instant,
        draw: &mut dyn FnMut() -> u64,
    ) -> Option<Pick> {
        self.advance(now);
        if self.plan.as_ref().is_none_or(|plan| plan.until.is_some_and(|until| now >= until)) {
            self.plan = Some(self.plan(now, draw));
        }
        let moment = Moment { hosts: &self.hosts, warmup: self.view.warmup(), now };
        let plan = self.plan.as_mut()?;
        let mut found = None;
        for _ in 0..=MOST_PICKS {
            let (level, place) = plan.choose(wish, moment, draw)?;
            let host = self.hosts.get(place)?;
            found = Some((level, host));
            if !wish.avoid_tried || !wish.tried.hosts.contains(&host.id) {
                break;
            }
        }
        let (level, host) = found?;
        let endpoint = host.endpoint.clone();
        Some(Pick { id: host.id, endpoint, busy: host.begin(), level })
    }

    /// Hears what an attempt at an endpoint came to.
    pub fn report(&mut self, id: u64, outcome: &Outcome, now: Instant) {
        self.advance(now);
        let Some(settings) = &self.view.policy.outlier_detection else { return };
        let place = self.places.get(&id).copied();
        let Some(host) = place.and_then(|place| self.hosts.get_mut(place)) else { return };
        if !host.standing.hear(outcome, settings) || host.standing.is_ejected() {
            return;
        }
        let may = outlier::may_eject(self.ejected(), self.hosts.len(), settings);
        let host = place.and_then(|place| self.hosts.get_mut(place)).filter(|_| may);
        if let Some(host) = host {
            host.standing.eject(now, settings);
            self.ejections.made += 1;
            self.plan = None;
        } else {
            self.ejections.overflowed += 1;
        }
    }

    /// Lets those return whose time is over, as of `now`.
    pub fn advance(&mut self, now: Instant) {
        let Some(mut next) = self.next_sweep.filter(|next| *next <= now) else { return };
        let policy = self.view.policy.clone();
        let Some(settings) = &policy.outlier_detection else { return };
        while next <= now {
            // Sweeps that would change nothing are passed over.
            next = match self.event(next, settings).filter(|at| *at <= now) {
                Some(at) => {
                    self.sweep(at, settings);
                    at + outlier::interval(settings)
                }
                None => not_before(next, now + NOTHING, settings),
            };
        }
        self.next_sweep = Some(next);
    }

    /// The first sweep from `next` on that changes something, if nothing is heard before.
    fn event(&self, next: Instant, settings: &OutlierDetection) -> Option<Instant> {
        let loud = self.hosts.iter().filter(|host| !host.standing.is_quiet());
        let event = |host: &Host| {
            let until = host.standing.until(settings);
            until.map_or(next, |until| not_before(next, until, settings))
        };
        loud.map(event).min()
    }

    fn sweep(&mut self, now: Instant, settings: &OutlierDetection) {
        let mut returned = false;
        for host in &mut self.hosts {
            returned |= host.standing.sweep(now, settings);
        }
        if returned {
            self.plan = None;
        }
    }

    /// All endpoints.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// How it is called.
    pub fn policy(&self) -> &Arc<CallPolicy> {
        &self.view.policy
    }

    /// How many are left out.
    pub fn ejected(&self) -> usize {
        self.hosts.iter().filter(|host| host.standing.is_ejected()).count()
    }

    /// The first sweep that is not before `at`.
    pub fn returns(&self, at: Instant) -> Option<Instant> {
        let settings = self.view.policy.outlier_detection.as_ref()?;
        Some(not_before(self.next_sweep?, at, settings))
    }

    /// How often that happened.
    pub fn ejections(&self) -> Ejections {
        self.ejections
    }

    /// Whether an endpoint that is left out may be asked all the same.
    pub fn panics(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.loads.panic.contains(&true))
    }

    fn plan(&self, now: Instant, draw: &mut dyn FnMut() -> u64) -> Plan {
        let View { endpoints, policy, here, distribution } = &self.view;
        let levels = levels(endpoints, policy, here.as_deref(), *distribution);
        let counts: Vec<_> = levels.iter().map(|level| self.count(level)).collect();
        let detection = policy.outlier_detection.as_ref();
        let loads = Loads::of(&counts, detection.map_or(0, |of| of.min_health_percent));
        let warmup = self.view.warmup();
        let moment = Moment { hosts: &self.hosts, warmup, now };
        let panics = loads.panic.iter().chain(std::iter::repeat(&false));
        let level = |(level, panic): (&Vec<Group>, &bool)| {
            level.iter().map(|group| self.group(group, *panic, moment, draw())).collect()
        };
        let levels = levels.iter().zip(panics).map(level).collect();
        let new = warmup.iter().flat_map(|warmup| {
            self.hosts
                .iter()
                .filter(|host| host.is_new(*warmup, now))
                .map(|h| h.since + warmup.duration)
        });
        Plan { loads, levels, until: new.min() }
    }

    /// How one of a group is chosen, and what it can take beside other groups.
    fn group(&self, group: &Group, panic: bool, moment: Moment<'_>, drawn: u64) -> (u64, Chooser) {
        let members = group.members.iter().copied();
        let live: Vec<_> = members.filter(|place| panic || self.is_well(*place)).collect();
        let count = Count { well: live.len(), all: group.members.len() };
        let weight = u64::from(group.share) * count.part(WHOLE) as u64;
        let algorithm = &self.view.policy.load_balancer.algorithm;
        (weight, Chooser::new(algorithm, live, moment, drawn))
    }

    fn count(&self, level: &[Group]) -> Count {
        let members = || level.iter().flat_map(|group| &group.members);
        Count { well: members().filter(|p| self.is_well(**p)).count(), all: members().count() }
    }

    fn is_well(&self, place: usize) -> bool {
        self.hosts.get(place).is_some_and(|host| !host.standing.is_ejected())
    }
}

impl Plan {
    /// The level and place of a host.
    fn choose(
        &mut self,
        wish: &Wish,
        moment: Moment<'_>,
        draw: &mut dyn FnMut() -> u64,
    ) -> Option<(usize, usize)> {
        let others = self.loads.elsewhere(wish.rounds());
        let percent = others.as_deref().unwrap_or(&self.loads.percent);
        let by = |percent: &usize| *percent as u64;
        // A key's own bits choose the endpoint, so others of it choose level and group.
        let mut number = |count: usize| match wish.key {
            _ if count == 1 => 0,
            Some(key) => xxhash64(&key.to_le_bytes(), count as u64),
            None => draw(),
        };
        let level = weighted(percent.iter().map(by), number(percent.len()))?;
        let groups = self.levels.get_mut(level)?;
        let number = number(groups.len());
        let group = weighted(groups.iter().map(|(weight, _)| *weight), number)?;
        let (_, chooser) = groups.get_mut(group)?;
        Some((level, chooser.choose(moment, wish.key, draw)?))
    }
}

impl View {
    /// How new ones get their share: by key they have all of it at once, or keys would move twice.
    fn warmup(&self) -> Option<Warmup> {
        let balancer = &self.policy.load_balancer;
        balancer.warmup.filter(|_| match balancer.algorithm {
            Algorithm::LeastRequest | Algorithm::RoundRobin => true,
            Algorithm::Random | Algorithm::Passthrough | Algorithm::ConsistentHash { .. } => false,
        })
    }
}

/// Which of these weights a number hits that is drawn from all `u64` alike; `None` when all are 0.
fn weighted(weights: impl Iterator<Item = u64> + Clone, drawn: u64) -> Option<usize> {
    let total: u64 = weights.clone().sum();
    let mut left = index(drawn, usize::try_from(total).ok()?) as u64;
    weights.enumerate().find_map(|(place, weight)| {
        let found = left < weight;
        left = left.saturating_sub(weight);
        found.then_some(place)
    })
}

/// The first sweep that is not before `at`, of `next` and those that follow it.
fn not_before(next: Instant, at: Instant, settings: &OutlierDetection) -> Instant {
    let interval = outlier::interval(settings).as_nanos();
    let missed = at.saturating_duration_since(next).as_nanos().div_ceil(interval);
    let nanoseconds = u64::try_from(missed * interval).unwrap_or(u64::MAX);
    next + Duration::from_nanos(nanoseconds)
}
