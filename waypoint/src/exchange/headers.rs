//! Pure: headers that end at a proxy, headers that it adds, and the words that only its own side says.
//! Never: what a rule changes (see `routing`).
use std::time::Duration;

use culvert_agent::identity::Identity;
use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{
        CONNECTION, COOKIE, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SERVER, TE,
        TRANSFER_ENCODING, UPGRADE,
    },
};

use crate::{listener, record::REQUEST_ID};

/// What we call ourselves; dashboards and tests look for it.
const OWN_NAME: HeaderValue = HeaderValue::from_static("istio-envoy");
/// The only protocol that HTTP is left for (RFC 6455).
pub(super) const WEBSOCKET: &str = "websocket";
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// How long the endpoint took to answer, milliseconds.
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
/// That too many requests are open here.
pub(super) const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
/// Headers of one connection only, beside those that `connection` names (RFC 9110 §7.6.1).
const OF_CONNECTION: [HeaderName; 7] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Who the client is, as a proxy found it.
const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What only proxies say to each other: an application neither sees nor says it.
const OF_PROXIES: [HeaderName; 2] = [
    HeaderName::from_static("x-envoy-peer-metadata"),
    HeaderName::from_static("x-envoy-peer-metadata-id"),
];
/// What clients do not tell an endpoint: who they claim to be, and what proxies tell in their place.
const NOT_OF_CLIENTS: [HeaderName; 3] = [
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-envoy-original-path"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
];

/// What every request has before anything is decided about it. One that has no id gets the one that
/// `random` makes.
pub(super) fn complete(headers: &mut HeaderMap, scheme: &str, random: u128) {
    if !headers.contains_key(REQUEST_ID) {
        headers.insert(REQUEST_ID, request_id(random));
    }
    let scheme = if scheme == "https" { "https" } else { "http" };
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static(scheme));
}

/// Tells who the client is, in Envoy's form, after who we are.
pub(super) fn tell_client(headers: &mut HeaderMap, own: &Identity, client: &Identity) {
    // Identities have no character that a header may not have.
    if let Ok(value) = HeaderValue::try_from(format!("By={own};URI={client}")) {
        headers.insert(CLIENT_CERTIFICATE, value);
    }
}

/// Takes out what ends here, of headers or trailers: before anything is decided by them.
pub(super) fn for_endpoint(headers: &mut HeaderMap) {
    let trailers = headers.get(TE).is_some_and(|value| has_word(value, "trailers"));
    forget_connection(headers);
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // Who it is, no client tells itself.
    headers.remove(CLIENT_CERTIFICATE);
    // The client was, or will be, told to continue by us (RFC 9110 §10.1.1).
    headers.remove(EXPECT);
    for name in NOT_OF_CLIENTS.into_iter().chain(OF_PROXIES) {
        headers.remove(name);
    }
}

/// The same in the form of the version that the endpoint speaks. `authority` is whom it is for.
pub(super) fn in_version(
    headers: &mut HeaderMap,
    version: listener::Version,
    authority: &HeaderValue,
) {
    match version {
        listener::Version::Http1 => {
            headers.insert(HOST, authority.clone());
            join_cookies(headers);
        }
        listener::Version::Http2 => {
            headers.remove(HOST);
        }
    }
}

/// Takes out what proxies say to each other.
pub(super) fn of_proxies(headers: &mut HeaderMap) {
    for name in OF_PROXIES {
        headers.remove(name);
    }
}

/// Whether the only coding of a message is `chunked`, said once, or there is none: others mean different
/// things to different servers (RFC 9112 §6.1).
pub(super) fn is_plainly_framed(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let (first, more) = (codings.next(), codings.next());
    more.is_none() && first.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// What a client is told beside what the endpoint says.
pub(super) fn for_client(headers: &mut HeaderMap, service_time: Option<Duration>) {
    forget_connection(headers);
    of_proxies(headers);
    headers.insert(SERVER, OWN_NAME);
    if let Some(time) = service_time {
        headers.insert(SERVICE_TIME, milliseconds(time));
    }
}

/// What a request asks to become (RFC 9110 §7.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upgrade {
    /// Nothing, or something that may be passed over.
    No,
    /// A websocket (RFC 6455).
    WebSocket,
    /// Something that is not passed on.
    Other,
}

pub(super) fn upgrade(headers: &HeaderMap, version: Version) -> Upgrade {
    let asks = headers.get_all(CONNECTION).iter().any(|value| has_word(value, "upgrade"));
    let Some(to) = headers.get(UPGRADE).filter(|_| asks && version >= Version::HTTP_11) else {
        return Upgrade::No;
    };
    if to.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()) {
        Upgrade::WebSocket
    } else if has_word(to, "h2c") {
        Upgrade::No
    } else {
        Upgrade::Other
    }
}

/// Asks the endpoint for a websocket, or tells the client that it has one.
pub(super) fn keep_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

fn forget_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // What says how long a message is, or whom it is for, is nobody's to remove.
        .filter(|name: &HeaderName| {
            !matches!(name.as_str(), "content-length" | "host" | "te" | "trailer")
        })
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in OF_CONNECTION {
        headers.remove(name);
    }
}

/// HTTP/2 may cut cookies into several headers, HTTP/1.1 has one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().count() < 2 {
        return;
    }
    let all: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(b"; ".as_slice())) {
        headers.insert(COOKIE, joined);
    }
}

fn has_word(value: &HeaderValue, word: &str) -> bool {
    let text = value.to_str().unwrap_or_default();
    text.split(',').any(|part| part.split(';').next().is_some_and(|w| is(w, word)))
}

fn is(word: &str, other: &str) -> bool {
    word.trim().eq_ignore_ascii_case(other)
}

/// Whole milliseconds.
fn milliseconds(time: Duration) -> HeaderValue {
    HeaderValue::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// A UUID, version 4 (RFC 9562 §5.4).
fn request_id(random: u128) -> HeaderValue {
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| hex.get(part).unwrap_or_default());
    HeaderValue::from_str(&parts.join("-")).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_is_of_one_connection_ends_here() {
        let mut headers = map(&[
            ("connection", "close, X-Mine, content-length"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers, deflate;q=0.5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("content-length", "3"),
            ("expect", "100-continue"),
            ("x-forwarded-client-cert", "URI=spiffe://me"),
            ("x-envoy-peer-metadata", "x"),
            ("x-envoy-expected-rq-timeout-ms", "5"),
            ("x-kept", "1"),
        ]);
        for_endpoint(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "te", "x-kept"]);
        assert_eq!(headers[TE], "trailers");
    }

    #[test]
    fn one_coding_said_once_is_plain() {
        let coding = "transfer-encoding";
        for (headers, expected) in [
            (&[][..], true),
            (&[(coding, "Chunked")], true),
            (&[(coding, "gzip, chunked")], false),
            (&[(coding, "identity"), (coding, "chunked")], false),
            (&[(coding, "chunked"), (coding, "chunked")], false),
        ] {
            assert_eq!(is_plainly_framed(&map(headers)), expected, "{headers:?}");
        }
    }

    #[test]
    fn a_request_id_is_a_uuid_and_stays() {
        let id = request_id(u128::MAX);
        assert_eq!(id, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        let mut headers = map(&[("x-request-id", "mine")]);
        complete(&mut headers, "http", 7);
        assert_eq!(headers[REQUEST_ID], "mine");
    }

    #[test]
    fn websockets_pass_and_other_upgrades_do_not() {
        for (connection, to, version, expected) in [
            ("Upgrade", "websocket", Version::HTTP_11, Upgrade::WebSocket),
            ("keep-alive, upgrade", "WebSocket", Version::HTTP_11, Upgrade::WebSocket),
            ("keep-alive", "websocket", Version::HTTP_11, Upgrade::No),
            ("upgrade", "websocket", Version::HTTP_10, Upgrade::No),
            ("upgrade, http2-settings", "h2c", Version::HTTP_11, Upgrade::No),
            ("upgrade", "foo", Version::HTTP_11, Upgrade::Other),
        ] {
            let headers = map(&[("connection", connection), ("upgrade", to)]);
            assert_eq!(upgrade(&headers, version), expected, "{connection} {to}");
        }
    }

    #[test]
    fn each_version_has_its_form() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1"));
        headers.append(COOKIE, HeaderValue::from_static("b=2"));
        in_version(&mut headers, listener::Version::Http1, &HeaderValue::from_static("cart"));
        assert_eq!(
            (&headers[COOKIE], &headers[HOST]),
            (&"a=1; b=2".parse().unwrap(), &"cart".parse().unwrap())
        );
        in_version(&mut headers, listener::Version::Http2, &HeaderValue::from_static("cart"));
        assert!(!headers.contains_key(HOST));
    }
}
