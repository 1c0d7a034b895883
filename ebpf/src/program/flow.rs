//! Shell: connections that go by a verdict, from their SYN until both sockets are gone. Part of
//! `sockops`.
//! Fails closed: a connection whose verdict does not hold, or that cannot be followed, is refused.
use core::ptr::{read_volatile as read, write_volatile as write};

use aya_ebpf::{
    bindings::bpf_sock_ops,
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_setsockopt},
    maps::ring_buf::RingBufEntry,
};
use culvert_ebpf::{
    abi::{
        Arriving, Mark, NODE_CROWDED, PROBE_REFUSED,
        direct::{
            Dialled, EVENT_MISLED, EVENT_OPENED, EVENT_RESET_BY_CLIENT, EVENT_UNREACHED, Event,
            Flow,
        },
    },
    decide::is_refused,
    flow::{CLOSED, OPEN, Side, Sockets, news, tcp},
    why::Why,
};

use super::{
    count::count,
    maps::{EVENTS, FLOWS, NODE, PODS, PROBES, VERDICTS},
    sockops::{Ends, follow},
};

const SOL_SOCKET: i32 = 1;
const SO_KEEPALIVE: i32 = 9;
const SO_BINDTOIFINDEX: i32 = 62;
const SOL_TCP: i32 = 6;
const TCP_KEEPIDLE: i32 = 4;
const TCP_KEEPINTVL: i32 = 5;
const TCP_KEEPCNT: i32 = 6;
/// The loopback is the first interface of every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// The SYN of a socket that `connect()` let go by a verdict is about to leave: time may have passed,
/// so the verdict is asked for once more.
#[inline(always)]
pub(super) unsafe fn open_directly(ops: *mut bpf_sock_ops, mark: &Mark, netns: u64, ends: &Ends) {
    // SAFETY: as in `sockops::connections`.
    unsafe {
        let (key, now) = (ends.arriving(), bpf_ktime_get_ns());
        let socket = bpf_get_socket_cookie(ops.cast());
        if let Some(earlier) = FLOWS.get_ptr_mut(&key) {
            // Of two generations of programs the other one was here already.
            if (*earlier).client_socket == socket {
                return count(Why::OpenDirect);
            }
            // Its server has kept it since its client went.
            tell(event(), EVENT_RESET_BY_CLIENT, &key, earlier);
        }
        let dialled = Dialled::new(netns, mark.ip, mark.port);
        let verdict = VERDICTS.get(&dialled).filter(|verdict| {
            verdict.number == mark.tag
                && now < verdict.expires
                && verdict.port == ends.remote_port
                && verdict.ip == ends.remote
        });
        let followed = follow(ops);
        let verdict = verdict.filter(|_| followed);
        let flow = Flow {
            number: mark.tag,
            client: netns,
            server: verdict.map_or(0, |verdict| verdict.server),
            client_socket: socket,
            server_socket: 0,
            opened: now,
            up: 0,
            down: 0,
            ip: mark.ip,
            port: mark.port,
            client_state: 0,
            server_state: 0,
            admitted: 0,
        };
        if verdict.is_none() {
            refuse(&key, now);
            tell(event(), EVENT_UNREACHED, &key, &flow);
            return count(Why::OpenRevoked);
        }
        if FLOWS.insert(&key, &flow, 0).is_err() {
            if let Some(crowded) = NODE.get_ptr_mut(NODE_CROWDED) {
                write(crowded, 1);
            }
            refuse(&key, now);
            tell(event(), EVENT_UNREACHED, &key, &flow);
            return count(Why::OpenFull);
        }
        let _ = PROBES.remove(&key);
        count(Why::OpenDirect);
    }
}

/// Nothing of this connection is let in, or answered, from now on.
#[inline(always)]
fn refuse(key: &Arriving, now: u64) {
    let _ = PROBES.insert(key, &(now | PROBE_REFUSED), 0);
}

/// Ties the socket to the loopback, where nothing of its connection arrives; and as nothing answers
/// there, the kernel gives it up after two seconds.
#[inline(always)]
unsafe fn tie(ops: *mut bpf_sock_ops) {
    let options = [
        (SOL_SOCKET, SO_BINDTOIFINDEX, LOOPBACK_INDEX),
        (SOL_TCP, TCP_KEEPIDLE, 1),
        (SOL_TCP, TCP_KEEPINTVL, 1),
        (SOL_TCP, TCP_KEEPCNT, 1),
        (SOL_SOCKET, SO_KEEPALIVE, 1),
    ];
    for (level, name, mut value) in options {
        let size = size_of::<u32>() as i32;
        // SAFETY: as in `sockops::connections`; the value is as large as is said.
        let failed =
            unsafe { bpf_setsockopt(ops.cast(), level, name, (&raw mut value).cast(), size) };
        if failed != 0 {
            count(Why::TieFailed);
        }
    }
}

/// The other side answered. If it was not the pod that let the SYN in, addresses changed hands, or
/// were translated on the way: the socket is tied to the loopback, where nothing of it arrives, also
/// not the last step of the handshake. The agent ends it.
#[inline(always)]
pub(super) unsafe fn answered_directly(ops: *mut bpf_sock_ops, ends: &Ends) {
    // SAFETY: as in `sockops::connections`.
    unsafe {
        let key = ends.arriving();
        let flow = FLOWS.get_ptr_mut(&key);
        if flow.is_some_and(|flow| read(&raw const (*flow).admitted) != 0) {
            return count(Why::OpenAdmitted);
        }
        tie(ops);
        if let Some(flow) = flow {
            tell(event(), EVENT_MISLED, &key, flow);
        }
        count(Why::OpenMisled);
    }
}

/// A connection without a note is established on its accepting side.
#[inline(always)]
pub(super) unsafe fn accepted_directly(ops: *mut bpf_sock_ops, netns: u64, ends: &Ends) {
    // SAFETY: as in `sockops::connections`; the entry stays readable until the program ends.
    unsafe {
        let key = ends.arrived();
        let flow = FLOWS.get_ptr_mut(&key);
        if flow.is_none() && !is_late(&key) || PODS.get(&netns).is_none() {
            return count(Why::AcceptUnmarked);
        }
        let Some(flow) = flow.filter(|flow| sockets(*flow).await_a_server()) else {
            tie(ops);
            return count(Why::AcceptLate);
        };
        // Whoever has the pod's address by now is another one.
        if netns != (*flow).server || !follow(ops) {
            tie(ops);
            tell(event(), EVENT_MISLED, &key, flow);
            return count(Why::AcceptMisled);
        }
        (*flow).server_socket = bpf_get_socket_cookie(ops.cast());
        write(&raw mut (*flow).server_state, OPEN);
        let event = event();
        if sockets(flow).client & CLOSED == 0 {
            tell(event, EVENT_OPENED, &key, flow);
        } else if let Some(event) = event {
            event.discard(0);
        }
        count(Why::AcceptDirect);
    }
}

/// Whether the client's socket was gone before the last step of its handshake came: somebody else
/// than the kernel may have made that step.
#[inline(always)]
unsafe fn is_late(key: &Arriving) -> bool {
    // SAFETY: the value is a plain integer, read once.
    unsafe { PROBES.get(key).is_some_and(|at| is_refused(*at, bpf_ktime_get_ns())) }
}

/// A socket changes its state. Says whether it is one of a connection that goes by a verdict.
#[inline(always)]
pub(super) unsafe fn moved(ops: *mut bpf_sock_ops, ends: &Ends) -> bool {
    // SAFETY: as in `sockops::connections`.
    unsafe {
        let socket = bpf_get_socket_cookie(ops.cast());
        let key = ends.arriving();
        if let Some(flow) = FLOWS.get_ptr_mut(&key)
            && (*flow).client_socket == socket
        {
            advance(ops, &key, flow, Side::Client);
            return true;
        }
        let key = ends.arrived();
        if let Some(flow) = FLOWS.get_ptr_mut(&key)
            && (*flow).server_socket == socket
        {
            advance(ops, &key, flow, Side::Server);
            return true;
        }
        false
    }
}

#[inline(always)]
unsafe fn advance(ops: *mut bpf_sock_ops, key: &Arriving, flow: *mut Flow, side: Side) {
    // SAFETY: as in `sockops::connections`; the arguments of this event are the states, old and new.
    unsafe {
        let before = read(&raw const (*ops).__bindgen_anon_1.args[0]);
        let now = read(&raw const (*ops).__bindgen_anon_1.args[1]);
        let state = match side {
            Side::Client => &raw mut (*flow).client_state,
            Side::Server => &raw mut (*flow).server_state,
        };
        if now != tcp::CLOSE {
            write(state, read(state) | news(now));
            return count(Why::FlowOpen);
        }
        let counted = read(&raw const (*ops).bytes_received);
        let received = sockets(flow).received(counted, side, before);
        match side {
            Side::Client => write(&raw mut (*flow).down, received),
            Side::Server => write(&raw mut (*flow).up, received),
        }
        write(state, read(state) | news(now));
        count(Why::FlowClosed);
        end(key, flow, side);
    }
}

/// Both sockets may be gone at the same moment, on two processors. Making an event takes a lock that
/// all share, so that the later of the two sees what the earlier wrote; and an entry is removed once.
#[inline(always)]
unsafe fn end(key: &Arriving, flow: *mut Flow, side: Side) {
    // SAFETY: as in `sockops::connections`; the flow is copied before it is removed.
    unsafe {
        let event = event();
        let both = sockets(flow);
        if side == Side::Client && both.await_a_step(read(&raw const (*flow).admitted)) {
            refuse(key, bpf_ktime_get_ns());
        }
        let Some(kind) = both.ending(side) else {
            if let Some(event) = event {
                event.discard(0);
            }
            return;
        };
        let told = Event { tuple: *key, kind, flow: *flow };
        let removed = FLOWS.remove(key).is_ok();
        match event {
            Some(mut event) if removed => {
                event.write(told);
                event.submit(0);
            }
            Some(event) => event.discard(0),
            None => {}
        }
    }
}

#[inline(always)]
unsafe fn sockets(flow: *const Flow) -> Sockets {
    // SAFETY: the caller's flow is live.
    unsafe {
        Sockets {
            client: read(&raw const (*flow).client_state),
            server: read(&raw const (*flow).server_state),
        }
    }
}

/// Room for an event.
#[inline(always)]
fn event() -> Option<RingBufEntry<Event>> {
    let event = EVENTS.reserve(0);
    if event.is_none() {
        count(Why::EventLost);
    }
    event
}

#[inline(always)]
unsafe fn tell(event: Option<RingBufEntry<Event>>, kind: u32, key: &Arriving, flow: *const Flow) {
    if let Some(mut event) = event {
        // SAFETY: the caller's flow is live.
        event.write(Event { tuple: *key, kind, flow: unsafe { *flow } });
        event.submit(0);
    }
}
