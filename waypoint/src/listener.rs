//! Front: tunnels become HTTP connections.
//! `opening` and `stream` (Shell) are a tunnel before it is known what is spoken there, and as hyper
//! reads and writes one; `sniff` and `hello` (Pure) say what its first bytes are; `serve`, `paced`,
//! `resets`, `deadline` and `idle` (Shell) take requests within named limits, `frames` (Pure) for them.
pub mod deadline;
mod frames;
pub mod hello;
pub mod idle;
pub mod opening;
mod paced;
mod resets;
pub mod serve;
pub mod sniff;
pub mod stream;

pub use opening::Opening;
pub use serve::{Version, serve};
pub use stream::TunnelStream;
