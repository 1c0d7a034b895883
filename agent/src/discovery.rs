//! Front: what the mesh knows: workloads, services, policies and the indexed view of them.
pub mod model;
pub mod snapshot;

pub use model::{Distribution, Locality, Protocol, Service, ServicePort, Target, Workload};
pub use snapshot::{Policies, Snapshot};
