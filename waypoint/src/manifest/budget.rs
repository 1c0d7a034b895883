//! Pure: how much the rules of one service come to, before they are made: a rule counts for each of its
//! `match` blocks, and each of those for each port.
//! Never: makes a rule.
use serde_json::Value;

/// The most that the rules of one service may come to, bytes.
const MOST: usize = 32 * 1024 * 1024;
/// What one rule costs beside what it says, bytes.
const RULE: usize = 1024;
/// What one value costs beside its text, bytes.
const VALUE: usize = 64;

/// What is said of a rule that there is no room for.
pub(super) const FULL: &str =
    "the rules of this service come to more than 32 MiB: here, and beyond, nothing passes";

/// What is left for a service.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
    ports: usize,
}

impl Budget {
    /// All of it, for a service with so many ports.
    pub(super) fn of(ports: usize) -> Self {
        Self { left: MOST, ports }
    }

    /// Takes what a rule comes to; `false` when there is not so much, and then there is nothing left.
    pub(super) fn take(&mut self, size: Size) -> bool {
        let whole = size.total().saturating_mul(self.ports.max(1));
        let left = self.left.checked_sub(whole);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

/// What a rule comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    blocks: usize,
    conditions: usize,
    rest: usize,
}

impl Size {
    /// The rule as it is written; bodies of answers are shared.
    pub(super) fn of(rule: Option<&Value>) -> Self {
        let Some(Value::Object(fields)) = rule else {
            return Self { blocks: 1, ..Self::default() };
        };
        let mut size = Self { blocks: 1, ..Self::default() };
        for (key, value) in fields {
            match key.as_str() {
                "match" | "matches" => {
                    size.blocks = value.as_array().map_or(1, Vec::len).max(1);
                    size.conditions += bytes(value);
                }
                "directResponse" => {}
                _ => size.rest += bytes(value),
            }
        }
        size
    }

    /// So many of it.
    pub(super) fn times(self, times: usize) -> Self {
        Self { blocks: self.blocks.saturating_mul(times.max(1)), ..self }
    }

    /// What comes of it below a rule that delegates to it.
    pub(super) fn below(self, root: Self) -> Self {
        let times = |conditions: usize, blocks: usize| conditions.saturating_mul(blocks);
        let own = times(self.conditions, root.blocks);
        Self {
            blocks: times(self.blocks, root.blocks),
            conditions: own.saturating_add(times(root.conditions, self.blocks)),
            rest: self.rest.saturating_add(root.rest),
        }
    }

    fn total(self) -> usize {
        let each = self.rest.saturating_add(RULE);
        self.blocks.saturating_mul(each).saturating_add(self.conditions)
    }
}

fn bytes(value: &Value) -> usize {
    VALUE
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(bytes).sum(),
            Value::Object(fields) => {
                fields.iter().map(|(key, value)| key.len() + bytes(value)).sum()
            }
        }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_counts_for_each_block_and_each_port() {
        let size = |blocks: usize, authority: usize| {
            let blocks = vec![json!({}); blocks];
            let rewrite = json!({ "authority": "a".repeat(authority) });
            Size::of(Some(&json!({ "match": blocks, "rewrite": rewrite })))
        };
        let body = Size::of(Some(&json!({ "directResponse": { "body": "a".repeat(MOST) } })));
        assert!(Budget::of(1).take(body));
        assert!(Budget::of(1).take(size(1, MOST / 2)) && Budget::of(20).take(size(1000, 10)));
        assert!(!Budget::of(3).take(size(1, MOST / 2)) && !Budget::of(1).take(size(3, MOST / 2)));
        assert!(!Budget::of(1).take(size(200, 1).below(size(200, 1))));
        let mut budget = Budget::of(1);
        assert!(!budget.take(size(1, MOST)) && !budget.take(size(1, 0)));
    }
}
