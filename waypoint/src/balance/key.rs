//! Pure: the key of a request, by which it finds its endpoint (`consistentHash`).
//! Never: which endpoint that is (see `table`).
use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header::COOKIE};

use super::xxhash::xxhash64;
use crate::backend::{Algorithm, Backend, Cookie, HashKey};

/// The key of a request, and the cookie that its client is given with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyed {
    /// The key; `None` when the request has none.
    pub key: Option<u64>,
    /// A new `set-cookie`.
    pub cookie: Option<HeaderValue>,
}

/// What of a request may be its key.
#[derive(Clone, Copy, Debug)]
pub struct Source<'r> {
    /// Its headers.
    pub headers: &'r HeaderMap,
    /// Its query.
    pub query: Option<&'r str>,
    /// Its client.
    pub client: IpAddr,
    /// What a cookie is made of that has to be made, drawn from all `u64` alike.
    pub drawn: u64,
}

impl Keyed {
    /// The key of a request to this backend.
    pub fn of(backend: &Backend, source: Source<'_>) -> Self {
        let Algorithm::ConsistentHash { key, .. } = &backend.policy.load_balancer.algorithm else {
            return Self::default();
        };
        let hash = |bytes: &[u8]| Some(xxhash64(bytes, 0));
        match key {
            HashKey::Header(name) => {
                let all = source.headers.get_all(&**name).iter().map(HeaderValue::as_bytes);
                let all: Vec<_> = all.collect();
                let key = if all.is_empty() { None } else { hash(&all.concat()) };
                Self { key, cookie: None }
            }
            HashKey::Query(name) => {
                let pairs = source.query.into_iter().flat_map(|query| query.split('&'));
                let mut values = pairs.filter_map(|pair| pair.split_once('='));
                let value = values.find(|(key, _)| *key == &**name);
                Self { key: value.and_then(|(_, value)| hash(value.as_bytes())), cookie: None }
            }
            HashKey::SourceIp => {
                Self { key: hash(source.client.to_string().as_bytes()), cookie: None }
            }
            HashKey::Cookie(cookie) => of_cookie(cookie, source),
        }
    }
}

/// The key of a connection of which nobody looks at the bytes: its client, if that counts.
pub fn of_connection(algorithm: &Algorithm, client: IpAddr) -> Option<u64> {
    match algorithm {
        Algorithm::ConsistentHash { key: HashKey::SourceIp, .. } => {
            Some(xxhash64(client.to_string().as_bytes(), 0))
        }
        Algorithm::ConsistentHash { .. }
        | Algorithm::LeastRequest
        | Algorithm::RoundRobin
        | Algorithm::Random
        | Algorithm::Passthrough => None,
    }
}

fn of_cookie(cookie: &Cookie, source: Source<'_>) -> Keyed {
    let all = source.headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|text| text.split(';')).filter_map(|pair| pair.split_once('='));
    if let Some((_, value)) = pairs.find(|(name, _)| name.trim() == &*cookie.name) {
        let value = value.trim().trim_matches('"');
        return Keyed { key: Some(xxhash64(value.as_bytes(), 0)), cookie: None };
    }
    let Some(ttl) = cookie.ttl else { return Keyed::default() };
    let value = format!("{:016x}", source.drawn);
    let key = Some(xxhash64(value.as_bytes(), 0));
    let mut text = format!("{}=\"{value}\"", cookie.name);
    if !ttl.is_zero() {
        text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
    }
    if !cookie.path.is_empty() {
        text.push_str(&format!("; Path={}", cookie.path));
    }
    for (name, value) in &cookie.attributes {
        let value = if value.is_empty() { String::new() } else { format!("={value}") };
        text.push_str(&format!("; {name}{value}"));
    }
    text.push_str("; HttpOnly");
    // One that cannot stand in a header is not given; the request goes by its key all the same.
    Keyed { key, cookie: HeaderValue::try_from(text).ok() }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        backend::{Backends, CallPolicy, HashTable, LoadBalancer},
        routing::BackendRef,
    };

    fn keyed(key: HashKey, pairs: &[(&'static str, &'static str)], query: Option<&str>) -> Keyed {
        let reference = BackendRef { host: "cart".into(), port: 80, subset: None };
        let mut backend = Backends::default().find(&reference).unwrap();
        let algorithm = Algorithm::ConsistentHash { key, table: HashTable::Ring(1) };
        let load_balancer = LoadBalancer { algorithm, ..LoadBalancer::default() };
        backend.policy = Arc::new(CallPolicy { load_balancer, ..CallPolicy::default() });
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let client = [10, 0, 0, 1].into();
        Keyed::of(&backend, Source { headers: &headers, query, client, drawn: 7 })
    }

    fn cookie(ttl: Option<Duration>) -> HashKey {
        let attributes = vec![("SameSite".into(), "Strict".into()), ("Secure".into(), "".into())];
        HashKey::Cookie(Cookie { name: "user".into(), path: "/a".into(), ttl, attributes })
    }

    #[test]
    fn keys_are_what_the_rule_says() {
        let of = |text: &str| Some(xxhash64(text.as_bytes(), 0));
        let header = || HashKey::Header("x-user".into());
        assert_eq!(keyed(header(), &[("x-user", "a")], None).key, of("a"));
        assert_eq!(keyed(header(), &[("x-other", "a")], None).key, None);
        let query = || HashKey::Query("user".into());
        assert_eq!(keyed(query(), &[], Some("x=1&user=b")).key, of("b"));
        assert_eq!(keyed(query(), &[], Some("users=b")).key, None);
        assert_eq!(keyed(HashKey::SourceIp, &[], None).key, of("10.0.0.1"));
        let pairs = [("cookie", "a=1; user=\"c\"; b=2")];
        assert_eq!(keyed(cookie(None), &pairs, None), Keyed { key: of("c"), cookie: None });
    }

    #[test]
    fn a_client_without_its_cookie_is_given_one_that_leads_to_the_same() {
        assert_eq!(keyed(cookie(None), &[], None), Keyed::default());
        for (ttl, age) in [(3600, "; Max-Age=3600"), (0, "")] {
            let given = keyed(cookie(Some(Duration::from_secs(ttl))), &[], None);
            let text = format!(
                "user=\"0000000000000007\"{age}; Path=/a; SameSite=Strict; Secure; HttpOnly"
            );
            assert_eq!(given.cookie.unwrap(), text);
            let back = keyed(cookie(None), &[("cookie", "user=\"0000000000000007\"")], None);
            assert_eq!(back.key, given.key);
        }
    }
}
