//! Front: whom requests go to: one port of a service, or a subset behind it, and how it is called.
//! Never: routes (see `routing`), wire types (see `manifest`).
pub mod endpoints;
pub mod model;
pub mod names;

pub use endpoints::{Endpoint, endpoints, hostnames, is_anybody, is_named, label};
pub use model::{
    Algorithm, Backend, Backends, CallPolicy, ClientTls, ConnectionPool, Cookie, HashKey,
    HashTable, Keepalive, LoadBalancer, LocalityPolicy, OutlierDetection, RetryBudget,
    ServiceBackends, Shares, TlsMode, Upgrade, Warmup,
};
pub use names::Names;
