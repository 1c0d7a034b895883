//! Front: what operators see: records, metrics, logs, the admin endpoints.
//! Never: decides anything about a connection.
pub mod admin;
pub mod dump;
pub mod explain;
pub mod logging;
pub mod metrics;
pub mod reason;
pub mod record;

pub use metrics::Telemetry;
pub use reason::{Failure, Reason};
pub use record::{Protocol, Record};
