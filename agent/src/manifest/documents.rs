//! Pure: what a folder's files hold, and what remains good of it when one of them breaks.
//! Never: reads a file.
use std::{collections::BTreeMap, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::objects::{Head, Object};
use crate::origin::{Origin, Problem};

/// The largest file that is read, bytes.
pub const MAX_FILE: u64 = 64 << 20;
/// Files in the folder, at most.
pub const MAX_FILES: usize = 100_000;

/// Kinds of policies (security.istio.io).
const POLICY: &str = "AuthorizationPolicy";
const PEER: &str = "PeerAuthentication";

/// An object and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    /// File and line.
    pub origin: Origin,
    /// The object.
    pub object: Object,
}

/// Kind, namespace and name.
type Name = (&'static str, String, String);

/// What the folder holds, file by file. Of an object that breaks, the last good version stays.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    files: BTreeMap<Arc<str>, File>,
}

#[derive(Clone, Debug, Default)]
struct File {
    text: Option<String>,
    objects: BTreeMap<Name, Found>,
    problems: Vec<Problem>,
    /// It could be read as a whole, now or earlier: its last good version is known.
    was_whole: bool,
    /// Among what could not be read there may be a policy.
    lacks_policies: bool,
}

impl Folder {
    /// Takes the present contents of all files: path → text, or why it cannot be read. Says whether
    /// anything changed.
    pub fn update(&mut self, contents: BTreeMap<Arc<str>, Result<String, String>>) -> bool {
        let before = self.files.len();
        self.files.retain(|path, _| contents.contains_key(path));
        let mut changed = self.files.len() != before;
        for (path, text) in contents {
            changed |= self.update_file(path, text);
        }
        changed
    }

    fn update_file(&mut self, path: Arc<str>, text: Result<String, String>) -> bool {
        let file = self.files.entry(path.clone()).or_default();
        match text {
            Ok(text) if file.text.as_ref() == Some(&text) => return false,
            Ok(text) => *file = parse(&path, text, file),
            Err(error) => {
                file.problems = vec![problem(&path, 1, format!("cannot be read: {error}"))];
                file.text = None;
                file.lacks_policies = true;
            }
        }
        true
    }

    /// Whether objects are missing that nobody has seen: a file was damaged from the start.
    pub(super) fn is_partial(&self) -> bool {
        self.files.values().any(|file| !file.was_whole)
    }

    /// Whether a policy may be missing that nobody has seen.
    pub(super) fn may_lack_policies(&self) -> bool {
        self.files.values().any(|file| !file.was_whole && file.lacks_policies)
    }

    /// All objects, each name once, in the order of files; and everything that is wrong.
    pub(super) fn objects(&self) -> (Vec<&Found>, Vec<Problem>) {
        let mut objects: BTreeMap<&Name, &Found> = BTreeMap::new();
        let files = self.files.values();
        let mut problems: Vec<_> = files.clone().flat_map(|file| file.problems.clone()).collect();
        for (name, found) in files.flat_map(|file| &file.objects) {
            let first = *objects.entry(name).or_insert(found);
            if first.origin != found.origin {
                problems.push(twice(name, &first.origin, &found.origin));
            }
        }
        (objects.into_values().collect(), problems)
    }
}

fn twice((kind, namespace, name): &Name, first: &Origin, second: &Origin) -> Problem {
    Problem {
        origin: second.clone(),
        text: format!(
            "{kind} {namespace}/{name} stands at {first} already, which counts: remove one"
        ),
    }
}

/// Parses a file. While any of its documents is broken, objects of its last good version that are
/// missing now may be the broken ones, and stay.
fn parse(path: &Arc<str>, text: String, last: &File) -> File {
    let mut file = File::default();
    for (line, document) in documents(&text) {
        let origin = Origin { file: path.clone(), line };
        if let Err((line, error)) = read(document, &origin, &mut file.objects) {
            file.problems.push(problem(path, origin.line + line, error));
            file.lacks_policies |= may_be_policy(document);
        }
    }
    file.text = Some(text);
    file.was_whole = last.was_whole || file.problems.is_empty();
    if !file.problems.is_empty() {
        for (name, found) in &last.objects {
            file.objects.entry(name.clone()).or_insert_with(|| found.clone());
        }
    }
    file
}

/// Whether a document that cannot be read may be a policy: unless it says that it is something else.
fn may_be_policy(document: &str) -> bool {
    let kind = document.lines().find_map(|line| line.strip_prefix("kind:"));
    kind.is_none_or(|kind| {
        matches!(kind.trim(), "" | POLICY | PEER)
            || kind.contains(['{', '[', '&', '*', '!', '|', '>', '"', '\''])
    })
}

/// Splits at lines that are `---`; each part with the number of its first line that says something.
fn documents(text: &str) -> Vec<(u32, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut first_line, mut line, mut offset) = (0, 1, 1_u32, 0);
    for row in text.split_inclusive('\n') {
        if row.trim_end() == "---" || row.starts_with("--- ") {
            parts.push((first_line, &text[start..offset]));
            start = offset + row.len();
            first_line = line + 1;
        }
        offset += row.len();
        line += 1;
    }
    parts.push((first_line, &text[start..]));
    let says_something = |row: &str| {
        let row = row.trim();
        !row.is_empty() && !row.starts_with('#')
    };
    parts
        .into_iter()
        .filter_map(|(line, part)| {
            let skipped = part.split_inclusive('\n').take_while(|row| !says_something(row));
            let (count, bytes) =
                skipped.fold((0, 0), |(count, bytes), row| (count + 1, bytes + row.len()));
            let rest = &part[bytes..];
            (!rest.trim().is_empty()).then_some((line + count, rest))
        })
        .collect()
}

/// Reads one document: an object, or a list of them. An error comes with its line, counted from the
/// document's first.
fn read(
    document: &str,
    origin: &Origin,
    objects: &mut BTreeMap<Name, Found>,
) -> Result<(), (u32, String)> {
    let head: Head = yaml(document)?;
    match (head.api_version.as_str(), head.kind.as_str()) {
        ("" | _, "") => Err((0, "has no `kind`: is this a Kubernetes object?".into())),
        ("v1", "List") => {
            let list: Value = yaml(document)?;
            let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            for item in items {
                let head: Head = serde_json::from_value(item.clone()).map_err(unplaced)?;
                let read = object(&head, |kind| from_value(kind, item));
                keep(read?, origin, objects);
            }
            Ok(())
        }
        _ => {
            let read = object(&head, |kind| from_text(kind, document))?;
            keep(read, origin, objects);
            Ok(())
        }
    }
}

type Parsed = Result<Object, (u32, String)>;

/// Kinds that the mesh is not made of are other people's.
fn object(head: &Head, read: impl FnOnce(&str) -> Parsed) -> Result<Option<Object>, (u32, String)> {
    match (head.api_version.as_str(), head.kind.as_str()) {
        ("v1", kind @ ("Namespace" | "Node" | "Pod" | "Service"))
        | ("security.istio.io/v1" | "security.istio.io/v1beta1", kind @ (POLICY | PEER)) => {
            read(kind).map(Some)
        }
        ("discovery.k8s.io/v1", kind @ "EndpointSlice") => read(kind).map(Some),
        _ => Ok(None),
    }
}

fn from_text(kind: &str, document: &str) -> Parsed {
    Ok(match kind {
        "Namespace" => Object::Namespace(yaml(document)?),
        "Node" => Object::Node(yaml(document)?),
        "Pod" => Object::Pod(Box::new(yaml(document)?)),
        "EndpointSlice" => Object::Slice(yaml(document)?),
        POLICY => Object::Policy(Box::new(yaml(document)?)),
        PEER => Object::Peer(Box::new(yaml(document)?)),
        _ => Object::Service(yaml(document)?),
    })
}

fn from_value(kind: &str, item: Value) -> Parsed {
    let read = match kind {
        "Namespace" => serde_json::from_value(item).map(Object::Namespace),
        "Node" => serde_json::from_value(item).map(Object::Node),
        "Pod" => serde_json::from_value(item).map(|pod| Object::Pod(Box::new(pod))),
        "EndpointSlice" => serde_json::from_value(item).map(Object::Slice),
        POLICY => serde_json::from_value(item).map(|policy| Object::Policy(Box::new(policy))),
        PEER => serde_json::from_value(item).map(|peer| Object::Peer(Box::new(peer))),
        _ => serde_json::from_value(item).map(Object::Service),
    };
    read.map_err(unplaced)
}

fn keep(object: Option<Object>, origin: &Origin, objects: &mut BTreeMap<Name, Found>) {
    let Some(object) = object else { return };
    let (kind, metadata) = match &object {
        Object::Namespace(namespace) => ("Namespace", &namespace.metadata),
        Object::Node(node) => ("Node", &node.metadata),
        Object::Pod(pod) => ("Pod", &pod.metadata),
        Object::Service(service) => ("Service", &service.metadata),
        Object::Slice(slice) => ("EndpointSlice", &slice.metadata),
        Object::Policy(policy) => (POLICY, &policy.metadata),
        Object::Peer(peer) => (PEER, &peer.metadata),
    };
    let space = if matches!(kind, "Namespace" | "Node") {
        String::new()
    } else {
        metadata.namespace.clone()
    };
    let name = (kind, space, metadata.name.clone());
    objects.insert(name, Found { origin: origin.clone(), object });
}

/// `NO` and `0777` mean in YAML 1.2 what they look like.
fn yaml<T: DeserializeOwned>(document: &str) -> Result<T, (u32, String)> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(document, options).map_err(|error| {
        let line = error.location().map_or(0, |at| u32::try_from(at.line()).unwrap_or(1));
        // Its own line counts from the document's start, not from the file's.
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or_default().to_owned();
        (line.saturating_sub(1), text)
    })
}

fn unplaced(error: serde_json::Error) -> (u32, String) {
    (0, error.to_string())
}

fn problem(file: &Arc<str>, line: u32, text: String) -> Problem {
    Problem { origin: Origin { file: file.clone(), line }, text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "# a shop\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\n\n\
        apiVersion: v1\nkind: Pod\nmetadata: {name: cart, namespace: shop}\nspec: {nodeName: n1}\n";

    fn folder(files: &[(&str, &str)]) -> BTreeMap<Arc<str>, Result<String, String>> {
        files.iter().map(|(path, text)| (Arc::from(*path), Ok((*text).to_owned()))).collect()
    }

    fn names(folder: &Folder) -> Vec<String> {
        folder.objects().0.iter().map(|found| found.origin.to_string()).collect()
    }

    #[test]
    fn objects_keep_file_and_line() {
        let mut state = Folder::default();
        assert!(state.update(folder(&[("a.yaml", GOOD)])));
        assert_eq!(names(&state), ["a.yaml:2", "a.yaml:7"]);
        assert!(!state.update(folder(&[("a.yaml", GOOD)])));
    }

    #[test]
    fn a_broken_document_is_named_and_the_last_good_version_stays() {
        let mut state = Folder::default();
        state.update(folder(&[("a.yaml", GOOD), ("b.yaml", GOOD)]));
        let broken = GOOD.replace("spec: {nodeName: n1}", "spec: {nodeName: [1}");
        state.update(folder(&[("a.yaml", &broken)]));
        let (objects, problems) = state.objects();
        assert_eq!(objects.len(), 2);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].origin.to_string(), "a.yaml:10", "{problems:?}");
        state.update(folder(&[(
            "a.yaml",
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n",
        )]));
        assert_eq!(state.objects().0.len(), 1);
        assert!(state.objects().1.is_empty());
    }

    #[test]
    fn a_wrong_type_a_missing_field_and_a_duplicate_are_problems() {
        for (text, hint) in [
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {hostNetwork: 3}\n", "bool"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {nam: x}\nspec: {}\n", "name"),
            (
                "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 70000}]}\n",
                "u16",
            ),
            ("metadata: {name: x}\n", "kind"),
        ] {
            let mut state = Folder::default();
            state.update(folder(&[("a.yaml", text)]));
            let (_, problems) = state.objects();
            assert_eq!(problems.len(), 1, "{text}");
            assert!(problems[0].text.contains(hint), "{problems:?}");
        }
        let mut state = Folder::default();
        state.update(folder(&[("a.yaml", GOOD), ("b.yaml", GOOD)]));
        assert_eq!(state.objects().1.len(), 2);
        assert!(state.objects().1[0].text.contains("a.yaml:2"));
    }

    #[test]
    fn lists_and_foreign_kinds() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n\
            - {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}\n---\nkind: VirtualService\napiVersion: networking.istio.io/v1\n";
        let mut state = Folder::default();
        state.update(folder(&[("a.yaml", text)]));
        let (objects, problems) = state.objects();
        assert_eq!((objects.len(), problems.len()), (1, 0), "{problems:?}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "([a-z:{}\\[\\]\"' #&*!|>-]|\n|\t|---\n|kind: Pod\n|apiVersion: v1\n){0,200}") {
            Folder::default().update(folder(&[("a.yaml", &text)]));
        }
    }
}
