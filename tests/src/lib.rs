//! Front: a small language for tests of whole meshes: nodes, pods, agents, a look at the wire.
//! Everything is real: namespaces, control groups, the kernel's programs, certificates, traffic.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "only the product reads its clock in one place; a tool measures where it works"
)]

pub mod agent;
pub mod balancing;
mod daemon;
pub mod factory;
pub mod fuzz;
pub mod hoard;
pub mod http;
pub mod lab;
pub mod load;
pub mod shop;
pub mod system;
pub mod visit;
pub mod waypoint;
pub mod wire;

pub use agent::Agent;
pub use factory::Factory;
pub use lab::{Lab, Pod, until};
pub use waypoint::Waypoint;
pub use wire::Capture;
