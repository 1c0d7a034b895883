//! Front: which endpoint takes a request, and how many there may be at one time.
pub mod backends;
pub mod balancer;
mod choose;
pub mod gradient;
pub mod host;
pub mod key;
pub mod level;
pub mod limits;
pub mod locality;
mod metrics;
pub mod outlier;
mod recent;
pub mod table;
pub mod xxhash;

#[cfg(test)]
mod tests;

pub use backends::{Balance, Group, Retries, Ticket, Traffic};
pub use balancer::{Balancer, Ejections, Pick, View, Wish};
pub use key::Keyed;
pub use limits::{Kind, Limits, Permit};
