//! Shell: Envoy, with a listener and a cluster for each service.
//! Never: a missing Envoy that reads as a pass: without one the tests fail, and say what to do.
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{Http, Setting, port};

/// The beginning of Istio's default text format, which is compared.
const FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n";
/// Endpoints that it has kept a connection to for long are tried no other way than in Istio.
const CONNECT_TIMEOUT: &str = "10s";

/// A running Envoy.
pub(super) struct Envoy {
    address: IpAddr,
    folder: PathBuf,
    process: Child,
}

impl Envoy {
    /// Starts it with these services, and the addresses of their endpoints.
    pub(super) async fn start(
        address: IpAddr,
        settings: &[Setting],
        at: &[Vec<SocketAddr>],
    ) -> Self {
        let folder = std::env::temp_dir().join(format!("culvert-envoy-{}", rand::random::<u64>()));
        fs::create_dir_all(&folder).expect("a folder");
        let config = folder.join("envoy.json");
        let text = config_of(address, &folder, settings, at).to_string();
        fs::write(&config, text).expect("a configuration");
        let out = fs::File::create(folder.join("out")).expect("a file");
        let errors = out.try_clone().expect("a file");
        // One worker: limits and turns are then exact in Envoy, too.
        let process = Command::new(binary())
            .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"])
            .args(["--file-flush-interval-msec", "20", "-c"])
            .arg(config)
            .stdout(Stdio::from(out))
            .stderr(Stdio::from(errors))
            .spawn()
            .expect("Envoy starts");
        let mut envoy = Self { address, folder, process };
        envoy.listens().await;
        envoy
    }

    /// Where it takes the requests of a service.
    pub(super) fn at(&self, number: usize) -> SocketAddr {
        SocketAddr::new(self.address, port(7000, number))
    }

    /// Its access log.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    async fn listens(&mut self) {
        for _ in 0..500 {
            if TcpStream::connect(self.at(0)).await.is_ok() {
                return;
            }
            if let Ok(Some(_)) = self.process.try_wait() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let said = fs::read_to_string(self.folder.join("out")).unwrap_or_default();
        panic!("Envoy does not listen:\n{said}");
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The binary that `ENVOY` names, or the one that `cargo xtask setup` installed.
fn binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("ENVOY") {
        return binary.into();
    }
    let inside = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target folder");
    let installed = inside(target)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("envoy-"))
        .flat_map(|entry| inside(&entry.path().join("lib")).collect::<Vec<_>>())
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|binary| binary.is_file());
    installed.expect("Envoy: `cargo xtask setup` installs it, or ENVOY names its binary")
}

fn config_of(
    address: IpAddr,
    folder: &Path,
    settings: &[Setting],
    at: &[Vec<SocketAddr>],
) -> Value {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (number, (setting, at)) in settings.iter().zip(at).enumerate() {
        let name = format!("s{number}");
        listeners.push(listener(
            &name,
            SocketAddr::new(address, port(7000, number)),
            setting,
            folder,
        ));
        clusters.push(cluster(&name, setting, at));
    }
    json!({ "static_resources": { "listeners": listeners, "clusters": clusters } })
}

fn listener(name: &str, at: SocketAddr, setting: &Setting, folder: &Path) -> Value {
    let of = |kind: &str, mut value: Value| {
        value["@type"] = format!("type.googleapis.com/envoy.extensions.{kind}").into();
        value
    };
    let log = of(
        "access_loggers.file.v3.FileAccessLog",
        json!({ "path": folder.join("log"),
                "log_format": { "text_format_source": { "inline_string": FORMAT } } }),
    );
    let manager = json!({
        "stat_prefix": name, "codec_type": "AUTO", "server_name": "istio-envoy",
        "normalize_path": true, "stream_idle_timeout": "0s",
        "access_log": [{ "name": "envoy.access_loggers.file", "typed_config": log }],
        "route_config": { "name": name, "virtual_hosts": [{ "name": name, "domains": ["*"], "routes": [
            { "match": { "prefix": "/" }, "route": setting.policies.route(name) }] }] },
        "http_filters": [{ "name": "envoy.filters.http.router",
                           "typed_config": of("filters.http.router.v3.Router", json!({})) }],
    });
    let kind = "filters.network.http_connection_manager.v3.HttpConnectionManager";
    json!({ "name": name, "address": socket(at), "filter_chains": [{ "filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": of(kind, manager) }] }] })
}

fn cluster(name: &str, setting: &Setting, at: &[SocketAddr]) -> Value {
    let endpoints: Vec<_> =
        at.iter().map(|at| json!({ "endpoint": { "address": socket(*at) } })).collect();
    let protocol = match setting.http {
        Http::One => "http_protocol_options",
        Http::Two => "http2_protocol_options",
    };
    let kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let options = json!({ "@type": format!("type.googleapis.com/{kind}"),
                          "explicit_http_config": { protocol: {} } });
    let mut cluster = json!({
        "name": name, "type": "STATIC", "connect_timeout": CONNECT_TIMEOUT,
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] },
        "typed_extension_protocol_options": { kind: options },
    });
    setting.policies.cluster(&mut cluster);
    cluster
}

fn socket(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip(), "port_value": at.port() } })
}
