//! Pure: objects → workloads and services, the same whatever the order of the objects; and what
//! changes of them → what changes of those, in time for the change.
//! Never: a second model beside discovery's.
mod entries;
mod facts;
mod members;
mod services;
mod slices;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use self::{
    facts::Facts,
    members::Maker,
    services::{Members, Services},
};
use super::{
    declared::Name,
    documents::{Changes, Folder, Found},
    objects::Object,
    security,
};
use crate::{
    discovery::{Policies, Snapshot},
    origin::Problem,
    policy::{Attached, PeerAuthentication},
};

/// What the objects do not say themselves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The trust domain of all identities.
    pub trust_domain: String,
    /// The name of the cluster.
    pub cluster: String,
    /// The domain of service names.
    pub cluster_domain: String,
    /// The namespace whose policies are the whole mesh's.
    pub root_namespace: String,
}

impl Default for Settings {
    /// Istio's own defaults.
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".into(),
            cluster: "Kubernetes".into(),
            cluster_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
        }
    }
}

/// Turns the folder's objects into a snapshot. Objects that make no sense are left out and named.
pub fn compile(folder: &Folder, settings: &Settings) -> Snapshot {
    Compiler::new(settings.clone()).all(folder)
}

/// Makes each snapshot of the last one and of what has changed since.
#[derive(Debug)]
pub struct Compiler {
    settings: Settings,
    facts: Facts,
    /// Workloads that services may select, by namespace and uid.
    members: HashMap<String, Members>,
    services: Services,
    /// What is wrong with single objects.
    problems: BTreeMap<Name, Vec<Problem>>,
    snapshot: Snapshot,
}

impl Compiler {
    /// A compiler that has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            facts: Facts::default(),
            members: HashMap::new(),
            services: Services::default(),
            problems: BTreeMap::new(),
            snapshot: Snapshot::default(),
        }
    }

    /// The snapshot of a folder in which these `changes` happened since the last call. Takes time for
    /// what changed; for the whole when namespaces, nodes or Gateways did, on which the rest depends.
    pub fn apply(&mut self, folder: &Folder, changes: &Changes) -> Snapshot {
        let fundamental = |name: &Name| facts::KINDS.contains(&name.0);
        if changes.names.iter().any(fundamental) || folder.is_partial() != self.facts.partial {
            return self.all(folder);
        }
        for name in changes.names.iter().filter(|(kind, ..)| is_member(kind)) {
            self.member(folder, name);
        }
        let mut services = BTreeSet::new();
        for name in &changes.names {
            match (name.0, folder.get(name).map(|found| &found.object)) {
                ("Service" | "ServiceEntry", _) => {
                    services.insert(name.clone());
                }
                ("EndpointSlice", Some(Object::Slice(slice))) => {
                    services.extend(self.services.slice(name, Some(slice)));
                }
                ("EndpointSlice", _) => services.extend(self.services.slice(name, None)),
                _ => {}
            }
        }
        for name in services {
            let members = self.members.remove(&name.1);
            self.service(folder, &name, members.as_ref());
            self.members.extend(members.map(|members| (name.1.clone(), members)));
        }
        self.finish(folder)
    }

    /// The snapshot of a folder of which nothing is known.
    fn all(&mut self, folder: &Folder) -> Snapshot {
        *self = Self::new(self.settings.clone());
        self.facts = Facts::of(folder, &self.settings);
        for (name, found) in folder.of_kind("EndpointSlice") {
            if let Object::Slice(slice) = &found.object {
                self.services.slice(name, Some(slice));
            }
        }
        for name in folder.names().filter(|(kind, ..)| is_member(kind)) {
            self.member(folder, name);
        }
        for kind in ["Service", "ServiceEntry"] {
            for (name, _) in folder.of_kind(kind) {
                self.service(folder, name, None);
            }
        }
        self.services.fill(&mut self.snapshot, &self.members);
        self.finish(folder)
    }

    /// An annotation of a Gateway, as it was when a snapshot was made last.
    pub fn annotation_of_gateway(&self, namespace: &str, name: &str, key: &str) -> Option<&str> {
        self.facts.annotation_of_gateway(namespace, name, key)
    }

    fn finish(&mut self, folder: &Folder) -> Snapshot {
        let (policies, mut problems) = policies(folder, &self.settings.root_namespace);
        if **self.snapshot.policies() != policies {
            self.snapshot.set_policies(policies.into());
        }
        problems.extend(folder.problems());
        problems.extend(self.facts.problems.iter().cloned());
        problems.extend(self.problems.values().flatten().cloned());
        for (address, claimants) in self.snapshot.contested_addresses() {
            let Some((first, others)) = claimants.split_first() else { continue };
            problems.extend(others.iter().map(|other| Problem {
                origin: other.origin.clone(),
                text: format!("address {address} is that of {} too ({})", first.uid, first.origin),
            }));
        }
        for (what, claimants) in self.snapshot.contested_services() {
            let Some((first, others)) = claimants.split_first() else { continue };
            problems.extend(others.iter().map(|other| Problem {
                origin: other.origin.clone(),
                text: format!("{what} is that of {} too ({})", first.hostname, first.origin),
            }));
        }
        problems.extend(self.snapshot.overreaching().map(|(address, service)| Problem {
            origin: service.origin.clone(),
            text: format!("address {address} is that of a workload of the mesh"),
        }));
        problems.extend(
            self.snapshot
                .unasked()
                .map(|(attached, text)| Problem { origin: attached.policy.origin.clone(), text }),
        );
        self.snapshot.set_problems(problems, folder.is_partial());
        self.snapshot.clone()
    }

    /// A pod or machine came, went or is another now; services that select it follow.
    fn member(&mut self, folder: &Folder, name: &Name) {
        let maker = Maker { settings: &self.settings, facts: &self.facts };
        let made = match folder.get(name).map(|found| (&found.object, &found.origin)) {
            Some((Object::Pod(pod), origin)) => maker.pod(pod, origin),
            Some((Object::Member(entry), origin)) => maker.entry(entry, origin),
            Some(_) | None => Ok(None),
        };
        let (now, problem) = match made {
            Ok(Some((member, problem))) => (Some(member), problem),
            Ok(None) => (None, None),
            Err(problem) => (None, Some(problem)),
        };
        self.report(folder, name, problem.into_iter().collect());
        let uid = match name.0 {
            "Pod" => format!("{}//Pod/{}/{}", self.settings.cluster, name.1, name.2),
            kind => {
                format!(
                    "{}/networking.istio.io/{kind}/{}/{}",
                    self.settings.cluster, name.1, name.2
                )
            }
        };
        let members = self.members.entry(name.1.clone()).or_default();
        let then = match &now {
            Some(member) => members.insert(uid.as_str().into(), member.clone()),
            None => members.remove(uid.as_str()),
        };
        match &now {
            Some(member) => self.snapshot.insert_workload(member.workload.clone()),
            None => self.snapshot.remove_workload(&uid),
        }
        self.services.member(&mut self.snapshot, (then.as_ref(), now.as_ref()));
    }

    /// A service came, went or is another now, or its slices are.
    fn service(&mut self, folder: &Folder, name: &Name, members: Option<&Members>) {
        let maker = Maker { settings: &self.settings, facts: &self.facts };
        let found = folder.get(name);
        let problems = self.services.service(&mut self.snapshot, &maker, (name, found), members);
        self.report(folder, name, problems);
    }

    fn report(&mut self, folder: &Folder, name: &Name, texts: Vec<String>) {
        let origin = folder.get(name).map(|found| found.origin.clone());
        match origin {
            Some(origin) if !texts.is_empty() => {
                let problem = |text| Problem { origin: origin.clone(), text };
                self.problems.insert(name.clone(), texts.into_iter().map(problem).collect());
            }
            Some(_) | None => drop(self.problems.remove(name)),
        }
    }
}

fn is_member(kind: &str) -> bool {
    matches!(kind, "Pod" | "WorkloadEntry")
}

/// Policies by name; peer authentication from the closest scope to the widest, the oldest first.
fn policies(folder: &Folder, root: &str) -> (Policies, Vec<Problem>) {
    let mut all = Policies { damaged: folder.may_lack_policies(), ..Policies::default() };
    let mut problems = Vec::new();
    for (_, Found { origin, object }) in
        ["AuthorizationPolicy", "PeerAuthentication"].into_iter().flat_map(|k| folder.of_kind(k))
    {
        if let Object::Policy(policy) = object {
            let (policy, targets) = security::policy(policy, origin, root, &mut problems);
            match targets.is_empty() {
                true => all.policies.push(policy.into()),
                false => all.attached.push(Attached { policy: policy.into(), targets }),
            }
        } else if let Object::Peer(peer) = object {
            let peer = security::peer_authentication(peer, origin, root, &mut problems);
            all.peers.push(Arc::new(peer));
        }
    }
    all.policies.sort_by(|a, b| a.name.cmp(&b.name));
    all.attached.sort_by(|a, b| a.policy.name.cmp(&b.policy.name));
    let rank = |peer: &PeerAuthentication| {
        (peer.scope.selector.is_empty(), peer.scope.namespace.is_none())
    };
    all.peers.sort_by(|a, b| (rank(a), &a.created, &a.name).cmp(&(rank(b), &b.created, &b.name)));
    (all, problems)
}

#[cfg(test)]
mod tests;
