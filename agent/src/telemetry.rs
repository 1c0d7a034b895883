//! Front: what operators see: records, metrics, logs, the admin endpoints.
//! Never: decides anything about a connection.
pub mod admin;
mod book;
pub mod dump;
pub mod explain;
pub mod labels;
pub mod logging;
pub mod metrics;
pub mod open;
pub mod pods;
pub mod reason;
pub mod record;
pub mod status;

pub use book::LEAST_SERIES;
pub use metrics::Telemetry;
pub use reason::{Failure, Reason};
pub use record::{Protocol, Record};
