//! Pure: lists of JSON objects → tables for people.
use std::fmt::Write;

use serde_json::Value;

/// A column: its title, and the field that it shows, `outer.inner` for nested ones, `list.0` for the
/// first of a list.
pub type Column = (&'static str, &'static str);

/// A table of `rows`, as wide as its longest cells; lists and counts are shown in short.
pub fn table(columns: &[Column], rows: &[Value]) -> String {
    let titles = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let cells = |row: &Value| columns.iter().map(|(_, field)| cell(row, field)).collect();
    let lines: Vec<Vec<String>> = std::iter::once(titles).chain(rows.iter().map(cells)).collect();
    let width = |index: usize| lines.iter().map(|line| line[index].chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).map(|i| width(i).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        let padded: Vec<_> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", padded.join("   ").trim_end());
    }
    text
}

fn cell(row: &Value, field: &str) -> String {
    let found = field.split('.').try_fold(row, |value, name| match name.parse::<usize>() {
        Ok(index) => value.get(index),
        Err(_) => value.get(name),
    });
    match found {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) if text.is_empty() => "-".into(),
        // What a manifest says is nothing that a terminal should obey.
        Some(Value::String(text)) => text.replace(char::is_control, "_"),
        Some(Value::Array(list)) => {
            let words: Option<Vec<_>> = list.iter().map(Value::as_str).collect();
            let joined = words.map(|words| words.join(",").replace(char::is_control, "_"));
            joined.unwrap_or_else(|| list.len().to_string())
        }
        Some(Value::Object(map)) => map.len().to_string(),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [
            json!({ "name": "web", "ips": ["10.0.0.1", "fd00::1"], "of": { "a": 1 } }),
            json!({ "name": "\u{1b}[2J", "ips": ["a\n"], "of": {} }),
            json!({ "name": "", "ips": [[1], [2], [3]], "of": { "a": 2, "b": 3 } }),
        ];
        let columns = [
            ("NAME", "name"),
            ("ADDRESSES", "ips"),
            ("FIRST", "ips.0"),
            ("PARTS", "of"),
            ("A", "of.a"),
            ("B", "of.b"),
        ];
        assert_eq!(
            table(&columns, &rows),
            "NAME   ADDRESSES          FIRST      PARTS   A   B\n\
             web    10.0.0.1,fd00::1   10.0.0.1   1       1   -\n\
             _[2J   a_                 a_         0       -   -\n\
             -      3                  1          2       2   3\n"
        );
    }
}
