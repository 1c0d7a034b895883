//! Front: tunnels become HTTP connections.
//! `stream` (Shell) is a tunnel as hyper reads and writes one, `sniff` and `hello` (Pure) say what its
//! first bytes are, `http` (Shell) serves requests within named limits.
pub mod hello;
pub mod http;
pub mod sniff;
pub mod stream;

pub use http::Version;
pub use stream::TunnelStream;
