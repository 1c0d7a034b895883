//! Shell: the connections that are open now.
//! Never: on the byte path: each connection is put in once and taken out once.
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::record::Protocol;
use crate::{
    discovery::{Service, Workload},
    flow::Direction,
    identity::Identity,
    relay::Counters,
};

/// A connection that is open.
#[derive(Clone, Debug)]
pub struct Open {
    /// Which side of it the local pod is on.
    pub direction: Direction,
    /// Who dialled, and whom a certificate proved it to be.
    pub source: (Option<Arc<Workload>>, Option<Identity>),
    /// Who was dialled, and whom a certificate proved it to be.
    pub destination: (Option<Arc<Workload>>, Option<Identity>),
    /// The client's address.
    pub source_address: SocketAddr,
    /// The address that the client dialled, or that a peer's agent asked for.
    pub dialled: SocketAddr,
    /// Where the agent dialled.
    pub reached: SocketAddr,
    /// The service that was dialled.
    pub service: Option<Arc<Service>>,
    /// With or without a tunnel.
    pub protocol: Protocol,
    /// Its bytes so far.
    pub counters: Arc<Counters>,
    /// Since when.
    pub since: Instant,
}

impl Open {
    /// The pod of this node.
    pub fn pod(&self) -> Option<&Arc<Workload>> {
        match self.direction {
            Direction::Outbound => self.source.0.as_ref(),
            Direction::Inbound => self.destination.0.as_ref(),
        }
    }
}

/// The place of a connection among those that are open.
pub(super) type Place = u64;

/// All connections that are open. One lock is enough: it is held for the time of one insertion, and
/// a tree, unlike a table, never stops to grow.
#[derive(Debug, Default)]
pub struct OpenConnections(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    next: Place,
    taken: BTreeMap<Place, Arc<Open>>,
}

impl OpenConnections {
    /// All of them, the oldest first.
    pub fn all(&self) -> Vec<Arc<Open>> {
        self.lock().taken.values().cloned().collect()
    }

    pub(super) fn insert(&self, open: Open) -> Place {
        let open = Arc::new(open);
        let mut places = self.lock();
        let place = places.next;
        places.next += 1;
        places.taken.insert(place, open);
        place
    }

    pub(super) fn remove(&self, place: Place) {
        // Dropped after the lock is released.
        let _removed = self.lock().taken.remove(&place);
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
