//! Shell: what the configuration files of agent and waypoint have in common, and how one is read.
//! Never: what only one of them has.
use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The shortest life of a certificate.
const MIN_TTL: Duration = Duration::from_secs(2);

/// Where Kubernetes objects come from.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manifests {
    /// A folder of YAML files, watched. `--manifests` overrides it.
    pub directory: PathBuf,
}

/// The local certificate authority.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ca {
    /// Root certificate and key, one PEM file; made on first use, readable by its owner only.
    pub file: PathBuf,
    /// Lifetime of a certificate.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// The part of its life after which it is renewed, give or take 5 %.
    pub renew_at: f64,
}

/// What is logged, and how.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `text` for people, `json` for programs.
    pub format: Format,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a list such as `info,h2=debug`.
    pub level: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not what it should be; the source names line and key.
    #[error("configuration {path}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// A value cannot be used.
    #[error("configuration {path}: {text}")]
    Value {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        text: String,
    },
}

/// Reads a configuration file.
///
/// # Errors
/// When it cannot be read, or `parse` says so.
pub fn read<T>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, toml::de::Error>,
) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.into(), source })?;
    parse(&text)
        .map_err(|source| ConfigError::Parse { path: path.into(), source: Box::new(source) })
}

/// Checks of the common settings what the types cannot. `series` are the series of metrics that there
/// may be, and how many there must be.
///
/// # Errors
/// Says what is wrong and what to do.
pub fn check(
    path: &Path,
    (manifests, ca): (&Manifests, &Ca),
    (series, least): (usize, usize),
    admin: SocketAddr,
) -> Result<(), ConfigError> {
    let wrong = |text: &str| Err(ConfigError::Value { path: path.into(), text: text.into() });
    if manifests.directory.as_os_str().is_empty() {
        return wrong("`manifests.directory` is not set: give a folder there or by --manifests");
    }
    if ca.ttl < MIN_TTL {
        return wrong(
            "`ca.ttl` is below two seconds: certificates would expire while they are made",
        );
    }
    if !(0.1..=0.9).contains(&ca.renew_at) {
        return wrong("`ca.renew_at` must be between 0.1 and 0.9");
    }
    if series < least {
        return wrong(&format!(
            "`limits.max_metric_series` is below {least}: no workload would have series of its own"
        ));
    }
    if !admin.ip().is_loopback() {
        return wrong(
            "`listen.admin` must be a loopback address: it answers without asking who asks",
        );
    }
    Ok(())
}

impl Default for Ca {
    fn default() -> Self {
        let file = PathBuf::from("/var/lib/culvert/ca.pem");
        Self { file, ttl: Duration::from_secs(24 * 3600), renew_at: 0.5 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: Format::Text, level: "info".into() }
    }
}
