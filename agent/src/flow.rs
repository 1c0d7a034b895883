//! Pure: what is judged about one connection.
//! Never: behaviour beyond display. Made by redirect's listeners and hbone's server.
use std::{fmt, net::SocketAddr};

use crate::identity::Identity;

/// One connection as every decision sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Whether the local pod opened the connection or is to receive it.
    pub direction: Direction,
    /// The client's address, IPv4-mapped addresses turned into IPv4.
    pub source: SocketAddr,
    /// The address that the client dialled, before any redirection.
    pub destination: SocketAddr,
    /// What the peer's certificate proved; `None` for plaintext.
    pub peer: Option<Identity>,
}

/// Which side of a connection the local pod is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// A local pod dialled.
    Outbound,
    /// A connection arrived for a local pod.
    Inbound,
}

impl Direction {
    /// The word that logs use: `outbound` or `inbound`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.direction.as_str(), self.source, self.destination)
    }
}
