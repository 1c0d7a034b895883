//! Pure: which line of a YAML document a field stands in.
//! Never: keeps them: a document is read again when somebody asks.
use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// The line of the field at a JSON pointer (RFC 6901), or of the closest one around it that is there.
/// Counted from one; `None` when the document cannot be read.
pub(in crate::manifest) fn line(document: &str, pointer: &str) -> Option<u32> {
    let root: Spanned<Node> =
        serde_saphyr::from_str_with_options(document, super::options()).ok()?;
    let (mut at, mut line) = (&root.value, root.referenced.line());
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        let below = match at {
            Node::Map(fields) => fields.get(&step),
            Node::List(items) => step.parse().ok().and_then(|index: usize| items.get(index)),
            Node::Leaf => None,
        };
        let Some((at_line, node)) = below else { break };
        (at, line) = (node, *at_line);
    }
    u32::try_from(line).ok()
}

/// What a document is made of, and the lines where its fields and items begin.
enum Node {
    Map(BTreeMap<String, (u64, Node)>),
    List(Vec<(u64, Node)>),
    Leaf,
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
            fields.insert(key.value, (key.referenced.line(), map.next_value()?));
        }
        Ok(Node::Map(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Node>>()? {
            all.push((item.referenced.line(), item.value));
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
    use super::line;

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
            assert_eq!(line(text, pointer), Some(expected), "{pointer}");
        }
        assert_eq!(line("a: [", "/a"), None);
    }
}
