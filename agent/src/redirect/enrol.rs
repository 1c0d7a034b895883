//! Shell: pods of this node come and go; the kernel's maps and the listeners follow.
//! Never: assumes order: every call compares what should be with what is.
use std::{
    collections::{HashMap, HashSet},
    future::Future,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use culvert_ebpf::abi;
use socket2::Socket;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    addresses::words,
    direct::Shortcuts,
    listener::{self, Acceptor, Arrival, Captured, Listeners},
    loader::{Attachment, Settings, remove_other_versions, versioned},
    maps::{self, MAX_DESTINATIONS, Maps},
    netns::Netns,
    pod::LocalPod,
};
use crate::{
    clock,
    discovery::{Protocol, Snapshot, Workload},
    drain::Drain,
    identity::keeper::Lease,
    route::Held,
    workers::Workers,
};

/// How long the listeners of a released pod keep accepting: connections that were on their way when
/// it was released still arrive.
const LINGER: Duration = Duration::from_secs(1);

/// How often the kernel's log is read, in development builds.
const KERNEL_LOG_PAUSE: Duration = Duration::from_millis(100);

/// Enrolled pods of this node, by uid.
pub type LocalPods = HashMap<Arc<str>, Arc<LocalPod>>;

/// The pods of this node that are enrolled, and the kernel's view of the mesh.
#[derive(Debug)]
pub struct Enrolment {
    node: String,
    settings: Settings,
    capture_all: bool,
    crowded: bool,
    /// What the kernel's destinations were made of.
    synced: Option<Snapshot>,
    attachment: Attachment,
    maps: Arc<Maps>,
    pods: LocalPods,
    slots: HashMap<IpAddr, u32>,
    leaving: Vec<(Instant, Vec<IpAddr>)>,
    drain: Drain,
    workers: Workers,
}

impl Enrolment {
    /// Attaches the programs, or adopts those of an earlier agent.
    ///
    /// # Errors
    /// When the kernel cannot capture, or does not see the agent's own sockets.
    pub fn open(
        node: String,
        mut settings: Settings,
        capture_all: bool,
        (drain, workers): (Drain, Workers),
    ) -> Result<Self, Error> {
        settings.congestion_control = listener::available(settings.congestion_control);
        let attachment = Attachment::open(&settings)?;
        let maps = Arc::new(Maps::open(&versioned(&settings.pin))?);
        maps.set_node(listener::node_cookie(&maps)?)?;
        // An earlier agent may have captured all for want of room: that ends with the first whole sync.
        if capture_all {
            maps.set_capture_all(true)?;
        }
        let slots = maps.slots()?;
        let pods = HashMap::new();
        Ok(Self {
            node,
            settings,
            capture_all,
            crowded: false,
            synced: None,
            attachment,
            maps,
            pods,
            slots,
            leaving: Vec::new(),
            drain,
            workers,
        })
    }

    /// What lets pods of this node reach each other without the agent.
    ///
    /// # Errors
    /// When the kernel's maps cannot be opened.
    pub fn shortcuts(&self) -> Result<Shortcuts, Error> {
        Shortcuts::open(&versioned(&self.settings.pin))
    }

    /// Counters of the kernel's programs, for metrics and dumps.
    pub fn counters(&self) -> impl Fn() -> Vec<(&'static str, u64)> + Send + Sync + use<> {
        let maps = self.maps.clone();
        move || maps.counters()
    }

    /// What the kernel takes an address for.
    pub fn held(&self) -> impl Fn(IpAddr) -> Held + Send + Sync + use<> {
        let maps = self.maps.clone();
        move |address| maps.held(address)
    }

    /// Passes on what the kernel's programs log, if they were built to.
    pub fn follow_kernel_log(&self, background: &Drain) {
        let Some(mut log) = self.attachment.kernel_log() else { return };
        background.spawn(async move {
            loop {
                log.flush();
                tokio::time::sleep(KERNEL_LOG_PAUSE).await;
            }
        });
    }

    /// The pods that are enrolled.
    pub fn pods(&self) -> LocalPods {
        self.pods.clone()
    }

    /// Makes kernel and listeners agree with `snapshot`. `hold` gives the certificates of an
    /// identity, `serve` takes each captured connection. Returns the pods that should be enrolled
    /// and are not, with the reason; the caller tries again.
    ///
    /// # Errors
    /// When the kernel's maps cannot be changed.
    pub async fn apply<H, S, F>(
        &mut self,
        snapshot: &Snapshot,
        hold: H,
        serve: S,
    ) -> Result<Vec<(Arc<str>, Error)>, Error>
    where
        H: Fn(&Workload) -> Lease,
        S: Fn(Arc<LocalPod>, Arrival, Captured) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        self.sync_destinations(snapshot)?;
        let wanted = self.wanted(snapshot);
        self.release_unwanted(&wanted)?;
        let mut failed = Vec::new();
        for workload in wanted.values() {
            let earlier = self.pods.get(&workload.uid).cloned();
            if earlier.as_ref().is_some_and(|pod| same_pod(workload, pod)) {
                continue;
            }
            let lease = hold(workload);
            lease.ready().await;
            match self.enrol(workload.clone(), lease) {
                Ok((pod, listeners)) => {
                    self.serve(&pod, listeners, &serve)?;
                    earlier.map_or(Ok(()), |earlier| self.supersede(earlier, &pod))?;
                }
                Err(error) => failed.push((workload.uid.clone(), error)),
            }
        }
        // While a file was never read whole, nobody can say which pods should be gone: those that
        // an earlier agent enrolled stay closed rather than open.
        if !snapshot.is_partial() && failed.is_empty() {
            self.release_orphans()?;
        }
        Ok(failed)
    }

    /// Whether every enrolled pod still has the namespace that it was enrolled with.
    pub fn is_current(&self) -> bool {
        let current = |pod: &Arc<LocalPod>| {
            let path = pod.workload.netns.as_ref();
            path.is_none_or(|path| same_file(path, pod.netns.file()))
        };
        self.pods.values().all(current)
    }

    /// What a damaged folder no longer names may still be of the mesh, and stays captured. With more
    /// destinations than the kernel has room for, all are captured. Takes time for what changed.
    fn sync_destinations(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        let crowded = snapshot.count_addresses() > MAX_DESTINATIONS;
        if crowded != self.crowded {
            tracing::warn!(
                limit = MAX_DESTINATIONS,
                crowded,
                "more destinations than the kernel has room for: every connection of enrolled pods is captured"
            );
            self.crowded = crowded;
        }
        if crowded {
            self.maps.set_capture_all(true)?;
        }
        let (earlier, whole) = (self.synced.take(), !snapshot.is_partial());
        let same_kind = |earlier: &Snapshot| earlier.is_partial() != whole;
        match earlier.filter(same_kind) {
            _ if crowded => return Ok(()),
            Some(earlier) => {
                let changed = snapshot.addresses_changed_since(&earlier);
                let changed = changed.map(|address| (address, snapshot.has_address(address)));
                for (address, is_mesh) in changed.filter(|(_, is_mesh)| *is_mesh || whole) {
                    self.maps.set_mesh(address, is_mesh)?;
                }
            }
            None => self.maps.sync_mesh(&snapshot.addresses().collect(), whole)?,
        }
        self.maps.sync_prefixes(snapshot.ranges(), whole)?;
        self.maps.set_capture_all(self.capture_all)?;
        self.synced = Some(snapshot.clone());
        Ok(())
    }

    fn wanted(&self, snapshot: &Snapshot) -> HashMap<Arc<str>, Arc<Workload>> {
        snapshot
            .workloads_on(&self.node)
            .filter(|workload| workload.protocol == Protocol::Hbone)
            .filter(|workload| !workload.addresses.is_empty())
            .map(|workload| (workload.uid.clone(), workload.clone()))
            .collect()
    }

    fn release_unwanted(&mut self, wanted: &HashMap<Arc<str>, Arc<Workload>>) -> Result<(), Error> {
        let unwanted = |pod: &&Arc<LocalPod>| !wanted.contains_key(pod.uid());
        let gone: Vec<_> = self.pods.values().filter(unwanted).cloned().collect();
        for pod in gone {
            self.pods.remove(pod.uid());
            self.release(pod.cookie, &pod.workload.addresses)?;
            tracing::info!(pod = %pod.uid(), "pod released");
            self.retire(pod);
        }
        Ok(())
    }

    /// Ends what `pod`, enrolled by now, has taken over. At no moment was the pod open.
    fn supersede(&mut self, earlier: Arc<LocalPod>, pod: &LocalPod) -> Result<(), Error> {
        if earlier.cookie == pod.cookie {
            self.forget(&earlier.workload.addresses)?;
        } else {
            self.release(earlier.cookie, &earlier.workload.addresses)?;
        }
        self.retire(earlier);
        Ok(())
    }

    /// Connections that are on their way still arrive.
    fn retire(&self, pod: Arc<LocalPod>) {
        self.drain.spawn(async move {
            tokio::time::sleep(LINGER).await;
            pod.released.cancel();
        });
    }

    /// Releases what an earlier agent enrolled and nobody wants.
    fn release_orphans(&mut self) -> Result<(), Error> {
        let known: HashSet<u64> = self.pods.values().map(|pod| pod.cookie).collect();
        let owned: HashSet<IpAddr> =
            self.pods.values().flat_map(|pod| pod.workload.addresses.iter().copied()).collect();
        let orphaned: Vec<_> =
            self.slots.keys().filter(|address| !owned.contains(address)).copied().collect();
        let mut found = self.maps.pods()?;
        found.extend(self.attachment.pods()?);
        for cookie in found.difference(&known) {
            self.release(*cookie, &[])?;
        }
        self.leaving.push((clock::now() + LINGER, orphaned));
        remove_other_versions(&self.settings.pin)
    }

    /// The reverse order of enrolment: nothing is captured before nothing is steered. The kernel
    /// detaches a link some time after it was told to, and until then must find the pod.
    fn release(&mut self, cookie: u64, addresses: &[IpAddr]) -> Result<(), Error> {
        self.maps.remove_pod(cookie)?;
        self.attachment.detach_pod(cookie)?;
        self.leaving.push((clock::now() + LINGER, addresses.to_vec()));
        Ok(())
    }

    /// Forgets the addresses of pods that were released a while ago.
    ///
    /// # Errors
    /// When the kernel's maps cannot be changed.
    pub fn forget_released(&mut self) -> Result<(), Error> {
        let now = clock::now();
        let due: Vec<_> = self.leaving.extract_if(.., |(at, _)| *at <= now).collect();
        due.iter().try_for_each(|(_, addresses)| self.forget(addresses))
    }

    /// Except what another pod has by now: addresses wander.
    fn forget(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let owned: HashSet<IpAddr> =
            self.pods.values().flat_map(|pod| pod.workload.addresses.iter().copied()).collect();
        for address in addresses.iter().filter(|address| !owned.contains(address)) {
            self.maps.remove_address(*address)?;
            self.slots.remove(address);
        }
        Ok(())
    }

    /// Listeners first, then steering, then capture: at no moment is a connection taken to where
    /// nobody listens.
    fn enrol(
        &mut self,
        workload: Arc<Workload>,
        credentials: Lease,
    ) -> Result<(Arc<LocalPod>, Listeners), Error> {
        self.check_cgroup(&workload)?;
        let path = workload.netns.clone().ok_or(Error::NoNamespace)?;
        let netns = Netns::open(&path)
            .map_err(|source| Error::file("open the network namespace", &path, source))?;
        reuse_waiting_ports(&netns);
        let listeners =
            Listeners::open(&self.maps, &netns, self.settings.congestion_control.as_deref())?;
        let slot = self.slot(&workload.addresses)?;
        let (plain, hbone) = (&listeners.plain, &listeners.hbone);
        self.maps.set_listeners(slot, &maps::Listeners { plain, hbone })?;
        for address in &workload.addresses {
            self.maps.set_address(*address, slot)?;
            self.slots.insert(*address, slot);
        }
        self.attachment.attach_pod(listeners.netns_cookie, &netns)?;
        let ports = listeners.ports()?;
        let entry = entry(&workload, ports[0]);
        self.maps.set_pod(listeners.netns_cookie, &entry)?;
        let pod = LocalPod {
            cookie: listeners.netns_cookie,
            workload,
            credentials,
            netns,
            ports,
            maps: self.maps.clone(),
            congestion: self.settings.congestion_control.clone(),
            released: CancellationToken::new(),
        };
        Ok((Arc::new(pod), listeners))
    }

    fn serve<S, F>(
        &mut self,
        pod: &Arc<LocalPod>,
        listeners: Listeners,
        serve: &S,
    ) -> Result<(), Error>
    where
        S: Fn(Arc<LocalPod>, Arrival, Captured) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        for (socket, arrival) in [
            (listeners.outbound, Arrival::Outbound),
            (listeners.plain, Arrival::Plain),
            (listeners.hbone, Arrival::Hbone),
        ] {
            let home = self.workers.home(pod.cookie);
            let listener = {
                let _entered = home.enter();
                in_runtime(socket)?
            };
            let acceptor = Acceptor {
                pod: pod.clone(),
                arrival,
                drain: self.drain.clone(),
                workers: self.workers.clone(),
                serve: serve.clone(),
            };
            self.drain.spawn_on(home, acceptor.accept(listener));
        }
        tracing::info!(pod = %pod.uid(), identity = %pod.workload.identity, "pod enrolled");
        self.pods.insert(pod.uid().clone(), pod.clone());
        Ok(())
    }

    /// The pod's place among the listeners: the one that its address has already, or the first free.
    fn slot(&self, addresses: &[IpAddr]) -> Result<u32, Error> {
        if let Some(slot) = addresses.iter().find_map(|address| self.slots.get(address)) {
            return Ok(*slot);
        }
        let taken: HashSet<u32> = self.slots.values().copied().collect();
        let limit = u32::try_from(abi::MAX_PODS).unwrap_or(u32::MAX);
        (0..limit).find(|slot| !taken.contains(slot)).ok_or(Error::Full(abi::MAX_PODS))
    }

    fn check_cgroup(&self, workload: &Workload) -> Result<(), Error> {
        match &workload.cgroup {
            Some(cgroup) if !cgroup.starts_with(&self.settings.pods_cgroup) => {
                Err(Error::OutsideCgroup {
                    cgroup: cgroup.display().to_string(),
                    watched: self.settings.pods_cgroup.display().to_string(),
                })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The pod as the kernel is to know it.
fn entry(workload: &Workload, outbound_port: u16) -> abi::Pod {
    let first = |v4: bool| {
        let mut own = workload.addresses.iter().filter(|address| address.is_ipv4() == v4);
        own.next().map_or([0; 4], |address| words(*address))
    };
    abi::Pod {
        ip4: first(true),
        ip6: first(false),
        outbound_port: outbound_port.to_be(),
        reserved: 0,
    }
}

/// Whether an enrolled pod is what the manifests now describe. A namespace that was made anew under
/// the same path is another pod.
fn same_pod(now: &Workload, pod: &LocalPod) -> bool {
    let then = &pod.workload;
    now.addresses == then.addresses
        && now.identity == then.identity
        && now.netns == then.netns
        && now.netns.as_ref().is_none_or(|path| same_file(path, pod.netns.file()))
}

fn same_file(path: &PathBuf, open: &std::fs::File) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (std::fs::metadata(path), open.metadata()) {
        (Ok(now), Ok(then)) => now.ino() == then.ino() && now.dev() == then.dev(),
        // The path is gone for the moment: the pod is too, or will be back.
        (Err(_), _) | (_, Err(_)) => true,
    }
}

/// All the agent's connections to an application share three of four numbers. Waiting ports
/// (TIME_WAIT) must be reused, or a busy pod runs out of them.
fn reuse_waiting_ports(netns: &Netns) {
    let written = netns.within(|| std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1"));
    if let Err(error) = written.and_then(std::convert::identity) {
        tracing::warn!(%error, "cannot set net.ipv4.tcp_tw_reuse in a pod: connection rates above 500 per second will fail");
    }
}

fn in_runtime(socket: Socket) -> Result<TcpListener, Error> {
    TcpListener::from_std(socket.into()).map_err(|source| Error::File {
        what: "register a listener",
        path: String::new(),
        source,
    })
}
