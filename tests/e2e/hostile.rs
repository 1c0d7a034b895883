//! Peers with good certificates and bad manners.
use std::io::Write;

use anyhow::Result;
use e2e::{Agent, Lab, Pod};
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    mesh::{Mesh, ask, echo, is_cut, pod, unmeshed},
    peer::{Peer, credentials, proving, runtime, tls},
};

struct Target {
    agent: Agent,
    stranger: Pod,
    server: Pod,
    lab: Lab,
}

impl Target {
    fn new() -> Result<Self> {
        let lab = Lab::new(2)?;
        lab.namespace("shop", true)?;
        let (stranger, server) = (unmeshed(&lab, 1, "stranger")?, pod(&lab, 2, "server")?);
        let agent = lab.agent(2)?;
        echo(server.inside.listen(server.at(80))?);
        Ok(Self { agent, stranger, server, lab })
    }

    fn config(&self) -> Result<rustls::ClientConfig> {
        proving(&credentials(&self.lab.ca(), "spiffe://cluster.local/ns/shop/sa/client")?)
    }

    fn peer(&self) -> Result<Peer> {
        Peer::connect(&self.stranger.inside, self.server.at(15008), self.config()?)
    }
}

#[test]
fn each_bad_connect_gets_its_status_and_the_connection_lives_on() -> Result<()> {
    let target = Target::new()?;
    let peer = target.peer()?;
    let ip = target.server.v4;
    for (authority, status, reason) in [
        (format!("{ip}:80"), 200, None),
        (format!("{ip}"), 400, Some("bad_request")),
        (format!("{ip}:0"), 400, Some("bad_request")),
        ("10.9.9.9:80".to_owned(), 400, Some("not_local")),
        ("169.254.169.254:80".to_owned(), 400, Some("not_local")),
        ("127.0.0.1:80".to_owned(), 400, Some("not_local")),
        ("server.shop.svc.cluster.local:80".to_owned(), 400, Some("not_local")),
        ("[::]:80".to_owned(), 400, Some("not_local")),
        (format!("{ip}:15008"), 503, Some("loop")),
        (format!("{ip}:81"), 503, Some("connect_refused")),
        (format!("user@{ip}:80"), 400, Some("bad_request")),
        (format!("{ip}:80"), 200, None),
    ] {
        assert_eq!(peer.ask(&authority)?, status, "{authority}");
        if let Some(reason) = reason {
            target.agent.record(&authority, |r| r.reason == reason);
        }
    }
    let get = Request::builder().method(Method::GET).uri(format!("https://{ip}:80/"));
    assert_eq!(peer.send(get.body(())?)?, StatusCode::BAD_REQUEST);
    assert_eq!(peer.ask(&format!("{ip}:80"))?, StatusCode::OK);
    Ok(())
}

#[test]
fn headers_beyond_the_limit_are_refused_and_the_connection_lives_on() -> Result<()> {
    let target = Target::new()?;
    let peer = target.peer()?;
    let authority = target.server.at(80).to_string();
    for (size, status) in [
        (1 << 10, StatusCode::OK),
        (100 << 10, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        (1 << 10, StatusCode::OK),
    ] {
        let request = Request::builder().method(Method::CONNECT).uri(&authority);
        let request = request.header("x-padding", "x".repeat(size)).body(())?;
        assert_eq!(peer.send(request)?, status, "{size} bytes");
    }
    Ok(())
}

#[test]
fn headers_that_mean_nothing_are_ignored() -> Result<()> {
    let target = Target::new()?;
    let peer = target.peer()?;
    for (name, value) in [
        ("forwarded", "for=\"not an address\";host=\"\""),
        ("forwarded", ";;;===\"\"\""),
        ("baggage", "k8s.cluster.name"),
        ("baggage", "=,=,=;%%%"),
        ("traceparent", "00-zz"),
    ] {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(target.server.at(80).to_string())
            .header(name, value)
            .body(())?;
        assert_eq!(peer.send(request)?, StatusCode::OK, "{name}: {value}");
    }
    Ok(())
}

#[test]
fn a_client_port_is_believed_only_from_the_clients_own_address() -> Result<()> {
    let target = Target::new()?;
    let listener = target.server.inside.listen(target.server.at(81))?;
    let peer = target.peer()?;
    let own = target.stranger.at(4242);
    for (claimed, believed) in [(own, true), ("10.9.9.9:4242".parse()?, false)] {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(target.server.at(81).to_string())
            .header("forwarded", format!("for=\"{claimed}\""))
            .body(())?;
        assert_eq!(peer.send(request)?, StatusCode::OK);
        let (_far, seen) = listener.accept()?;
        assert_eq!(seen.ip(), own.ip());
        assert_eq!(seen.port() == 4242, believed);
    }
    Ok(())
}

/// What may come after a good handshake: not HTTP/2, or HTTP/2 gone wrong.
fn garbage() -> Vec<Vec<u8>> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let after = |frame: &[u8]| [&preface[..], &settings, frame].concat();
    vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 4096],
        vec![0xff; 4096],
        // A frame that is longer than allowed (RFC 9113 §4.2).
        after(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        // HEADERS that HPACK cannot read (§4.3).
        after(&[0, 0, 4, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]),
        // DATA on a stream that was never opened (§5.1).
        after(&[0, 0, 1, 0, 0, 0, 0, 0, 3, 7]),
        // WINDOW_UPDATE of zero (§6.9).
        after(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        // PUSH_PROMISE from a client (§8.4).
        after(&[0, 0, 4, 5, 4, 0, 0, 0, 1, 0, 0, 0, 2]),
        // Half a frame, then nothing.
        after(&[0, 0, 9]),
    ]
}

#[test]
fn garbage_ends_its_own_connection_and_no_other() -> Result<()> {
    let target = Target::new()?;
    let peer = target.peer()?;
    let authority = target.server.at(80).to_string();
    let runtime = runtime()?;
    for bytes in garbage() {
        runtime.block_on(async {
            let to = target.server.at(15008);
            let mut stream = tls(&target.stranger.inside, to, target.config()?).await?;
            stream.write_all(&bytes).await?;
            stream.shutdown().await?;
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(e2e::factory::PATIENCE, stream.read_to_end(&mut rest));
            assert!(ended.await.is_ok(), "the agent holds on to {bytes:?}");
            anyhow::Ok(())
        })?;
        assert_eq!(peer.ask(&authority)?, StatusCode::OK, "after {bytes:?}");
    }
    for bytes in garbage() {
        let mut stream = target.stranger.inside.connect(target.server.at(15008))?;
        stream.write_all(&bytes)?;
    }
    assert_eq!(peer.ask(&authority)?, StatusCode::OK);
    assert!(!target.agent.log().contains("panicked"));
    Ok(())
}

#[test]
fn whoever_dials_the_agents_listener_by_itself_gets_nowhere() -> Result<()> {
    let mesh = Mesh::new()?;
    let to = mesh.server.at(80);
    echo(mesh.server.inside.listen(to)?);
    ask(&mut mesh.client.inside.connect(to)?, 1)?;
    let listeners = e2e::system::within(mesh.client.netns(), || {
        std::fs::read_to_string("/proc/thread-self/net/tcp6")
    })??;
    let ports: Vec<u16> = listeners
        .lines()
        .filter(|line| line.split_whitespace().nth(3) == Some("0A"))
        .filter_map(|line| {
            let local = line.split_whitespace().nth(1)?;
            u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
        })
        .collect();
    assert_eq!(ports.len(), 3, "the agent has three listeners in a pod: {listeners}");
    for port in ports {
        is_cut(&mesh.client.inside, ([127, 0, 0, 1], port).into(), b"hello")?;
    }
    ask(&mut mesh.client.inside.connect(to)?, 2)?;
    Ok(())
}
