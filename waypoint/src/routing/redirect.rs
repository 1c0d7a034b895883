//! Pure: where a client is told to ask instead.
//! Never: requests that go on.
use std::sync::Arc;

use http::StatusCode;

use super::rewrite::PathRewrite;

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

/// The port in a redirect. The default port of the scheme is never written.
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
