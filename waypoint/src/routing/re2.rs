//! Pure: expressions of RE2 → the same for the `regex` crate, which reads some of them otherwise.
//! Never: compiling them. Source: RE2's `doc/syntax.txt` and `parse.cc`, with Perl's classes and `\b`.
use std::{iter::Peekable, str::Chars};

use super::regex::RegexError;

/// The most repetitions that RE2 lets an expression count.
const MAX_REPEAT: u32 = 1000;

/// The names in `[[:name:]]`.
const CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];

/// Translates an expression. What both read alike passes unchanged, faults in it included: the `regex`
/// crate names them.
///
/// # Errors
/// For what RE2 refuses though the `regex` crate may know it, and for parentheses that do not pair up.
pub(super) fn translate(text: &str) -> Result<String, RegexError> {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    let mut depth = 0_usize;
    while let Some(c) = rest.chars().next() {
        rest = match c {
            '\\' => escape(rest, &mut out)?,
            '[' => class(rest, &mut out)?,
            '(' => {
                depth += 1;
                group(rest, &mut out)?
            }
            ')' => {
                let outer = depth.checked_sub(1);
                depth = outer.ok_or_else(|| RegexError::Syntax("unopened group".into()))?;
                passed(rest, ')', &mut out)
            }
            '{' => braces(rest, &mut out)?,
            c => passed(rest, c, &mut out),
        };
    }
    Ok(out)
}

/// Copies the character that `rest` begins with.
fn passed<'t>(rest: &'t str, c: char, out: &mut String) -> &'t str {
    out.push(c);
    rest.strip_prefix(c).unwrap_or_default()
}

fn unknown(part: &str) -> RegexError {
    RegexError::Unknown(part.to_owned())
}

/// Writes a character so that it means only itself.
fn literal(c: char, out: &mut String) {
    if c.is_ascii_alphanumeric() || !c.is_ascii() {
        out.push(c);
    } else {
        out.push_str(&format!("\\x{{{:x}}}", u32::from(c)));
    }
}

/// An escape outside of classes.
fn escape<'t>(rest: &'t str, out: &mut String) -> Result<&'t str, RegexError> {
    if let Some(quoted) = rest.strip_prefix(r"\Q") {
        let (quoted, after) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
        quoted.chars().for_each(|c| literal(c, out));
        return Ok(after);
    }
    let mut chars = rest.chars().peekable();
    chars.next();
    match chars.peek() {
        Some('A') => out.push_str(r"\A"),
        Some('z') => out.push_str(r"\z"),
        Some('b') => out.push_str(r"(?-u:\b)"),
        Some('B') => out.push_str(r"(?-u:\B)"),
        _ => {
            match escaped(&mut chars)? {
                Escaped::Char(c) => literal(c, out),
                Escaped::Class(class) => {
                    out.push('[');
                    out.push_str(&class);
                    out.push(']');
                }
            }
            return Ok(remaining(rest, chars));
        }
    }
    chars.next();
    Ok(remaining(rest, chars))
}

/// What of `text` an iterator over it has left.
fn remaining<'t>(text: &'t str, chars: Peekable<Chars<'t>>) -> &'t str {
    let left: usize = chars.map(char::len_utf8).sum();
    text.get(text.len().saturating_sub(left)..).unwrap_or_default()
}

/// What an escape means that may also stand in a class.
enum Escaped {
    Char(char),
    /// The inside of a class of the `regex` crate.
    Class(String),
}

/// Reads what follows a backslash.
fn escaped(chars: &mut Peekable<Chars<'_>>) -> Result<Escaped, RegexError> {
    let c = chars.next().ok_or_else(|| unknown(r"a \ at the end"))?;
    let char = match c {
        'd' => return Ok(Escaped::Class("0-9".into())),
        'D' => return Ok(Escaped::Class("[^0-9]".into())),
        's' => return Ok(Escaped::Class(r"\t\n\x0c\r\x20".into())),
        'S' => return Ok(Escaped::Class(r"[^\t\n\x0c\r\x20]".into())),
        'w' => return Ok(Escaped::Class("0-9A-Za-z_".into())),
        'W' => return Ok(Escaped::Class("[^0-9A-Za-z_]".into())),
        'p' | 'P' => return property(c, chars).map(Escaped::Class),
        'a' => '\x07',
        'f' => '\x0c',
        't' => '\t',
        'n' => '\n',
        'r' => '\r',
        'v' => '\x0b',
        'x' => hexadecimal(chars)?,
        '0'..='9' => octal(c, chars)?,
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => c,
        c => return Err(unknown(&format!("\\{c}"))),
    };
    Ok(Escaped::Char(char))
}

/// `\pN`, `\p{Name}` and `\p{^Name}`, and the opposites with `\P`.
fn property(kind: char, chars: &mut Peekable<Chars<'_>>) -> Result<String, RegexError> {
    let incomplete = || unknown(&format!("\\{kind} without a name"));
    let first = chars.next().ok_or_else(incomplete)?;
    if first != '{' {
        return Ok(format!("\\{kind}{first}"));
    }
    let name: String = chars.by_ref().take_while(|c| *c != '}').collect();
    let opposite = if kind == 'p' { 'P' } else { 'p' };
    Ok(match name.strip_prefix('^') {
        Some(name) => format!("\\{opposite}{{{name}}}"),
        None => format!("\\{kind}{{{name}}}"),
    })
}

/// `\x7F` and `\x{10FFFF}`.
fn hexadecimal(chars: &mut Peekable<Chars<'_>>) -> Result<char, RegexError> {
    let digits: String = if chars.next_if_eq(&'{').is_some() {
        chars.by_ref().take_while(|c| *c != '}').collect()
    } else {
        chars.by_ref().take(2).collect()
    };
    let number = u32::from_str_radix(&digits, 16).ok();
    number.and_then(char::from_u32).ok_or_else(|| unknown(&format!("\\x{{{digits}}}")))
}

/// `\0`, `\12` and `\123`; a single digit above 0 is a reference to a group.
fn octal(first: char, chars: &mut Peekable<Chars<'_>>) -> Result<char, RegexError> {
    let mut number = first.to_digit(8).ok_or(RegexError::BackReference)?;
    let mut digits = 1;
    while digits < 3
        && let Some(digit) = chars.next_if(|c| c.is_digit(8))
    {
        number = number * 8 + digit.to_digit(8).unwrap_or_default();
        digits += 1;
    }
    if digits == 1 && first != '0' {
        return Err(RegexError::BackReference);
    }
    char::from_u32(number).ok_or_else(|| unknown(&format!("\\{number:o}")))
}

/// `(`, and what says which kind of group it opens.
fn group<'t>(rest: &'t str, out: &mut String) -> Result<&'t str, RegexError> {
    let Some(kind) = rest.strip_prefix("(?") else { return Ok(passed(rest, '(', out)) };
    if ["=", "!", "<=", "<!"].iter().any(|around| kind.starts_with(around)) {
        return Err(RegexError::LookAround);
    }
    let named = kind.strip_prefix("P<").or_else(|| kind.strip_prefix('<'));
    let (kind, end) = match named {
        Some(named) => (named, named.find('>')),
        None => (kind, kind.find([':', ')'])),
    };
    let allowed = |c: char| match named {
        Some(_) => c.is_ascii_alphanumeric() || c == '_',
        None => matches!(c, 'i' | 'm' | 's' | 'U' | '-'),
    };
    let inside = end.and_then(|end| kind.get(..end));
    if !inside.is_some_and(|inside| inside.chars().all(allowed)) {
        return Err(unknown(&format!("(?{}", kind.chars().take(1).collect::<String>())));
    }
    // A group of flags alone closes itself: its end is left to be read like that of any group.
    out.push_str(if named.is_some() { "(?P<" } else { "(?" });
    out.push_str(inside.unwrap_or_default());
    Ok(end.and_then(|end| kind.get(end..)).unwrap_or_default())
}

/// `{n}`, `{n,}` and `{n,m}`; a brace that opens none of these is a character.
fn braces<'t>(rest: &'t str, out: &mut String) -> Result<&'t str, RegexError> {
    let Some((counts, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        out.push_str(r"\{");
        return Ok(rest.strip_prefix('{').unwrap_or_default());
    };
    let (low, high) = counts.split_once(',').unwrap_or((counts, counts));
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !number(low) || !(high.is_empty() || number(high)) {
        out.push_str(r"\{");
        return Ok(rest.strip_prefix('{').unwrap_or_default());
    }
    let within = |text: &str| text.parse().is_ok_and(|count: u32| count <= MAX_REPEAT);
    if !within(low) || !(high.is_empty() || within(high)) {
        return Err(unknown(&format!("repetitions above {MAX_REPEAT}")));
    }
    out.push_str(&format!("{{{counts}}}"));
    Ok(after)
}

/// A class, each character of which is written so that it means only itself.
fn class<'t>(text: &'t str, out: &mut String) -> Result<&'t str, RegexError> {
    let unclosed = || RegexError::Syntax("unclosed character class".into());
    let mut rest = text.strip_prefix('[').unwrap_or_default();
    out.push('[');
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    let mut first = true;
    loop {
        if !first && let Some(after) = rest.strip_prefix(']') {
            out.push(']');
            return Ok(after);
        }
        first = false;
        if rest.starts_with("[:")
            && let Some((name, after)) = rest.split_once(":]")
        {
            if !CLASSES.contains(&name.trim_start_matches("[:").trim_start_matches('^')) {
                return Err(unknown(&format!("{name}:]")));
            }
            out.push_str(name);
            out.push_str(":]");
            rest = after;
            continue;
        }
        let mut chars = rest.chars().peekable();
        match member(&mut chars)?.ok_or_else(unclosed)? {
            Escaped::Class(class) => out.push_str(&class),
            Escaped::Char(low) => range(low, &mut chars, out)?,
        }
        rest = remaining(rest, chars);
    }
}

/// One character or escape in a class; `None` at the end of the expression.
fn member(chars: &mut Peekable<Chars<'_>>) -> Result<Option<Escaped>, RegexError> {
    match chars.next() {
        Some('\\') => escaped(chars).map(Some),
        other => Ok(other.map(Escaped::Char)),
    }
}

/// A character of a class, and the range that it begins if a `-` and another one follow.
fn range(low: char, chars: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), RegexError> {
    literal(low, out);
    let mut ahead = chars.clone();
    if ahead.next() != Some('-') || matches!(ahead.peek(), None | Some(']')) {
        return Ok(());
    }
    *chars = ahead;
    match member(chars)? {
        Some(Escaped::Char(high)) => {
            out.push('-');
            literal(high, out);
            Ok(())
        }
        Some(Escaped::Class(_)) | None => {
            Err(RegexError::Syntax("invalid range in a class".into()))
        }
    }
}
