//! Shell: the waypoint's configuration file, with its defaults; the only reader of settings.
//! Never: held by anyone after start: `app` hands each room its part by value.
use std::{
    env,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use culvert_agent::settings::{self, Ca, ConfigError, Log, Manifests};
use serde::{Deserialize, Serialize};

use crate::{path::Normalisation, record::book::LEAST_SERIES, retry::Beyond};

/// Everything that can be set. Unknown keys are errors.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name of the Gateway that this is the proxy of.
    #[serde(default)]
    pub gateway: String,
    /// Its namespace. Default: the environment variable `POD_NAMESPACE`.
    #[serde(default)]
    pub namespace: String,
    /// The service account of this pod, whose identity endpoints see. Default: the gateway's name.
    #[serde(default)]
    pub service_account: String,
    /// This pod's own address, from which endpoints are dialled. Default: the environment variable
    /// `POD_IP`.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// The trust domain of every identity of the mesh.
    #[serde(default = "cluster_local")]
    pub trust_domain: String,
    /// Trust domains that stand for it: their clients are let in (Istio's `trustDomainAliases`).
    #[serde(default)]
    pub trust_domain_aliases: Vec<String>,
    /// The cluster's name, told to peers and part of workloads' unique names.
    #[serde(default = "cluster")]
    pub cluster: String,
    /// The domain of service names.
    #[serde(default = "cluster_local")]
    pub cluster_domain: String,
    /// The namespace whose policies are the whole mesh's.
    #[serde(default = "root_namespace")]
    pub root_namespace: String,
    /// How far paths are normalised before anything looks at them.
    #[serde(default)]
    pub path_normalization: Paths,
    /// Servers of names, with their ports; empty for those of `/etc/resolv.conf`.
    #[serde(default)]
    pub dns: Vec<SocketAddr>,
    /// Whether `sourceLabels` of VirtualServices count; Istio's waypoints leave such `match` blocks out.
    #[serde(default = "yes")]
    pub source_labels: bool,
    /// Where Kubernetes objects come from.
    #[serde(default)]
    pub manifests: Manifests,
    /// Who issues certificates.
    #[serde(default)]
    pub ca: Ca,
    /// Tries beyond what rules say.
    #[serde(default)]
    pub retries: Retries,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
    /// One line for each request.
    #[serde(default)]
    pub access_log: AccessLog,
    /// What else is logged, and how.
    #[serde(default)]
    pub log: Log,
    /// Where the waypoint listens.
    #[serde(default)]
    pub listen: Listen,
    /// How it stops.
    #[serde(default)]
    pub shutdown: Shutdown,
}

/// How far paths are normalised (Istio's `meshConfig.pathNormalization`).
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Paths {
    /// Not at all.
    None,
    /// Dot segments are resolved, backslashes are slashes.
    #[default]
    Base,
    /// Several slashes are one, too.
    MergeSlashes,
    /// Escaped slashes are slashes, too.
    DecodeAndMergeSlashes,
}

/// Tries beyond what rules and Istio's default say. They change what clients see, so there are none
/// unless asked for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// A request that could not be sent because nobody listens is tried again whatever its rule says.
    pub no_listener: bool,
    /// Istio's default retries repeat 503, too.
    pub default_503: bool,
}

/// Bounds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Tunnels of clients that are open at one time; further ones are reset.
    pub max_connections: usize,
    /// Requests that are open at one time; further ones are answered with 503.
    pub max_requests: usize,
    /// A request whose body stops for this long, at most twice that, before it was answered, is answered
    /// with 408. gRPC calls may be silent.
    #[serde(with = "humantime_serde")]
    pub request_body_idle: Duration,
    /// Tunnel connections to endpoints' agents that are open at one time.
    pub max_tunnels: usize,
    /// A tunnel connection that carries nothing is closed after this long.
    #[serde(with = "humantime_serde")]
    pub tunnel_idle: Duration,
    /// Series of traffic metrics, of all families together; who is least recently used makes room.
    pub max_metric_series: usize,
}

/// One line for each request.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    /// In which form.
    pub format: AccessFormat,
}

/// The form of the access log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    /// Istio's default text format.
    #[default]
    Text,
    /// One JSON object a line, with Istio's keys.
    Json,
    /// There is none.
    Off,
}

/// Where the waypoint listens.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Tunnels.
    pub hbone: SocketAddr,
    /// Dumps and levels; never beyond the pod.
    pub admin: SocketAddr,
    /// Prometheus metrics.
    pub metrics: SocketAddr,
    /// Readiness.
    pub ready: SocketAddr,
}

/// How it stops.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// How long open requests may take to finish.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

impl Config {
    /// Reads the file, and what Kubernetes puts into the environment.
    ///
    /// # Errors
    /// When it cannot be read, has an unknown key, or a value that cannot be used.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let mut config = settings::read(path, Self::parse)?;
        if config.namespace.is_empty() {
            config.namespace = env::var("POD_NAMESPACE").unwrap_or_default();
        }
        if config.address.is_none() {
            config.address = env::var("POD_IP").ok().and_then(|address| address.parse().ok());
        }
        Ok(config)
    }

    /// Parses the text of a configuration file.
    ///
    /// # Errors
    /// Names line and key.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        let mut config: Self = toml::from_str(text)?;
        if config.service_account.is_empty() {
            config.service_account.clone_from(&config.gateway);
        }
        Ok(config)
    }

    /// Checks what the types cannot. Gives this pod's address.
    ///
    /// # Errors
    /// Says what is wrong and what to do.
    pub fn check(&self, path: &Path) -> Result<IpAddr, ConfigError> {
        let wrong = |text: &str| ConfigError::Value { path: path.into(), text: text.into() };
        if self.gateway.is_empty() {
            return Err(wrong("`gateway` is not set: name the Gateway that this is the proxy of"));
        }
        if self.namespace.is_empty() {
            return Err(wrong(
                "`namespace` is not set: give the Gateway's namespace there or in POD_NAMESPACE",
            ));
        }
        let address = self.address.ok_or_else(|| {
            wrong("`address` is not set: give this pod's address there or in POD_IP")
        })?;
        settings::check(
            path,
            (&self.manifests, &self.ca),
            (self.limits.max_metric_series, LEAST_SERIES),
            self.listen.admin,
        )?;
        Ok(address)
    }
}

fn cluster_local() -> String {
    "cluster.local".into()
}

fn cluster() -> String {
    "Kubernetes".into()
}

fn yes() -> bool {
    true
}

fn root_namespace() -> String {
    "istio-system".into()
}

impl From<Paths> for Normalisation {
    fn from(paths: Paths) -> Self {
        match paths {
            Paths::None => Self::None,
            Paths::Base => Self::Base,
            Paths::MergeSlashes => Self::MergeSlashes,
            Paths::DecodeAndMergeSlashes => Self::DecodeAndMergeSlashes,
        }
    }
}

impl From<Retries> for Beyond {
    fn from(Retries { no_listener, default_503 }: Retries) -> Self {
        Self { no_listener, default_503 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 65_536,
            max_requests: 65_536,
            request_body_idle: Duration::from_secs(60),
            max_tunnels: 16_384,
            tunnel_idle: Duration::from_secs(300),
            max_metric_series: 50_000,
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            hbone: (Ipv6Addr::UNSPECIFIED, 15008).into(),
            admin: (Ipv4Addr::LOCALHOST, 15000).into(),
            metrics: (Ipv6Addr::UNSPECIFIED, 15020).into(),
            ready: (Ipv6Addr::UNSPECIFIED, 15021).into(),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace: Duration::from_secs(30) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = Config::parse("[limits]\nmax = 1\n").unwrap_err().to_string();
        assert!(error.contains("max") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn the_commented_file_has_every_key_and_passes() {
        let text = include_str!("../../deploy/config/waypoint.toml");
        let config = Config::parse(text).unwrap();
        config.check(Path::new("waypoint.toml")).unwrap();
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
        let path = Path::new("waypoint.toml");
        let own = "gateway = \"waypoint\"\nnamespace = \"shop\"\naddress = \"10.0.0.1\"\n";
        for (text, hint) in [
            (String::new(), "gateway"),
            ("gateway = \"waypoint\"".into(), "namespace"),
            ("gateway = \"waypoint\"\nnamespace = \"shop\"".into(), "address"),
            (own.into(), "manifests.directory"),
            (format!("{own}[manifests]\ndirectory = \"/m\"\n[ca]\nttl = \"1s\""), "ca.ttl"),
            (
                format!(
                    "{own}[manifests]\ndirectory = \"/m\"\n[listen]\nadmin = \"0.0.0.0:15000\""
                ),
                "loopback",
            ),
        ] {
            let error = Config::parse(&text).unwrap().check(path).unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
    }
}
