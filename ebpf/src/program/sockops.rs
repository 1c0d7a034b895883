//! Shell: events of TCP sockets of the node. Notes what a connection's accepting side must know
//! while the SYN leaves, and marks the accepted socket before `accept()` can hand it out.
use core::{ffi::c_void, ptr::read_volatile as read};

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_CLOSE, bpf_sock_ops,
    },
    helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set},
    macros::sock_ops,
    programs::SockOpsContext,
};
use culvert_ebpf::{
    abi::{
        Arriving, HANDSHAKE_NS, Handshake, Ip, MAPPED, Mark, NODE_NETNS, Note, PROBE_REFUSED,
        ROLE_AGENT, ROLE_CAPTURED, ROLE_DIALLED, ROLE_DIRECT, ROLE_LISTENER, ROLE_PRESENTED,
    },
    why::Why,
};

use super::{
    count::count,
    flow::{accepted_directly, answered_directly, moved, open_directly},
    maps::{ADDRESSES, HANDSHAKES, NODE, PROBES, mark_of, mark_or_new},
};

const DONE: u32 = 1;
const AF_INET: u32 = 2;

#[sock_ops]
pub(super) fn connections(ctx: SockOpsContext) -> u32 {
    // SAFETY: the kernel passes a valid context; the socket is checked for null before use.
    unsafe {
        let ops = ctx.ops;
        let event = read(&raw const (*ops).op);
        if event == BPF_SOCK_OPS_STATE_CB {
            changed(ops);
            return DONE;
        }
        if event != BPF_SOCK_OPS_TCP_CONNECT_CB
            && event != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
            && event != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB
            && event != BPF_SOCK_OPS_TCP_LISTEN_CB
        {
            count(Why::EventUnused);
            return DONE;
        }
        let socket = read(&raw const (*ops).__bindgen_anon_2.sk).cast::<c_void>();
        if socket.is_null() {
            count(Why::EventUnused);
            return DONE;
        }
        match event {
            BPF_SOCK_OPS_TCP_CONNECT_CB => opening(ops, socket),
            BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(ops, socket),
            BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => answered(ops, socket),
            _ => listening(ops, socket),
        }
    }
    DONE
}

/// The SYN is about to leave and the source port is known.
#[inline(always)]
unsafe fn opening(ops: *mut bpf_sock_ops, socket: *mut c_void) {
    // SAFETY: as in `connections`.
    unsafe {
        let netns = bpf_get_netns_cookie(ops.cast());
        let ends = Ends::of(ops);
        if NODE.get(NODE_NETNS) == Some(&netns) {
            return exempt(ops, &ends);
        }
        let Some(mark) = mark_of(socket) else {
            return count(Why::OpenUnmarked);
        };
        if (*mark).role == ROLE_DIRECT {
            return open_directly(ops, &*mark, netns, &ends);
        }
        let role = match (*mark).role {
            ROLE_DIALLED => ROLE_CAPTURED,
            ROLE_AGENT if (*mark).port != 0 => ROLE_PRESENTED,
            _ => return count(Why::OpenUnmarked),
        };
        let key = Handshake {
            netns,
            client: ends.local,
            client_port: ends.local_port,
            server_port: ends.remote_port,
            reserved: 0,
        };
        let note = Note { at: bpf_ktime_get_ns(), mark: Mark::new(role, (*mark).ip, (*mark).port) };
        // A note that cannot be written leaves the accepted socket unmarked, and the agent closes it.
        let _ = HANDSHAKES.insert(&key, &note, 0);
        count(Why::OpenNoted);
    }
}

/// A connection is established on its dialling side, before its first byte leaves.
#[inline(always)]
unsafe fn answered(ops: *mut bpf_sock_ops, socket: *mut c_void) {
    // SAFETY: as in `connections`.
    unsafe {
        match mark_of(socket) {
            Some(mark) if (*mark).role == ROLE_DIRECT => answered_directly(ops, &Ends::of(ops)),
            _ => count(Why::EventUnused),
        }
    }
}

/// A process of the node itself dials: if it dials an enrolled pod, as the kubelet does to probe
/// it, the connection is exempt for as long as the socket lives.
#[inline(always)]
unsafe fn exempt(ops: *mut bpf_sock_ops, ends: &Ends) {
    // SAFETY: as in `connections`.
    unsafe {
        if ADDRESSES.get(&ends.remote).is_none() {
            return count(Why::OpenUnmarked);
        }
        // Without news of its end the exemption would outlive the socket: then rather none.
        if !follow(ops) {
            return count(Why::OpenUnmarked);
        }
        let _ = PROBES.insert(&ends.arriving(), &bpf_ktime_get_ns(), 0);
        count(Why::OpenProbe);
    }
}

/// From now on the program is told of each state of the socket. Says whether it is.
#[inline(always)]
pub(super) unsafe fn follow(ops: *mut bpf_sock_ops) -> bool {
    // SAFETY: as in `connections`.
    unsafe { bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG as i32) == 0 }
}

/// A socket that is followed changes its state.
#[inline(always)]
unsafe fn changed(ops: *mut bpf_sock_ops) {
    // SAFETY: as in `connections`; the second argument of this event is the new state.
    unsafe {
        let ends = Ends::of(ops);
        if moved(ops, &ends) {
            return;
        }
        if read(&raw const (*ops).__bindgen_anon_1.args[1]) == BPF_TCP_CLOSE {
            let key = ends.arriving();
            // What refuses the connection outlives its socket.
            if PROBES.get(&key).is_some_and(|at| *at & PROBE_REFUSED == 0) {
                let _ = PROBES.remove(&key);
            }
            count(Why::ProbeClosed);
        } else {
            count(Why::ProbeOpen);
        }
    }
}

/// A connection is established on its accepting side, before `accept()` returns it.
#[inline(always)]
unsafe fn accepted(ops: *mut bpf_sock_ops, socket: *mut c_void) {
    // SAFETY: as in `connections`.
    unsafe {
        let ends = Ends::of(ops);
        // Both sides may have dialled at the same moment (RFC 9293 §3.5).
        if mark_of(socket).is_some_and(|mark| (*mark).role == ROLE_DIRECT) {
            return answered_directly(ops, &ends);
        }
        let key = Handshake {
            netns: bpf_get_netns_cookie(ops.cast()),
            client: ends.remote,
            client_port: ends.remote_port,
            server_port: ends.local_port,
            reserved: 0,
        };
        let Some(note) = HANDSHAKES.get(&key) else {
            return accepted_directly(ops, key.netns, &ends);
        };
        let (at, mark) = (note.at, note.mark);
        let _ = HANDSHAKES.remove(&key);
        if bpf_ktime_get_ns().wrapping_sub(at) > HANDSHAKE_NS {
            return count(Why::AcceptStale);
        }
        let Some(own) = mark_or_new(socket) else {
            return count(Why::AcceptNoMemory);
        };
        *own = mark;
        count(Why::AcceptMarked);
    }
}

/// A socket starts to listen: the agent's own, marked beforehand, learn their namespace.
#[inline(always)]
unsafe fn listening(ops: *mut bpf_sock_ops, socket: *mut c_void) {
    // SAFETY: as in `connections`.
    unsafe {
        match mark_of(socket) {
            Some(mark) if (*mark).role == ROLE_LISTENER => {
                (*mark).tag = bpf_get_netns_cookie(ops.cast());
                count(Why::ListenAnswered);
            }
            _ => count(Why::ListenUnmarked),
        }
    }
}

/// Both ends of a connection; all in network order.
pub(super) struct Ends {
    pub(super) local: Ip,
    pub(super) remote: Ip,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
}

impl Ends {
    /// Both families are read always: where only one is, LLVM merges the two branches into an
    /// access with a variable offset, which the verifier refuses.
    #[inline(always)]
    unsafe fn of(ops: *mut bpf_sock_ops) -> Self {
        // SAFETY: as in `connections`; the kernel allows wide addresses word by word only.
        unsafe {
            let v4 = (read(&raw const (*ops).local_ip4), read(&raw const (*ops).remote_ip4));
            let local = [
                read(&raw const (*ops).local_ip6[0]),
                read(&raw const (*ops).local_ip6[1]),
                read(&raw const (*ops).local_ip6[2]),
                read(&raw const (*ops).local_ip6[3]),
            ];
            let remote = [
                read(&raw const (*ops).remote_ip6[0]),
                read(&raw const (*ops).remote_ip6[1]),
                read(&raw const (*ops).remote_ip6[2]),
                read(&raw const (*ops).remote_ip6[3]),
            ];
            let is_v4 = read(&raw const (*ops).family) == AF_INET;
            let pick = |v4: u32, v6: Ip| if is_v4 { [0, 0, MAPPED, v4] } else { v6 };
            Self {
                local: pick(v4.0, local),
                remote: pick(v4.1, remote),
                // The kernel gives the local port in host order, and the remote one in network
                // order in the upper half.
                local_port: (read(&raw const (*ops).local_port) as u16).to_be(),
                remote_port: (read(&raw const (*ops).remote_port) >> 16) as u16,
            }
        }
    }

    /// As the pod at the far end sees it.
    #[inline(always)]
    pub(super) const fn arriving(&self) -> Arriving {
        Arriving {
            remote: self.local,
            local: self.remote,
            remote_port: self.local_port,
            local_port: self.remote_port,
        }
    }

    /// As the pod at this end sees it.
    #[inline(always)]
    pub(super) const fn arrived(&self) -> Arriving {
        Arriving {
            remote: self.remote,
            local: self.local,
            remote_port: self.remote_port,
            local_port: self.local_port,
        }
    }
}
