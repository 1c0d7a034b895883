//! Shell: the choice of the listening socket for a new connection, in the namespaces of enrolled
//! pods. Connections from outside go to the agent, whatever their port.
//! Fails closed: without an agent they are refused.
use core::ptr::read_volatile as read;

use aya_ebpf::{
    bindings::bpf_sk_lookup, helpers::generated::bpf_ktime_get_ns, macros::sk_lookup,
    programs::SkLookupContext,
};
use culvert_ebpf::{
    abi::{Arriving, Ip, LISTEN_HBONE, LISTEN_PLAIN, LISTENERS_PER_POD, MAPPED, direct::Flow},
    decide::{Exemption, Steer, is_refused, probe_holds, steer as decide},
    flow::Sockets,
    why::Why,
};

use super::{
    count::count,
    maps::{ADDRESSES, FLOWS, LISTENERS, PROBES, VERDICTS},
};

const PASS: u32 = 1;
const DROP: u32 = 0;
const TCP: u32 = 6;
const AF_INET: u32 = 2;
const ENOENT: i32 = -2;

#[sk_lookup]
pub(super) fn steer(ctx: SkLookupContext) -> u32 {
    // SAFETY: the kernel passes a valid context.
    unsafe {
        let lookup = ctx.lookup;
        if read(&raw const (*lookup).protocol) != TCP {
            count(Why::LookupOtherProtocol);
            return PASS;
        }
        let (remote, local) = addresses(lookup);
        let local_port = read(&raw const (*lookup).local_port) as u16;
        let arriving = Arriving {
            remote,
            local,
            remote_port: read(&raw const (*lookup).remote_port),
            local_port: local_port.to_be(),
        };
        let slot_of = |address: &Ip| ADDRESSES.get(address).copied();
        match decide(&remote, &local, local_port, slot_of, || exemption(&arriving)) {
            Steer::Pass(why) => {
                count(why);
                PASS
            }
            Steer::Drop(why) => {
                count(why);
                DROP
            }
            Steer::Agent { slot, hbone } => assign(&ctx, slot, hbone),
        }
    }
}

/// A connection that went by a verdict is let in while that verdict is there: the agent takes it
/// away before it ends what is open. That its time is over says nothing here, it was not when the
/// SYN left for the first time.
#[inline(always)]
unsafe fn exemption(arriving: &Arriving) -> Exemption {
    // SAFETY: values are plain integers, and an entry that is replaced meanwhile fails the checks.
    unsafe {
        if let Some(at) = PROBES.get(arriving) {
            let now = bpf_ktime_get_ns();
            if is_refused(*at, now) {
                return Exemption::Revoked;
            }
            if probe_holds(*at, now) {
                return Exemption::Probe;
            }
        }
        let Some(flow) = FLOWS.get_ptr_mut(arriving) else {
            return Exemption::None;
        };
        if !awaited(&*flow) {
            return Exemption::None;
        }
        match VERDICTS.get(&(*flow).dialled()) {
            Some(verdict) if verdict.number == (*flow).number => {
                (*flow).admitted = 1;
                Exemption::Direct
            }
            Some(_) | None => Exemption::Revoked,
        }
    }
}

#[inline(always)]
fn awaited(flow: &Flow) -> bool {
    Sockets { client: flow.client_state, server: flow.server_state }.await_a_server()
}

#[inline(always)]
fn assign(ctx: &SkLookupContext, slot: u32, hbone: bool) -> u32 {
    let role = if hbone { LISTEN_HBONE } else { LISTEN_PLAIN };
    let (why, verdict) = match LISTENERS.redirect_sk_lookup(ctx, slot * LISTENERS_PER_POD + role, 0)
    {
        Ok(()) if hbone => (Why::LookupHbone, PASS),
        Ok(()) => (Why::LookupPlain, PASS),
        Err(ENOENT) => (Why::LookupNoAgent, DROP),
        Err(_) => (Why::LookupAssignFailed, DROP),
    };
    #[cfg(feature = "log")]
    aya_log_ebpf::info!(ctx, "steered to the listener {} of pod {}", role, slot);
    count(why);
    verdict
}

/// Remote and local address. Both families are read always, for the reason given in `sockops`.
#[inline(always)]
unsafe fn addresses(lookup: *mut bpf_sk_lookup) -> (Ip, Ip) {
    // SAFETY: the caller's context; the kernel allows wide addresses word by word only.
    unsafe {
        let v4 = (read(&raw const (*lookup).remote_ip4), read(&raw const (*lookup).local_ip4));
        let remote = [
            read(&raw const (*lookup).remote_ip6[0]),
            read(&raw const (*lookup).remote_ip6[1]),
            read(&raw const (*lookup).remote_ip6[2]),
            read(&raw const (*lookup).remote_ip6[3]),
        ];
        let local = [
            read(&raw const (*lookup).local_ip6[0]),
            read(&raw const (*lookup).local_ip6[1]),
            read(&raw const (*lookup).local_ip6[2]),
            read(&raw const (*lookup).local_ip6[3]),
        ];
        if read(&raw const (*lookup).family) == AF_INET {
            ([0, 0, MAPPED, v4.0], [0, 0, MAPPED, v4.1])
        } else {
            (remote, local)
        }
    }
}
