//! Pure: names, capacities and layouts of everything that kernel and agent share.
//! Addresses are 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`; ports are in network order.
//! Never: padding, `bool`, `usize`, `Option`, or logic beyond turning values into bytes and back.
pub mod direct;

/// Version of these layouts, part of the pin path: agents with other layouts never share maps.
pub const VERSION: u32 = 4;

/// The port on which mesh peers deliver tunnels (HBONE).
pub const HBONE_PORT: u16 = 15008;

/// Enrolled pods of one node, at most.
pub const MAX_PODS: usize = 4096;
/// Captured addresses and prefixes, at most of each.
pub const MAX_DESTINATIONS: usize = 1 << 18;
/// Connections between SYN and accept, at most: the oldest is forgotten, and then refused.
pub const MAX_HANDSHAKES: usize = 1 << 14;
/// Node-to-pod connections that are open at one time and exempt, at most.
pub const MAX_PROBES: usize = 1 << 14;
/// Verdicts of the agent that the kernel may act on by itself, at most.
pub const MAX_VERDICTS: usize = 1 << 14;
/// Connections that are open by such verdicts, at most: the next one is refused.
pub const MAX_FLOWS: usize = 1 << 16;
/// Once there was no room, new connections are for the agent until there are fewer than so many.
pub const MANY_FLOWS: usize = MAX_FLOWS / 4 * 3;
/// Bytes for events that the agent has not read yet.
pub const EVENT_BYTES: usize = 1 << 20;
/// Listening sockets per pod: plaintext and tunnels.
pub const LISTENERS_PER_POD: u32 = 2;
/// Offset of the listener for plaintext within a pod's slot.
pub const LISTEN_PLAIN: u32 = 0;
/// Offset of the listener for tunnels within a pod's slot.
pub const LISTEN_HBONE: u32 = 1;

/// Map `NODE`: the cookie of the node's own network namespace.
pub const NODE_NETNS: u32 = 0;
/// Map `NODE`: how many prefixes there are. Without any, none is looked up.
pub const NODE_PREFIXES: u32 = 1;
/// Map `NODE`: not 0 when every destination of enrolled pods is captured, not only what the mesh
/// knows.
pub const NODE_CAPTURE_ALL: u32 = 2;
/// Map `NODE`: not 0 when there was no room for another connection by a verdict, and verdicts are
/// not looked at. The kernel sets it, the agent takes it back.
pub const NODE_CROWDED: u32 = 3;
/// Entries of map `NODE`.
pub const NODE_ENTRIES: usize = 4;

/// How long a handshake may take between agent and application, nanoseconds. A note that is older
/// belongs to a connection that failed, and must not be taken by a later one with the same ports.
pub const HANDSHAKE_NS: u64 = 15_000_000_000;
/// How long an exemption for a node process stays valid, nanoseconds; it also ends with its socket.
pub const PROBE_NS: u64 = 1_000_000_000;
/// In that time: the connection is none of a node process, and must not be let in.
pub const PROBE_REFUSED: u64 = 1 << 63;
/// How long that holds, nanoseconds: longer than the kernel waits for the last step of a handshake.
pub const REFUSED_NS: u64 = 120_000_000_000;

/// An address of 16 bytes as the kernel's four words in network order.
pub type Ip = [u32; 4];

/// The third word of an IPv4-mapped address, `::ffff:0:0/96`.
pub const MAPPED: u32 = 0xffff_u32.to_be();

/// Turns an address into the kernel's four words.
pub const fn ip_words(bytes: [u8; 16]) -> Ip {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

/// The reverse of [`ip_words`].
pub const fn ip_bytes(words: Ip) -> [u8; 16] {
    let [a, b, c, d] = words;
    let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}

/// Map `PODS`: the network namespace's cookie → an enrolled pod, for connections that it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Pod {
    /// The pod's IPv4 address, mapped; all zero when it has none.
    pub ip4: Ip,
    /// The pod's IPv6 address; all zero when it has none.
    pub ip6: Ip,
    /// Where the agent listens for its connections, on the namespace's loopback.
    pub outbound_port: u16,
    /// Always zero.
    pub reserved: u16,
}

/// Size of [`Pod`] in bytes.
pub const POD_SIZE: usize = 36;

impl Pod {
    /// As the map holds it.
    pub fn to_bytes(self) -> [u8; POD_SIZE] {
        let mut bytes = [0; POD_SIZE];
        bytes[..16].copy_from_slice(&ip_bytes(self.ip4));
        bytes[16..32].copy_from_slice(&ip_bytes(self.ip6));
        bytes[32..34].copy_from_slice(&self.outbound_port.to_ne_bytes());
        bytes
    }
}

/// What the kernel remembers with a socket (map `SOCKETS`), and with a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Mark {
    /// For [`ROLE_LISTENER`]: the cookie of the socket's network namespace, once it listens. For
    /// [`ROLE_DIRECT`]: the number of the verdict.
    pub tag: u64,
    /// The address that goes with the role.
    pub ip: Ip,
    /// The port that goes with the role.
    pub port: u16,
    /// Always zero.
    pub reserved: u16,
    /// One of the `ROLE_` values.
    pub role: u32,
}

/// Size of [`Mark`] in bytes.
pub const MARK_SIZE: usize = 32;

/// Nothing is known about the socket.
pub const ROLE_NONE: u32 = 0;
/// An application's socket that was redirected; the address is the one that it dialled.
pub const ROLE_DIALLED: u32 = 1;
/// The agent's end of a redirected connection; the address is the one that was dialled.
pub const ROLE_CAPTURED: u32 = 2;
/// A socket with which the agent dials: never redirected. The address is the client's that an
/// application is to see, or all zero.
pub const ROLE_AGENT: u32 = 3;
/// An application's accepted socket; the address is its true client's.
pub const ROLE_PRESENTED: u32 = 4;
/// A listener of the agent, which asks for the cookie of its network namespace.
pub const ROLE_LISTENER: u32 = 5;
/// An application's socket that goes straight to a pod of this node, by a verdict of the agent; the
/// address is the one that it dialled.
pub const ROLE_DIRECT: u32 = 6;

impl Mark {
    /// A mark with an address.
    pub const fn new(role: u32, ip: Ip, port: u16) -> Self {
        Self { tag: 0, ip, port, reserved: 0, role }
    }

    /// As the map holds it.
    pub fn to_bytes(self) -> [u8; MARK_SIZE] {
        let mut bytes = [0; MARK_SIZE];
        bytes[..8].copy_from_slice(&self.tag.to_ne_bytes());
        bytes[8..24].copy_from_slice(&ip_bytes(self.ip));
        bytes[24..26].copy_from_slice(&self.port.to_ne_bytes());
        bytes[28..].copy_from_slice(&self.role.to_ne_bytes());
        bytes
    }

    /// The reverse of [`Mark::to_bytes`].
    pub fn from_bytes(bytes: [u8; MARK_SIZE]) -> Self {
        let word = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let tag = u64::from(word(0)) | u64::from(word(4)) << 32;
        Self {
            tag: if cfg!(target_endian = "little") { tag } else { tag.rotate_left(32) },
            ip: [word(8), word(12), word(16), word(20)],
            port: u16::from_ne_bytes([bytes[24], bytes[25]]),
            reserved: 0,
            role: word(28),
        }
    }
}

/// Key of map `HANDSHAKES`: one connection inside a pod's namespace, seen from its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Handshake {
    /// The namespace's cookie.
    pub netns: u64,
    /// The client's address as the TCP header has it.
    pub client: Ip,
    /// The client's port.
    pub client_port: u16,
    /// The server's port.
    pub server_port: u16,
    /// Always zero.
    pub reserved: u32,
}

/// Value of map `HANDSHAKES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Note {
    /// When it was written, nanoseconds of the kernel's monotonic clock.
    pub at: u64,
    /// What the accepted socket is to be marked with.
    pub mark: Mark,
}

/// Key of maps `PROBES` and `FLOWS`: a connection as the pod at which it arrives sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Arriving {
    /// The client's address.
    pub remote: Ip,
    /// The pod's address.
    pub local: Ip,
    /// The client's port.
    pub remote_port: u16,
    /// The pod's port.
    pub local_port: u16,
}

const _: () = assert!(size_of::<Pod>() == POD_SIZE);
const _: () = assert!(size_of::<Mark>() == MARK_SIZE);
const _: () = assert!(size_of::<Handshake>() == 32);
const _: () = assert!(size_of::<Note>() == 8 + MARK_SIZE);
const _: () = assert!(size_of::<Arriving>() == 36);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_its_bytes() {
        let mark = Mark {
            tag: 0x0123_4567_89ab_cdef,
            ip: ip_words([7; 16]),
            port: 80_u16.to_be(),
            reserved: 0,
            role: ROLE_CAPTURED,
        };
        assert_eq!(Mark::from_bytes(mark.to_bytes()), mark);
    }

    /// Kernel memory of all maps when full, roughly: entry plus 64 bytes of bookkeeping each.
    #[test]
    fn all_maps_together_stay_below_64_mib_when_full() {
        let entry = |key: usize, value: usize| key + value + 64;
        let total = MAX_PODS * (entry(8, POD_SIZE) + entry(16, 4))
            + MAX_DESTINATIONS * (entry(16, 4) + entry(20, 4))
            + MAX_HANDSHAKES * entry(32, 40)
            + MAX_PROBES * entry(36, 8)
            + MAX_VERDICTS * entry(direct::DIALLED_SIZE, direct::VERDICT_SIZE)
            + MAX_FLOWS * entry(36, direct::FLOW_SIZE)
            + EVENT_BYTES
            + MAX_PODS * LISTENERS_PER_POD as usize * 16;
        assert!(total < 64 << 20, "{total} bytes");
    }
}
