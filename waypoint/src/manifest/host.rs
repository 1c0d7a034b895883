//! Pure: host names of services: short ones, wildcards, and which covers which.
//! Never: looks for a service.
use std::net::IpAddr;

/// A host name in full: a short one (no dot) is that of a service of this namespace. Lower case.
pub(crate) fn full(host: &str, namespace: &str, domain: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host == "*" || host.contains('.') || host.parse::<IpAddr>().is_ok() {
        return host;
    }
    format!("{host}.{namespace}.svc.{domain}")
}

/// Whether a name stands for many.
pub(crate) fn is_wildcard(host: &str) -> bool {
    host.starts_with('*')
}

/// Whether two names, either of which may be a wildcard, have one in common (Istio's `Name.Matches`).
pub(crate) fn overlap(one: &str, other: &str) -> bool {
    match (one.strip_prefix('*'), other.strip_prefix('*')) {
        (None, None) => one == other,
        (Some(suffix), None) => other.ends_with(suffix),
        (None, Some(suffix)) => one.ends_with(suffix),
        (Some(one), Some(other)) => one.ends_with(other) || other.ends_with(one),
    }
}

/// Whether all names that `narrow` stands for are names of `wide` (Istio's `Name.SubsetOf`).
pub(crate) fn covers(wide: &str, narrow: &str) -> bool {
    match (wide.strip_prefix('*'), narrow.strip_prefix('*')) {
        (None, None) => wide == narrow,
        (None, Some(_)) => false,
        (Some(suffix), _) => narrow.trim_start_matches('*').ends_with(suffix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_is_a_service_of_the_objects_namespace() {
        for (host, expected) in [
            ("product-service", "product-service.production.svc.cluster.local"),
            ("Product-Service", "product-service.production.svc.cluster.local"),
            ("a.b", "a.b"),
            ("*", "*"),
            ("*.io", "*.io"),
            ("10.0.0.1", "10.0.0.1"),
            ("fd00::1", "fd00::1"),
        ] {
            assert_eq!(full(host, "production", "cluster.local"), expected);
        }
    }

    #[test]
    fn wildcards_overlap_and_cover() {
        for (one, other, both, first_covers) in [
            ("foo.com", "foo.com", true, true),
            ("foo.com", "bar.com", false, false),
            ("*.com", "foo.com", true, true),
            ("bar.com", "*.com", true, false),
            ("*.foo.com", "foo.com", false, false),
            ("*", "foo.com", true, true),
            ("*", "*.com", true, true),
            ("*.com", "*.foo.com", true, true),
            ("*.foo.com", "*.com", true, false),
        ] {
            assert_eq!(overlap(one, other), both, "{one} {other}");
            assert_eq!(overlap(other, one), both, "{other} {one}");
            assert_eq!(covers(one, other), first_covers, "{one} {other}");
        }
    }
}
