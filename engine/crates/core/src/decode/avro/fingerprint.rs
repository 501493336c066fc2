//! A schema's canonical form and its CRC-64-AVRO fingerprint, by which single-object messages name their writer's schema.

use std::fmt::Write;

use super::schema::{Kind, Schema, TypeId, type_name};

/// The fingerprint of no bytes, and the polynomial.
const EMPTY: u64 = 0xc15d_213a_a4d7_a795;

const TABLE: [u64; 256] = table();

const fn table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut value = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            value = value >> 1 ^ (EMPTY & (value & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
}

/// CRC-64-AVRO of a schema's canonical form.
pub(super) fn fingerprint(schema: &Schema) -> u64 {
    crc(&canonical(schema))
}

fn crc(text: &str) -> u64 {
    text.bytes().fold(EMPTY, |value, byte| value >> 8 ^ TABLE[usize::from(value as u8 ^ byte)])
}

/// The parsing canonical form: full names, no spaces, nothing that does not change how bytes are read.
pub(super) fn canonical(schema: &Schema) -> String {
    let mut text = String::new();
    write_type(schema, schema.root, &mut vec![false; schema.types.len()], &mut text);
    text
}

/// Writes a type out where it comes first, later its name.
fn write_type(schema: &Schema, type_id: TypeId, written: &mut [bool], out: &mut String) {
    let kind = schema.kind(type_id);
    let again = std::mem::replace(&mut written[type_id], true);
    match kind {
        Kind::Fixed { .. } | Kind::Enum { .. } | Kind::Record { .. } if again => quote(&type_name(kind), out),
        Kind::Array(items) => {
            out.push_str("{\"type\":\"array\",\"items\":");
            write_type(schema, *items, written, out);
            out.push('}');
        }
        Kind::Map(values) => {
            out.push_str("{\"type\":\"map\",\"values\":");
            write_type(schema, *values, written, out);
            out.push('}');
        }
        Kind::Union(branches) => {
            write_list(branches, out, |branch, out| write_type(schema, *branch, written, out));
        }
        Kind::Fixed { name, size } => {
            let _ = write!(out, "{{\"name\":\"{name}\",\"type\":\"fixed\",\"size\":{size}}}");
        }
        Kind::Enum { name, symbols, .. } => {
            let _ = write!(out, "{{\"name\":\"{name}\",\"type\":\"enum\",\"symbols\":");
            write_list(symbols, out, |symbol, out| quote(symbol, out));
            out.push('}');
        }
        Kind::Record { name, fields, .. } => {
            let _ = write!(out, "{{\"name\":\"{name}\",\"type\":\"record\",\"fields\":");
            write_list(fields, out, |field, out| {
                out.push_str("{\"name\":");
                quote(&field.name, out);
                out.push_str(",\"type\":");
                write_type(schema, field.type_id, written, out);
                out.push('}');
            });
            out.push('}');
        }
        primitive => quote(&type_name(primitive), out),
    }
}

fn write_list<T>(items: &[T], out: &mut String, mut write: impl FnMut(&T, &mut String)) {
    out.push('[');
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(']');
}

fn quote(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm};

    use super::*;

    const SCHEMAS: [&str; 4] = [
        r#"{"type":"record","name":"R","fields":[]}"#,
        r#"{ "namespace": "com.example", "type": "record", "name": "Reading", "doc": "x", "aliases": ["Old"], "fields": [
            {"name": "k", "type": {"type": "string", "avro.java.string": "String"}, "default": ""},
            {"name": "t", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "m", "type": ["null", {"type": "map", "values": "double"}], "default": null}]}"#,
        r#"{"type":"record","name":"a.R","fields":[
            {"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"],"default":"A"}},
            {"name":"f","type":{"type":"fixed","name":"F","namespace":"b","size":16}},
            {"name":"again","type":["null","E","b.F",{"type":"array","items":"a.E"}]}]}"#,
        r#"{"type":"record","name":"Node","fields":[{"name":"v","type":"int"},{"name":"next","type":["null","Node"]}]}"#,
    ];

    /// arrow-avro leaves a namespace out where names within it repeat it; the specification does not. Schemas without one
    /// must agree.
    #[test]
    fn fingerprints_are_those_of_another_library() {
        for text in [SCHEMAS[0], SCHEMAS[3]] {
            let other = AvroSchema::new(text.to_string()).fingerprint(FingerprintAlgorithm::Rabin).unwrap();
            assert_eq!(Fingerprint::Rabin(fingerprint(&Schema::parse(text).unwrap())), other, "{text}");
        }
    }

    #[test]
    fn the_canonical_form_is_the_specifications() {
        let forms = SCHEMAS.map(|text| canonical(&Schema::parse(text).unwrap()));
        assert_eq!(forms[0], r#"{"name":"R","type":"record","fields":[]}"#);
        assert_eq!(
            forms[1],
            r#"{"name":"com.example.Reading","type":"record","fields":[{"name":"k","type":"string"},{"name":"t","type":"long"},{"name":"m","type":["null",{"type":"map","values":"double"}]}]}"#
        );
        assert_eq!(
            forms[2],
            r#"{"name":"a.R","type":"record","fields":[{"name":"e","type":{"name":"a.E","type":"enum","symbols":["A","B"]}},{"name":"f","type":{"name":"b.F","type":"fixed","size":16}},{"name":"again","type":["null","a.E","b.F",{"type":"array","items":"a.E"}]}]}"#
        );
        // of the Java library's tests
        assert_eq!(crc("\"int\""), 0x7275_d51a_3f39_5c8f);
    }
}
