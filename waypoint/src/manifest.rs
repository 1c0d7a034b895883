//! Front: Istio's and the Gateway API's objects → route tables and backends.
//! Never: a request.
mod destination_rule;
mod finding;
mod host;
mod read;
mod time;
mod validate;
mod virtual_service;

pub use finding::{Finding, What};
