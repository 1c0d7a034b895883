//! Shell: two pods on two nodes under one data plane, and a server in the second.
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use e2e::{
    Agent, Lab, Pod,
    factory::{binary, lab_command},
    lab::PodSpec,
};

/// Where the server listens.
const PORT: u16 = 9000;

/// Marks and redirects of the peer's in-pod mode, as its CNI writes them.
const REDIRECT: &str = "*mangle
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff
-A PREROUTING -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT
-A OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
-A PREROUTING ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
COMMIT
";

/// One data plane at work. Processes end before the lab does.
pub(crate) struct Plane {
    pub(crate) name: &'static str,
    pub(crate) client: Pod,
    server: Pod,
    /// Processes whose CPU time and memory count as the plane's.
    pub(crate) agents: Vec<u32>,
    _processes: Vec<Process>,
    _agents: Vec<Agent>,
    pub(crate) lab: Lab,
}

/// Ends with its owner.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Plane {
    pub(crate) fn plain() -> Result<Self> {
        Self::pods("plain TCP")?.serving()
    }

    pub(crate) fn culvert() -> Result<Self> {
        let mut plane = Self::pods("Culvert")?;
        plane.lab.namespace("bench", true)?;
        for node in [1, 2] {
            let agent = plane.lab.agent(node)?;
            plane.agents.push(agent.pid());
            plane._agents.push(agent);
        }
        plane.serving()
    }

    pub(crate) fn ztunnel(ztunnel: &Path, inpod: &Path) -> Result<Self> {
        let mut plane = Self::pods("ztunnel")?;
        let folder = plane.lab.manifests();
        let mut workloads = "workloads:\n".to_owned();
        for (pod, node) in [(&plane.client, "n1"), (&plane.server, "n2")] {
            workloads += &format!(
                "- {{uid: cluster1//v1/Pod/default/{0}, name: {0}, namespace: default, \
                 serviceAccount: {0}, workloadIps: [\"{1}\"], protocol: HBONE, node: {node}, \
                 network: \"\", services: {{}}}}\n",
                pod.name, pod.v4
            );
        }
        fs::write(folder.join("ztunnel.state"), workloads + "services: []\npolicies: []\n")?;
        for (index, pod) in [&plane.client, &plane.server].into_iter().enumerate() {
            let peer = Peer { ztunnel, inpod, folder: &folder, number: index + 1, pod };
            let (server, agent) = peer.start(&plane.lab)?;
            plane.agents.push(agent.0.id());
            plane._processes.extend([server, agent]);
        }
        plane.serving()
    }

    /// Where the server is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.at(PORT)
    }

    fn pods(name: &'static str) -> Result<Self> {
        let lab = Lab::new(2)?;
        let spec = |name| PodSpec { name, namespace: "bench", account: name, labels: &[] };
        let (client, server) = (lab.pod(1, &spec("a"))?, lab.pod(2, &spec("b"))?);
        let (agents, processes) = (Vec::new(), Vec::new());
        Ok(Self { name, client, server, agents, _processes: processes, _agents: Vec::new(), lab })
    }

    /// Starts the server, and waits until the client can reach it.
    fn serving(mut self) -> Result<Self> {
        let mut command = lab_command(self.server.netns(), self.server.cgroup());
        command.arg("--").arg(binary("lab")?).args(["load", "server", "--addr"]);
        let command = command.arg(format!("0.0.0.0:{PORT}")).stdout(Stdio::null());
        self._processes.push(Process(command.spawn()?));
        let start = Instant::now();
        while !self.answers() {
            ensure!(start.elapsed() < Duration::from_secs(20), "{} does not answer", self.name);
            thread::sleep(Duration::from_millis(50));
        }
        Ok(self)
    }

    fn answers(&self) -> bool {
        use std::io::{Read, Write};
        let Ok(mut stream) = self.client.inside.connect(self.address()) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        stream.write_all(b"Ex").is_ok() && stream.read_exact(&mut [0]).is_ok()
    }
}

/// What it takes to start the peer for one pod.
struct Peer<'a> {
    ztunnel: &'a Path,
    inpod: &'a Path,
    folder: &'a Path,
    number: usize,
    pod: &'a Pod,
}

impl Peer<'_> {
    /// The server that hands it the pod's namespace, and the peer itself.
    fn start(&self, lab: &Lab) -> Result<(Process, Process)> {
        let node = lab.nodes.get(self.number - 1).context("no such node")?;
        let socket = self.folder.join(format!("zds{}", self.number));
        let cgroup = node.cgroup().join("agent");
        let netns = node.netns();
        let exec = |program: &Path| {
            let mut command = lab_command(&netns, &cgroup);
            command.arg("--").arg(program).env("INPOD_UDS", &socket).stdout(Stdio::null());
            command
        };
        let name = self.pod.netns().file_name().context("a namespace without a name")?;
        let mut server = exec(self.inpod);
        let info = format!("default/{0}/{0}", self.pod.name);
        let server = server.arg(name).env("PROXY_WORKLOAD_INFO", info).stderr(Stdio::null());
        let server = Process(server.spawn().context("start INPODSERVER")?);
        let start = Instant::now();
        while !socket.exists() {
            ensure!(start.elapsed() < Duration::from_secs(10), "INPODSERVER does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        // Both write their access log to a file, as they do by default.
        let log = fs::File::create(self.folder.join(format!("ztunnel{}.log", self.number)))?;
        let mut agent = exec(self.ztunnel);
        let agent = agent.stderr(log.try_clone()?).stdout(log);
        let agent = agent
            .envs([("PROXY_MODE", "shared"), ("FAKE_CA", "true")])
            .envs([("XDS_ADDRESS", ""), ("CA_ADDRESS", ""), ("IPV6_ENABLED", "false")])
            .env("LOCAL_XDS_PATH", self.folder.join("ztunnel.state"))
            .env("NODE_NAME", &node.name)
            .env("CLUSTER_ID", "cluster1");
        let agent = Process(agent.spawn().context("start ZTUNNEL")?);
        self.redirect()?;
        Ok((server, agent))
    }

    fn redirect(&self) -> Result<()> {
        use std::io::Write;
        let name = self.pod.netns().file_name().context("a namespace without a name")?;
        let mut restore = Command::new("ip");
        restore.args(["netns", "exec"]).arg(name).args(["iptables-legacy-restore", "--noflush"]);
        let mut child = restore.stdin(Stdio::piped()).spawn()?;
        child.stdin.take().context("stdin")?.write_all(REDIRECT.as_bytes())?;
        if !child.wait()?.success() {
            bail!("the peer's redirection needs iptables-legacy: apt-get install iptables");
        }
        e2e::system::ip(
            name.to_str(),
            "route add local 0.0.0.0/0 dev lo table 100\n\
             rule add fwmark 0x111/0xfff pref 32764 lookup 100\n",
        )
    }
}
