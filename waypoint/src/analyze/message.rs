//! Pure: one message about one object.
//! Never: its output (see `report`).
use std::{fmt, str::FromStr};

use culvert_agent::{manifest::Declared, origin::Origin};

/// How bad it is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something may not do what it seems to do.
    Warning,
    /// Something to know.
    Info,
}

/// There is no such level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is none of Error, Warning, Info")]
pub struct UnknownLevel;

impl Level {
    /// Istio's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "Error",
            Self::Warning => "Warning",
            Self::Info => "Info",
        }
    }

    /// Whether it is at least as bad as another.
    pub fn reaches(self, threshold: Self) -> bool {
        self <= threshold
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(word: &str) -> Result<Self, UnknownLevel> {
        let all = [Self::Error, Self::Warning, Self::Info];
        let named = all.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(word));
        named.ok_or(UnknownLevel)
    }
}

/// What a message is about (`pkg/config/analysis/msg/messages.yaml`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// A resource being referenced does not exist.
    ReferencedResourceNotFound,
    /// The resource has a schema validation error.
    SchemaValidationError,
    /// Conflicting hosts on VirtualServices associated with mesh gateway.
    ConflictingMeshGatewayVirtualServiceHosts,
    /// A VirtualService routes to a service with more than one port exposed, but does not specify which.
    VirtualServiceDestinationPortSelectorRequired,
    /// There are no workloads matching the resource's labels.
    NoMatchingWorkloadsFound,
    /// A VirtualService rule will never be used because a previous rule uses the same match.
    VirtualServiceUnreachableRule,
    /// A VirtualService rule match duplicates a match in a previous rule.
    VirtualServiceIneffectiveMatch,
    /// The resource has a schema validation warning.
    SchemaWarning,
    /// A subset of a DestinationRule does not select any pods.
    DestinationRuleSubsetNotSelectPods,
    /// The host of a DestinationRule does not match any services in the mesh.
    UnknownDestinationRuleHost,
    /// Services, pods or policies that contradict each other or name what is not there; Istio has no
    /// message for it.
    Mesh,
}

impl Code {
    /// All codes.
    pub const ALL: [Self; 11] = [
        Self::ReferencedResourceNotFound,
        Self::SchemaValidationError,
        Self::ConflictingMeshGatewayVirtualServiceHosts,
        Self::VirtualServiceDestinationPortSelectorRequired,
        Self::NoMatchingWorkloadsFound,
        Self::VirtualServiceUnreachableRule,
        Self::VirtualServiceIneffectiveMatch,
        Self::SchemaWarning,
        Self::DestinationRuleSubsetNotSelectPods,
        Self::UnknownDestinationRuleHost,
        Self::Mesh,
    ];

    /// The code as people write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReferencedResourceNotFound => "IST0101",
            Self::SchemaValidationError => "IST0106",
            Self::ConflictingMeshGatewayVirtualServiceHosts => "IST0109",
            Self::VirtualServiceDestinationPortSelectorRequired => "IST0112",
            Self::NoMatchingWorkloadsFound => "IST0127",
            Self::VirtualServiceUnreachableRule => "IST0130",
            Self::VirtualServiceIneffectiveMatch => "IST0131",
            Self::SchemaWarning => "IST0133",
            Self::DestinationRuleSubsetNotSelectPods => "IST0173",
            Self::UnknownDestinationRuleHost => "IST0174",
            Self::Mesh => "CVT0001",
        }
    }

    /// How bad it is.
    pub const fn level(self) -> Level {
        match self {
            Self::ReferencedResourceNotFound
            | Self::SchemaValidationError
            | Self::ConflictingMeshGatewayVirtualServiceHosts
            | Self::VirtualServiceDestinationPortSelectorRequired
            | Self::DestinationRuleSubsetNotSelectPods => Level::Error,
            Self::NoMatchingWorkloadsFound
            | Self::VirtualServiceUnreachableRule
            | Self::SchemaWarning
            | Self::UnknownDestinationRuleHost
            | Self::Mesh => Level::Warning,
            Self::VirtualServiceIneffectiveMatch => Level::Info,
        }
    }
}

/// The object that a message is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object {
    /// Its kind.
    pub kind: String,
    /// `<namespace>/<name>`.
    pub name: String,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Something that is worth saying. They are ordered as they are shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Message {
    /// How bad it is.
    pub level: Level,
    /// What it is about.
    pub code: Code,
    /// Whom it is about; `None` for a document that cannot be read.
    pub object: Option<Object>,
    /// Where.
    pub origin: Origin,
    /// What, in Istio's words.
    pub text: String,
}

impl Message {
    /// A message about no object.
    pub(super) fn bare(code: Code, origin: Origin, text: String) -> Self {
        Self { level: code.level(), code, object: None, origin, text }
    }

    /// A message about a field of an object, by its JSON pointer.
    pub(super) fn about(code: Code, declared: &Declared, pointer: &str, text: String) -> Self {
        let name = format!("{}/{}", declared.metadata.namespace, declared.metadata.name);
        let kind = declared.kind.split('.').next().unwrap_or_default().to_owned();
        let object = Some(Object { kind, name });
        Self { level: code.level(), code, object, origin: declared.place(pointer), text }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] (", self.level.as_str(), self.code.as_str())?;
        self.object.iter().try_for_each(|object| write!(f, "{object} "))?;
        write!(f, "{}) {}", self.origin, self.text)
    }
}
