//! Pure: a query of the admin endpoint → what is asked there.
//! Never: what the mesh knows.
use http::{HeaderName, HeaderValue, Method, Request, Uri, header::HOST, request::Parts};

/// Which request is asked about.
#[derive(Clone, Debug)]
pub struct Question {
    /// The client: `namespace/pod`, or an address.
    pub source: String,
    /// The service, as people name it.
    pub service: String,
    /// The service port.
    pub port: Option<u16>,
    head: Parts,
}

impl Question {
    /// Reads `source`, `service` and, if they are given, `port`, `method` (else GET), `path` (else `/`,
    /// with its query), `authority` and any number of `header`, each `name:value`; percent-encoded.
    ///
    /// # Errors
    /// Says what is missing or wrong.
    pub fn read(query: &str) -> Result<Self, String> {
        let (mut source, mut service, mut port) = (None, None, None);
        let (mut head, ()) = Request::new(()).into_parts();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value).ok_or_else(|| format!("{name} is not UTF-8"))?;
            match name {
                "source" => source = Some(value),
                "service" => service = Some(value),
                "port" => port = Some(value.parse().map_err(|_| format!("{value} is no port"))?),
                "method" => {
                    let method = Method::from_bytes(value.as_bytes());
                    head.method = method.map_err(|_| format!("{value:?} is no method"))?;
                }
                "path" => head.uri = path(&value)?,
                "authority" => {
                    let host = HeaderValue::from_str(&value);
                    let host = host.map_err(|_| format!("{value:?} is no authority"))?;
                    head.headers.insert(HOST, host);
                }
                "header" => {
                    let (name, value) = header(&value)?;
                    head.headers.append(name, value);
                }
                _ => return Err(format!("{name} means nothing here")),
            }
        }
        let (source, service) = (source.ok_or("give source")?, service.ok_or("give service")?);
        Ok(Self { source, service, port, head })
    }

    /// The head of the request, to this host if none is given.
    pub(super) fn head(&self, host: &str) -> Parts {
        let mut head = self.head.clone();
        if let (false, Ok(host)) = (head.headers.contains_key(HOST), HeaderValue::from_str(host)) {
            head.headers.insert(HOST, host);
        }
        head
    }
}

fn path(text: &str) -> Result<Uri, String> {
    let wrong = || format!("{text:?} is no path: it begins with / and has no spaces");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    if uri.authority().is_some() || !text.starts_with('/') { Err(wrong()) } else { Ok(uri) }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("{text:?} is no header: give name:value");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let blank = [' ', '\t'];
    let name = HeaderName::from_bytes(name.trim_matches(blank).as_bytes()).map_err(|_| wrong())?;
    Ok((name, HeaderValue::from_str(value.trim_matches(blank)).map_err(|_| wrong())?))
}

/// A value of a query (RFC 3986 §2.1); a lone `%` stands for itself.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| char::from(*tail.get(at)?).to_digit(16);
        let escaped = match first {
            b'%' => digit(0).zip(digit(1)).and_then(|(a, b)| u8::try_from(a * 16 + b).ok()),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::encoded;

    #[test]
    fn a_whole_request_is_read() {
        let query = format!(
            "source=shop/web&service=cart&port=81&method=PUT&path={}&header={}&header={}",
            encoded("/x?a=1&b=%20"),
            encoded("x-a: 1"),
            encoded("x-a:ü%"),
        );
        let question = Question::read(&query).unwrap();
        assert_eq!((&*question.source, &*question.service), ("shop/web", "cart"));
        assert_eq!(question.port, Some(81));
        let head = question.head("cart:81");
        assert_eq!((head.method.as_str(), head.uri.to_string()), ("PUT", "/x?a=1&b=%20".into()));
        assert_eq!(head.headers.get(HOST).unwrap(), "cart:81");
        let values: Vec<_> =
            head.headers.get_all("x-a").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(values, ["1".as_bytes(), "ü%".as_bytes()]);
        let given = Question::read("source=a&service=b&authority=other").unwrap();
        assert_eq!(given.head("cart").headers.get(HOST).unwrap(), "other");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (query, word) in [
            ("service=b", "give source"),
            ("source=a", "give service"),
            ("source=a&service=b&port=x", "x is no port"),
            ("source=a&service=b&method=%20", "is no method"),
            ("source=a&service=b&path=x", "begins with /"),
            ("source=a&service=b&path=http://x/", "begins with /"),
            ("source=a&service=b&header=x", "name:value"),
            ("source=a&service=b&header=%20:x", "name:value"),
            ("source=a&service=b&header=a:%0a", "name:value"),
            ("source=%ff", "UTF-8"),
            ("sauce=x", "sauce means nothing"),
        ] {
            let error = Question::read(query).unwrap_err();
            assert!(error.contains(word), "{query}: {error}");
        }
        assert_eq!(decoded("%4").as_deref(), Some("%4"));
    }
}
