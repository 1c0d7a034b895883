//! Pure: each kind of destination has its way.
use std::collections::BTreeMap;

use super::*;
use crate::manifest::{Folder, Settings, compile};

/// Two meshed pods behind `cart`, one that is not ready, one outside the mesh, and the client.
const MESH: &str = r"
kind: Namespace
apiVersion: v1
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
{kind: Pod, apiVersion: v1, metadata: {name: web, namespace: shop}, spec: {serviceAccountName: web}, status: {podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}, {ip: 'fd00::1'}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: cart-0, namespace: shop, labels: {app: cart}}, spec: {serviceAccountName: cart}, status: {podIPs: [{ip: 10.1.0.2}, {ip: 'fd00::2'}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: cart-1, namespace: shop, labels: {app: cart}}, spec: {serviceAccountName: cart}, status: {podIP: 10.1.0.3}}
---
{kind: Pod, apiVersion: v1, metadata: {name: cart-2, namespace: shop, labels: {app: cart}}, spec: {serviceAccountName: cart}, status: {podIP: 10.1.0.4, conditions: [{type: Ready, status: 'False'}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: old, namespace: shop, labels: {app: old, istio.io/dataplane-mode: none}}, spec: {}, status: {podIP: 10.1.0.5}}
---
{kind: Service, apiVersion: v1, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00:96::1'], selector: {app: cart}, ports: [{port: 80, targetPort: 8080}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: old, namespace: shop}, spec: {clusterIP: 10.96.0.2, selector: {app: old}, ports: [{port: 80}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: nobody, namespace: shop}, spec: {clusterIP: 10.96.0.3, selector: {app: nobody}, ports: [{port: 80}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.4, ports: [{port: 80}]}}
";

/// What else there is: waypoints of a service and of a pod, one that is not there, machines.
const MORE: &str = r"
---
{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: waypoint, namespace: shop, labels: {istio.io/waypoint-for: all}}}
---
{kind: Service, apiVersion: v1, metadata: {name: waypoint, namespace: shop}, spec: {clusterIP: 10.96.0.15, selector: {gateway.networking.k8s.io/gateway-name: waypoint}, ports: [{port: 15008}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: waypoint-0, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: waypoint, istio.io/dataplane-mode: none}}, spec: {serviceAccountName: waypoint}, status: {podIP: 10.1.0.15}}
---
{kind: Service, apiVersion: v1, metadata: {name: http, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}, spec: {clusterIP: 10.96.0.16, selector: {app: cart}, ports: [{port: 80}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: lost, namespace: shop, labels: {istio.io/use-waypoint: gone}}, spec: {clusterIP: 10.96.0.17, selector: {app: cart}, ports: [{port: 80}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: http-0, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}, spec: {serviceAccountName: cart}, status: {podIP: 10.1.0.16}}
---
{kind: Pod, apiVersion: v1, metadata: {name: far, namespace: shop, labels: {topology.istio.io/network: west}}, spec: {}, status: {podIP: 10.1.0.17}}
---
{kind: Service, apiVersion: v1, metadata: {name: headless, namespace: shop}, spec: {clusterIP: None, selector: {app: cart}, ports: [{port: 80}]}}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: outside, namespace: shop}, spec: {hosts: [x.io], addresses: [203.0.113.0/24], ports: [{number: 443}], resolution: NONE}}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: db, namespace: shop}, spec: {hosts: [db.io], addresses: [10.97.0.1], ports: [{number: 1, targetPort: 2}], resolution: STATIC, endpoints: [{address: 192.0.2.7, weight: 3}, {address: 192.0.2.8}]}}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: greedy, namespace: shop}, spec: {hosts: [greedy.io], addresses: [10.1.0.0/16], ports: [{number: 9}], resolution: NONE}}
---
{kind: Pod, apiVersion: v1, metadata: {name: exporter, namespace: shop, labels: {app: exporter}}, spec: {hostNetwork: true}, status: {podIP: 172.31.0.1}}
---
{kind: Service, apiVersion: v1, metadata: {name: exporter, namespace: shop}, spec: {clusterIP: 10.96.0.18, selector: {app: exporter}, ports: [{port: 80}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: kubernetes, namespace: shop}, spec: {clusterIP: 10.96.0.19, ports: [{port: 443}]}}
---
{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {name: kubernetes, namespace: shop, labels: {kubernetes.io/service-name: kubernetes}}, endpoints: [{addresses: [172.31.0.1]}], ports: [{port: 6443}]}
---
{kind: Pod, apiVersion: v1, metadata: {name: young-0, namespace: shop, labels: {app: young}}, spec: {}}
---
{kind: Service, apiVersion: v1, metadata: {name: young, namespace: shop}, spec: {clusterIP: 10.96.0.24, selector: {app: young}, ports: [{port: 80}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: mixed-0, namespace: shop, labels: {app: mixed}}, spec: {hostNetwork: true}, status: {podIP: 172.31.0.1}}
---
{kind: Pod, apiVersion: v1, metadata: {name: mixed-1, namespace: shop, labels: {app: mixed}}, spec: {}, status: {podIP: 10.1.0.25, conditions: [{type: Ready, status: 'False'}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: mixed, namespace: shop}, spec: {clusterIP: 10.96.0.25, selector: {app: mixed}, ports: [{port: 80}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: hand, namespace: shop}, spec: {clusterIP: 10.96.0.26, selector: {app: hand}, ports: [{port: 80}]}}
---
{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {name: hand, namespace: shop, labels: {kubernetes.io/service-name: hand}}, endpoints: [{addresses: [10.1.0.26]}], ports: [{port: 80}]}
---
{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: thief, namespace: shop}, spec: {hosts: [thief.io], addresses: [10.1.0.3], ports: [{number: 7}], resolution: STATIC, endpoints: [{address: 192.0.2.9}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: early, namespace: shop}, spec: {clusterIP: 10.96.0.20, selector: {app: early}, ports: [{port: 80}]}}
---
{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {name: early, namespace: shop, labels: {kubernetes.io/service-name: early}}, endpoints: [{addresses: [10.1.0.77], targetRef: {kind: Pod, name: early-0}}, {addresses: [172.31.0.1]}], ports: [{port: 80}]}
---
{kind: Pod, apiVersion: v1, metadata: {name: near-0, namespace: shop, labels: {app: itself}}, spec: {nodeName: n1, serviceAccountName: near}, status: {podIP: 10.1.0.18}}
---
{kind: Service, apiVersion: v1, metadata: {name: itself, namespace: shop}, spec: {clusterIP: 10.96.0.22, selector: {app: itself}, ports: [{port: 80}]}}
---
{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: west, namespace: shop}}
---
{kind: Service, apiVersion: v1, metadata: {name: west, namespace: shop}, spec: {clusterIP: 10.96.0.23, selector: {app: west}, ports: [{port: 15008}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: west-0, namespace: shop, labels: {app: west, topology.istio.io/network: west, istio.io/dataplane-mode: none}}, spec: {}, status: {podIP: 10.1.0.20}}
---
{kind: Service, apiVersion: v1, metadata: {name: over, namespace: shop, labels: {istio.io/use-waypoint: west}}, spec: {clusterIP: 10.96.0.21, selector: {app: cart}, ports: [{port: 80}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: near-1, namespace: shop}, spec: {nodeName: n1, serviceAccountName: near}, status: {podIP: 10.1.0.19}}
";

fn mesh() -> Snapshot {
    snapshot(MESH)
}

fn snapshot(text: &str) -> Snapshot {
    let mut folder = Folder::default();
    folder.update(BTreeMap::from([("mesh.yaml".into(), Ok(text.into()))]));
    compile(&folder, &Settings::default())
}

/// `plain <endpoint>`, `tunnel <endpoint> via <agent> as <identity>`, and so on, or the error.
fn way(mesh: &Snapshot, (source, destination): (&str, &str), choice: &Choice<'_>) -> String {
    let source = format!("Kubernetes//Pod/shop/{source}");
    let NextHop { via, endpoint, .. } =
        match next_hop(mesh, &source, destination.parse().unwrap(), choice) {
            Err(error) => return error.to_string(),
            Ok(hop) => hop,
        };
    let who = |expected: &[Identity]| {
        let [identity] = expected else { panic!("{expected:?}") };
        identity.service_account().to_owned()
    };
    match via {
        Via::Plain => format!("plain {endpoint}"),
        Via::Joined => format!("joined {endpoint}"),
        Via::Tunnel { address, expected } => {
            format!("tunnel {endpoint} via {address} as {}", who(&expected))
        }
        Via::Waypoint { address, expected } => {
            format!("waypoint {endpoint} via {address} as {}", who(&expected))
        }
    }
}

fn described(destination: &str, random: u64) -> String {
    way(&mesh(), ("web", destination), &choice(&[], random))
}

fn choice(tried: &[Arc<str>], random: u64) -> Choice<'_> {
    Choice { tried, random, ..Choice::default() }
}

#[test]
fn of_two_choices_the_one_with_fewer_connections_wins() {
    let (mesh, vip) = (mesh(), "10.96.0.1:80".parse().unwrap());
    for random in [0, 1, 2, 3, u64::MAX, 1 << 33] {
        let load = |uid: &str| if uid.ends_with("cart-0") { 5 } else { 4 };
        let choice = Choice { load: &load, random, ..Choice::default() };
        let hop = next_hop(&mesh, "Kubernetes//Pod/shop/web", vip, &choice).unwrap();
        assert_eq!(&*hop.workload.unwrap().name, "cart-1");
    }
}

#[test]
fn endpoints_that_were_tried_come_last() {
    let (mesh, vip) = (mesh(), "10.96.0.1:80".parse().unwrap());
    let (first, second): (Arc<str>, Arc<str>) =
        ("Kubernetes//Pod/shop/cart-0".into(), "Kubernetes//Pod/shop/cart-1".into());
    let chosen = |tried: &[Arc<str>], random| {
        let choice = choice(tried, random);
        let hop = next_hop(&mesh, "Kubernetes//Pod/shop/web", vip, &choice).unwrap();
        hop.workload.unwrap().uid.clone()
    };
    for random in 0..4 {
        assert_eq!(chosen(std::slice::from_ref(&first), random), second);
        assert_eq!(chosen(std::slice::from_ref(&second), random), first);
    }
    let both = [first, second];
    assert_ne!(chosen(&both, 0), chosen(&both, 1));
}

#[test]
fn each_kind_of_destination_has_its_way() {
    for (destination, random, way) in [
        // A service address, over both of its ready endpoints.
        ("10.96.0.1:80", 0, "tunnel 10.1.0.2:8080 via 10.1.0.2:15008 as cart"),
        ("10.96.0.1:80", 1, "tunnel 10.1.0.3:8080 via 10.1.0.3:15008 as cart"),
        ("10.96.0.1:80", 2, "tunnel 10.1.0.2:8080 via 10.1.0.2:15008 as cart"),
        // The endpoint's address of the family that was dialled, else the one that it has.
        ("[fd00:96::1]:80", 0, "tunnel [fd00::2]:8080 via [fd00::2]:15008 as cart"),
        ("[fd00:96::1]:80", 1, "tunnel 10.1.0.3:8080 via 10.1.0.3:15008 as cart"),
        // A service of pods that are not of the mesh.
        ("10.96.0.2:80", 7, "plain 10.1.0.5:80"),
        ("10.96.0.1:81", 0, "cart.shop.svc.cluster.local has no port 81"),
        (
            "10.96.0.3:80",
            0,
            "no healthy upstream: nobody.shop.svc.cluster.local has no ready endpoint for port 80",
        ),
        // A pod's own address, on any port, ready or not.
        ("10.1.0.2:9", 0, "tunnel 10.1.0.2:9 via 10.1.0.2:15008 as cart"),
        ("10.1.0.4:80", 0, "tunnel 10.1.0.4:80 via 10.1.0.4:15008 as cart"),
        ("[fd00::2]:80", 0, "tunnel [fd00::2]:80 via [fd00::2]:15008 as cart"),
        ("10.1.0.5:80", 0, "plain 10.1.0.5:80"),
        // Back to the pod that dials.
        ("10.1.0.1:80", 0, "plain 10.1.0.1:80"),
        // Nobody that the mesh knows.
        ("192.0.2.1:443", 0, "plain 192.0.2.1:443"),
    ] {
        assert_eq!(described(destination, random), way, "{destination}");
    }
}

#[test]
fn what_must_be_passed_is_passed_and_what_is_near_is_joined() {
    let mesh = snapshot(&format!("{MESH}{MORE}"));
    let waypoint = "10.1.0.15:15008 as waypoint";
    for (source, destination, join, expected) in [
        ("web", "10.96.0.16:80", true, format!("waypoint 10.96.0.16:80 via {waypoint}")),
        // The waypoint decides which ports there are.
        ("web", "10.96.0.16:81", true, format!("waypoint 10.96.0.16:81 via {waypoint}")),
        // The one that its label names is not declared.
        ("web", "10.96.0.17:80", true, "tunnel 10.1.0.2:80 via 10.1.0.2:15008 as cart".into()),
        ("web", "10.1.0.16:80", true, format!("waypoint 10.1.0.16:80 via {waypoint}")),
        // The waypoint itself goes on, and a pod reaches itself.
        ("waypoint-0", "10.1.0.16:80", true, "tunnel 10.1.0.16:80 via 10.1.0.16:15008 as cart".into()),
        ("http-0", "10.1.0.16:80", true, "plain 10.1.0.16:80".into()),
        (
            "web",
            "10.1.0.17:80",
            true,
            "Kubernetes//Pod/shop/far is in network \"west\", and gateways to other networks are not spoken yet"
                .into(),
        ),
        // A headless service is its pods.
        ("web", "10.1.0.2:80", true, "tunnel 10.1.0.2:80 via 10.1.0.2:15008 as cart".into()),
        ("web", "203.0.113.9:443", true, "plain 203.0.113.9:443".into()),
        ("web", "10.97.0.1:1", true, "plain 192.0.2.7:2".into()),
        ("near-0", "10.1.0.19:80", true, "joined 10.1.0.19:80".into()),
        ("near-0", "10.1.0.19:80", false, "tunnel 10.1.0.19:80 via 10.1.0.19:15008 as near".into()),
        // A range of somebody's does not swallow the addresses of pods.
        ("web", "10.1.0.2:9", true, "tunnel 10.1.0.2:9 via 10.1.0.2:15008 as cart".into()),
        ("web", "10.1.99.9:9", true, "plain 10.1.99.9:9".into()),
        // The address of its own service leads a waypoint back to itself, as ztunnel has it.
        ("waypoint-0", "10.96.0.16:80", true, format!("waypoint 10.96.0.16:80 via {waypoint}")),
        // A waypoint in another network.
        (
            "web",
            "10.96.0.21:80",
            true,
            "Kubernetes//Pod/shop/west-0 is in network \"west\", and gateways to other networks are not spoken yet"
                .into(),
        ),
        // A service may lead back to the pod that dials.
        ("near-0", "10.96.0.22:80", true, "plain 10.1.0.18:80".into()),
        // Pods of which nobody says where they run are near to nobody.
        ("web", "10.1.0.3:80", true, "tunnel 10.1.0.3:80 via 10.1.0.3:15008 as cart".into()),
    ] {
        let choice = Choice { join, ..Choice::default() };
        assert_eq!(way(&mesh, (source, destination), &choice), expected, "{source} {destination}");
    }
}

#[test]
fn nothing_goes_in_the_clear_to_who_may_be_of_the_mesh() {
    let mesh = snapshot(&format!("{MESH}{MORE}"));
    let nobody = |name: &str| {
        format!(
            "no healthy upstream: {name}.shop.svc.cluster.local has no ready endpoint for port 80"
        )
    };
    for (destination, expected) in [
        // What runs on a node, or only a slice knows, is found by the node's own rules.
        ("10.96.0.18:80", "plain 10.96.0.18:80".into()),
        ("10.96.0.19:443", "plain 10.96.0.19:443".into()),
        // A pod of the mesh may lack an address for a moment.
        ("10.96.0.24:80", nobody("young")),
        // So may one beside a process of the node that is not ready yet.
        ("10.96.0.25:80", nobody("mixed")),
        // Nobody says what is at an address of a slice beside a selector.
        ("10.96.0.26:80", nobody("hand")),
        // A ServiceEntry does not lead away from a pod of the mesh.
        ("10.1.0.3:7", "tunnel 10.1.0.3:7 via 10.1.0.3:15008 as cart".into()),
        // A pod of which there is no manifest yet may be of the mesh.
        ("10.96.0.20:80", nobody("early")),
    ] {
        let choice = Choice { join: true, ..Choice::default() };
        assert_eq!(way(&mesh, ("web", destination), &choice), expected, "{destination}");
    }
}

#[test]
fn what_the_kernel_holds_is_not_left_to_a_damaged_folder() {
    let mut mesh = snapshot(&format!("{MESH}{MORE}"));
    for (partial, held, destination, expected) in [
        (
            true,
            Held::Itself,
            "10.1.9.9:80",
            "10.1.9.9 is of the mesh, but what describes it is damaged",
        ),
        (true, Held::InRange, "10.1.9.9:80", "plain 10.1.9.9:80"),
        (
            true,
            Held::InRange,
            "10.7.7.7:80",
            "10.7.7.7 is of the mesh, but what describes it is damaged",
        ),
        (true, Held::No, "10.7.7.7:80", "plain 10.7.7.7:80"),
        (true, Held::Itself, "10.1.0.2:80", "tunnel 10.1.0.2:80 via 10.1.0.2:15008 as cart"),
        (false, Held::Itself, "10.7.7.7:80", "plain 10.7.7.7:80"),
        // What only the node's rules would find.
        (
            true,
            Held::Itself,
            "10.96.0.18:80",
            "no healthy upstream: exporter.shop.svc.cluster.local has no ready endpoint for port 80",
        ),
    ] {
        mesh.set_problems(Vec::new(), partial);
        let choice = Choice { held: &|_| held, ..Choice::default() };
        assert_eq!(way(&mesh, ("web", destination), &choice), expected, "{partial} {held:?}");
    }
}

#[test]
fn a_hop_knows_whether_others_could_take_its_place() {
    let mesh = snapshot(&format!("{MESH}{MORE}"));
    let first: Arc<str> = "Kubernetes//Pod/shop/cart-0".into();
    for (destination, tried, others) in [
        ("10.96.0.1:80", &[][..], true),
        ("10.96.0.1:80", std::slice::from_ref(&first), false),
        ("10.1.0.2:80", &[], false),
        // There is one waypoint.
        ("10.96.0.16:80", &[], false),
    ] {
        let choice = choice(tried, 0);
        let to = destination.parse().unwrap();
        let hop = next_hop(&mesh, "Kubernetes//Pod/shop/web", to, &choice).unwrap();
        assert_eq!(hop.others, others, "{destination} {tried:?}");
    }
}

#[test]
fn of_several_waypoints_each_takes_its_share_of_connections() {
    let waypoint = |name: &str, at: u8| {
        format!(
            "{{kind: Gateway, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: {name}, namespace: shop}}, status: {{addresses: [{{value: 10.3.0.{at}}}]}}}}\n---\n\
             {{kind: Pod, apiVersion: v1, metadata: {{name: {name}-0, namespace: shop}}, spec: {{serviceAccountName: {name}}}, status: {{podIP: 10.3.0.{at}}}}}\n---\n"
        )
    };
    let waypoints = waypoint("old", 1) + &waypoint("new", 2);
    for (weight, expected) in [(0, 0), (1, 10), (50, 500), (100, 1000)] {
        let mesh = snapshot(&format!(
            "{waypoints}{{kind: Service, apiVersion: v1, metadata: {{name: x, namespace: shop, labels: {{istio.io/use-waypoint: old, istio.io/use-waypoint-canary: new}}, \
             annotations: {{istio.io/use-waypoint-canary-weight: '{weight}'}}}}, spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}}}"
        ));
        let ways = (0..1000).map(|turn| {
            let choice = Choice { share: turn * (u32::MAX / 1000), ..Choice::default() };
            way(&mesh, ("web", "10.96.0.1:80"), &choice)
        });
        let (canary, primary): (Vec<_>, Vec<_>) = ways.partition(|way| way.ends_with("as new"));
        assert!(canary.len().abs_diff(expected) <= 1, "{} at {weight} %", canary.len());
        assert!(primary.iter().all(|way| way == "waypoint 10.96.0.1:80 via 10.3.0.1:15008 as old"));
    }
}

#[test]
fn capacity_is_the_share_of_connections() {
    let mesh = snapshot(&format!("{MESH}{MORE}"));
    let ways = (0..400).map(|random: u64| {
        // Both draws differ, and nobody has a load.
        let random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        way(&mesh, ("web", "10.97.0.1:1"), &choice(&[], random))
    });
    let heavy = ways.filter(|way| way == "plain 192.0.2.7:2").count();
    assert!((250..350).contains(&heavy), "{heavy} of 400, with a capacity of 3 in 4");
    let load = |uid: &str| if uid.ends_with('7') { 5 } else { 2 };
    let loaded = Choice { load: &load, random: 1, ..Choice::default() };
    assert_eq!(way(&mesh, ("web", "10.97.0.1:1"), &loaded), "plain 192.0.2.7:2", "5/3 < 2/1");
}
