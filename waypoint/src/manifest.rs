//! Front: Istio's and the Gateway API's objects → route tables and backends.
//! `intake` reads and checks an object (`read`, `validate`), `objects` keeps those that count, `select`
//! and `lookup` choose among them for a service, `rules`, `bytes` and `mesh_route` translate routes,
//! `policy` DestinationRules; `compile` keeps all of it up to date.
//! Never: a request.
mod budget;
mod bytes;
mod closed;
mod compile;
mod conditions;
mod delegate;
pub(crate) mod destination_rule;
mod expression;
mod filters;
pub(crate) mod finding;
mod gateway_api;
mod grant;
pub(crate) mod host;
pub(crate) mod intake;
mod lookup;
mod mesh_match;
mod mesh_route;
mod objects;
mod policy;
pub(crate) mod read;
mod rules;
mod select;
mod service;
mod settings;
mod targets;
mod time;
mod validate;
pub(crate) mod virtual_service;
mod visibility;

pub use compile::{Compiled, Compiler, Settings, Waypoint, problems};
pub use finding::{Finding, What};

#[cfg(test)]
mod tests;
