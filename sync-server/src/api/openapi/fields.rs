//! The names of a struct's fields, as its deserialiser asks for them.

use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

/// The names under which `T` is read from a map.
pub(super) fn of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // It asks for a struct of these names, is refused, and that is all.
    drop(T::deserialize(Listener(&mut names)));
    names
}

struct Listener<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Listener<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("only the names are asked for"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_those_that_a_query_string_holds() {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Asked {
            #[expect(dead_code, reason = "only its name is asked for")]
            first_one: Option<String>,
            #[expect(dead_code, reason = "only its name is asked for")]
            second: u8,
        }
        assert_eq!(super::of::<Asked>(), ["first-one", "second"]);
    }
}
