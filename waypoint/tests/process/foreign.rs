//! Shell: servers of others, with certificates of another authority: what they speak is agreed upon in the
//! handshake.
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use culvert_agent::{clock, drain::Drain};
use culvert_waypoint::listener::serve::Owned;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SanType,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Whose signature others look for.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, in PEM.
pub(crate) struct Card {
    pub(crate) chain: String,
    pub(crate) key: String,
    serial: u64,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = format!("Authority {}", rand::random::<u64>());
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).expect("a root").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate of these names: one with a scheme is a URI. Its time begins so many hours ago, and ends
    /// after two.
    pub(crate) fn card(&self, names: &[&str], hours: u64) -> Card {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        let name = |name: &&str| match name.contains("://") {
            true => SanType::URI((*name).try_into().expect("a URI")),
            false => SanType::DnsName((*name).try_into().expect("a name")),
        };
        params.subject_alt_names = names.iter().map(name).collect();
        let serial = rand::random::<u64>();
        params.serial_number = Some(serial.into());
        let begin = clock::wall() - Duration::from_secs(3600 * hours);
        params.not_before = begin.into();
        params.not_after = (begin + Duration::from_secs(2 * 3600)).into();
        let chain = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Card { chain, key: key.serialize_pem(), serial }
    }

    /// Takes a certificate back: the list that says so.
    pub(crate) fn revoke(&self, card: &Card) -> String {
        let (now, hour) = (clock::wall(), Duration::from_secs(3600));
        let revoked = RevokedCertParams {
            serial_number: card.serial.into(),
            revocation_time: (now - hour).into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: (now - hour).into(),
            next_update: (now + hour).into(),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("a list")
    }
}

/// What a server has noticed, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// A connection that did not begin with a handshake.
    Clear,
    /// A handshake that failed.
    Failed,
    /// One that did not.
    Session {
        /// The name that was asked for.
        name: Option<String>,
        /// What was agreed upon.
        alpn: Option<String>,
        /// Whether the client has a certificate.
        client: bool,
    },
    /// A request: scheme, path.
    Asked(Option<String>, String),
}

/// What it takes to serve.
#[derive(Clone)]
pub(crate) struct Foreign {
    config: Arc<ServerConfig>,
    noted: Arc<Mutex<Vec<Noted>>>,
    drain: Drain,
}

impl Foreign {
    /// One with this certificate, which asks clients for certificates of an authority, if one is given.
    pub(crate) fn new(drain: &Drain, card: &Card, clients: Option<&Authority>) -> Self {
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(certificate(&authority.pem)).expect("a root");
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let key = PrivateKeyDer::from_pem_slice(card.key.as_bytes()).expect("a key");
        let config = builder.with_single_cert(vec![certificate(&card.chain)], key);
        let mut config = config.expect("a configuration");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { config: Arc::new(config), noted: Arc::default(), drain: drain.clone() }
    }

    /// Takes connections there.
    pub(crate) async fn listen(self, at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.expect("a listener");
        let server = self.clone();
        self.drain.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                server.look(&stream).await;
                server.drain.spawn(server.clone().serve(stream));
            }
        });
        self
    }

    /// Whether it begins with a handshake.
    async fn look(&self, stream: &TcpStream) {
        let mut first = [0];
        if matches!(stream.peek(&mut first).await, Ok(1)) && first != [22] {
            self.note(Noted::Clear);
        }
    }

    pub(crate) fn noted(&self) -> Vec<Noted> {
        self.noted.lock().expect("a list").clone()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.noted().iter().filter(|noted| matches!(noted, Noted::Session { .. })).count()
    }

    fn note(&self, noted: Noted) {
        self.noted.lock().expect("a list").push(noted);
    }

    /// Serves one connection: what is no HTTP it says back in capitals.
    pub(crate) async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let accepted = TlsAcceptor::from(self.config.clone()).accept(stream).await;
        let Ok(stream) = accepted else { return self.note(Noted::Failed) };
        let session = stream.get_ref().1;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let alpn = session.alpn_protocol().map(text);
        let name = session.server_name().map(str::to_owned);
        let client = session.peer_certificates().is_some();
        self.note(Noted::Session { name, alpn: alpn.clone(), client });
        let owner = Owned(self.drain.clone());
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(&request)) }
        });
        match alpn.as_deref() {
            Some("h2") => {
                let io = TokioIo::new(stream);
                let _ = http2::Builder::new(owner).serve_connection(io, service).await;
            }
            Some(_) => {
                let io = TokioIo::new(stream);
                let _ = http1::Builder::new().serve_connection(io, service).await;
            }
            None => shout(stream).await,
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<bytes::Bytes>> {
        let uri = request.uri();
        let scheme = uri.scheme_str().map(str::to_owned);
        self.note(Noted::Asked(scheme, uri.path().to_owned()));
        Response::new(Full::from("from outside"))
    }
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// Says everything back in capitals, and then goodbye.
async fn shout<T: AsyncRead + AsyncWrite + Unpin>(mut stream: TlsStream<T>) {
    let mut bytes = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut bytes).await {
        let said = bytes[..length].to_ascii_uppercase();
        if stream.write_all(&said).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
    let _ = stream.shutdown().await;
}
