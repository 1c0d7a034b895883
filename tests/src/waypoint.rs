//! Shell: a waypoint: a pod with `culvert-waypoint` in it, and the Gateway and Service that name it.
use std::fs;

use anyhow::{Context, Result};

use crate::{
    Lab, Pod,
    daemon::{self, Daemon, Program},
    lab::PodSpec,
};

/// A running waypoint of namespace `shop`.
#[derive(Debug)]
pub struct Waypoint {
    process: Daemon,
    /// The pod that it is in.
    pub pod: Pod,
}

impl Waypoint {
    /// Starts one on node `number`, declares it as Gateway `waypoint` with the Service address `vip`, and
    /// waits until it is ready. `serves` is its `istio.io/waypoint-for`.
    ///
    /// # Errors
    /// When it does not become ready; the error has the end of its log.
    pub fn start(lab: &Lab, number: usize, vip: &str, serves: &str) -> Result<Self> {
        Self::called("waypoint", lab, number, (vip, serves))
    }

    /// The same, as another Gateway.
    ///
    /// # Errors
    /// As `start`.
    pub fn called(name: &str, lab: &Lab, number: usize, gateway: (&str, &str)) -> Result<Self> {
        Self::configured(name, (lab, number), gateway, "[access_log]\nformat = \"json\"\n")
    }

    /// The same, with `extra` at the end of its configuration.
    ///
    /// # Errors
    /// As `start`.
    pub fn configured(
        name: &str,
        (lab, number): (&Lab, usize),
        (vip, serves): (&str, &str),
        extra: &str,
    ) -> Result<Self> {
        let labels =
            [("gateway.networking.k8s.io/gateway-name", name), ("istio.io/dataplane-mode", "none")];
        let spec = PodSpec { name, namespace: "shop", account: name, labels: &labels };
        let pod = lab.pod(number, &spec)?;
        let folder = lab.manifests();
        let folder = folder.parent().context("the lab's folder")?;
        let config = folder.join(format!("{name}.toml"));
        fs::write(
            &config,
            format!(
                "gateway = \"{name}\"\nnamespace = \"shop\"\nservice_account = \"{name}\"\naddress = \"{}\"\n[manifests]\ndirectory = {:?}\n\
                 [ca]\nfile = {:?}\n{extra}",
                pod.at(0).ip(),
                lab.manifests(),
                lab.ca(),
            ),
        )?;
        let program = Program {
            name: "culvert-waypoint",
            netns: pod.netns().into(),
            cgroup: pod.cgroup().into(),
            config,
            log: folder.join(format!("{name}.log")),
        };
        let process = Daemon::start(program, &pod.inside)?;
        lab.apply(&format!("gateway-{name}.yaml"), &declared(name, vip, serves))?;
        Ok(Self { process, pod })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// All that it wrote.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The answer to a GET on the pod's loopback.
    ///
    /// # Errors
    /// When there is none, or its status is not 200.
    pub fn get(&self, port: u16, path: &str) -> Result<String> {
        daemon::get(&self.pod.inside, port, path)
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn stop(&mut self) -> Result<()> {
        self.process.terminate()?;
        self.process.wait()
    }
}

fn declared(name: &str, vip: &str, serves: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: {name}\n  namespace: shop\n  \
         labels: {{istio.io/waypoint-for: {serves}}}\nspec:\n  gatewayClassName: culvert-waypoint\n  listeners:\n  \
         - {{name: mesh, port: 15008, protocol: HBONE}}\n---\napiVersion: v1\nkind: Service\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: {vip}, \
         selector: {{gateway.networking.k8s.io/gateway-name: {name}}}, ports: [{{port: 15008}}]}}\n"
    )
}
