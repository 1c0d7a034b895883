//! Shell: typed view of the kernel's maps; the only writer of their contents.
//! Never: policy, attachment.
use std::{
    collections::{HashMap as Table, HashSet},
    fmt,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::maps::{
    Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, SkStorage, SockMap, lpm_trie,
};
use culvert_ebpf::{
    abi::{
        self, LISTEN_HBONE, LISTEN_PLAIN, LISTENERS_PER_POD, MARK_SIZE, Mark, NODE_CAPTURE_ALL,
        NODE_NETNS, NODE_PREFIXES, POD_SIZE, Pod, ROLE_AGENT, ROLE_CAPTURED, ROLE_LISTENER,
    },
    why::Why,
};
use ipnet::IpNet;

use super::{Error, addresses};
use crate::route::Held;

/// The names of all maps, as the object has them.
pub(super) const NAMES: [&str; 13] = [
    "NODE",
    "PODS",
    "ADDRESSES",
    "MESH",
    "PREFIXES",
    "LISTENERS",
    "HANDSHAKES",
    "PROBES",
    "VERDICTS",
    "FLOWS",
    "EVENTS",
    "COUNTERS",
    "SOCKETS",
];

/// The kernel's maps.
pub(super) struct Maps {
    sockets: SkStorage<MapData, [u8; MARK_SIZE]>,
    socket_writer: Mutex<SkStorage<MapData, [u8; MARK_SIZE]>>,
    counters: PerCpuArray<MapData, u64>,
    tables: Mutex<Tables>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

struct Tables {
    node: Array<MapData, u64>,
    pods: HashMap<MapData, u64, [u8; POD_SIZE]>,
    addresses: HashMap<MapData, [u8; 16], u32>,
    mesh: HashMap<MapData, [u8; 16], u32>,
    prefixes: LpmTrie<MapData, [u8; 16], u32>,
    listeners: SockMap<MapData>,
}

/// The listeners of one pod.
pub(super) struct Listeners<'a, L> {
    pub(super) plain: &'a L,
    pub(super) hbone: &'a L,
}

impl Maps {
    /// Opens the maps that are pinned in `directory`.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let pinned = |map: &'static str| {
            MapData::from_pin(directory.join(map)).map_err(|source| Error::Map { map, source })
        };
        let sockets = |map| {
            pinned(map).and_then(|data| {
                SkStorage::try_from(Map::SkStorage(data))
                    .map_err(|source| Error::Map { map, source })
            })
        };
        Ok(Self {
            sockets: sockets("SOCKETS")?,
            socket_writer: Mutex::new(sockets("SOCKETS")?),
            counters: PerCpuArray::try_from(Map::PerCpuArray(pinned("COUNTERS")?))
                .map_err(named("COUNTERS"))?,
            tables: Mutex::new(Tables {
                node: Array::try_from(Map::Array(pinned("NODE")?)).map_err(named("NODE"))?,
                pods: HashMap::try_from(Map::HashMap(pinned("PODS")?)).map_err(named("PODS"))?,
                addresses: HashMap::try_from(Map::HashMap(pinned("ADDRESSES")?))
                    .map_err(named("ADDRESSES"))?,
                mesh: HashMap::try_from(Map::HashMap(pinned("MESH")?)).map_err(named("MESH"))?,
                prefixes: LpmTrie::try_from(Map::LpmTrie(pinned("PREFIXES")?))
                    .map_err(named("PREFIXES"))?,
                listeners: SockMap::try_from(Map::SockMap(pinned("LISTENERS")?))
                    .map_err(named("LISTENERS"))?,
            }),
        })
    }

    /// Marks a socket with which the agent dials, so that it is never captured. An application
    /// that accepts the connection sees `client` as its peer.
    pub(super) fn mark_dialling(
        &self,
        socket: &impl AsRawFd,
        client: Option<SocketAddr>,
    ) -> Result<(), Error> {
        let mark = client.map_or_else(
            || Mark::new(ROLE_AGENT, [0; 4], 0),
            |client| addresses::mark(ROLE_AGENT, client),
        );
        self.mark(socket, mark)
    }

    /// Marks a socket that is going to listen, so that the kernel tells its namespace.
    pub(super) fn mark_listener(&self, socket: &impl AsRawFd) -> Result<(), Error> {
        self.mark(socket, Mark::new(ROLE_LISTENER, [0; 4], 0))
    }

    /// The cookie of the namespace of a listener that was marked before it listened.
    pub(super) fn netns_of(&self, listener: &impl AsRawFd) -> Result<u64, Error> {
        match self.mark_of(listener) {
            Some(mark) if mark.tag != 0 => Ok(mark.tag),
            _ => Err(Error::Blind),
        }
    }

    /// Where the application wanted to go whose redirected connection this is; `None` when the
    /// connection was not redirected, but came to the agent's listener by itself.
    pub(super) fn original_destination(&self, accepted: &impl AsRawFd) -> Option<SocketAddr> {
        let mark = self.mark_of(accepted)?;
        (mark.role == ROLE_CAPTURED).then(|| addresses::address(&mark))
    }

    /// Tells the kernel which namespace is the node's own.
    pub(super) fn set_node(&self, netns: u64) -> Result<(), Error> {
        self.tables().node.set(NODE_NETNS, netns, 0).map_err(named("NODE"))
    }

    /// Whether every destination of enrolled pods is captured, not only what the mesh knows.
    pub(super) fn set_capture_all(&self, all: bool) -> Result<(), Error> {
        self.tables().node.set(NODE_CAPTURE_ALL, u64::from(all), 0).map_err(named("NODE"))
    }

    /// The pods that the kernel holds for enrolled, by namespace cookie.
    pub(super) fn pods(&self) -> Result<HashSet<u64>, Error> {
        self.tables().pods.keys().collect::<Result<_, _>>().map_err(named("PODS"))
    }

    /// The places of pods' addresses.
    pub(super) fn slots(&self) -> Result<Table<IpAddr, u32>, Error> {
        let tables = self.tables();
        let entry = |entry: Result<([u8; 16], u32), MapError>| {
            entry.map(|(key, slot)| (IpAddr::from(key).to_canonical(), slot))
        };
        tables.addresses.iter().map(entry).collect::<Result<_, _>>().map_err(named("ADDRESSES"))
    }

    /// Puts a pod's listeners in their places.
    pub(super) fn set_listeners<L: AsRawFd>(
        &self,
        slot: u32,
        listeners: &Listeners<'_, L>,
    ) -> Result<(), Error> {
        let mut tables = self.tables();
        let first = slot * LISTENERS_PER_POD;
        tables
            .listeners
            .set(first + LISTEN_PLAIN, listeners.plain, 0)
            .and_then(|()| tables.listeners.set(first + LISTEN_HBONE, listeners.hbone, 0))
            .map_err(named("LISTENERS"))
    }

    /// Gives an address of a pod its place.
    pub(super) fn set_address(&self, address: IpAddr, slot: u32) -> Result<(), Error> {
        self.tables().addresses.insert(addresses::key(address), slot, 0).map_err(named("ADDRESSES"))
    }

    /// Takes an address of a pod away.
    pub(super) fn remove_address(&self, address: IpAddr) -> Result<(), Error> {
        absent_is_fine(self.tables().addresses.remove(&addresses::key(address)))
            .map_err(named("ADDRESSES"))
    }

    /// Starts to capture what the namespace's sockets dial.
    pub(super) fn set_pod(&self, netns: u64, pod: &Pod) -> Result<(), Error> {
        self.tables().pods.insert(netns, pod.to_bytes(), 0).map_err(named("PODS"))
    }

    /// Ends it.
    pub(super) fn remove_pod(&self, netns: u64) -> Result<(), Error> {
        absent_is_fine(self.tables().pods.remove(&netns)).map_err(named("PODS"))
    }

    /// Whether the address is captured.
    pub(super) fn held(&self, address: IpAddr) -> Held {
        let (tables, key) = (self.tables(), addresses::key(address));
        if tables.mesh.get(&key, 0).is_ok() {
            return Held::Itself;
        }
        let within = tables.prefixes.get(&lpm_trie::Key::new(128, key), 0).is_ok();
        if within { Held::InRange } else { Held::No }
    }

    /// Says whether an address is captured.
    pub(super) fn set_mesh(&self, address: IpAddr, is_mesh: bool) -> Result<(), Error> {
        let (mut tables, key) = (self.tables(), addresses::key(address));
        if is_mesh {
            tables.mesh.insert(key, 1, 0).map_err(named("MESH"))
        } else {
            absent_is_fine(tables.mesh.remove(&key)).map_err(named("MESH"))
        }
    }

    /// Adds to the kernel's set of mesh addresses what is `wanted`, and, with `whole`, removes the
    /// rest. Changes only what differs.
    pub(super) fn sync_mesh(&self, wanted: &HashSet<IpAddr>, whole: bool) -> Result<(), Error> {
        let mut tables = self.tables();
        let present: HashSet<IpAddr> = tables
            .mesh
            .keys()
            .map(|key| key.map(|key| IpAddr::from(key).to_canonical()))
            .collect::<Result<_, _>>()
            .map_err(named("MESH"))?;
        for address in wanted.difference(&present) {
            tables.mesh.insert(addresses::key(*address), 1, 0).map_err(named("MESH"))?;
        }
        for address in present.difference(wanted).filter(|_| whole) {
            absent_is_fine(tables.mesh.remove(&addresses::key(*address))).map_err(named("MESH"))?;
        }
        Ok(())
    }

    /// Adds to the kernel's ranges of mesh addresses what is `wanted`, and, with `whole`, removes the
    /// rest.
    pub(super) fn sync_prefixes(
        &self,
        wanted: impl Iterator<Item = IpNet>,
        whole: bool,
    ) -> Result<(), Error> {
        let mut tables = self.tables();
        let wanted: HashSet<([u8; 16], u32)> = wanted.map(|net| prefix(&net)).collect();
        let present: Vec<_> =
            tables.prefixes.keys().collect::<Result<_, _>>().map_err(named("PREFIXES"))?;
        let mut count = wanted.len();
        for (ip, length) in &wanted {
            let key = lpm_trie::Key::new(*length, *ip);
            tables.prefixes.insert(&key, 1, 0).map_err(named("PREFIXES"))?;
        }
        for key in present {
            if wanted.contains(&(key.data(), key.prefix_len())) {
                continue;
            }
            if whole {
                absent_is_fine(tables.prefixes.remove(&key)).map_err(named("PREFIXES"))?;
            } else {
                count += 1;
            }
        }
        tables.node.set(NODE_PREFIXES, count as u64, 0).map_err(named("NODE"))
    }

    /// How often each program ended in each way, over all processors.
    pub(super) fn counters(&self) -> Vec<(&'static str, u64)> {
        let total = |why: Why| {
            self.counters.get(&(why as u32), 0).map_or(0, |values| values.iter().sum::<u64>())
        };
        Why::ALL.into_iter().map(|why| (why.name(), total(why))).collect()
    }

    fn mark(&self, socket: &impl AsRawFd, mark: Mark) -> Result<(), Error> {
        self.socket_writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(socket, mark.to_bytes(), 0)
            .map_err(named("SOCKETS"))
    }

    fn mark_of(&self, socket: &impl AsRawFd) -> Option<Mark> {
        self.sockets.get(socket, 0).ok().map(Mark::from_bytes)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn named(map: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::Map { map, source }
}

/// The kernel's form of a prefix: IPv4 ones lie below `::ffff:0:0/96`.
fn prefix(net: &IpNet) -> ([u8; 16], u32) {
    let length = u32::from(net.prefix_len());
    let shift = if net.addr().is_ipv4() { 96 } else { 0 };
    (addresses::key(net.network()), length + shift)
}

pub(super) fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Number of addresses that `abi` has room for.
pub(super) const MAX_DESTINATIONS: usize = abi::MAX_DESTINATIONS;
