//! Front: the optional HTTP proxy of a service or namespace, which routes nothing yet, and what the
//! operator's command line is made of.
#![forbid(unsafe_code)]

pub mod admin;
pub mod connections;
pub mod status;
pub mod table;
