//! Pure: facts about a socket or packet → what becomes of it, and why.
//! Never: a map look-up (callers pass one in), never who may talk to whom.
use crate::{
    abi::{
        HBONE_PORT, Ip, MAPPED, PROBE_NS, PROBE_REFUSED, Pod, REFUSED_NS, ROLE_AGENT, ROLE_DIALLED,
        ROLE_DIRECT,
    },
    why::Why,
};

/// What becomes of a `connect()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connect {
    /// It goes where it wanted to go.
    Pass(Why),
    /// It is taken to the agent.
    Redirect,
}

/// Why a TCP `connect()` is none of the mesh's, whoever makes it. `role` is the socket's mark;
/// `is_captured`, which asks for the destination, is asked at most once, and only if it matters: it
/// is all the search that a connection to somewhere else costs.
#[inline(always)]
pub fn elsewhere(role: u32, to: &Ip, is_captured: impl FnOnce() -> bool) -> Option<Why> {
    // A socket that dialled a mesh destination before has a mark to be looked after.
    if is_client(role) {
        return None;
    }
    if is_loopback(to) || is_unspecified(to) {
        return Some(Why::ConnectLocal);
    }
    if is_captured() { None } else { Some(Why::ConnectNotMesh) }
}

/// Decides about a TCP `connect()` from the namespace of an enrolled pod. `is_captured` is asked at
/// most once, and only if it matters.
#[inline(always)]
pub fn connect(pod: &Pod, role: u32, to: &Ip, is_captured: impl FnOnce() -> bool) -> Connect {
    if role == ROLE_AGENT {
        return Connect::Pass(Why::ConnectAgent);
    }
    if is_own(pod, to) {
        return Connect::Pass(Why::ConnectLocal);
    }
    if !is_captured() {
        return Connect::Pass(Why::ConnectNotMesh);
    }
    Connect::Redirect
}

/// Whether the role is that of an application's socket that dialled a mesh destination.
#[inline(always)]
pub const fn is_client(role: u32) -> bool {
    role == ROLE_DIALLED || role == ROLE_DIRECT
}

/// Whether a destination is the pod itself.
#[inline(always)]
pub fn is_own(pod: &Pod, to: &Ip) -> bool {
    is_loopback(to) || is_unspecified(to) || same(to, &pod.ip4) || same(to, &pod.ip6)
}

/// What becomes of a new connection that arrives at a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    /// The kernel looks the listener up as ever.
    Pass(Why),
    /// The pod's listener of the agent takes it: for tunnels, or for plaintext.
    Agent {
        /// The pod's place among the listeners.
        slot: u32,
        /// Whether it came for the tunnel port.
        hbone: bool,
    },
    /// It is refused.
    Drop(Why),
}

/// Why a connection need not go to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// It must.
    None,
    /// A process of the node holds it.
    Probe,
    /// It goes by a verdict that the agent left.
    Direct,
    /// It went by a verdict that does not hold any more.
    Revoked,
}

/// Decides about a SYN at the door of an enrolled pod. Fails closed: an address of the pod that
/// the agent does not know is not served. `slot_of` finds the pod by one of its addresses,
/// `exemption` says whether this connection is known.
#[inline(always)]
pub fn steer(
    remote: &Ip,
    local: &Ip,
    local_port: u16,
    slot_of: impl Fn(&Ip) -> Option<u32>,
    exemption: impl FnOnce() -> Exemption,
) -> Steer {
    // Traffic to the pod's own address arrives with the interface of the route, not with the
    // loopback's, so only the addresses tell that it never left the pod.
    if is_loopback(local) || is_loopback(remote) || same(remote, local) {
        return Steer::Pass(Why::LookupLocal);
    }
    let Some(slot) = slot_of(local) else {
        return Steer::Drop(Why::LookupUnknownAddress);
    };
    if slot_of(remote) == Some(slot) {
        return Steer::Pass(Why::LookupLocal);
    }
    match exemption() {
        Exemption::Probe => Steer::Pass(Why::LookupProbe),
        Exemption::Direct => Steer::Pass(Why::LookupDirect),
        Exemption::Revoked => Steer::Drop(Why::LookupRevoked),
        Exemption::None => Steer::Agent { slot, hbone: local_port == HBONE_PORT },
    }
}

/// Whether an exemption written at `at` still holds. It also ends with its socket; the time limit
/// covers sockets whose end nobody saw.
#[inline(always)]
pub const fn probe_holds(at: u64, now: u64) -> bool {
    now.wrapping_sub(at) < PROBE_NS
}

/// Whether what was written at `at` refuses the connection.
#[inline(always)]
pub const fn is_refused(at: u64, now: u64) -> bool {
    at & PROBE_REFUSED != 0 && now.wrapping_sub(at & !PROBE_REFUSED) < REFUSED_NS
}

/// Whether the address is 127.0.0.0/8 or ::1.
#[inline(always)]
pub const fn is_loopback(ip: &Ip) -> bool {
    let zero = ip[0] == 0 && ip[1] == 0;
    let v4 = ip[2] == MAPPED && ip[3].to_ne_bytes()[0] == 127;
    let v6 = ip[2] == 0 && ip[3] == 1_u32.to_be();
    zero && (v4 || v6)
}

/// Whether the address is 0.0.0.0 or ::, which as destinations mean the loopback.
#[inline(always)]
pub const fn is_unspecified(ip: &Ip) -> bool {
    ip[0] == 0 && ip[1] == 0 && (ip[2] == MAPPED || ip[2] == 0) && ip[3] == 0
}

/// Whether the address is an IPv4 one.
#[inline(always)]
pub const fn is_mapped(ip: &Ip) -> bool {
    ip[0] == 0 && ip[1] == 0 && ip[2] == MAPPED
}

#[inline(always)]
const fn same(a: &Ip, b: &Ip) -> bool {
    a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::abi::ip_words;

    fn ip(text: &str) -> Ip {
        ip_words(match text.parse().unwrap() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        })
    }

    fn pod() -> Pod {
        Pod { ip4: ip("10.1.0.2"), ip6: ip("fd00:1::2"), outbound_port: 0, reserved: 0 }
    }

    #[test]
    fn only_mesh_destinations_of_applications_are_redirected() {
        let mesh = |to: Ip| to == ip("10.2.0.2") || to == ip("fd00:2::2");
        for (to, role, all, expected) in [
            ("10.2.0.2", 0, false, Connect::Redirect),
            ("fd00:2::2", 0, false, Connect::Redirect),
            ("10.2.0.2", ROLE_AGENT, false, Connect::Pass(Why::ConnectAgent)),
            ("10.9.9.9", 0, false, Connect::Pass(Why::ConnectNotMesh)),
            ("10.9.9.9", 0, true, Connect::Redirect),
            ("10.9.9.9", ROLE_DIALLED, false, Connect::Pass(Why::ConnectNotMesh)),
            ("10.9.9.9", ROLE_DIRECT, false, Connect::Pass(Why::ConnectNotMesh)),
            ("127.0.0.1", 0, true, Connect::Pass(Why::ConnectLocal)),
            ("127.9.9.9", 0, true, Connect::Pass(Why::ConnectLocal)),
            ("0.0.0.0", 0, true, Connect::Pass(Why::ConnectLocal)),
            ("::", 0, true, Connect::Pass(Why::ConnectLocal)),
            ("::1", 0, true, Connect::Pass(Why::ConnectLocal)),
            ("::1", ROLE_DIALLED, true, Connect::Pass(Why::ConnectLocal)),
            ("10.1.0.2", 0, true, Connect::Pass(Why::ConnectLocal)),
            ("fd00:1::2", 0, true, Connect::Pass(Why::ConnectLocal)),
        ] {
            let to_ip = ip(to);
            let is_captured = || all || mesh(to_ip);
            let verdict = match elsewhere(role, &to_ip, is_captured) {
                Some(why) => Connect::Pass(why),
                None => connect(&pod(), role, &to_ip, is_captured),
            };
            assert_eq!(verdict, expected, "{to}");
        }
    }

    #[test]
    fn a_connection_to_elsewhere_needs_no_pod_unless_its_socket_dialled_before() {
        let to = ip("10.9.9.9");
        assert_eq!(elsewhere(0, &to, || false), Some(Why::ConnectNotMesh));
        assert_eq!(elsewhere(ROLE_DIALLED, &to, || unreachable!()), None);
        assert_eq!(elsewhere(0, &ip("127.0.0.1"), || unreachable!()), Some(Why::ConnectLocal));
    }

    #[test]
    fn everything_from_outside_goes_to_the_agent() {
        let slot_of = |at: &Ip| (*at == ip("10.1.0.2") || *at == ip("fd00:1::2")).then_some(3);
        let (none, probe) = (Exemption::None, Exemption::Probe);
        for (remote, local, port, exemption, expected) in [
            ("10.2.0.2", "10.1.0.2", 80, none, Steer::Agent { slot: 3, hbone: false }),
            ("10.2.0.2", "10.1.0.2", 15008, none, Steer::Agent { slot: 3, hbone: true }),
            ("fd00:2::2", "fd00:1::2", 80, none, Steer::Agent { slot: 3, hbone: false }),
            ("10.1.0.1", "10.1.0.2", 80, probe, Steer::Pass(Why::LookupProbe)),
            ("10.1.0.3", "10.1.0.2", 80, Exemption::Direct, Steer::Pass(Why::LookupDirect)),
            ("10.1.0.3", "10.1.0.2", 80, Exemption::Revoked, Steer::Drop(Why::LookupRevoked)),
            ("10.1.0.2", "10.1.0.2", 80, none, Steer::Pass(Why::LookupLocal)),
            ("10.1.0.2", "127.0.0.1", 80, none, Steer::Pass(Why::LookupLocal)),
            ("10.2.0.2", "fe80::2", 80, none, Steer::Drop(Why::LookupUnknownAddress)),
            ("10.1.0.1", "10.7.0.2", 80, probe, Steer::Drop(Why::LookupUnknownAddress)),
        ] {
            let verdict = steer(&ip(remote), &ip(local), port, slot_of, || exemption);
            assert_eq!(verdict, expected, "{remote} -> {local}:{port}");
        }
    }

    #[test]
    fn an_exemption_ends() {
        assert!(probe_holds(5, 5 + PROBE_NS - 1));
        assert!(!probe_holds(5, 5 + PROBE_NS));
    }
}
