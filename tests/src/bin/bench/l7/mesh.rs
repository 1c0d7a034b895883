//! Shell: a client, two versions of a service, and two waypoints between them: Culvert's and Envoy.
//! Never: a plane that has not answered as its rules say.
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use e2e::{
    Lab, Pod, Waypoint,
    factory::{PATIENCE, lab_command},
    lab::PodSpec,
};
use rustls_pki_types::PrivateKeyDer;
use serde_json::Value;

use super::{
    ACCOUNT, Turn, WAYPOINT, certificate,
    envoy::Setting,
    identity,
    rules::{SERVICES, Service},
};
use crate::plane::Process;

/// Where the Gateway's service is declared; nobody dials it here.
const VIP: &str = "10.96.0.99";
const HBONE: u16 = 15008;

/// A plane under measurement.
pub(super) struct Plane {
    pub(super) name: &'static str,
    pub(super) pid: u32,
    at: SocketAddr,
}

/// Everything that runs. Processes end before the lab does.
pub(super) struct Mesh {
    pub(super) planes: [Plane; 2],
    client: Pod,
    _waypoint: Waypoint,
    _processes: Vec<Process>,
    _pods: Vec<Pod>,
    lab: Lab,
}

impl Mesh {
    /// Starts it. `envoy` is its binary; with `log` both write their access log to a file.
    pub(super) fn start(envoy: &Path, log: bool) -> Result<Self> {
        let lab = Lab::new(1)?;
        lab.namespace("shop", true)?;
        for service in SERVICES {
            lab.apply(&format!("{}.yaml", service.name), &service.manifest())?;
        }
        let client = lab.pod(1, &spec("client", "client", &[]))?;
        let (mut pods, mut processes, mut at) = (Vec::new(), Vec::new(), Vec::new());
        for version in ["v1", "v2"] {
            let labels = [("app", "product"), ("version", version)];
            let name = format!("product-{version}");
            let pod = lab.pod(1, &spec(&name, "product", &labels))?;
            at.push((version, pod.at(HBONE)));
            let mut server = own("l7-server", &pod)?;
            server.arg("--ca").arg(lab.ca()).args(["--version", version]);
            server.args(["--listen", &pod.at(HBONE).to_string()]);
            processes.push(Process(server.spawn()?));
            pods.push(pod);
        }
        let format = if log { "text" } else { "off" };
        let extra = format!("[access_log]\nformat = \"{format}\"\n");
        let waypoint = Waypoint::configured("waypoint", (&lab, 1), (VIP, "service"), &extra)?;
        let pod = lab.pod(1, &spec("envoy", "waypoint", &[]))?;
        let folder = lab.manifests().with_file_name("envoy");
        fs::create_dir_all(&folder)?;
        let process = start_envoy(&lab, (envoy, &pod), &folder, (&at, log))?;
        let planes = [
            Plane { name: "Envoy", pid: process.0.id(), at: pod.at(HBONE) },
            Plane { name: "Culvert", pid: waypoint.pid(), at: waypoint.pod.at(HBONE) },
        ];
        processes.push(process);
        pods.push(pod);
        let (_waypoint, _processes, _pods) = (waypoint, processes, pods);
        let mesh = Self { planes, client, _waypoint, _processes, _pods, lab };
        mesh.wait()?;
        Ok(mesh)
    }

    /// A load that is connected and waits for a word.
    pub(super) fn load(&self, plane: &Plane, turn: &Turn<'_>) -> Result<Load> {
        let Turn { service: Service { vip, subset, .. }, http, secs, rate } = *turn;
        let mut load = own("l7-load", &self.client)?;
        load.arg("--ca").arg(self.lab.ca()).args(["--source", &self.client.v4.to_string()]);
        load.args(["--to", &plane.at.to_string()]);
        load.args(["--service", &SocketAddr::from((*vip, http.port())).to_string()]);
        load.args(["--http", http.number(), "--secs", &secs.to_string()]);
        load.args(["--rate", &rate.to_string()]);
        if let Some(subset) = subset {
            load.args(["--expect", subset]);
        }
        let mut child = load.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (go, out) = (child.stdin.take(), child.stdout.take());
        let mut load = Load {
            go: go.context("stdin")?,
            out: BufReader::new(out.context("stdout")?),
            _process: Process(child),
        };
        ensure!(load.line()? == "ready\n", "{}: the load could not begin", plane.name);
        Ok(load)
    }

    /// Until each plane answers each kind of request rightly.
    fn wait(&self) -> Result<()> {
        let kinds = || super::turns(0.01, 0.0);
        let all = self.planes.iter().flat_map(|plane| kinds().map(move |turn| (plane, turn)));
        for (plane, turn) in all {
            let start = Instant::now();
            while let Err(error) = self.load(plane, &turn).and_then(Load::run) {
                let (name, asked) = (plane.name, turn.name());
                ensure!(start.elapsed() < PATIENCE, "{name}: {asked}: {error:#}");
                thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(())
    }
}

/// A running load.
pub(super) struct Load {
    go: ChildStdin,
    out: BufReader<ChildStdout>,
    _process: Process,
}

impl Load {
    /// Lets it go, and gives its report.
    pub(super) fn run(mut self) -> Result<Value> {
        self.go.write_all(b"go\n")?;
        let line = self.line()?;
        serde_json::from_str(&line).context("the load failed: see above")
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        Ok(line)
    }
}

fn spec<'a>(name: &'a str, account: &'a str, labels: &'a [(&'a str, &'a str)]) -> PodSpec<'a> {
    PodSpec { name, namespace: "shop", account, labels }
}

/// This program in a pod, as something else.
fn own(what: &str, pod: &Pod) -> Result<Command> {
    let mut command = lab_command(pod.netns(), pod.cgroup());
    command.arg("--").arg(std::env::current_exe()?).arg(what);
    Ok(command)
}

fn start_envoy(
    lab: &Lab,
    (envoy, pod): (&Path, &Pod),
    folder: &Path,
    (at, log): (&[(&'static str, SocketAddr)], bool),
) -> Result<Process> {
    let svid = certificate(&lab.ca(), WAYPOINT)?;
    let pem = |label: &str, der: &[u8]| pem::encode(&pem::Pem::new(label, der));
    let all = |list: &[rustls_pki_types::CertificateDer<'_>]| -> String {
        list.iter().map(|one| pem("CERTIFICATE", one)).collect()
    };
    fs::write(folder.join("chain.pem"), all(&svid.chain))?;
    fs::write(folder.join("root.pem"), all(&svid.roots))?;
    let PrivateKeyDer::Pkcs8(key) = &svid.key else { anyhow::bail!("a key that is not PKCS#8") };
    fs::write(folder.join("key.pem"), pem("PRIVATE KEY", key.secret_pkcs8_der()))?;
    let access = folder.join("access.log");
    let pods = identity(ACCOUNT)?.to_string();
    let setting = Setting {
        certificates: folder,
        log: log.then_some(access.as_path()),
        pods: at,
        identity: &pods,
    };
    let config = folder.join("envoy.json");
    fs::write(&config, serde_json::to_string_pretty(&setting.config())?)?;
    let out = File::create(folder.join("envoy.log"))?;
    let mut command = lab_command(pod.netns(), pod.cgroup());
    command.arg("--").arg(envoy).arg("-c").arg(config);
    command.args(["--concurrency", &threads().to_string(), "--disable-hot-restart"]);
    let command = command.args(["--log-level", "warning"]).stderr(out.try_clone()?).stdout(out);
    Ok(Process(command.spawn().context("start ENVOY")?))
}

/// As many as the waypoint's runtime has.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}
