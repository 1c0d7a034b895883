//! Pure: objects that say what waypoints do with requests: kept as they stand, with where they stand.
//! Never: knows what they mean. The agent passes them on and looks at nothing but their names.
use std::sync::Arc;

use serde_json::Value;

use super::{documents::lines, objects::Metadata};
use crate::origin::Origin;

/// The kinds of these objects.
pub const KINDS: [&str; 7] = [
    "VirtualService",
    "DestinationRule",
    "HTTPRoute",
    "GRPCRoute",
    "TCPRoute",
    "TLSRoute",
    "ReferenceGrant",
];

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
    /// File and first line.
    pub origin: Origin,
    /// The document that it stands in.
    document: Arc<str>,
    /// Which item of a `List` it is.
    item: Option<usize>,
}

impl Declared {
    /// An object of `kind`. It stands in this document, as such an item of it.
    ///
    /// # Errors
    /// When it has no name, or metadata that make no sense.
    pub(super) fn new(
        kind: &'static str,
        mut object: Value,
        origin: &Origin,
        (document, item): (&Arc<str>, Option<usize>),
    ) -> Result<Self, String> {
        let metadata = object.as_object_mut().and_then(|object| object.remove("metadata"));
        let metadata = metadata.ok_or_else(|| format!("{kind} has no `metadata`"))?;
        let metadata: Metadata = serde_json::from_value(metadata)
            .map_err(|error| format!("{kind}: metadata: {error}"))?;
        let (origin, document) = (origin.clone(), document.clone());
        Ok(Self { kind, metadata, object, origin, document, item })
    }

    /// Where a field stands, by its JSON pointer (RFC 6901); if it is not there, where the closest
    /// one around it does.
    pub fn place(&self, pointer: &str) -> Origin {
        let pointer = match self.item {
            Some(item) => format!("/items/{item}{pointer}"),
            None => pointer.to_owned(),
        };
        let below = lines::line(&self.document, &pointer).unwrap_or(1).saturating_sub(1);
        Origin { file: self.origin.file.clone(), line: self.origin.line + below }
    }
}

/// The kind of an object for waypoints, by group, version and kind.
pub(super) fn kind(api_version: &str, kind: &str) -> Option<&'static str> {
    let (group, version) = api_version.split_once('/')?;
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
