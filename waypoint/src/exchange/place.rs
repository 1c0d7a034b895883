//! Pure: whom a request is for and what it asks for, in the one form that everything decides by.
//! Never: guesses what an ambiguous one means.
use http::{HeaderValue, Method, Version, header::HOST, request::Parts, uri::Authority};

use crate::{
    outcome::LocalReply,
    path::{Normalisation, normalise},
};

/// Whom a request is for, and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    /// Host, and port if the client says it.
    pub(super) authority: HeaderValue,
    /// The path in its normal form.
    pub(super) path: String,
    /// What follows the first `?`.
    pub(super) query: Option<String>,
}

impl Place {
    /// Reads it out of a request's head.
    ///
    /// # Errors
    /// The answer to a request that may mean several things.
    pub(super) fn read(head: &Parts, mode: Normalisation) -> Result<Self, LocalReply> {
        if head.method == Method::CONNECT {
            return Err(LocalReply::no_upgrade());
        }
        let path = normalise(head.uri.path(), mode);
        let path = path.map_err(|_| LocalReply::bad_request("path_normalization_failed"))?;
        Ok(Self {
            scheme: if head.uri.scheme_str() == Some("https") { "https" } else { "http" },
            authority: authority(head)?,
            path: path.into_owned(),
            query: head.uri.query().map(str::to_owned),
        })
    }

    /// The authority as text.
    pub(crate) fn authority(&self) -> &str {
        self.authority.to_str().unwrap_or_default()
    }
}

/// One of them, and one that is none but a host (RFC 9112 §3.2): what stands in the request line comes
/// before the header.
fn authority(head: &Parts) -> Result<HeaderValue, LocalReply> {
    let missing = || LocalReply::bad_request("missing_host_header");
    let wrong = || LocalReply::bad_request("invalid_host_header");
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(wrong());
    }
    let value = match (head.uri.authority(), host) {
        (Some(authority), _) => HeaderValue::from_str(authority.as_str()).map_err(|_| wrong())?,
        (None, Some(host)) => host.clone(),
        // Clients of HTTP/1.0 need not say it.
        (None, None) if head.version == Version::HTTP_10 => {
            return Ok(HeaderValue::from_static(""));
        }
        (None, None) => return Err(missing()),
    };
    let parsed: Authority = value.as_bytes().try_into().map_err(|_| wrong())?;
    if parsed.as_str().contains('@') {
        return Err(wrong());
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn read(uri: &str, hosts: &[&str], version: Version) -> Result<Place, LocalReply> {
        let mut request = Request::get(uri).version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        Place::read(&request.body(()).unwrap().into_parts().0, Normalisation::Base)
    }

    #[test]
    fn a_request_is_for_one_host_or_for_none() {
        let h1 = Version::HTTP_11;
        for (uri, hosts, version, expected) in [
            ("/x?a=1", &["cart:80"][..], h1, Some("cart:80")),
            ("http://cart/x", &["other"], h1, Some("cart")),
            ("http://cart/x", &[], Version::HTTP_2, Some("cart")),
            ("/x", &[], Version::HTTP_10, Some("")),
            ("/x", &[], h1, None),
            ("/x", &["a", "b"], h1, None),
            ("/x", &["a", "a"], h1, None),
            ("/x", &["a b"], h1, None),
            ("/x", &["user@a"], h1, None),
            ("/x", &["a/b"], h1, None),
        ] {
            let place = read(uri, hosts, version);
            let authority = place.as_ref().ok().map(Place::authority);
            assert_eq!(authority, expected, "{uri} {hosts:?}");
        }
    }

    #[test]
    fn the_path_is_normal_before_anything_looks_at_it() {
        let place = read("/a/../admin?x=/../y", &["cart"], Version::HTTP_11).unwrap();
        assert_eq!((place.path.as_str(), place.query.as_deref()), ("/admin", Some("x=/../y")));
    }
}
