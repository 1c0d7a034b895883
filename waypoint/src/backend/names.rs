//! Pure: the addresses of host names, as far as they are known.
//! Never: looks one up (see `resolver`).
use std::{net::IpAddr, sync::Arc};

/// The addresses of host names. Clones share what did not change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(imbl::HashMap<Arc<str>, Arc<[IpAddr]>>);

impl Names {
    /// The addresses of a name, in lower case; none when it has none, or nobody has said so yet.
    pub fn addresses(&self, name: &str) -> &[IpAddr] {
        self.0.get(name).map_or(&[], |addresses| addresses)
    }

    /// A name has these addresses from now on. Says whether that is news; the order is none.
    pub fn set(&mut self, name: &Arc<str>, mut addresses: Vec<IpAddr>) -> bool {
        addresses.sort_unstable();
        addresses.dedup();
        let news = self.addresses(name) != addresses;
        if news {
            self.0.insert(name.clone(), addresses.into());
        }
        news
    }

    /// Nobody asks for a name any more.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }
}
