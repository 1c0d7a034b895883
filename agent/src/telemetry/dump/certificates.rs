//! Pure: certificates as `istioctl ztunnel-config` reads them.
//! Never: a private key.
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use pem::{EncodeConfig, LineEnding, Pem};
use serde_json::{Value, json};
use x509_parser::{parse_x509_certificate, time::ASN1Time};

use crate::identity::{Credentials, Identity};

/// The certificates of this node's identities.
pub(super) fn certificates(held: &[(Identity, Option<Arc<Credentials>>)]) -> Vec<Value> {
    held.iter()
        .map(|(identity, credentials)| {
            let svid = credentials.as_ref().map(|credentials| &credentials.svid);
            let chain = svid.map(|svid| svid.chain.as_slice()).unwrap_or_default();
            let roots = svid.map(|svid| svid.roots.as_slice()).unwrap_or_default();
            json!({
                "identity": identity.to_string(),
                "state": if svid.is_some() { "Available" } else { "Initializing" },
                "certChain": chain.iter().map(|der| certificate(der)).collect::<Vec<_>>(),
                "rootCerts": roots.iter().map(|der| certificate(der)).collect::<Vec<_>>(),
            })
        })
        .collect()
}

fn certificate(der: &[u8]) -> Value {
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    let pem = pem::encode_config(&Pem::new("CERTIFICATE", der), config);
    let parsed = parse_x509_certificate(der).ok().map(|(_, certificate)| certificate);
    let validity = parsed.as_ref().map(|certificate| certificate.validity());
    json!({
        "pem": STANDARD.encode(pem),
        "serialNumber": parsed.as_ref().map(|c| c.tbs_certificate.serial.to_string()),
        "validFrom": validity.map(|validity| rfc3339(validity.not_before)),
        "expirationTime": validity.map(|validity| rfc3339(validity.not_after)),
    })
}

/// No certificate is from before 1970.
fn rfc3339(time: ASN1Time) -> String {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}
