//! Pure: keys → endpoints, so that few keys move when an endpoint comes or goes: a ring
//! (`envoy:source/common/upstream/ring_hash_lb.cc`) or a Maglev table (`maglev_lb.cc`).
//! Never: what the key is (see `key`).
use super::xxhash::xxhash64;
use crate::backend::HashTable;

/// Where keys lead to: places in the list that it was made of.
#[derive(Clone, Debug)]
pub enum Table {
    /// Points on a circle, in order.
    Ring(Vec<(u64, u32)>),
    /// Entries, each an endpoint's.
    Maglev(Vec<u32>),
}

impl Table {
    /// A table for endpoints with these names and weights.
    pub fn new(kind: HashTable, hosts: &[(String, f64)]) -> Self {
        match kind {
            HashTable::Ring(size) => Self::Ring(ring(size.clamp(1, HashTable::MAX_RING), hosts)),
            HashTable::Maglev(size) => {
                Self::Maglev(maglev(size.clamp(2, HashTable::MAX_MAGLEV), hosts))
            }
        }
    }

    /// The place that a key leads to; `None` when there is none at all.
    pub fn find(&self, key: u64) -> Option<usize> {
        let place = match self {
            Self::Ring(points) => {
                let after = points.partition_point(|(point, _)| *point < key);
                points.get(after).or_else(|| points.first()).map(|(_, place)| *place)
            }
            Self::Maglev(entries) => {
                let length = u64::try_from(entries.len()).ok().filter(|length| *length > 0)?;
                entries.get(usize::try_from(key % length).ok()?).copied()
            }
        };
        place.and_then(|place| usize::try_from(place).ok())
    }
}

/// At least so many points, each endpoint's by its weight.
fn ring(size: u64, hosts: &[(String, f64)]) -> Vec<(u64, u32)> {
    let sum: f64 = hosts.iter().map(|(_, weight)| weight).sum();
    let least = hosts.iter().map(|(_, weight)| weight / sum).fold(1.0, f64::min);
    // So many that the lightest has a whole number of them.
    let scale = ((least * size as f64).ceil() / least).min(HashTable::MAX_RING as f64);
    let mut points = Vec::new();
    let (mut due, mut made) = (0.0, 0.0);
    for (place, (name, weight)) in (0..).zip(hosts) {
        due += scale * weight / sum;
        let mut number = 0_u64;
        while made < due {
            points.push((xxhash64(format!("{name}_{number}").as_bytes(), 0), place));
            number += 1;
            made += 1.0;
        }
    }
    points.sort_unstable();
    points
}

/// One endpoint's way through the table.
struct Walk {
    offset: u64,
    skip: u64,
    next: u64,
    weight: f64,
    due: f64,
}

/// Endpoints take entries in turn, each along its own permutation of them.
fn maglev(size: u64, hosts: &[(String, f64)]) -> Vec<u32> {
    let heaviest = hosts.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
    let walk = |(name, weight): &(String, f64)| Walk {
        offset: xxhash64(name.as_bytes(), 0) % size,
        skip: xxhash64(name.as_bytes(), 1) % (size - 1) + 1,
        next: 0,
        weight: *weight,
        due: 0.0,
    };
    let mut walks: Vec<_> = hosts.iter().map(walk).collect();
    let mut entries = vec![None; usize::try_from(size).unwrap_or_default()];
    let (mut left, mut round) = (entries.len(), 1.0);
    while left > 0 && heaviest > 0.0 {
        for (place, walk) in (0_u32..).zip(&mut walks) {
            // Lighter ones sit rounds out.
            if left == 0 || round * walk.weight < walk.due {
                continue;
            }
            walk.due += heaviest;
            if let Some(entry) = free(walk, size, &mut entries) {
                *entry = Some(place);
                left -= 1;
            }
        }
        round += 1.0;
    }
    entries.into_iter().flatten().collect()
}

/// The next free entry of a walk.
fn free<'e>(
    walk: &mut Walk,
    size: u64,
    entries: &'e mut [Option<u32>],
) -> Option<&'e mut Option<u32>> {
    let place = (0..size).find_map(|_| {
        let place = (walk.offset + walk.skip * walk.next) % size;
        walk.next += 1;
        let place = usize::try_from(place).ok()?;
        entries.get(place)?.is_none().then_some(place)
    });
    // A size that is no prime may have no walk to every entry.
    let place = place.or_else(|| entries.iter().position(Option::is_none));
    entries.get_mut(place?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [HashTable; 2] = [HashTable::Ring(HashTable::RING), HashTable::Maglev(65_537)];

    fn hosts(count: usize) -> Vec<(String, f64)> {
        (0..count).map(|number| (format!("10.0.0.{number}:8080"), 1.0)).collect()
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0..10_000_u64).map(|key| xxhash64(&key.to_le_bytes(), 3))
    }

    #[test]
    fn keys_spread_and_stay() {
        for kind in KINDS {
            let table = Table::new(kind, &hosts(10));
            let mut counts = [0; 10];
            keys().for_each(|key| counts[table.find(key).unwrap()] += 1);
            assert!(counts.iter().all(|count| (600..1_500).contains(count)), "{kind:?} {counts:?}");
        }
    }

    #[test]
    fn few_keys_move_when_an_endpoint_leaves() {
        for kind in KINDS {
            let (all, mut fewer) = (hosts(10), hosts(10));
            fewer.remove(4);
            let (before, after) = (Table::new(kind, &all), Table::new(kind, &fewer));
            let name = |hosts: &[(String, f64)], place: usize| hosts[place].0.clone();
            let (mut moved, mut others) = (0, 0);
            for key in keys() {
                let old = name(&all, before.find(key).unwrap());
                let new = name(&fewer, after.find(key).unwrap());
                let gone = old == all[4].0;
                moved += usize::from(gone);
                others += usize::from(!gone && old != new);
            }
            // A ring keeps its size, so the others' points become more; both move fewer than left.
            assert!(others < moved, "{kind:?}: {others}");
            assert!((600..1_500).contains(&moved), "{kind:?}: {moved}");
        }
    }

    #[test]
    fn weights_are_shares() {
        for kind in KINDS {
            let hosts = [("a".to_owned(), 3.0), ("b".to_owned(), 1.0)];
            let table = Table::new(kind, &hosts);
            let first = keys().filter(|key| table.find(*key) == Some(0)).count();
            assert!((6_800..8_200).contains(&first), "{kind:?}: {first}");
        }
    }

    #[test]
    fn nobody_is_nobody() {
        for kind in KINDS {
            assert_eq!(Table::new(kind, &[]).find(7), None);
        }
    }
}
