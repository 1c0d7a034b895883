//! Pure: where a client is told to ask instead.
//! Never: requests that go on.
use std::{borrow::Cow, sync::Arc};

use http::{HeaderValue, StatusCode};

use super::{
    request::RequestHead,
    rewrite::{PathRewrite, RewriteError},
};

/// An answer that names another place (`redirect`, Gateway API `RequestRedirect`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `http` or `https`; `None` for the request's own.
    pub scheme: Option<Arc<str>>,
    /// The host, or host and port; `None` for the request's own.
    pub authority: Option<Arc<str>>,
    /// The port.
    pub port: RedirectPort,
    /// The path; a new path with a query replaces the request's query too.
    pub path: PathRewrite,
}

/// The port in a redirect. The default port of the scheme is not written where a port is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedirectPort {
    /// That of the authority: the new one's, else the request's, unless that was the default port of a
    /// scheme that changes.
    #[default]
    Keep,
    /// This one.
    Number(u16),
    /// The default port of the scheme (`FROM_PROTOCOL_DEFAULT`).
    OfScheme,
    /// The service port that was dialled (`FROM_REQUEST_PORT`).
    OfRequest,
}

impl Redirect {
    /// Whether a redirect may have this status (RFC 9110 §15.4; 300, 304 and 305 are none).
    pub fn allows(status: StatusCode) -> bool {
        matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
    }

    /// The value of `location`.
    ///
    /// # Errors
    /// When there can be no such place.
    pub fn location(&self, head: &RequestHead<'_>) -> Result<HeaderValue, RewriteError> {
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme);
        let authority = self.authority(head, scheme);
        let path = self.path.path(head.path)?.unwrap_or(Cow::Borrowed(head.path));
        // A path that brings a query of its own replaces the query.
        let query = head.query.filter(|_| !path.contains('?'));
        let (mark, query) = query.map_or(("", ""), |query| ("?", query));
        let location = format!("{scheme}://{authority}{path}{mark}{query}");
        HeaderValue::from_str(&location).map_err(|_| RewriteError::Characters)
    }

    fn authority(&self, head: &RequestHead<'_>, scheme: &str) -> String {
        let authority = self.authority.as_deref().unwrap_or(head.authority);
        let (host, own) = split(authority);
        let port = match self.port {
            RedirectPort::Keep => {
                let left = self.authority.is_none() && scheme != head.scheme;
                own.filter(|port| !(left && default_port(head.scheme) == Some(*port)))
            }
            RedirectPort::Number(port) => {
                Some(port).filter(|port| default_port(scheme) != Some(*port))
            }
            RedirectPort::OfScheme => None,
            RedirectPort::OfRequest => {
                Some(head.dialled.port()).filter(|port| default_port(scheme) != Some(*port))
            }
        };
        port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

/// Host and port of an authority; what is no port is part of the host.
pub(super) fn split(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        // The colons of an IPv6 address without a port stand before its bracket.
        Some((host, port)) if !port.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        Some(_) | None => (authority, None),
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Asked, *};

    fn redirect() -> Redirect {
        Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: None,
            authority: None,
            port: RedirectPort::Keep,
            path: PathRewrite::Keep,
        }
    }

    fn location(redirect: &Redirect, asked: &Asked) -> String {
        let location = asked.with(|head| redirect.location(head)).unwrap();
        location.to_str().unwrap().to_owned()
    }

    #[test]
    fn b54_ports_of_redirects() {
        use RedirectPort::{Keep, Number, OfRequest, OfScheme};
        let cases = [
            // Host of the request, its scheme, new scheme, new authority, port → authority.
            ("shop", "http", None, None, Keep, "http://shop"),
            ("shop:8080", "http", None, None, Keep, "http://shop:8080"),
            ("shop:80", "http", None, None, Keep, "http://shop:80"),
            ("shop:80", "http", Some("https"), None, Keep, "https://shop"),
            ("shop:443", "https", Some("http"), None, Keep, "http://shop"),
            ("shop:8080", "http", Some("https"), None, Keep, "https://shop:8080"),
            ("shop:8080", "http", None, Some("new"), Keep, "http://new"),
            ("shop:8080", "http", None, Some("new:81"), Keep, "http://new:81"),
            ("shop:8080", "http", None, None, Number(81), "http://shop:81"),
            ("shop:8080", "http", None, None, Number(80), "http://shop"),
            ("shop", "http", None, None, Number(443), "http://shop:443"),
            ("shop", "http", Some("https"), None, Number(443), "https://shop"),
            ("shop", "http", Some("https"), None, Number(80), "https://shop:80"),
            ("shop:8080", "http", None, Some("new:81"), Number(82), "http://new:82"),
            ("shop:8080", "http", Some("https"), None, OfScheme, "https://shop"),
            ("shop:8080", "http", None, None, OfScheme, "http://shop"),
            ("shop:8080", "http", None, None, OfRequest, "http://shop"),
            ("shop", "http", Some("https"), None, OfRequest, "https://shop:80"),
            ("[fd00::1]", "http", None, None, Keep, "http://[fd00::1]"),
            ("[fd00::1]:8080", "http", None, None, Number(81), "http://[fd00::1]:81"),
        ];
        for (host, own, scheme, authority, port, expected) in cases {
            let (scheme, authority) = (scheme.map(Arc::from), authority.map(Arc::from));
            let redirect = Redirect { scheme, authority, port, ..redirect() };
            let asked = Asked::get("/x?y=z").authority(host).scheme(own);
            assert_eq!(location(&redirect, &asked), format!("{expected}/x?y=z"), "{redirect:?}");
        }
    }

    #[test]
    fn b54_paths_of_redirects_keep_the_query() {
        let asked = Asked::get("/old/x?y=z");
        let full = |path: &str| Redirect { path: PathRewrite::Full(path.into()), ..redirect() };
        assert_eq!(location(&full("/new"), &asked), "http://shop:80/new?y=z");
        assert_eq!(location(&full("/new?a"), &asked), "http://shop:80/new?a");
        assert_eq!(location(&full("/new"), &Asked::get("/")), "http://shop:80/new");
        let broken = asked.with(|head| full("/a\nb").location(head));
        assert_eq!(broken, Err(RewriteError::Characters));
    }

    #[test]
    fn b55_prefixes_of_redirects() {
        let path = PathRewrite::Prefix { length: "/old".len(), to: "/new".into() };
        let redirect = Redirect { path, ..redirect() };
        assert_eq!(location(&redirect, &Asked::get("/old/x")), "http://shop:80/new/x");
    }

    #[test]
    fn only_these_statuses_redirect() {
        let allowed: Vec<u16> = (300..400)
            .filter(|status| Redirect::allows(StatusCode::from_u16(*status).unwrap()))
            .collect();
        assert_eq!(allowed, [301, 302, 303, 307, 308]);
    }
}
