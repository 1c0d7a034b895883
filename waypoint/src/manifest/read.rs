//! Pure: an object as it stands → its typed form; what it says and nobody understands is named.
//! Never: what the fields mean.
mod node;

use culvert_agent::manifest::Declared;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use self::node::{Log, Node};
use super::finding::{Findings, field};

/// An object but its metadata.
#[derive(Deserialize)]
struct Whole<T> {
    #[serde(rename = "apiVersion")]
    _api_version: Value,
    #[serde(rename = "kind")]
    _kind: Value,
    #[serde(rename = "status", default)]
    _status: Value,
    spec: T,
}

/// The object's spec; `None` when it cannot be one. Fields that nobody knows are found invalid: a
/// condition that is misspelt must not let everything through.
pub(crate) fn spec<T: DeserializeOwned>(declared: &Declared, findings: &mut Findings) -> Option<T> {
    let log = Log::default();
    let read = Whole::<T>::deserialize(Node::of(&declared.object, &log));
    for pointer in log.unknown.take() {
        findings.invalid(&pointer, format!("unknown field {:?}", field(&pointer)));
    }
    match read {
        Ok(whole) => Some(whole.spec),
        Err(error) => {
            let pointer = log.wrong.take().unwrap_or_default();
            let text = match pointer.is_empty() {
                true => error.to_string(),
                false => format!("{}: {error}", field(&pointer)),
            };
            findings.invalid(&pointer, text);
            None
        }
    }
}
