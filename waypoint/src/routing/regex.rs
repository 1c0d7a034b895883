//! Pure: expressions with the meaning that RE2 gives them, which is what Istio's resources are written
//! in, and matches of whole texts.
//! Never: the syntax (see `re2`), a search for parts of a text (see `substitution`).
use std::{fmt, sync::Arc};

use super::re2;

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
    #[error("the expression needs more than {} KiB when it is compiled", Regex::MAX_SIZE / 1024)]
    TooLarge,
    /// It looks around (`(?=`, `(?!`, `(?<=`, `(?<!`).
    #[error("the expression looks around, which RE2 does not know")]
    LookAround,
    /// It refers to what a group matched (`\1`).
    #[error("the expression refers back to a group, which RE2 does not know")]
    BackReference,
    /// RE2 does not know this part.
    #[error("RE2 does not know {0}")]
    Unknown(String),
    /// It is no expression, for this reason.
    #[error("{0}")]
    Syntax(String),
}

impl Regex {
    /// The longest expression, in bytes.
    pub const MAX_LENGTH: usize = 8 * 1024;
    /// The most memory that a compiled expression may need, in bytes.
    pub const MAX_SIZE: usize = 64 * 1024;
    /// The longest text that can be like an expression, in bytes: with [`Regex::MAX_SIZE`] this bounds
    /// the time that one takes.
    pub const MAX_TEXT: usize = 8 * 1024;
    /// The most memory in bytes that a thread may keep to match an expression quickly.
    const MAX_CACHE: usize = 256 * 1024;

    /// Compiles an expression of RE2.
    ///
    /// # Errors
    /// When RE2 would refuse it, or it is too large.
    pub fn new(text: &str) -> Result<Self, RegexError> {
        let compiled = compile(text, |translated| format!("^(?:{translated})$"))?;
        Ok(Self { text: text.into(), compiled })
    }

    /// Whether the whole of `text` is like this. Takes time in proportion to the text's length; none is
    /// that is longer than [`Regex::MAX_TEXT`].
    pub fn matches(&self, text: &str) -> bool {
        text.len() <= Self::MAX_TEXT && self.compiled.is_match(text)
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Compiles an expression of RE2, put into another by `within`.
pub(super) fn compile(
    text: &str,
    within: impl FnOnce(String) -> String,
) -> Result<::regex::Regex, RegexError> {
    if text.len() > Regex::MAX_LENGTH {
        return Err(RegexError::TooLong);
    }
    let translated = re2::translate(text)?;
    ::regex::RegexBuilder::new(&within(translated))
        .size_limit(Regex::MAX_SIZE)
        .dfa_size_limit(Regex::MAX_CACHE)
        .build()
        .map_err(|error| {
            let too_large = matches!(error, ::regex::Error::CompiledTooBig(_));
            if too_large {
                RegexError::TooLarge
            } else {
                RegexError::Syntax(reason(&error.to_string()))
            }
        })
}

/// The last line of an error of `regex`: those before it draw the translated expression.
fn reason(error: &str) -> String {
    let line = error.lines().next_back().unwrap_or(error);
    line.trim_start_matches("error: ").to_owned()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is like an expression, and what is not.
    fn check(expression: &str, like: &[&str], unlike: &[&str]) {
        let regex = Regex::new(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
        for text in like {
            assert!(regex.matches(text), "{expression} {text:?}");
        }
        for text in unlike {
            assert!(!regex.matches(text), "{expression} {text:?}");
        }
    }

    #[test]
    fn the_whole_text_is_matched() {
        check("^(platform|sre)$", &["platform", "sre"], &["platforms", "xsre", ""]);
        check("a|b", &["a", "b"], &["ab", "ax", "xb"]);
        check("/v[0-9]+/.*", &["/v1/x", "/v22/"], &["/v/", "x/v1/"]);
        check("", &[""], &["a"]);
        check("(?i)abc", &["ABC"], &["ABCD"]);
        check("(?m)^a$", &["a"], &["a\nb"]);
    }

    #[test]
    fn classes_are_those_of_re2() {
        check(r"\d+", &["123"], &["٣", "a"]);
        check(r"\D", &["a", "٣"], &["1"]);
        check(r"\w+", &["aZ_9"], &["ä"]);
        check(r"\W", &["ä", "-"], &["a"]);
        check(r"a\sb", &["a b", "a\tb"], &["a\u{b}b", "a\u{a0}b"]);
        check(r"\S", &["x", "\u{a0}"], &[" "]);
        check(r"a\b-b", &["a-b"], &[]);
        check(r"ä\Bb", &[], &["äb"]);
        check(r"[\d\-x]+", &["1-x"], &["٣"]);
        check(r"[^\D]", &["1"], &["a"]);
        check("[[:alpha:]_]+", &["a_"], &["1"]);
        check("[[:^digit:]]", &["a"], &["1"]);
        check(r"\p{Greek}\pL", &["αa"], &["aa"]);
        check(r"\p{^Greek}", &["a"], &["α"]);
        check(r"\pN", &["1"], &["a"]);
    }

    #[test]
    fn class_operations_are_plain_characters() {
        check("[a&&b]+", &["a&b"], &["c"]);
        check("[[a]b", &["ab", "[b"], &["a", "]b"]);
        check("[a~~b]+", &["~ab"], &["c"]);
        check("[]a]+", &["]a"], &["b"]);
        check("[^]a]", &["b"], &["]", "a"]);
        check("[a-]+", &["a-"], &["b"]);
        check("[+--]+", &["+,-"], &["."]);
        check(r"[\]\\]+", &[r"]\"], &["x"]);
        check(r"[\x41-\x{43}\n]+", &["ABC\n"], &["D"]);
    }

    #[test]
    fn escapes_are_those_of_re2() {
        check(r"\Qa.b\E.", &["a.bx"], &["axbx"]);
        check(r"\Qa.b", &["a.b"], &["axb"]);
        check(r"\Qab\E+", &["abb"], &["abab"]);
        check(r"\141\0", &["a\0"], &["b"]);
        check(r"\<\-\/\.", &["<-/."], &[]);
        check(r"\x{1F600}\x41", &["😀A"], &[]);
        check(r"a\Ab|c\z", &["c"], &["ab"]);
        check(r"\a\f\t\v", &["\x07\x0c\t\x0b"], &[]);
        check("a{2}b{1,}c{0,1}{x", &["aab{x"], &["ab{x"]);
        check("a{,2}", &["a{,2}"], &["aa"]);
        check("x*?y+?z??", &["y", "xyz"], &["x"]);
    }

    #[test]
    fn groups_are_those_of_re2() {
        check("(?P<a>x)(?<b>y)(?:z)", &["xyz"], &[]);
        check("(?i:a)b", &["Ab"], &["AB"]);
        check("(?s-i)a.", &["a\n"], &["A\n"]);
        check("(?U)a+", &["aa"], &["b"]);
    }

    #[test]
    fn what_re2_does_not_know_is_refused() {
        for around in ["a(?=b)", "(?!a)b", "(?<=a)b", "(?<!a)b"] {
            assert_eq!(Regex::new(around), Err(RegexError::LookAround), "{around}");
        }
        for back in [r"(a)\1", r"\2", r"\9"] {
            assert_eq!(Regex::new(back), Err(RegexError::BackReference), "{back}");
        }
        let unknown = [
            r"\C",
            r"\Z",
            r"\e",
            r"\u0041",
            r"\K",
            "(?x)a b",
            "(?>a)",
            "(?#c)",
            r"[\b]",
            "a{1001}",
            r"a\",
            "(?R)",
            "(?i",
            "[[:nope:]]",
        ];
        for expression in unknown {
            let error = Regex::new(expression).unwrap_err();
            assert!(matches!(error, RegexError::Unknown(_)), "{expression}: {error:?}");
        }
        for expression in ["a)|(b", "(a", "[a", "*", "+a", "[b-a]", r"\p{Nope}"] {
            let error = Regex::new(expression).unwrap_err();
            assert!(matches!(error, RegexError::Syntax(_)), "{expression}: {error:?}");
            assert!(!error.to_string().contains('\n'), "{expression}: {error}");
        }
    }

    #[test]
    fn expressions_are_bounded() {
        assert_eq!(Regex::new(&"a".repeat(Regex::MAX_LENGTH + 1)), Err(RegexError::TooLong));
        assert_eq!(Regex::new(r"((\pL{100}){100}){100}"), Err(RegexError::TooLarge));
        check("(a|aa)+", &["a"], &[&"a".repeat(Regex::MAX_TEXT - 8).replace("aaaaaaa", "aaaaaab")]);
        check("a*", &[&"a".repeat(Regex::MAX_TEXT)], &[&"a".repeat(Regex::MAX_TEXT + 1)]);
    }

    /// What costs the most of all that is admitted, and of which no automaton can be kept.
    #[test]
    fn no_expression_takes_long() {
        let mut largest = None;
        for count in (10..=1000).step_by(10) {
            largest = Regex::new(&format!("(?:.*[ab]){{0,3}}(?:[ab]|[^c]){{{count}}}x?"))
                .ok()
                .or(largest);
        }
        let (regex, text) = (largest.unwrap(), "ab".repeat(Regex::MAX_TEXT / 2));
        let begun = culvert_agent::clock::now();
        regex.matches(&text);
        let took = culvert_agent::clock::now().saturating_duration_since(begun);
        // All of the test takes 0.2 s on a busy machine.
        assert!(took < std::time::Duration::from_millis(1000), "{took:?} for {}", regex.as_str());
    }

    proptest! {
        #[test]
        fn nothing_panics(expression in r"[\[\](){}\\^$.|*+?a-cQE0-9xpP:<>=!&~-]{0,20}", text in ".{0,10}") {
            if let Ok(regex) = Regex::new(&expression) {
                regex.matches(&text);
            }
        }

        #[test]
        fn quoted_texts_are_like_themselves(text in "[^\\\\]{0,20}") {
            let regex = Regex::new(&format!(r"\Q{text}\E"));
            prop_assert!(regex.unwrap().matches(&text));
        }

        #[test]
        fn a_class_has_what_it_lists(chars in proptest::collection::vec(any::<char>(), 1..6)) {
            let listed: String = chars.iter().map(|c| format!(r"\x{{{:x}}}", u32::from(*c))).collect();
            let regex = Regex::new(&format!("[{listed}]+")).unwrap();
            prop_assert!(regex.matches(&chars.iter().collect::<String>()));
        }
    }
}
