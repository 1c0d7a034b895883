//! Front: who a workload is. `Identity` and its exact parser.
//! Never: certificates (see `svid`), sockets.
use std::{fmt, str::FromStr, sync::Arc};

pub mod ca;
pub mod keeper;
pub mod schedule;
pub mod svid;
pub mod tls;

pub use keeper::{Keeper, Lease};
pub use svid::Svid;
pub use tls::Credentials;

/// A SPIFFE ID in Istio's form, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    trust_domain: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

impl Identity {
    /// Makes an identity of its three parts.
    ///
    /// # Errors
    /// When a part is empty or has a character that SPIFFE ids do not allow.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        if ![trust_domain, namespace, service_account].into_iter().all(is_segment) {
            return Err(IdentityError);
        }
        Ok(Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }

    /// The trust domain, for example `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

/// The text is not `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SPIFFE ID of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
pub struct IdentityError;

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let path = text.strip_prefix("spiffe://").ok_or(IdentityError)?;
        let mut parts = path.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(trust_domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(trust_domain, namespace, account)
            }
            _ => Err(IdentityError),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

/// SPIFFE-ID §2: letters, digits, dot, dash, underscore; a segment is never empty, `.` or `..`.
fn is_segment(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_an_identity() {
        for (text, good) in [
            ("spiffe://cluster.local/ns/shop/sa/cart", true),
            ("spiffe://cluster.local/ns/shop/sa/cart/", false),
            ("spiffe://cluster.local/ns/shop/sa/", false),
            ("spiffe:///ns/shop/sa/cart", false),
            ("spiffe://cluster.local/sa/cart/ns/shop", false),
            ("spiffe://cluster.local/ns/../sa/cart", false),
            ("spiffe://cluster.local/ns/sh%6fp/sa/cart", false),
            ("https://cluster.local/ns/shop/sa/cart", false),
            ("", false),
        ] {
            let parsed = text.parse::<Identity>();
            assert_eq!(parsed.is_ok(), good, "{text}");
            if let Ok(identity) = parsed {
                assert_eq!(identity.to_string(), text);
            }
        }
    }
}
