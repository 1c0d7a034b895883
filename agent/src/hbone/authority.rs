//! Pure: the target of a CONNECT (RFC 9110 §9.3.6): host and port, nothing else.
//! Never: indexes into what a peer sent.
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// A CONNECT target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// Where to.
    pub host: Host,
    /// The TCP port, never zero.
    pub port: u16,
}

/// The host of a CONNECT target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A host name of a service, in lower case.
    Name(String),
}

/// The text is not `host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the form host:port")]
pub struct AuthorityError;

/// The longest host name of DNS (RFC 1035 §2.3.4).
pub(super) const LONGEST_NAME: usize = 253;

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, AuthorityError> {
        let (host, port) = text.rsplit_once(':').ok_or(AuthorityError)?;
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(AuthorityError);
        }
        let port: u16 = port.parse().map_err(|_| AuthorityError)?;
        if port == 0 {
            return Err(AuthorityError);
        }
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match (bracketed, host.parse::<Ipv4Addr>()) {
            (Some(v6), _) => Host::Ip(
                IpAddr::V6(v6.parse::<Ipv6Addr>().map_err(|_| AuthorityError)?).to_canonical(),
            ),
            (None, Ok(v4)) => Host::Ip(v4.into()),
            (None, Err(_)) if is_name(host) => Host::Name(host.to_ascii_lowercase()),
            (None, Err(_)) => return Err(AuthorityError),
        };
        Ok(Self { host, port })
    }
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip()), port: address.port() }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Labels of letters, digits, dashes and underscores, the last not all digits, so that nothing that
/// was meant as an address is taken for a name.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= LONGEST_NAME
        && text.split('.').all(label)
        && !last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn host_and_port_and_nothing_else() {
        for (text, shown) in [
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("[fd00::1]:8080", Some("[fd00::1]:8080")),
            ("[::ffff:10.0.0.1]:80", Some("10.0.0.1:80")),
            ("Cart.shop.svc.cluster.local:80", Some("cart.shop.svc.cluster.local:80")),
            ("10.0.0.1", None),
            ("10.0.0.1:0", None),
            ("10.0.0.1:65536", None),
            ("10.0.0.1:+80", None),
            ("fd00::1:80", None),
            ("[fd00::1%eth0]:80", None),
            ("10.0.0.256:80", None),
            ("http://x:80", None),
            ("user@x:80", None),
            (":80", None),
            ("", None),
        ] {
            let parsed = text.parse::<Authority>().ok().map(|authority| authority.to_string());
            assert_eq!(parsed.as_deref(), shown, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_is_stable(text in ".{0,300}") {
            if let Ok(authority) = text.parse::<Authority>() {
                prop_assert_eq!(authority.to_string().parse::<Authority>(), Ok(authority));
            }
        }
    }
}
