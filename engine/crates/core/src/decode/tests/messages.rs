//! Messages: one row each, poisoned ones among good ones.

use base64::Engine;

use super::*;
use crate::batch::Reject;
use crate::config::{AvroConfig, Framing, MessageFormat};

fn payloads<'a>(messages: &[(u32, &'a [u8])]) -> Vec<Payload<'a>> {
    messages
        .iter()
        .map(|(relative_offset, bytes)| Payload { bytes: Some(bytes), relative_offset: *relative_offset, clock_us: NOW_US })
        .collect()
}

#[test]
fn a_poisoned_message_is_rejected_at_its_place_and_the_others_are_kept() {
    let messages: [(u32, &[u8]); 7] = [
        (0, b"{\"k\":\"a\",\"t\":1}"),
        (3, b"{\"k\":\"b\",\"t\":"),
        (4, b" {\"k\":\"c\",\n\"t\":2} \n"),
        (5, b""),
        (8, b"\x00\x00\x00\x00\x07\xfe"),
        (9, b"{\"k\":\"d\",\"t\":3} {}"),
        (11, b"{\"k\":\"e\",\"t\":4}"),
    ];
    let batch = decoder().decode_messages(&payloads(&messages), &[], 20).unwrap();
    assert_eq!(
        (batch.time_us.clone(), batch.relative_offset.clone(), batch.span),
        (vec![1000, 2000, 4000], Some(vec![0, 4, 11]), 20)
    );
    let told: Vec<(u32, &str, &str)> =
        batch.rejects.iter().map(|reject| (reject.relative_offset, &*reject.reason, &*reject.text)).collect();
    assert_eq!(told[0].0, 3);
    assert!(told[0].1.starts_with("malformed JSON: "));
    assert_eq!(told[1], (5, "the message is empty", ""));
    assert_eq!(told[2], (8, "not valid UTF-8 at byte 5 of the row", "base64:AAAAAAf+"));
    assert_eq!((told[3].0, told[3].2), (9, "{\"k\":\"d\",\"t\":3} {}"));
}

#[test]
fn without_holes_and_rejects_no_offsets_are_written_down() {
    let messages: [(u32, &[u8]); 2] = [(0, b"{\"k\":\"a\",\"t\":1}"), (1, b"{\"k\":\"b\",\"t\":2}")];
    let batch = decoder().decode_messages(&payloads(&messages), &[], 2).unwrap();
    assert!(batch.relative_offset.is_none());
    let batch = decoder().decode_messages(&payloads(&messages[1..]), &[], 2).unwrap();
    assert_eq!(batch.relative_offset, Some(vec![1]));
    let none = decoder().decode_messages(&[], &[], 5).unwrap();
    assert_eq!((none.rows(), none.rejects.len(), none.span), (0, 0, 5));
}

#[test]
fn what_is_kept_of_a_binary_message_is_bounded_and_whole_base64() {
    let long = vec![0xff; 100_000];
    let batch = decoder().decode_messages(&payloads(&[(0, &long)]), &[], 1).unwrap();
    let Reject { text, .. } = &batch.rejects[0];
    assert!(text.len() <= MAX_REJECTED_TEXT_BYTES);
    let kept = base64::engine::general_purpose::STANDARD.decode(text.strip_prefix(BASE64_MARK).unwrap()).unwrap();
    assert_eq!(kept, vec![0xff; 3066]);
}

/// Rows whose key, time and one more field are not in the message.
fn with_metadata(format: &MessageFormat) -> Decoder {
    let fields = r#"[{"name":"k","type":"string"},{"name":"v","type":"int64"},{"name":"sent","type":"int64"}]"#;
    let schema = serde_json::from_str(&format!(r#"{{"key":{{"field":"k"}},"time":{MS},"fields":{fields}}}"#)).unwrap();
    Decoder::for_messages(&schema, &["k", "sent", "t"], 0, format).unwrap()
}

const AT: i64 = 1_700_000_000_123_456;

fn metadata_of(key: Metadata<'static>) -> [Metadata<'static>; 3] {
    [key, Metadata::Time(AT), Metadata::Time(AT)]
}

#[test]
fn metadata_fill_fields_whatever_members_the_message_has() {
    let messages: [&[u8]; 4] = [b"{\"v\":1}", b"{\"v\":2,\"k\":\"no\",\"t\":7}", b" {\"v\" : 3 ,\"k\":[1]}", b"{}"];
    let payloads = clocked(&messages);
    let metadata = [Metadata::Text(b"a"), Metadata::Text(b"b"), Metadata::Text("ä".as_bytes()), Metadata::Text(b"d")];
    let metadata: Vec<Metadata> = metadata.into_iter().flat_map(metadata_of).collect();
    for general_alone in [false, true] {
        let mut decoder = with_metadata(&MessageFormat::Json);
        if general_alone {
            decoder.use_general_parser_only();
        }
        let batch = decoder.decode_messages(&payloads, &metadata, 4).unwrap();
        assert!(batch.rejects.is_empty(), "{:?}", batch.rejects);
        assert_eq!(batch.time_us, [AT; 4]);
        let text = batch.columns[0].as_any().downcast_ref::<arrow_array::StringArray>().unwrap();
        assert_eq!(text.iter().flatten().collect::<Vec<_>>(), ["a", "b", "ä", "d"]);
        assert_eq!(batch.key_hash[2], hash_key("ä".as_bytes()));
        let numbers = |column: usize| batch.columns[column].as_any().downcast_ref::<arrow_array::Int64Array>().unwrap().clone();
        assert_eq!(numbers(1).iter().collect::<Vec<_>>(), [Some(1), Some(2), Some(3), None]);
        assert_eq!(numbers(2).value(0), AT / 1000);
    }
}

#[test]
fn a_message_whose_metadata_are_wrong_is_rejected_alone() {
    let messages: [&[u8]; 4] = [b"{\"v\":1}", b"{\"v\":2}", b"{\"v\":3}", b"{\"v\":4}"];
    let keys = [Metadata::Text(b"a"), Metadata::Absent, Metadata::Text(b"x\xff"), Metadata::Text(b"b")];
    let mut metadata: Vec<Metadata> = keys.into_iter().flat_map(metadata_of).collect();
    metadata[11] = Metadata::Absent;
    let batch = with_metadata(&MessageFormat::Json).decode_messages(&clocked(&messages), &metadata, 4).unwrap();
    assert_eq!((batch.rows(), batch.relative_offset.as_deref()), (1, Some(&[0][..])));
    let told: Vec<(u32, &str, &str)> =
        batch.rejects.iter().map(|reject| (reject.relative_offset, &*reject.field, &*reject.reason)).collect();
    assert_eq!(
        told,
        [(1, "k", "the key is missing"), (2, "k", "not valid UTF-8 at byte 1"), (3, "t", "the event time is missing")]
    );
    assert_eq!(batch.rejects[1].text, "{\"v\":3}");
}

#[test]
fn metadata_fill_fields_of_avro_records_too() {
    let text = r#"{"type":"record","name":"R","fields":[{"name":"k","type":"string"},{"name":"v","type":"long"}]}"#;
    let avro = AvroConfig { framing: Framing::Plain, schema: Some(text.into()), writers: vec![], registry: None };
    let messages: [&[u8]; 2] = [b"\x04no\x0e", b"\x04no"];
    let metadata: Vec<Metadata> = [Metadata::Text(b"a"), Metadata::Text(b"b")].into_iter().flat_map(metadata_of).collect();
    let batch = with_metadata(&MessageFormat::Avro(avro)).decode_messages(&clocked(&messages), &metadata, 2).unwrap();
    assert_eq!((batch.rows(), batch.rejects.len(), batch.time_us[0]), (1, 1, AT));
    assert_eq!(batch.key_hash, [hash_key(b"a")]);
}

#[test]
fn metadata_fill_only_fields_that_are_there_and_each_once() {
    for wrong in [&["x"][..], &["k", "k"]] {
        let error =
            Decoder::for_messages(&schema(r#"{"field":"k"}"#, MS), wrong, 0, &MessageFormat::Json).unwrap_err().to_string();
        assert!(error.contains("is no field of the schema, or is filled twice"), "{error}");
    }
}

fn clocked<'a>(messages: &[&'a [u8]]) -> Vec<Payload<'a>> {
    let one = |(row, bytes): (usize, &&'a [u8])| Payload { bytes: Some(bytes), relative_offset: row as u32, clock_us: AT };
    messages.iter().enumerate().map(one).collect()
}
