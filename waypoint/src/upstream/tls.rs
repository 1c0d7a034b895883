//! Shell: TLS of the waypoint's own towards endpoints, as DestinationRules ask for it
//! (`ClientTLSSettings` of `networking/v1alpha3/destination_rule.proto`).
//! Never: goes on in the clear, or without a check that was asked for.
mod files;
mod secured;
mod verify;

use std::{
    collections::HashMap,
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use culvert_agent::clock;
use http::{Request, Uri, uri::Scheme};
use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

pub use self::secured::Secured;
use self::verify::{Anybody, Named};
use super::To;
use crate::{
    backend::{CallPolicy, ClientTls, TlsMode},
    listener::Version,
    outcome::Failure,
};

/// Files are read again for a connection that is made this long after they were read.
const REREAD: Duration = Duration::from_secs(10);
/// HTTP/2 over TLS (RFC 9113 §3.2).
const H2: &[u8] = b"h2";
/// HTTP/1.1 over TLS (RFC 7301 §6).
const HTTP1: &[u8] = b"http/1.1";

/// What cannot be had, and the field that asks for it.
type Lacking = (&'static str, String);

/// What a handshake needs, and when it was read.
type Made = (Instant, Arc<ClientConfig>);

/// What handshakes need, as it was read a short while ago.
#[derive(Debug, Default)]
pub(super) struct Originator {
    made: Mutex<HashMap<Arc<ClientTls>, Made>>,
}

/// A handshake that can be begun.
pub(super) struct Ready {
    connector: TlsConnector,
    name: ServerName<'static>,
    version: Option<Version>,
}

/// The TLS that a backend is to be called with beside the mesh's own.
pub(super) fn asked<'p>(policy: &'p CallPolicy, to: &To) -> Option<&'p Arc<ClientTls>> {
    policy.tls.as_ref().filter(|tls| match tls.mode {
        TlsMode::Simple | TlsMode::Mutual => true,
        // Who is of the mesh is reached by it.
        TlsMode::IstioMutual => !to.is_meshed(),
        TlsMode::Disable => false,
    })
}

/// A request for an endpoint that is spoken to by TLS.
pub(super) fn https<B>(mut request: Request<B>) -> Request<B> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = parts.scheme.map(|_| Scheme::HTTPS);
    // Its parts were those of one.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    request
}

impl Originator {
    /// All that a handshake with an endpoint needs, before it is dialled; `None` where no TLS is asked
    /// for.
    ///
    /// # Errors
    /// When what is asked for cannot be had: where it is said, the field, and why.
    pub(super) async fn ready(
        &self,
        policy: &CallPolicy,
        to: &To,
        version: Option<Version>,
    ) -> Result<Option<Ready>, Failure> {
        let Some(tls) = asked(policy, to) else { return Ok(None) };
        let ready = self.prepare(tls, &to.backend.host, version).await;
        ready.map(Some).map_err(|(field, why)| {
            let at = policy.origin.as_ref().map(|origin| format!("{origin}: "));
            Failure::Unmet(format!("{}trafficPolicy.tls.{field}: {why}", at.unwrap_or_default()))
        })
    }

    async fn prepare(
        &self,
        tls: &Arc<ClientTls>,
        host: &str,
        version: Option<Version>,
    ) -> Result<Ready, Lacking> {
        let name = tls.sni.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| ("sni", format!("{name:?} is no name to ask for: give one")))?;
        let mut config = (*self.config(tls).await?).clone();
        config.alpn_protocols = match version {
            Some(Version::Http1) => vec![HTTP1.to_vec()],
            Some(Version::Http2) => vec![H2.to_vec()],
            None => Vec::new(),
        };
        Ok(Ready { connector: TlsConnector::from(Arc::new(config)), name, version })
    }

    async fn config(&self, tls: &Arc<ClientTls>) -> Result<Arc<ClientConfig>, Lacking> {
        let now = clock::now();
        let fresh = |(read, _): &&Made| now.saturating_duration_since(*read) < REREAD;
        if let Some((_, config)) = lock(&self.made).get(tls).filter(fresh) {
            return Ok(config.clone());
        }
        // Boxed: files are read now and then.
        let config = Arc::new(Box::pin(config(tls)).await?);
        lock(&self.made).insert(tls.clone(), (now, config.clone()));
        Ok(config)
    }

    /// Forgets what is to be read again.
    pub(super) fn sweep(&self, now: Instant) {
        lock(&self.made).retain(|_, (read, _)| now.saturating_duration_since(*read) < REREAD);
    }
}

impl Ready {
    /// Shakes hands. Whoever asks limits the time.
    ///
    /// # Errors
    /// When there is no agreement, or somebody else is there.
    pub(super) async fn shake<T>(self, stream: T) -> Result<Secured<T>, Failure>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |why: &dyn Display| Failure::Tls(format!("TLS_error: {why}"));
        let stream = self.connector.connect(self.name, stream).await.map_err(|e| failed(&e))?;
        if self.version == Some(Version::Http2) && stream.get_ref().1.alpn_protocol() != Some(H2) {
            return Err(failed(&"the server does not agree to speak HTTP/2 (ALPN h2)"));
        }
        Ok(Secured::from(stream))
    }
}

/// Without resumption: each session proves anew who is there.
async fn config(tls: &ClientTls) -> Result<ClientConfig, Lacking> {
    match tls.mode {
        TlsMode::Simple | TlsMode::Mutual | TlsMode::Disable => {}
        TlsMode::IstioMutual => {
            return Err(("mode", "ISTIO_MUTUAL, and the endpoint is outside the mesh".into()));
        }
    }
    if tls.credential_name.is_some() {
        return Err(("credentialName", "Secrets are not read: name files".into()));
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(tls, &provider).await?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| ("mode", error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (tls.mode, &tls.certificate) {
        (TlsMode::Mutual, Some((chain, key))) => {
            let lacking = |field| move |why| (field, why);
            let chain = files::certificates(chain).await.map_err(lacking("clientCertificate"))?;
            let key = files::key(key).await.map_err(lacking("privateKey"))?;
            let config = builder.with_client_auth_cert(chain, key);
            config.map_err(|error| ("privateKey", error.to_string()))?
        }
        (TlsMode::Mutual, None) => {
            return Err(("clientCertificate", "MUTUAL needs it, and privateKey".into()));
        }
        (TlsMode::Simple | TlsMode::Disable | TlsMode::IstioMutual, _) => {
            builder.with_no_client_auth()
        }
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

async fn verifier(
    tls: &ClientTls,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Lacking> {
    if tls.insecure_skip_verify {
        return Ok(Arc::new(Anybody(provider.clone())));
    }
    let lacking = |why: String| ("caCertificates", why);
    let mut roots = RootCertStore::empty();
    match &tls.ca_certificates {
        Some(path) => {
            for certificate in files::certificates(path).await.map_err(lacking)? {
                roots.add(certificate).map_err(|error| lacking(format!("{path}: {error}")))?;
            }
        }
        None => {
            let system = files::system_roots().await.map_err(lacking)?;
            // Some systems have roots in theirs that are none.
            roots.add_parsable_certificates(system);
        }
    }
    let mut chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    if let Some(path) = &tls.ca_crl {
        chain = chain.with_crls(files::revoked(path).await.map_err(|why| ("caCrl", why))?);
    }
    let chain = chain.build().map_err(|error| lacking(error.to_string()))?;
    Ok(match tls.subject_alt_names.is_empty() {
        true => chain,
        false => Arc::new(Named { chain, names: tls.subject_alt_names.clone() }),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
