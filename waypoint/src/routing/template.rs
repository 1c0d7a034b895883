//! Pure: values of headers with Envoy's `%...%` operators.
//! Never: operators of which nothing is known when headers are changed (bytes, durations, the clock).
use std::{fmt::Display, net::SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};

use super::{request::RequestHead, start_time::TimeForm};

/// The value of a header, some of which may come from the exchange.
///
/// Known operators: `%REQ(name?other):length%` and `%RESP(...)%` (the first header of that name; of
/// requests also `:path`, `:method`, `:authority` and `:scheme`), `%RESPONSE_CODE%`, `%ROUTE_NAME%`,
/// `%PROTOCOL%`, `%DOWNSTREAM_PEER_URI_SAN%`, and `%DOWNSTREAM_REMOTE_ADDRESS%`,
/// `%DOWNSTREAM_LOCAL_ADDRESS%` (the service's address) with `_WITHOUT_PORT`, and
/// `%DOWNSTREAM_REMOTE_PORT%`, `%DOWNSTREAM_LOCAL_PORT%`; `DIRECT_REMOTE` means the same as `REMOTE`.
/// `%START_TIME%` and `%START_TIME(%s.%3f)%` are when the request began (UTC; `start_time` has the forms);
/// `%UPSTREAM_HOST%` and `%RESPONSE_FLAGS%` are known when there is a response. `%%` is a percent sign. What is not known at the time is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Value);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Fixed(HeaderValue),
    Computed(Vec<Part>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Request(Operator),
    Response(Reading<HeaderName>),
    ResponseCode,
    ResponseFlags,
    UpstreamHost,
}

/// What is told beside headers when they are changed; nothing of it for those of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told<'a> {
    /// The response's status.
    pub status: Option<StatusCode>,
    /// What went wrong on the way to it, in Envoy's flags.
    pub flags: Option<&'a str>,
    /// The endpoint that it came from.
    pub upstream: Option<SocketAddr>,
}

impl From<Option<StatusCode>> for Told<'_> {
    fn from(status: Option<StatusCode>) -> Self {
        Self { status, ..Self::default() }
    }
}

/// What a request tells.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    Head(Reading<Field>),
    StartTime(TimeForm),
    RouteName,
    Protocol,
    PeerIdentity,
    RemoteAddress,
    RemoteIp,
    RemotePort,
    LocalAddress,
    LocalIp,
    LocalPort,
}

/// The first of two fields that is there, cut to a length in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reading<F> {
    field: F,
    otherwise: Option<F>,
    length: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Header(HeaderName),
    Path,
    Method,
    Authority,
    Scheme,
}

/// Why a value is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It has bytes that no header may have.
    #[error("the value has characters that no header may have")]
    Characters,
    /// A `%` opens an operator that nothing closes.
    #[error("a % opens an operator that nothing closes; a plain % is written %%")]
    Open,
    /// There is no such operator.
    #[error("%{0}% is no operator that is known here")]
    Unknown(String),
}

impl Template {
    /// Reads a value.
    ///
    /// # Errors
    /// When it has characters that no header may have, or an operator that is not known.
    pub fn new(text: &str) -> Result<Self, TemplateError> {
        HeaderValue::from_str(text).map_err(|_| TemplateError::Characters)?;
        let mut parts = Vec::new();
        let mut fixed = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            fixed.extend_from_slice(before.as_bytes());
            let (operator, after) = operator(after).ok_or(TemplateError::Open)?;
            rest = after;
            if operator.is_empty() {
                fixed.push(b'%');
                continue;
            }
            parts.push(Part::Text(std::mem::take(&mut fixed)));
            parts.push(part(operator).ok_or_else(|| TemplateError::Unknown(operator.to_owned()))?);
        }
        fixed.extend_from_slice(rest.as_bytes());
        if parts.is_empty() {
            let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(fixed));
            return value.map(Self::from).map_err(|_| TemplateError::Characters);
        }
        parts.push(Part::Text(fixed));
        Ok(Self(Value::Computed(parts)))
    }

    /// Puts in what the request tells, so that only operators of the response are left.
    pub(super) fn resolved(&self, head: &RequestHead<'_>, route: &str) -> Self {
        let Value::Computed(parts) = &self.0 else { return self.clone() };
        let resolved = |part: &Part| match part {
            Part::Request(operator) => {
                let mut out = Vec::new();
                operator.write(head, route, &mut out);
                Part::Text(out)
            }
            Part::Text(_)
            | Part::Response(_)
            | Part::ResponseCode
            | Part::ResponseFlags
            | Part::UpstreamHost => part.clone(),
        };
        Self(Value::Computed(parts.iter().map(resolved).collect()))
    }

    /// The value, for a resolved template; `None` when it is empty, and no header is to be written.
    pub(super) fn value(&self, told: Told<'_>, headers: &HeaderMap) -> Option<HeaderValue> {
        let parts = match &self.0 {
            Value::Fixed(value) => return Some(value.clone()).filter(|value| !value.is_empty()),
            Value::Computed(parts) => parts,
        };
        let mut out = Vec::new();
        for part in parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Response(reading) => reading.write(&mut out, |name| {
                    headers.get(name).map(|value| value.as_bytes().to_vec())
                }),
                Part::ResponseCode => {
                    out.extend(told.status.iter().flat_map(|status| status.as_str().bytes()));
                }
                Part::ResponseFlags => out.extend(told.flags.iter().flat_map(|f| f.bytes())),
                Part::UpstreamHost => {
                    out.extend(told.upstream.iter().flat_map(|at| at.to_string().into_bytes()));
                }
                Part::Request(_) => {}
            }
        }
        HeaderValue::from_maybe_shared(bytes::Bytes::from(out))
            .ok()
            .filter(|value| !value.is_empty())
    }
}

impl From<HeaderValue> for Template {
    fn from(value: HeaderValue) -> Self {
        Self(Value::Fixed(value))
    }
}

/// An operator, and what follows its `%`; in parentheses there may be others.
fn operator(text: &str) -> Option<(&str, &str)> {
    let is_name = |letter: char| letter.is_ascii_uppercase() || letter == '_';
    let inside = text.trim_start_matches(is_name);
    let in_parentheses = inside.strip_prefix('(').and_then(|inside| inside.find(')'));
    let before = in_parentheses.map_or(0, |length| text.len() - inside.len() + 1 + length);
    let end = before + text.get(before..)?.find('%')?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

/// The operator between two `%`; `None` when it is not known.
fn part(text: &str) -> Option<Part> {
    if let Some(reading) = text.strip_prefix("REQ") {
        return Some(Part::Request(Operator::Head(reading_of(reading, field)?)));
    }
    if let Some(reading) = text.strip_prefix("RESP(") {
        let header = |name: &str| HeaderName::try_from(name).ok();
        return reading_of(&format!("({reading}"), header).map(Part::Response);
    }
    if let Some(form) = text.strip_prefix("START_TIME") {
        let read = || TimeForm::read(form.strip_prefix('(')?.strip_suffix(')')?);
        let form = if form.is_empty() { TimeForm::standard() } else { read()? };
        return Some(Part::Request(Operator::StartTime(form)));
    }
    // No proxy stands between us and who dialled.
    let operator = match text.replace("_DIRECT_REMOTE_", "_REMOTE_").as_str() {
        "RESPONSE_CODE" => return Some(Part::ResponseCode),
        "RESPONSE_FLAGS" => return Some(Part::ResponseFlags),
        "UPSTREAM_HOST" => return Some(Part::UpstreamHost),
        "ROUTE_NAME" => Operator::RouteName,
        "PROTOCOL" => Operator::Protocol,
        "DOWNSTREAM_PEER_URI_SAN" => Operator::PeerIdentity,
        "DOWNSTREAM_REMOTE_ADDRESS" => Operator::RemoteAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Operator::RemoteIp,
        "DOWNSTREAM_REMOTE_PORT" => Operator::RemotePort,
        "DOWNSTREAM_LOCAL_ADDRESS" => Operator::LocalAddress,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Operator::LocalIp,
        "DOWNSTREAM_LOCAL_PORT" => Operator::LocalPort,
        _ => return None,
    };
    Some(Part::Request(operator))
}

/// Reads `(name?other):length`.
fn reading_of<F>(text: &str, field: impl Fn(&str) -> Option<F>) -> Option<Reading<F>> {
    let (names, length) = text.strip_prefix('(')?.split_once(')')?;
    let length = match length.strip_prefix(':') {
        Some(length) => length.parse().ok()?,
        None if length.is_empty() => usize::MAX,
        None => return None,
    };
    let (name, otherwise) = match names.split_once('?') {
        Some((name, other)) => (name, Some(field(other)?)),
        None => (names, None),
    };
    Some(Reading { field: field(name)?, otherwise, length })
}

fn field(name: &str) -> Option<Field> {
    Some(match name.to_ascii_lowercase().as_str() {
        ":path" => Field::Path,
        ":method" => Field::Method,
        ":authority" | "host" => Field::Authority,
        ":scheme" => Field::Scheme,
        header => Field::Header(HeaderName::try_from(header).ok()?),
    })
}

impl<F> Reading<F> {
    fn write(&self, out: &mut Vec<u8>, read: impl Fn(&F) -> Option<Vec<u8>>) {
        let value = read(&self.field).or_else(|| self.otherwise.as_ref().and_then(read));
        out.extend(value.into_iter().flatten().take(self.length));
    }
}

impl Operator {
    fn write(&self, head: &RequestHead<'_>, route: &str, out: &mut Vec<u8>) {
        let (remote, local) = (head.client.address, head.dialled);
        let mut text = |text: &dyn Display| out.extend_from_slice(text.to_string().as_bytes());
        match self {
            Self::Head(reading) => reading.write(out, |field| field.read(head)),
            Self::StartTime(form) => text(&form.of(head.began)),
            Self::RouteName => text(&route),
            Self::Protocol => text(&protocol(head.version)),
            Self::PeerIdentity => head.client.identity.iter().for_each(|identity| text(identity)),
            Self::RemoteAddress => text(&remote),
            Self::RemoteIp => text(&remote.ip()),
            Self::RemotePort => text(&remote.port()),
            Self::LocalAddress => text(&local),
            Self::LocalIp => text(&local.ip()),
            Self::LocalPort => text(&local.port()),
        }
    }
}

/// The name that Envoy's logs have for a version of HTTP.
pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 | Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

impl Field {
    fn read(&self, head: &RequestHead<'_>) -> Option<Vec<u8>> {
        match self {
            Self::Header(name) => head.headers.get(name).map(|value| value.as_bytes().to_vec()),
            Self::Path => Some(head.target().into_bytes()),
            Self::Method => Some(head.method.as_str().into()),
            Self::Authority => Some(head.authority.into()),
            Self::Scheme => Some(head.scheme.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::tests::Asked, *};

    fn value(text: &str, asked: &Asked) -> Option<String> {
        let answer = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("tag"))]);
        let template = Template::new(text).unwrap();
        let resolved = asked.with(|head| template.resolved(head, "my-route"));
        let upstream = Some(SocketAddr::from(([10, 1, 0, 7], 8080)));
        let status = Some(StatusCode::IM_A_TEAPOT);
        let value = resolved.value(Told { status, upstream, flags: Some("URX") }, &answer)?;
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn operators_are_put_in() {
        let asked = Asked::get("/a?b=c").header("x-one", "first").header("x-one", "second");
        let cases = [
            ("plain", Some("plain")),
            ("100%%", Some("100%")),
            ("<%REQ(X-One)%>", Some("<first>")),
            ("%REQ(x-one):3%", Some("fir")),
            ("%REQ(x-two?x-one)%", Some("first")),
            ("%REQ(x-two?:path)%", Some("/a?b=c")),
            ("%REQ(:METHOD)% %REQ(:SCHEME)%", Some("GET http")),
            ("%REQ(host)%%REQ(:authority)%", Some("shop:80shop:80")),
            ("%REQ(x-two)%", None),
            ("", None),
            ("[%REQ(x-two)%]", Some("[]")),
            ("%RESP(etag)% %RESPONSE_CODE%", Some("tag 418")),
            ("%RESP(x?ETag)%", Some("tag")),
            ("%UPSTREAM_HOST% %RESPONSE_FLAGS%", Some("10.1.0.7:8080 URX")),
            ("%START_TIME%", Some("2024-02-29T12:34:56.007Z")),
            ("t=%START_TIME(%s.%3f)%", Some("t=1709210096.007")),
            ("%START_TIME(%Y)%%%%REQ(x-one)%", Some("2024%first")),
            ("%ROUTE_NAME% %PROTOCOL%", Some("my-route HTTP/1.1")),
            ("%DOWNSTREAM_REMOTE_ADDRESS%", Some("10.1.0.1:40000")),
            ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", Some("10.1.0.1")),
            ("%DOWNSTREAM_REMOTE_PORT%", Some("40000")),
            ("%DOWNSTREAM_LOCAL_ADDRESS%", Some("10.96.0.1:80")),
            ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", Some("10.96.0.1")),
            ("%DOWNSTREAM_LOCAL_PORT%", Some("80")),
            ("%DOWNSTREAM_PEER_URI_SAN%", Some("spiffe://cluster.local/ns/shop/sa/web")),
        ];
        for (text, expected) in cases {
            assert_eq!(value(text, &asked).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let error = |text: &str| Template::new(text).unwrap_err();
        assert_eq!(error("50%"), TemplateError::Open);
        assert_eq!(error("%REQ(x"), TemplateError::Open);
        assert_eq!(error("a\nb"), TemplateError::Characters);
        for operator in [
            "HOSTNAME",
            "START_TIME(%Q)",
            "START_TIME()x",
            "REQ()",
            "REQ(x",
            "REQ(x)y",
            "REQ(x):y",
            "RESP(:path)",
            "req(x)",
        ] {
            let unknown = TemplateError::Unknown(operator.to_owned());
            assert_eq!(error(&format!("a %{operator}% b")), unknown, "{operator}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[%a-z(?:)REQSP ü]{0,30}|%START_TIME[(%a-z3)]{0,20}") {
            let asked = Asked::get("/");
            if let Ok(template) = Template::new(&text) {
                asked.with(|head| template.resolved(head, "")).value(Told::default(), &HeaderMap::new());
            }
        }
    }
}
