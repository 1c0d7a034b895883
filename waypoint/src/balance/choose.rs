//! Pure: one of a group's endpoints, in the way that its backend asks for.
//! Never: who is in the group (see `balancer`).
use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    time::Instant,
};

use super::{host::Host, table::Table};
use crate::backend::{Algorithm, HashTable, Warmup};

/// How one of a group is chosen, for as long as the group stays the same.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    /// Places in the list of hosts.
    members: Vec<usize>,
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    /// One after the other.
    Turns(usize),
    /// One after the other, heavier ones more often; the fewer requests they have, if those count.
    Deadlines { queue: Deadlines, by_load: bool },
    /// Of two the one with fewer requests.
    Two,
    /// At random.
    Any,
    /// By key.
    Key(HashTable, Option<Table>),
}

/// Earliest deadline first: who has been chosen has the next one 1/weight later.
#[derive(Clone, Debug, Default)]
struct Deadlines {
    queue: BinaryHeap<Reverse<Deadline>>,
    last: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Deadline {
    at: f64,
    order: u64,
    place: usize,
}

impl Eq for Deadline {}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.total_cmp(&other.at).then(self.order.cmp(&other.order))
    }
}

/// What weights depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment<'h> {
    /// All hosts.
    pub(super) hosts: &'h [Host],
    /// How new ones get their share.
    pub(super) warmup: Option<Warmup>,
    /// The time.
    pub(super) now: Instant,
}

impl Moment<'_> {
    fn weight(&self, place: usize) -> f64 {
        self.hosts.get(place).map_or(1.0, |host| host.weight(self.warmup, self.now))
    }

    fn table(&self, kind: HashTable, members: &[usize]) -> Table {
        let named = |place: &usize| {
            let name = self.hosts.get(*place).map(|host| host.name().to_owned());
            (name.unwrap_or_default(), self.weight(*place))
        };
        Table::new(kind, &members.iter().map(named).collect::<Vec<_>>())
    }

    fn load(&self, place: usize) -> u32 {
        self.hosts.get(place).map_or(0, Host::load)
    }
}

impl Chooser {
    /// A choice among some of all hosts, at this moment; `drawn` is where turns begin.
    pub(super) fn new(
        algorithm: &Algorithm,
        members: Vec<usize>,
        moment: Moment<'_>,
        drawn: u64,
    ) -> Self {
        let weights = members.iter().map(|place| moment.weight(*place));
        let alike = weights.clone().zip(weights.skip(1)).all(|(a, b)| a == b);
        let by_load = matches!(algorithm, Algorithm::LeastRequest);
        let way = match algorithm {
            Algorithm::LeastRequest if alike => Way::Two,
            Algorithm::RoundRobin if alike => Way::Turns(index(drawn, members.len())),
            Algorithm::LeastRequest | Algorithm::RoundRobin => {
                Way::Deadlines { queue: Deadlines::new(&members, moment, drawn), by_load }
            }
            Algorithm::Random | Algorithm::Passthrough => Way::Any,
            Algorithm::ConsistentHash { table, .. } => Way::Key(*table, None),
        };
        Self { members, way }
    }

    /// The place of a host; `None` when there is none. `key` is the request's, `draw` gives numbers that
    /// are drawn from all `u64` alike.
    pub(super) fn choose(
        &mut self,
        moment: Moment<'_>,
        key: Option<u64>,
        draw: &mut dyn FnMut() -> u64,
    ) -> Option<usize> {
        let members = &self.members;
        let any = |drawn: u64| members.get(index(drawn, members.len())).copied();
        match &mut self.way {
            Way::Turns(turn) => {
                *turn = turn.wrapping_add(1) % members.len().max(1);
                members.get(*turn).copied()
            }
            Way::Deadlines { queue, by_load } => queue.next(moment, *by_load),
            Way::Two => {
                let (one, other) = (any(draw())?, any(draw())?);
                Some(if moment.load(other) < moment.load(one) { other } else { one })
            }
            Way::Any => any(draw()),
            Way::Key(kind, table) => {
                let Some(key) = key else { return any(draw()) };
                let table = table.get_or_insert_with(|| moment.table(*kind, members));
                members.get(table.find(key)?).copied()
            }
        }
    }
}

impl Deadlines {
    fn new(members: &[usize], moment: Moment<'_>, drawn: u64) -> Self {
        let mut all = Self::default();
        // Whoever is first is drawn, or those in front would always be.
        let (before, after) = members.split_at(index(drawn, members.len()));
        for place in after.iter().chain(before) {
            all.push(0.0, *place, moment.weight(*place));
        }
        all
    }

    fn push(&mut self, now: f64, place: usize, weight: f64) {
        self.last += 1;
        let at = now + 1.0 / weight.max(f64::MIN_POSITIVE);
        self.queue.push(Reverse(Deadline { at, order: self.last, place }));
    }

    fn next(&mut self, moment: Moment<'_>, by_load: bool) -> Option<usize> {
        let Reverse(Deadline { at, place, .. }) = self.queue.pop()?;
        let load = if by_load { f64::from(moment.load(place)) } else { 0.0 };
        self.push(at, place, moment.weight(place) / (load + 1.0));
        Some(place)
    }
}

/// One of so many, for a number that is drawn from all `u64` alike.
pub(super) fn index(drawn: u64, count: usize) -> usize {
    let place = (u128::from(drawn) * count as u128) >> u64::BITS;
    usize::try_from(place).unwrap_or_default()
}
