//! Shell: every map, and access to the marks of sockets.
//! Never: a map declared elsewhere.
use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage, SockMap},
    helpers::generated::bpf_sk_storage_get,
    macros::btf_map,
};
use culvert_ebpf::{
    abi::{
        Arriving, EVENT_BYTES, Handshake, Ip, LISTENERS_PER_POD, MAX_DESTINATIONS, MAX_FLOWS,
        MAX_HANDSHAKES, MAX_PODS, MAX_PROBES, MAX_VERDICTS, Mark, NODE_ENTRIES, Note, Pod,
        direct::{Dialled, Event, Flow, Verdict},
    },
    why,
};

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

/// Facts about the node, by the `NODE_` values.
#[btf_map]
pub(super) static NODE: Array<u64, NODE_ENTRIES> = Array::new();

/// Enrolled pods by the cookie of their network namespace.
#[btf_map]
pub(super) static PODS: HashMap<u64, Pod, MAX_PODS, NO_PREALLOC> = HashMap::new();

/// Enrolled pods' addresses → their place among the listeners.
#[btf_map]
pub(super) static ADDRESSES: HashMap<Ip, u32, { MAX_PODS * 2 }, NO_PREALLOC> = HashMap::new();

/// Addresses that the mesh knows.
#[btf_map]
pub(super) static MESH: HashMap<Ip, u32, MAX_DESTINATIONS, NO_PREALLOC> = HashMap::new();

/// Prefixes that the mesh knows; asked after `MESH`. The value is 1, or 0 for an exception.
#[btf_map]
pub(super) static PREFIXES: LpmTrie<[u8; 16], u32, MAX_DESTINATIONS> = LpmTrie::new();

/// The agent's listeners, two per pod.
#[btf_map]
pub(super) static LISTENERS: SockMap<{ MAX_PODS * LISTENERS_PER_POD as usize }> = SockMap::new();

/// Connections between SYN and accept inside pods.
#[btf_map]
pub(super) static HANDSHAKES: LruHashMap<Handshake, Note, MAX_HANDSHAKES> = LruHashMap::new();

/// Connections that node processes hold to enrolled pods, with the time of their SYN.
#[btf_map]
pub(super) static PROBES: LruHashMap<Arriving, u64, MAX_PROBES> = LruHashMap::new();

/// What pods may dial by themselves, because the agent decided so.
#[btf_map]
pub(super) static VERDICTS: HashMap<Dialled, Verdict, MAX_VERDICTS, NO_PREALLOC> = HashMap::new();

/// Connections that are open by verdicts. None may be forgotten, so the oldest do not make room.
#[btf_map]
pub(super) static FLOWS: HashMap<Arriving, Flow, MAX_FLOWS, NO_PREALLOC> = HashMap::new();

/// What the agent is told of them.
#[btf_map]
pub(super) static EVENTS: RingBuf<Event, EVENT_BYTES> = RingBuf::new();

/// Exits by reason.
#[btf_map]
pub(super) static COUNTERS: PerCpuArray<u64, { why::COUNTERS }> = PerCpuArray::new();

/// Marks of sockets. They go with their socket.
#[btf_map]
static SOCKETS: SkStorage<Mark> = SkStorage::new();

/// The socket's mark, if it has one.
///
/// # Safety
/// `socket` is a socket pointer of the running program's context, not null.
#[inline(always)]
pub(super) unsafe fn mark_of(socket: *mut c_void) -> Option<*mut Mark> {
    // SAFETY: as the caller promises; the map is a socket storage.
    let mark = unsafe { bpf_sk_storage_get(storage(), socket, core::ptr::null_mut(), 0) };
    (!mark.is_null()).then_some(mark.cast())
}

/// The socket's mark, made if it has none; `None` when the kernel has no memory for it.
///
/// # Safety
/// As for [`mark_of`].
#[inline(always)]
pub(super) unsafe fn mark_or_new(socket: *mut c_void) -> Option<*mut Mark> {
    let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: as the caller promises; the map is a socket storage.
    let mark = unsafe { bpf_sk_storage_get(storage(), socket, core::ptr::null_mut(), create) };
    (!mark.is_null()).then_some(mark.cast())
}

fn storage() -> *mut c_void {
    core::ptr::from_ref(&SOCKETS).cast_mut().cast()
}
