//! Services: endpoints that fail, come and go.
use anyhow::Result;
use e2e::{Lab, Pod, lab::PodSpec, until};

use crate::mesh::{Traffic, ask, echo, pod};

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
