//! Pure: changes to headers (`headers`, Gateway API header modifiers).
//! Never: paths and authorities by other means (see `rewrite`).
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    request::RequestHead,
    template::{Template, TemplateError, Told},
};

/// Changes to the headers of a request and of its response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Of the request.
    pub request: Edits,
    /// Of the response.
    pub response: Edits,
}

/// Changes to headers as a rule says them: what is removed first, then what is set, then what is added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// The new authority (`Host` or `:authority` among those that are set or added).
    authority: Option<Template>,
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, Template)>,
    add: Vec<(HeaderName, Template)>,
}

/// Why a change is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// No header can have this name.
    #[error("{0:?} is no name of a header")]
    Name(String),
    /// The header says where a message ends or what becomes of its connection, which only the proxy
    /// knows.
    #[error("header {0} frames messages and cannot be changed")]
    Framing(HeaderName),
    /// No header can have this value.
    #[error("header {name}: {error}")]
    Value {
        /// Its name.
        name: String,
        /// Why.
        error: TemplateError,
    },
}

impl Edits {
    /// Which headers change, by what is done.
    pub(super) fn names(&self) -> [(&'static str, Vec<&str>); 4] {
        [
            ("set", self.authority.iter().map(|_| "authority").collect()),
            ("remove", self.remove.iter().map(HeaderName::as_str).collect()),
            ("set", self.set.iter().map(|(name, _)| name.as_str()).collect()),
            ("add", self.add.iter().map(|(name, _)| name.as_str()).collect()),
        ]
    }

    /// Has headers removed.
    ///
    /// # Errors
    /// When a name is none of a header, or one of its connection.
    pub fn remove<'a>(
        mut self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, EditError> {
        for name in names {
            self.remove.extend(header_name(name)?);
        }
        Ok(self)
    }

    /// Has headers set: whatever was there under that name is replaced. `Host` and `:authority` are the
    /// authority; other pseudo-headers are ignored, as Istio does it.
    ///
    /// # Errors
    /// When a name or value is none of a header, or one of its connection.
    pub fn set<'a>(
        mut self,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, EditError> {
        for (name, value) in headers {
            let template = template(name, value)?;
            match header_name(name)? {
                Some(name) => self.set.push((name, template)),
                None if is_authority(name) => self.authority = Some(template),
                None => {}
            }
        }
        Ok(self)
    }

    /// Has headers added to what is there; to be called after [`Edits::set`], whose authority counts
    /// before one that is added.
    ///
    /// # Errors
    /// When a name or value is none of a header, or one of its connection.
    #[expect(clippy::should_implement_trait, reason = "the word of Istio's field")]
    pub fn add<'a>(
        mut self,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, EditError> {
        for (name, value) in headers {
            let template = template(name, value)?;
            match header_name(name)? {
                Some(name) => self.add.push((name, template)),
                None if is_authority(name) => {
                    self.authority.get_or_insert(template);
                }
                None => {}
            }
        }
        Ok(self)
    }

    /// The new authority for a request, if it changes.
    pub(super) fn authority(&self, head: &RequestHead<'_>, route: &str) -> Option<HeaderValue> {
        self.authority.as_ref()?.resolved(head, route).value(Told::default(), head.headers)
    }

    /// Appends these changes, as far as the request tells what they are.
    pub(super) fn plan(&self, head: &RequestHead<'_>, route: &str, changes: &mut Changes) {
        let resolved = |template: &Template| template.resolved(head, route);
        let Self { remove, set, add, authority: _ } = self;
        let removed = remove.iter().map(|name| Change::Remove(name.clone()));
        let set = set.iter().map(|(name, value)| Change::Set(name.clone(), resolved(value)));
        let added = add.iter().map(|(name, value)| Change::Add(name.clone(), resolved(value)));
        changes.0.extend(removed.chain(set).chain(added));
    }
}

/// Changes to the headers of one message, in the order in which they are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(Vec<Change>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Remove(HeaderName),
    Set(HeaderName, Template),
    Add(HeaderName, Template),
}

impl Changes {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Changes the headers of a response of which this is told, or of a request. What has an empty value is
    /// not written, as Envoy does it.
    pub fn apply<'a>(&self, told: impl Into<Told<'a>>, headers: &mut HeaderMap) {
        let told = told.into();
        self.0.iter().for_each(|change| change.make(told, headers));
    }

    pub(super) fn append(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    pub(super) fn remove(&mut self, name: HeaderName) {
        self.0.push(Change::Remove(name));
    }

    pub(super) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push(Change::Set(name, value.into()));
    }
}

impl Change {
    /// A full map (2^15 headers) stays as it is.
    fn make(&self, told: Told<'_>, headers: &mut HeaderMap) {
        match self {
            Self::Remove(name) => drop(headers.remove(name)),
            Self::Set(name, template) => {
                if let Some(value) = template.value(told, headers) {
                    let _ = headers.try_insert(name, value);
                }
            }
            Self::Add(name, template) => {
                if let Some(value) = template.value(told, headers) {
                    let _ = headers.try_append(name, value);
                }
            }
        }
    }
}

/// The header with this name; `None` for Host and for pseudo-headers, which are no headers.
fn header_name(name: &str) -> Result<Option<HeaderName>, EditError> {
    if name.starts_with(':') || is_authority(name) {
        return Ok(None);
    }
    let name = HeaderName::try_from(name).map_err(|_| EditError::Name(name.to_owned()))?;
    let framing =
        [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE];
    if framing.contains(&name) || matches!(name.as_str(), "keep-alive" | "proxy-connection") {
        return Err(EditError::Framing(name));
    }
    Ok(Some(name))
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn template(name: &str, value: &str) -> Result<Template, EditError> {
    Template::new(value).map_err(|error| EditError::Value { name: name.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Asked, *};

    fn lines(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    fn edited(edits: &[Edits], asked: &Asked) -> Vec<String> {
        let mut headers = asked.headers.clone();
        let mut changes = Changes::default();
        asked.with(|head| edits.iter().for_each(|edits| edits.plan(head, "r", &mut changes)));
        changes.apply(None::<http::StatusCode>, &mut headers);
        lines(&headers)
    }

    #[test]
    fn removed_then_set_then_added() {
        let asked = Asked::get("/").header("X-A", "1").header("x-a", "2").header("x-b", "3");
        let set = || Edits::default().set([("X-A", "new")]).unwrap();
        assert_eq!(edited(&[set()], &asked), ["x-a: new", "x-b: 3"]);
        let add = set().add([("x-a", "more"), ("x-c", "%REQ(x-b)%")]).unwrap();
        assert_eq!(edited(&[add], &asked), ["x-a: more", "x-a: new", "x-b: 3", "x-c: 3"]);
        let remove = set().remove(["X-a", "X-B", "x-none"]).unwrap();
        assert_eq!(edited(&[remove], &asked), ["x-a: new"]);
        let empty = Edits::default().set([("x-b", ""), ("x-d", "%REQ(x-none)%")]).unwrap();
        assert_eq!(edited(&[empty], &asked), ["x-a: 1", "x-a: 2", "x-b: 3"]);
    }

    #[test]
    fn levels_follow_each_other() {
        let asked = Asked::get("/");
        let rule = Edits::default().set([("x", "rule")]).unwrap().add([("y", "rule")]).unwrap();
        let destination =
            || Edits::default().set([("x", "last")]).unwrap().add([("y", "last")]).unwrap();
        let both = edited(&[rule.clone(), destination()], &asked);
        assert_eq!(both, ["x: last", "y: last", "y: rule"]);
        let without = destination().remove(["y"]).unwrap();
        assert_eq!(edited(&[rule, without], &asked), ["x: last", "y: last"]);
    }

    #[test]
    fn host_is_the_authority() {
        let asked = Asked::get("/").header("x-to", "elsewhere");
        let authority = |edits: Edits| {
            asked
                .with(|head| edits.authority(head, ""))
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let set = Edits::default().set([("hOsT", "set"), (":path", "/ignored")]).unwrap();
        assert_eq!(authority(set.clone()).as_deref(), Some("set"));
        assert_eq!(authority(set.add([(":authority", "added")]).unwrap()).as_deref(), Some("set"));
        let added = Edits::default().add([("Host", "%REQ(x-to)%")]).unwrap();
        assert_eq!(edited(std::slice::from_ref(&added), &asked), ["x-to: elsewhere"]);
        assert_eq!(authority(added).as_deref(), Some("elsewhere"));
        assert_eq!(authority(Edits::default()), None);
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let name = Edits::default().remove(["a b"]).unwrap_err();
        assert_eq!(name, EditError::Name("a b".into()));
        let value = Edits::default().set([("a", "%NO%")]).unwrap_err();
        assert_eq!(value.to_string(), "header a: %NO% is no operator that is known here");
        for name in ["Connection", "content-length", "transfer-encoding", "upgrade", "keep-alive"] {
            let framing = Edits::default().add([(name, "1")]).unwrap_err();
            assert!(matches!(framing, EditError::Framing(_)), "{framing}");
        }
    }
}
