//! Pure: layouts of what lets a pod reach another one of its node without the agent: the agent's
//! verdicts, the connections that are open by them, and what the agent is told of those.
//! Never: what a verdict rests on.
use super::{Arriving, Ip, ip_bytes, ip_words};

/// How long a verdict holds unless the agent extends it, nanoseconds: so long may connections be opened
/// by it after the agent died.
pub const VERDICT_NS: u64 = 5_000_000_000;

/// Key of map `VERDICTS`: what a pod dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Dialled {
    /// The cookie of the pod's network namespace.
    pub netns: u64,
    /// The address.
    pub ip: Ip,
    /// The port.
    pub port: u16,
    /// Always zero.
    pub reserved: [u16; 3],
}

/// Size of [`Dialled`] in bytes.
pub const DIALLED_SIZE: usize = 32;

/// Value of map `VERDICTS`: where the connection may go by itself. No entry: the agent is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Verdict {
    /// Which verdict it is; no two of them share a number.
    pub number: u64,
    /// Until when it holds, nanoseconds of the kernel's monotonic clock.
    pub expires: u64,
    /// The cookie of the namespace of the pod that serves.
    pub server: u64,
    /// That pod's address.
    pub ip: Ip,
    /// Its port.
    pub port: u16,
    /// Always zero.
    pub reserved: [u16; 3],
}

/// Size of [`Verdict`] in bytes.
pub const VERDICT_SIZE: usize = 48;

/// Value of map `FLOWS`: a connection that went by a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// The verdict's number.
    pub number: u64,
    /// The cookie of the client's namespace.
    pub client: u64,
    /// The cookie of the server's namespace.
    pub server: u64,
    /// The cookie of the client's socket.
    pub client_socket: u64,
    /// The cookie of the server's socket, once the connection is established.
    pub server_socket: u64,
    /// When the SYN left, nanoseconds of the kernel's monotonic clock.
    pub opened: u64,
    /// Bytes of the client that reached the server; known when the server's socket has closed.
    pub up: u64,
    /// Bytes of the server that reached the client; known when the client's socket has closed.
    pub down: u64,
    /// The address that was dialled.
    pub ip: Ip,
    /// The port that was dialled.
    pub port: u16,
    /// What is known of the client's socket (see `crate::flow`). Only its own events write it.
    pub client_state: u16,
    /// The same of the server's socket.
    pub server_state: u16,
    /// 1 once the server's pod let the SYN in.
    pub admitted: u16,
}

/// Size of [`Flow`] in bytes.
pub const FLOW_SIZE: usize = 88;

/// An event in ring `EVENTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Of which connection.
    pub tuple: Arriving,
    /// One of the `EVENT_` values.
    pub kind: u32,
    /// What is known of it.
    pub flow: Flow,
}

/// Size of [`Event`] in bytes.
pub const EVENT_SIZE: usize = 128;

/// The server's socket is established; `accept()` has not returned it yet.
pub const EVENT_OPENED: u32 = 0;
/// The connection ended, and both sides had said so.
pub const EVENT_FINISHED: u32 = 1;
/// The client's side broke it.
pub const EVENT_RESET_BY_CLIENT: u32 = 2;
/// The server's side broke it.
pub const EVENT_RESET_BY_SERVER: u32 = 3;
/// It never came about.
pub const EVENT_UNREACHED: u32 = 4;
/// It reached somebody else than the pod that the verdict names; nothing was sent.
pub const EVENT_MISLED: u32 = 5;

impl Dialled {
    /// What the namespace dials.
    pub const fn new(netns: u64, ip: Ip, port: u16) -> Self {
        Self { netns, ip, port, reserved: [0; 3] }
    }

    /// As the map holds it.
    pub fn to_bytes(self) -> [u8; DIALLED_SIZE] {
        let mut bytes = [0; DIALLED_SIZE];
        bytes[..8].copy_from_slice(&self.netns.to_ne_bytes());
        bytes[8..24].copy_from_slice(&ip_bytes(self.ip));
        bytes[24..26].copy_from_slice(&self.port.to_ne_bytes());
        bytes
    }
}

impl Verdict {
    /// As the map holds it.
    pub fn to_bytes(self) -> [u8; VERDICT_SIZE] {
        let mut bytes = [0; VERDICT_SIZE];
        bytes[..8].copy_from_slice(&self.number.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.expires.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.server.to_ne_bytes());
        bytes[24..40].copy_from_slice(&ip_bytes(self.ip));
        bytes[40..42].copy_from_slice(&self.port.to_ne_bytes());
        bytes
    }
}

impl Arriving {
    /// From the bytes of a key.
    pub fn from_bytes(bytes: &[u8; 36]) -> Self {
        Self {
            remote: ip_words(part(bytes, 0)),
            local: ip_words(part(bytes, 16)),
            remote_port: u16::from_ne_bytes(part(bytes, 32)),
            local_port: u16::from_ne_bytes(part(bytes, 34)),
        }
    }
}

impl Flow {
    /// What was dialled.
    pub const fn dialled(&self) -> Dialled {
        Dialled::new(self.client, self.ip, self.port)
    }

    /// From the bytes of a value.
    pub fn from_bytes(bytes: &[u8; FLOW_SIZE]) -> Self {
        let long = |at| u64::from_ne_bytes(part(bytes, at));
        Self {
            number: long(0),
            client: long(8),
            server: long(16),
            client_socket: long(24),
            server_socket: long(32),
            opened: long(40),
            up: long(48),
            down: long(56),
            ip: ip_words(part(bytes, 64)),
            port: u16::from_ne_bytes(part(bytes, 80)),
            client_state: u16::from_ne_bytes(part(bytes, 82)),
            server_state: u16::from_ne_bytes(part(bytes, 84)),
            admitted: u16::from_ne_bytes(part(bytes, 86)),
        }
    }
}

impl Event {
    /// From the bytes in the ring.
    pub fn from_bytes(bytes: &[u8; EVENT_SIZE]) -> Self {
        Self {
            tuple: Arriving::from_bytes(&part(bytes, 0)),
            kind: u32::from_ne_bytes(part(bytes, 36)),
            flow: Flow::from_bytes(&part(bytes, 40)),
        }
    }
}

/// The bytes from `at` on; callers stay within the whole.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut own = [0; N];
    own.iter_mut().zip(bytes.iter().skip(at)).for_each(|(to, from)| *to = *from);
    own
}

const _: () = assert!(size_of::<Dialled>() == DIALLED_SIZE);
const _: () = assert!(size_of::<Verdict>() == VERDICT_SIZE);
const _: () = assert!(size_of::<Flow>() == FLOW_SIZE);
const _: () = assert!(size_of::<Event>() == EVENT_SIZE);

#[cfg(test)]
mod tests {
    use core::mem::offset_of;

    use super::*;

    #[test]
    fn bytes_are_where_the_kernel_puts_them() {
        let mut bytes = [0; EVENT_SIZE];
        for (byte, number) in bytes.iter_mut().zip(0..) {
            *byte = number;
        }
        let event = Event::from_bytes(&bytes);
        let at = |offset: usize| u8::try_from(offset).unwrap();
        let flow = offset_of!(Event, flow);
        let first = |word: u64| word.to_ne_bytes()[0];
        assert_eq!(event.tuple.local_port.to_ne_bytes()[0], at(offset_of!(Arriving, local_port)));
        assert_eq!(event.kind.to_ne_bytes()[0], at(offset_of!(Event, kind)));
        assert_eq!(first(event.flow.number), at(flow));
        assert_eq!(first(event.flow.client_socket), at(flow + offset_of!(Flow, client_socket)));
        assert_eq!(first(event.flow.up), at(flow + offset_of!(Flow, up)));
        assert_eq!(first(event.flow.down), at(flow + offset_of!(Flow, down)));
        assert_eq!(ip_bytes(event.flow.ip)[0], at(flow + offset_of!(Flow, ip)));
        assert_eq!(event.flow.port.to_ne_bytes()[0], at(flow + offset_of!(Flow, port)));
        let state = event.flow.client_state.to_ne_bytes()[0];
        assert_eq!(state, at(flow + offset_of!(Flow, client_state)));
        let ip = ip_words([9; 16]);
        let verdict = Verdict { number: 1, expires: 2, server: 3, ip, port: 4, reserved: [0; 3] };
        let bytes = verdict.to_bytes();
        assert_eq!(bytes[offset_of!(Verdict, server)..][..8], 3_u64.to_ne_bytes());
        assert_eq!(bytes[offset_of!(Verdict, ip)..][..16], [9; 16]);
        assert_eq!(bytes[offset_of!(Verdict, port)..][..2], 4_u16.to_ne_bytes());
        let bytes = Dialled::new(5, ip, 6).to_bytes();
        assert_eq!(bytes[offset_of!(Dialled, ip)..][..16], [9; 16]);
        assert_eq!(bytes[offset_of!(Dialled, port)..][..2], 6_u16.to_ne_bytes());
    }
}
