//! Front: the L4 overlay of Culvert, its rooms in layer order (docs/architecture.md).
//! A room may import only rooms above it in this list.
#![forbid(unsafe_code)]

pub mod clock;
pub mod drain;

pub mod identity;

pub mod origin;

pub mod settings;
pub mod workers;

pub mod policy;

pub mod flow;

pub mod discovery;
pub mod manifest;

pub mod route;

pub mod hbone;
pub mod read;
pub mod redirect;
pub mod relay;

pub mod telemetry;

pub mod process;

pub mod inbound;

pub mod direct;

pub mod outbound;

pub mod config;

pub mod app;
