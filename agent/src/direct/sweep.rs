//! Shell: ends connections that went by verdicts, at both of their sockets, until the kernel lists none of
//! them.
//! Never: chooses which; keeps others waiting: what netlink asks of the kernel may take its time.
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::task::spawn_blocking;

use crate::redirect::{DirectFlow, LocalPod, Shortcuts};

/// How often is looked whether one is left: an application may move its socket meanwhile.
const TURNS: u32 = 20;
/// Pause before it is looked again.
const PAUSE: Duration = Duration::from_millis(10);

/// Ends connections, one thread for all.
#[derive(Clone, Debug)]
pub(super) struct Sweeper {
    kernel: Arc<Shortcuts>,
    work: Arc<Mutex<Work>>,
}

#[derive(Debug, Default)]
struct Work {
    due: Due,
    /// A thread is at it.
    at_it: bool,
}

/// Which connections are to end, and whose their sockets are.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Those that went by these verdicts.
    pub(super) numbers: HashSet<u64>,
    /// Those of these sockets.
    pub(super) sockets: HashSet<u64>,
    /// Those that went by others than these verdicts, with smaller numbers than that one.
    pub(super) strays: Option<(u64, HashSet<u64>)>,
    /// The pods, by uid.
    pub(super) pods: HashMap<Arc<str>, Arc<LocalPod>>,
}

impl Due {
    /// Names a pod.
    pub(super) fn with(mut self, pods: impl IntoIterator<Item = Arc<LocalPod>>) -> Self {
        self.pods.extend(pods.into_iter().map(|pod| (pod.uid().clone(), pod)));
        self
    }

    pub(super) fn has(&self, flow: &DirectFlow) -> bool {
        let is_stray = |(next, known): &(u64, HashSet<u64>)| {
            flow.number < *next && !known.contains(&flow.number)
        };
        self.numbers.contains(&flow.number)
            || self.sockets.contains(&flow.id())
            || self.strays.as_ref().is_some_and(is_stray)
    }

    fn add(&mut self, other: Self) {
        self.numbers.extend(other.numbers);
        self.sockets.extend(other.sockets);
        self.strays = other.strays.or(self.strays.take());
        self.pods.extend(other.pods);
    }
}

impl Sweeper {
    pub(super) fn new(kernel: Arc<Shortcuts>) -> Self {
        Self { kernel, work: Arc::default() }
    }

    /// Ends the connections that are due.
    pub(super) fn sweep(&self, due: Due) {
        if due.pods.is_empty() {
            return;
        }
        let mut work = self.lock();
        work.due.add(due);
        if !work.at_it {
            work.at_it = true;
            let sweeper = self.clone();
            spawn_blocking(move || sweeper.work());
        }
    }

    /// Until nothing is due any more.
    fn work(&self) {
        while let Some(due) = self.next() {
            self.end(&due);
        }
    }

    fn next(&self) -> Option<Due> {
        let mut work = self.lock();
        work.at_it = !work.due.pods.is_empty();
        work.at_it.then(|| std::mem::take(&mut work.due))
    }

    /// The kernel's own list counts: it has also what nobody was told of yet.
    fn end(&self, due: &Due) {
        for turn in 0..TURNS {
            let there: Vec<_> = match self.kernel.flows() {
                Ok(flows) => flows.into_iter().filter(|flow| due.has(flow)).collect(),
                Err(error) => return tracing::error!(%error, "cannot list direct connections"),
            };
            if there.is_empty() {
                return;
            }
            due.pods.values().for_each(|pod| end(pod, &there));
            if turn > 0 {
                thread::sleep(PAUSE);
            }
        }
        tracing::warn!("direct connections that are to end are still there: it is tried again");
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn end(pod: &LocalPod, there: &[DirectFlow]) {
    if let Err(error) = pod.destroy(there) {
        tracing::error!(%error, pod = %pod.uid(), "cannot end direct connections");
    }
}
