//! Shell: `connect()` of sockets below the pods' cgroup. Connections of enrolled pods to mesh
//! destinations are taken to the agent's listener on the loopback of the pod's own namespace.
//! Fails closed: what should be redirected and cannot be is refused.
use core::{
    ffi::c_void,
    ptr::{read_volatile as read, write_volatile as write},
};

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    btf_maps::lpm_trie::Key,
    helpers::generated::{bpf_bind, bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use culvert_ebpf::{
    abi::{
        Ip, MAPPED, Mark, NODE_CAPTURE_ALL, NODE_CROWDED, NODE_PREFIXES, Pod, ROLE_DIALLED,
        ROLE_DIRECT, ROLE_NONE,
        direct::{Dialled, Verdict},
        ip_bytes,
    },
    decide::{Connect, connect, elsewhere, is_client, is_mapped, is_own},
    why::Why,
};

use super::{
    count::count,
    maps::{MESH, NODE, PODS, PREFIXES, VERDICTS, mark_of, mark_or_new},
};

const PASS: i32 = 1;
const REFUSE: i32 = 0;
const TCP: u32 = 6;
const ECONNREFUSED: i32 = 111;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

#[cgroup_sock_addr(connect4)]
pub(super) fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    unsafe {
        let ip = read(&raw const (*ctx.sock_addr).user_ip4);
        dial(&ctx, [0, 0, MAPPED, ip], Family::V4)
    }
}

#[cgroup_sock_addr(connect6)]
pub(super) fn connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel passes a valid context; it allows wide addresses word by word only.
    unsafe {
        let address = &raw const (*ctx.sock_addr).user_ip6;
        let word = |i: usize| read((&raw const (*address)[i]).cast::<u32>());
        dial(&ctx, [word(0), word(1), word(2), word(3)], Family::V6)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Family {
    V4,
    V6,
}

#[inline(always)]
unsafe fn dial(ctx: &SockAddrContext, to: Ip, family: Family) -> i32 {
    // SAFETY: fields of the context are read as the verifier allows; `sk` is checked for null.
    unsafe {
        let sa = ctx.sock_addr;
        if read(&raw const (*sa).protocol) != TCP {
            count(Why::ConnectOtherProtocol);
            return PASS;
        }
        let socket = read(&raw const (*sa).__bindgen_anon_1.sk).cast::<c_void>();
        let found = role_of(socket);
        if let Some(why) = elsewhere(found, &to, || is_captured(&to)) {
            count(why);
            return PASS;
        }
        let netns = bpf_get_netns_cookie(sa.cast());
        let Some(pod) = PODS.get(&netns) else {
            count(Why::ConnectNotEnrolled);
            return PASS;
        };
        if socket.is_null() {
            return refuse();
        }
        let port = read(&raw const (*sa).user_port) as u16;
        let rewritten = port == pod.outbound_port && is_own(pod, &to);
        let role = forget_earlier_destination(socket, rewritten);
        if let Connect::Pass(why) =
            connect(pod, role, &to, || !is_client(found) || is_captured(&to))
        {
            count(why);
            return PASS;
        }
        let Some(mark) = mark_or_new(socket) else {
            return refuse();
        };
        *mark = Mark::new(ROLE_DIALLED, to, port);
        if let Some(verdict) = verdict(sa, pod, &Dialled::new(netns, to, port), family) {
            (*mark).tag = verdict.number;
            (*mark).role = ROLE_DIRECT;
            point(sa, &verdict.ip, verdict.port, family);
            count(Why::ConnectDirect);
            return PASS;
        }
        #[cfg(feature = "log")]
        aya_log_ebpf::info!(ctx, "redirect to :{}", u16::from_be(pod.outbound_port));
        redirect(sa, pod, &to, family);
        count(Why::ConnectRedirected);
        PASS
    }
}

/// The agent's verdict about this pod and destination, if it left one that holds. It was made for
/// the pod's own address, so that must be the socket's: one that the application bound to another
/// goes to the agent.
#[inline(always)]
unsafe fn verdict(
    sa: *mut bpf_sock_addr,
    pod: &Pod,
    dialled: &Dialled,
    family: Family,
) -> Option<Verdict> {
    // SAFETY: as in `dial`; the verdict is copied.
    unsafe {
        let verdict = *VERDICTS.get(dialled)?;
        if bpf_ktime_get_ns() >= verdict.expires {
            return None;
        }
        if NODE.get(NODE_CROWDED).is_none_or(|crowded| *crowded != 0) {
            count(Why::ConnectCrowded);
            return None;
        }
        let own = if is_mapped(&dialled.ip) { pod.ip4 } else { pod.ip6 };
        let is_own = own[3] != 0 && !is_tied(sa) && (bind(sa, &own, family) || is_bound(sa, &own));
        is_own.then_some(verdict)
    }
}

/// Whether the socket is tied to an interface.
#[inline(always)]
unsafe fn is_tied(sa: *mut bpf_sock_addr) -> bool {
    // SAFETY: `sk` is checked for null.
    unsafe {
        let socket = read(&raw const (*sa).__bindgen_anon_1.sk).cast::<bpf_sock>();
        !socket.is_null() && read(&raw const (*socket).bound_dev_if) != 0
    }
}

/// Whether the socket is bound to this address.
#[inline(always)]
unsafe fn is_bound(sa: *mut bpf_sock_addr, own: &Ip) -> bool {
    // SAFETY: `sk` is checked for null; both families are read, for the reason given in `sockops`.
    unsafe {
        let socket = read(&raw const (*sa).__bindgen_anon_1.sk).cast::<bpf_sock>();
        if socket.is_null() {
            return false;
        }
        let v4 = read(&raw const (*socket).src_ip4);
        let v6 = [
            read(&raw const (*socket).src_ip6[0]),
            read(&raw const (*socket).src_ip6[1]),
            read(&raw const (*socket).src_ip6[2]),
            read(&raw const (*socket).src_ip6[3]),
        ];
        if is_mapped(own) { v4 == own[3] } else { v6 == *own }
    }
}

#[inline(always)]
unsafe fn role_of(socket: *mut c_void) -> u32 {
    if socket.is_null() {
        return ROLE_NONE;
    }
    // SAFETY: the socket is not null.
    unsafe { mark_of(socket).map_or(ROLE_NONE, |mark| (*mark).role) }
}

/// A socket may be disconnected (AF_UNSPEC) and connected elsewhere: what it dialled before must
/// not colour the new connection. While an agent replaces its programs two generations run one
/// after the other; the second finds the destination rewritten already and leaves the mark alone.
#[inline(always)]
unsafe fn forget_earlier_destination(socket: *mut c_void, rewritten: bool) -> u32 {
    // SAFETY: the caller checked the socket for null.
    unsafe {
        let Some(mark) = mark_of(socket) else {
            return ROLE_NONE;
        };
        if is_client((*mark).role) && !rewritten {
            (*mark).role = ROLE_NONE;
        }
        (*mark).role
    }
}

/// One search in a hash map; prefixes are searched only where there are any.
#[inline(always)]
fn is_captured(to: &Ip) -> bool {
    // SAFETY: values are plain integers, read once.
    unsafe {
        NODE.get(NODE_CAPTURE_ALL).is_some_and(|all| *all != 0)
            || MESH.get(to).is_some()
            || NODE.get(NODE_PREFIXES).is_some_and(|count| *count != 0)
                && PREFIXES.get(&Key::new(128, ip_bytes(*to))).is_some_and(|known| *known != 0)
    }
}

/// Points the socket at the agent. All redirected connections of a pod share one destination, so
/// that must be a loopback address: only there does the kernel reuse ports that wait (TIME_WAIT)
/// fast enough. Binding to the pod's address first keeps `getsockname()` true. A socket that is
/// tied to an interface cannot reach the loopback, and one that is bound to a port already would
/// get the loopback for its own address; for those the pod's own address works.
#[inline(always)]
unsafe fn redirect(sa: *mut bpf_sock_addr, pod: &Pod, to: &Ip, family: Family) {
    // SAFETY: fields of the context are read and written as the verifier allows.
    unsafe {
        let mapped = is_mapped(to);
        let own = if mapped { pod.ip4 } else { pod.ip6 };
        let bound = !is_tied(sa) && bind(sa, &own, family);
        let loopback = if mapped { 0x7f00_0001_u32.to_be() } else { 1_u32.to_be() };
        let target = if bound { [0, 0, own_third_word(mapped), loopback] } else { own };
        point(sa, &target, pod.outbound_port, family);
    }
}

/// Lets the socket dial another destination.
#[inline(always)]
unsafe fn point(sa: *mut bpf_sock_addr, target: &Ip, port: u16, family: Family) {
    // SAFETY: fields of the context are written as the verifier allows.
    unsafe {
        if family == Family::V4 {
            write(&raw mut (*sa).user_ip4, target[3]);
        } else {
            let address = &raw mut (*sa).user_ip6;
            let set = |i: usize, word: u32| write((&raw mut (*address)[i]).cast::<u32>(), word);
            set(0, target[0]);
            set(1, target[1]);
            set(2, target[2]);
            set(3, target[3]);
        }
        write(&raw mut (*sa).user_port, u32::from(port));
    }
}

#[inline(always)]
const fn own_third_word(mapped: bool) -> u32 {
    if mapped { MAPPED } else { 0 }
}

/// Binds the socket to the pod's address and any port, and says whether it could: a socket that is
/// bound already keeps the port that the application chose.
#[inline(always)]
unsafe fn bind(sa: *mut bpf_sock_addr, own: &Ip, family: Family) -> bool {
    // Without an address of that family there is only the loopback.
    if own[3] == 0 {
        return true;
    }
    // `sockaddr_in` and `sockaddr_in6` share the first two fields: family and port.
    let (mut v4, mut v6) =
        ([AF_INET, own[3], 0, 0], [AF_INET6, 0, own[0], own[1], own[2], own[3], 0]);
    // SAFETY: the addresses are laid out as `sockaddr_in` (16 bytes) and `sockaddr_in6` (28).
    let failed = unsafe {
        match family {
            Family::V4 => bpf_bind(sa, (&raw mut v4).cast(), 16),
            Family::V6 => bpf_bind(sa, (&raw mut v6).cast(), 28),
        }
    };
    if failed != 0 {
        count(Why::ConnectBound);
    }
    failed == 0
}

/// The application sees `ECONNREFUSED` rather than a puzzling `EPERM`.
#[inline(always)]
fn refuse() -> i32 {
    count(Why::ConnectRefused);
    // SAFETY: only sets the value that the system call returns.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}
