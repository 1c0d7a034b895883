//! Pure: tests of the dump's shape.
use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use super::*;
use crate::{
    clock,
    discovery::{
        Distribution, Locality, Policies, Protocol, Service, ServicePort, Speech, Waypoint,
        WaypointDestination,
    },
    flow::Direction,
    identity::{Svid, ca::LocalCa},
    origin::Origin,
    policy::{
        Action, Clause, Condition, Mode, Pattern, PeerAuthentication, Policy, Rule, Scope, Test,
    },
    relay::Counters,
    telemetry::record,
};

fn origin() -> Origin {
    Origin { file: "m.yaml".into(), line: 1 }
}

fn workload(name: &str, address: &str) -> Workload {
    Workload {
        uid: format!("c1//Pod/shop/{name}").into(),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![address.parse().unwrap()],
        hostname: None,
        node: "n1".into(),
        locality: Locality { region: "eu".into(), zone: "eu-1".into() },
        identity: format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap(),
        protocol: Protocol::Hbone,
        network: "".into(),
        waypoint: None,
        capacity: 1,
        ready: true,
        canonical_name: name.into(),
        canonical_revision: "v1".into(),
        labels: BTreeMap::from([("app".into(), name.into())]),
        workload_name: name.into(),
        netns: None,
        cgroup: None,
        origin: origin(),
    }
}

fn service() -> Service {
    Service {
        outsiders: Vec::new(),
        name: "cart".into(),
        namespace: "shop".into(),
        hostname: "cart.shop.svc.cluster.local".into(),
        vips: vec!["10.96.0.1".parse().unwrap()],
        ranges: vec!["10.97.0.0/16".parse().unwrap()],
        passthrough: false,
        waypoint: Some(Waypoint {
            destination: WaypointDestination::Host("cart.shop.svc.cluster.local".into()),
            port: 15008,
        }),
        waypoint_shares: Vec::new(),
        ports: vec![ServicePort { name: "http".into(), port: 80, speech: Speech::Http }],
        distribution: Distribution::SameZone,
        endpoints: BTreeMap::from([("c1//Pod/shop/cart".into(), BTreeMap::from([(80, 8080)]))]),
        origin: origin(),
    }
}

fn shown(policies: Policies, open: &[Arc<Open>], now: Instant) -> Value {
    let pods = [workload("web", "10.0.0.1"), workload("cart", "10.0.0.2")];
    let mut snapshot = Snapshot::default();
    pods.iter().for_each(|pod| snapshot.insert_workload(Arc::new(pod.clone())));
    snapshot.insert_service(Arc::new(service()));
    snapshot.set_policies(Arc::new(policies));
    dump(&View {
        snapshot: &snapshot,
        certificates: &[],
        pods: &[Arc::new(pods[0].clone())],
        open,
        config: &json!({ "root_namespace": "istio-system", "limits": { "max_tunnels": 1 } }),
        now,
    })
}

#[test]
fn objects_have_the_keys_that_istioctl_reads() {
    let dump = shown(Policies::default(), &[], clock::now());
    let web = &dump["workloads"][1];
    assert_eq!(web["locality"], json!({ "region": "eu", "zone": "eu-1", "subzone": "" }));
    assert_eq!((&web["clusterId"], &web["workloadType"]), (&json!("c1"), &json!("pod")));
    let cart = &dump["workloads"][0];
    assert_eq!(cart["services"], json!(["shop/cart.shop.svc.cluster.local"]));
    let service = &dump["services"][0];
    assert_eq!(service["ports"], json!({ "80": 8080 }));
    assert_eq!(service["vips"], json!(["/10.96.0.1"]));
    assert_eq!(service["cidrVips"], json!(["/10.97.0.0/16"]));
    assert_eq!(service["ipFamilies"], "IPv4");
    assert_eq!(
        service["waypoint"],
        json!({ "destination": "shop/cart.shop.svc.cluster.local", "hboneMtlsPort": 15008 })
    );
    assert_eq!(service["loadBalancer"]["mode"], "Failover");
    assert_eq!(
        service["endpoints"]["c1//Pod/shop/cart"],
        json!({ "workloadUid": "c1//Pod/shop/cart", "port": { "80": 8080 }, "status": "Healthy" })
    );
    assert_eq!(
        dump["config"],
        json!({ "rootNamespace": "istio-system", "limits": { "maxTunnels": 1 } })
    );
    assert!(dump["version"]["rustVersion"].as_str().is_some_and(|text| text.contains("rustc")));
}

#[test]
fn rules_are_written_out_as_ztunnel_has_them() {
    let condition = |field, negative, test| Condition { field, negative, test };
    let accounts = vec![("shop".to_owned(), "web".to_owned())];
    let net = |text: &str| vec![text.parse().unwrap()];
    let from = Clause {
        alternatives: vec![
            vec![
                condition("p", false, Test::Principal(vec![Pattern::new("a/ns/b/*")])),
                condition("n", true, Test::Namespace(vec![Pattern::new("evil")])),
                condition("from.source.ipBlocks", false, Test::SourceIp(net("10.0.0.0/8"))),
                condition("from.source.remoteIpBlocks", false, Test::SourceIp(net("10.1.0.0/16"))),
            ],
            vec![condition("s", false, Test::ServiceAccount(accounts))],
        ],
    };
    let to = Clause {
        alternatives: vec![vec![condition("d", false, Test::DestinationPort(vec![80, 443]))]],
    };
    let rule = Rule { clauses: vec![from, to], unsupported: vec!["to.operation.methods".into()] };
    let policy = Policy {
        name: "shop/p".into(),
        origin: origin(),
        action: Action::Deny,
        dry_run: true,
        scope: Scope { namespace: Some("shop".into()), selector: BTreeMap::new() },
        rules: vec![rule],
    };
    let policies = Policies { policies: vec![policy.into()], ..Policies::default() };
    let dump = shown(policies, &[], clock::now());
    let shown = &dump["policies"][0];
    assert_eq!((&shown["scope"], &shown["action"]), (&json!("Namespace"), &json!("Deny")));
    assert_eq!(shown["unsupported"], json!(["rule 0: to.operation.methods"]));
    assert_eq!(
        shown["rules"],
        json!([[
            [
                {
                    "principals": [{ "Prefix": "a/ns/b/" }],
                    "notNamespaces": [{ "Exact": "evil" }],
                    "sourceIps": ["10.0.0.0/8"],
                    "from.source.remoteIpBlocks": ["10.1.0.0/16"],
                },
                { "serviceAccounts": [{ "namespace": "shop", "serviceAccount": "web" }] },
            ],
            [{ "destinationPorts": [80, 443] }],
        ]])
    );
}

#[test]
fn strict_is_shown_as_a_denial_of_those_without_a_principal() {
    let peer = |mode, ports: &[(u16, Mode)]| {
        Arc::new(PeerAuthentication {
            name: "shop/strict".into(),
            origin: origin(),
            created: String::new(),
            scope: Scope { namespace: Some("shop".into()), selector: BTreeMap::new() },
            mode,
            ports: ports.iter().map(|(port, mode)| (*port, Some(*mode))).collect(),
        })
    };
    let nobody = json!([{ "notPrincipals": [{ "Presence": [] }] }]);
    for (mode, ports, rules) in [
        (Some(Mode::Strict), vec![], Some(json!([[nobody]]))),
        (
            Some(Mode::Strict),
            vec![(80, Mode::Permissive)],
            Some(json!([[nobody, [{ "notDestinationPorts": [80] }]]])),
        ),
        (None, vec![(80, Mode::Strict)], Some(json!([[nobody, [{ "destinationPorts": [80] }]]]))),
        (Some(Mode::Permissive), vec![], None),
    ] {
        let policies = Policies { peers: vec![peer(mode, &ports)], ..Policies::default() };
        let dump = shown(policies, &[], clock::now());
        let shown = dump["policies"].as_array().unwrap();
        assert_eq!(shown.first().map(|policy| policy["rules"].clone()), rules);
        assert_eq!(dump["peerAuthentications"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn open_connections_stand_under_their_pod_also_after_its_release() {
    let (web, cart) = (workload("web", "10.0.0.1"), workload("cart", "10.0.0.2"));
    let now = clock::now();
    let counters = Arc::new(Counters::default());
    counters.sent.store(5, Ordering::Relaxed);
    counters.received.store(7, Ordering::Relaxed);
    let outbound = Open {
        direction: Direction::Outbound,
        source: (Some(Arc::new(web.clone())), Some(web.identity.clone())),
        destination: (Some(Arc::new(cart.clone())), Some(cart.identity.clone())),
        source_address: "10.0.0.1:4000".parse().unwrap(),
        dialled: "10.96.0.1:80".parse().unwrap(),
        reached: "10.0.0.2:15008".parse().unwrap(),
        service: Some(Arc::new(service())),
        protocol: record::Protocol::Hbone,
        counters,
        since: now,
    };
    let inbound = Open { direction: Direction::Inbound, ..outbound.clone() };
    let later = now + Duration::from_millis(1500);
    let dump = shown(Policies::default(), &[outbound.into(), inbound.into()], later);
    let state = &dump["workloadState"];
    let out = &state["c1//Pod/shop/web"]["connections"]["outbound"][0];
    assert_eq!(
        out,
        &json!({
            "src": "10.0.0.1:4000",
            "originalDst": "10.96.0.1:80",
            "actualDst": "10.0.0.2:15008",
            "protocol": "HBONE",
            "source": "shop/web",
            "sourceIdentity": "spiffe://cluster.local/ns/shop/sa/web",
            "destination": "shop/cart",
            "destinationIdentity": "spiffe://cluster.local/ns/shop/sa/cart",
            "service": "cart.shop.svc.cluster.local",
            "bytesSent": 5,
            "bytesReceived": 7,
            "ageMs": 1500,
        })
    );
    let released = &state["c1//Pod/shop/cart"];
    assert_eq!(released["state"], "Draining");
    let into = &released["connections"]["inbound"][0];
    assert_eq!(into["originalDst"], "cart.shop.svc.cluster.local");
    assert_eq!((&into["bytesSent"], &into["bytesReceived"]), (&json!(7), &json!(5)));
}

#[test]
fn certificates_are_whole_and_keys_stay_inside() {
    let file = std::env::temp_dir().join(format!("culvert-dump-{}.pem", rand::random::<u64>()));
    let identity: Identity = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let ca = LocalCa::open(&file, "cluster.local", Duration::from_secs(3600), clock::wall());
    let svid: Svid = ca.unwrap().issue(&identity, clock::wall()).unwrap();
    let (serial, key) = (svid.serial.clone(), svid.key.secret_der().to_vec());
    let held =
        [(identity.clone(), Some(Arc::new(Credentials::new(svid).unwrap()))), (identity, None)];
    let shown = json!(certificates::certificates(&held));
    let leaf = &shown[0]["certChain"][0];
    assert_eq!(leaf["serialNumber"], serial);
    assert!(leaf["expirationTime"].as_str().unwrap().ends_with('Z'));
    let pem = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        leaf["pem"].as_str().unwrap(),
    );
    assert!(pem.unwrap().starts_with(b"-----BEGIN CERTIFICATE-----\n"));
    assert_eq!(shown[0]["rootCerts"].as_array().unwrap().len(), 1);
    assert_eq!(shown[1]["state"], "Initializing");
    let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key);
    assert!(!shown.to_string().contains(&key) && !shown.to_string().contains("PRIVATE"));
    let _ = std::fs::remove_file(file);
}
