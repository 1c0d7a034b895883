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
    factory::{PATIENCE, binary, lab_command},
    lab::PodSpec,
};

use crate::zds::{Line, Server};

/// Pods of one node past the agent, where a verdict allows it: what the rows of one node are about. On
/// the others it has no influence.
const SETTINGS: &str = "agent.same_node = \"kernel\"";

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
    /// On the other node.
    server: Pod,
    /// On the client's own node.
    neighbour: Pod,
    /// Processes whose CPU time and memory count as the plane's, the first being the client's node's.
    pub(crate) agents: Vec<u32>,
    _processes: Vec<Process>,
    enrolment: Enrolment,
    pub(crate) lab: Lab,
}

/// How a plane learns of pods.
enum Enrolment {
    None,
    /// From manifests.
    Culvert(Vec<Agent>),
    /// From its CNI.
    Ztunnel(Vec<Line>),
}

/// Where the server is that a load talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    OtherNode,
    SameNode,
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
        let agents: Vec<_> = [1, 2]
            .map(|node| plane.lab.agent_with(node, SETTINGS))
            .into_iter()
            .collect::<Result<_>>()?;
        plane.agents.extend(agents.iter().map(Agent::pid));
        plane.enrolment = Enrolment::Culvert(agents);
        plane.serving()
    }

    pub(crate) fn ztunnel(ztunnel: &Path) -> Result<Self> {
        let mut plane = Self::pods("ztunnel")?;
        let folder = plane.lab.manifests();
        let (client, server, neighbour) = (&plane.client, &plane.server, &plane.neighbour);
        let mut workloads = "workloads:\n".to_owned();
        for (pod, node) in [(client, "n1"), (neighbour, "n1"), (server, "n2")] {
            workloads += &format!(
                "- {{uid: cluster1//v1/Pod/default/{0}, name: {0}, namespace: default, \
                 serviceAccount: {0}, workloadIps: [\"{1}\"], protocol: HBONE, node: {node}, \
                 network: \"\", services: {{}}}}\n",
                pod.name, pod.v4
            );
        }
        fs::write(folder.join("ztunnel.state"), workloads + "services: []\npolicies: []\n")?;
        let mut lines = Vec::new();
        for (number, pods) in [(1, vec![client, neighbour]), (2, vec![server])] {
            let peer = Peer { ztunnel, folder: &folder, number };
            let (process, mut line) = peer.start(&plane.lab)?;
            for pod in pods {
                line.add(pod)?;
                redirect(pod)?;
            }
            plane.agents.push(process.0.id());
            plane._processes.push(process);
            lines.push(line);
        }
        plane.enrolment = Enrolment::Ztunnel(lines);
        plane.serving()
    }

    /// Where the server is.
    pub(crate) fn address(&self, to: To) -> SocketAddr {
        match to {
            To::OtherNode => self.server.at(PORT),
            To::SameNode => self.neighbour.at(PORT),
        }
    }

    /// More pods on the client's node, each with an account of its own; waits until they are enrolled.
    pub(crate) fn enrol(&mut self, count: usize) -> Result<Vec<Pod>> {
        let names: Vec<_> = (0..count).map(|number| format!("more{number}")).collect();
        let spec = |name| PodSpec { name, namespace: "bench", account: name, labels: &[] };
        let pods = names.iter().map(|name| self.lab.pod(1, &spec(name)));
        let pods: Vec<_> = pods.collect::<Result<_>>()?;
        match &mut self.enrolment {
            Enrolment::None => {}
            Enrolment::Culvert(agents) => {
                let agent = agents.first().context("no agent")?;
                let start = Instant::now();
                while agent.enrolled()? < count + 2 {
                    ensure!(start.elapsed() < PATIENCE, "the pods are not enrolled");
                    thread::sleep(Duration::from_millis(50));
                }
            }
            Enrolment::Ztunnel(lines) => {
                let line = lines.first_mut().context("no agent")?;
                pods.iter().try_for_each(|pod| line.add(pod))?;
            }
        }
        Ok(pods)
    }

    fn pods(name: &'static str) -> Result<Self> {
        let lab = Lab::new(2)?;
        let pod = |node, name| {
            lab.pod(node, &PodSpec { name, namespace: "bench", account: name, labels: &[] })
        };
        let (client, server, neighbour) = (pod(1, "a")?, pod(2, "b")?, pod(1, "c")?);
        let (agents, _processes, enrolment) = (Vec::new(), Vec::new(), Enrolment::None);
        Ok(Self { name, client, server, neighbour, agents, _processes, enrolment, lab })
    }

    /// Starts the servers, and waits until the client can reach them.
    fn serving(mut self) -> Result<Self> {
        for pod in [&self.server, &self.neighbour] {
            let mut command = lab_command(pod.netns(), pod.cgroup());
            command.arg("--").arg(binary("lab")?).args(["load", "server", "--addr"]);
            let command = command.arg(format!("0.0.0.0:{PORT}")).stdout(Stdio::null());
            self._processes.push(Process(command.spawn()?));
        }
        for to in [To::OtherNode, To::SameNode] {
            let start = Instant::now();
            while !self.answers(to) {
                ensure!(start.elapsed() < PATIENCE, "{} does not answer", self.name);
                thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(self)
    }

    /// Whether a connection gets through.
    pub(crate) fn answers(&self, to: To) -> bool {
        use std::io::{Read, Write};
        let Ok(mut stream) = self.client.inside.connect(self.address(to)) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        stream.write_all(b"Ex").is_ok() && stream.read_exact(&mut [0]).is_ok()
    }
}

/// What it takes to start the peer on one node.
struct Peer<'a> {
    ztunnel: &'a Path,
    folder: &'a Path,
    number: usize,
}

impl Peer<'_> {
    fn start(&self, lab: &Lab) -> Result<(Process, Line)> {
        let node = lab.nodes.get(self.number - 1).context("no such node")?;
        let socket = self.folder.join(format!("zds{}", self.number));
        let server = Server::open(&socket)?;
        // Both meshes write their access log to a file, as they do by default.
        let log = fs::File::create(self.folder.join(format!("ztunnel{}.log", self.number)))?;
        let mut agent = lab_command(&node.netns(), &node.cgroup().join("agent"));
        agent.arg("--").arg(self.ztunnel).stderr(log.try_clone()?).stdout(log);
        let agent = agent
            .envs([("PROXY_MODE", "shared"), ("FAKE_CA", "true")])
            .envs([("XDS_ADDRESS", ""), ("CA_ADDRESS", ""), ("IPV6_ENABLED", "false")])
            .env("INPOD_UDS", &socket)
            .env("LOCAL_XDS_PATH", self.folder.join("ztunnel.state"))
            .env("NODE_NAME", &node.name)
            .env("CLUSTER_ID", "cluster1");
        let agent = Process(agent.spawn().context("start ZTUNNEL")?);
        Ok((agent, server.accept()?))
    }
}

/// Leads the pod's connections to the peer.
fn redirect(pod: &Pod) -> Result<()> {
    use std::io::Write;
    let name = pod.netns().file_name().context("a namespace without a name")?;
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
