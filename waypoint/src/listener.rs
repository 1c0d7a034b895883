//! Front: tunnels become HTTP connections.
//! `opening` and `stream` (Shell) are a tunnel before it is known what is spoken there, and as hyper
//! reads and writes one; `sniff` and `hello` (Pure) say what its first bytes are; `serve` (Shell) takes
//! requests within named limits.
pub mod hello;
pub mod opening;
pub mod serve;
pub mod sniff;
pub mod stream;

pub use opening::Opening;
pub use serve::{Version, serve};
pub use stream::TunnelStream;
