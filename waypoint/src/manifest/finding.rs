//! Pure: what is found wrong with an object, and where in it.
//! Never: what becomes of the object (see `compile`).

/// Something found in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The field, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// What is the matter with it.
    pub what: What,
}

/// What is the matter with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The object makes no sense, and does not count.
    Invalid(String),
    /// It counts, but something in it has no effect, or another than it seems.
    Discouraged(String),
    /// A rule is never reached.
    Unreachable {
        /// Its name in quotes, or `#` and its number from zero.
        rule: String,
        /// Why.
        reason: &'static str,
    },
    /// A `match` of a rule is never reached.
    Ineffective {
        /// The rule.
        rule: String,
        /// The match.
        block: String,
        /// The rule that is before it.
        by: String,
    },
}

/// How much is said about one object: whoever mends that much looks again.
const MOST: usize = 100;

/// What is found in one object, in order: the first of it, and whether anything makes it invalid.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    /// The object makes no sense.
    pub(crate) fn invalid(&mut self, pointer: &str, text: impl Into<String>) {
        self.add(pointer, What::Invalid(text.into()));
    }

    /// Something has no effect, or another than it seems.
    pub(crate) fn discouraged(&mut self, pointer: &str, text: impl Into<String>) {
        self.add(pointer, What::Discouraged(text.into()));
    }

    /// Notes a finding.
    pub(crate) fn add(&mut self, pointer: &str, what: What) {
        let invalid = |what: &What| matches!(what, What::Invalid(_));
        let decides = invalid(&what) && !self.0.iter().any(|finding| invalid(&finding.what));
        if self.0.len() >= MOST && !decides {
            return;
        }
        self.0.push(Finding { pointer: pointer.to_owned(), what });
    }

    /// Notes why a check failed.
    pub(crate) fn check(&mut self, pointer: &str, checked: Result<(), String>) {
        if let Err(text) = checked {
            self.invalid(pointer, text);
        }
    }
}

/// A pointer in the way Kubernetes writes fields: `spec.http[0].match`.
pub(crate) fn field(pointer: &str) -> String {
    let mut text = String::new();
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        if step.bytes().all(|byte| byte.is_ascii_digit()) {
            text.push_str(&format!("[{step}]"));
        } else {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(&step);
        }
    }
    text
}

/// A key as a step of a pointer.
pub(crate) fn step(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
