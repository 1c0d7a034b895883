//! Front: whom requests go to: one port of a service, or a subset behind it, and how it is called.
//! Never: routes (see `routing`), wire types (see `manifest`).
pub mod endpoints;
pub mod model;

pub use endpoints::{Endpoint, endpoints, is_anybody, label};
pub use model::{
    Algorithm, Backend, Backends, CallPolicy, ClientTls, ConnectionPool, Cookie, HashKey,
    HashTable, Keepalive, LoadBalancer, LocalityPolicy, OutlierDetection, RetryBudget,
    ServiceBackends, Shares, TlsMode, Upgrade, Warmup,
};
