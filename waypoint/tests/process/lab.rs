//! Shell: one waypoint with its folder of manifests, and the mesh around it.
use std::{
    fs,
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use culvert_agent::{
    clock,
    drain::Drain,
    hbone::pool::{Pool, PoolLimits},
    identity::{Credentials, Identity, ca::LocalCa},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    client::Client,
    pod::{Pod, Seen},
};

/// The service of most tests: port 80 is HTTP, 81 gRPC, 82 says nothing, 83 TCP, 84 TLS.
pub(crate) const CART: [u8; 4] = [10, 96, 0, 1];
/// It opted out.
pub(crate) const FREE: [u8; 4] = [10, 96, 0, 2];
/// Its Gateway is another.
pub(crate) const FOREIGN: [u8; 4] = [10, 96, 0, 3];

pub(crate) struct Lab {
    net: [u8; 2],
    folder: PathBuf,
    ca: LocalCa,
    /// The waypoint, and another of its kind.
    waypoints: Vec<Child>,
    pub(crate) drain: Drain,
    pub(crate) pool: Pool,
}

impl Lab {
    /// A mesh without pods, and no rules but `rules`.
    pub(crate) async fn new(rules: &str) -> Self {
        Self::configured(rules, "").await
    }

    /// The same with more of a configuration.
    pub(crate) async fn configured(rules: &str, config: &str) -> Self {
        let (a, b) = (rand::random_range(1..255), rand::random_range(1..255));
        let folder =
            std::env::temp_dir().join(format!("culvert-waypoint-{}", rand::random::<u64>()));
        fs::create_dir_all(folder.join("m")).expect("a folder");
        let hour = Duration::from_secs(3600);
        let ca = LocalCa::open(&folder.join("ca.pem"), "cluster.local", hour, clock::wall());
        let drain = Drain::default();
        let limits = PoolLimits { connections: 1000, idle: hour };
        let mut lab = Self {
            net: [a, b],
            folder,
            ca: ca.expect("a root"),
            waypoints: Vec::new(),
            pool: Pool::new(limits, drain.clone()),
            drain,
        };
        lab.write("mesh.yaml", &mesh(&lab));
        lab.write("rules.yaml", rules);
        lab.start(9, config).await;
        lab
    }

    /// Starts another waypoint of the same Gateway at this address.
    pub(crate) async fn replicate(&mut self, host: u8) {
        self.start(host, "").await;
    }

    /// Puts the waypoint and pods that are there into zones of region `r`, and waits until it knows.
    pub(crate) async fn place(&self, own: &str, pods: &[(u8, &str)]) {
        let account = "{serviceAccountName: waypoint}";
        let placed = format!("{{serviceAccountName: waypoint, nodeName: node-{own}}}");
        let zones = ["a", "b", "c"].map(|zone| {
            format!("---\n{{kind: Node, apiVersion: v1, metadata: {{name: node-{zone}, labels: {{topology.kubernetes.io/region: r, topology.kubernetes.io/zone: {zone}}}}}}}\n")
        });
        self.write(
            "mesh.yaml",
            &format!("{}{}", mesh(self).replace(account, &placed), zones.concat()),
        );
        for (host, zone) in pods {
            let text = pod(self, *host, "v1");
            let placed = format!("serviceAccountName: cart, nodeName: node-{zone}");
            self.write(
                &format!("cart-{host}.yaml"),
                &text.replace("serviceAccountName: cart", &placed),
            );
        }
        for _ in 0..500 {
            let shown =
                self.get(15000, "/endpoints?service=cart.shop:80").await.unwrap_or_default();
            if shown.matches("\"r/").count() == pods.len() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the waypoint does not know the zones");
    }

    /// An address of this mesh.
    pub(crate) fn address(&self, host: u8) -> IpAddr {
        Ipv4Addr::new(127, self.net[0], self.net[1], host).into()
    }

    /// Where the waypoint takes tunnels.
    pub(crate) fn waypoint(&self) -> SocketAddr {
        SocketAddr::new(self.address(9), 15008)
    }

    /// Writes a file of the folder; a waypoint that runs follows it.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join("m").join(name), text).expect("a written file");
    }

    /// Writes a file beside the folder, and says where it is.
    pub(crate) fn keep(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, text).expect("a written file");
        path.display().to_string()
    }

    /// Declares the waypoint's Gateway in other words.
    pub(crate) fn gateway(&self, text: &str) {
        let mesh = mesh(self);
        let (before, rest) = mesh.split_once("---\n").expect("a namespace");
        let (_, after) = rest.split_once("---\n").expect("a gateway");
        self.write("mesh.yaml", &format!("{before}---\n{text}{after}"));
    }

    /// Adds a pod of the service cart, of this version, and waits until the waypoint knows it.
    pub(crate) async fn pod(&self, host: u8, version: &str) -> Pod {
        let pod = Pod::start(self, host).await;
        self.declare(host, version).await;
        pod
    }

    /// Declares a pod, whoever is there.
    pub(crate) async fn declare(&self, host: u8, version: &str) {
        self.write(&format!("cart-{host}.yaml"), &pod(self, host, version));
        self.until(|dump| dump.contains(&format!("cart-{host}"))).await;
    }

    /// Waits until the waypoint's dump is as it should be.
    pub(crate) async fn until(&self, holds: impl Fn(&str) -> bool) {
        for _ in 0..500 {
            if holds(&self.get(15000, "/config_dump").await.unwrap_or_default()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the waypoint does not get there");
    }

    /// What one of the waypoint's own endpoints answers; `None` when nobody does, or not with 200.
    pub(crate) async fn get(&self, port: u16, path: &str) -> Option<String> {
        self.ask(9, port, path).await
    }

    async fn ask(&self, host: u8, port: u16, path: &str) -> Option<String> {
        let address = SocketAddr::new(self.address(host), port);
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).ok()?;
            std::io::Write::write_all(&mut stream, request.as_bytes()).ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            head.contains(" 200 ").then(|| body.to_owned())
        })
        .await
        .ok()?
    }

    /// What the waypoint has written.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Waits for a line with all of these in it.
    pub(crate) async fn line(&self, parts: &[&str]) -> String {
        for _ in 0..200 {
            let log = self.log();
            let found = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
            if let Some(line) = found {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no line with {parts:?} in\n{}", self.log());
    }

    /// Certificates of an identity of the mesh.
    pub(crate) fn credentials(&self, identity: &str) -> Arc<Credentials> {
        let svid = self.ca.issue(&identity.parse().expect("an identity"), clock::wall());
        Arc::new(Credentials::new(svid.expect("a certificate")).expect("credentials"))
    }

    /// A client in a pod of the mesh.
    pub(crate) fn client(&self) -> Client<'_> {
        Client::new(self, "spiffe://cluster.local/ns/shop/sa/web", 100)
    }

    /// Whom pods see.
    pub(crate) fn own_identity() -> Identity {
        "spiffe://cluster.local/ns/shop/sa/waypoint".parse().expect("an identity")
    }

    /// Asks the waypoint to stop, and does not wait.
    pub(crate) fn terminate(&self) {
        let child = self.waypoints.first().expect("a waypoint");
        let pid = Pid::from_raw(child.id().try_into().expect("a process"));
        kill(pid, Signal::SIGTERM).expect("a signal");
    }

    /// Whether it has stopped.
    pub(crate) fn has_stopped(&mut self) -> bool {
        let child = self.waypoints.first_mut().expect("a waypoint");
        child.try_wait().expect("a process").is_some()
    }

    async fn start(&mut self, host: u8, config: &str) {
        let (path, own) = (self.folder.join(format!("waypoint-{host}.toml")), self.address(host));
        let (folder, ca) = (self.folder.join("m"), self.folder.join("ca.pem"));
        // What stands in no table comes before all tables.
        let (top, tables) = match config.starts_with('[') {
            true => ("", config),
            false => config.split_at(config.find("\n[").unwrap_or(config.len())),
        };
        let [a, b] = self.net;
        let top = top.replace("NET", &format!("127.{a}.{b}"));
        let text = format!(
            "{top}\ngateway = \"waypoint\"\nnamespace = \"shop\"\naddress = \"{own}\"\n\
             [manifests]\ndirectory = {folder:?}\n[ca]\nfile = {ca:?}\n\
             [listen]\nhbone = \"{own}:15008\"\nadmin = \"{own}:15000\"\nmetrics = \"{own}:15020\"\nready = \"{own}:15021\"\n{tables}\n"
        );
        fs::write(&path, text).expect("a configuration");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log"));
        let log = log.expect("a log");
        let errors = log.try_clone().expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_culvert-waypoint"))
            .args(["run", "--config"])
            .arg(&path)
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(errors))
            .spawn();
        self.waypoints.push(child.expect("the waypoint"));
        for _ in 0..500 {
            if self.ask(host, 15021, "/healthz/ready").await.is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the waypoint is not ready:\n{}", self.log());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.drain.force();
        for child in &mut self.waypoints {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the waypoint says:\n{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What pods have seen, all together.
pub(crate) fn seen(pods: &[&Pod]) -> Vec<Seen> {
    pods.iter().flat_map(|pod| pod.seen()).collect()
}

fn pod(lab: &Lab, host: u8, version: &str) -> String {
    let ip = lab.address(host);
    format!(
        "{{kind: Pod, apiVersion: v1, metadata: {{name: cart-{host}, namespace: shop, labels: {{app: cart, version: {version}}}}}, spec: {{serviceAccountName: cart}}, status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}}}\n"
    )
}

fn mesh(lab: &Lab) -> String {
    let ports = "[{name: http, port: 80, targetPort: 8080}, {name: grpc, port: 81, targetPort: 8081}, {port: 82, targetPort: 8082}, {name: tcp, port: 83, targetPort: 8083}, {name: tls, port: 84, targetPort: 8084}]";
    let service = |name: &str, vip: [u8; 4], labels: &str| {
        let vip = Ipv4Addr::from(vip);
        format!(
            "---\n{{kind: Service, apiVersion: v1, metadata: {{name: {name}, namespace: shop, labels: {labels}}}, spec: {{clusterIP: {vip}, selector: {{app: cart}}, ports: {ports}}}}}\n"
        )
    };
    let gateway = |name: &str, labels: &str| {
        format!(
            "---\n{{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: {name}, namespace: shop, labels: {labels}}}, spec: {{gatewayClassName: culvert-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}}}\n"
        )
    };
    let pod = |name: &str, account: &str, host: u8, labels: &str| {
        let ip = lab.address(host);
        format!(
            "---\n{{kind: Pod, apiVersion: v1, metadata: {{name: {name}, namespace: shop, labels: {labels}}}, spec: {{serviceAccountName: {account}}}, status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}}}\n"
        )
    };
    [
        "{kind: Namespace, apiVersion: v1, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}}\n".into(),
        gateway("waypoint", "{}"),
        gateway("other", "{}"),
        service("cart", CART, "{}"),
        service("free", FREE, "{istio.io/use-waypoint: none}"),
        service("foreign", FOREIGN, "{istio.io/use-waypoint: other}"),
        pod("web-0", "web", 100, "{app: web, version: v1, team: shop}"),
        pod("waypoint-0", "waypoint", 9, "{gateway.networking.k8s.io/gateway-name: waypoint, istio.io/dataplane-mode: none}"),
    ]
    .concat()
}
