//! Pure: objects and services → the table and the backends, the same whatever the order they came in;
//! and what changes of them → what changes of those, in time for the change.
//! Never: half of a change: what comes out is whole.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use culvert_agent::{
    discovery::{Service, Snapshot, WaypointDestination},
    manifest::{Changes, Folder, Name},
    origin::Problem,
};

use super::{
    host, intake,
    lookup::{self, Asked},
    objects::{Objects, Touched},
    policy,
    service::Maker,
    targets::Targets,
};
use crate::{
    backend::{Backends, ServiceBackends, model::RuleName},
    routing::Table,
};

/// What the objects do not say themselves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The domain of service names.
    pub cluster_domain: String,
    /// The namespace of what is the whole mesh's.
    pub root_namespace: String,
    /// The waypoint whose table it is; `None` for that of any, each service being seen from its own
    /// namespace.
    pub waypoint: Option<Waypoint>,
    /// Whether what a VirtualService says of clients with `sourceLabels` counts. Istio's waypoints leave
    /// such `match` blocks out.
    pub source_labels: bool,
}

impl Default for Settings {
    /// Istio's own names, for any waypoint.
    fn default() -> Self {
        Self {
            cluster_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
            waypoint: None,
            source_labels: true,
        }
    }
}

/// A waypoint.
#[derive(Clone, Debug)]
pub struct Waypoint {
    /// Its namespace.
    pub namespace: String,
    /// What services call it.
    pub destinations: HashSet<WaypointDestination>,
}

/// What comes of all objects.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// Where requests go.
    pub table: Arc<Table>,
    /// How they go there.
    pub backends: Arc<Backends>,
    /// What is wrong with the objects, in order of where it stands.
    pub problems: Arc<[Problem]>,
}

/// Makes each table of the last one and of what has changed since.
#[derive(Debug)]
pub struct Compiler {
    settings: Settings,
    objects: Objects,
    /// The services of the last table.
    snapshot: Snapshot,
    table: Table,
    backends: Backends,
    /// Services whose host names are wildcards.
    wild: BTreeSet<Arc<str>>,
    /// Services whose routes name a host.
    naming: HashMap<String, BTreeSet<Arc<str>>>,
    named: HashMap<Arc<str>, BTreeSet<String>>,
    /// What is wrong with the routes of a service.
    problems: BTreeMap<Arc<str>, Vec<Problem>>,
    begun: bool,
    /// Others may call the waypoint theirs than in the last table.
    renamed: bool,
}

/// What is wrong with the routes of services, beyond what each object says by itself.
pub fn problems(folder: &Folder, snapshot: &Snapshot, settings: &Settings) -> Vec<Problem> {
    let mut compiler = Compiler::new(settings.clone());
    compiler.apply(folder, &Changes::default(), snapshot);
    let mut problems: Vec<_> = compiler.problems.into_values().flatten().collect();
    problems.sort_by(|a, b| (&a.origin, &a.text).cmp(&(&b.origin, &b.text)));
    problems.dedup();
    problems
}

impl Compiler {
    /// A compiler that has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            objects: Objects::default(),
            snapshot: Snapshot::default(),
            table: Table::default(),
            backends: Backends::default(),
            wild: BTreeSet::new(),
            naming: HashMap::new(),
            named: HashMap::new(),
            problems: BTreeMap::new(),
            begun: false,
            renamed: false,
        }
    }

    /// The waypoint is called so from now on. Objects stay as they are, with their last good versions.
    pub fn set_names(&mut self, names: HashSet<WaypointDestination>) {
        if let Some(waypoint) = &mut self.settings.waypoint
            && waypoint.destinations != names
        {
            waypoint.destinations = names;
            self.renamed = true;
        }
    }

    /// What comes of a folder in which these `changes` happened since the last call (the first time, of
    /// all of it), and of the services that the same folder declares. Takes time for what changed.
    pub fn apply(&mut self, folder: &Folder, changes: &Changes, snapshot: &Snapshot) -> Compiled {
        let names: Vec<Name> = match self.begun {
            true => changes.for_waypoints().cloned().collect(),
            false => folder.for_waypoints().map(|(name, _)| name.clone()).collect(),
        };
        self.begun = true;
        let mut touched = Touched::default();
        for name in names {
            let domain = &self.settings.cluster_domain;
            self.objects.change(&name, folder.declared(&name), domain, &mut touched);
        }
        if touched.granted {
            touched.routed.extend(self.objects.parents().cloned());
        }
        let mut routed = BTreeSet::new();
        let mut called = BTreeSet::new();
        for host in snapshot.services_changed_since(&self.snapshot) {
            let (then, now) = (self.snapshot.service_named(&host), snapshot.service_named(&host));
            if host::is_wildcard(&host) {
                self.wild.remove(&host);
                self.wild.extend(now.map(|_| host.clone()));
            }
            if !same_shape(then, now) {
                routed.extend(self.naming.get(&*host).into_iter().flatten().cloned());
                routed.insert(host.clone());
                called.insert(host);
            }
        }
        self.snapshot = snapshot.clone();
        if std::mem::take(&mut self.renamed) {
            routed.extend(self.snapshot.services().map(|service| service.hostname.clone()));
        }
        called.extend(touched.called.iter().flat_map(|pattern| self.hosts(pattern)));
        routed.extend(touched.routed.iter().flat_map(|pattern| self.hosts(pattern)));
        for host in called {
            if self.call(&host) {
                routed.extend(self.naming.get(&*host).into_iter().flatten().cloned());
                routed.insert(host);
            }
        }
        routed.into_iter().for_each(|host| self.route(&host));
        self.compiled(folder)
    }

    fn compiled(&self, folder: &Folder) -> Compiled {
        let mut problems: Vec<_> = folder.problems_for_waypoints().collect();
        problems.extend(self.objects.problems().cloned());
        problems.extend(self.problems.values().flatten().cloned());
        problems.sort_by(|a, b| (&a.origin, &a.text).cmp(&(&b.origin, &b.text)));
        problems.dedup();
        Compiled {
            table: self.table.clone().into(),
            backends: self.backends.clone().into(),
            problems: problems.into(),
        }
    }

    /// The services that a host, a wildcard, or a ServiceEntry's name stands for.
    fn hosts(&self, pattern: &str) -> Vec<Arc<str>> {
        let all = || self.snapshot.services();
        if host::is_wildcard(pattern) {
            let those = all().filter(|service| host::overlap(pattern, &service.hostname));
            return those.map(|service| service.hostname.clone()).collect();
        }
        if pattern.contains('/') {
            let those = all().filter(|service| intake::parent(service).1 == pattern);
            return those.map(|service| service.hostname.clone()).collect();
        }
        let exact = self.snapshot.service_named(pattern).map(|service| service.hostname.clone());
        let wild = self.wild.iter().filter(|wide| host::overlap(pattern, wide)).cloned();
        exact.into_iter().chain(wild).collect()
    }

    /// Looks up anew how a service is called; says whether that is another way now.
    fn call(&mut self, host: &Arc<str>) -> bool {
        let made = self.snapshot.service_named(host).and_then(|service| self.service(service));
        let same = match (&made, self.backends.services.get(host)) {
            (Some(made), Some(then)) => *made == **then,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        match made {
            _ if same => {}
            Some(made) => drop(self.backends.services.insert(host.clone(), Arc::new(made))),
            None => drop(self.backends.services.remove(host)),
        }
        !same
    }

    /// What DestinationRules say of a service; `None` when none does. One that is to be called with the TLS
    /// of a BackendTLSPolicy is not called.
    fn service(&self, service: &Service) -> Option<ServiceBackends> {
        let asked = Asked {
            host: &service.hostname,
            home: &service.namespace,
            waypoint: self.waypoint(service),
            root: &self.settings.root_namespace,
        };
        let rules: Vec<_> = lookup::rules(&self.objects, asked)
            .into_iter()
            .map(|held| {
                let (_, namespace, name) = &held.name;
                let name = RuleName {
                    namespace: namespace.as_str().into(),
                    name: name.as_str().into(),
                    origin: held.declared.origin(),
                };
                (&held.spec, name)
            })
            .collect();
        match self.objects.asks_for_tls(&service.hostname) {
            true => Some(policy::refused(&rules)),
            false => (!rules.is_empty()).then(|| policy::service(&rules)),
        }
    }

    /// The namespace that a service is seen from.
    fn waypoint<'a>(&'a self, service: &'a Service) -> &'a str {
        self.settings.waypoint.as_ref().map_or(&service.namespace, |waypoint| &waypoint.namespace)
    }

    fn serves(&self, service: &Service) -> bool {
        let Some(own) = &self.settings.waypoint else { return true };
        service.waypoints().any(|waypoint| own.destinations.contains(&waypoint.destination))
    }

    /// Compiles the routes of a service anew.
    fn route(&mut self, host: &Arc<str>) {
        for named in self.named.remove(host).unwrap_or_default() {
            let left = self.naming.get_mut(&named).is_some_and(|naming| {
                naming.remove(host);
                !naming.is_empty()
            });
            if !left {
                self.naming.remove(&named);
            }
        }
        self.problems.remove(host);
        let service = self.snapshot.service_named(host).cloned();
        let Some(service) = service.filter(|service| self.serves(service)) else {
            self.table.services.remove(host);
            return;
        };
        let maker = Maker {
            objects: &self.objects,
            domain: &self.settings.cluster_domain,
            waypoint: self.waypoint(&service),
            source_labels: self.settings.source_labels,
        };
        let (snapshot, backends) = (&self.snapshot, &self.backends);
        let mut targets = Targets { snapshot, backends, asked: BTreeSet::new() };
        let (routes, problems) = maker.routes(&service, &mut targets);
        let asked = targets.asked;
        if self.table.services.get(host).is_none_or(|then| **then != routes) {
            self.table.services.insert(host.clone(), Arc::new(routes));
        }
        if !problems.is_empty() {
            self.problems.insert(host.clone(), problems);
        }
        for named in &asked {
            self.naming.entry(named.clone()).or_default().insert(host.clone());
        }
        if !asked.is_empty() {
            self.named.insert(host.clone(), asked);
        }
    }
}

/// Whether two versions of a service are alike in what routes depend on. Endpoints are looked up when
/// requests come.
fn same_shape(then: Option<&Arc<Service>>, now: Option<&Arc<Service>>) -> bool {
    match (then, now) {
        (Some(then), Some(now)) => {
            then.ports == now.ports
                && then.waypoints().eq(now.waypoints())
                && then.name == now.name
                && then.namespace == now.namespace
        }
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}
