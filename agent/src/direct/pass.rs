//! Shell: one verdict that the kernel has, or had, and the records of what is open by it.
//! Never: asks whether it holds.
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::Question;
use crate::{
    discovery::Service,
    policy::Verdict,
    redirect::{DirectEvent, DirectFlow, LocalPod, Way},
    relay::Counters,
    route::Load,
    telemetry::{Failure, Reason, Record},
};

/// For how long a verdict is extended without a connection.
const IN_USE: Duration = Duration::from_secs(60);
/// A client that is answered nothing repeats its SYN after this long.
const SYN_REPEATED: Duration = Duration::from_secs(1);

/// One verdict.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) source: Arc<LocalPod>,
    pub(super) dialled: SocketAddr,
    pub(super) server: Arc<LocalPod>,
    pub(super) endpoint: SocketAddr,
    pub(super) service: Option<Arc<Service>>,
    pub(super) used: Instant,
    /// Why everything that is open by it has been ended.
    pub(super) cut: Option<Cut>,
    /// By the client's socket.
    pub(super) open: HashMap<u64, Open>,
}

/// Both sides' records of a connection.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) outbound: Record,
    pub(super) inbound: Record,
    pub(super) counters: Arc<Counters>,
    pub(super) _load: Load,
}

/// Why connections are ended by the agent.
#[derive(Debug)]
pub(super) enum Cut {
    /// Policies say the opposite by now.
    Denied(Verdict),
    /// The agent stops.
    Drained,
}

impl Pass {
    /// Whether nothing was told of it for a while.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) >= IN_USE
    }

    pub(super) fn key(&self) -> (Arc<str>, SocketAddr) {
        (self.source.uid().clone(), self.dialled)
    }

    pub(super) fn way(&self) -> Way<'_> {
        let Self { source, dialled, server, endpoint, .. } = self;
        Way { source, dialled: *dialled, server, endpoint: *endpoint }
    }

    pub(super) fn question(&self) -> Question<'_> {
        Question {
            source: self.source.workload(),
            dialled: self.dialled,
            server: self.server.workload(),
            endpoint: self.endpoint,
        }
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.source, &other.source)
            && Arc::ptr_eq(&self.server, &other.server)
            && (self.dialled, self.endpoint) == (other.dialled, other.endpoint)
    }

    /// How a connection ended for the server's side and for the client's.
    pub(super) fn reasons(&self, event: DirectEvent, flow: &DirectFlow) -> (Failure, Failure) {
        let same = |reason| (Failure::new(reason, ""), Failure::new(reason, ""));
        match (event, &self.cut) {
            (DirectEvent::Finished, _) => same(Reason::Ok),
            (_, Some(Cut::Drained)) => same(Reason::Drained),
            (_, Some(Cut::Denied(denied))) => {
                (Failure::new(Reason::Revoked, denied), Failure::new(Reason::ResetByServer, ""))
            }
            (_, None) if flow.is_strangers() => {
                let text = "somebody else answered than the pod";
                let failure = Failure::new(Reason::ConnectFailed, text);
                (failure.clone(), failure.as_told())
            }
            (_, None) if flow.was_open && !flow.was_accepted => {
                let text = "the application took it not";
                let failure = Failure::new(Reason::ConnectTimeout, text);
                (failure.clone(), failure.as_told())
            }
            (DirectEvent::ResetByServer, None) => same(Reason::ResetByServer),
            (DirectEvent::Unreached, None) => {
                let refused = Duration::from_nanos(flow.age) < SYN_REPEATED;
                let reason = if refused { Reason::ConnectRefused } else { Reason::ConnectTimeout };
                let failure = Failure::new(reason, "the connection did not come about");
                (failure.clone(), failure.as_told())
            }
            (DirectEvent::ResetByClient | DirectEvent::Opened | DirectEvent::Misled, None) => {
                same(Reason::ResetByClient)
            }
        }
    }

    /// How a connection ended of which the kernel could not tell the end.
    pub(super) fn lost(&self) -> Reason {
        match self.cut {
            Some(Cut::Denied(_)) => Reason::Revoked,
            Some(Cut::Drained) => Reason::Drained,
            None => Reason::Cancelled,
        }
    }
}
