//! Shell: rustls configurations of an identity, and the one SPIFFE verifier.
//! Never: a second verifier.
use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Svid, svid::claimed_identity};

/// The protocol that tunnels are made of (RFC 7301): HTTP/2, nothing else.
const ALPN: &[u8] = b"h2";

/// One certificate, ready for handshakes in both roles.
#[derive(Debug)]
pub struct Credentials {
    /// The certificate.
    pub svid: Svid,
    /// For dialling peers. It checks that the peer is of the mesh; which identity it may be depends
    /// on the hop, and is checked by `hbone::client`.
    pub client: Arc<ClientConfig>,
    /// For accepting peers: they must prove an identity of the same trust domain.
    pub server: Arc<ServerConfig>,
}

impl Credentials {
    /// Prepares both roles: TLS 1.3 only, mutual, no server name, no resumption.
    ///
    /// # Errors
    /// When key and certificate do not fit together, or a root is not a certificate.
    pub fn new(svid: Svid) -> Result<Self, Error> {
        let provider = Arc::new(provider());
        let verifier = Arc::new(SpiffeVerifier::new(&svid, &provider)?);
        let key = svid.key.clone_key();
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_auth_cert(svid.chain.clone(), key.clone_key())?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.enable_sni = false;
        // Records are opened and sealed by `hbone::record`.
        client.enable_secret_extraction = true;
        client.resumption = Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(svid.chain.clone(), key)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.enable_secret_extraction = true;
        Ok(Self { svid, client: Arc::new(client), server: Arc::new(server) })
    }
}

/// AES-256-GCM before AES-128-GCM, as Istio's peers prefer them.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// Accepts certificates that lead to a root of the mesh and claim an identity; from clients one of
/// the own trust domain or one that stands for it. Host names mean nothing.
#[derive(Debug)]
struct SpiffeVerifier {
    roots: Arc<RootCertStore>,
    trust_domains: Vec<String>,
    provider: Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl SpiffeVerifier {
    fn new(svid: &Svid, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for root in &svid.roots {
            roots.add(root.clone())?;
        }
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let own = svid.identity.trust_domain().to_owned();
        let trust_domains = svid.aliases.iter().cloned().chain([own]).collect();
        Ok(Self { roots, trust_domains, provider: provider.clone(), clients })
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        match claimed_identity(end_entity) {
            Some(_) => Ok(ServerCertVerified::assertion()),
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.clients.verify_client_cert(end_entity, intermediates, now)?;
        match claimed_identity(end_entity) {
            Some(identity) if self.trust_domains.iter().any(|t| t == identity.trust_domain()) => {
                Ok(verified)
            }
            Some(_) | None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}
