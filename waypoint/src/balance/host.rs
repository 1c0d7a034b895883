//! Pure: one endpoint as a balancer knows it.
//! Never: the clock.
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use super::outlier::Standing;
use crate::backend::{Endpoint, Warmup};

/// Who an endpoint is: all that is known of its health belongs to that.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    uid: Arc<str>,
    address: Option<IpAddr>,
    port: u16,
}

impl From<&Endpoint> for Key {
    fn from(endpoint: &Endpoint) -> Self {
        let Endpoint { workload, port } = endpoint;
        let address = workload.addresses.first().copied();
        Self { uid: workload.uid.clone(), address, port: *port }
    }
}

/// One endpoint.
#[derive(Clone, Debug)]
pub struct Host {
    /// Who it is.
    pub key: Key,
    /// The same, as long as it is there.
    pub id: u64,
    /// What is known of it.
    pub endpoint: Endpoint,
    /// Since when it is there.
    pub since: Instant,
    /// How it does.
    pub standing: Standing,
    name: String,
    load: Arc<AtomicU32>,
}

/// A request that is under way at an endpoint, until it is dropped.
#[derive(Debug)]
pub struct Busy(Arc<AtomicU32>);

impl Host {
    /// One that is new.
    pub fn new(id: u64, endpoint: Endpoint, now: Instant) -> Self {
        let key = Key::from(&endpoint);
        let address = key.address.map_or_else(|| key.uid.to_string(), |ip| ip.to_string());
        let name = format!("{address}:{}", key.port);
        let (standing, load) = (Standing::default(), Arc::default());
        Self { key, id, endpoint, since: now, standing, name, load }
    }

    /// By what keys are spread: address and port.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Requests that are under way there.
    pub fn load(&self) -> u32 {
        self.load.load(Ordering::Relaxed)
    }

    /// One more is.
    pub fn begin(&self) -> Busy {
        self.load.fetch_add(1, Ordering::Relaxed);
        Busy(self.load.clone())
    }

    /// Its share beside other endpoints'; a new one's grows.
    pub fn weight(&self, warmup: Option<Warmup>, now: Instant) -> f64 {
        let whole = f64::from(self.endpoint.workload.capacity.max(1));
        let Some(warmup) = warmup.filter(|warmup| self.is_new(*warmup, now)) else { return whole };
        let age = now.saturating_duration_since(self.since).as_secs_f64().max(1.0);
        let part = age / warmup.duration.as_secs_f64();
        let grown = part.powf(1.0 / warmup.aggression);
        whole * grown.max(warmup.minimum_percent / 100.0).min(1.0)
    }

    /// Whether its share still grows.
    pub fn is_new(&self, warmup: Warmup, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < warmup.duration
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
