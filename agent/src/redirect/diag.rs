//! Shell: ends sockets of a network namespace, by netlink (`sock_diag`).
//! Never: chooses which.
use std::{
    io::{self, Read},
    net::{IpAddr, SocketAddr},
};

use nix::net::if_::if_nameindex;
use socket2::{Domain, Protocol, Socket, Type};

use super::direct::End;

const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
const ENOENT: i32 = 2;
/// Another socket has these addresses and ports.
const ESTALE: i32 = 116;

/// Size of a request: `nlmsghdr` and `inet_diag_req_v2`.
const REQUEST: usize = 16 + 56;

/// A line to the kernel about sockets of one namespace: that in which it was opened.
pub(super) struct Diag {
    netlink: Socket,
    /// Interfaces that a socket may be tied to; 0 for none.
    interfaces: Vec<u32>,
}

impl Diag {
    /// Opens the line.
    pub(super) fn open() -> io::Result<Self> {
        let netlink = Socket::new(
            Domain::from(AF_NETLINK),
            Type::RAW,
            Some(Protocol::from(NETLINK_SOCK_DIAG)),
        )?;
        let there = if_nameindex().map_err(io::Error::from)?;
        let tied = there.iter().map(|interface| interface.index());
        Ok(Self { netlink, interfaces: std::iter::once(0).chain(tied).collect() })
    }

    /// Ends a connection at one of its sockets. One that is gone is fine. One that is tied to an
    /// interface, by the kernel's program or by the application, is found only if that is named.
    pub(super) fn destroy(&self, end: &End) -> io::Result<()> {
        for interface in &self.interfaces {
            match self.ask(&request((end.local, end.remote), *interface, end.socket))? {
                0 => return Ok(()),
                error if error == -ENOENT || error == -ESTALE => {}
                error => return Err(io::Error::from_raw_os_error(-error)),
            }
        }
        Ok(())
    }

    /// The kernel's answer, an error number below zero or zero.
    fn ask(&self, request: &[u8]) -> io::Result<i32> {
        self.netlink.send(request)?;
        let mut answer = [0; 512];
        let length = (&self.netlink).read(&mut answer)?;
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let code = answer.get(..length).and_then(|answer| answer.get(16..20)).ok_or_else(short)?;
        Ok(i32::from_ne_bytes(code.try_into().map_err(|_| short())?))
    }
}

/// Whether the kernel ends sockets when it is told to: it does not find the one that is asked about.
pub(super) fn is_supported() -> io::Result<bool> {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 0));
    Ok(Diag::open()?.ask(&request((nobody, nobody), 0, 0))? == -ENOENT)
}

fn request(
    (local, remote): (SocketAddr, SocketAddr),
    interface: u32,
    cookie: u64,
) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    let mut at = 0;
    let mut put = |part: &[u8]| {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    };
    // nlmsghdr: length, type, flags, sequence, port.
    put(&(REQUEST as u32).to_ne_bytes());
    put(&SOCK_DESTROY.to_ne_bytes());
    put(&NLM_F_REQUEST_ACK.to_ne_bytes());
    put(&[0; 8]);
    // inet_diag_req_v2: family, protocol, extensions, padding, states.
    put(&[if local.is_ipv4() { AF_INET } else { AF_INET6 }, TCP, 0, 0]);
    put(&u32::MAX.to_ne_bytes());
    // inet_diag_sockid: ports, addresses, interface, cookie in two words, the lower one first.
    put(&local.port().to_be_bytes());
    put(&remote.port().to_be_bytes());
    put(&padded(local.ip()));
    put(&padded(remote.ip()));
    put(&interface.to_ne_bytes());
    put(&(cookie as u32).to_ne_bytes());
    put(&((cookie >> 32) as u32).to_ne_bytes());
    bytes
}

/// Four bytes and zeros, or sixteen.
fn padded(address: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    bytes
}
