//! The promises of the mesh, each a test on real kernels, namespaces, certificates and traffic.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "only the product reads its clock in one place; a tool measures where it works"
)]

mod bytes;
mod capture;
mod closed;
mod demo;
mod direct;
mod explain;
mod hostile;
mod identity;
mod l7;
mod life;
mod mesh;
mod node;
mod operate;
mod outside;
mod peer;
mod policy;
mod report;
mod service;
mod stop;
mod verdict;
mod waypoint;
