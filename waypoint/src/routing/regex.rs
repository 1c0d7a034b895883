//! Pure: expressions with the meaning that RE2 gives them, which is what Istio's resources are written
//! in, and matches of whole texts.
//! Never: a search for a part of a text (see `rewrite`).
use std::{fmt, sync::Arc};

/// An expression that a whole text must be like.
#[derive(Clone)]
pub struct Regex {
    text: Arc<str>,
    compiled: ::regex::Regex,
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegexError {
    /// It is longer than [`Regex::MAX_LENGTH`].
    #[error("the expression is longer than {} bytes", Regex::MAX_LENGTH)]
    TooLong,
    /// It compiles into more than [`Regex::MAX_SIZE`].
    #[error("the expression needs more than {} KiB when compiled", Regex::MAX_SIZE / 1024)]
    TooLarge,
    /// It is no expression of RE2.
    #[error("{0}")]
    Syntax(String),
}

impl Regex {
    /// The longest expression, in bytes.
    pub const MAX_LENGTH: usize = 8 * 1024;
    /// The most memory that a compiled expression may need, in bytes.
    pub const MAX_SIZE: usize = 1024 * 1024;

    /// Compiles an expression of RE2.
    ///
    /// # Errors
    /// When RE2 would refuse it, or it is too large.
    pub fn new(text: &str) -> Result<Self, RegexError> {
        if text.len() > Self::MAX_LENGTH {
            return Err(RegexError::TooLong);
        }
        let compiled = ::regex::RegexBuilder::new(&format!("^(?:{text})$"))
            .size_limit(Self::MAX_SIZE)
            .build()
            .map_err(|error| RegexError::Syntax(error.to_string()))?;
        Ok(Self { text: text.into(), compiled })
    }

    /// Whether the whole of `text` is like this.
    pub fn matches(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Regex {}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl fmt::Display for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
