//! Shell: which pods are enrolled and which cannot be, and the files of this process, as figures.
//! Never: enrols anything.
use std::{
    collections::BTreeSet,
    fmt, fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::sys::resource::{Resource, getrlimit};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// The pods of this node. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Pods(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    enrolled: BTreeSet<Arc<str>>,
    failed: Vec<(Arc<str>, String)>,
    started: u64,
    stopped: u64,
}

impl Pods {
    /// Notes which pods are enrolled by now, and which should be and are not, with the reason.
    pub fn update(
        &self,
        enrolled: impl Iterator<Item = Arc<str>>,
        failed: Vec<(Arc<str>, String)>,
    ) {
        let (enrolled, mut state) = (enrolled.collect::<BTreeSet<_>>(), self.lock());
        state.started += count(enrolled.difference(&state.enrolled).count());
        state.stopped += count(state.enrolled.difference(&enrolled).count());
        (state.enrolled, state.failed) = (enrolled, failed);
    }

    /// How many are enrolled.
    pub fn enrolled(&self) -> usize {
        self.lock().enrolled.len()
    }

    /// Pods that should be enrolled and are not, with the reason.
    pub fn failed(&self) -> Vec<(Arc<str>, String)> {
        self.lock().failed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Pods {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (pending, started, stopped) = {
            let state = self.lock();
            (count(state.failed.len()), state.started, state.stopped)
        };
        for (name, help, value) in [
            (
                "workload_manager_pending_proxy_count",
                "Pods that could not be enrolled yet.",
                pending,
            ),
            ("process_open_fds", "Files that the agent has open.", open_files()),
            ("process_max_fds", "Files that the agent may have open.", most_files()),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        for (name, help, value) in [
            ("workload_manager_proxies_started", "Pods that were enrolled.", started),
            ("workload_manager_proxies_stopped", "Pods that were released.", stopped),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        Ok(())
    }
}

/// The folder's size is their number since Linux 6.2; before, it is zero and they must be counted.
fn open_files() -> u64 {
    let files = "/proc/self/fd";
    match fs::metadata(files).map_or(0, |folder| folder.len()) {
        0 => fs::read_dir(files).map_or(0, |list| count(list.count())),
        number => number,
    }
}

fn most_files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_and_goes_is_counted() {
        let pods = Pods::default();
        let names = |names: &[&str]| names.iter().map(|n| Arc::from(*n)).collect::<Vec<_>>();
        for now in [&["a", "b"][..], &["b", "c"], &[]] {
            pods.update(names(now).into_iter(), vec![("d".into(), "why".into())]);
        }
        let state = pods.lock();
        assert_eq!((state.started, state.stopped, state.failed.len()), (3, 3, 1));
    }

    #[test]
    fn this_process_has_files_open() {
        assert!((3..most_files()).contains(&open_files()));
    }
}
