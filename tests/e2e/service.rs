//! Services: endpoints that fail, come and go.
use anyhow::Result;
use e2e::{Lab, Pod, lab::PodSpec, until};

use crate::mesh::{Fresh, Traffic, ask, echo, pod, unmeshed};

/// A pod behind the service `server`.
fn member(lab: &Lab, node: usize, name: &str) -> Result<Pod> {
    let labels = [("app", "server")];
    lab.pod(node, &PodSpec { name, namespace: "shop", account: "server", labels: &labels })
}

#[test]
fn an_endpoint_that_refuses_is_skipped_and_the_record_says_so() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    lab.service("shop", "server", "10.96.0.10", (80, 8080))?;
    let client = pod(&lab, 1, "client")?;
    let (good, _silent) = (member(&lab, 2, "good")?, member(&lab, 2, "silent")?);
    let (a1, _a2) = (lab.agent(1)?, lab.agent(2)?);
    echo(good.inside.listen(good.at(8080))?);
    for number in 0..40 {
        ask(&mut client.inside.connect("10.96.0.10:80".parse()?)?, number)?;
    }
    until("all were recorded", || a1.records().len() == 40);
    let records = a1.records();
    assert!(records.iter().all(|r| r.reason == "ok"), "{records:?}");
    let skipped = records.iter().filter(|r| r.skipped.is_some()).count();
    assert!((1..20).contains(&skipped), "{skipped} of 40 skipped the silent endpoint");
    assert!(records.iter().flat_map(|r| &r.skipped).all(|text| text.contains("rejected")));
    Ok(())
}

#[test]
fn an_endpoint_that_keeps_silent_is_skipped_for_one_that_answers() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    lab.service("shop", "server", "10.96.0.10", (80, 8080))?;
    let (client, good) = (pod(&lab, 1, "client")?, member(&lab, 2, "good")?);
    // Nobody has this address: packets to it are not answered, for a while not even by an error.
    lab.apply("dark.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: dark, namespace: shop, labels: {app: server}}\n\
        spec: {serviceAccountName: server, nodeName: dark}\nstatus: {podIP: 10.2.0.222}\n")?;
    let (a1, _a2) = (lab.agent(1)?, lab.agent(2)?);
    echo(good.inside.listen(good.at(8080))?);
    until("the silent one was drawn", || {
        let mut stream = client.inside.connect("10.96.0.10:80".parse().expect("an address"));
        let answered = stream.as_mut().is_ok_and(|stream| ask(stream, 1).is_ok());
        assert!(answered, "a connection was lost");
        let skipped =
            |text: &String| text.contains("10.2.0.222:8080") && text.contains("connect_timeout");
        a1.records().iter().any(|r| r.reason == "ok" && r.skipped.as_ref().is_some_and(skipped))
    });
    Ok(())
}

#[test]
fn endpoints_come_and_go_under_load_and_no_new_connection_is_lost() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    lab.service("shop", "server", "10.96.0.10", (80, 8080))?;
    let client = pod(&lab, 1, "client")?;
    let stays = member(&lab, 2, "stays")?;
    let (_a1, a2) = (lab.agent(1)?, lab.agent(2)?);
    echo(stays.inside.listen(stays.at(8080))?);
    let traffic = Traffic::start(&client.inside, "10.96.0.10:80".parse()?, 2)?;
    for round in 0..3 {
        let name = format!("guest-{round}");
        let guest = member(&lab, 2, &name)?;
        // It is an endpoint before it listens, and while its manifest is there after it is gone.
        until("the guest is enrolled", || a2.enrolled().is_ok_and(|pods| pods == 2));
        traffic.goes_on("an endpoint that does not listen yet");
        drop(guest);
        traffic.goes_on("an endpoint that is gone");
        std::fs::remove_file(lab.manifests().join(format!("pod-shop-{name}.yaml")))?;
        until("the guest is forgotten", || a2.enrolled().is_ok_and(|pods| pods == 1));
        traffic.goes_on("a manifest that is gone");
    }
    traffic.end()?;
    Ok(())
}

#[test]
fn all_endpoints_are_replaced_under_load_and_no_new_connection_is_lost() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    lab.service("shop", "server", "10.96.0.10", (80, 8080))?;
    let client = pod(&lab, 1, "client")?;
    let first = [member(&lab, 2, "old-0")?, member(&lab, 2, "old-1")?];
    let (_a1, a2) = (lab.agent(1)?, lab.agent(2)?);
    for old in &first {
        echo(old.inside.listen(old.at(8080))?);
    }
    let fresh = Fresh::start(&client.inside, "10.96.0.10:80".parse()?);
    let mut new = Vec::new();
    for (number, old) in first.into_iter().enumerate() {
        // As a Deployment does it: first the new one, then the old one goes from the endpoints, and
        // only then ends.
        let replacement = member(&lab, 2, &format!("new-{number}"))?;
        until("the new one is enrolled", || a2.enrolled().is_ok_and(|pods| pods == 3));
        echo(replacement.inside.listen(replacement.at(8080))?);
        new.push(replacement);
        fresh.goes_on();
        std::fs::remove_file(lab.manifests().join(format!("pod-shop-{}.yaml", old.name)))?;
        until("the old one is forgotten", || a2.enrolled().is_ok_and(|pods| pods == 2));
        drop(old);
        fresh.goes_on();
    }
    fresh.end()
}

#[test]
fn machines_outside_kubernetes_are_reached_by_address_and_by_range() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    let (client, vm) = (pod(&lab, 1, "client")?, unmeshed(&lab, 2, "vm")?);
    std::fs::remove_file(lab.manifests().join("pod-shop-vm.yaml"))?;
    lab.apply("entry.yaml", &format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: db, namespace: shop}}\n\
         spec:\n  hosts: [db.example.com]\n  addresses: [10.97.0.0/24]\n  ports: [{{number: 5432, name: tcp, targetPort: 9000}}]\n\
         \x20 resolution: STATIC\n  endpoints: [{{address: {}}}]\n", vm.v4))?;
    let a1 = lab.agent(1)?;
    echo(vm.inside.listen(vm.at(9000))?);
    ask(&mut client.inside.connect("10.97.0.77:5432".parse()?)?, 1)?;
    let record = a1.record("it was carried", |r| r.direction == "outbound");
    assert_eq!(record.service.as_deref(), Some("db.example.com"));
    assert_eq!((record.protocol.as_str(), record.destination), ("tcp", vm.at(9000)));
    std::fs::remove_file(lab.manifests().join("entry.yaml"))?;
    until("the range is captured no more", || {
        let before = a1.kernel("connect_not_mesh").unwrap_or(0);
        let socket =
            client.inside.tcp("10.97.0.77:5432".parse().expect("an address")).expect("a socket");
        socket.set_nonblocking(true).expect("a socket option");
        let _ = socket.connect(
            &"10.97.0.77:5432".parse::<std::net::SocketAddr>().expect("an address").into(),
        );
        a1.kernel("connect_not_mesh").is_ok_and(|count| count > before)
    });
    Ok(())
}
