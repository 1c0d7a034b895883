//! Pure: ServiceEntries become what they mean.
use super::*;

#[test]
fn entries_bring_machines_and_services_that_kubernetes_does_not_know() {
    let snapshot = snapshot(
        "{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: db, namespace: shop}, \
         spec: {hosts: [DB.example.com], addresses: [10.97.0.1, 10.98.0.0/16], ports: [{number: 5432, name: tcp, targetPort: 5433}], \
         resolution: STATIC, endpoints: [{address: 192.0.2.1, weight: 3, network: far, locality: eu/a, serviceAccount: db}, \
         {address: 192.0.2.2, ports: {tcp: 9}}, {address: db.internal}]}}\n---\n\
         {kind: WorkloadEntry, apiVersion: networking.istio.io/v1, metadata: {name: vm, namespace: shop, labels: {app: vm}}, \
         spec: {address: 192.0.2.3, labels: {networking.istio.io/tunnel: http}, ports: {web: 8080}}}\n---\n\
         {kind: Service, apiVersion: v1, metadata: {name: vm, namespace: shop}, spec: {clusterIP: 10.96.0.1, selector: {app: vm}, \
         ports: [{name: web, port: 80}, {name: admin, port: 81, targetPort: 8181}]}}\n---\n\
         {kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {name: dns, namespace: shop}, \
         spec: {hosts: [x.com], resolution: DYNAMIC_DNS}}\n",
    );
    let db = snapshot.service_at("10.98.7.7".parse().unwrap()).unwrap();
    assert_eq!((&*db.hostname, &*db.name), ("db.example.com", "db"));
    let uid = |at: &str| format!("Kubernetes/networking.istio.io/ServiceEntry/shop/db/{at}");
    let targets: Vec<_> = db.endpoints.iter().map(|(uid, t)| (uid.to_string(), t[&5432])).collect();
    assert_eq!(targets, [(uid("192.0.2.1"), 5433), (uid("192.0.2.2"), 9)]);
    let first = snapshot.workload(&uid("192.0.2.1")).unwrap();
    assert_eq!((first.capacity, &*first.network, &*first.locality.zone), (3, "far", "a"));
    assert_eq!(first.identity.service_account(), "db");
    let vm = snapshot.workload_at("192.0.2.3".parse().unwrap()).unwrap();
    assert_eq!(vm.protocol, Protocol::Hbone);
    let service = snapshot.service_named("vm.shop.svc.cluster.local").unwrap();
    assert_eq!(service.endpoints[&vm.uid], Target::from([(80, 8080), (81, 8181)]));
    let problems: Vec<_> = snapshot.problems().iter().map(|p| p.text.as_str()).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems.iter().any(|text| text.contains("spec.endpoints[2]: address \"db.internal\""))
    );
    assert!(
        problems.iter().any(|text| text.contains("spec.resolution DYNAMIC_DNS is not supported"))
    );
}

/// Its endpoints are looked up by waypoints: here they are names.
#[test]
fn entries_may_name_their_endpoints() {
    let entry = |name: &str, rest: &str| {
        format!(
            "{{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: shop}}, \
             spec: {{ports: [{{number: 80, name: http, targetPort: 8080}}], {rest}}}}}\n---\n"
        )
    };
    let snapshot = snapshot(
        &[
            entry("own", "hosts: [One.example.com, two.example.com], resolution: DNS"),
            entry(
                "listed",
                "hosts: ['*.example.org'], addresses: [10.97.0.1], resolution: DNS_ROUND_ROBIN, endpoints: [{address: EU.example.net., ports: {http: 9}}, {address: 192.0.2.1}, {address: 'a b'}]",
            ),
            entry("wide", "hosts: ['*.example.net'], resolution: DNS"),
        ]
        .concat(),
    );
    let names = |host: &str| -> Vec<_> {
        let service = snapshot.service_named(host).unwrap();
        let name = |(uid, target): (&Arc<str>, &Target)| {
            let workload = snapshot.workload(uid).unwrap();
            (workload.hostname.as_deref().map(str::to_owned), workload.addresses.len(), target[&80])
        };
        service.endpoints.iter().map(name).collect()
    };
    assert_eq!(names("one.example.com"), [(Some("one.example.com".into()), 0, 8080)]);
    assert_eq!(names("two.example.com"), [(Some("two.example.com".into()), 0, 8080)]);
    let listed = [(None, 1, 8080), (Some("eu.example.net".into()), 0, 9)];
    assert_eq!(names("*.example.org"), listed);
    assert!(names("*.example.net").is_empty());
    let problems: Vec<_> = snapshot.problems().iter().map(|p| p.text.as_str()).collect();
    let said = |part: &str| problems.iter().any(|text| text.contains(part));
    assert!(said("spec.endpoints[2]: address \"a b\" is neither"), "{problems:?}");
    assert!(said("spec.hosts \"*.example.net\" has no addresses to look up"), "{problems:?}");
    assert!(said("nobody but a waypoint looks names up"), "{problems:?}");
    assert_eq!(problems.len(), 3, "{problems:?}");
}
