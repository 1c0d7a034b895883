//! Pure: addresses between Rust and the kernel's 16 bytes.
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use culvert_ebpf::abi::{Ip, Mark, ip_bytes, ip_words};

/// IPv4-mapped addresses as IPv4, flow labels and scopes dropped.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// An address as the kernel's maps have it.
pub(super) fn words(address: IpAddr) -> Ip {
    ip_words(match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    })
}

/// An address as the keys of the kernel's maps have it.
pub(super) fn key(address: IpAddr) -> [u8; 16] {
    ip_bytes(words(address))
}

/// A mark with an address.
pub(super) fn mark(role: u32, address: SocketAddr) -> Mark {
    Mark::new(role, words(address.ip()), address.port().to_be())
}

/// The address in a mark.
pub(super) fn address(mark: &Mark) -> SocketAddr {
    joined(mark.ip, mark.port)
}

/// An address and a port, as the kernel's maps have them.
pub(super) fn joined(ip: Ip, port: u16) -> SocketAddr {
    let ip = IpAddr::V6(Ipv6Addr::from(ip_bytes(ip))).to_canonical();
    SocketAddr::new(ip, u16::from_be(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernel() {
        for text in ["10.1.2.3:80", "[fd00::1]:65535", "127.0.0.1:0"] {
            let given: SocketAddr = text.parse().unwrap();
            assert_eq!(address(&mark(1, given)), given);
        }
        assert_eq!(
            canonical("[::ffff:10.0.0.1]:80".parse().unwrap()),
            "10.0.0.1:80".parse().unwrap()
        );
    }
}
