//! Shell: ServiceEntries: endpoints outside the mesh, which are spoken to in plain HTTP (B70, A22).
use std::net::SocketAddr;

use culvert_agent::drain::Drain;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{lab::Lab, pod::Pod};

/// An application without an agent, which says back the head that it reads.
async fn application(at: SocketAddr, drain: &Drain) {
    let listener = TcpListener::bind(at).await.expect("a listener");
    drain.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).await.is_ok() {
                head.push(byte[0]);
            }
            let length = head.len();
            let said =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(&[said.as_bytes(), &head].concat()).await;
        }
    });
}

#[tokio::test]
async fn what_is_outside_the_mesh_is_asked_in_plain_http_at_its_own_port() {
    let lab = Lab::new("").await;
    let (fixed, dialled) = (lab.address(50), lab.address(51));
    let entry = |name: &str, address: &str, rest: &str| {
        format!(
            "{{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: shop}}, spec: {{hosts: [{name}.example.com], addresses: [{address}], location: MESH_EXTERNAL, {rest}}}}}\n---\n\
             {{kind: VirtualService, apiVersion: networking.istio.io/v1, metadata: {{name: {name}, namespace: shop}}, spec: {{hosts: [{name}.example.com], http: [{{match: [{{uri: {{prefix: /old}}}}], rewrite: {{uri: /new}}, route: [{{destination: {{host: {name}.example.com}}}}]}}]}}}}\n---\n"
        )
    };
    let entries = [
        entry(
            "fixed",
            "10.97.0.1",
            &format!(
                "resolution: STATIC, ports: [{{number: 80, targetPort: 8090, name: http, protocol: HTTP}}], endpoints: [{{address: {fixed}}}]"
            ),
        ),
        entry(
            "dialled",
            &dialled.to_string(),
            "resolution: NONE, ports: [{number: 8091, name: http, protocol: HTTP}]",
        ),
    ];
    lab.write("rules.yaml", &entries.concat());
    lab.until(|dump| dump.contains("dialled.example.com")).await;
    let drain = Drain::default();
    application(SocketAddr::new(fixed, 8090), &drain).await;
    application(SocketAddr::new(dialled, 8091), &drain).await;
    for (to, host) in [
        (SocketAddr::from(([10, 97, 0, 1], 80)), "fixed.example.com"),
        (SocketAddr::new(dialled, 8091), "dialled.example.com"),
    ] {
        let request = Request::get("/old/x?y=1").header("host", host);
        let answer = lab.client().send(to, request, "").await;
        let heard = answer.text();
        assert_eq!(answer.status, 200, "{host}: {heard}");
        assert!(heard.starts_with("GET /new/x?y=1 HTTP/1.1\r\n"), "{heard}");
        assert!(heard.contains(&format!("host: {host}\r\n")), "{heard}");
        assert_eq!(lab.client().get(to, "/else").await.status, 404, "{host}");
    }
    drain.force();
}

/// The timer of the connection to this address and port, and in how many hundredths of a second it ends,
/// as the kernel tells it (`proc(5)`, `/proc/net/tcp`); 2 is one that probes.
fn timer(to: SocketAddr) -> Option<(u8, u64)> {
    let SocketAddr::V4(to) = to else { return None };
    let remote = format!("{:08X}:{:04X}", u32::from(*to.ip()).swap_bytes(), to.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, timer) = (fields.get(2).filter(|at| **at == remote)?, fields.get(5)?);
        let (kind, ends) = timer.split_once(':')?;
        Some((u8::from_str_radix(kind, 16).ok()?, u64::from_str_radix(ends, 16).ok()?))
    })
}

#[tokio::test]
async fn the_kernel_probes_connections_to_who_is_outside_the_mesh() {
    for (tcp, probes) in
        [("{tcpKeepalive: {time: 90s, interval: 5s, probes: 3}}", true), ("{}", false)]
    {
        let lab = Lab::new("").await;
        let _application = Pod::start_outside(&lab, 50).await;
        let at = SocketAddr::new(lab.address(50), 8080);
        lab.write("rules.yaml", &format!(
            "{{kind: ServiceEntry, apiVersion: networking.istio.io/v1, metadata: {{name: fixed, namespace: shop}}, spec: {{hosts: [fixed.example.com], addresses: [10.97.0.1], location: MESH_EXTERNAL, resolution: STATIC, ports: [{{number: 80, targetPort: 8080, name: http, protocol: HTTP}}], endpoints: [{{address: {}}}]}}}}\n---\n\
             {{kind: DestinationRule, apiVersion: networking.istio.io/v1, metadata: {{name: fixed, namespace: shop}}, spec: {{host: fixed.example.com, trafficPolicy: {{connectionPool: {{tcp: {tcp}}}}}}}}}\n",
            at.ip()
        ));
        lab.until(|dump| dump.contains("fixed.example.com")).await;
        assert_eq!(lab.client().get(([10, 97, 0, 1], 80), "/").await.status, 200);
        // What was sent is acknowledged at once, so no other timer runs.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let (kind, ends) = timer(at).expect("a connection that is kept");
        assert_eq!(kind == 2 && (6_000..=9_000).contains(&ends), probes, "{kind} {ends}");
    }
}
