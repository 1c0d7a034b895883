//! Shell: the agent's verdicts that the kernel remembers, and the connections that are open by them.
//! Two pods of one node are joined by the agent once; what it found then it leaves with the kernel
//! for a short while, and the next connection goes from pod to pod by itself.
//! Never: decides by itself: see `standing`.
use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use culvert_ebpf::abi::{MANY_FLOWS, MAX_VERDICTS, direct::VERDICT_NS};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    clock,
    drain::Drain,
    flow::Direction,
    inbound::{Caller, Inbound},
    policy::Verdict,
    redirect::{self, DirectEvent, DirectFlow, Events, LocalPod, LocalPods, Shortcuts},
    route::{Loads, NextHop},
    telemetry::{Protocol, Record},
};

mod pass;
mod standing;
mod sweep;

use pass::{Cut, Open, Pass};
pub use standing::{Question, Standing, is_sole, standing};
use sweep::sweep;

/// How often verdicts are extended: twice in the time that they hold.
const EXTEND: Duration = Duration::from_nanos(VERDICT_NS / 2);
/// For how long a verdict is extended without a connection.
const IN_USE: Duration = Duration::from_secs(60);
/// Events that are looked at in one turn.
const MOST_EVENTS: usize = 256;
/// How long the last events may take.
const LAST_EVENTS: Duration = Duration::from_millis(500);
/// Pause before it is looked again whether all connections have ended.
const DRAIN_PAUSE: Duration = Duration::from_millis(50);

/// Connections between pods of this node that need no agent. Clones share them.
#[derive(Clone, Debug)]
pub struct Direct {
    /// How a connection is delivered that the agent joins, and judged in any case.
    pub inbound: Inbound,
    pods: watch::Receiver<LocalPods>,
    loads: Loads,
    kernel: Arc<Shortcuts>,
    /// Whether it leaves verdicts.
    leaves: bool,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    /// The number of the next verdict.
    next: u64,
    /// Verdicts by number: those that the kernel has, and those by which connections are still open.
    passes: HashMap<u64, Pass>,
    /// Those that the kernel has, by the pod that dials and what it dials.
    held: HashMap<(Arc<str>, SocketAddr), u64>,
    /// Pods between which connections take another way than from pod to pod, by their uids.
    barred: HashSet<(Arc<str>, Arc<str>)>,
    /// Something may be open of which it is not known whose verdict it went by.
    strays: bool,
    /// Connections that are open.
    open: usize,
    /// Events that the kernel had no room for, and those of which the connections were searched.
    lost: u64,
    searched: u64,
    /// No verdicts any more.
    stopping: bool,
}

impl Direct {
    /// Begins without a verdict; connections of an earlier agent are ended as soon as their pods are
    /// enrolled.
    ///
    /// # Errors
    /// When the kernel's maps cannot be read.
    pub fn new(
        inbound: Inbound,
        pods: watch::Receiver<LocalPods>,
        loads: Loads,
        (kernel, leaves): (Shortcuts, bool),
    ) -> Result<Self, redirect::Error> {
        let table = Table {
            // Later than any number of an earlier agent.
            next: clock::kernel().max(1),
            passes: HashMap::new(),
            held: HashMap::new(),
            barred: HashSet::new(),
            strays: !kernel.flows()?.is_empty(),
            open: 0,
            lost: kernel.lost(),
            searched: kernel.lost(),
            stopping: false,
        };
        let (kernel, table) = (Arc::new(kernel), Arc::new(Mutex::new(table)));
        Ok(Self { inbound, pods, loads, kernel, leaves, table })
    }

    /// A connection was joined: the next one may go by itself, if nobody else could be meant.
    pub fn leave(
        &self,
        source: &Arc<LocalPod>,
        dialled: SocketAddr,
        server: &Arc<LocalPod>,
        hop: &NextHop,
    ) {
        if !self.leaves || !is_sole(hop, dialled) {
            return;
        }
        let (source, server, service) = (source.clone(), server.clone(), hop.service.clone());
        let pass = Pass {
            source,
            dialled,
            server,
            endpoint: hop.endpoint,
            service,
            used: clock::now(),
            cut: None,
            open: HashMap::new(),
        };
        let mut table = self.lock();
        let key = pass.key();
        let full = table.open >= MANY_FLOWS || table.held.len() >= MAX_VERDICTS;
        let barred = table.barred.contains(&(key.0.clone(), pass.server.uid().clone()));
        // Judged under the lock: whatever changes from here on finds the verdict in the table.
        if full || barred || table.stopping || self.judged(&pass) != Standing::Holds {
            return;
        }
        if let Some(number) = table.held.get(&key).copied() {
            let same = |held: &mut Pass| held.is_like(&pass);
            if table.passes.get_mut(&number).is_some_and(same) {
                return;
            }
            self.withdraw(&mut table, number);
        }
        let number = table.next;
        table.next += 1;
        if self.kernel.leave(&pass.way(), number).is_ok() {
            table.held.insert(key, number);
            table.passes.insert(number, pass);
        }
    }

    /// Asks again about every verdict. What does not hold is taken from the kernel first, then what
    /// is open by it and not allowed is ended.
    pub fn judge(&self) {
        let mut table = self.lock();
        let found: Vec<_> =
            table.passes.iter().map(|(number, pass)| (*number, self.judged(pass))).collect();
        let mut denied = Vec::new();
        for (number, standing) in found {
            if standing != Standing::Holds {
                self.withdraw(&mut table, number);
            }
            if let Standing::Denied(verdict) = standing {
                denied.push((number, Cut::Denied(verdict)));
            }
        }
        self.end(&mut table, denied);
        self.end_strays(&mut table);
        let pods = self.pods.borrow();
        table.barred.retain(|(from, to)| pods.contains_key(from) && pods.contains_key(to));
    }

    /// Follows connections and the mesh, and extends what is in use.
    pub async fn follow(self, mut events: Events) {
        let mut snapshots = self.inbound.snapshot.clone();
        let mut turns = interval(EXTEND);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                told = events.next(MOST_EVENTS) => match told {
                    Ok(told) => told.into_iter().for_each(|(event, flow)| self.told(event, &flow)),
                    Err(error) => {
                        // What cannot be followed cannot be judged.
                        tracing::error!(%error, "the kernel tells nothing any more");
                        return self.cut().await;
                    }
                },
                Ok(()) = snapshots.changed() => self.judge(),
                _ = turns.tick() => self.extend(),
            }
        }
    }

    /// Leaves no verdict any more, once the agent stops, and waits until all connections have ended.
    pub async fn finish(self, drain: Drain) {
        drain.draining().await;
        self.stop();
        while self.lock().open > 0 {
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
    }

    /// Ends what is open, and waits a moment until the kernel has told of it.
    pub async fn cut(&self) {
        self.stop();
        {
            let mut table = self.lock();
            let all = table.passes.keys().map(|number| (*number, Cut::Drained)).collect();
            self.end(&mut table, all);
        }
        let ended = async {
            while self.lock().open > 0 {
                tokio::time::sleep(DRAIN_PAUSE).await;
            }
        };
        // What is left then is recorded without its bytes.
        let _ = timeout(LAST_EVENTS, ended).await;
    }

    fn stop(&self) {
        let mut table = self.lock();
        table.stopping = true;
        let held: Vec<u64> = table.held.values().copied().collect();
        held.into_iter().for_each(|number| self.withdraw(&mut table, number));
    }

    fn judged(&self, pass: &Pass) -> Standing {
        let pods = self.pods.borrow();
        let is_enrolled =
            |pod: &Arc<LocalPod>| pods.get(pod.uid()).is_some_and(|known| Arc::ptr_eq(known, pod));
        let standing = standing(&self.inbound.snapshot.borrow(), &pass.question());
        match standing {
            Standing::Holds if !(is_enrolled(&pass.source) && is_enrolled(&pass.server)) => {
                Standing::Over
            }
            Standing::Holds | Standing::Over | Standing::Denied(_) => standing,
        }
    }

    /// From here on new connections are for the agent.
    fn withdraw(&self, table: &mut Table, number: u64) {
        let Some(pass) = table.passes.get(&number) else { return };
        let key = pass.key();
        if table.held.get(&key) == Some(&number) {
            if let Err(error) = self.kernel.withdraw(&pass.source, pass.dialled) {
                tracing::error!(%error, "a verdict stays with the kernel until its time is over");
            }
            table.held.remove(&key);
        }
    }

    /// Ends what is open by these verdicts, and has not been ended already.
    fn end(&self, table: &mut Table, mut cut: Vec<(u64, Cut)>) {
        let is_due = |pass: &Pass| pass.cut.is_none() || !pass.open.is_empty();
        cut.retain(|(number, _)| table.passes.get(number).is_some_and(is_due));
        let mut numbers = HashSet::new();
        for (number, cut) in cut {
            if let Some(pass) = table.passes.get_mut(&number) {
                pass.cut = Some(cut);
                numbers.insert(number);
            }
        }
        self.end_numbers(table, numbers);
    }

    fn end_numbers(&self, table: &Table, numbers: HashSet<u64>) {
        let passes = numbers.iter().filter_map(|number| table.passes.get(number));
        let both = passes.flat_map(|pass| [&pass.source, &pass.server]);
        let pods: HashMap<_, _> = both.map(|pod| (pod.uid().clone(), pod.clone())).collect();
        sweep(&self.kernel, pods.into_values().collect(), move |flow| {
            numbers.contains(&flow.number)
        });
    }

    /// Nobody judges connections of which it is not known whose verdict they went by, as those that an
    /// earlier agent let through.
    fn end_strays(&self, table: &mut Table) {
        if !table.strays {
            return;
        }
        let Ok(flows) = self.kernel.flows() else { return };
        let (next, known) = (table.next, table.passes.keys().copied().collect::<HashSet<_>>());
        let is_stray = move |flow: &DirectFlow| flow.number < next && !known.contains(&flow.number);
        table.strays = flows.iter().any(&is_stray);
        let pods = self.pods.borrow();
        let has_one =
            |pod: &&Arc<LocalPod>| flows.iter().any(|flow| is_stray(flow) && flow.is_of(pod));
        let pods = pods.values().filter(has_one).cloned().collect();
        sweep(&self.kernel, pods, is_stray);
    }

    fn extend(&self) {
        let mut table = self.lock();
        let now = clock::now();
        let full = table.open >= MANY_FLOWS;
        let held: Vec<u64> = table.held.values().copied().collect();
        for number in held {
            let Some(pass) = table.passes.get(&number) else { continue };
            let idle = now.saturating_duration_since(pass.used) >= IN_USE && pass.open.is_empty();
            if full || idle || self.kernel.leave(&pass.way(), number).is_err() {
                self.withdraw(&mut table, number);
            }
        }
        self.find_lost(&mut table);
        self.end_strays(&mut table);
        // Whatever should have ended by now, and did not.
        let left = |(number, pass): (&u64, &Pass)| {
            (pass.cut.is_some() && !pass.open.is_empty()).then_some(*number)
        };
        let left: HashSet<u64> = table.passes.iter().filter_map(left).collect();
        self.end_numbers(&table, left);
        self.make_room();
        // What is told of their last connections may still come, so the others stay for a while.
        let held: HashSet<u64> = table.held.values().copied().collect();
        table.passes.retain(|number, pass| {
            let idle = now.saturating_duration_since(pass.used) >= IN_USE;
            held.contains(number) || !pass.open.is_empty() || !idle
        });
    }

    /// Where the kernel had no room, it looks at verdicts again once it has.
    fn make_room(&self) {
        let is_roomy = || self.kernel.flows().is_ok_and(|flows| flows.len() < MANY_FLOWS);
        if self.kernel.is_crowded()
            && is_roomy()
            && let Err(error) = self.kernel.reopen()
        {
            tracing::error!(%error, "connections between pods of this node go through the agent");
        }
    }

    /// Compares with the kernel's own list, when it had no room to tell of something: ends the records
    /// of connections that are gone, and begins those of connections that nobody was told of.
    fn find_lost(&self, table: &mut Table) {
        let lost = self.kernel.lost();
        // What was told in the meantime has been read at the next turn.
        let search = lost == table.lost && lost != table.searched;
        table.lost = lost;
        if !search {
            return;
        }
        let Ok(flows) = self.kernel.flows() else { return };
        table.searched = lost;
        let there: HashSet<u64> = flows.iter().map(DirectFlow::id).collect();
        for pass in table.passes.values_mut() {
            let reason = pass.lost();
            for (_, open) in pass.open.extract_if(|socket, _| !there.contains(socket)) {
                let detail = || Some("the kernel had no room to tell its end".to_owned());
                open.inbound.end(reason, detail());
                open.outbound.end(reason, detail());
                table.open -= 1;
            }
        }
        for flow in flows.iter().filter(|flow| flow.was_accepted) {
            self.opened(table, flow);
        }
    }

    /// What the kernel tells of a connection becomes its records.
    fn told(&self, event: DirectEvent, flow: &DirectFlow) {
        let mut table = self.lock();
        // Of an earlier agent's verdict nobody knows whose it was.
        let Some(pass) = table.passes.get_mut(&flow.number) else { return };
        pass.used = clock::now();
        match event {
            DirectEvent::Opened => self.opened(&mut table, flow),
            DirectEvent::Misled => self.bar(&mut table, flow),
            DirectEvent::Unreached
            | DirectEvent::Finished
            | DirectEvent::ResetByClient
            | DirectEvent::ResetByServer => self.ended(&mut table, event, flow),
        }
    }

    /// A connection that is open begins its records, and is judged once more.
    fn opened(&self, table: &mut Table, flow: &DirectFlow) {
        let Some(pass) = table.passes.get_mut(&flow.number) else {
            table.strays = true;
            return;
        };
        if pass.open.contains_key(&flow.id()) {
            return;
        }
        let (open, denied) = self.open(pass, flow);
        pass.open.insert(flow.id(), open);
        table.open += 1;
        if let Some(verdict) = denied {
            self.withdraw(table, flow.number);
            self.end(table, vec![(flow.number, Cut::Denied(verdict))]);
        }
    }

    fn ended(&self, table: &mut Table, event: DirectEvent, flow: &DirectFlow) {
        let Some(pass) = table.passes.get_mut(&flow.number) else { return };
        let known = pass.open.remove(&flow.id());
        let was_open = known.is_some();
        let open = known.unwrap_or_else(|| self.open(pass, flow).0);
        let (inbound, outbound) = pass.reasons(event, flow);
        open.counters.sent.store(flow.up, Ordering::Relaxed);
        open.counters.received.store(flow.down, Ordering::Relaxed);
        open.inbound.end(inbound.reason, some(inbound.detail));
        open.outbound.end(outbound.reason, some(outbound.detail));
        table.open -= usize::from(was_open);
        if flow.was_open && !flow.was_accepted {
            // Somebody else answered: packets are redirected or translated between the pods.
            self.bar(table, flow);
        } else if event == DirectEvent::Unreached {
            self.withdraw(table, flow.number);
        }
    }

    /// The pair is left to the agent from now on, and the connection ends.
    fn bar(&self, table: &mut Table, flow: &DirectFlow) {
        self.withdraw(table, flow.number);
        let Some(pass) = table.passes.get(&flow.number) else { return };
        let pair = (pass.source.uid().clone(), pass.server.uid().clone());
        let socket = flow.id();
        sweep(&self.kernel, vec![pass.source.clone(), pass.server.clone()], move |flow| {
            flow.id() == socket
        });
        if table.barred.insert(pair.clone()) {
            tracing::warn!(client = %pair.0, server = %pair.1, "a connection from pod to pod did not arrive as it left: the agent joins them");
        }
    }

    /// Both records of a connection, which was judged once more, and what policies deny it by.
    fn open(&self, pass: &Pass, flow: &DirectFlow) -> (Open, Option<Verdict>) {
        let telemetry = &self.inbound.telemetry;
        let (from, to) = (pass.source.workload(), pass.server.workload());
        let mut outbound = Record::open(telemetry, Direction::Outbound, flow.source, pass.dialled);
        outbound.protocol = Protocol::Direct;
        outbound.service.clone_from(&pass.service);
        outbound.source.workload = Some(from.clone());
        outbound.source.identity = Some(from.identity.clone());
        outbound.destination.workload = Some(to.clone());
        outbound.destination.identity = Some(to.identity.clone());
        outbound.set_destination_address(pass.endpoint);
        let caller = Caller {
            identity: from.identity.clone(),
            source: flow.source,
            target: pass.endpoint,
            service: pass.service.clone(),
        };
        let (mut inbound, judged) = self.inbound.arrive(&pass.server, &caller);
        let denied = judged.err().and(inbound.verdict.clone());
        let counters = outbound.opened();
        inbound.opened_with(&counters);
        let _load = self.loads.open(&to.uid);
        (Open { outbound, inbound, counters, _load }, denied)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn some(detail: String) -> Option<String> {
    (!detail.is_empty()).then_some(detail)
}
