//! Who is not who they should be gets no byte through, in either role.
use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use e2e::{Agent, Lab, Pod, until};
use http::StatusCode;
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use crate::{
    mesh::{is_cut, pod, unmeshed},
    peer::{anonymous, attempt, credentials, proving, refused, runtime},
};

/// The server's side of the mesh, and a stranger that dials it.
struct Door {
    agent: Agent,
    stranger: Pod,
    server: Pod,
    listener: TcpListener,
    lab: Lab,
}

impl Door {
    fn new() -> Result<Self> {
        let lab = Lab::new(2)?;
        lab.namespace("shop", true)?;
        let (stranger, server) = (unmeshed(&lab, 1, "stranger")?, pod(&lab, 2, "server")?);
        let agent = lab.agent(2)?;
        let listener = server.inside.listen(server.at(80))?;
        listener.set_nonblocking(true)?;
        Ok(Self { agent, stranger, server, listener, lab })
    }

    fn attempt(&self, config: rustls::ClientConfig) -> Result<StatusCode> {
        let authority = self.server.at(80).to_string();
        attempt(&self.stranger.inside, self.server.at(15008), config, &authority)
    }

    fn nobody_came(&self, what: &str) {
        assert!(self.listener.accept().is_err(), "the application was reached by {what}");
    }
}

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";

#[test]
fn a_client_that_cannot_prove_its_identity_reaches_nothing() -> Result<()> {
    let door = Door::new()?;
    let genuine = credentials(&door.lab.ca(), CLIENT)?;
    let forged = credentials(&door.lab.manifests().join("../forged.pem"), CLIENT)?;
    let foreign = credentials(&door.lab.ca(), "spiffe://elsewhere.example/ns/shop/sa/client")?;
    let mut http1 = proving(&genuine)?;
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    for (what, config) in [
        ("a forged certificate", proving(&forged)?),
        ("another trust domain", proving(&foreign)?),
        ("no certificate", anonymous()?),
        ("another protocol", http1),
    ] {
        let before = door.agent.records().len();
        refused(what, door.attempt(config))?;
        door.nobody_came(what);
        let record = door.agent.record(what, |r| r.reason == "tls_failure");
        assert_eq!(record.direction, "inbound");
        until("one more record", || door.agent.records().len() == before + 1);
    }
    assert_eq!(door.attempt(proving(&genuine)?)?, StatusCode::OK);
    assert!(door.listener.accept().is_ok(), "the genuine client did not reach the application");
    Ok(())
}

/// A ClientHello of TLS 1.2 (RFC 5246 §7.4.1.2): ECDHE-ECDSA-AES128-GCM-SHA256, no extensions.
fn tls12_client_hello() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([9; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    handshake_record(1, &hello)
}

fn handshake_record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).expect("a short message");
    let mut record = vec![22, 3, 3, 0, length + 4, kind, 0, 0, length];
    record.extend(body);
    record
}

/// An alert of level fatal (RFC 8446 §6), and its number.
fn alert(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [21, 3, _, 0, 2, 2, number, ..] => Some(*number),
        _ => None,
    }
}

const PROTOCOL_VERSION: u8 = 70;

#[test]
fn a_client_of_tls_1_2_is_told_that_its_version_is_not_spoken() -> Result<()> {
    let door = Door::new()?;
    let mut stream = door.stranger.inside.connect(door.server.at(15008))?;
    stream.write_all(&tls12_client_hello())?;
    let mut answer = [0; 64];
    let read = stream.read(&mut answer)?;
    assert!(matches!(alert(&answer[..read]), Some(PROTOCOL_VERSION | 40)), "{:?}", &answer[..read]);
    door.agent.record("it was recorded", |r| r.reason == "tls_failure");
    Ok(())
}

/// A pod whose agent is the test itself, on the port for tunnels, and an honest client's side.
struct Trap {
    agent: Agent,
    client: Pod,
    server: Pod,
    listener: TcpListener,
    lab: Lab,
}

impl Trap {
    fn new() -> Result<Self> {
        let lab = Lab::new(2)?;
        lab.namespace("shop", true)?;
        let (client, server) = (pod(&lab, 1, "client")?, pod(&lab, 2, "server")?);
        let agent = lab.agent(1)?;
        let listener = server.inside.listen(server.at(15008))?;
        Ok(Self { agent, client, server, listener, lab })
    }

    /// What the trap heard of the application's bytes.
    fn spring(&self, config: Arc<ServerConfig>) -> Result<Vec<u8>> {
        let listener = self.listener.try_clone()?;
        let trap = thread::spawn(move || listen_in(&listener, config));
        is_cut(&self.client.inside, self.server.at(80), b"secret")?;
        trap.join().expect("no panic")
    }
}

/// Accepts with `config`, and gives whatever is said before the session ends.
fn listen_in(listener: &TcpListener, config: Arc<ServerConfig>) -> Result<Vec<u8>> {
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    runtime()?.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let mut heard = Vec::new();
        if let Ok(mut session) = TlsAcceptor::from(config).accept(stream).await {
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut session, &mut heard).await;
        }
        Ok(heard)
    })
}

#[test]
fn a_server_that_is_somebody_else_hears_nothing() -> Result<()> {
    let trap = Trap::new()?;
    let own = trap.server.identity();
    let forged = credentials(&trap.lab.manifests().join("../forged.pem"), &own)?;
    let other = credentials(&trap.lab.ca(), "spiffe://cluster.local/ns/shop/sa/other")?;
    let foreign = credentials(&trap.lab.ca(), "spiffe://elsewhere.example/ns/shop/sa/server")?;
    let genuine = credentials(&trap.lab.ca(), &own)?;
    let mut http1 = (*genuine.server).clone();
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    for (what, config, reason) in [
        ("another service account", gullible(&other)?, "identity_mismatch"),
        ("another trust domain", gullible(&foreign)?, "identity_mismatch"),
        ("a forged certificate", gullible(&forged)?, "tls_failure"),
        ("another protocol", Arc::new(http1), "tls_failure"),
    ] {
        let before = trap.agent.records().len();
        let heard = trap.spring(config).context(what)?;
        assert!(heard.is_empty(), "{what} heard {heard:?}");
        until("there is a record", || trap.agent.records().len() == before + 1);
        let last = trap.agent.records().pop().context("no record")?;
        assert_eq!(last.reason, reason, "{what}: {last:?}");
    }
    Ok(())
}

/// The same certificate, for a server that believes its clients.
fn gullible(credentials: &culvert_agent::identity::Credentials) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let mut config = builder
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(credentials.svid.chain.clone(), credentials.svid.key.clone_key())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

#[test]
fn a_server_of_tls_1_2_hears_nothing() -> Result<()> {
    let trap = Trap::new()?;
    let listener = trap.listener.try_clone()?;
    let answer = thread::spawn(move || -> Result<Vec<u8>> {
        let (mut stream, _) = listener.accept()?;
        let mut hello = [0; 4096];
        assert!(stream.read(&mut hello)? > 0);
        let mut body = vec![3, 3];
        body.extend([9; 32]);
        body.extend([0, 0xc0, 0x2b, 0]);
        stream.write_all(&handshake_record(2, &body))?;
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        Ok(said)
    });
    is_cut(&trap.client.inside, trap.server.at(80), b"secret")?;
    let said = answer.join().expect("no panic")?;
    assert!(alert(&said).is_some() && said.len() == 7, "{said:?}");
    trap.agent.record("it was recorded", |r| r.reason == "tls_failure");
    Ok(())
}
