//! Pure: a certificate that proves an identity, and what a certificate claims.
//! Never: how it was obtained.
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::Identity;

/// An X.509-SVID: certificate chain and private key of one identity.
#[derive(Debug)]
pub struct Svid {
    /// Whom it proves.
    pub identity: Identity,
    /// Leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8, ECDSA P-256.
    pub key: PrivateKeyDer<'static>,
    /// Whose signatures its holder accepts from peers.
    pub roots: Vec<CertificateDer<'static>>,
    /// Trust domains, beside its own, of which its holder accepts clients (Istio's
    /// `trustDomainAliases`).
    pub aliases: Vec<String>,
    /// Start of its validity.
    pub not_before: SystemTime,
    /// End of its validity.
    pub not_after: SystemTime,
    /// Serial number, decimal.
    pub serial: String,
}

/// The identity that a certificate claims: its first URI name that is a SPIFFE ID in Istio's form.
/// Says nothing about whether the certificate is genuine.
pub fn claimed_identity(certificate: &[u8]) -> Option<Identity> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.parse().ok(),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::DNSName(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::IPAddress(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    })
}
