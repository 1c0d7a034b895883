//! Front: what the mesh knows: workloads, services, policies and the indexed view of them.
mod claims;
pub mod model;
pub mod snapshot;

pub use model::{
    Distribution, Locality, Outsider, Protocol, Service, ServicePort, Speech, Target, Waypoint,
    WaypointDestination, Workload,
};
pub use snapshot::{Policies, Snapshot};
