//! Pure: what a folder's files hold, and what remains good of it when one of them breaks.
//! Never: reads a file.
mod lines;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use serde::de::DeserializeOwned;
use serde_json::Value;

pub(super) use self::lines::Lines;
use super::{
    declared::{self, Declared, Name},
    objects::{Head, Object},
};
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

/// What the folder holds, file by file. Of an object that breaks, the last good version stays.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    files: BTreeMap<Arc<str>, File>,
    /// The files in which each object stands; the first counts.
    places: BTreeMap<Name, BTreeSet<Arc<str>>>,
    /// Objects that stand in several.
    twice: BTreeSet<Name>,
    /// Files that have a problem, or never were whole.
    damaged: BTreeSet<Arc<str>>,
}

/// What is different after an update: objects that came, went, or are others now.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub(super) names: BTreeSet<Name>,
    problems: bool,
}

impl Changes {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.problems
    }

    /// The objects for waypoints that came, went, or are others now.
    pub fn for_waypoints(&self) -> impl Iterator<Item = &Name> {
        self.names.iter().filter(|(kind, ..)| declared::KINDS.contains(kind))
    }
}

/// The text of a file, or why it cannot be read.
pub(super) type Text = Result<String, String>;

#[derive(Clone, Debug, Default)]
struct File {
    /// Length and hash of its text.
    text: Option<(usize, u64)>,
    objects: BTreeMap<Name, Found>,
    problems: Vec<Problem>,
    /// It could be read as a whole, now or earlier: its last good version is known.
    was_whole: bool,
    /// Among what could not be read there may be a policy.
    lacks_policies: bool,
    /// What is wrong with objects for waypoints, which are nothing to the mesh itself.
    for_waypoints: Vec<Problem>,
}

impl Folder {
    /// Takes the present contents of all files: path → text, or why it cannot be read.
    pub fn update(&mut self, contents: BTreeMap<Arc<str>, Text>) -> Changes {
        let gone: Vec<_> =
            self.files.keys().filter(|path| !contents.contains_key(*path)).cloned().collect();
        let present = contents.into_iter().map(|(path, text)| (path, Some(text)));
        self.update_files(gone.into_iter().map(|path| (path, None)).chain(present))
    }

    /// Takes the present contents of some files; `None` for one that is gone.
    pub(super) fn update_files(
        &mut self,
        contents: impl IntoIterator<Item = (Arc<str>, Option<Text>)>,
    ) -> Changes {
        let mut changes = Changes::default();
        for (path, text) in contents {
            let before = self.files.remove(&path);
            let earlier = before.clone().unwrap_or_default();
            if let Some(text) = text {
                self.files.insert(path.clone(), take(&path, text, earlier));
            }
            self.note(&path, before.as_ref(), &mut changes);
        }
        changes
    }

    /// Notes what is different in a file since it was as `before`.
    fn note(&mut self, path: &Arc<str>, before: Option<&File>, changes: &mut Changes) {
        let nothing = File { was_whole: true, ..File::default() };
        let (then, now) = (before.unwrap_or(&nothing), self.files.get(path).unwrap_or(&nothing));
        let differs = |(name, found): &(&Name, &Found)| now.objects.get(*name) != Some(*found);
        let gone = then.objects.iter().filter(differs).map(|(name, _)| name);
        let differs = |(name, found): &(&Name, &Found)| then.objects.get(*name) != Some(*found);
        let come = now.objects.iter().filter(differs).map(|(name, _)| name);
        let changed: BTreeSet<Name> = gone.chain(come).cloned().collect();
        changes.problems |= then.problems != now.problems || then.was_whole != now.was_whole;
        changes.problems |= then.for_waypoints != now.for_waypoints;
        if now.problems.is_empty() && now.was_whole && now.for_waypoints.is_empty() {
            self.damaged.remove(path);
        } else {
            self.damaged.insert(path.clone());
        }
        for name in changed {
            let places = self.places.entry(name.clone()).or_default();
            if self.files.get(path).is_some_and(|file| file.objects.contains_key(&name)) {
                places.insert(path.clone());
            } else {
                places.remove(path);
            }
            match places.len() {
                0 => drop((self.places.remove(&name), self.twice.remove(&name))),
                1 => drop(self.twice.remove(&name)),
                _ => drop(self.twice.insert(name.clone())),
            }
            changes.names.insert(name);
        }
    }

    /// Whether objects are missing that nobody has seen: a file was damaged from the start.
    pub(super) fn is_partial(&self) -> bool {
        self.damaged().any(|file| !file.was_whole)
    }

    /// Whether a policy may be missing that nobody has seen.
    pub(super) fn may_lack_policies(&self) -> bool {
        self.damaged().any(|file| !file.was_whole && file.lacks_policies)
    }

    /// How many files there are.
    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    fn damaged(&self) -> impl Iterator<Item = &File> {
        self.damaged.iter().filter_map(|path| self.files.get(path))
    }

    /// The object of this name; of several the one in the first file.
    pub(super) fn get(&self, name: &Name) -> Option<&Found> {
        self.files.get(self.places.get(name)?.first()?)?.objects.get(name)
    }

    /// All objects for waypoints, by kind, namespace and name.
    pub fn for_waypoints(&self) -> impl Iterator<Item = (&Name, &Arc<Declared>)> {
        let all = declared::KINDS.into_iter().flat_map(|kind| self.of_kind(kind));
        all.filter_map(|(name, found)| Some((name, found.object.declared()?)))
    }

    /// The object for waypoints of this name.
    pub fn declared(&self, name: &Name) -> Option<&Arc<Declared>> {
        self.get(name)?.object.declared()
    }

    /// What is wrong with objects for waypoints before anybody looks at what they mean.
    pub fn problems_for_waypoints(&self) -> impl Iterator<Item = Problem> {
        let broken = self.damaged().flat_map(|file| file.for_waypoints.iter().cloned());
        broken.chain(self.twice_of(true))
    }

    /// The names of all objects, by kind.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.places.keys()
    }

    /// All objects of a kind, by namespace and name.
    pub(super) fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = (&Name, &Found)> {
        let first = (kind, String::new(), String::new());
        let all = self.places.range(first..).take_while(move |((other, ..), _)| *other == kind);
        all.filter_map(|(name, _)| Some((name, self.get(name)?)))
    }

    /// Everything that is wrong with the files.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<_> = self.damaged().flat_map(|file| file.problems.clone()).collect();
        problems.extend(self.twice_of(false));
        problems
    }

    /// Objects that stand in several places, of those for waypoints or of all others.
    fn twice_of(&self, for_waypoints: bool) -> impl Iterator<Item = Problem> {
        let those = move |name: &&Name| declared::KINDS.contains(&name.0) == for_waypoints;
        self.twice.iter().filter(those).flat_map(|name| {
            let places = self.places.get(name).into_iter().flatten();
            let mut origins =
                places.filter_map(|path| Some(&self.files.get(path)?.objects.get(name)?.origin));
            let first = origins.next();
            origins.filter_map(move |second| Some(twice(name, first?, second)))
        })
    }
}

/// What a file holds by its present text.
fn take(path: &Arc<str>, text: Text, earlier: File) -> File {
    match text {
        Ok(text) if earlier.text == Some(fingerprint(&text)) => earlier,
        Ok(text) => parse(path, &text, &earlier),
        Err(error) => File {
            problems: vec![problem(path, 1, format!("cannot be read: {error}"))],
            text: None,
            lacks_policies: true,
            ..earlier
        },
    }
}

fn fingerprint(text: &str) -> (usize, u64) {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    (text.len(), hasher.finish())
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
fn parse(path: &Arc<str>, text: &str, last: &File) -> File {
    let mut file = File { text: Some(fingerprint(text)), ..File::default() };
    for (line, document) in documents(text) {
        let origin = Origin { file: path.clone(), line };
        if let Err((line, error)) = read(document, &origin, &mut file) {
            let text = format!("{error}; the last good version stays");
            file.problems.push(problem(path, origin.line + line, text));
            file.lacks_policies |= may_be_policy(document);
        }
    }
    file.was_whole = last.was_whole || file.problems.is_empty();
    let broken = |name: &Name| match declared::KINDS.contains(&name.0) {
        true => !file.problems.is_empty() || !file.for_waypoints.is_empty(),
        false => !file.problems.is_empty(),
    };
    for (name, found) in last.objects.iter().filter(|(name, _)| broken(name)) {
        file.objects.entry(name.clone()).or_insert_with(|| found.clone());
    }
    file
}

/// Whether a document that cannot be read may be a policy, or have one in it: unless all that it says
/// of kinds is that they are others.
fn may_be_policy(document: &str) -> bool {
    let kind = |line: &str| {
        let line = line.trim_start_matches([' ', '\t', '-']);
        line.strip_prefix("kind:").map(|kind| kind.trim().to_owned())
    };
    let kinds: Vec<_> = document.lines().filter_map(kind).collect();
    let may_be = |kind: &String| {
        matches!(kind.as_str(), "" | POLICY | PEER)
            || kind.ends_with("List")
            || kind.contains(['{', '[', '&', '*', '!', '|', '>', '"', '\'', ','])
    };
    kinds.is_empty() || kinds.iter().any(may_be)
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
fn read(document: &str, origin: &Origin, file: &mut File) -> Result<(), (u32, String)> {
    let head: Head = yaml(document)?;
    match (head.api_version.as_str(), head.kind.as_str()) {
        ("" | _, "") => Err((0, "has no `kind`: is this a Kubernetes object?".into())),
        ("v1", "List") => {
            let list: Value = yaml(document)?;
            let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            let mut lines = None;
            for (index, item) in items.into_iter().enumerate() {
                let head: Head = serde_json::from_value(item.clone()).map_err(unplaced)?;
                if let Some(kind) = declared::kind(&head.api_version, &head.kind) {
                    let lines = lines.get_or_insert_with(|| Lines::of(document)).item(index);
                    declare(Declared::new(kind, item, origin, lines), origin, file);
                    continue;
                }
                let read = object(&head, |kind| from_value(kind, item));
                keep(read?, origin, &mut file.objects);
            }
            Ok(())
        }
        (version, kind) if let Some(kind) = declared::kind(version, kind) => {
            let object = yaml(document).map_err(|(_, error)| error);
            let lines = Lines::of(document);
            let read = object.and_then(|object| Declared::new(kind, object, origin, lines));
            declare(read, origin, file);
            Ok(())
        }
        _ => {
            let read = object(&head, |kind| from_text(kind, document))?;
            keep(read, origin, &mut file.objects);
            Ok(())
        }
    }
}

/// What is wrong with an object for waypoints is nothing to the mesh itself.
fn declare(read: Result<Declared, String>, origin: &Origin, file: &mut File) {
    match read {
        Ok(object) => keep(Some(Object::Declared(object.into())), origin, &mut file.objects),
        Err(text) => {
            let text = format!("{text}; the last good version stays");
            file.for_waypoints.push(Problem { origin: origin.clone(), text });
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
        ("discovery.k8s.io/v1", kind @ "EndpointSlice")
        | (
            "networking.istio.io/v1"
            | "networking.istio.io/v1beta1"
            | "networking.istio.io/v1alpha3",
            kind @ ("ServiceEntry" | "WorkloadEntry"),
        )
        | (
            "gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1beta1",
            kind @ "Gateway",
        ) => read(kind).map(Some),
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
        "ServiceEntry" => Object::Entry(Box::new(yaml(document)?)),
        "WorkloadEntry" => Object::Member(Box::new(yaml(document)?)),
        "Gateway" => Object::Gateway(yaml(document)?),
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
        "ServiceEntry" => serde_json::from_value(item).map(|entry| Object::Entry(Box::new(entry))),
        "WorkloadEntry" => serde_json::from_value(item).map(|of| Object::Member(Box::new(of))),
        "Gateway" => serde_json::from_value(item).map(Object::Gateway),
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
        Object::Entry(entry) => ("ServiceEntry", &entry.metadata),
        Object::Member(member) => ("WorkloadEntry", &member.metadata),
        Object::Gateway(gateway) => ("Gateway", &gateway.metadata),
        Object::Declared(declared) => (declared.kind, &declared.metadata),
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
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

fn yaml<T: DeserializeOwned>(document: &str) -> Result<T, (u32, String)> {
    serde_saphyr::from_str_with_options(document, options()).map_err(|error| {
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
mod tests;
