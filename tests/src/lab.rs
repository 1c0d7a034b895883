//! Shell: nodes, pods and their manifests; torn down when dropped, also after a panic.
//! Never: a sleep in a test: tests wait for conditions with [`until`].
//!
//! Node `i` (from 1) has the address 172.31.0.i and fd00:ff::i on the wire; its pods are in
//! 10.i.0.0/24 and fd00:i::/64, from 10 on.
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    Agent, Capture, Factory,
    system::{self, NETNS, cgroup2, ip, sysctl},
};

/// How long [`until`] waits before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A lab of its own: nodes on a wire.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    folder: PathBuf,
    cgroup: PathBuf,
    /// The nodes, the first being number 1.
    pub nodes: Vec<Node>,
}

/// A machine of the cluster.
#[derive(Debug)]
pub struct Node {
    /// Its name, `n1` and so on.
    pub name: String,
    /// Processes of the node itself.
    pub host: Factory,
    /// Processes in the node's namespace that the agent does not know for the node's.
    pub outsider: Factory,
    pods: AtomicU32,
    prefix: String,
    cgroup: PathBuf,
    number: u8,
}

/// What is special about a pod.
#[derive(Clone, Debug)]
pub struct PodSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its service account.
    pub account: &'a str,
    /// Its labels.
    pub labels: &'a [(&'a str, &'a str)],
}

/// A pod: a namespace and control group of its own, and a process inside.
#[derive(Debug)]
pub struct Pod {
    /// Makes sockets inside the pod.
    pub inside: Arc<Factory>,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Name of the pod.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    account: String,
    node: String,
    index: u32,
    netns: PathBuf,
    cgroup: PathBuf,
}

impl Lab {
    /// A wire with `count` nodes, and an empty folder of manifests.
    ///
    /// # Errors
    /// Names what this machine lacks.
    pub fn new(count: u8) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        system::preflight()?;
        sweep_dead();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("cv{}-{number}-", std::process::id());
        let folder = std::env::temp_dir().join(format!("{prefix}lab"));
        let cgroup = cgroup2()?.join(format!("{prefix}lab"));
        fs::create_dir_all(folder.join("manifests"))?;
        fs::create_dir_all(&cgroup)?;
        // From here on dropping removes whatever was made.
        let mut lab = Self { prefix, folder, cgroup, nodes: Vec::new() };
        lab.wire(count)?;
        for number in 1..=count {
            let node = lab.node(number)?;
            lab.nodes.push(node);
        }
        Ok(lab)
    }

    /// What the names of everything that belongs to this lab begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The file of the certificate authority that all agents share.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The folder of manifests that all agents read.
    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// A pod on node `number`, with its manifest.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn pod(&self, number: usize, spec: &PodSpec<'_>) -> Result<Pod> {
        let node = self.nodes.get(number - 1).context("no such node")?;
        let pod = node.pod(spec)?;
        self.declare(&pod, spec.labels)?;
        Ok(pod)
    }

    /// The same pod once more, in a new network namespace under the old path, as after a restart of
    /// its sandbox. Its manifest says nothing of it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn renew(&self, pod: Pod) -> Result<Pod> {
        let node = self.nodes.iter().find(|node| node.name == pod.node).context("no such node")?;
        let name = pod.netns.file_name().and_then(|name| name.to_str()).context("no name")?;
        let (index, name) = (pod.index, name.to_owned());
        ip(Some(&name), "link del eth0\n")?;
        ip(None, &format!("netns del {name}\n"))?;
        let Pod { name, namespace, account, inside, .. } = pod;
        drop(inside);
        let spec = PodSpec { name: &name, namespace: &namespace, account: &account, labels: &[] };
        node.pod_at(&spec, index)
    }

    /// Writes the pod's manifest, with these labels.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn declare(&self, pod: &Pod, labels: &[(&str, &str)]) -> Result<()> {
        self.apply(&format!("pod-{}-{}.yaml", pod.namespace, pod.name), &pod.manifest(labels))
    }

    /// Says whether the namespace is enrolled in the mesh.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn namespace(&self, name: &str, enrolled: bool) -> Result<()> {
        let labels = if enrolled { "{istio.io/dataplane-mode: ambient}" } else { "{}" };
        let yaml = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {labels}\n"
        );
        self.apply(&format!("namespace-{name}.yaml"), &yaml)
    }

    /// A service of the pods labelled `app: <name>`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn service(&self, namespace: &str, name: &str, vip: &str, ports: (u16, u16)) -> Result<()> {
        let (port, target) = ports;
        self.apply(
            &format!("service-{namespace}-{name}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
                 spec:\n  clusterIP: \"{vip}\"\n  selector: {{app: {name}}}\n  ports:\n  - port: {port}\n    targetPort: {target}\n"
            ),
        )
    }

    /// Puts a file into the folder of manifests, whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn apply(&self, file: &str, yaml: &str) -> Result<()> {
        let hidden = self.manifests().join(format!(".{file}"));
        fs::write(&hidden, yaml)?;
        Ok(fs::rename(hidden, self.manifests().join(file))?)
    }

    /// Starts an agent on node `number`, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready; the error has the end of its log.
    pub fn agent(&self, number: usize) -> Result<Agent> {
        self.agent_with(number, "")
    }

    /// The same, with more lines in its configuration.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn agent_with(&self, number: usize, extra: &str) -> Result<Agent> {
        let node = self.nodes.get(number - 1).context("no such node")?;
        Agent::start(node, &self.folder, extra)
    }

    /// Sees every frame on the wire between the nodes.
    ///
    /// # Errors
    /// When the wire cannot be tapped.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(&Path::new(NETNS).join(format!("{}wire", self.prefix)))
    }

    fn wire(&self, count: u8) -> Result<()> {
        let p = &self.prefix;
        let mut script = format!("netns add {p}wire\n");
        for n in 1..=count {
            writeln!(script, "netns add {p}n{n}")?;
            writeln!(
                script,
                "link add name w{n} netns {p}wire type veth peer name uplink netns {p}n{n}"
            )?;
        }
        ip(None, &script)?;
        let mut script = "link set lo up\nlink add wire type bridge\nlink set wire up\n".to_owned();
        for n in 1..=count {
            writeln!(script, "link set w{n} master wire up")?;
        }
        ip(Some(&format!("{p}wire")), &script)
    }

    fn node(&self, number: u8) -> Result<Node> {
        let netns = format!("{}n{number}", self.prefix);
        let mut script = format!(
            "link set lo up\nlink set uplink up\naddr add 172.31.0.{number}/24 dev uplink\n\
             addr add fd00:ff::{number}/64 dev uplink nodad\nlink add pods type bridge\nlink set pods up\n\
             addr add 10.{number}.0.1/24 dev pods\naddr add fd00:{number}::1/64 dev pods nodad\n"
        );
        for other in (1..=9).filter(|other| *other != number) {
            writeln!(script, "route add 10.{other}.0.0/24 via 172.31.0.{other}")?;
            writeln!(script, "route add fd00:{other}::/64 via fd00:ff::{other}")?;
        }
        let path = Path::new(NETNS).join(&netns);
        sysctl(&path, &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        ip(Some(&netns), &script)?;
        let cgroup = self.cgroup.join(format!("n{number}"));
        for group in ["pods", "agent", "host"] {
            fs::create_dir_all(cgroup.join(group))?;
        }
        let outside = self.cgroup.join(format!("outside{number}"));
        fs::create_dir_all(&outside)?;
        Ok(Node {
            name: format!("n{number}"),
            host: Factory::start(&path, &cgroup.join("host"))?,
            outsider: Factory::start(&path, &outside)?,
            pods: AtomicU32::new(10),
            prefix: self.prefix.clone(),
            cgroup,
            number,
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.nodes.clear();
        system::remove_cgroup(&self.cgroup);
        system::sweep(&self.prefix);
        if thread::panicking() {
            return;
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Node {
    /// The file of its namespace.
    pub fn netns(&self) -> PathBuf {
        Path::new(NETNS).join(format!("{}{}", self.prefix, self.name))
    }

    /// The control group above its pods, its agent and its own processes.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Where its agent pins programs.
    pub fn pin(&self) -> PathBuf {
        Path::new(system::BPFFS).join(format!("{}{}", self.prefix, self.name))
    }

    /// Its address towards its pods.
    pub fn address(&self) -> IpAddr {
        Ipv4Addr::new(10, self.number, 0, 1).into()
    }

    fn pod(&self, spec: &PodSpec<'_>) -> Result<Pod> {
        self.pod_at(spec, self.pods.fetch_add(1, Ordering::Relaxed))
    }

    fn pod_at(&self, spec: &PodSpec<'_>, index: u32) -> Result<Pod> {
        let host = u8::try_from(index).context("too many pods")?;
        let number = self.number;
        let netns = format!("{}p{number}-{index}", self.prefix);
        let node = format!("{}{}", self.prefix, self.name);
        ip(
            None,
            &format!(
                "netns add {netns}\nlink add name p{index} netns {node} type veth peer name eth0 netns {netns}\n"
            ),
        )?;
        ip(Some(&node), &format!("link set p{index} master pods up\n"))?;
        ip(
            Some(&netns),
            &format!(
                "link set lo up\nlink set eth0 up\naddr add 10.{number}.0.{host}/24 dev eth0\n\
                 addr add fd00:{number}::{host:x}/64 dev eth0 nodad\nroute add default via 10.{number}.0.1\n\
                 route add default via fd00:{number}::1\n"
            ),
        )?;
        let path = Path::new(NETNS).join(&netns);
        let cgroup = self.cgroup.join("pods").join(format!("{}-{}", spec.namespace, spec.name));
        fs::create_dir_all(&cgroup)?;
        Ok(Pod {
            inside: Factory::start(&path, &cgroup)?.into(),
            v4: Ipv4Addr::new(10, number, 0, host),
            v6: Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, host.into()),
            name: spec.name.into(),
            namespace: spec.namespace.into(),
            account: spec.account.into(),
            node: self.name.clone(),
            index,
            netns: path,
            cgroup,
        })
    }
}

impl Pod {
    /// Its IPv4 address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.v4, port).into()
    }

    /// Its IPv6 address with a port.
    pub fn at6(&self, port: u16) -> SocketAddr {
        (self.v6, port).into()
    }

    /// The file of its namespace.
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// Its control group.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Its SPIFFE ID.
    pub fn identity(&self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.namespace, self.account)
    }

    /// Its manifest, with these labels.
    pub fn manifest(&self, labels: &[(&str, &str)]) -> String {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let mut text = String::new();
        for (name, value) in labels {
            let _ = write!(text, "\n    {name}: \"{value}\"");
        }
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n  namespace: {}\n  labels:{}\n  annotations:\n    \
             culvert.dev/netns: {}\n    culvert.dev/cgroup: {}\nspec:\n  nodeName: {}\n  serviceAccountName: {}\n\
             status:\n  podIP: {}\n  podIPs: [{{ip: {}}}, {{ip: \"{}\"}}]\n",
            self.name,
            self.namespace,
            if text.is_empty() { " {}".into() } else { text },
            self.netns.display(),
            self.cgroup.display(),
            self.node,
            self.account,
            self.v4,
            self.v4,
            self.v6,
        )
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within [`PATIENCE`]: the message says what was waited for.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Removes what labs of dead processes left.
fn sweep_dead() {
    let names = system::leftovers("cv");
    let dead = names.iter().filter_map(|path| {
        let name = Path::new(path).file_name()?.to_str()?;
        let (pid, _) = name.strip_prefix("cv")?.split_once('-')?;
        let alive = pid.parse::<u32>().ok()? != 0 && Path::new("/proc").join(pid).exists();
        (!alive).then(|| format!("cv{pid}-"))
    });
    let dead: std::collections::BTreeSet<_> = dead.collect();
    for prefix in dead {
        system::sweep(&prefix);
    }
}

/// Fails unless nothing whose name begins with `prefix` is left on this machine.
///
/// # Errors
/// Names what is left.
pub fn ensure_nothing_left(prefix: &str) -> Result<()> {
    let left = system::leftovers(prefix);
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    Ok(())
}
