//! Pure: a JSON value as serde reads it, with a note of what is wrong where and of what is left out.
//! Never: takes a list for a struct, as serde does by itself.
use std::cell::RefCell;

use serde::{
    Deserializer,
    de::{
        DeserializeSeed, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
    },
    forward_to_deserialize_any,
};
use serde_json::{Error, Value};

use super::super::finding::step;

/// What was noted, as JSON pointers (RFC 6901).
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Fields that nobody asked for.
    pub(super) unknown: RefCell<Vec<String>>,
    /// The innermost field that could not be read.
    pub(super) wrong: RefCell<Option<String>>,
}

/// A value within an object.
#[derive(Clone, Copy)]
pub(super) struct Node<'n> {
    value: &'n Value,
    log: &'n Log,
    /// The value around it, and its own name or number there.
    within: Option<(&'n Node<'n>, Key<'n>)>,
}

#[derive(Clone, Copy)]
enum Key<'n> {
    Field(&'n str),
    Item(usize),
}

impl<'n> Node<'n> {
    /// The whole object.
    pub(super) fn of(value: &'n Value, log: &'n Log) -> Self {
        Self { value, log, within: None }
    }

    fn pointer(&self) -> String {
        match self.within {
            None => String::new(),
            Some((around, Key::Field(key))) => format!("{}/{}", around.pointer(), step(key)),
            Some((around, Key::Item(index))) => format!("{}/{index}", around.pointer()),
        }
    }

    fn inner<'de, T: DeserializeSeed<'de>>(
        &self,
        seed: T,
        (key, value): (Key<'_>, &Value),
    ) -> Result<T::Value, Error> {
        let node = Node { value, log: self.log, within: Some((self, key)) };
        seed.deserialize(node).inspect_err(|_| {
            self.log.wrong.borrow_mut().get_or_insert_with(|| node.pointer());
        })
    }
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::String(text) => visitor.visit_str(text),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), ..) => visitor.visit_u64(number),
                (None, Some(number), _) => visitor.visit_i64(number),
                (None, None, number) => visitor.visit_f64(number.unwrap_or(f64::NAN)),
            },
            Value::Array(items) => {
                visitor.visit_seq(Items { node: &self, rest: items.iter().enumerate() })
            }
            Value::Object(fields) => {
                visitor.visit_map(Fields { node: &self, rest: fields.iter(), value: None })
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.value.is_array() {
            return Err(Error::invalid_type(Unexpected::Seq, &"an object"));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value.as_str() {
            Some(text) => visitor.visit_enum(text.into_deserializer()),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.log.unknown.borrow_mut().push(self.pointer());
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier
    }
}

struct Fields<'n> {
    node: &'n Node<'n>,
    rest: serde_json::map::Iter<'n>,
    value: Option<(&'n str, &'n Value)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.value = self.rest.next().map(|(key, value)| (key.as_str(), value));
        let Some((key, _)) = self.value else { return Ok(None) };
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((key, value)) = self.value.take() else {
            return Err(Error::custom("a value without a field"));
        };
        self.node.inner(seed, (Key::Field(key), value))
    }
}

struct Items<'n> {
    node: &'n Node<'n>,
    rest: std::iter::Enumerate<std::slice::Iter<'n, Value>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some((index, value)) = self.rest.next() else { return Ok(None) };
        self.node.inner(seed, (Key::Item(index), value)).map(Some)
    }
}
