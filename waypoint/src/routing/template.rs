//! Pure: values of headers with Envoy's `%...%` operators.
//! Never: operators of which nothing is known when headers are changed (bytes, durations, the clock).
use std::sync::Arc;

use http::HeaderValue;

/// The value of a header, some of which may come from the exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(HeaderValue),
}

/// Why a value is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It has bytes that no header may have.
    #[error("the value has characters that no header may have")]
    Characters,
    /// A `%` opens an operator that nothing closes.
    #[error("a % opens an operator that nothing closes; a plain % is written %%")]
    Open,
    /// There is no such operator, or not for these headers.
    #[error("%{0}% is no operator that is known here")]
    Unknown(Arc<str>),
}

impl Template {
    /// Reads a value.
    ///
    /// # Errors
    /// When it has characters that no header may have, or an operator that is not known.
    pub fn new(text: &str) -> Result<Self, TemplateError> {
        let value = HeaderValue::from_str(text).map_err(|_| TemplateError::Characters)?;
        Ok(Self { parts: vec![Part::Text(value)] })
    }
}
