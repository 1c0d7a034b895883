//! Shell: the agent's verdicts about connections between pods of this node, on which the kernel acts
//! by itself, and what it tells about them.
//! Never: decides who may connect.
use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use culvert_ebpf::{
    abi::{
        Arriving, NODE_CROWDED,
        direct::{
            DIALLED_SIZE, Dialled, EVENT_FINISHED, EVENT_MISLED, EVENT_OPENED,
            EVENT_RESET_BY_CLIENT, EVENT_RESET_BY_SERVER, EVENT_SIZE, EVENT_UNREACHED, Event,
            FLOW_SIZE, Flow, VERDICT_NS, VERDICT_SIZE, Verdict,
        },
    },
    why::Why,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Error, LocalPod,
    addresses::{joined, words},
    maps::{absent_is_fine, named},
};
use crate::clock;

/// A connection that went by a verdict.
#[derive(Clone, Debug)]
pub struct DirectFlow {
    /// The verdict's number.
    pub number: u64,
    /// The client's address.
    pub source: SocketAddr,
    /// The server's address.
    pub endpoint: SocketAddr,
    /// Bytes of the client that reached the server.
    pub up: u64,
    /// Bytes of the server that reached the client.
    pub down: u64,
    /// Nanoseconds since its SYN.
    pub age: u64,
    /// Whether the client's socket was established.
    pub was_open: bool,
    /// Whether the server's socket was.
    pub was_accepted: bool,
    /// The namespaces of client and server.
    namespaces: [u64; 2],
    /// Their sockets; the server's is 0 until there is one.
    sockets: [u64; 2],
}

/// One side's socket of such a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// Its own address.
    pub(super) local: SocketAddr,
    /// The other side's.
    pub(super) remote: SocketAddr,
    /// What tells it from any other socket.
    pub(super) socket: u64,
}

/// What became of such a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectEvent {
    /// Both sides are established.
    Opened,
    /// Both sides said that they were done.
    Finished,
    /// The client's side broke it.
    ResetByClient,
    /// The server's side broke it.
    ResetByServer,
    /// It never came about.
    Unreached,
    /// It reached another pod than the verdict's.
    Misled,
}

/// What a verdict is about: who dials what, and where that is.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// The pod that dials.
    pub source: &'a LocalPod,
    /// What it dials.
    pub dialled: SocketAddr,
    /// The pod that serves.
    pub server: &'a LocalPod,
    /// Its address.
    pub endpoint: SocketAddr,
}

/// The kernel's maps of verdicts and of the connections that are open by them.
pub struct Shortcuts {
    directory: PathBuf,
    counters: PerCpuArray<MapData, u64>,
    node: Mutex<Array<MapData, u64>>,
    tables: Mutex<Tables>,
}

struct Tables {
    verdicts: HashMap<MapData, [u8; DIALLED_SIZE], [u8; VERDICT_SIZE]>,
    flows: HashMap<MapData, [u8; size_of::<Arriving>()], [u8; FLOW_SIZE]>,
}

impl fmt::Debug for Shortcuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shortcuts").finish_non_exhaustive()
    }
}

impl Shortcuts {
    /// Opens the maps that are pinned in `directory`, and takes away what an earlier agent left.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let mut verdicts = HashMap::try_from(Map::HashMap(pinned(directory, "VERDICTS")?))
            .map_err(named("VERDICTS"))?;
        let earlier: Vec<[u8; DIALLED_SIZE]> =
            verdicts.keys().collect::<Result<_, _>>().map_err(named("VERDICTS"))?;
        for key in earlier {
            absent_is_fine(verdicts.remove(&key)).map_err(named("VERDICTS"))?;
        }
        let flows = HashMap::try_from(Map::HashMap(pinned(directory, "FLOWS")?));
        let flows = flows.map_err(named("FLOWS"))?;
        let counters = PerCpuArray::try_from(Map::PerCpuArray(pinned(directory, "COUNTERS")?))
            .map_err(named("COUNTERS"))?;
        let node =
            Array::try_from(Map::Array(pinned(directory, "NODE")?)).map_err(named("NODE"))?;
        let (directory, node) = (directory.to_owned(), Mutex::new(node));
        Ok(Self { directory, counters, node, tables: Mutex::new(Tables { verdicts, flows }) })
    }

    /// What the kernel tells from now on.
    ///
    /// # Errors
    /// When the ring cannot be opened.
    #[expect(deprecated, reason = "the ring owns its file, which is what the newer way asks for")]
    pub fn events(&self) -> Result<Events, Error> {
        let ring = RingBuf::try_from(Map::RingBuf(pinned(&self.directory, "EVENTS")?))
            .map_err(named("EVENTS"))?;
        let ring = AsyncFd::with_interest(ring, Interest::READABLE);
        ring.map(Events).map_err(|source| Error::File {
            what: "wait for events of the kernel",
            path: String::new(),
            source,
        })
    }

    /// Lets the pod reach the other one by itself, for a while.
    ///
    /// # Errors
    /// When there is no room.
    pub fn leave(&self, way: &Way<'_>, number: u64) -> Result<(), Error> {
        let verdict = Verdict {
            number,
            expires: clock::kernel() + VERDICT_NS,
            server: way.server.cookie,
            ip: words(way.endpoint.ip()),
            port: way.endpoint.port().to_be(),
            reserved: [0; 3],
        };
        let key = key(way.source, way.dialled);
        self.tables().verdicts.insert(key, verdict.to_bytes(), 0).map_err(named("VERDICTS"))
    }

    /// Ends it for new connections, also for those of which only the SYN has left.
    ///
    /// # Errors
    /// When the map cannot be changed.
    pub fn withdraw(&self, source: &LocalPod, dialled: SocketAddr) -> Result<(), Error> {
        absent_is_fine(self.tables().verdicts.remove(&key(source, dialled)))
            .map_err(named("VERDICTS"))
    }

    /// The connections whose client's socket is there.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn flows(&self) -> Result<Vec<DirectFlow>, Error> {
        let tables = self.tables();
        let mut flows = Vec::new();
        for key in tables.flows.keys() {
            let key = key.map_err(named("FLOWS"))?;
            // One that ends meanwhile is gone.
            if let Ok(value) = tables.flows.get(&key, 0) {
                flows.push(described(&Arriving::from_bytes(&key), &Flow::from_bytes(&value)));
            }
        }
        Ok(flows)
    }

    /// Whether the kernel leaves verdicts alone, because there was no room for another connection.
    pub fn is_crowded(&self) -> bool {
        self.node().get(&NODE_CROWDED, 0).is_ok_and(|crowded| crowded != 0)
    }

    /// Lets it look at verdicts again.
    ///
    /// # Errors
    /// When the map cannot be changed.
    pub fn reopen(&self) -> Result<(), Error> {
        self.node().set(NODE_CROWDED, 0, 0).map_err(named("NODE"))
    }

    /// Events that the kernel had no room for, ever.
    pub fn lost(&self) -> u64 {
        let lost = self.counters.get(&(Why::EventLost as u32), 0);
        lost.map_or(0, |values| values.iter().sum())
    }

    fn node(&self) -> MutexGuard<'_, Array<MapData, u64>> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DirectFlow {
    /// Whether one of its sockets is this pod's.
    pub fn is_of(&self, pod: &LocalPod) -> bool {
        self.namespaces.contains(&pod.cookie)
    }

    /// What tells its client's socket from any other.
    pub fn id(&self) -> u64 {
        self.sockets[0]
    }

    /// Its sockets in this namespace.
    pub(super) fn ends_in(&self, namespace: u64) -> impl Iterator<Item = End> {
        let [client, server] = self.sockets;
        let ends = [
            End { local: self.source, remote: self.endpoint, socket: client },
            End { local: self.endpoint, remote: self.source, socket: server },
        ];
        let there =
            move |(end, own): (End, u64)| (own == namespace && end.socket != 0).then_some(end);
        ends.into_iter().zip(self.namespaces).filter_map(there)
    }
}

/// What the kernel tells.
pub struct Events(AsyncFd<RingBuf<MapData>>);

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Waits for the next ones, at most `most`.
    ///
    /// # Errors
    /// When nothing more will come.
    pub async fn next(&mut self, most: usize) -> io::Result<Vec<(DirectEvent, DirectFlow)>> {
        loop {
            let mut ready = self.0.readable_mut().await?;
            let events = take(ready.get_inner_mut(), most);
            if events.len() < most {
                ready.clear_ready();
            }
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

fn take(ring: &mut RingBuf<MapData>, most: usize) -> Vec<(DirectEvent, DirectFlow)> {
    let mut events = Vec::new();
    while events.len() < most
        && let Some(item) = ring.next()
    {
        let bytes = <&[u8; EVENT_SIZE]>::try_from(&*item).ok();
        events.extend(bytes.map(Event::from_bytes).and_then(|event| told(&event)));
    }
    events
}

fn told(event: &Event) -> Option<(DirectEvent, DirectFlow)> {
    let kind = match event.kind {
        EVENT_OPENED => DirectEvent::Opened,
        EVENT_FINISHED => DirectEvent::Finished,
        EVENT_RESET_BY_CLIENT => DirectEvent::ResetByClient,
        EVENT_RESET_BY_SERVER => DirectEvent::ResetByServer,
        EVENT_UNREACHED => DirectEvent::Unreached,
        EVENT_MISLED => DirectEvent::Misled,
        _ => return None,
    };
    Some((kind, described(&event.tuple, &event.flow)))
}

fn described(tuple: &Arriving, flow: &Flow) -> DirectFlow {
    let open = culvert_ebpf::flow::OPEN;
    DirectFlow {
        number: flow.number,
        source: joined(tuple.remote, tuple.remote_port),
        endpoint: joined(tuple.local, tuple.local_port),
        up: flow.up,
        down: flow.down,
        age: clock::kernel().saturating_sub(flow.opened),
        was_open: flow.client_state & open != 0,
        was_accepted: flow.server_state & open != 0,
        namespaces: [flow.client, flow.server],
        sockets: [flow.client_socket, flow.server_socket],
    }
}

fn key(source: &LocalPod, dialled: SocketAddr) -> [u8; DIALLED_SIZE] {
    Dialled::new(source.cookie, words(dialled.ip()), dialled.port().to_be()).to_bytes()
}

fn pinned(directory: &Path, map: &'static str) -> Result<MapData, Error> {
    MapData::from_pin(directory.join(map)).map_err(named(map))
}
