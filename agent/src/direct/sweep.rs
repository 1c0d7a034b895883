//! Shell: ends connections that went by verdicts, at both of their sockets, until the kernel lists none of
//! them.
//! Never: chooses which; keeps others waiting: what netlink asks of the kernel may take its time.
use std::{sync::Arc, thread, time::Duration};

use tokio::task::spawn_blocking;

use crate::redirect::{DirectFlow, LocalPod, Shortcuts};

/// How often is looked whether one is left: an application may move its socket meanwhile.
const TURNS: u32 = 20;
/// Pause before it is looked again.
const PAUSE: Duration = Duration::from_millis(10);

/// Ends the connections that are due, whose sockets are in these pods.
pub(super) fn sweep(
    kernel: &Arc<Shortcuts>,
    pods: Vec<Arc<LocalPod>>,
    is_due: impl Fn(&DirectFlow) -> bool + Send + 'static,
) {
    if pods.is_empty() {
        return;
    }
    let kernel = kernel.clone();
    spawn_blocking(move || {
        for turn in 0..TURNS {
            // The kernel's own list counts: it has also what nobody was told of yet.
            let due: Vec<_> = match kernel.flows() {
                Ok(flows) => flows.into_iter().filter(|flow| is_due(flow)).collect(),
                Err(error) => return tracing::error!(%error, "cannot list direct connections"),
            };
            if due.is_empty() {
                return;
            }
            pods.iter().for_each(|pod| end(pod, &due));
            if turn > 0 {
                thread::sleep(PAUSE);
            }
        }
        tracing::warn!("direct connections that are to end are still there: it is tried again");
    });
}

fn end(pod: &LocalPod, due: &[DirectFlow]) {
    if let Err(error) = pod.destroy(due) {
        tracing::error!(%error, pod = %pod.uid(), "cannot end direct connections");
    }
}
