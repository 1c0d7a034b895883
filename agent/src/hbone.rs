//! Front: tunnels between agents: HTTP/2 CONNECT streams over mutual TLS (HBONE).
//! The bounds of the protocol are here.
use std::{io, sync::Arc, time::Duration};

pub mod authority;
pub mod client;
mod handshake;
pub mod headers;
pub mod http2;
pub mod pool;
pub mod record;
mod secure;
pub mod server;
pub mod tunnel;

pub use authority::{Authority, Host};
pub use headers::{Baggage, ConnectHead, Forwarded, TraceParent};
pub use tunnel::Tunnel;

use crate::identity::Identity;

/// Bytes that a peer may send on one stream before we have passed them on (RFC 9113 §6.9.2).
pub const STREAM_WINDOW: u32 = 4 << 20;
/// The same for all streams of a connection together: three stalled ones do not stop the others.
pub const CONNECTION_WINDOW: u32 = 16 << 20;
/// The largest frame that we accept (RFC 9113 §4.2).
pub const FRAME_SIZE: u32 = 1 << 20;
/// The longest headers that we accept in answers, bytes.
pub const ANSWER_HEADERS: u32 = 16 << 10;
/// The longest headers that we accept in requests, bytes.
pub const REQUEST_HEADERS: u32 = 64 << 10;
/// Streams that a peer may have open on one connection.
pub const STREAMS_ACCEPTED: u32 = 200;
/// Streams that we open on one connection before we dial another.
pub const STREAMS_OPENED: usize = 100;
/// A connection is asked this often whether it lives; when two questions were not answered, it is dead.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// TLS and HTTP/2 must have agreed after this long.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A CONNECT must be answered after this long; the far agent's own dial may take ten seconds.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Why there is no tunnel. Cheap to clone, because all who waited for one dial get it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The peer's agent could not be dialled.
    #[error("dial the agent")]
    Dial(#[source] Arc<io::Error>),
    /// Nobody answered the dial.
    #[error("connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008")]
    DialTimeout,
    /// The TLS handshake failed, for example because one side does not accept the other.
    #[error("tls error: {0}")]
    Tls(#[source] Arc<io::Error>),
    /// The peer proved an identity that is not expected at this hop.
    #[error("identity error: expected {}, found {found}", list(expected))]
    Identity {
        /// Who may be there.
        expected: Vec<Identity>,
        /// Who is there.
        found: String,
    },
    /// HTTP/2 failed before the tunnel was open.
    #[error("http2 handshake failed: {0}")]
    Http2(#[source] http2::Broken),
    /// The peer refused the CONNECT.
    #[error("http status: {0}")]
    Status(http::StatusCode),
    /// The peer did not answer in time.
    #[error("no answer within {}s", .0.as_secs())]
    Timeout(Duration),
    /// As many connections to agents are open as may be.
    #[error("{0} tunnel connections are open, which is limits.max_tunnels")]
    Full(usize),
}

fn list(identities: &[Identity]) -> String {
    identities.iter().map(Identity::to_string).collect::<Vec<_>>().join(" or ")
}
