//! Pure: which pages of other origins may call, as browsers ask for it (Fetch standard, CORS).
//! Never: an authorization; clients that are no browsers do not ask.
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
        ORIGIN,
    },
};

use super::{condition::TextMatch, edit::Changes, request::RequestHead};

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

/// What a policy makes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Crossing {
    /// Nothing: it goes on as it is.
    Pass,
    /// It is a preflight, answered with 200 and these headers.
    Preflight(HeaderMap),
    /// It goes on, and its response gets a permission.
    Allowed(Changes),
}

impl Cors {
    /// Judges a request. A preflight is an OPTIONS request with `origin` and
    /// `access-control-request-method`.
    pub(super) fn judge(&self, head: &RequestHead<'_>) -> Crossing {
        let Some(origin) = head.headers.get(ORIGIN).filter(|origin| !origin.is_empty()) else {
            return Crossing::Pass;
        };
        let asked = head.headers.get(ACCESS_CONTROL_REQUEST_METHOD);
        let preflight =
            head.method == Method::OPTIONS && asked.is_some_and(|asked| !asked.is_empty());
        match (self.allows(origin), preflight, self.unmatched) {
            (true, true, _) => Crossing::Preflight(self.permission(origin, head.headers)),
            (true, false, _) => Crossing::Allowed(self.grant(origin)),
            (false, true, Unmatched::Ignore) => Crossing::Preflight(HeaderMap::new()),
            (false, true, Unmatched::Forward) | (false, false, _) => Crossing::Pass,
        }
    }

    /// `*` in a policy means every origin.
    fn allows(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| {
            self.origins.iter().any(|allowed| allowed.holds("*") || allowed.holds(origin))
        })
    }

    /// The headers of an answer to a preflight.
    fn permission(&self, origin: &HeaderValue, asked: &HeaderMap) -> HeaderMap {
        let list = |list: &Option<AllowList>, name: HeaderName| match list {
            Some(AllowList::These(list)) => Some(list.clone()),
            Some(AllowList::Any) if self.credentials => asked.get(name).cloned(),
            Some(AllowList::Any) => Some(HeaderValue::from_static("*")),
            None => None,
        };
        let headers = [
            (ACCESS_CONTROL_ALLOW_ORIGIN, Some(origin.clone())),
            (ACCESS_CONTROL_ALLOW_CREDENTIALS, self.credentials()),
            (ACCESS_CONTROL_ALLOW_METHODS, list(&self.methods, ACCESS_CONTROL_REQUEST_METHOD)),
            (ACCESS_CONTROL_ALLOW_HEADERS, list(&self.headers, ACCESS_CONTROL_REQUEST_HEADERS)),
            (ACCESS_CONTROL_MAX_AGE, self.max_age.map(HeaderValue::from)),
        ];
        headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// The headers of a response to an allowed origin.
    fn grant(&self, origin: &HeaderValue) -> Changes {
        let mut changes = Changes::default();
        changes.set(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if let Some(value) = self.credentials() {
            changes.set(ACCESS_CONTROL_ALLOW_CREDENTIALS, value);
        }
        if let Some(value) = self.expose.clone() {
            changes.set(ACCESS_CONTROL_EXPOSE_HEADERS, value);
        }
        changes
    }

    fn credentials(&self) -> Option<HeaderValue> {
        self.credentials.then(|| HeaderValue::from_static("true"))
    }
}
