//! Front: whom requests go to: one port of a service, or a subset behind it, and how it is called.
//! Never: routes (see `routing`), wire types (see `manifest`).
pub mod endpoints;
pub mod model;

pub use endpoints::{Endpoint, endpoints};
pub use model::{
    Algorithm, Backend, Backends, CallPolicy, ClientTls, ConnectionPool, HashKey, HashTable,
    LoadBalancer, OutlierDetection, ServiceBackends, TlsMode, Upgrade,
};
