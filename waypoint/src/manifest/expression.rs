//! Pure: a text that may be an expression, compiled once for all the rules that come of its object.
//! Never: what is compared with it.
use std::{fmt, sync::OnceLock};

use serde::{Deserialize, Deserializer};

use crate::routing::{Regex, RegexError};

/// A text; the expression that it is comes of it when somebody asks.
#[derive(Clone, Default)]
pub(crate) struct Expression {
    text: String,
    compiled: OnceLock<Result<Regex, RegexError>>,
}

impl Expression {
    /// As it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The expression.
    ///
    /// # Errors
    /// When it is none of RE2's, or too large.
    pub(crate) fn regex(&self) -> Result<Regex, RegexError> {
        self.compiled.get_or_init(|| Regex::new(&self.text)).clone()
    }
}

impl<'de> Deserialize<'de> for Expression {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self { text, compiled: OnceLock::new() })
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}
