//! Shell: a waypoint: a pod with `culvert-waypoint` in it, and the Gateway and Service that name it.
use std::{
    fs::{self, File},
    io::{Read, Write},
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Lab, Pod,
    factory::{binary, lab_command},
    lab::{PATIENCE, PodSpec},
};

/// A running waypoint of namespace `shop`.
#[derive(Debug)]
pub struct Waypoint {
    /// The pod that it is in.
    pub pod: Pod,
    process: Child,
    log: PathBuf,
}

impl Waypoint {
    /// Starts one on node `number`, declares it as Gateway `waypoint` with the Service address `vip`, and
    /// waits until it is ready. `serves` is its `istio.io/waypoint-for`.
    ///
    /// # Errors
    /// When it does not become ready; the error has the end of its log.
    pub fn start(lab: &Lab, number: usize, vip: &str, serves: &str) -> Result<Self> {
        Self::start_with(lab, number, (vip, serves), "[access_log]\nformat = \"json\"\n")
    }

    /// The same, with more of a configuration.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_with(
        lab: &Lab,
        number: usize,
        (vip, serves): (&str, &str),
        extra: &str,
    ) -> Result<Self> {
        let labels = [
            ("gateway.networking.k8s.io/gateway-name", "waypoint"),
            ("istio.io/dataplane-mode", "none"),
        ];
        let spec =
            PodSpec { name: "waypoint", namespace: "shop", account: "waypoint", labels: &labels };
        let pod = lab.pod(number, &spec)?;
        let folder = lab.manifests();
        let folder = folder.parent().context("the lab's folder")?;
        let config = folder.join("waypoint.toml");
        fs::write(
            &config,
            format!(
                "gateway = \"waypoint\"\nnamespace = \"shop\"\naddress = \"{}\"\n[manifests]\ndirectory = {:?}\n\
                 [ca]\nfile = {:?}\n{extra}",
                pod.at(0).ip(),
                lab.manifests(),
                lab.ca(),
            ),
        )?;
        let log = folder.join("waypoint.log");
        let out = File::options().create(true).append(true).open(&log)?;
        let process = lab_command(pod.netns(), pod.cgroup())
            .arg("--")
            .arg(binary("culvert-waypoint")?)
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out)
            .spawn()
            .context("start culvert-waypoint")?;
        let mut waypoint = Self { pod, process, log };
        waypoint.wait_ready()?;
        lab.apply("gateway-waypoint.yaml", &declared(vip, serves))?;
        Ok(waypoint)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// All that it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The answer to a GET on the pod's loopback.
    ///
    /// # Errors
    /// When there is none, or its status is not 200.
    pub fn get(&self, port: u16, path: &str) -> Result<String> {
        let mut stream = self.pod.inside.connect(([127, 0, 0, 1], port).into())?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: waypoint\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {head}\n{body}");
        Ok(body.to_owned())
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn stop(&mut self) -> Result<()> {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM)?;
        let status = self.process.wait()?;
        ensure!(status.success(), "{status}: {}", self.log());
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while self.get(15021, "/healthz/ready").is_err() {
            let ended = self.process.try_wait()?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                let log = self.log();
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                bail!("the waypoint did not become ready ({ended:?}); its last lines: {tail:#?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Waypoint {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn declared(vip: &str, serves: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: waypoint\n  namespace: shop\n  \
         labels: {{istio.io/waypoint-for: {serves}}}\nspec:\n  gatewayClassName: culvert-waypoint\n  listeners:\n  \
         - {{name: mesh, port: 15008, protocol: HBONE}}\n---\napiVersion: v1\nkind: Service\n\
         metadata: {{name: waypoint, namespace: shop}}\nspec: {{clusterIP: {vip}, \
         selector: {{gateway.networking.k8s.io/gateway-name: waypoint}}, ports: [{{port: 15008}}]}}\n"
    )
}
