//! Shell: the local certificate authority, one PEM file with root certificate and key.
//! Never: keeps what it issued.
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use x509_parser::parse_x509_certificate;

use super::{Identity, Svid};

/// Lifetime of a root that the agent makes.
const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How much earlier than now a certificate starts, for peers whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(60);

/// Issues certificates from a root in a file.
#[derive(Debug)]
pub struct LocalCa {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    root_ends: SystemTime,
    ttl: Duration,
    aliases: Vec<String>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The file cannot be read or written.
    #[error("{what} the root {path}")]
    File {
        /// What was attempted.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others than the owner may read the root's key.
    #[error("the root {path} has mode {mode:o}, others may read its key: chmod 600 {path}")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file does not hold one certificate and one key that belong together.
    #[error(
        "the root {path} is not a certificate with its key ({text}): repair it, or move it away to have a new one made"
    )]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        text: String,
    },
    /// The root's time is over.
    #[error("the root {path} has expired: move it away to have a new one made")]
    Expired {
        /// Which file.
        path: PathBuf,
    },
    /// A certificate could not be signed.
    #[error("sign a certificate")]
    Sign(#[from] rcgen::Error),
}

impl LocalCa {
    /// Reads the root from `file`, or makes it with mode 0600. Of several agents that start at once
    /// one makes it, and the others read it. Certificates will live for `ttl`.
    ///
    /// # Errors
    /// When the file is exposed, broken, expired, or cannot be read or written.
    pub fn open(
        file: &Path,
        trust_domain: &str,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        if !file.exists() {
            create(file, trust_domain, now)?;
        }
        let failed = |what| move |source| CaError::File { what, path: file.into(), source };
        let mode = fs::metadata(file).map_err(failed("examine"))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(CaError::Exposed { path: file.into(), mode });
        }
        let pem = fs::read_to_string(file).map_err(failed("read"))?;
        let ca =
            Self::parse(&pem, ttl).map_err(|text| CaError::Broken { path: file.into(), text })?;
        if ca.root_ends <= now {
            return Err(CaError::Expired { path: file.into() });
        }
        Ok(ca)
    }

    /// The same, whose certificates' holders accept clients of these trust domains too.
    #[must_use]
    pub fn with_aliases(self, aliases: Vec<String>) -> Self {
        Self { aliases, ..self }
    }

    /// Makes a key and a certificate for `identity`. It never outlives the root.
    ///
    /// # Errors
    /// When the key or the signature cannot be made.
    pub fn issue(&self, identity: &Identity, now: SystemTime) -> Result<Svid, CaError> {
        let key = KeyPair::generate()?;
        let (not_before, not_after) =
            (now - BACKDATE.min(self.ttl), (now + self.ttl).min(self.root_ends));
        let serial: u128 = rand::random();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        // RFC 5280 §4.1.2.2: positive, at most 20 octets.
        params.serial_number = Some(SerialNumber::from((serial >> 1).to_be_bytes().to_vec()));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Svid {
            identity: identity.clone(),
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            roots: vec![self.root.clone()],
            aliases: self.aliases.clone(),
            not_before,
            not_after,
            serial: (serial >> 1).to_string(),
        })
    }

    fn parse(pem: &str, ttl: Duration) -> Result<Self, String> {
        let root = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?;
        let (_, parsed) = parse_x509_certificate(&root).map_err(|e| e.to_string())?;
        let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
        let root_ends = SystemTime::UNIX_EPOCH + Duration::from_secs(ends);
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?;
        let key = KeyPair::try_from(&key).map_err(|e| e.to_string())?;
        if parsed.public_key().raw != key_info(&key).as_slice() {
            return Err("the key is another certificate's".into());
        }
        let issuer = Issuer::from_ca_cert_der(&root, key).map_err(|e| e.to_string())?;
        Ok(Self { issuer, root, root_ends, ttl, aliases: Vec::new() })
    }
}

fn key_info(key: &KeyPair) -> Vec<u8> {
    rcgen::PublicKeyData::subject_public_key_info(key)
}

fn create(file: &Path, trust_domain: &str, now: SystemTime) -> Result<(), CaError> {
    let failed = |what| move |source| CaError::File { what, path: file.into(), source };
    let directory = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(failed("make a directory for"))?;
    let temporary = file.with_extension(format!("{}.tmp", rand::random::<u64>()));
    let mut options = fs::OpenOptions::new();
    let mut out = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed("write"))?;
    let written = out
        .write_all(new_root(trust_domain, now)?.as_bytes())
        .and_then(|()| out.sync_all())
        // Unlike a rename, a link never replaces the file of an agent that was faster.
        .and_then(|()| match fs::hard_link(&temporary, file) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
    fs::remove_file(&temporary).map_err(failed("clean up beside"))?;
    written.map_err(failed("write"))
}

fn new_root(trust_domain: &str, now: SystemTime) -> Result<String, CaError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, trust_domain);
    name.push(DnType::CommonName, "Culvert local CA");
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + ROOT_TTL).into();
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, identity::svid::claimed_identity};

    const DAY: Duration = Duration::from_secs(86_400);

    fn directory() -> PathBuf {
        let path = std::env::temp_dir().join(format!("culvert-ca-{}", rand::random::<u64>()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_certificate_claims_its_identity_and_ends_before_the_root() {
        let file = directory().join("ca.pem");
        let now = clock::wall();
        let ca = LocalCa::open(&file, "cluster.local", 50 * 365 * DAY, now).unwrap();
        let identity: Identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        let svid = ca.issue(&identity, now).unwrap();
        assert_eq!(claimed_identity(&svid.chain[0]), Some(identity));
        assert!(svid.not_after <= now + ROOT_TTL);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn agents_that_start_at_once_agree_on_one_root() {
        let file = directory().join("ca.pem");
        let open = || {
            let file = file.clone();
            std::thread::spawn(move || {
                LocalCa::open(&file, "cluster.local", DAY, clock::wall()).unwrap().root
            })
        };
        let roots: Vec<_> = [open(), open(), open(), open()].map(|t| t.join().unwrap()).into();
        assert!(roots.iter().all(|root| root == &roots[0]));
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_root_that_cannot_be_trusted_is_refused() {
        let now = clock::wall();
        let file = directory().join("ca.pem");
        LocalCa::open(&file, "cluster.local", DAY, now).unwrap();
        let late = LocalCa::open(&file, "cluster.local", DAY, now + 11 * 365 * DAY).unwrap_err();
        assert!(matches!(late, CaError::Expired { .. }));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let exposed = LocalCa::open(&file, "cluster.local", DAY, now).unwrap_err();
        assert!(exposed.to_string().contains("chmod 600"), "{exposed}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let pem = fs::read_to_string(&file).unwrap();
        let other = new_root("cluster.local", now).unwrap();
        let (certificate, _) = pem.split_once("-----BEGIN PRIVATE").unwrap();
        let (_, key) = other.split_once("-----BEGIN PRIVATE").unwrap();
        fs::write(&file, format!("{certificate}-----BEGIN PRIVATE{key}")).unwrap();
        let broken = LocalCa::open(&file, "cluster.local", DAY, now).unwrap_err();
        assert!(broken.to_string().contains("another certificate's"), "{broken}");
    }
}
