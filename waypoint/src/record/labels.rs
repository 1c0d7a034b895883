//! Pure: the labels of traffic metrics as Istio's waypoints have them, in its order.
//! Never: a label whose values a client can make up without a certificate.
use std::{
    collections::HashMap,
    fmt::{self, Write},
    hash::{BuildHasher, Hash, Hasher, RandomState},
    ops::Deref,
    sync::{Arc, LazyLock},
};

use culvert_agent::{
    discovery::{Service, Workload},
    identity::Identity,
};

use crate::outcome::Flags;

/// Who talks to whom. Two are equal when they are the same objects, not only alike.
#[derive(Clone, Debug, Default)]
pub struct Parties {
    /// The client, if the mesh knows it.
    pub source: Option<Arc<Workload>>,
    /// What its certificate proved.
    pub peer: Option<Identity>,
    /// The service that was dialled.
    pub service: Option<Arc<Service>>,
    /// The endpoint that was chosen.
    pub destination: Option<Arc<Workload>>,
}

impl Parties {
    /// Where the objects are; while somebody holds them no others are there.
    fn places(&self) -> [usize; 3] {
        let place = |workload: &Option<Arc<Workload>>| {
            workload.as_ref().map_or(0, |workload| Arc::as_ptr(workload).addr())
        };
        let service = self.service.as_ref().map_or(0, |service| Arc::as_ptr(service).addr());
        [place(&self.source), service, place(&self.destination)]
    }
}

impl PartialEq for Parties {
    fn eq(&self, other: &Self) -> bool {
        self.places() == other.places() && self.peer == other.peer
    }
}

impl Eq for Parties {}

impl Hash for Parties {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.places().hash(state);
        self.peer.hash(state);
    }
}

/// Labels as text, with its hash: a request asks for nothing else of it.
#[derive(Debug)]
pub struct Text {
    text: String,
    hash: u64,
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        static STATE: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self { hash: STATE.hash_one(&text), text }
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}

impl Eq for Text {}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Texts that are kept, about 1 KB each.
const MOST_TEXTS: usize = 4_096;

/// What was written once, so that it is not written again for each request.
#[derive(Debug, Default)]
pub struct Texts(HashMap<Parties, Arc<Text>>);

impl Texts {
    /// The labels that say who talks to whom.
    pub fn of(&mut self, parties: &Parties) -> Arc<Text> {
        if let Some(text) = self.0.get(parties) {
            return text.clone();
        }
        if self.0.len() >= MOST_TEXTS {
            self.0.clear();
        }
        let text = Arc::new(Text::from(written(parties)));
        self.0.insert(parties.clone(), text.clone());
        text
    }
}

/// What is counted under one set of labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Requests.
    Request {
        /// `http` or `grpc`.
        protocol: &'static str,
        /// HTTP's status; 0 for none.
        code: u16,
        /// gRPC's.
        grpc: Option<u16>,
        /// What went wrong.
        flags: Flags,
    },
    /// Messages of gRPC calls.
    Messages,
    /// Connections of which nobody looks at the bytes.
    Connection {
        /// What went wrong.
        flags: Flags,
    },
}

/// What a value is when nobody knows it.
const UNKNOWN: &str = "unknown";

/// The part of the labels that says who talks to whom, as text.
fn written(of: &Parties) -> String {
    let mut labels = Writer(String::with_capacity(1024));
    labels.add("reporter", "waypoint");
    let [source, destination] = [of.source.as_deref(), of.destination.as_deref()];
    side(&mut labels, "source", source);
    labels.add("source_principal", &principal(of.peer.as_ref()));
    side(&mut labels, "destination", destination);
    let configured = destination.map(|workload| &workload.identity);
    labels.add("destination_principal", &principal(configured));
    let service = |what: fn(&Service) -> &str| of.service.as_deref().map_or(UNKNOWN, what);
    labels.add("destination_service", service(|s| &s.hostname));
    labels.add("destination_service_name", service(|s| &s.name));
    labels.add("destination_service_namespace", service(|s| &s.namespace));
    labels.0
}

/// A status as labels have it: what is none of HTTP's (RFC 9110 §15) counts as none.
pub fn known(code: u16) -> u16 {
    if (100..600).contains(&code) { code } else { 0 }
}

/// Where what has no labels of its own is counted.
pub fn others() -> String {
    let mut labels = Writer(String::new());
    labels.add("reporter", "waypoint");
    labels.add("source_workload", "other");
    labels.add("destination_workload", "other");
    labels.0
}

impl Kind {
    /// The rest of the labels.
    pub fn write(&self, into: &mut String) -> fmt::Result {
        match self {
            Self::Request { protocol, code, grpc, flags } => {
                let status = grpc.map(|code| code.to_string()).unwrap_or_default();
                write!(
                    into,
                    ",request_protocol=\"{protocol}\",response_code=\"{code}\",\
                     grpc_response_status=\"{status}\",response_flags=\"{flags}\""
                )?;
            }
            Self::Messages => {}
            Self::Connection { flags } => {
                write!(into, ",request_protocol=\"tcp\",response_flags=\"{flags}\"")?;
            }
        }
        // There is no way in but through mutual TLS.
        into.write_str(",connection_security_policy=\"mutual_tls\"")
    }

    /// The same without what there are many of.
    #[must_use]
    pub fn coarse(&self) -> Self {
        match self {
            Self::Request { protocol: _, code, grpc: _, flags: _ } => Self::Request {
                protocol: "http",
                code: code / 100 * 100,
                grpc: None,
                flags: Flags::default(),
            },
            Self::Messages => Self::Messages,
            Self::Connection { .. } => Self::Connection { flags: Flags::default() },
        }
    }
}

fn principal(identity: Option<&Identity>) -> String {
    identity.map_or_else(|| UNKNOWN.into(), ToString::to_string)
}

fn side(labels: &mut Writer, side: &str, workload: Option<&Workload>) {
    let known = |value: fn(&Workload) -> &str| workload.map_or(UNKNOWN, value);
    let label = |names: [&str; 2], otherwise: fn(&Workload) -> &str| {
        let find = |w: &Workload| names.iter().find_map(|name| w.labels.get(*name).cloned());
        workload.and_then(find).unwrap_or_else(|| known(otherwise).to_owned())
    };
    let name = ["service.istio.io/canonical-name", "app.kubernetes.io/name"];
    let revision = ["service.istio.io/canonical-revision", "app.kubernetes.io/version"];
    let cluster = workload.and_then(|w| w.uid.split("//").next()).unwrap_or(UNKNOWN);
    let mut add = |what: &str, value: &str| labels.add(&format!("{side}_{what}"), value);
    add("workload", known(|w| &w.workload_name));
    add("workload_namespace", known(|w| &w.namespace));
    add("canonical_service", &label(name, |w| &w.canonical_name));
    add("canonical_revision", &label(revision, |w| &w.canonical_revision));
    add("app", &label(["app", "app"], |w| &w.canonical_name));
    add("version", &label(["version", "version"], |w| &w.canonical_revision));
    add("cluster", cluster);
}

struct Writer(String);

impl Writer {
    fn add(&mut self, name: &str, value: &str) {
        let text = &mut self.0;
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for c in value.chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                '\n' => text.push_str("\\n"),
                _ => text.push(c),
            }
        }
        text.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_that_nobody_has_make_no_series() {
        for (code, expected) in [(99, 0), (100, 100), (599, 599), (600, 0), (999, 0), (0, 0)] {
            assert_eq!(known(code), expected);
        }
    }

    #[test]
    fn nobody_is_unknown_and_values_are_escaped() {
        let text = written(&Parties::default());
        assert!(text.starts_with("reporter=\"waypoint\",source_workload=\"unknown\","), "{text}");
        assert_eq!(text.matches('=').count(), 20);
        let mut labels = Writer(String::new());
        labels.add("a", "x\"y\\z\n");
        assert_eq!(labels.0, "a=\"x\\\"y\\\\z\\n\"");
    }

    #[test]
    fn a_text_is_written_once_for_the_same_parties_and_few_are_kept() {
        let mut texts = Texts::default();
        let by = |account: &str| Parties {
            peer: Identity::new("cluster.local", "shop", account).ok(),
            ..Parties::default()
        };
        let first = texts.of(&by("a"));
        assert!(Arc::ptr_eq(&first, &texts.of(&by("a"))));
        assert_ne!(*first, *texts.of(&by("b")));
        for number in 0..=MOST_TEXTS {
            texts.of(&by(&format!("c{number}")));
            assert!(texts.0.len() <= MOST_TEXTS);
        }
        assert_eq!(*first, *texts.of(&by("a")), "alike, though written again");
    }

    #[test]
    fn each_kind_has_its_labels() {
        let written = |kind: &Kind| {
            let mut text = String::new();
            kind.write(&mut text).unwrap();
            text
        };
        let flags = Flags::default();
        let call = Kind::Request { protocol: "grpc", code: 200, grpc: Some(14), flags };
        assert_eq!(
            written(&call),
            ",request_protocol=\"grpc\",response_code=\"200\",grpc_response_status=\"14\",response_flags=\"-\",connection_security_policy=\"mutual_tls\""
        );
        assert!(!written(&Kind::Messages).contains("response_code"));
        assert!(!written(&Kind::Connection { flags }).contains("response_code"));
    }
}
