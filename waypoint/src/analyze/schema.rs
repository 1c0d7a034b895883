//! Pure: objects that make no sense by themselves (IST0106, IST0133), and rules that others hide
//! (IST0130, IST0131).
//! Never: other objects.
use culvert_agent::{
    discovery::Snapshot,
    manifest::{Declared, Folder, is_misspelt},
};

use super::message::{Code, Message};
use crate::manifest::{
    Settings, What, destination_rule::DestinationRule, finding::Findings, host, intake, read,
    virtual_service::VirtualService,
};

pub(super) fn messages(folder: &Folder, snapshot: &Snapshot, settings: &Settings) -> Vec<Message> {
    let unread = folder.problems();
    let broken = unread.iter().cloned().chain(folder.problems_for_waypoints());
    let mut messages: Vec<_> = broken
        .map(|problem| {
            let text = format!("Schema validation error: {}", problem.text);
            Message::bare(Code::SchemaValidationError, problem.origin, text)
        })
        .collect();
    let others = snapshot.problems().iter().filter(|problem| !unread.contains(problem));
    messages.extend(others.map(|problem| {
        let text = problem.text.clone();
        let (code, text) = match is_misspelt(problem) {
            true => (Code::SchemaValidationError, format!("Schema validation error: {text}")),
            false => (Code::Mesh, text),
        };
        Message::bare(code, problem.origin.clone(), text)
    }));
    for (_, declared) in folder.for_waypoints() {
        let findings = intake::findings(declared, &settings.cluster_domain);
        messages.extend(findings.into_iter().map(|finding| {
            let (code, text) = said(finding.what);
            Message::about(code, declared, &finding.pointer, text)
        }));
    }
    messages
}

fn said(what: What) -> (Code, String) {
    match what {
        What::Invalid(text) => {
            (Code::SchemaValidationError, format!("Schema validation error: {text}"))
        }
        What::Discouraged(text) => {
            (Code::SchemaWarning, format!("Schema validation warning: {text}"))
        }
        What::Unreachable { rule, reason } => (
            Code::VirtualServiceUnreachableRule,
            format!("VirtualService rule {rule} not used ({reason})."),
        ),
        What::Ineffective { rule, block, by } => (
            Code::VirtualServiceIneffectiveMatch,
            format!(
                "VirtualService rule {rule} match {block} is not used (duplicate/overlapping match in rule {by})."
            ),
        ),
    }
}

/// Istio's objects as they are written, those that can be read.
#[derive(Debug, Default)]
pub(super) struct Typed<'f> {
    pub(super) virtual_services: Vec<(&'f Declared, VirtualService)>,
    /// With their host names in full.
    pub(super) rules: Vec<(&'f Declared, String, DestinationRule)>,
}

impl<'f> Typed<'f> {
    /// Those of a folder.
    pub(super) fn of(folder: &'f Folder, domain: &str) -> Self {
        let mut typed = Self::default();
        for (_, declared) in folder.for_waypoints() {
            let mut findings = Findings::default();
            match declared.kind {
                "VirtualService" => {
                    let spec = read::spec(declared, &mut findings);
                    typed.virtual_services.extend(spec.map(|spec| (&**declared, spec)));
                }
                "DestinationRule" => {
                    let spec: Option<DestinationRule> = read::spec(declared, &mut findings);
                    let name = |host: &str| host::full(host, &declared.metadata.namespace, domain);
                    let rule = spec.map(|spec| (&**declared, name(&spec.host), spec));
                    typed.rules.extend(rule);
                }
                _ => {}
            }
        }
        typed
    }
}
