//! Pure: who owns what of which there is one: an address, a name. Of several claims the first in
//! order of the claimants' names counts, whatever order they came in.
//! Never: forgets a claim that does not count for the moment.
use std::{borrow::Borrow, hash::Hash, sync::Arc};

use imbl::{HashMap, OrdMap};

/// Claims of `V`s, which have names, to `K`s. A clone shares what it has in common with the original.
#[derive(Clone, Debug)]
pub(super) struct Claims<K: Ord, V> {
    owners: OrdMap<K, (Arc<str>, Arc<V>)>,
    contested: HashMap<K, OrdMap<Arc<str>, Arc<V>>>,
}

impl<K: Clone + Ord + Hash, V> Default for Claims<K, V> {
    fn default() -> Self {
        Self { owners: OrdMap::new(), contested: HashMap::new() }
    }
}

impl<K: Clone + Ord + Hash, V> Claims<K, V> {
    /// `name` claims `key`, or claims it anew with another value.
    pub(super) fn insert(&mut self, key: K, name: Arc<str>, value: Arc<V>) {
        if let Some(all) = self.contested.get_mut(&key) {
            all.insert(name, value);
            return self.settle(&key);
        }
        match self.owners.get(&key) {
            Some((owner, earlier)) if *owner != name => {
                let all = OrdMap::from_iter([(owner.clone(), earlier.clone()), (name, value)]);
                self.contested.insert(key.clone(), all);
                self.settle(&key);
            }
            Some(_) | None => {
                self.owners.insert(key, (name, value));
            }
        }
    }

    /// `name` gives its claim to `key` up.
    pub(super) fn remove(&mut self, key: &K, name: &str) {
        if let Some(all) = self.contested.get_mut(key) {
            all.remove(name);
            return self.settle(key);
        }
        if self.owners.get(key).is_some_and(|(owner, _)| **owner == *name) {
            self.owners.remove(key);
        }
    }

    /// The first of several claims counts; one that is left alone is contested no more.
    fn settle(&mut self, key: &K) {
        let Some(all) = self.contested.get(key) else { return };
        let alone = all.len() < 2;
        match all.get_min().cloned() {
            Some(first) => self.owners.insert(key.clone(), first),
            None => self.owners.remove(key),
        };
        if alone {
            self.contested.remove(key);
        }
    }

    /// Whose `key` is.
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&Arc<V>>
    where
        K: Borrow<Q>,
    {
        self.owners.get(key).map(|(_, value)| value)
    }

    /// Everything that somebody owns, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.owners.keys()
    }

    /// Owners, in the order of what they own.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Arc<V>)> {
        self.owners.iter().map(|(key, (_, value))| (key, value))
    }

    /// How many keys have an owner.
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// What several claim: the claimants in order, of which the first counts.
    pub(super) fn contested(&self) -> impl Iterator<Item = (&K, Vec<&Arc<V>>)> {
        self.contested.iter().map(|(key, all)| (key, all.values().collect()))
    }
}

impl<K: Clone + Ord + Hash, V: Eq> Claims<K, V> {
    /// Keys that have an owner in one of the two and not in the other: `(key, is in self)`. Takes time
    /// for what differs, not for what both share.
    pub(super) fn changed_since(&self, earlier: &Self) -> Vec<(K, bool)> {
        let changed = earlier.owners.diff(&self.owners).filter_map(|item| match item {
            imbl::ordmap::DiffItem::Add(key, _) => Some((key.clone(), true)),
            imbl::ordmap::DiffItem::Remove(key, _) => Some((key.clone(), false)),
            imbl::ordmap::DiffItem::Update { .. } => None,
        });
        changed.collect()
    }

    /// Keys that belong to somebody or something else in the two, in time for what differs.
    pub(super) fn differing_from(&self, earlier: &Self) -> Vec<K> {
        let key = |item| match item {
            imbl::ordmap::DiffItem::Add(key, _)
            | imbl::ordmap::DiffItem::Remove(key, _)
            | imbl::ordmap::DiffItem::Update { old: (key, _), .. } => K::clone(key),
        };
        earlier.owners.diff(&self.owners).map(key).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the slow way: all claims in one set.
        #[test]
        fn the_first_claim_counts_whatever_order_they_came_in(
            steps in prop::collection::vec((any::<bool>(), 0_u8..6, 0_u8..4, any::<u8>()), 0..60)
        ) {
            let mut claims = Claims::default();
            let mut reference = BTreeMap::<(u8, String), u8>::new();
            for (insert, key, name, value) in steps {
                let before = claims.clone();
                let name = name.to_string();
                if insert {
                    claims.insert(key, name.as_str().into(), Arc::new(value));
                    reference.insert((key, name), value);
                } else {
                    claims.remove(&key, &name);
                    reference.remove(&(key, name));
                }
                let owned: BTreeSet<u8> = reference.keys().map(|(key, _)| *key).collect();
                prop_assert_eq!(claims.keys().copied().collect::<BTreeSet<_>>(), owned.clone());
                for key in owned {
                    let first = reference.range((key, String::new())..).next().map(|(_, v)| *v);
                    prop_assert_eq!(claims.get(&key).map(|value| **value), first);
                }
                let gone = before.keys().filter(|key| claims.get(key).is_none());
                let come = claims.keys().filter(|key| before.get(key).is_none());
                let differs: BTreeSet<_> =
                    gone.map(|key| (*key, false)).chain(come.map(|key| (*key, true))).collect();
                let changed = claims.changed_since(&before);
                prop_assert_eq!(changed.into_iter().collect::<BTreeSet<_>>(), differs);
                let contested = claims.contested().map(|(key, all)| (*key, all.len()));
                for (key, count) in contested {
                    let all = reference.keys().filter(|(of, _)| *of == key).count();
                    prop_assert!(count > 1 && count == all);
                }
            }
        }
    }
}
