//! Shell: `getpeername()` and the address that `accept()` returns, for sockets of pods. A
//! redirected client sees the address that it dialled, a server sees its true client.
use core::{
    ffi::c_void,
    ptr::{read_volatile as read, write_volatile as write},
};

use aya_ebpf::{bindings::bpf_sock_addr, macros::cgroup_sock_addr, programs::SockAddrContext};
use culvert_ebpf::{
    abi::{Mark, ROLE_DIALLED, ROLE_DIRECT, ROLE_PRESENTED},
    decide::is_mapped,
    why::Why,
};

use super::{count::count, maps::mark_of};

const PASS: i32 = 1;

#[cgroup_sock_addr(getpeername4)]
pub(super) fn getpeername4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel passes a valid context.
    unsafe {
        if let Some(mark) = presented(ctx.sock_addr)
            && is_mapped(&(*mark).ip)
        {
            write(&raw mut (*ctx.sock_addr).user_ip4, (*mark).ip[3]);
            write(&raw mut (*ctx.sock_addr).user_port, u32::from((*mark).port));
        }
    }
    PASS
}

#[cgroup_sock_addr(getpeername6)]
pub(super) fn getpeername6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel passes a valid context; it allows wide addresses word by word only.
    unsafe {
        if let Some(mark) = presented(ctx.sock_addr) {
            let address = &raw mut (*ctx.sock_addr).user_ip6;
            let set = |i: usize, word: u32| write((&raw mut (*address)[i]).cast::<u32>(), word);
            set(0, (*mark).ip[0]);
            set(1, (*mark).ip[1]);
            set(2, (*mark).ip[2]);
            set(3, (*mark).ip[3]);
            write(&raw mut (*ctx.sock_addr).user_port, u32::from((*mark).port));
        }
    }
    PASS
}

/// The mark whose address the application is to see, if there is one.
#[inline(always)]
unsafe fn presented(sa: *mut bpf_sock_addr) -> Option<*mut Mark> {
    // SAFETY: `sk` is checked for null; the mark is live while its socket is.
    unsafe {
        let socket = read(&raw const (*sa).__bindgen_anon_1.sk).cast::<c_void>();
        let mark = if socket.is_null() { None } else { mark_of(socket) };
        let why = match mark.map(|mark| (*mark).role) {
            Some(ROLE_DIALLED | ROLE_DIRECT) => Why::PeerDialled,
            Some(ROLE_PRESENTED) => Why::PeerClient,
            _ => Why::PeerUnmarked,
        };
        count(why);
        if matches!(why, Why::PeerUnmarked) { None } else { mark }
    }
}
