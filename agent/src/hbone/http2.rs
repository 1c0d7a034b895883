//! Front: HTTP/2 as far as tunnels need it (RFC 9113): CONNECT streams and their bytes. A stream's
//! bytes are sealed where its task has them, and opened ones are handed to it uncopied: no task stands
//! between it and the socket.
use std::{collections::VecDeque, fmt, io, sync::Arc};

use bytes::Bytes;

pub mod frame;
pub mod hpack;
mod huffman;
pub(super) mod link;
pub mod reader;
pub mod streams;

/// Bytes on their way, in order, as they came.
pub type Pieces = VecDeque<Bytes>;

/// What a peer did that HTTP/2 does not allow. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Violation {
    /// What the peer is told, one of [`frame::code`].
    pub code: u32,
    /// What it was.
    pub why: &'static str,
}

impl Violation {
    const fn protocol(why: &'static str) -> Self {
        Self { code: frame::code::PROTOCOL_ERROR, why }
    }

    const fn size(why: &'static str) -> Self {
        Self { code: frame::code::FRAME_SIZE_ERROR, why }
    }

    const fn flow(why: &'static str) -> Self {
        Self { code: frame::code::FLOW_CONTROL_ERROR, why }
    }
}

/// Why a stream, or the connection that it is on, came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Broken {
    /// The connection broke.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// The peer does not keep to HTTP/2.
    #[error(transparent)]
    Violation(Violation),
    /// The stream was reset.
    #[error("stream reset: {}", Code(*.0))]
    Reset(u32),
    /// The peer did not act on the stream, or takes no more of them.
    #[error("the peer goes away: {}", Code(*.0))]
    Refused(u32),
    /// The peer no longer answers.
    #[error("the peer fell silent")]
    Silent,
    /// The connection has ended.
    #[error("the connection has ended")]
    Ended,
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Io(error) => Self::new(error.kind(), error),
            Broken::Ended => io::ErrorKind::BrokenPipe.into(),
            Broken::Violation(_) | Broken::Reset(_) | Broken::Refused(_) | Broken::Silent => {
                Self::new(io::ErrorKind::ConnectionReset, broken)
            }
        }
    }
}

/// The name of an error code (RFC 9113 §7).
struct Code(u32);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "code {}", self.0),
        }
    }
}
