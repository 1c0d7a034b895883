//! Front: what is wrong with a set of objects, before anybody applies them: Istio's messages, codes and
//! words (`pkg/config/analysis`).
//! `message` (Pure) is one of them, `report` (Pure) their output, `files` (Shell) reads what is asked
//! for; the others (Pure) each look for one kind of fault.
//! Never: a cluster.
mod destination_rules;
mod destinations;
mod files;
mod gateways;
mod hosts;
mod message;
mod policies;
mod report;
mod schema;
mod suppress;

use culvert_agent::{discovery::Snapshot, manifest::Folder};

pub use files::{Contents, Error, contents};
pub use message::{Code, Level, Message, Object};
pub use report::{json, text, yaml};
pub use suppress::{Suppression, SuppressionError};

use crate::manifest::{Settings, problems};

/// Everything that is worth saying about a folder and the mesh that it declares, the worst first.
pub fn analyze(folder: &Folder, snapshot: &Snapshot, settings: &Settings) -> Vec<Message> {
    let mut messages = schema::messages(folder, snapshot, settings);
    let objects = schema::Typed::of(folder, &settings.cluster_domain);
    messages.extend(hosts::messages(&objects, settings));
    messages.extend(destinations::messages(&objects, snapshot, settings));
    messages.extend(gateways::messages(folder, &objects, snapshot));
    messages.extend(destination_rules::messages(&objects, snapshot));
    messages.extend(policies::messages(snapshot));
    let routes = problems(folder, snapshot, settings).into_iter();
    messages.extend(routes.map(|p| Message::bare(Code::Mesh, p.origin, p.text)));
    messages.sort();
    messages.dedup();
    messages
}

#[cfg(test)]
mod tests;
