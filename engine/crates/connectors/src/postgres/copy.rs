//! A row as a line of COPY's text format. What a value is, the column's type decides: the server reads it as it reads a literal.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use streamjob_core::config::TimeUnit;
use streamjob_core::event_time::{from_float, from_integer, write_rfc3339};
use streamjob_core::{Error, Result};

use super::table::{Column, Kind};

/// Appends the line of a row; `number` stands behind its values where there is one.
pub(super) fn write_line(out: &mut Vec<u8>, row: &RawValue, columns: &[Column], number: Option<usize>) -> Result<()> {
    let values = values_of(row.get(), columns).map_err(|error| Error::engine(format!("a row is no object: {error}")))?;
    for (place, (value, column)) in std::iter::zip(values, columns).enumerate() {
        if place > 0 {
            out.push(b'\t');
        }
        write_value(out, value, column.kind);
    }
    if let Some(number) = number {
        out.extend_from_slice(format!("\t{number}").as_bytes());
    }
    out.push(b'\n');
    Ok(())
}

fn write_value(out: &mut Vec<u8>, value: Option<&RawValue>, kind: Kind) {
    let Some(text) = value.map(RawValue::get).filter(|text| *text != "null") else { return out.extend_from_slice(b"\\N") };
    if kind == Kind::Json {
        return escape(out, text.as_bytes());
    }
    if text.starts_with('"') {
        let plain: Cow<'_, str> = match text.as_bytes() {
            [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => Cow::Borrowed(&text[1..text.len() - 1]),
            _ => serde_json::from_str::<String>(text).map_or(Cow::Borrowed(text), Cow::Owned),
        };
        return escape(out, plain.as_bytes());
    }
    match kind {
        Kind::Time(unit) if write_time(out, text, unit) => {}
        Kind::Integer => escape(out, without_zero_fraction(text).as_bytes()),
        _ => escape(out, text.as_bytes()),
    }
}

/// False where the number is no time: the server then says what it thinks of it.
fn write_time(out: &mut Vec<u8>, number: &str, unit: TimeUnit) -> bool {
    let micros = match number.parse::<i64>() {
        Ok(whole) => from_integer(whole, unit),
        Err(_) => number.parse::<f64>().ok().and_then(|number| from_float(number, unit)),
    };
    let is_known = micros.is_some();
    micros.into_iter().for_each(|micros| write_rfc3339(micros, out));
    is_known
}

/// `3.0` is a whole number, written as a float writes it.
fn without_zero_fraction(number: &str) -> &str {
    match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() && fraction.bytes().all(|digit| digit == b'0') => whole,
        _ => number,
    }
}

/// What COPY's text format has a meaning for gets a backslash.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\n' | b'\r' | b'\t')) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(match rest[at] {
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            _ => b"\\\\",
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// By column: the value of its member.
fn values_of<'a>(row: &'a str, columns: &[Column]) -> Result<Vec<Option<&'a RawValue>>, serde_json::Error> {
    serde_json::Deserializer::from_str(row).deserialize_map(Values(columns))
}

struct Values<'c>(&'c [Column]);

impl<'de> Visitor<'de> for Values<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = vec![None; self.0.len()];
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let mut found = None;
            for (value, _) in std::iter::zip(&mut values, self.0).filter(|(_, column)| column.member == name) {
                if found.is_none() {
                    found = Some(map.next_value::<&RawValue>()?);
                }
                *value = found;
            }
            if found.is_none() {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::table::column;
    use super::*;

    /// The fields of one line, as PostgreSQL reads them: <https://www.postgresql.org/docs/current/sql-copy.html>.
    fn read_line(line: &[u8]) -> Vec<Option<String>> {
        let line = line.strip_suffix(b"\n").expect("a line ends");
        assert!(!line.contains(&b'\n') && !line.contains(&b'\r'), "it is one line");
        line.split(|byte| *byte == b'\t').map(read_field).collect()
    }

    fn read_field(field: &[u8]) -> Option<String> {
        if field == b"\\N" {
            return None;
        }
        let (mut bytes, mut rest) = (Vec::new(), field.iter());
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'\\' => match rest.next().expect("something follows a backslash") {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'\\' => b'\\',
                    other => panic!("\\{} is never written", *other as char),
                },
                other => *other,
            });
        }
        Some(String::from_utf8(bytes).expect("UTF-8"))
    }

    fn fields(row: &serde_json::Value, columns: &[Column]) -> Vec<Option<String>> {
        let (mut out, row) = (Vec::new(), serde_json::value::to_raw_value(row).expect("JSON"));
        write_line(&mut out, &row, columns, None).expect("an object");
        read_line(&out)
    }

    proptest! {
        #[test]
        fn any_text_is_read_back(texts in prop::collection::vec(prop::option::of("(\\PC|[\\\\\n\r\tN.])*"), 1..6)) {
            let name = |place: usize| format!("c{place}");
            let row: serde_json::Map<_, _> =
                texts.iter().enumerate().map(|(place, text)| (name(place), serde_json::json!(text))).collect();
            let columns: Vec<Column> = (0..texts.len()).map(|place| column(&name(place), Kind::Plain)).collect();
            prop_assert_eq!(fields(&row.into(), &columns), texts);
        }

        #[test]
        fn any_json_is_read_back_as_json(text in ".*", number: i64) {
            let value = serde_json::json!({"text": text, "list": [number, null], "in\tside": {"\\": text}});
            let read = fields(&serde_json::json!({"doc": value}), &[column("doc", Kind::Json)]);
            let read: serde_json::Value = serde_json::from_str(read[0].as_deref().expect("a value")).expect("JSON");
            prop_assert_eq!(read, value);
        }
    }

    #[test]
    fn values_are_written_as_their_columns_read_them() {
        let row =
            serde_json::json!({"a": 3.0, "b": 2.5, "c": 1500, "d": "2026-01-01T00:00:00Z", "e": true, "f": "text", "g": null});
        let kinds = [
            ("a", Kind::Integer, "3"),
            ("b", Kind::Integer, "2.5"),
            ("c", Kind::Time(TimeUnit::Ms), "1970-01-01T00:00:01.5Z"),
            ("d", Kind::Time(TimeUnit::Ms), "2026-01-01T00:00:00Z"),
            ("e", Kind::Plain, "true"),
            ("f", Kind::Json, "\"text\""),
            ("a", Kind::Plain, "3.0"),
        ];
        let columns: Vec<Column> = kinds.iter().map(|(name, kind, _)| column(name, *kind)).collect();
        let expected: Vec<_> = kinds.iter().map(|(_, _, text)| Some((*text).to_owned())).collect();
        assert_eq!(fields(&row, &columns), expected);
        assert_eq!(fields(&row, &[column("g", Kind::Json), column("nothing", Kind::Plain)]), [None, None]);
    }
}
