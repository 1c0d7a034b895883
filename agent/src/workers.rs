//! Shell: threads that carry connections, each with a runtime of its own.
//! Never: moves a connection once it is placed, knows what a connection is.
use std::{
    cell::Cell,
    io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Connections by which a pod's own worker may be ahead of the one that carries the fewest, before
/// that one gets the next.
const SPREAD: usize = 4;

/// Workers, where nobody says how many.
const MOST_UNASKED: usize = 4;

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// The number of the worker that this runs on. Connections to peers are shared within a worker, so
/// that what arrives on them never has to wake another thread.
pub fn here() -> usize {
    HERE.get()
}

/// The workers of this process. Clones share them; they stop when the last is dropped.
#[derive(Clone, Debug)]
pub struct Workers {
    threads: Arc<[Worker]>,
    _running: Arc<DropGuard>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    carried: Arc<AtomicUsize>,
}

/// A connection's place on a worker, held for as long as it is carried.
#[derive(Debug)]
pub struct Place {
    worker: usize,
    carried: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts `count`, or as many as there are processors for this process, but not more than four:
    /// each has connections to peers of its own.
    ///
    /// # Errors
    /// When a thread or its runtime cannot be started.
    pub fn start(count: Option<NonZeroUsize>) -> io::Result<Self> {
        let count = match count {
            Some(count) => count.get(),
            None => thread::available_parallelism()?.get().min(MOST_UNASKED),
        };
        let stop = CancellationToken::new();
        let threads: io::Result<Vec<_>> =
            (0..count).map(|number| start(number, stop.clone())).collect();
        Ok(Self { threads: threads?.into(), _running: Arc::new(stop.drop_guard()) })
    }

    /// The runtime that a pod is at home on: where its connections are accepted, and carried unless
    /// there are many.
    pub fn home(&self, pod: u64) -> &Handle {
        let count = u64::try_from(self.threads.len()).unwrap_or(u64::MAX);
        let number = usize::try_from(pod % count).unwrap_or_default();
        &self.threads[number].runtime
    }

    /// A place for the next connection of a pod that is at home on the worker `home`.
    pub fn place(&self, home: usize) -> (Place, &Handle) {
        let carried: Vec<_> =
            self.threads.iter().map(|worker| worker.carried.load(Ordering::Relaxed)).collect();
        let chosen = choose(&carried, home);
        let worker = &self.threads[chosen];
        worker.carried.fetch_add(1, Ordering::Relaxed);
        (Place { worker: chosen, carried: worker.carried.clone() }, &worker.runtime)
    }
}

/// The worker for one connection more: the one at home, unless it is well ahead of another.
fn choose(carried: &[usize], home: usize) -> usize {
    let least = carried.iter().enumerate().min_by_key(|(_, carried)| **carried);
    match (carried.get(home), least) {
        (Some(here), Some((_, least))) if *here < least + SPREAD => home,
        (_, Some((least, _))) => least,
        (_, None) => home,
    }
}

impl Place {
    /// Whether it is on the thread that asks.
    pub fn is_here(&self) -> bool {
        self.worker == here()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.carried.fetch_sub(1, Ordering::Relaxed);
    }
}

fn start(number: usize, stop: CancellationToken) -> io::Result<Worker> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        HERE.set(number);
        runtime.block_on(stop.cancelled());
    })?;
    Ok(Worker { runtime: handle, carried: Arc::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_stays_at_home_until_another_worker_has_far_less() {
        assert_eq!(choose(&[0, 0, 0], 1), 1);
        assert_eq!(choose(&[0, SPREAD - 1, 2], 1), 1);
        assert_eq!(choose(&[1, SPREAD + 1, 2], 1), 0);
        assert_eq!(choose(&[7], 0), 0);
    }

    #[test]
    fn places_are_given_back() {
        let workers = Workers::start(NonZeroUsize::new(2)).unwrap();
        let held: Vec<_> = (0..20).map(|_| workers.place(0).0).collect();
        let away = held.iter().filter(|place| place.worker == 1).count();
        assert_eq!(away, (20 - SPREAD) / 2);
        drop(held);
        let again: Vec<_> = (0..SPREAD).map(|_| workers.place(1).0).collect();
        assert!(again.iter().all(|place| place.worker == 1));
    }

    #[test]
    fn each_worker_knows_its_number() {
        let workers = Workers::start(NonZeroUsize::new(3)).unwrap();
        for number in 0..3 {
            let (told, answer) = std::sync::mpsc::channel();
            let task = async move { told.send(here()) };
            drop(workers.home(number).spawn(task));
            assert_eq!(answer.recv().ok().map(|here| here as u64), Some(number));
        }
    }
}
