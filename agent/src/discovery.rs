//! Front: what the mesh knows: workloads, services and the indexed view of them.
pub mod model;
pub mod snapshot;

pub use model::{Origin, Problem, Protocol, Service, ServicePort, Target, Workload};
pub use snapshot::Snapshot;
