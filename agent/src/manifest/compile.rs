//! Pure: objects → workloads and services, the same whatever the order of the objects.
//! Never: a second model beside discovery's.
mod services;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
};

use super::{
    documents::{Folder, Found},
    objects::{self, Labels, Object},
    security,
};
use crate::{
    discovery::{Locality, Policies, Protocol, Snapshot, Workload},
    identity::Identity,
    origin::{Origin, Problem},
    policy::PeerAuthentication,
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

/// Istio's label that enrols pods, and those of a namespace.
const MODE: &str = "istio.io/dataplane-mode";
const NETNS: &str = "culvert.dev/netns";
const CGROUP: &str = "culvert.dev/cgroup";

/// Turns the folder's objects into a snapshot. Objects that make no sense are left out and named.
pub fn compile(folder: &Folder, settings: &Settings) -> Snapshot {
    let (objects, problems) = folder.objects();
    let partial = folder.is_partial();
    let mut mesh = Mesh {
        settings,
        localities: localities(&objects),
        problems,
        pods: Vec::new(),
        by_namespace: HashMap::new(),
        by_address: HashMap::new(),
    };
    let enrolled = enrolled_namespaces(&objects);
    for found in &objects {
        if let Object::Pod(pod) = &found.object {
            // A namespace that nothing declares may stand in the damaged file.
            let enrolled = enrolled.get(pod.metadata.namespace.as_str()).copied();
            mesh.pod(pod, &found.origin, enrolled.unwrap_or(partial));
        }
    }
    mesh.report_shared_addresses();
    let slices = services::slices(&objects);
    let mut services = Vec::new();
    for found in &objects {
        if let Object::Service(service) = &found.object {
            let name = (service.metadata.namespace.as_str(), service.metadata.name.as_str());
            let slices = slices.get(&name).map(Vec::as_slice);
            services.extend(mesh.service(service, slices, &found.origin));
        }
    }
    let policies = mesh.policies(&objects, folder.may_lack_policies());
    let workloads = mesh.pods.into_iter().map(|(workload, _)| workload).collect();
    Snapshot::new(workloads, services, mesh.problems).with_policies(policies).partial(partial)
}

fn enrolled_namespaces<'a>(objects: &[&'a Found]) -> HashMap<&'a str, bool> {
    let namespace = |found: &&'a Found| match &found.object {
        Object::Namespace(namespace) => {
            let metadata = &namespace.metadata;
            Some((metadata.name.as_str(), is_ambient(&metadata.labels)))
        }
        Object::Node(_)
        | Object::Pod(_)
        | Object::Service(_)
        | Object::Slice(_)
        | Object::Policy(_)
        | Object::Peer(_) => None,
    };
    objects.iter().filter_map(namespace).collect()
}

fn is_ambient(labels: &Labels) -> bool {
    labels.get(MODE).is_some_and(|mode| mode == "ambient")
}

/// Where each node stands.
fn localities<'a>(objects: &[&'a Found]) -> HashMap<&'a str, Locality> {
    let mut localities = HashMap::new();
    for found in objects {
        if let Object::Node(node) = &found.object {
            let label = |name: &str| {
                let name = format!("topology.kubernetes.io/{name}");
                node.metadata.labels.get(&name).map_or("", String::as_str).into()
            };
            let locality = Locality { region: label("region"), zone: label("zone") };
            localities.insert(node.metadata.name.as_str(), locality);
        }
    }
    localities
}

struct Mesh<'a> {
    settings: &'a Settings,
    localities: HashMap<&'a str, Locality>,
    problems: Vec<Problem>,
    pods: Vec<(Workload, &'a objects::Pod)>,
    by_namespace: HashMap<&'a str, Vec<usize>>,
    by_address: HashMap<IpAddr, Arc<str>>,
}

impl<'a> Mesh<'a> {
    fn pod(&mut self, pod: &'a objects::Pod, origin: &Origin, namespace_enrolled: bool) {
        if matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
            return;
        }
        match self.workload(pod, origin, namespace_enrolled) {
            Ok(workload) => {
                let index = self.pods.len();
                self.by_namespace.entry(&pod.metadata.namespace).or_default().push(index);
                let addresses = workload.addresses.iter();
                self.by_address.extend(addresses.map(|address| (*address, workload.uid.clone())));
                self.pods.push((workload, pod));
            }
            Err(text) => self.problems.push(Problem { origin: origin.clone(), text }),
        }
    }

    fn workload(
        &self,
        pod: &objects::Pod,
        origin: &Origin,
        namespace_enrolled: bool,
    ) -> Result<Workload, String> {
        let metadata = &pod.metadata;
        let (namespace, name) = (metadata.namespace.as_str(), metadata.name.as_str());
        let account = &pod.spec.service_account_name;
        let identity = Identity::new(&self.settings.trust_domain, namespace, account)
            .map_err(|_| format!("{namespace}/{account} cannot be part of a SPIFFE ID: use letters, digits, dots and dashes"))?;
        let opted_out = metadata.labels.get(MODE).is_some_and(|mode| mode == "none");
        let enrolled = !pod.spec.host_network
            && !opted_out
            && (namespace_enrolled || is_ambient(&metadata.labels));
        let annotation = |name: &str| metadata.annotations.get(name).map(PathBuf::from);
        let workload_name = workload_name(pod);
        Ok(Workload {
            uid: format!("{}//Pod/{namespace}/{name}", self.settings.cluster).into(),
            name: name.into(),
            namespace: namespace.into(),
            addresses: if pod.spec.host_network { Vec::new() } else { addresses(&pod.status)? },
            node: pod.spec.node_name.as_str().into(),
            locality: self.localities.get(&*pod.spec.node_name).cloned().unwrap_or_default(),
            identity,
            protocol: if enrolled { Protocol::Hbone } else { Protocol::Tcp },
            ready: is_ready(&pod.status),
            canonical_name: label(
                &metadata.labels,
                ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"],
            )
            .unwrap_or(&workload_name)
            .into(),
            canonical_revision: label(
                &metadata.labels,
                ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"],
            )
            .unwrap_or("latest")
            .into(),
            labels: metadata.labels.clone(),
            workload_name: workload_name.as_str().into(),
            netns: annotation(NETNS),
            cgroup: annotation(CGROUP),
            origin: origin.clone(),
        })
    }

    /// A node's own address belongs to no pod, but two pods with one address cannot both be reached.
    fn report_shared_addresses(&mut self) {
        let mut owners: BTreeMap<IpAddr, &Workload> = BTreeMap::new();
        let pods = self.pods.iter().map(|(workload, _)| workload);
        for (address, workload) in pods.flat_map(|w| w.addresses.iter().map(move |a| (*a, w))) {
            if let Some(first) = owners.insert(address, workload) {
                let text =
                    format!("address {address} is that of {} too ({})", first.uid, first.origin);
                self.problems.push(Problem { origin: workload.origin.clone(), text });
            }
        }
    }

    /// Policies by name; peer authentication from the closest scope to the widest, the oldest first.
    fn policies(&mut self, objects: &[&Found], damaged: bool) -> Policies {
        let mut all = Policies { damaged, ..Policies::default() };
        for Found { origin, object } in objects {
            let (root, problems) = (&self.settings.root_namespace, &mut self.problems);
            match object {
                Object::Policy(policy) => {
                    let policy = security::policy(policy, origin, root, problems);
                    all.policies.extend(policy.map(Arc::new));
                }
                Object::Peer(peer) => {
                    let peer = security::peer_authentication(peer, origin, root, problems);
                    all.peers.push(Arc::new(peer));
                }
                Object::Namespace(_)
                | Object::Node(_)
                | Object::Pod(_)
                | Object::Service(_)
                | Object::Slice(_) => {}
            }
        }
        all.policies.sort_by(|a, b| a.name.cmp(&b.name));
        let rank = |peer: &PeerAuthentication| {
            (peer.scope.selector.is_empty(), peer.scope.namespace.is_none())
        };
        all.peers
            .sort_by(|a, b| (rank(a), &a.created, &a.name).cmp(&(rank(b), &b.created, &b.name)));
        all
    }
}

fn addresses(status: &objects::PodStatus) -> Result<Vec<IpAddr>, String> {
    let all = status.pod_ips.iter().map(|ip| ip.ip.as_str());
    let first = std::iter::once(status.pod_ip.as_str());
    let mut addresses = Vec::new();
    for text in first.chain(all).filter(|text| !text.is_empty()) {
        let address: IpAddr =
            text.parse().map_err(|_| format!("status.podIP {text:?} is no IP address"))?;
        if !addresses.contains(&address.to_canonical()) {
            addresses.push(address.to_canonical());
        }
    }
    Ok(addresses)
}

/// A folder that says nothing about readiness means ready.
fn is_ready(status: &objects::PodStatus) -> bool {
    let mut ready = status.conditions.iter().filter(|condition| condition.kind == "Ready");
    ready.all(|condition| condition.status == "True")
}

fn label<'a>(labels: &'a Labels, names: [&str; 3]) -> Option<&'a str> {
    names.into_iter().find_map(|name| labels.get(name)).map(String::as_str)
}

/// The owner's name; of a ReplicaSet without the hash that its Deployment added.
fn workload_name(pod: &objects::Pod) -> String {
    let owner = pod.metadata.owner_references.iter().find(|owner| owner.controller);
    match owner {
        Some(owner) if owner.kind == "ReplicaSet" => {
            owner.name.rsplit_once('-').map_or(owner.name.as_str(), |(name, _)| name).to_owned()
        }
        Some(owner) => owner.name.clone(),
        None => pod.metadata.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Target;

    fn snapshot(yaml: &str) -> Snapshot {
        let settings = Settings {
            trust_domain: "cluster.local".into(),
            cluster: "Kubernetes".into(),
            cluster_domain: "cluster.local".into(),
            root_namespace: "istio-system".into(),
        };
        let mut folder = Folder::default();
        folder.update(BTreeMap::from([("m.yaml".into(), Ok(yaml.into()))]));
        compile(&folder, &settings)
    }

    #[test]
    fn istios_labels_decide_who_is_enrolled() {
        for (namespace, pod, host_network, enrolled) in [
            ("ambient", None, false, true),
            ("ambient", Some("none"), false, false),
            ("ambient", Some("ambient"), false, true),
            ("ambient", None, true, false),
            ("none", None, false, false),
            ("none", Some("ambient"), false, true),
            ("sidecar", Some("sidecar"), false, false),
        ] {
            let label = pod.map(|mode| format!("istio.io/dataplane-mode: {mode}"));
            let snapshot = snapshot(&format!(
                "{{kind: Namespace, apiVersion: v1, metadata: {{name: shop, labels: {{istio.io/dataplane-mode: {namespace}}}}}}}\n---\n\
                 {{kind: Pod, apiVersion: v1, metadata: {{name: web, namespace: shop, labels: {{{}}}}}, \
                 spec: {{hostNetwork: {host_network}}}, status: {{podIP: 10.0.0.1}}}}\n",
                label.unwrap_or_default()
            ));
            let workload = snapshot.workload("Kubernetes//Pod/shop/web").unwrap();
            let expected = if enrolled { Protocol::Hbone } else { Protocol::Tcp };
            assert_eq!(workload.protocol, expected, "{namespace} {pod:?} {host_network}");
            assert_eq!(workload.addresses.is_empty(), host_network);
        }
    }

    #[test]
    fn what_makes_no_sense_is_left_out_and_named() {
        let pod = |name: &str, spec: &str, ip: &str| {
            format!(
                "---\n{{kind: Pod, apiVersion: v1, metadata: {{name: {name}, namespace: shop}}, spec: {{{spec}}}, status: {{podIP: '{ip}'}}}}\n"
            )
        };
        for (yaml, workloads, hint) in [
            (pod("a", "serviceAccountName: 'x/../y'", "10.0.0.1"), 0, "SPIFFE"),
            (pod("a", "", "10.0.0.300"), 0, "10.0.0.300"),
            (pod("a", "", "10.0.0.1") + &pod("b", "", "10.0.0.1"), 2, "10.0.0.1"),
        ] {
            let snapshot = snapshot(&yaml);
            assert_eq!(snapshot.workloads().count(), workloads, "{yaml}");
            let [problem] = snapshot.problems() else { panic!("{:?}", snapshot.problems()) };
            assert!(problem.text.contains(hint), "{problem:?}");
            assert!(problem.origin.to_string().starts_with("m.yaml:"));
        }
    }

    #[test]
    fn slices_say_which_pods_are_behind_a_service_where_there_are_any() {
        let snapshot = snapshot(
            "{kind: Pod, apiVersion: v1, metadata: {name: a, namespace: shop, labels: {app: x}}, spec: {}, status: {podIP: 10.0.0.1}}\n---\n\
             {kind: Pod, apiVersion: v1, metadata: {name: b, namespace: shop}, spec: {}, status: {podIP: 10.0.0.2}}\n---\n\
             {kind: Pod, apiVersion: v1, metadata: {name: c, namespace: shop}, spec: {}, status: {podIP: 10.0.0.3}}\n---\n\
             {kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {name: x-1, namespace: shop, labels: {kubernetes.io/service-name: x}}, \
             endpoints: [{addresses: [10.0.0.2]}, {addresses: [10.0.0.3], conditions: {ready: false}}, {addresses: [192.0.2.1]}], \
             ports: [{name: http, port: 9000}, {name: other, port: 1}]}\n---\n\
             {kind: Service, apiVersion: v1, metadata: {name: x, namespace: shop}, \
             spec: {clusterIP: 10.96.0.1, selector: {app: x}, ports: [{name: http, port: 80}]}}\n",
        );
        assert!(snapshot.problems().is_empty(), "{:?}", snapshot.problems());
        let service = snapshot.service_named("x.shop.svc.cluster.local").unwrap();
        let all: Vec<_> = service.endpoints.iter().map(|(uid, t)| (&**uid, t.clone())).collect();
        assert_eq!(all, [("Kubernetes//Pod/shop/b", Target::from([(80, 9000)]))]);
    }

    #[test]
    fn a_named_target_port_is_looked_up_in_each_pod() {
        let snapshot = snapshot(
            "{kind: Pod, apiVersion: v1, metadata: {name: a, namespace: shop, labels: {app: x}}, \
             spec: {containers: [{ports: [{name: web, containerPort: 8080}]}]}, status: {podIP: 10.0.0.1}}\n---\n\
             {kind: Pod, apiVersion: v1, metadata: {name: b, namespace: shop, labels: {app: x}}, \
             spec: {containers: [{ports: [{name: web, containerPort: 9090}]}]}, status: {podIP: 10.0.0.2}}\n---\n\
             {kind: Service, apiVersion: v1, metadata: {name: x, namespace: shop}, \
             spec: {clusterIP: 10.96.0.1, selector: {app: x}, ports: [{port: 80, targetPort: web}]}}\n",
        );
        let service = snapshot.service_named("x.shop.svc.cluster.local").unwrap();
        let targets: Vec<_> = service.endpoints.values().map(|target| target[&80]).collect();
        assert_eq!(targets, [8080, 9090]);
    }
}
