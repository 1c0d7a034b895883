//! Pure: objects that say what waypoints do with requests, and those that such objects name: kept as they
//! stand, with where they stand.
//! Never: knows what they mean. The agent passes them on and looks at nothing but their names.
use serde_json::Value;

use super::{documents::Lines, objects::Metadata};
use crate::origin::Origin;

/// The kinds of these objects.
pub const KINDS: [&str; 10] = [
    "VirtualService",
    "DestinationRule",
    "HTTPRoute",
    "GRPCRoute",
    "TCPRoute",
    "TLSRoute",
    "ReferenceGrant",
    "BackendTLSPolicy",
    ISTIO_GATEWAY,
    SECRET,
];

/// Istio's own Gateway, which is another than the Gateway API's (`<kind>.<group>`, as kubectl has it).
pub const ISTIO_GATEWAY: &str = "Gateway.networking.istio.io";
/// A Secret, of which nothing is kept but its name.
pub const SECRET: &str = "Secret";

/// Kind, namespace and name.
pub type Name = (&'static str, String, String);

/// One object for waypoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// One of [`KINDS`].
    pub kind: &'static str,
    /// Name, namespace, labels, annotations and age.
    pub metadata: Metadata,
    /// The whole object but its metadata.
    pub object: Value,
    /// Where its document begins.
    document: Origin,
    lines: Lines,
}

impl Declared {
    /// An object of `kind`, in a document that begins at `origin`.
    ///
    /// # Errors
    /// When it has no name, or metadata that make no sense.
    pub(super) fn new(
        kind: &'static str,
        mut object: Value,
        document: &Origin,
        lines: Lines,
    ) -> Result<Self, String> {
        let metadata = object.as_object_mut().and_then(|object| object.remove("metadata"));
        let metadata = metadata.ok_or_else(|| format!("{kind} has no `metadata`"))?;
        let metadata: Metadata = serde_json::from_value(metadata)
            .map_err(|error| format!("{kind}: metadata: {error}"))?;
        if kind == SECRET {
            object = Value::Null;
        }
        Ok(Self { kind, metadata, object, document: document.clone(), lines })
    }

    /// File and first line.
    pub fn origin(&self) -> Origin {
        self.place("")
    }

    /// Where a field stands, by its JSON pointer (RFC 6901); if it is not there, where the closest
    /// one around it does.
    pub fn place(&self, pointer: &str) -> Origin {
        let below = self.lines.line(pointer).saturating_sub(1);
        Origin { file: self.document.file.clone(), line: self.document.line + below }
    }
}

/// The kind of an object for waypoints, by group, version and kind.
pub(super) fn kind(api_version: &str, kind: &str) -> Option<&'static str> {
    if (api_version, kind) == ("v1", SECRET) {
        return Some(SECRET);
    }
    let (group, version) = api_version.split_once('/')?;
    if (group, kind) == ("networking.istio.io", "Gateway") {
        return matches!(version, "v1" | "v1beta1" | "v1alpha3").then_some(ISTIO_GATEWAY);
    }
    let kind = KINDS.into_iter().find(|known| *known == kind)?;
    let istio = matches!(kind, "VirtualService" | "DestinationRule");
    let known = match group {
        "networking.istio.io" => istio && matches!(version, "v1" | "v1beta1" | "v1alpha3"),
        "gateway.networking.k8s.io" => {
            !istio && matches!(version, "v1" | "v1beta1" | "v1alpha2" | "v1alpha3")
        }
        _ => false,
    };
    known.then_some(kind)
}
