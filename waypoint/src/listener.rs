//! Front: tunnels become HTTP connections.
//! `stream` (Shell) is a tunnel as hyper reads and writes one, `sniff` and `hello` (Pure) say what its
//! first bytes are, `serve` (Shell) serves requests within named limits.
pub mod hello;
pub mod serve;
pub mod sniff;
pub mod stream;

pub use serve::{Version, serve};
pub use stream::TunnelStream;
