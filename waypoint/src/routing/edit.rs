//! Pure: changes to headers (`headers`, Gateway API header modifiers).
//! Never: paths and authorities by other means (see `rewrite`).
use http::HeaderName;

use super::template::{Template, TemplateError};

/// Changes to the headers of a request and of its response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Of the request.
    pub request: Edits,
    /// Of the response.
    pub response: Edits,
}

/// Changes to headers: what is removed first, then what is set, then what is added.
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
    /// Has headers removed.
    ///
    /// # Errors
    /// When a name is none of a header.
    pub fn remove<'a>(
        mut self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, EditError> {
        for name in names {
            self.remove.extend(header(name)?);
        }
        Ok(self)
    }

    /// Has headers set: whatever was there under that name is replaced.
    ///
    /// # Errors
    /// When a name or value is none of a header.
    pub fn set<'a>(
        mut self,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, EditError> {
        for (name, value) in headers {
            let template = template(name, value)?;
            match header(name)? {
                Some(name) => self.set.push((name, template)),
                None if is_authority(name) => self.authority = Some(template),
                None => {}
            }
        }
        Ok(self)
    }

    /// Has headers added to what is there.
    ///
    /// # Errors
    /// When a name or value is none of a header.
    pub fn add<'a>(
        mut self,
        headers: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, EditError> {
        for (name, value) in headers {
            let template = template(name, value)?;
            match header(name)? {
                Some(name) => self.add.push((name, template)),
                None if is_authority(name) => {
                    self.authority.get_or_insert(template);
                }
                None => {}
            }
        }
        Ok(self)
    }
}

/// The header with this name; `None` for Host and for pseudo-headers, which are no headers.
fn header(name: &str) -> Result<Option<HeaderName>, EditError> {
    if name.starts_with(':') || is_authority(name) {
        return Ok(None);
    }
    HeaderName::try_from(name).map(Some).map_err(|_| EditError::Name(name.to_owned()))
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn template(name: &str, value: &str) -> Result<Template, EditError> {
    Template::new(value).map_err(|error| EditError::Value { name: name.to_owned(), error })
}
