//! Pure: which pages of other origins may call, as browsers ask for it (Fetch standard, CORS).
//! Never: an authorization; clients that are no browsers do not ask.
use http::HeaderValue;

use super::condition::TextMatch;

/// A CORS policy (`corsPolicy`, Gateway API `CORS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may call.
    pub origins: Vec<TextMatch>,
    /// `access-control-allow-methods`.
    pub methods: Option<AllowList>,
    /// `access-control-allow-headers`.
    pub headers: Option<AllowList>,
    /// `access-control-expose-headers`, joined by `,`.
    pub expose: Option<HeaderValue>,
    /// `access-control-max-age`, whole seconds.
    pub max_age: Option<u64>,
    /// Whether requests may carry credentials.
    pub credentials: bool,
    /// What becomes of preflights of other origins.
    pub unmatched: Unmatched,
}

/// Methods or headers that pages may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowList {
    /// All (`*`). With credentials, for which browsers do not take `*`, those that were asked for.
    Any,
    /// These, joined by `,`.
    These(HeaderValue),
}

/// What becomes of preflights whose origin may not call (`unmatchedPreflights`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unmatched {
    /// They go on like every request.
    #[default]
    Forward,
    /// They are answered without a permission.
    Ignore,
}
