//! Avro: schema resolution, types, what is rejected and what is refused.

use serde_json::json;

use super::*;
use crate::config::{AvroConfig, Framing};

const T: i64 = 1_600_000_000_000;
const LARGE: usize = 1 << 20;

/// Bytes of a record, put together by hand.
#[derive(Default)]
struct Record(Vec<u8>);

impl Record {
    fn long(mut self, value: i64) -> Record {
        let mut zigzag = (value << 1 ^ value >> 63) as u64;
        while zigzag >= 0x80 {
            self.0.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        self.0.push(zigzag as u8);
        self
    }

    fn bytes(self, bytes: &[u8]) -> Record {
        let mut record = self.long(bytes.len() as i64);
        record.0.extend_from_slice(bytes);
        record
    }

    fn text(self, text: &str) -> Record {
        self.bytes(text.as_bytes())
    }

    fn raw(mut self, bytes: &[u8]) -> Record {
        self.0.extend_from_slice(bytes);
        self
    }
}

fn record(fields: serde_json::Value) -> String {
    json!({"type": "record", "name": "R", "fields": fields}).to_string()
}

fn config(schema: Option<String>, framing: Framing) -> AvroConfig {
    AvroConfig { schema, writers: Vec::new(), framing, registry: None }
}

/// Reads one message that was written by `writer`, with a reader's schema or without.
fn read(writer: &str, reader: Option<String>, message: &Record) -> RowBatch {
    let mut decoder = decoder().with_avro(&config(reader, Framing::Confluent)).unwrap();
    decoder.learn(1, Ok(writer));
    let bytes = [&[0, 0, 0, 0, 1], &message.0[..]].concat();
    decoder.decode_messages(&[Payload { bytes: Some(&bytes), relative_offset: 0, clock_us: NOW_US }], &[], 1).unwrap()
}

fn reason(batch: &RowBatch) -> (&str, &str) {
    assert_eq!((batch.rows(), batch.rejects.len()), (0, 1));
    (&batch.rejects[0].field, &batch.rejects[0].reason)
}

fn all_fields() -> serde_json::Value {
    json!([
        {"name": "k", "type": "string"}, {"name": "t", "type": "long"},
        {"name": "f", "type": ["null", "double"], "default": null}, {"name": "i", "type": "long", "default": 42},
        {"name": "b", "type": "boolean", "default": true}, {"name": "s", "type": "string", "default": "none", "aliases": ["old"]}])
}

#[test]
fn aliases_defaults_and_promotions_are_the_readers() {
    let writer = record(json!([
        {"name": "extra", "type": {"type": "array", "items": "long"}},
        {"name": "old", "type": "bytes"}, {"name": "t", "type": "int"}, {"name": "k", "type": "string"},
        {"name": "f", "type": "float"}]));
    let message =
        Record::default().long(2).long(5).long(6).long(0).text("was bytes").long(77).text("a").raw(&1.5f32.to_le_bytes());
    let batch = read(&writer, Some(record(all_fields())), &message);
    assert_eq!(batch.rejects, []);
    assert_eq!((keys(&batch), batch.time_us.clone()), (vec![&b"a"[..]], vec![77_000]));
    assert_eq!(floats(&batch.columns[1]), [Some(1.5f64.to_bits())]);
    assert_eq!(integers(&batch.columns[2]), [Some(42)]);
    assert!(batch.columns[3].as_boolean().value(0));
    assert_eq!(texts(&batch.columns[4]), [Some("was bytes")]);
    // without a reader's schema the writer's names count, and what is not there is null
    let batch = read(&writer, None, &message);
    assert_eq!((integers(&batch.columns[2]), texts(&batch.columns[4])), (vec![None], vec![None]));
}

#[test]
fn a_field_by_its_own_name_comes_before_an_alias() {
    let writer = record(json!([
        {"name": "old", "type": "string"}, {"name": "s", "type": "string"}, {"name": "k", "type": "string"},
        {"name": "t", "type": "long"}]));
    let batch = read(&writer, Some(record(all_fields())), &Record::default().text("old").text("new").text("a").long(1));
    assert_eq!(texts(&batch.columns[4]), [Some("new")]);
}

#[test]
fn unions_enums_and_logical_types_are_what_they_hold() {
    let writer = record(json!([
        {"name": "k", "type": ["null", "long", "string"]},
        {"name": "t", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "f", "type": ["string", {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}]},
        {"name": "i", "type": {"type": "int", "logicalType": "date"}},
        {"name": "b", "type": ["null", "boolean"]},
        {"name": "s", "type": {"type": "enum", "name": "E", "symbols": ["RED", "BLUE"]}}]));
    let good = |key: Record| key.long(T * 1000 + 7).long(1).bytes(&[0x30, 0x39]).long(19_000).long(0).long(1);
    let batch = read(&writer, None, &good(Record::default().long(1).long(5)));
    assert_eq!(batch.rejects, []);
    assert_eq!((keys(&batch), batch.time_us.clone()), (vec![&b"5"[..]], vec![T * 1000 + 7]));
    assert_eq!(floats(&batch.columns[1]), [Some(123.45f64.to_bits())]);
    assert_eq!((integers(&batch.columns[2]), texts(&batch.columns[4])), (vec![Some(19_000)], vec![Some("BLUE")]));
    assert_eq!(reason(&read(&writer, None, &good(Record::default().long(0)))), ("k", "the key is null"));
    let text = Record::default().long(2).text("a").long(T * 1000).long(0).text("warm").long(0).long(0).long(0);
    assert_eq!(reason(&read(&writer, None, &text)), ("f", "expected float64, got string \"warm\""));
    // an enum that the reader does not know by that symbol
    let reader = record(json!([
        {"name": "k", "type": ["long", "string"]}, {"name": "t", "type": "long"}, {"name": "f", "type": "double"},
        {"name": "i", "type": "int"}, {"name": "b", "type": "boolean"},
        {"name": "s", "type": ["null", {"type": "enum", "name": "E", "symbols": ["RED", "OTHER"], "default": "OTHER"}]}]));
    let batch = read(&writer, Some(reader), &good(Record::default().long(1).long(5)));
    assert_eq!(texts(&batch.columns[4]), [Some("OTHER")]);
}

#[test]
fn nan_is_null_and_broken_text_rejects_its_row_alone() {
    let writer = record(json!([
        {"name": "f", "type": "double"}, {"name": "k", "type": "string"}, {"name": "t", "type": "long"},
        {"name": "s", "type": "string"}]));
    let row = |float: f64, text: &[u8]| Record::default().raw(&float.to_le_bytes()).text("a").long(1).bytes(text);
    let batch = read(&writer, None, &row(f64::NAN, b"x"));
    assert_eq!(floats(&batch.columns[1]), [None]);
    assert_eq!(reason(&read(&writer, None, &row(1.0, b"\xff"))), ("s", "not valid UTF-8"));
}

#[test]
fn what_is_not_of_the_schema_is_said() {
    let writer =
        record(json!([{"name": "k", "type": "string"}, {"name": "t", "type": "long"}, {"name": "b", "type": "boolean"}]));
    let row = || Record::default().text("a").long(1);
    let (field, why) = ("", "the bytes end in the middle of the record");
    assert_eq!(reason(&read(&writer, None, &row())), (field, why));
    assert_eq!(reason(&read(&writer, None, &row().raw(&[2]))), ("", "a boolean is neither 0 nor 1"));
    let left = read(&writer, None, &row().raw(&[1, 9, 9]));
    assert_eq!(reason(&left).1, "2 bytes are left after the record; it was written with another schema");
    assert_eq!(left.rejects[0].text, "base64:AAAAAAECYQIBCQk=");
}

#[test]
fn frames_schemas_and_registries_are_named_in_reasons() {
    let writer = record(json!([{"name": "k", "type": "string"}, {"name": "t", "type": "long"}]));
    let message = Record::default().text("a").long(1).0;
    let one = |decoder: &mut Decoder, bytes: &[u8]| {
        decoder
            .decode_messages(&[Payload { bytes: Some(bytes), relative_offset: 0, clock_us: NOW_US }], &[], 1)
            .map(|batch| batch.rejects[0].reason.clone())
    };
    let mut confluent = decoder().with_avro(&config(None, Framing::Confluent)).unwrap();
    assert_eq!(one(&mut confluent, &[0, 0, 0, 1, 2]), Err(Wanted(vec![258])));
    confluent.learn(258, Err("the registry has no schema 258".to_string()));
    confluent.learn(259, Ok("{}"));
    assert_eq!(one(&mut confluent, &[0, 0, 0, 1, 2]).unwrap(), "schema 258: the registry has no schema 258");
    assert!(one(&mut confluent, &[0, 0, 0, 1, 3]).unwrap().starts_with("schema 259: the Avro schema: "));
    assert!(one(&mut confluent, &[1, 0, 0, 1, 3]).unwrap().starts_with("not in Confluent's wire format"));
    assert!(one(&mut confluent, &[0, 0]).unwrap().starts_with("not in Confluent's wire format"));
    assert_eq!(one(&mut confluent, &[]).unwrap(), "the message is empty");
    let several: Vec<Payload> = [&[0, 0, 0, 0, 9][..], &[0, 0, 0, 0, 8], &[7], &[0, 0, 0, 0, 9]]
        .iter()
        .zip(0..)
        .map(|(bytes, at)| Payload { bytes: Some(bytes), relative_offset: at, clock_us: NOW_US })
        .collect();
    assert_eq!(confluent.decode_messages(&several, &[], 4).unwrap_err(), Wanted(vec![8, 9]));

    let fields = json!([{"name": "k", "type": "string"}, {"name": "t", "type": "long"}, {"name": "f", "type": "double"},
        {"name": "i", "type": "long"}, {"name": "b", "type": "boolean"}, {"name": "s", "type": "string"}]);
    let single = AvroConfig { writers: vec![writer], ..config(Some(record(fields)), Framing::SingleObject) };
    let mut single = decoder().with_avro(&single).unwrap();
    let unknown = [&[0xc3, 0x01, 1, 2, 3, 4, 5, 6, 7, 8], &message[..]].concat();
    assert_eq!(
        one(&mut single, &unknown).unwrap(),
        "no schema with the fingerprint 0807060504030201 is known; add the writer's schema to writers"
    );
    assert!(one(&mut single, &message).unwrap().starts_with("no Avro single-object message"));
}

#[test]
fn a_schema_without_a_field_of_the_job_is_refused_with_its_name() {
    let error = decoder().with_avro(&config(Some(record(json!([{"name": "k", "type": "string"}]))), Framing::Plain)).unwrap_err();
    assert!(error.message().starts_with("spec.schema: the Avro schema has no member f, which the field f reads"), "{error}");
    assert!(decoder().with_avro(&config(None, Framing::Plain)).unwrap_err().message().contains("need a schema"));
    assert!(decoder().with_reader_schema(Some("{")).unwrap_err().message().contains("no valid JSON"));
}

#[test]
fn records_maps_and_arrays_are_read_by_path_or_skipped() {
    let schema = json!({"key": {"field": "k"}, "time": {"field": "t", "path": ["m", "t"], "unit": "ms", "format": null, "timezone": "UTC"},
        "fields": [{"name": "k", "type": "string", "path": ["m", "k"]}, {"name": "f", "type": "float64", "path": ["p", "q", "f"]}]});
    let decoder = || Decoder::new(&serde_json::from_value(schema.clone()).unwrap(), 32, DAY_US).unwrap();
    let writer = record(json!([
        {"name": "list", "type": {"type": "array", "items": ["null", "R"]}},
        {"name": "m", "type": {"type": "map", "values": ["string", "long"]}},
        {"name": "p", "type": ["null", {"type": "record", "name": "P", "fields": [
            {"name": "x", "type": "int"}, {"name": "q", "type": ["null", "double", {"type": "map", "values": "float"}]}]}]}]));
    let mut decoder = decoder().with_avro(&config(None, Framing::Confluent)).unwrap();
    decoder.learn(1, Ok(&writer));
    let mut read = |record: Record| {
        let bytes = [&[0, 0, 0, 0, 1], &record.0[..]].concat();
        decoder.decode_messages(&[Payload { bytes: Some(&bytes), relative_offset: 0, clock_us: NOW_US }], &[], 1).unwrap()
    };
    let begin = || {
        Record::default()
            .long(1)
            .long(0)
            .long(0)
            .long(3)
            .text("k")
            .long(0)
            .text("a")
            .text("z")
            .long(1)
            .long(9)
            .text("t")
            .long(1)
            .long(5)
            .long(0)
    };
    let batch = read(begin().long(1).long(3).long(2).long(1).text("f").raw(&2.5f32.to_le_bytes()).long(0));
    assert_eq!(batch.rejects, []);
    assert_eq!(
        (keys(&batch), batch.time_us.clone(), floats(&batch.columns[1])),
        (vec![&b"a"[..]], vec![5000], vec![Some(2.5f64.to_bits())])
    );
    assert_eq!(floats(&read(begin().long(0)).columns[1]), [None]);
    assert_eq!(floats(&read(begin().long(1).long(3).long(0)).columns[1]), [None]);
    let wrong = read(begin().long(1).long(3).long(1).raw(&[0; 8]));
    assert_eq!(reason(&wrong), ("p.q", "expected an object, got a number"));
    let without = Record::default().long(0).long(0).long(0);
    assert_eq!(reason(&read(without)), ("k", "the key is missing"));
}

#[test]
fn schemas_that_could_take_for_ever_do_not() {
    // items without bytes, in a number that no loop could count
    let empty = record(json!([
        {"name": "e", "type": {"type": "array", "items": {"type": "record", "name": "E", "fields": [{"name": "x", "type": "null"}]}}},
        {"name": "k", "type": "string"}, {"name": "t", "type": "long"}]));
    let batch = read(&empty, None, &Record::default().long(i64::MAX).long(0).text("a").long(1));
    assert_eq!(batch.rows(), 1);
    // a record that holds itself
    let endless = record(json!([{"name": "x", "type": "int"}, {"name": "self", "type": "R"}]));
    let deep = Record::default().raw(&[2; 100]);
    assert_eq!(reason(&read(&endless, None, &deep)).1, "the record is nested too deep");
    let nothing = record(json!([{"name": "k", "type": "null"}, {"name": "t", "type": "null"}]));
    let mut decoder = decoder().with_avro(&config(None, Framing::Confluent)).unwrap();
    decoder.learn(0, Ok(&nothing));
    let body = [0; 50];
    assert_eq!(decoder.decode_avro(&body, LARGE, NOW_US).unwrap().rejects.len(), 10);
}

#[test]
fn a_body_that_is_broken_gives_nothing_and_says_where() {
    let mut decoder = decoder().with_avro(&config(None, Framing::Confluent)).unwrap();
    let writer = record(json!([{"name": "k", "type": "string"}, {"name": "t", "type": "long"}]));
    decoder.learn(1, Ok(&writer));
    let message = [&[0, 0, 0, 0, 1], &Record::default().text("a").long(1).0[..]].concat();
    let mut body = message.repeat(3);
    assert_eq!(decoder.decode_avro(&body, LARGE, NOW_US).unwrap().rows(), 3);
    body.pop();
    let error = decoder.decode_avro(&body, LARGE, NOW_US).unwrap_err();
    assert_eq!(error.to_string(), "the bytes end in the middle of the record at byte 16");
    let many: Vec<u8> = (0..=MAX_BODY_SCHEMAS as u8).flat_map(|id| [&[0, 0, 0, 0, id], &message[5..]].concat()).collect();
    (0..=MAX_BODY_SCHEMAS as u32).for_each(|id| decoder.learn(id, Ok(&writer)));
    assert!(decoder.decode_avro(&many, LARGE, NOW_US).unwrap_err().to_string().starts_with("more than 16 schemas"));
    let undeclared = super::decoder().decode_avro(&body, LARGE, NOW_US).unwrap_err();
    assert_eq!(undeclared, AvroBodyError::Undeclared);
}
