//! Pure: AuthorizationPolicy and PeerAuthentication as the evaluator reads them.
//! Never: wire types, defaults that hide what was written.
use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::origin::Origin;

/// Labels that a workload must have; none means every workload.
pub type Selector = BTreeMap<String, String>;

/// An AuthorizationPolicy (security.istio.io/v1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `<namespace>/<name>`.
    pub name: Arc<str>,
    /// Where it was declared.
    pub origin: Origin,
    /// What it does when a rule matches.
    pub action: Action,
    /// Whether it only says what it would have done (`istio.io/dry-run`).
    pub dry_run: bool,
    /// Whom it protects.
    pub scope: Scope,
    /// It matches when one of them does; without any it never does.
    pub rules: Vec<Rule>,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets matching connections pass; where there are such policies, one must match.
    Allow,
    /// Refuses matching connections, whatever else allows them.
    Deny,
    /// Only notes them.
    Audit,
}

impl Action {
    /// The word in manifests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
        }
    }
}

/// What a policy is attached to (`targetRefs`): waypoints ask it about what they carry there, agents
/// never do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Any of these.
    pub targets: Vec<Target>,
}

/// One thing that a policy is attached to, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A Service of the policy's namespace.
    Service(String),
    /// A ServiceEntry of its namespace.
    ServiceEntry(String),
    /// A Gateway of its namespace.
    Gateway(String),
    /// All waypoints of a class; the policy stands in the root namespace.
    GatewayClass(String),
    /// Nobody knows what: so anything of its namespace, or of the mesh if that is the root.
    Unknown,
}

/// Whom a policy protects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// One namespace; `None` for the whole mesh (the policy stands in the root namespace).
    pub namespace: Option<Arc<str>>,
    /// Only workloads with these labels.
    pub selector: Selector,
}

impl Scope {
    /// Whether a workload of this namespace with these labels is meant.
    pub fn covers(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
            && self.selector.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}

/// One rule: all its clauses must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `from`, `to` and each of `when`: in each of them one alternative must hold.
    pub clauses: Vec<Clause>,
    /// Fields that only HTTP has, as they were written. Without HTTP an ALLOW with any never matches,
    /// and a DENY matches by the rest.
    pub unsupported: Vec<String>,
}

/// Alternatives, each of conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// One of them must hold in full.
    pub alternatives: Vec<Vec<Condition>>,
}

/// One field of a rule: one value must fit, and none of those that must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The field as it was written, for people: `from.source.principals`.
    pub field: &'static str,
    /// Whether it says whom not (`not*`).
    pub negative: bool,
    /// What is asked.
    pub test: Test,
}

/// What a condition asks about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// The client's SPIFFE ID without `spiffe://`.
    Principal(Vec<Pattern>),
    /// The client's namespace, from its identity.
    Namespace(Vec<Pattern>),
    /// The client's namespace and service account, from its identity.
    ServiceAccount(Vec<(String, String)>),
    /// The client's address.
    SourceIp(Vec<IpNet>),
    /// The address of the workload.
    DestinationIp(Vec<IpNet>),
    /// The port of the workload.
    DestinationPort(Vec<u16>),
}

/// A text to compare with (Istio's string matching).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// The same text.
    Exact(String),
    /// `text*`
    Prefix(String),
    /// `*text`
    Suffix(String),
    /// `*`: anything but nothing.
    Present,
}

impl Pattern {
    /// Reads `text`, `text*`, `*text` or `*`.
    pub fn new(text: &str) -> Self {
        match (text.strip_suffix('*'), text.strip_prefix('*')) {
            (Some(""), _) => Self::Present,
            (Some(prefix), _) => Self::Prefix(prefix.to_owned()),
            (None, Some(suffix)) => Self::Suffix(suffix.to_owned()),
            (None, None) => Self::Exact(text.to_owned()),
        }
    }

    /// Whether `text` fits.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == exact,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_str()),
            Self::Present => !text.is_empty(),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Present => f.write_str("*"),
        }
    }
}

/// A PeerAuthentication (security.istio.io/v1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// `<namespace>/<name>`.
    pub name: Arc<str>,
    /// Where it was declared.
    pub origin: Origin,
    /// When it was made, RFC 3339; of several in one scope the oldest counts.
    pub created: String,
    /// Whom it is about.
    pub scope: Scope,
    /// What it asks for; `None` leaves it to the next wider scope.
    pub mode: Option<Mode>,
    /// The same for single ports of the workload.
    pub ports: BTreeMap<u16, Option<Mode>>,
}

/// What a workload accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Tunnels and plaintext. Istio's DISABLE means the same in ambient mode.
    Permissive,
    /// Tunnels only.
    Strict,
}

/// Whether the address is in one of the blocks.
pub(super) fn within(blocks: &[IpNet], address: IpAddr) -> bool {
    blocks.iter().any(|block| block.contains(&address))
}
