//! Pure: names of hosts, labels, headers, namespaces: which are none.
//! Never: objects.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::super::finding::{Findings, step};
use crate::routing::Field;

/// The longest domain name.
const MAX_DOMAIN: usize = 255;
/// The longest label of a name (RFC 1123), and of a Kubernetes label.
const MAX_LABEL: usize = 63;
/// The longest prefix of a Kubernetes label's key.
const MAX_PREFIX: usize = 253;

/// Whether a text is a label of RFC 1123: lower case letters, digits, `-` within.
pub(in super::super) fn is_dns_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    text.len() <= MAX_LABEL && text.bytes().all(inner) && has_plain_ends(text)
}

fn has_plain_ends(text: &str) -> bool {
    let plain = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    plain(text.as_bytes().first()) && plain(text.as_bytes().last())
}

/// A label of a domain as Istio takes them: upper case and `_` too.
fn is_domain_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    text.len() <= MAX_LABEL && text.bytes().all(inner) && has_plain_ends(text)
}

/// A domain name, of which the first label may be `*`.
pub(super) fn wildcard_domain(domain: &str) -> Result<(), String> {
    within_bounds(domain)?;
    let (first, rest) = domain.split_once('.').map_or((domain, None), |(a, b)| (a, Some(b)));
    let tail = first.strip_prefix('*').map(|tail| tail.strip_prefix('-').unwrap_or(tail));
    let is_label = match tail {
        Some(tail) => tail.is_empty() || is_domain_label(tail),
        None => is_domain_label(first),
    };
    if !is_label {
        return Err(format!("domain name {domain:?} invalid (label {first:?} invalid)"));
    }
    rest.map_or(Ok(()), labels_of_domain)
}

/// A domain name.
pub(super) fn domain(domain: &str) -> Result<(), String> {
    within_bounds(domain)?;
    labels_of_domain(domain)
}

fn within_bounds(domain: &str) -> Result<(), String> {
    if domain.len() > MAX_DOMAIN {
        return Err(format!("domain name {domain:?} too long (max {MAX_DOMAIN})"));
    }
    if domain.is_empty() {
        return Err("empty domain name not allowed".into());
    }
    Ok(())
}

fn labels_of_domain(domain: &str) -> Result<(), String> {
    let last = domain.rsplit('.').next().unwrap_or_default();
    if last.parse::<i64>().is_ok() {
        let text = format!(
            "domain name {domain:?} invalid (top level domain {last:?} cannot be all-numeric)"
        );
        return Err(text);
    }
    let labels: Vec<_> = domain.split('.').collect();
    for (index, label) in labels.iter().enumerate() {
        // A trailing dot is a domain's full form.
        let trailing = index > 0 && index + 1 == labels.len() && label.is_empty();
        if !trailing && !is_domain_label(label) {
            return Err(format!("domain name {domain:?} invalid (label {label:?} invalid)"));
        }
    }
    Ok(())
}

/// A port.
pub(super) fn port(number: u32) -> Result<(), String> {
    match number {
        1..=65535 => Ok(()),
        _ => Err(format!("port number {number} must be in the range 1..65535")),
    }
}

/// An address or a range of them.
pub(super) fn subnet(text: &str) -> Result<(), String> {
    let (address, length) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
    let address: IpAddr = address.parse().map_err(|_| format!("{text} is not a valid IP"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match length.map(str::parse::<u8>) {
        None => Ok(()),
        Some(Ok(length)) if length <= most => Ok(()),
        Some(_) => Err(format!("{text} is not a valid CIDR block")),
    }
}

/// The name of a subset.
pub(super) fn subset(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("subset name cannot be empty".into());
    }
    if is_dns_label(name) { Ok(()) } else { Err(format!("subset name is invalid: {name}")) }
}

/// Labels as Kubernetes has them.
pub(super) fn labels(at: &str, labels: &BTreeMap<String, String>, findings: &mut Findings) {
    for (key, value) in labels {
        let at = format!("{at}/{}", step(key));
        let (prefix, name) =
            key.rsplit_once('/').map_or((None, key.as_str()), |(p, n)| (Some(p), n));
        let good_prefix =
            prefix.is_none_or(|prefix| prefix.len() <= MAX_PREFIX && domain(prefix).is_ok());
        if !good_prefix || name.is_empty() || !is_label_text(name) {
            findings.invalid(&at, format!("invalid tag key: {key:?}"));
        }
        if !is_label_text(value) {
            findings.invalid(&at, format!("invalid tag value: {value:?}"));
        }
    }
}

fn is_label_text(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    text.is_empty() || (text.len() <= MAX_LABEL && text.bytes().all(inner) && has_plain_ends(text))
}

/// Who may see an object.
pub(super) fn export_to(at: &str, namespace: &str, entries: &[String], findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let at = format!("{at}/{index}");
        let key = if entry == "." { namespace } else { entry };
        if seen.contains(key) {
            let text = match entry == key {
                true => format!("duplicate entries in exportTo for entry {entry}"),
                false => {
                    format!("duplicate entries in exportTo: . and current namespace {namespace}")
                }
            };
            findings.invalid(&at, text);
            continue;
        }
        if key == "~" {
            findings
                .invalid(&at, "exportTo ~ (none) is not allowed for Istio configuration objects");
        } else if key != "*" && !is_dns_label(key) {
            let text = "only .,*, or a valid DNS 1123 label is allowed as exportTo entry";
            findings.invalid(&at, text);
        }
        seen.insert(key);
    }
    if seen.contains("*") && entries.len() > 1 {
        let text = "cannot have both public (*) and non-public exportTo values for a resource";
        findings.invalid(at, text);
    }
}

/// Names of Gateways: `mesh`, `name`, or `namespace/name`.
pub(super) fn gateways(at: &str, gateways: &[String], findings: &mut Findings) {
    for (index, gateway) in gateways.iter().enumerate() {
        let at = format!("{at}/{index}");
        let Some((namespace, name)) = gateway.split_once('/') else {
            if let [name, namespace, ..] = gateway.split('.').collect::<Vec<_>>()[..] {
                let better = format!("{namespace}/{name}");
                let text = format!(
                    "using legacy gatewayName format {gateway:?}; prefer the <namespace>/<name> format: {better:?}"
                );
                findings.discouraged(&at, text);
            }
            findings.check(&at, domain(gateway));
            continue;
        };
        if namespace.is_empty() || name.is_empty() {
            findings.invalid(&at, "config namespace and gateway name cannot be empty");
        }
        if !is_dns_label(namespace) {
            findings.invalid(&at, format!("invalid value for namespace: {namespace:?}"));
        }
        if !is_dns_label(name) {
            findings.invalid(&at, format!("invalid value for gateway name: {name:?}"));
        }
    }
}

/// The name of a header that a request is asked for. Claims of tokens are written as headers.
pub(super) fn header_match(name: &str) -> Result<(), String> {
    if is_claim(name) || Field::named(name).is_some() {
        return Ok(());
    }
    header(name)
}

/// Whether a name means a claim of a token (`@request.auth.claims.<name>`).
pub(super) fn is_claim(name: &str) -> bool {
    let rest = name.to_ascii_lowercase();
    rest.strip_prefix("@request.auth.claims").is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// The name of a header.
pub(super) fn header(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("header name cannot be empty".into());
    }
    match ::http::HeaderName::try_from(name) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("header name {name} is not a valid header name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_istios() {
        for (host, good) in [
            ("a", true),
            ("*", true),
            ("*.b.c", true),
            ("*-a.b", true),
            ("a.b.", true),
            ("A_b.c", true),
            ("a.*.c", false),
            ("**.c", false),
            ("", false),
            ("-a", false),
            ("a..b", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(wildcard_domain(host).is_ok(), good, "{host}: {:?}", wildcard_domain(host));
        }
        for (text, good) in
            [("10.0.0.0/8", true), ("::/0", true), ("10.0.0.1", true), ("10.0.0.0/33", false)]
        {
            assert_eq!(subnet(text).is_ok(), good, "{text}");
        }
        assert!(is_claim("@request.auth.claims.iss") && !is_claim("@request.auth.claimsx"));
        let mut findings = Findings::default();
        export_to("/e", "shop", &[".".into(), "shop".into()], &mut findings);
        export_to("/e", "shop", &["*".into(), "shop".into()], &mut findings);
        export_to("/e", "shop", &["~".into()], &mut findings);
        assert_eq!(findings.0.len(), 3, "{findings:?}");
    }
}
