//! Shell: places for what is open at one time, and the share of them that one peer may have.
//! Never: waits for a place.
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// One peer may have this part of all places: a quarter.
const PARTS: usize = 4;
/// So many it may have in any case, if there are as many.
const LEAST_SHARE: usize = 256;

/// Places, counted together and for each peer. Clones share them.
#[derive(Clone, Debug)]
pub struct Places(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    most: usize,
    share: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// One place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    peer: IpAddr,
}

impl Places {
    /// So many places.
    pub fn new(most: usize) -> Self {
        let share = (most / PARTS).max(LEAST_SHARE);
        Self(Arc::new(Counted { most, share, taken: Mutex::default() }))
    }

    /// A place for this peer; `None` when there is none, or it has its share.
    pub fn take(&self, peer: IpAddr) -> Option<Place> {
        let mut taken = self.taken();
        if taken.all >= self.0.most {
            return None;
        }
        let own = taken.of.entry(peer).or_default();
        if *own >= self.0.share {
            return None;
        }
        *own += 1;
        taken.all += 1;
        Some(Place { places: self.clone(), peer })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.of.get_mut(&self.peer) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.of.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_share_and_others_have_the_rest() {
        let most = PARTS * LEAST_SHARE * 2;
        let places = Places::new(most);
        let [greedy, other] = [1, 2].map(|host| IpAddr::from([10, 0, 0, host]));
        let held: Vec<_> = std::iter::from_fn(|| places.take(greedy)).collect();
        assert_eq!(held.len(), most / PARTS);
        assert!(places.take(other).is_some());
        drop(held);
        assert!(places.take(greedy).is_some());
        assert!(places.taken().of.is_empty(), "nobody is remembered");
    }

    #[test]
    fn few_places_are_all_there_are() {
        let places = Places::new(1);
        let peer = IpAddr::from([10, 0, 0, 1]);
        let first = places.take(peer);
        assert!(first.is_some() && places.take(IpAddr::from([10, 0, 0, 2])).is_none());
        drop(first);
        assert!(places.take(peer).is_some());
    }
}
