//! Hand-made peers of an agent: they prove what they like, and say what they like.
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration, time::SystemTime};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use culvert_agent::identity::{Credentials, ca::LocalCa};
use e2e::Factory;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{net::TcpStream, runtime::Runtime};
use tokio_rustls::{TlsConnector, client::TlsStream};

const HOUR: Duration = Duration::from_secs(3600);

/// Credentials of `identity`, signed by the root in `ca`, which is made if it is not there.
pub(crate) fn credentials(ca: &Path, identity: &str) -> Result<Credentials> {
    let identity = identity.parse()?;
    let now = SystemTime::now();
    let ca = LocalCa::open(ca, "cluster.local", HOUR, now)?;
    Ok(Credentials::new(ca.issue(&identity, now)?)?)
}

/// For a client that proves nothing and believes everything.
pub(crate) fn anonymous() -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let mut config = builder
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// With the certificate of `credentials`, and believing everything.
pub(crate) fn proving(credentials: &Credentials) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let svid = &credentials.svid;
    let mut config = builder
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_client_auth_cert(svid.chain.clone(), svid.key.clone_key())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A connection to an agent, as a peer's agent would make it.
pub(crate) struct Peer {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
}

impl Peer {
    /// # Errors
    /// When the agent refuses the handshake. With TLS 1.3 it may also do so a moment later.
    pub(crate) fn connect(maker: &Factory, to: SocketAddr, config: ClientConfig) -> Result<Self> {
        let runtime = runtime()?;
        let requests = runtime.block_on(async {
            let stream = tls(maker, to, config).await?;
            let (requests, connection) = h2::client::handshake(stream).await?;
            tokio::task::spawn(async move {
                let _ = connection.await;
            });
            anyhow::Ok(requests)
        })?;
        Ok(Self { runtime, requests })
    }

    /// Asks for a tunnel to `authority`; the status that comes back.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) fn ask(&self, authority: &str) -> Result<StatusCode> {
        self.send(Request::builder().method(Method::CONNECT).uri(authority).body(())?)
    }

    /// The answer to any request.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn send(&self, request: Request<()>) -> Result<StatusCode> {
        self.runtime.block_on(async {
            let mut requests = self.requests.clone().ready().await?;
            let (answer, _body) = requests.send_request(request, false)?;
            let answer = tokio::time::timeout(e2e::factory::PATIENCE, answer).await;
            Ok(answer.context("no answer")??.status())
        })
    }
}

/// The status that an agent answers to a single CONNECT, from handshake on.
///
/// # Errors
/// When the agent refuses before that.
pub(crate) fn attempt(
    maker: &Factory,
    to: SocketAddr,
    config: ClientConfig,
    authority: &str,
) -> Result<StatusCode> {
    Peer::connect(maker, to, config)?.ask(authority)
}

/// A TLS session with an agent.
///
/// # Errors
/// When there is none.
pub(crate) async fn tls(
    maker: &Factory,
    to: SocketAddr,
    config: ClientConfig,
) -> Result<TlsStream<TcpStream>> {
    let stream = maker.connect(to)?;
    stream.set_nonblocking(true)?;
    let name = ServerName::IpAddress(to.ip().into());
    let connector = TlsConnector::from(Arc::new(config));
    Ok(connector.connect(name, TcpStream::from_std(stream)?).await?)
}

/// # Errors
/// When the machine has no room for it.
pub(crate) fn runtime() -> Result<Runtime> {
    // One worker keeps connections moving between the calls of a test.
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

/// Fails unless `result` is an error.
///
/// # Errors
/// Names what was accepted.
pub(crate) fn refused(what: &str, result: Result<StatusCode>) -> Result<()> {
    match result {
        Ok(status) => bail!("{what} was accepted and answered with {status}"),
        Err(_) => Ok(()),
    }
}
