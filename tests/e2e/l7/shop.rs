//! A client on one node, two versions of the service `product` and its waypoint on the other.
use std::{collections::BTreeMap, net::SocketAddr, process::Command, thread};

use anyhow::{Context, Result, ensure};
use e2e::{Agent, Lab, Pod, Waypoint, factory::lab_command, http, lab::PodSpec, until};
use serde_json::Value;

use crate::mesh::pod;

/// The service's address.
pub(super) const VIP: &str = "10.96.0.10";

/// Fields are dropped in this order: agents first, the lab last.
pub(super) struct Shop {
    pub(super) agents: Vec<Agent>,
    pub(super) client: Pod,
    pub(super) waypoint: Waypoint,
    /// Those of v1 and v2. On port 8080 each serves HTTP/1.1; 8081 and 8082 are free.
    pub(super) servers: [Pod; 2],
    pub(super) lab: Lab,
}

impl Shop {
    pub(super) fn new() -> Result<Self> {
        let lab = Lab::new(2)?;
        lab.namespace("shop", true)?;
        let client = pod(&lab, 1, "client")?;
        let servers = [server(&lab, "v1")?, server(&lab, "v2")?];
        let agents = vec![lab.agent(1)?, lab.agent(2)?];
        let waypoint = Waypoint::start(&lab, 2, "10.96.0.99", "service")?;
        let shop = Self { agents, client, waypoint, servers, lab };
        shop.label(Some("waypoint"))?;
        shop.rules(RULES)?;
        until("the waypoint has the rules", || {
            shop.asked(&["-H", "x-canary-user: true", "/"]).is_ok_and(|said| {
                said["version"] == "v2" && said["headers"]["x-request-id"].is_string()
            })
        });
        Ok(shop)
    }

    /// Writes the service, with this waypoint. Port 81 is for gRPC, 82 for websockets.
    pub(super) fn label(&self, waypoint: Option<&str>) -> Result<()> {
        let labels = waypoint
            .map_or(String::new(), |name| format!(", labels: {{istio.io/use-waypoint: {name}}}"));
        self.lab.apply(
            "service-product.yaml",
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: product, namespace: shop{labels}}}\nspec: {{clusterIP: {VIP}, \
                 selector: {{app: product}}, ports: [{{name: http, port: 80, targetPort: 8080}}, \
                 {{name: grpc, port: 81, targetPort: 8081}}, {{name: http-socket, port: 82, targetPort: 8082}}]}}\n"
            ),
        )
    }

    pub(super) fn rules(&self, yaml: &str) -> Result<()> {
        self.lab.apply("rules.yaml", yaml)
    }

    /// A port of the service.
    pub(super) fn at(port: u16) -> SocketAddr {
        ([10, 96, 0, 10], port).into()
    }

    /// What curl, in the client's pod, prints.
    pub(super) fn curl(&self, arguments: &[&str]) -> Result<String> {
        let (path, options) = arguments.split_last().context("a path")?;
        let url = format!("http://{VIP}{path}");
        let mut command = self.inside("curl", "curl")?;
        said(command.args(["-sS", "--max-time", "20"]).args(options).arg(url))
    }

    /// What the application says that it was asked.
    pub(super) fn asked(&self, arguments: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.curl(arguments)?)?)
    }

    /// A program of the Debian package `package`, in the client's pod.
    pub(super) fn inside(&self, program: &str, package: &str) -> Result<Command> {
        let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output()?;
        ensure!(
            found.status.success(),
            "{program} is missing: `cargo xtask setup` installs it (Debian package {package})"
        );
        let mut command = lab_command(self.client.netns(), self.client.cgroup());
        command.arg("--").arg(program);
        Ok(command)
    }

    pub(super) fn counted(
        &self,
        requests: usize,
        arguments: &[&str],
    ) -> Result<BTreeMap<String, usize>> {
        let mut counts = BTreeMap::new();
        for _ in 0..requests {
            let version = self.asked(arguments)?["version"].as_str().unwrap_or("-").to_owned();
            *counts.entry(version).or_default() += 1;
        }
        Ok(counts)
    }

    /// The sum of the waypoint's series whose lines begin with `name` and have all of `labels`.
    pub(super) fn metric(&self, name: &str, labels: &[&str]) -> Result<u64> {
        let metrics = self.waypoint.get(15020, "/stats/prometheus")?;
        let series = metrics.lines().filter(|line| {
            line.split('{').next() == Some(name) && labels.iter().all(|label| line.contains(label))
        });
        series.map(|line| Ok(line.rsplit(' ').next().context("a value")?.parse::<u64>()?)).sum()
    }
}

/// What a program prints.
pub(super) fn said(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn server(lab: &Lab, version: &'static str) -> Result<Pod> {
    let labels = [("app", "product"), ("version", version)];
    let name = format!("product-{version}");
    let spec = PodSpec { name: &name, namespace: "shop", account: "product", labels: &labels };
    let server = lab.pod(2, &spec)?;
    let listener = server.inside.listen(server.at(8080))?;
    thread::spawn(move || http::serve(listener, version));
    Ok(server)
}

pub(super) const RULES: &str = "apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: product, namespace: shop}
spec:
  hosts: [product]
  http:
  - match: [{headers: {x-canary-user: {exact: \"true\"}}}]
    route: [{destination: {host: product, subset: v2}}]
  - match: [{uri: {prefix: /api/v2}}]
    rewrite: {uri: /two}
    route: [{destination: {host: product, subset: v2}}]
  - match: [{uri: {prefix: /wait}}, {uri: {prefix: /shop.Cart/Wait}}]
    timeout: 1s
    route: [{destination: {host: product, subset: v1}}]
  - route: [{destination: {host: product, subset: v1}}]
---
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: product, namespace: shop}
spec:
  host: product
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";
