//! Pure: VirtualServices of the mesh that are for one host (IST0109).
//! Never: those of gateways alone.
use std::collections::{BTreeMap, BTreeSet};

use culvert_agent::manifest::Declared;

use super::{
    message::{Code, Message},
    schema::Typed,
};
use crate::manifest::{Settings, host};

/// Who sees a host: a namespace, or all of them.
const ALL: &str = "*";

pub(super) fn messages(objects: &Typed<'_>, settings: &Settings) -> Vec<Message> {
    let mut scoped: BTreeMap<(String, String), Vec<&Declared>> = BTreeMap::new();
    for (declared, object) in &objects.virtual_services {
        if !object.gateways.is_empty() && !object.gateways.iter().any(|gateway| gateway == "mesh") {
            continue;
        }
        let home = &declared.metadata.namespace;
        let public = object.export_to.is_empty() || object.export_to.iter().any(|to| to == ALL);
        let scopes: BTreeSet<&str> = match public {
            true => [ALL].into(),
            false => object
                .export_to
                .iter()
                .map(|to| if to == "." { home } else { to })
                .map(String::as_str)
                .collect(),
        };
        for name in &object.hosts {
            let full = host::full(name, home, &settings.cluster_domain);
            for scope in &scopes {
                scoped.entry(((*scope).to_owned(), full.clone())).or_default().push(declared);
            }
        }
    }
    let mut reported = BTreeSet::new();
    let mut messages = Vec::new();
    for ((scope, name), own) in &scoped {
        let mut all = own.clone();
        if scope != ALL {
            let public = scoped.iter().filter(|((s, n), _)| s == ALL && host::overlap(n, name));
            all.extend(public.flat_map(|(_, all)| all));
        }
        let named = |declared: &Declared| {
            format!("{}/{}", declared.metadata.namespace, declared.metadata.name)
        };
        let names: BTreeSet<_> = all.iter().map(|declared| named(declared)).collect();
        if names.len() < 2 {
            continue;
        }
        let names = names.into_iter().collect::<Vec<_>>().join(",");
        for declared in all {
            if reported.insert(named(declared)) {
                let text = format!(
                    "The VirtualServices {names} associated with mesh gateway define the same host {scope}/{name} which can lead to undefined behavior. This can be fixed by merging the conflicting VirtualServices into a single resource."
                );
                let code = Code::ConflictingMeshGatewayVirtualServiceHosts;
                messages.push(Message::about(code, declared, "/metadata/name", text));
            }
        }
    }
    messages
}
