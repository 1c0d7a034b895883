//! What must go through a waypoint goes there, or nowhere.
use std::{
    net::{SocketAddr, TcpListener},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use anyhow::{Context, Result};
use culvert_agent::{
    drain::Drain,
    hbone::{
        Baggage,
        server::{Incoming, serve},
    },
    identity::Credentials,
    relay::{Counters, relay},
};
use e2e::{Lab, Pod, lab::PodSpec, until};

use crate::{
    explain::explained,
    mesh::{ask, echo, is_cut, pod},
    peer::{credentials, runtime},
};

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  name: waypoint\n  namespace: shop\n  labels: {istio.io/waypoint-for: all}\n\
    spec:\n  gatewayClassName: istio-waypoint\n  listeners:\n  - name: mesh\n    port: 15008\n    protocol: HBONE\n---\n\
    apiVersion: v1\nkind: Service\nmetadata: {name: waypoint, namespace: shop}\n\
    spec: {clusterIP: 10.96.0.99, selector: {gateway.networking.k8s.io/gateway-name: waypoint}, ports: [{port: 15008}]}\n";

/// What a waypoint was asked: by whom, and for where.
type Asked = (String, String);

/// Takes tunnels as a waypoint does, and carries them all to `application`.
fn waypoint(
    listener: TcpListener,
    credentials: Credentials,
    application: SocketAddr,
) -> Receiver<Asked> {
    let (sender, asked) = channel();
    thread::spawn(move || tunnels(listener, &credentials, application, &sender));
    asked
}

fn tunnels(
    listener: TcpListener,
    credentials: &Credentials,
    application: SocketAddr,
    asked: &Sender<Asked>,
) -> Result<()> {
    runtime()?.block_on(async {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let drain = Drain::default();
        loop {
            let (stream, _) = listener.accept().await?;
            let on_connect = |incoming: Incoming| {
                let authority = incoming.head.as_ref().map(|head| head.authority.to_string());
                let _ = asked.send((incoming.peer.to_string(), authority.unwrap_or_default()));
                tokio::spawn(carry(incoming, application));
            };
            let _ = Box::pin(serve(stream, credentials, &drain, on_connect)).await;
        }
    })
}

async fn carry(incoming: Incoming, application: SocketAddr) -> Result<()> {
    let server = tokio::net::TcpStream::connect(application).await?;
    let tunnel = incoming.accept(&Baggage::default())?;
    relay(tunnel, server, &Counters::default()).await;
    Ok(())
}

fn waypoint_pod(lab: &Lab) -> Result<Pod> {
    let labels = [
        ("gateway.networking.k8s.io/gateway-name", "waypoint"),
        ("istio.io/dataplane-mode", "none"),
    ];
    lab.pod(2, &PodSpec { name: "wp", namespace: "shop", account: "waypoint", labels: &labels })
}

#[test]
fn what_has_a_waypoint_is_reached_through_it_and_never_past_it() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    lab.service("shop", "server", "10.96.0.10", (80, 8080))?;
    let (client, server) = (pod(&lab, 1, "client")?, pod(&lab, 2, "server")?);
    let (a1, _a2) = (lab.agent(1)?, lab.agent(2)?);
    echo(server.inside.listen(server.at(8080))?);
    let vip: SocketAddr = "10.96.0.10:80".parse()?;
    ask(&mut client.inside.connect(vip)?, 1)?;
    // The label comes first: while nobody declares the Gateway, connections go on without it.
    let service = std::fs::read_to_string(lab.manifests().join("service-shop-server.yaml"))?;
    let labelled = service
        .replace("namespace: shop}", "namespace: shop, labels: {istio.io/use-waypoint: waypoint}}");
    lab.apply("service-shop-server.yaml", &labelled)?;
    lab.declare(&server, &[("app", "server"), ("istio.io/use-waypoint", "waypoint")])?;
    until("it is reported", || {
        let problems = a1.dump().map(|dump| dump["problems"].to_string()).unwrap_or_default();
        problems.contains("shop/waypoint, which does not exist: connections go on without it")
    });
    ask(&mut client.inside.connect(vip)?, 1)?;
    // It is declared, and nobody is there: nothing goes past it.
    lab.apply("waypoint.yaml", GATEWAY)?;
    until("it is refused", || is_cut(&client.inside, vip, b"hello").is_ok());
    a1.record("it says why", |record| record.reason == "no_waypoint");
    let said = explained(&lab, "shop/client", &vip.to_string())?;
    assert!(said["verdict"].as_str().is_some_and(|t| t.contains("unknown waypoint")), "{said:#}");

    let wp = waypoint_pod(&lab)?;
    let application = TcpListener::bind("127.0.0.1:0")?;
    let address = application.local_addr()?;
    echo(application);
    let identity = credentials(&lab.ca(), "spiffe://cluster.local/ns/shop/sa/waypoint")?;
    let asked = waypoint(wp.inside.listen(wp.at(15008))?, identity, address);
    until("the waypoint is known", || {
        client.inside.connect(vip).is_ok_and(|mut stream| ask(&mut stream, 2).is_ok())
    });
    // To the service it is asked for the service, to the pod for the pod.
    let (peer, authority) = asked.recv().context("the waypoint was not asked")?;
    assert_eq!((peer, authority), (client.identity(), vip.to_string()));
    ask(&mut client.inside.connect(server.at(8080))?, 3)?;
    let authorities = asked.try_iter().map(|(_, authority)| authority).collect::<Vec<_>>();
    assert_eq!(authorities.last(), Some(&server.at(8080).to_string()));
    let said = explained(&lab, "shop/client", &vip.to_string())?;
    assert!(said["path"].as_str().is_some_and(|path| path.contains("a waypoint")), "{said:#}");
    let record = a1.record("through it", |r| r.authority == Some(vip.to_string()));
    assert_eq!(record.destination_workload.as_deref(), Some("wp"));
    assert_eq!(record.service.as_deref(), Some("server.shop.svc.cluster.local"));
    Ok(())
}

#[test]
fn a_waypoint_that_is_somebody_else_hears_nothing() -> Result<()> {
    let lab = Lab::new(2)?;
    lab.namespace("shop", true)?;
    lab.apply("waypoint.yaml", GATEWAY)?;
    lab.service("shop", "server", "10.96.0.10", (80, 8080))?;
    let service = std::fs::read_to_string(lab.manifests().join("service-shop-server.yaml"))?;
    let labelled = service
        .replace("namespace: shop}", "namespace: shop, labels: {istio.io/use-waypoint: waypoint}}");
    lab.apply("service-shop-server.yaml", &labelled)?;
    let (client, wp) = (pod(&lab, 1, "client")?, waypoint_pod(&lab)?);
    let a1 = lab.agent(1)?;
    let identity = credentials(&lab.ca(), "spiffe://cluster.local/ns/shop/sa/impostor")?;
    let nowhere = "127.0.0.1:1".parse()?;
    let asked = waypoint(wp.inside.listen(wp.at(15008))?, identity, nowhere);
    is_cut(&client.inside, "10.96.0.10:80".parse()?, b"hello")?;
    a1.record("it is refused", |r| r.reason == "identity_mismatch");
    assert!(asked.try_recv().is_err(), "it heard something");
    Ok(())
}
