//! Pure: objects become what they mean.
use proptest::prelude::*;

use super::*;
use crate::discovery::{Protocol, Target, Waypoint};

mod entries;

fn snapshot(yaml: &str) -> Snapshot {
    let mut folder = Folder::default();
    folder.update(BTreeMap::from([("m.yaml".into(), Ok(yaml.into()))]));
    compile(&folder, &Settings::default())
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
fn a_pod_with_a_sidecar_is_never_enrolled() {
    for (annotation, expected) in
        [("x", Protocol::Hbone), ("sidecar.istio.io/status", Protocol::Tcp)]
    {
        let snapshot = snapshot(&format!(
            "{{kind: Pod, apiVersion: v1, metadata: {{name: web, namespace: shop, labels: {{istio.io/dataplane-mode: ambient}}, \
             annotations: {{{annotation}: injected}}}}, spec: {{}}, status: {{podIP: 10.0.0.1}}}}\n"
        ));
        let workload = snapshot.workload("Kubernetes//Pod/shop/web").unwrap();
        assert_eq!(workload.protocol, expected, "{annotation}");
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
fn who_is_not_ready_takes_connections_only_where_the_service_says_so() {
    let pod = "{kind: Pod, apiVersion: v1, metadata: {name: a, labels: {app: x}}, spec: {}, \
               status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: 'False'}]}}";
    let slice = "{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {name: x-1, labels: {kubernetes.io/service-name: x}}, \
                 endpoints: [{addresses: [10.0.0.1], conditions: {ready: false}}], ports: [{port: 80}]}";
    for (says, taken) in [
        ("publishNotReadyAddresses: true", 1),
        ("publishNotReadyAddresses: false", 0),
        ("type: ClusterIP", 0),
    ] {
        let service = format!(
            "{{kind: Service, apiVersion: v1, metadata: {{name: x}}, \
             spec: {{clusterIP: 10.96.0.1, selector: {{app: x}}, ports: [{{port: 80}}], {says}}}}}"
        );
        for text in
            [format!("{pod}\n---\n{service}"), format!("{pod}\n---\n{service}\n---\n{slice}")]
        {
            let snapshot = snapshot(&text);
            let service = snapshot.service_named("x.default.svc.cluster.local").unwrap();
            let takes = service.endpoints.values().filter(|target| !target.is_empty()).count();
            assert_eq!(takes, taken, "{text}");
        }
        // Who is being removed takes none, whatever is said of it.
        let gone = slice.replace("ready: false", "ready: true, serving: true, terminating: true");
        let snapshot = self::snapshot(&format!("{pod}\n---\n{service}\n---\n{gone}"));
        let service = snapshot.service_named("x.default.svc.cluster.local").unwrap();
        assert!(service.endpoints.is_empty(), "{says}");
    }
}

#[test]
fn a_service_says_whom_its_clients_prefer() {
    use crate::discovery::Distribution as Is;
    for (says, expected, problems) in [
        ("type: ClusterIP", Is::Any, 0),
        ("trafficDistribution: PreferClose", Is::SameZone, 0),
        ("trafficDistribution: PreferSameZone", Is::SameZone, 0),
        ("trafficDistribution: PreferSameNode", Is::SameNode, 0),
        ("internalTrafficPolicy: Local", Is::OnlyNode, 0),
        ("internalTrafficPolicy: Cluster", Is::Any, 0),
        // The stricter one counts.
        ("internalTrafficPolicy: Local, trafficDistribution: PreferClose", Is::OnlyNode, 0),
        ("trafficDistribution: PreferMars", Is::Any, 1),
    ] {
        let snapshot = snapshot(&format!(
            "{{kind: Service, apiVersion: v1, metadata: {{name: x}}, spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}], {says}}}}}"
        ));
        let service = snapshot.service_named("x.default.svc.cluster.local").unwrap();
        assert_eq!(service.distribution, expected, "{says}");
        assert_eq!(snapshot.problems().len(), problems, "{says}: {:?}", snapshot.problems());
    }
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

/// What a snapshot says, in an order of its own.
fn said(snapshot: &Snapshot) -> (Vec<String>, Vec<String>, Vec<String>) {
    let mut workloads: Vec<_> = snapshot.workloads().map(|w| format!("{w:?}")).collect();
    workloads.sort();
    let services = snapshot.services().map(|s| format!("{s:?}"));
    let owners = snapshot.addresses().map(|at| {
        let workload = snapshot.workload_at(at).map(|w| w.uid.clone());
        format!("{at} {workload:?} {:?}", snapshot.service_at(at).map(|s| s.hostname.clone()))
    });
    let mut problems: Vec<_> = snapshot.problems().iter().map(|p| format!("{p:?}")).collect();
    problems.sort();
    (workloads, services.chain(owners).collect(), problems)
}

/// One file with one object of a small world, or none.
fn file() -> impl Strategy<Value = (usize, Option<String>)> {
    let app = || prop_oneof![Just("a"), Just("b")];
    let pod = (0..4_usize, app(), 0..4_u8, any::<bool>()).prop_map(|(n, app, ip, ready)| {
        let text = format!(
            "{{kind: Pod, apiVersion: v1, metadata: {{name: p{n}, labels: {{app: {app}}}}}, spec: {{nodeName: n1}}, \
             status: {{podIP: 10.0.0.{ip}, conditions: [{{type: Ready, status: '{}'}}]}}}}",
            if ready { "True" } else { "False" }
        );
        (n, text)
    });
    let service = (4..6_usize, app(), 0..3_u8).prop_map(|(n, app, ip)| {
        let text = format!(
            "{{kind: Service, apiVersion: v1, metadata: {{name: s{n}}}, spec: {{clusterIP: 10.96.0.{ip}, \
             selector: {{app: {app}}}, ports: [{{port: 80}}]}}}}"
        );
        (n, text)
    });
    let slice = (6..7_usize, 4..6_usize, 0..4_u8).prop_map(|(n, of, ip)| {
        let text = format!(
            "{{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {{name: e{n}, labels: \
             {{kubernetes.io/service-name: s{of}}}}}, endpoints: [{{addresses: [10.0.0.{ip}]}}], ports: [{{port: 9}}]}}"
        );
        (n, text)
    });
    let entry = (7..9_usize, app(), 0..4_u8, any::<bool>()).prop_map(|(n, app, ip, inline)| {
        let behind = if inline {
            format!("endpoints: [{{address: 10.0.0.{ip}}}]")
        } else {
            format!("workloadSelector: {{labels: {{app: {app}}}}}")
        };
        let text = format!(
            "{{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {{name: x{n}}}, spec: {{hosts: [x.io, y{n}.io], \
             addresses: [10.97.0.{ip}, 10.98.0.0/24], ports: [{{number: 80}}], resolution: STATIC, {behind}}}}}"
        );
        (n, text)
    });
    let machine = (9..11_usize, app(), 0..5_u8).prop_map(|(n, app, ip)| {
        let text = format!(
            "{{kind: WorkloadEntry, apiVersion: networking.istio.io/v1, metadata: {{name: m{n}}}, \
             spec: {{address: 10.0.0.{ip}, labels: {{app: {app}}}, weight: {n}}}}}"
        );
        (n, text)
    });
    let namespace = (11..12_usize, any::<bool>()).prop_map(|(n, on)| {
        let mode = if on { "ambient" } else { "none" };
        let text = format!(
            "{{kind: Namespace, apiVersion: v1, metadata: {{name: default, labels: {{istio.io/dataplane-mode: {mode}}}}}}}"
        );
        (n, text)
    });
    let broken = (0..11_usize).prop_map(|n| (n, "kind: [".to_owned()));
    let present = prop_oneof![4 => pod, 2 => service, 1 => slice, 2 => entry, 2 => machine, 1 => namespace, 1 => broken];
    (present, any::<u8>()).prop_map(|((n, text), luck)| (n, (luck > 40).then_some(text)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Snapshots that are made of earlier ones say what one made at once says.
    #[test]
    fn a_change_of_some_objects_gives_what_all_of_them_give(
        steps in prop::collection::vec(prop::collection::vec(file(), 1..4), 1..12)
    ) {
        let mut folder = Folder::default();
        let mut compiler = Compiler::new(Settings::default());
        for step in steps {
            let file = |(n, text): (usize, Option<String>)| {
                (Arc::from(format!("{n:02}.yaml")), text.map(Ok))
            };
            let changes = folder.update_files(step.into_iter().map(file));
            let made = compiler.apply(&folder, &changes);
            prop_assert_eq!(said(&made), said(&compile(&folder, &Settings::default())));
        }
    }
}

const WAYPOINTS: &str = r"
{kind: Namespace, apiVersion: v1, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}}
---
{kind: Namespace, apiVersion: v1, metadata: {name: other, labels: {istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: shop}}}
---
{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: waypoint, namespace: shop}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: for-pods, namespace: shop, labels: {istio.io/waypoint-for: workload}}, status: {addresses: [{type: IPAddress, value: 10.96.0.9}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.96.0.1}}
---
{kind: Service, apiVersion: v1, metadata: {name: own, namespace: shop, labels: {istio.io/use-waypoint: for-pods}}, spec: {clusterIP: 10.96.0.2}}
---
{kind: Service, apiVersion: v1, metadata: {name: free, namespace: shop, labels: {istio.io/use-waypoint: none}}, spec: {clusterIP: 10.96.0.3}}
---
{kind: Service, apiVersion: v1, metadata: {name: lost, namespace: shop, labels: {istio.io/use-waypoint: gone}}, spec: {clusterIP: 10.96.0.4}}
---
{kind: Service, apiVersion: v1, metadata: {name: waypoint, namespace: shop, labels: {gateway.istio.io/managed: istio.io-mesh-controller}}, spec: {clusterIP: 10.96.0.5}}
---
{kind: Service, apiVersion: v1, metadata: {name: far, namespace: other}, spec: {clusterIP: 10.96.0.6}}
---
{kind: Pod, apiVersion: v1, metadata: {name: cart-0, namespace: shop}, spec: {}, status: {podIP: 10.0.0.1}}
---
{kind: Pod, apiVersion: v1, metadata: {name: db-0, namespace: shop, labels: {istio.io/use-waypoint: for-pods}}, spec: {}, status: {podIP: 10.0.0.2}}
";

#[test]
fn labels_of_object_and_namespace_name_the_waypoint() {
    let snapshot = snapshot(WAYPOINTS);
    let name = |waypoint: &crate::discovery::Waypoint| waypoint.destination.to_string();
    for (host, waypoint) in [
        ("cart.shop", Some("waypoint.shop.svc.cluster.local")),
        // The Gateway is for workloads alone.
        ("own.shop", None),
        ("free.shop", None),
        // As Istio has it, connections go on without a Gateway that nobody declared.
        ("lost.shop", None),
        ("waypoint.shop", None),
        // The Gateway admits its own namespace alone.
        ("far.other", None),
    ] {
        let service = snapshot.service_named(&format!("{host}.svc.cluster.local")).unwrap();
        assert_eq!(service.waypoint.as_ref().map(name).as_deref(), waypoint, "{host}");
    }
    for (pod, waypoint) in [("cart-0", None), ("db-0", Some("10.96.0.9"))] {
        let pod = snapshot.workload(&format!("Kubernetes//Pod/shop/{pod}")).unwrap();
        assert_eq!(pod.waypoint.as_ref().map(name).as_deref(), waypoint, "{}", pod.name);
    }
    let problems: Vec<_> = snapshot.problems().iter().map(|p| p.text.as_str()).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|text| text.contains("shop/gone, which does not exist")));
    assert!(problems.iter().any(|text| text.contains("does not admit this namespace")));
}

#[test]
fn a_gateway_of_the_edge_is_no_waypoint_and_a_service_entry_may_have_one() {
    for (class, listeners, waypoint) in [
        ("istio", "", false),
        ("istio", "{name: mesh, port: 15008, protocol: HBONE}", true),
        ("istio-waypoint", "", true),
        ("culvert-waypoint", "", true),
    ] {
        let snapshot = snapshot(&format!(
            "{{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: g, namespace: shop}}, spec: {{gatewayClassName: {class}, listeners: [{listeners}]}}}}\n---\n\
             {{kind: Service, apiVersion: v1, metadata: {{name: a, namespace: shop, labels: {{istio.io/use-waypoint: g}}}}, spec: {{clusterIP: 10.96.0.1}}}}\n---\n\
             {{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {{name: e, namespace: shop, labels: {{istio.io/use-waypoint: g}}}}, \
             spec: {{hosts: [e.example], addresses: [10.97.0.1], resolution: STATIC, endpoints: [{{address: 192.0.2.1}}]}}}}\n"
        ));
        for host in ["a.shop.svc.cluster.local", "e.example"] {
            let service = snapshot.service_named(host).unwrap();
            assert_eq!(service.waypoint.is_some(), waypoint, "{host} {class} {listeners}");
        }
        let said =
            |problem: &&crate::origin::Problem| problem.text.contains("which is no waypoint");
        let said = snapshot.problems().iter().filter(said).count();
        assert_eq!(said, if waypoint { 0 } else { 2 }, "{:?}", snapshot.problems());
    }
}

#[test]
fn a_gateway_admits_namespaces_by_their_labels() {
    let admitting = |selector: &str| {
        let allowed =
            format!("allowedRoutes: {{namespaces: {{from: Selector, selector: {selector}}}}}");
        let text = WAYPOINTS
            .replace(
                "{name: mesh, port: 15008, protocol: HBONE}",
                &format!("{{name: mesh, port: 15008, protocol: HBONE, {allowed}}}"),
            )
            .replace("{name: other, labels: {", "{name: other, labels: {team: a, ");
        let snapshot = snapshot(&text);
        let far = snapshot.service_named("far.other.svc.cluster.local").unwrap();
        far.waypoint.as_ref().map(|waypoint| waypoint.destination.to_string())
    };
    let (open, shut) = (Some("waypoint.shop.svc.cluster.local"), None);
    for (selector, expected) in [
        ("{matchLabels: {team: a}}", open),
        ("{matchLabels: {kubernetes.io/metadata.name: other}}", open),
        ("{matchLabels: {team: b}}", shut),
        ("{matchLabels: {team: a, tier: x}}", shut),
        ("{matchLabels: {team: a}, matchExpressions: [{key: x, operator: Exists}]}", shut),
        ("{}", shut),
    ] {
        assert_eq!(admitting(selector).as_deref(), expected, "{selector}");
    }
}

#[test]
fn a_second_waypoint_takes_its_share_of_a_services_connections() {
    let gateway = |name: &str, serves: &str| {
        format!(
            "{{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: {name}, namespace: shop, labels: {{istio.io/waypoint-for: {serves}}}}}}}\n---\n"
        )
    };
    let gateways =
        gateway("old", "service") + &gateway("new", "all") + &gateway("pods", "workload");
    let shares = |namespace: &str, service: &str| {
        let snapshot = snapshot(&format!(
            "{gateways}{{kind: Namespace, apiVersion: v1, metadata: {{name: shop, {namespace}}}}}\n---\n\
             {{kind: Service, apiVersion: v1, metadata: {{name: x, namespace: shop, {service}}}, spec: {{clusterIP: 10.96.0.1}}}}\n"
        ));
        let found = snapshot.service_named("x.shop.svc.cluster.local").unwrap();
        assert!(found.waypoint.is_some(), "{service}");
        let share = |(to, weight): &(Waypoint, u32)| {
            let host = to.destination.to_string();
            (host.split('.').next().unwrap_or_default().to_owned(), *weight)
        };
        let problems: Vec<_> = snapshot.problems().iter().map(|p| p.text.clone()).collect();
        (found.waypoint_shares.iter().map(share).collect::<Vec<_>>(), problems.join("; "))
    };
    let old = "labels: {istio.io/use-waypoint: old}";
    let canary = |name: &str, weight: &str| {
        format!(
            "labels: {{istio.io/use-waypoint: old, istio.io/use-waypoint-canary: {name}}}, annotations: {{istio.io/use-waypoint-canary-weight: '{weight}'}}"
        )
    };
    let both = |old: u32| vec![("old".to_owned(), old), ("new".to_owned(), 100 - old)];
    for (namespace, service, expected) in [
        (old, "", vec![]),
        (old, "labels: {istio.io/use-waypoint-canary: new}", both(100)),
        ("labels: {}", &canary("new", "5"), both(95)),
        ("labels: {}", &canary("new", "100"), both(0)),
        (&canary("new", "30"), "", both(70)),
        (
            &canary("new", "30"),
            "annotations: {istio.io/use-waypoint-canary-weight: '42'}",
            both(58),
        ),
        (&canary("new", "30"), "labels: {istio.io/use-waypoint-canary: none}", vec![]),
    ] {
        assert_eq!(shares(namespace, service), (expected, String::new()), "{namespace} {service}");
    }
    // What is wrong is named, once, and the first waypoint takes everything.
    for (name, weight, hint) in [
        ("new", "abc", "weight \"abc\" is no whole number from 0 to 100: old.shop"),
        ("new", "-1", "-1"),
        ("new", "101", "101"),
        ("gone", "5", "shop/gone, which does not exist: old.shop.svc.cluster.local takes all"),
        ("pods", "5", "which is not for services"),
        ("old", "5", "which is that of istio.io/use-waypoint too"),
    ] {
        for (namespace, service) in
            [("labels: {}", &*canary(name, weight)), (&canary(name, weight), "")]
        {
            let (shares, problems) = shares(namespace, service);
            assert!(shares.is_empty() && problems.contains(hint), "{problems}");
            assert!(!problems.contains("; "), "{problems}");
        }
    }
}

/// What a waypoint is for decides which addresses lead to it: services' unless it says otherwise.
#[test]
fn services_and_pods_pass_the_waypoints_that_are_for_them() {
    for (label, service, pod) in [
        ("", true, false),
        (", labels: {istio.io/waypoint-for: service}", true, false),
        (", labels: {istio.io/waypoint-for: workload}", false, true),
        (", labels: {istio.io/waypoint-for: all}", true, true),
        (", labels: {istio.io/waypoint-for: none}", false, false),
    ] {
        let snapshot = snapshot(&format!(
            "{{kind: Namespace, apiVersion: v1, metadata: {{name: shop, labels: {{istio.io/use-waypoint: w}}}}}}\n---\n\
             {{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: w, namespace: shop{label}}}, \
             spec: {{listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}}}\n---\n\
             {{kind: Service, apiVersion: v1, metadata: {{name: x, namespace: shop}}, spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}}}\n---\n\
             {{kind: Pod, apiVersion: v1, metadata: {{name: p, namespace: shop}}, spec: {{}}, status: {{podIP: 10.0.0.1}}}}"
        ));
        let found = snapshot.service_named("x.shop.svc.cluster.local").unwrap().waypoint.is_some();
        assert_eq!(found, service, "{label}");
        let found = snapshot.workload("Kubernetes//Pod/shop/p").unwrap().waypoint.is_some();
        assert_eq!(found, pod, "{label}");
    }
}
