//! The rows of a batch as messages: a JSON array taken apart, and the members that become key and partition.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use streamjob_core::{Error, Result};

/// The rows of a batch, as they are written.
pub fn rows(body: &[u8]) -> Result<Vec<&RawValue>> {
    serde_json::from_slice(body).map_err(|error| Error::engine(format!("a batch is not an array: {error}")))
}

/// The value of the member `name`; `None` where it is not there or null.
pub fn member<'a>(row: &'a str, name: &str) -> Option<&'a str> {
    let mut deserializer = serde_json::Deserializer::from_str(row);
    let found = Find(name).deserialize(&mut deserializer).ok().flatten()?;
    Some(found.get()).filter(|value| *value != "null")
}

/// A value as the bytes of a key: a text without its quotes, anything else as it is written.
pub fn key_bytes(value: &str) -> Cow<'_, [u8]> {
    match value.as_bytes() {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => Cow::Borrowed(inner),
        [b'"', ..] => serde_json::from_str::<String>(value)
            .map_or_else(|_| Cow::Borrowed(value.as_bytes()), |text| Cow::Owned(text.into_bytes())),
        plain => Cow::Borrowed(plain),
    }
}

/// Finds one member of an object.
struct Find<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_taken_apart_as_they_are() {
        let body = br#"[{"key":"a","x":"]},{"},{"key":"b\n","n":-1.5e3}]"#;
        let rows = rows(body).expect("an array");
        assert_eq!(
            rows.iter().map(|row| row.get()).collect::<Vec<_>>(),
            [r#"{"key":"a","x":"]},{"}"#, r#"{"key":"b\n","n":-1.5e3}"#]
        );
        let key = |row: &RawValue, name| member(row.get(), name).map(|value| key_bytes(value).into_owned());
        assert_eq!(key(rows[0], "key"), Some(b"a".to_vec()));
        assert_eq!(key(rows[1], "key"), Some(b"b\n".to_vec()));
        assert_eq!(key(rows[1], "n"), Some(b"-1.5e3".to_vec()));
        assert_eq!(key(rows[0], "n"), None);
        assert_eq!(member(r#"{"key":null}"#, "key"), None);
    }
}
