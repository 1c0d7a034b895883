//! Pure: messages as text, JSON and YAML, in istioctl's forms.
//! Never: colours.
use serde_json::{Value, json};

use super::message::Message;

/// Where each code is explained.
const DOCUMENTATION: &str = "https://istio.io/latest/docs/reference/config/analysis";

/// One line for each message.
pub fn text(messages: &[Message]) -> String {
    messages.iter().map(|message| format!("{message}\n")).collect()
}

/// A list of objects.
pub fn json(messages: &[Message]) -> Value {
    messages.iter().map(value).collect()
}

fn value(message: &Message) -> Value {
    let code = message.code.as_str();
    let mut value = json!({
        "code": code,
        "level": message.level.as_str(),
        "message": message.text,
        "reference": message.origin.to_string(),
    });
    if let Some(object) = &message.object {
        value["origin"] = object.to_string().into();
    }
    if code.starts_with("IST") {
        let page = format!("{DOCUMENTATION}/{}/", code.to_ascii_lowercase());
        value["documentationUrl"] = page.into();
    }
    value
}

/// A value as YAML 1.2, whose strings may be written as in JSON.
pub fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text
}

fn write(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut inner = String::new();
                write(item, depth + 1, &mut inner);
                // The first line stands beside its dash.
                text.push_str(&format!("{indent}- {}", inner.trim_start()));
            }
        }
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let key = Value::from(key.as_str());
                match value {
                    Value::Array(items) if !items.is_empty() => {
                        text.push_str(&format!("{indent}{key}:\n"));
                        write(value, depth, text);
                    }
                    Value::Object(inner) if !inner.is_empty() => {
                        text.push_str(&format!("{indent}{key}:\n"));
                        write(value, depth + 1, text);
                    }
                    Value::Array(_)
                    | Value::Object(_)
                    | Value::Null
                    | Value::Bool(_)
                    | Value::Number(_)
                    | Value::String(_) => text.push_str(&format!("{indent}{key}: {value}\n")),
                }
            }
        }
        Value::Array(_)
        | Value::Object(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_) => text.push_str(&format!("{indent}{value}\n")),
    }
}
