//! Shell: the agent's configuration file, with its defaults; the only reader of settings.
//! Never: held by anyone after start: `app` hands each room its part by value.
use std::{
    env,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    settings::{self, Ca, ConfigError, Log, Manifests},
    telemetry::LEAST_SERIES,
};

/// Everything that can be set. Unknown keys are errors.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's name, as `spec.nodeName` has it. Default: the environment variable `NODE_NAME`.
    #[serde(default)]
    pub node: String,
    /// The trust domain of every identity of the mesh.
    #[serde(default = "trust_domain")]
    pub trust_domain: String,
    /// The cluster's name, told to peers and part of workloads' unique names.
    #[serde(default = "cluster")]
    pub cluster: String,
    /// The domain of service names.
    #[serde(default = "cluster_domain")]
    pub cluster_domain: String,
    /// The namespace whose policies are the whole mesh's.
    #[serde(default = "root_namespace")]
    pub root_namespace: String,
    /// How two enrolled pods of this node talk to each other.
    #[serde(default)]
    pub same_node: SameNode,
    /// The TCP congestion control of connections between agents and to the pods beside them;
    /// `system`: what the node's other connections have.
    #[serde(default = "congestion_control")]
    pub congestion_control: String,
    /// Threads that carry connections. Default: one for each processor, at most four.
    #[serde(default)]
    pub workers: Option<NonZeroUsize>,
    /// Where Kubernetes objects come from.
    #[serde(default)]
    pub manifests: Manifests,
    /// Who issues certificates.
    #[serde(default)]
    pub ca: Ca,
    /// How the kernel captures connections.
    #[serde(default)]
    pub capture: Capture,
    /// Bounds on connections and tunnels.
    #[serde(default)]
    pub limits: Limits,
    /// What is logged, and how.
    #[serde(default)]
    pub log: Log,
    /// Where the agent answers its operators.
    #[serde(default)]
    pub listen: Listen,
    /// How the agent stops.
    #[serde(default)]
    pub shutdown: Shutdown,
}

/// Which connections the kernel brings to the agent.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CaptureMode {
    /// Those to addresses of services and workloads.
    #[default]
    Mesh,
    /// All of an enrolled pod.
    All,
}

/// How two enrolled pods of one node talk to each other.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SameNode {
    /// The agent joins their connections: identity and policy are checked as ever, and nothing is
    /// encrypted, because nothing leaves the kernel's memory.
    #[default]
    Direct,
    /// The agent joins the first connection of a pair; the next ones go from pod to pod while its
    /// verdict holds, over the node's own network. What that asks of the network: docs/architecture.md,
    /// "Limits".
    Kernel,
    /// By a tunnel, as between nodes.
    Hbone,
}

/// How the kernel captures connections.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capture {
    /// Which connections.
    pub mode: CaptureMode,
    /// Directory on the BPF file system that keeps programs and maps while no agent runs.
    pub pin: PathBuf,
    /// Control group above all pods. Default: the `kubepods` group, else the root.
    pub pods_cgroup: Option<PathBuf>,
    /// Control group above pods, node processes and the agent. Default: the root.
    pub node_cgroup: Option<PathBuf>,
}

/// Bounds on connections and tunnels.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections that the agent carries at one time; further ones are reset.
    pub max_connections: usize,
    /// Tunnel connections to other agents that are open at one time.
    pub max_tunnels: usize,
    /// A tunnel connection that carries nothing is closed after this long.
    #[serde(with = "humantime_serde")]
    pub tunnel_idle: Duration,
    /// Series of traffic metrics, of all families together; who is least recently used makes room.
    pub max_metric_series: usize,
    /// The series of a workload that is gone are removed after this long.
    #[serde(with = "humantime_serde")]
    pub metric_expiry: Duration,
}

/// Where the agent answers its operators.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Dumps and levels; never beyond the node.
    pub admin: SocketAddr,
    /// Prometheus metrics.
    pub metrics: SocketAddr,
    /// Readiness.
    pub ready: SocketAddr,
}

/// How the agent stops.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long open connections may take to finish.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, has an unknown key, or a value that cannot be used.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut config = settings::read(path, Self::parse)?;
        if config.node.is_empty() {
            config.node = env::var("NODE_NAME").unwrap_or_default();
        }
        Ok(config)
    }

    /// Parses the text of a configuration file.
    ///
    /// # Errors
    /// Names line and key.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Says what is wrong and what to do.
    pub fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let wrong = |text: &str| ConfigError::Value { path: path.into(), text: text.into() };
        if self.node.is_empty() {
            return Err(wrong(
                "`node` is not set: give this node's name there, by --node, or in NODE_NAME",
            ));
        }
        settings::check(
            path,
            (&self.manifests, &self.ca),
            (self.limits.max_metric_series, LEAST_SERIES),
            self.listen.admin,
        )
    }
}

fn trust_domain() -> String {
    "cluster.local".into()
}

fn cluster() -> String {
    "Kubernetes".into()
}

fn root_namespace() -> String {
    "istio-system".into()
}

fn congestion_control() -> String {
    "cubic".into()
}

fn cluster_domain() -> String {
    "cluster.local".into()
}

impl Default for Capture {
    fn default() -> Self {
        let pin = PathBuf::from("/sys/fs/bpf/culvert");
        Self { mode: CaptureMode::Mesh, pin, pods_cgroup: None, node_cgroup: None }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 65_536,
            max_tunnels: 16_384,
            tunnel_idle: Duration::from_secs(300),
            max_metric_series: 10_000,
            metric_expiry: Duration::from_secs(300),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            admin: (Ipv4Addr::LOCALHOST, 15000).into(),
            metrics: (Ipv6Addr::UNSPECIFIED, 15020).into(),
            ready: (Ipv6Addr::UNSPECIFIED, 15021).into(),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace: Duration::from_secs(5) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.trust_domain, "cluster.local");
        assert_eq!(config.ca.ttl, Duration::from_secs(86_400));
        assert_eq!(config.capture.mode, CaptureMode::Mesh);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = Config::parse("[capture]\nmod = \"all\"\n").unwrap_err().to_string();
        assert!(error.contains("mod") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn the_commented_file_has_every_key_and_passes() {
        let text = include_str!("../../deploy/config/agent.toml");
        let config = Config::parse(text).unwrap();
        config.check(Path::new("agent.toml")).unwrap();
        let keys = |table: &toml::Table| -> Vec<String> {
            let under = |(name, value): (&String, &toml::Value)| match value.as_table() {
                Some(inner) => inner.keys().map(|key| format!("{name}.{key}")).collect(),
                None => vec![name.clone()],
            };
            table.iter().flat_map(under).collect()
        };
        let commented: toml::Table = toml::from_str(text).unwrap();
        assert_eq!(keys(&commented), keys(&toml::Table::try_from(&config).unwrap()));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let path = Path::new("agent.toml");
        for (text, hint) in [
            ("[manifests]\ndirectory = \"/m\"", "node"),
            ("node = \"n1\"", "manifests.directory"),
            ("node = \"n1\"\n[manifests]\ndirectory = \"/m\"\n[ca]\nttl = \"1s\"", "ca.ttl"),
            (
                "node = \"n1\"\n[manifests]\ndirectory = \"/m\"\n[listen]\nadmin = \"0.0.0.0:15000\"",
                "loopback",
            ),
        ] {
            let error = Config::parse(text).unwrap().check(path).unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
    }
}
