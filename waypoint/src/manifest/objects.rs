//! Pure: the objects that count, found by the hosts that they are for: of one that breaks, the last
//! good version; of one that never was good, that nothing passes.
//! Never: what they mean.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use culvert_agent::{
    manifest::{Declared, Name},
    origin::{Origin, Problem},
};

use super::{
    closed,
    destination_rule::DestinationRule,
    finding::{Findings, What},
    gateway_api::{Grant, Route},
    host, intake,
    virtual_service::VirtualService,
};

/// An object that counts.
#[derive(Clone, Debug)]
pub(super) struct Held<T> {
    /// Kind, namespace and name.
    pub(super) name: Name,
    /// What it says, with host names in full.
    pub(super) spec: T,
    /// The object as it stands.
    pub(super) declared: Arc<Declared>,
}

impl<T> Held<T> {
    /// The older comes first; those of one age by name.
    pub(super) fn age(&self) -> (&str, &str, &str) {
        (&self.declared.metadata.creation_timestamp, &self.name.2, &self.name.1)
    }
}

/// All objects for waypoints.
#[derive(Debug, Default)]
pub(super) struct Objects {
    virtual_services: Hosted<VirtualService>,
    rules: Hosted<DestinationRule>,
    routes: Hosted<Route>,
    grants: BTreeMap<Name, Held<Grant>>,
    /// BackendTLSPolicies, by the hosts that are to be called with TLS.
    tls: Hosted<()>,
    /// VirtualServices by those that they delegate to.
    delegators: HashMap<Name, BTreeSet<Name>>,
    problems: BTreeMap<Name, Vec<Problem>>,
    /// Those that are refused and were never good: something else stands for them.
    closed: BTreeSet<Name>,
}

/// Services that a change concerns.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Hosts, or wildcards for them, whose rules may be others.
    pub(super) routed: BTreeSet<String>,
    /// Hosts, or wildcards for them, that may be called in another way.
    pub(super) called: BTreeSet<String>,
    /// All services with Gateway API routes.
    pub(super) granted: bool,
}

impl Objects {
    /// An object came, went (`None`) or is another now.
    pub(super) fn change(
        &mut self,
        name: &Name,
        declared: Option<&Arc<Declared>>,
        domain: &str,
        touched: &mut Touched,
    ) {
        self.problems.remove(name);
        let was_good = self.holds(name) && !self.closed.remove(name);
        let Some(declared) = declared else { return self.put(name, None, touched) };
        let mut findings = Findings::default();
        let read = intake::object(declared, domain, &mut findings);
        let mut refused = false;
        let problem = |finding: super::finding::Finding| {
            let origin = declared.place(&finding.pointer);
            let text = match finding.what {
                What::Invalid(text) => {
                    refused = true;
                    text
                }
                What::Discouraged(text) => text,
                What::Unreachable { .. } | What::Ineffective { .. } => return None,
            };
            let (kind, namespace, name) = name;
            Some(Problem { origin, text: format!("{kind} {namespace}/{name}: {text}") })
        };
        let mut problems: Vec<_> = findings.0.into_iter().filter_map(problem).collect();
        if refused {
            let outcome = if was_good {
                "its last good version stays"
            } else {
                self.close(name, declared, domain, touched)
            };
            problems.iter_mut().for_each(|problem| problem.text.push_str(&format!("; {outcome}")));
        } else if let Some(object) = read {
            self.put(name, Some((object, declared)), touched);
        }
        if !problems.is_empty() {
            self.problems.insert(name.clone(), problems);
        }
    }

    /// An object that is refused and was never good may say what must not pass; says what becomes of it.
    fn close(
        &mut self,
        name: &Name,
        declared: &Arc<Declared>,
        domain: &str,
        touched: &mut Touched,
    ) -> &'static str {
        let Some(object) = closed::object(declared, domain) else {
            self.put(name, None, touched);
            return "it does not count";
        };
        self.put(name, Some((object, declared)), touched);
        self.closed.insert(name.clone());
        "until it is mended nothing passes for its hosts"
    }

    fn holds(&self, name: &Name) -> bool {
        match name.0 {
            "VirtualService" => self.virtual_services.all.contains_key(name),
            "DestinationRule" => self.rules.all.contains_key(name),
            "ReferenceGrant" => self.grants.contains_key(name),
            "BackendTLSPolicy" => self.tls.all.contains_key(name),
            _ => self.routes.all.contains_key(name),
        }
    }

    fn put(
        &mut self,
        name: &Name,
        object: Option<(intake::Object, &Arc<Declared>)>,
        touched: &mut Touched,
    ) {
        // The name knows the kind: what stood there was of the same.
        match name.0 {
            "VirtualService" => self.forget_virtual_service(name, touched),
            "DestinationRule" => touched.called.extend(self.rules.remove(name)),
            "ReferenceGrant" => touched.granted |= self.grants.remove(name).is_some(),
            "BackendTLSPolicy" => touched.called.extend(self.tls.remove(name)),
            _ => touched.routed.extend(self.routes.remove(name)),
        }
        let Some((object, declared)) = object else { return };
        let (name, declared) = (name.clone(), declared.clone());
        match object {
            intake::Object::VirtualService(spec) => {
                self.keep_virtual_service(Held { name, spec: *spec, declared }, touched);
            }
            intake::Object::DestinationRule(spec) => {
                touched.called.insert(spec.host.clone());
                let hosts = [spec.host.clone()];
                self.rules.insert(Held { name, spec: *spec, declared }, &hosts);
            }
            intake::Object::Route(spec, hosts) => {
                touched.routed.extend(hosts.iter().cloned());
                self.routes.insert(Held { name, spec: *spec, declared }, &hosts);
            }
            intake::Object::Tls(hosts) => {
                touched.called.extend(hosts.iter().cloned());
                self.tls.insert(Held { name, spec: (), declared }, &hosts);
            }
            intake::Object::Grant(spec) => {
                touched.granted = true;
                self.grants.insert(name.clone(), Held { name, spec, declared });
            }
        }
    }

    fn keep_virtual_service(&mut self, held: Held<VirtualService>, touched: &mut Touched) {
        for delegate in delegates(&held) {
            self.delegators.entry(delegate).or_default().insert(held.name.clone());
        }
        touched.routed.extend(held.spec.hosts.iter().cloned());
        touched.routed.extend(self.hosts_of_delegators(&held.name));
        let hosts = held.spec.hosts.clone();
        self.virtual_services.insert(held, &hosts);
    }

    fn forget_virtual_service(&mut self, name: &Name, touched: &mut Touched) {
        let held = self.virtual_services.all.get(name);
        for delegate in held.into_iter().flat_map(delegates) {
            let left = self.delegators.get_mut(&delegate).is_some_and(|roots| {
                roots.remove(name);
                !roots.is_empty()
            });
            if !left {
                self.delegators.remove(&delegate);
            }
        }
        touched.routed.extend(self.hosts_of_delegators(name));
        touched.routed.extend(self.virtual_services.remove(name));
    }

    fn hosts_of_delegators(&self, name: &Name) -> Vec<String> {
        let roots = self.delegators.get(name).into_iter().flatten();
        let roots = roots.filter_map(|root| self.virtual_services.all.get(root));
        roots.flat_map(|root| root.spec.hosts.clone()).collect()
    }

    /// The VirtualServices that are for a host.
    pub(super) fn virtual_services_for(
        &self,
        host: &str,
    ) -> impl Iterator<Item = &Held<VirtualService>> {
        self.virtual_services.of(host)
    }

    /// A VirtualService by its name.
    pub(super) fn virtual_service(
        &self,
        namespace: &str,
        name: &str,
    ) -> Option<&Held<VirtualService>> {
        let name = ("VirtualService", namespace.to_owned(), name.to_owned());
        self.virtual_services.all.get(&name)
    }

    /// The DestinationRules that are for a host.
    pub(super) fn rules_for(&self, host: &str) -> impl Iterator<Item = &Held<DestinationRule>> {
        self.rules.of(host)
    }

    /// Whether a BackendTLSPolicy asks for TLS to a host.
    pub(super) fn asks_for_tls(&self, host: &str) -> bool {
        self.tls.of(host).next().is_some()
    }

    /// The routes of the Gateway API that a service is the parent of.
    pub(super) fn routes_for(&self, host: &str) -> impl Iterator<Item = &Held<Route>> {
        self.routes.of(host)
    }

    /// All hosts that are parents of routes of the Gateway API.
    pub(super) fn parents(&self) -> impl Iterator<Item = &String> {
        self.routes.by_host.keys()
    }

    /// All ReferenceGrants of a namespace.
    pub(super) fn grants_of(&self, namespace: &str) -> impl Iterator<Item = &Grant> {
        self.grants.values().filter(move |grant| grant.name.1 == *namespace).map(|held| &held.spec)
    }

    /// What is wrong with objects.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }
}

/// The VirtualServices that one delegates to.
fn delegates(held: &Held<VirtualService>) -> impl Iterator<Item = Name> {
    let home = &held.name.1;
    held.spec.http.iter().filter_map(|route| route.delegate.as_ref()).map(move |delegate| {
        let namespace = if delegate.namespace.is_empty() { home } else { &delegate.namespace };
        ("VirtualService", namespace.clone(), delegate.name.clone())
    })
}

/// Objects of a kind, by the hosts that they are for.
#[derive(Debug)]
struct Hosted<T> {
    all: BTreeMap<Name, Held<T>>,
    by_host: HashMap<String, BTreeSet<Name>>,
    /// Those that are for wildcards.
    wild: BTreeMap<String, BTreeSet<Name>>,
    hosts: HashMap<Name, Vec<String>>,
}

impl<T> Default for Hosted<T> {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            by_host: HashMap::new(),
            wild: BTreeMap::new(),
            hosts: HashMap::new(),
        }
    }
}

impl<T> Hosted<T> {
    fn insert(&mut self, held: Held<T>, hosts: &[String]) {
        for host in hosts {
            let names = match host::is_wildcard(host) {
                true => self.wild.entry(host.clone()).or_default(),
                false => self.by_host.entry(host.clone()).or_default(),
            };
            names.insert(held.name.clone());
        }
        self.hosts.insert(held.name.clone(), hosts.to_vec());
        self.all.insert(held.name.clone(), held);
    }

    /// Gives the hosts that it was for.
    fn remove(&mut self, name: &Name) -> Vec<String> {
        self.all.remove(name);
        let hosts = self.hosts.remove(name).unwrap_or_default();
        for host in &hosts {
            let left = |names: &mut BTreeSet<Name>| {
                names.remove(name);
                names.is_empty()
            };
            if self.by_host.get_mut(host).is_some_and(left) {
                self.by_host.remove(host);
            }
            if self.wild.get_mut(host).is_some_and(left) {
                self.wild.remove(host);
            }
        }
        hosts
    }

    /// Those that are for a host, each once, by name.
    fn of(&self, host: &str) -> impl Iterator<Item = &Held<T>> {
        let exact = self.by_host.get(host).into_iter().flatten();
        let wild = self.wild.iter().filter(|(wide, _)| host::overlap(wide, host));
        let mut names: Vec<&Name> = exact.chain(wild.flat_map(|(_, names)| names)).collect();
        if host::is_wildcard(host) {
            let under = self.by_host.iter().filter(|(other, _)| host::overlap(other, host));
            names.extend(under.flat_map(|(_, names)| names));
        }
        names.sort();
        names.dedup();
        names.into_iter().filter_map(|name| self.all.get(name))
    }
}

/// Where a field of an object stands.
pub(super) fn place<T>(held: &Held<T>, pointer: &str) -> Origin {
    held.declared.place(pointer)
}
