//! Shell: one certificate per identity that a local pod has, renewed on schedule.
//! Never: serves an identity that nobody holds.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Credentials, Identity,
    ca::LocalCa,
    schedule::{back_off, renew_after},
};
use crate::{clock, drain::Drain};

/// Keeps the certificates of held identities fresh. Clones share them.
#[derive(Clone, Debug)]
pub struct Keeper {
    ca: Arc<LocalCa>,
    renew_at: f64,
    held: Arc<Mutex<HashMap<Identity, Weak<Held>>>>,
    drain: Drain,
}

/// The right to use an identity's certificates; the last lease to go ends their renewal.
#[derive(Clone, Debug)]
pub struct Lease(Arc<Held>);

#[derive(Debug)]
struct Held {
    current: watch::Sender<Option<Arc<Credentials>>>,
    _renewal: DropGuard,
}

impl Keeper {
    /// A keeper that asks `ca`, and renews when the part `renew_at` of a certificate's life is over,
    /// for as long as `drain` lets it.
    pub fn new(ca: LocalCa, renew_at: f64, drain: Drain) -> Self {
        Self { ca: Arc::new(ca), renew_at, held: Arc::default(), drain }
    }

    /// Certificates for `identity`: from now on, until the last lease is dropped.
    pub fn hold(&self, identity: &Identity) -> Lease {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(alive) = held.get(identity).and_then(Weak::upgrade) {
            return Lease(alive);
        }
        held.retain(|_, held| held.strong_count() > 0);
        let stop = CancellationToken::new();
        let current = watch::Sender::new(None);
        let renewal = renew(self.ca.clone(), identity.clone(), self.renew_at, current.clone());
        let stopped = stop.clone();
        self.drain.spawn(async move {
            stopped.run_until_cancelled(renewal).await;
        });
        let new = Arc::new(Held { current, _renewal: stop.drop_guard() });
        held.insert(identity.clone(), Arc::downgrade(&new));
        Lease(new)
    }

    /// The identities that are held, in order, each with its certificate once it is issued.
    pub fn certificates(&self) -> Vec<(Identity, Option<Arc<Credentials>>)> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let current = |(identity, held): (&Identity, &Weak<Held>)| {
            Some((identity.clone(), held.upgrade()?.current.borrow().clone()))
        };
        let mut all: Vec<_> = held.iter().filter_map(current).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

impl Lease {
    /// The newest certificate; `None` before the first was issued.
    pub fn current(&self) -> Option<Arc<Credentials>> {
        self.0.current.borrow().clone()
    }

    /// Waits until there is a certificate.
    pub async fn ready(&self) {
        // The sender lives in `self`, so the channel cannot be closed.
        let _ = self.0.current.subscribe().wait_for(Option::is_some).await;
    }
}

async fn renew(
    ca: Arc<LocalCa>,
    identity: Identity,
    part: f64,
    current: watch::Sender<Option<Arc<Credentials>>>,
) {
    let mut failures = 0;
    loop {
        let pause = match issue(&ca, &identity) {
            Ok(credentials) => {
                failures = 0;
                let svid = &credentials.svid;
                let pause = renew_after(clock::wall(), svid.not_after, part, rand::random());
                tracing::debug!(%identity, serial = svid.serial, "certificate issued");
                current.send_replace(Some(Arc::new(credentials)));
                pause
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(%identity, error = &*error, "cannot renew a certificate");
                back_off(failures, rand::random())
            }
        };
        tokio::time::sleep(pause.max(SHORTEST_PAUSE)).await;
    }
}

/// Keeps a certificate that is due at once from keeping a processor busy.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

fn issue(
    ca: &LocalCa,
    identity: &Identity,
) -> Result<Credentials, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Credentials::new(ca.issue(identity, clock::wall())?)?)
}
