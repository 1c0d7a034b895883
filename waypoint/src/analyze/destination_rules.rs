//! Pure: DestinationRules for hosts that are not there (IST0174), and subsets without pods (IST0173).
//! Never: whether anybody routes to them.
use culvert_agent::discovery::{Service, Snapshot};

use super::{
    destinations::service,
    message::{Code, Message},
    schema::Typed,
};
use crate::{backend::endpoints::has, manifest::host};

pub(super) fn messages(objects: &Typed<'_>, snapshot: &Snapshot) -> Vec<Message> {
    let mut messages = Vec::new();
    for (declared, name, rule) in &objects.rules {
        let meant: Vec<_> = match host::is_wildcard(name) {
            true => {
                snapshot.services().filter(|s| host::overlap(name, &s.hostname)).cloned().collect()
            }
            false => service(snapshot, name).into_iter().collect(),
        };
        if meant.is_empty() {
            let text = format!(
                "The host {} defined in the DestinationRule does not match any services in the mesh.",
                rule.host
            );
            let code = Code::UnknownDestinationRuleHost;
            messages.push(Message::about(code, declared, "/spec/host", text));
            continue;
        }
        for (index, subset) in rule.subsets.iter().enumerate() {
            let selects = |service: &Service| {
                let mut workloads =
                    service.endpoints.keys().filter_map(|uid| snapshot.workload(uid));
                workloads.any(|workload| has(workload, &subset.labels))
            };
            if !meant.iter().any(|service| selects(service)) {
                let text = format!(
                    "The Subset {} defined in the DestinationRule does not select any pods. Which may lead to 503 UH (NoHealthyUpstream).",
                    subset.name
                );
                let code = Code::DestinationRuleSubsetNotSelectPods;
                let pointer = format!("/spec/subsets/{index}/name");
                messages.push(Message::about(code, declared, &pointer, text));
            }
        }
    }
    messages
}
