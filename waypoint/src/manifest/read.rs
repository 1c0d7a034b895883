//! Pure: an object as it stands → its typed form; what it says and nobody understands is named.
//! Never: what the fields mean.
use culvert_agent::manifest::Declared;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use serde_path_to_error::{Deserializer, Segment, Track};

use super::finding::{Findings, field, step};

/// An object but its metadata.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
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
pub(super) fn spec<T: DeserializeOwned>(declared: &Declared, findings: &mut Findings) -> Option<T> {
    let mut track = Track::new();
    let tracked = Deserializer::new(&declared.object, &mut track);
    let mut unknown = Vec::new();
    let read = serde_ignored::deserialize::<_, _, Whole<T>>(tracked, |path| {
        unknown.push(ignored(&path));
    });
    for pointer in unknown {
        findings.invalid(&pointer, format!("unknown field {:?}", field(&pointer)));
    }
    match read {
        Ok(whole) => Some(whole.spec),
        Err(error) => {
            let pointer: String = track.path().iter().map(segment).collect();
            let text = match pointer.is_empty() {
                true => error.to_string(),
                false => format!("{}: {error}", field(&pointer)),
            };
            findings.invalid(&pointer, text);
            None
        }
    }
}

fn segment(segment: &Segment) -> String {
    match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } | Segment::Enum { variant: key } => format!("/{}", step(key)),
        Segment::Unknown => String::new(),
    }
}

fn ignored(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}/{index}", ignored(parent)),
        Path::Map { parent, key } => format!("{}/{}", ignored(parent), step(key)),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => ignored(parent),
    }
}
