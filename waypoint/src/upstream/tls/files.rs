//! Shell: certificates and keys from files (PEM, RFC 7468).
//! Never: a file without a bound, a device.
use std::{io, path::Path};

use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use tokio::fs;

/// The largest file that is read, bytes: a system's roots are a quarter of a megabyte.
const LONGEST: u64 = 4 << 20;

/// Where systems keep their roots, as Go's `crypto/x509` knows it, and Istio's agent after it; the first
/// that is there counts.
const SYSTEM: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// All certificates of a file.
pub(super) async fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    all(path, &read(path).await?, "certificate")
}

/// All lists of revoked certificates of a file.
pub(super) async fn revoked(
    path: &str,
) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    all(path, &read(path).await?, "list of revoked certificates")
}

/// The first key of a file.
pub(super) async fn key(path: &str) -> Result<PrivateKeyDer<'static>, String> {
    let text = read(path).await?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| format!("{path}: {error}"))
}

/// The certificates that this system trusts.
pub(super) async fn system_roots() -> Result<Vec<CertificateDer<'static>>, String> {
    match SYSTEM.into_iter().find(|path| Path::new(path).is_file()) {
        Some(path) => certificates(path).await,
        None => Err("this system has no roots of its own: name a file".into()),
    }
}

fn all<T: PemObject>(path: &str, text: &[u8], what: &str) -> Result<Vec<T>, String> {
    let all: Result<Vec<T>, pem::Error> = T::pem_slice_iter(text).collect();
    let all = all.map_err(|error| format!("{path}: {error}"))?;
    match all.is_empty() {
        true => Err(format!("{path}: there is no {what} in it")),
        false => Ok(all),
    }
}

async fn read(path: &str) -> Result<Vec<u8>, String> {
    let text = async {
        let about = fs::metadata(path).await?;
        match (about.is_file(), about.len()) {
            (false, _) => Err(io::Error::other("it is no file")),
            (true, LONGEST..) => Err(io::Error::other(format!("it has more than {LONGEST} bytes"))),
            (true, _) => fs::read(path).await,
        }
    };
    text.await.map_err(|error| format!("read {path}: {error}"))
}
