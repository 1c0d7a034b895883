//! Pure: traffic counts by labels, within a hard budget of series.
//! Never: a total that goes backwards because room was needed.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::labels::TrafficLabels;

/// Series of every entry: opened, closed, sent, received.
const EACH: usize = 4;
/// Further ones for each flag with which connections failed: closed, failed.
const EACH_FLAG: usize = 2;
/// What is kept free for connections that are counted together: two reporters, three security policies,
/// six flags.
const RESERVED: usize = 2 * 3 * (EACH + 6 * EACH_FLAG);
/// The flag of a connection that went well.
const WELL: &str = "-";

/// The least budget with room for some entries of their own.
pub const LEAST_SERIES: usize = 200;

/// Namespace and name of a workload: of the deployment, not of one of its pods.
pub(super) type Owner = (Arc<str>, Arc<str>);

/// What happened under one set of labels.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    /// Connections opened.
    pub opened: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// Bytes from clients.
    pub received: u64,
    /// Connections ended, by flag.
    pub ended: BTreeMap<&'static str, u64>,
}

#[derive(Debug)]
struct Entry {
    counts: Counts,
    /// Connections that are counted here when they end.
    open: usize,
    /// When it was last used; its key in `idle` while nothing is open.
    turn: u64,
    owners: Vec<Owner>,
    /// Since when one of the owners does not exist.
    gone: Option<Instant>,
}

/// Counts by labels. Who is least recently used makes room, unless connections are open there.
#[derive(Debug)]
pub(super) struct Book {
    budget: usize,
    used: usize,
    entries: HashMap<Arc<TrafficLabels>, Entry>,
    idle: BTreeMap<u64, Arc<TrafficLabels>>,
    others: HashMap<TrafficLabels, Counts>,
    turn: u64,
    /// Connections that were counted together for want of room.
    pub folded: u64,
    /// Entries that made room.
    pub evicted: u64,
}

impl Book {
    /// At most `series` series, all families together.
    pub(super) fn new(series: usize) -> Self {
        Self {
            budget: series.saturating_sub(RESERVED),
            used: 0,
            entries: HashMap::new(),
            idle: BTreeMap::new(),
            others: HashMap::new(),
            turn: 0,
            folded: 0,
            evicted: 0,
        }
    }

    /// Where a connection is counted; its entry stays until the connection has left.
    pub(super) fn enter(
        &mut self,
        labels: TrafficLabels,
        owners: Vec<Owner>,
    ) -> Arc<TrafficLabels> {
        if let Some((account, _)) = self.entries.get_key_value(&labels) {
            let account = account.clone();
            self.reopen(&account);
            return account;
        }
        if !self.make_room(EACH) {
            self.folded += 1;
            return Arc::new(labels.other());
        }
        self.used += EACH;
        let account = Arc::new(labels);
        let counts = Counts::default();
        self.entries
            .insert(account.clone(), Entry { counts, open: 1, turn: 0, owners, gone: None });
        account
    }

    /// The connection is through.
    pub(super) fn opened(&mut self, account: &TrafficLabels) {
        self.counts(account).opened += 1;
    }

    /// The connection has ended; `up` are the client's bytes, `down` the server's.
    pub(super) fn leave(
        &mut self,
        account: &Arc<TrafficLabels>,
        flags: &'static str,
        (up, down): (u64, u64),
    ) {
        let together = !self.has_room_for(account, flags);
        let counts = self.counts(account);
        counts.received += up;
        counts.sent += down;
        if together {
            self.folded += 1;
            self.counts(&account.other()).end(flags);
        } else {
            counts.end(flags);
        }
        let Some(entry) = self.entries.get_mut(account) else { return };
        entry.open -= 1;
        if entry.open == 0 {
            self.turn += 1;
            entry.turn = self.turn;
            self.idle.insert(self.turn, account.clone());
        }
    }

    /// Removes entries of which a workload has not existed for `expiry`, and where nothing is open.
    /// They are counted nowhere else.
    pub(super) fn expire(&mut self, alive: &HashSet<Owner>, now: Instant, expiry: Duration) {
        let mut expired = Vec::new();
        for (turn, account) in &self.idle {
            let Some(entry) = self.entries.get_mut(account) else { continue };
            if entry.owners.iter().all(|owner| alive.contains(owner)) {
                entry.gone = None;
                continue;
            }
            let since = *entry.gone.get_or_insert(now);
            if now.saturating_duration_since(since) >= expiry {
                expired.push(*turn);
            }
        }
        for turn in expired {
            let account = self.idle.remove(&turn);
            account.and_then(|account| self.remove(&account));
        }
    }

    /// All counts.
    pub(super) fn rows(&self) -> Vec<(Arc<TrafficLabels>, Counts)> {
        let own = self.entries.iter().map(|(labels, entry)| (labels.clone(), entry.counts.clone()));
        let others = self.others.iter().map(|(labels, of)| (Arc::new(labels.clone()), of.clone()));
        own.chain(others).collect()
    }

    /// An account without an entry is one of those where connections are counted together.
    fn counts(&mut self, account: &TrafficLabels) -> &mut Counts {
        match self.entries.get_mut(account) {
            Some(entry) => &mut entry.counts,
            None => self.others.entry(account.clone()).or_default(),
        }
    }

    fn reopen(&mut self, account: &TrafficLabels) {
        let Some(entry) = self.entries.get_mut(account) else { return };
        if entry.open == 0 {
            self.idle.remove(&entry.turn);
        }
        entry.open += 1;
        entry.gone = None;
    }

    fn has_room_for(&mut self, account: &TrafficLabels, flags: &'static str) -> bool {
        let known = |entry: &Entry| entry.counts.ended.contains_key(flags);
        if self.entries.get(account).is_none_or(known) {
            return true;
        }
        let room = self.make_room(EACH_FLAG);
        self.used += if room { EACH_FLAG } else { 0 };
        room
    }

    /// Counts of those that go are added to what is counted together: totals stay.
    fn make_room(&mut self, series: usize) -> bool {
        while self.used + series > self.budget {
            let Some((_, account)) = self.idle.pop_first() else { return false };
            let Some(counts) = self.remove(&account) else { continue };
            self.others.entry(account.other()).or_default().add(&counts);
            self.evicted += 1;
        }
        true
    }

    fn remove(&mut self, account: &TrafficLabels) -> Option<Counts> {
        let counts = self.entries.remove(account)?.counts;
        self.used -= counts.series();
        Some(counts)
    }
}

impl Counts {
    /// Connections that failed, by flag.
    pub(super) fn failed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.ended.iter().filter(|(flags, _)| **flags != WELL).map(|(flags, n)| (*flags, *n))
    }

    fn series(&self) -> usize {
        EACH + EACH_FLAG * self.failed().count()
    }

    fn end(&mut self, flags: &'static str) {
        *self.ended.entry(flags).or_default() += 1;
    }

    fn add(&mut self, more: &Self) {
        self.opened += more.opened;
        self.sent += more.sent;
        self.received += more.received;
        for (flags, n) in &more.ended {
            *self.ended.entry(flags).or_default() += n;
        }
    }
}

impl Default for Counts {
    fn default() -> Self {
        Self { opened: 0, sent: 0, received: 0, ended: BTreeMap::from([(WELL, 0)]) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(source: usize) -> TrafficLabels {
        TrafficLabels::of_source(&format!("w{source}"))
    }

    fn owner(name: &str) -> Owner {
        ("shop".into(), name.into())
    }

    fn connection(book: &mut Book, source: usize) {
        let account = book.enter(labels(source), Vec::new());
        book.opened(&account);
        book.leave(&account, WELL, (1, 2));
    }

    fn has(book: &Book, source: usize) -> bool {
        book.entries.contains_key(&labels(source))
    }

    /// Room for so many entries.
    fn book(entries: usize) -> Book {
        Book::new(RESERVED + EACH * entries)
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let mut book = book(2);
        for source in [1, 2, 1, 3] {
            connection(&mut book, source);
        }
        assert!(has(&book, 1) && has(&book, 3) && !has(&book, 2));
        assert_eq!((book.evicted, book.folded), (1, 0));
        let other = &book.others[&labels(2).other()];
        assert_eq!((other.opened, other.received, other.sent, other.ended[WELL]), (1, 1, 2, 1));
    }

    #[test]
    fn where_connections_are_open_stays_and_the_next_is_counted_together() {
        let mut book = book(2);
        let held = [1, 2].map(|source| book.enter(labels(source), Vec::new()));
        connection(&mut book, 3);
        assert!(has(&book, 1) && has(&book, 2) && !has(&book, 3));
        assert_eq!((book.evicted, book.folded), (0, 1));
        book.leave(&held[0], "DENY", (0, 0));
        assert_eq!(book.folded, 2, "there was no room for a flag");
        connection(&mut book, 3);
        assert!(has(&book, 3) && !has(&book, 1));
    }

    #[test]
    fn a_dead_workloads_entry_goes_after_a_while_and_is_counted_nowhere() {
        let (mut book, start) = (book(2), crate::clock::now());
        let expiry = Duration::from_secs(300);
        let turn = |book: &mut Book, names: &[&str], after: u64| {
            let alive = names.iter().map(|name| owner(name)).collect();
            book.expire(&alive, start + Duration::from_secs(after), expiry);
        };
        let account = book.enter(labels(1), vec![owner("web"), owner("cart")]);
        turn(&mut book, &["web"], 0);
        turn(&mut book, &["web"], 1000);
        assert!(has(&book, 1), "a connection is open");
        book.leave(&account, WELL, (0, 0));
        turn(&mut book, &["web"], 1001);
        turn(&mut book, &["web", "cart"], 1200);
        turn(&mut book, &["web"], 1400);
        assert!(has(&book, 1), "it was back for a moment");
        turn(&mut book, &["web"], 1700);
        assert!(!has(&book, 1) && book.others.is_empty() && book.idle.is_empty());
        assert_eq!(book.used, 0);
    }

    proptest! {
        #[test]
        fn the_budget_is_kept_and_totals_never_go_backwards(
            steps in proptest::collection::vec((0_usize..12, 0_usize..4), 1..200),
        ) {
            let limit = RESERVED + EACH * 4;
            let (mut book, mut held) = (Book::new(limit), Vec::new());
            let (mut total, mut ended) = (0, 0);
            for (source, what) in steps {
                if what == 0 || held.is_empty() {
                    let account = book.enter(labels(source), Vec::new());
                    book.opened(&account);
                    total += 1;
                    held.push(account);
                } else {
                    let flags = [WELL, "DENY", "CONNECT"][what - 1];
                    book.leave(&held.remove(source % held.len()), flags, (1, 1));
                    ended += 1;
                }
                let rows = book.rows();
                let series: usize = rows.iter().map(|(_, counts)| counts.series()).sum();
                prop_assert!(series <= limit);
                prop_assert_eq!(rows.iter().map(|(_, c)| c.opened).sum::<u64>(), total);
                prop_assert_eq!(rows.iter().map(|(_, c)| c.sent).sum::<u64>(), ended);
                let closed = rows.iter().flat_map(|(_, c)| c.ended.values()).sum::<u64>();
                prop_assert_eq!(closed, ended);
            }
        }
    }
}
