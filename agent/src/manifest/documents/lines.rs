//! Pure: which line of a YAML document a field stands in.
//! Never: what stands there.
use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// The lines of the fields and items of a document, or of a part of it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::manifest) struct Lines {
    /// Where it begins, counted from one at the document's begin.
    line: u32,
    node: Node,
}

impl Lines {
    /// Those of a document; when it cannot be read, only that it is there.
    pub(in crate::manifest) fn of(document: &str) -> Self {
        let root = serde_saphyr::from_str_with_options::<Node>(document, super::options());
        Self { line: 1, node: root.unwrap_or(Node::Leaf) }
    }

    /// Those of an item of a `List`.
    pub(in crate::manifest) fn item(&self, index: usize) -> Self {
        let items = if let Node::Map(fields) = &self.node { fields.get("items") } else { None };
        let item = match items {
            Some(Self { node: Node::List(items), .. }) => items.get(index),
            Some(_) | None => None,
        };
        item.unwrap_or(self).clone()
    }

    /// The line of the field at a JSON pointer (RFC 6901), or of the closest one around it that is
    /// there.
    pub(in crate::manifest) fn line(&self, pointer: &str) -> u32 {
        let mut at = self;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let below = match &at.node {
                Node::Map(fields) => fields.get(&step),
                Node::List(items) => step.parse().ok().and_then(|index: usize| items.get(index)),
                Node::Leaf => None,
            };
            let Some(below) = below else { break };
            at = below;
        }
        at.line
    }
}

/// What a document is made of.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Map(BTreeMap<String, Lines>),
    List(Vec<Lines>),
    Leaf,
}

fn number(line: u64) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Nodes)
    }
}

struct Nodes;

impl<'de> Visitor<'de> for Nodes {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let line = number(key.referenced.line());
            fields.insert(key.value, Lines { line, node: map.next_value()? });
        }
        Ok(Node::Map(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Node>>()? {
            all.push(Lines { line: number(item.referenced.line()), node: item.value });
        }
        Ok(Node::List(all))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
        Ok(Node::Leaf)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Node::Leaf)
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn fields_items_and_what_is_not_there() {
        let text = "kind: A\nspec:\n  http:\n  - match:\n    - uri: {prefix: /a}\n      port: 80\n  \
                    - route: []\n  a/b: ~\n";
        for (pointer, expected) in [
            ("", 1),
            ("/kind", 1),
            ("/spec", 2),
            ("/spec/http/0", 4),
            ("/spec/http/0/match/0/uri/prefix", 5),
            ("/spec/http/0/match/0/port", 6),
            ("/spec/http/1/route", 7),
            ("/spec/http/1/route/0/weight", 7),
            ("/spec/http/9", 3),
            ("/spec/a~1b", 8),
        ] {
            assert_eq!(Lines::of(text).line(pointer), expected, "{pointer}");
        }
        assert_eq!(Lines::of("a: [").line("/a"), 1);
    }
}
