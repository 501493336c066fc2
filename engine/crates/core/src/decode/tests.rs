mod arrow;
mod avro;
mod formats;
mod messages;
mod nested;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, ArrayRef};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::batch::{Keys, MAX_REJECTED_TEXT_BYTES, hash_key};

const NOW_US: i64 = 1_700_000_000_000_000;
const DAY_US: i64 = 86_400_000_000;
const MS: &str = r#"{"field":"t","unit":"ms","format":null,"timezone":"UTC"}"#;

fn schema(key: &str, time: &str) -> SchemaConfig {
    let fields = r#"[{"name":"k","type":"string"},{"name":"f","type":"float64"},{"name":"i","type":"int64"},{"name":"b","type":"bool"},{"name":"s","type":"string"}]"#;
    serde_json::from_str(&format!(r#"{{"key":{key},"time":{time},"fields":{fields}}}"#)).unwrap()
}

fn decoder_for(key: &str, time: &str, use_template: bool) -> Decoder {
    let mut decoder = Decoder::new(&schema(key, time), 32, DAY_US).unwrap();
    if !use_template {
        decoder.use_general_parser_only();
    }
    decoder
}

fn decoder() -> Decoder {
    decoder_for(r#"{"field":"k"}"#, MS, true)
}

fn lines(body: &str) -> RowBatch {
    decoder().decode_ndjson(body.as_bytes(), NOW_US, Positions::Ordinal)
}

/// Asserts that the row is rejected with this field and reason, by line and as an element.
fn rejected(row: &str, field: &str, reason: &str) {
    let batch = lines(row);
    assert_eq!((batch.rows(), batch.rejects.len()), (0, 1), "{row}");
    let reject = &batch.rejects[0];
    assert_eq!((reject.field.as_str(), reject.reason.as_str(), reject.text.as_str()), (field, reason, row.trim()));
    if field.is_empty() {
        return;
    }
    let element = decoder().decode_json(format!("[{row}]").as_bytes(), NOW_US).unwrap();
    assert_eq!(element.rejects, batch.rejects);
}

fn floats(array: &ArrayRef) -> Vec<Option<u64>> {
    array.as_primitive::<Float64Type>().iter().map(|value| value.map(f64::to_bits)).collect()
}

fn integers(array: &ArrayRef) -> Vec<Option<i64>> {
    array.as_primitive::<Int64Type>().iter().collect()
}

fn texts(array: &ArrayRef) -> Vec<Option<&str>> {
    array.as_string::<i32>().iter().collect()
}

fn keys(batch: &RowBatch) -> Vec<&[u8]> {
    let reader = batch.key_reader();
    (0..batch.rows()).map(|row| reader.get(row)).collect()
}

#[test]
fn rows_become_columns() {
    let batch = lines(concat!(
        "{\"k\":\"a\",\"t\":1,\"f\":1.5,\"i\":7,\"b\":true,\"s\":\"x\"}\n",
        "\n  \r\n",
        "{\"k\":\"b\",\"t\":-1.5,\"f\":2,\"i\":3.0,\"b\":false,\"s\":\"\\u00e4\\n\"}\r\n",
        " { \"t\" : 3 , \"k\" : \"ü\" , \"f\" : null, \"z\" : [1,{}] } ",
    ));
    assert_eq!(batch.rejects, []);
    assert_eq!(batch.span, 3);
    assert!(batch.relative_offset.is_none());
    assert_eq!(batch.time_us, [1000, -1500, 3000]);
    assert_eq!(keys(&batch), [&b"a"[..], b"b", "ü".as_bytes()]);
    assert_eq!(batch.key_hash, [hash_key(b"a"), hash_key(b"b"), hash_key("ü".as_bytes())]);
    assert_eq!(floats(&batch.columns[1]), [Some(1.5f64.to_bits()), Some(2f64.to_bits()), None]);
    assert!(batch.columns[1].as_primitive::<Float64Type>().values()[2].is_nan());
    assert_eq!(integers(&batch.columns[2]), [Some(7), Some(3), None]);
    assert_eq!(batch.columns[3].as_boolean().iter().collect::<Vec<_>>(), [Some(true), Some(false), None]);
    assert_eq!(texts(&batch.columns[4]), [Some("x"), Some("ä\n"), None]);
    assert!(batch.columns[0].nulls().is_none());
}

#[test]
fn the_last_of_doubled_members_wins() {
    let batch =
        lines("{\"k\":\"a\",\"t\":1,\"f\":1,\"k\":\"b\",\"t\":2,\"f\":3}\n{\"k\":\"a\",\"t\":1,\"f\":1,\"f\":\"x\",\"f\":null}");
    assert_eq!((batch.rows(), keys(&batch), batch.time_us.clone()), (2, vec![&b"b"[..], b"a"], vec![2000, 1000]));
    assert_eq!(floats(&batch.columns[1]), [Some(3f64.to_bits()), None]);
}

#[test]
fn integer_keys_are_decimal_text() {
    let batch = lines("{\"k\":17,\"t\":1}\n{\"k\":-0,\"t\":1}\n{\"k\":123456789012345678901234567890,\"t\":1}");
    assert_eq!(keys(&batch), [&b"17"[..], b"0", b"123456789012345678901234567890"]);
    assert_eq!(batch.key_hash[0], hash_key(b"17"));
    let mut decoder = decoder_for(r#"{"field":"i"}"#, MS, true);
    let batch =
        decoder.decode_ndjson(b"{\"i\":-7,\"t\":1}\n{\"i\":9.0,\"t\":1,\"s\":null}\n{\"t\":1}", NOW_US, Positions::Ordinal);
    assert!(matches!(batch.keys, Keys::Text(_)));
    assert_eq!((keys(&batch), integers(&batch.columns[2])), (vec![&b"-7"[..], b"9"], vec![Some(-7), Some(9)]));
    assert_eq!(batch.key_hash[0], hash_key(b"-7"));
    assert_eq!(batch.rejects[0].reason, "the key is missing");
}

#[test]
fn a_constant_key_is_every_rows_key() {
    let mut decoder = decoder_for(r#"{"const":"machine"}"#, MS, true);
    let batch = decoder.decode_ndjson(b"{\"t\":1}\n{\"t\":2}", NOW_US, Positions::Ordinal);
    assert_eq!((keys(&batch), batch.key_hash.clone()), (vec![&b"machine"[..]; 2], vec![hash_key(b"machine"); 2]));
}

#[test]
fn offsets_are_ordinals_or_bytes() {
    let body = b"{\"k\":\"a\",\"t\":1}\n\n  {\"k\":1.5}\n{\"k\":\"b\",\"t\":2}\nx";
    let batch = decoder().decode_ndjson(body, NOW_US, Positions::Ordinal);
    assert_eq!((batch.relative_offset.clone(), batch.span), (Some(vec![0, 2]), 4));
    let places: Vec<_> = batch.rejects.iter().map(|reject| (reject.relative_offset, reject.row)).collect();
    assert_eq!(places, [(1, 1), (3, 3)]);
    let batch = decoder().decode_ndjson(body, NOW_US, Positions::Bytes);
    assert_eq!((batch.relative_offset.clone(), batch.span), (Some(vec![0, 29]), body.len() as u64));
    let places: Vec<_> = batch.rejects.iter().map(|reject| (reject.relative_offset, reject.row)).collect();
    assert_eq!(places, [(17, 1), (45, 3)]);
    assert_eq!(decoder().decode_ndjson(b" \n", NOW_US, Positions::Bytes).span, 2);
}

#[test]
fn wrong_fields_are_named() {
    rejected(r#"{"t":1}"#, "k", "the key is missing");
    rejected(r#"{"k":null,"t":1}"#, "k", "the key is null");
    rejected(r#"{"k":1.5,"t":1}"#, "k", "expected string, got number 1.5");
    rejected(r#"{"k":["a"],"t":1}"#, "k", "expected string, got an array");
    rejected(r#"{"k":"a"}"#, "t", "the event time is missing");
    rejected(r#"{"k":"a","t":null}"#, "t", "the event time is null");
    rejected(r#"{"k":"a","t":"1"}"#, "t", "expected a number of milliseconds, got string \"1\"");
    rejected(r#"{"k":"a","t":9223372036854775807}"#, "t", "out of the range of event times: 9223372036854775807");
    rejected(r#"{"k":"a","t":1e300}"#, "t", "out of the range of event times: 1e300");
    rejected(r#"{"k":"a","t":1700086400001}"#, "t", "too far in the future: 1700086400001, later than 2023-11-15T22:13:20Z");
    rejected(r#"{"k":"a","t":1,"f":"x"}"#, "f", "expected float64, got string \"x\"");
    rejected(r#"{"k":"a","t":1,"f":1e999}"#, "f", "out of the range of float64: 1e999");
    rejected(r#"{"k":"a","t":1,"f":true}"#, "f", "expected float64, got bool true");
    rejected(r#"{"k":"a","t":1,"i":1.5}"#, "i", "expected int64, got number 1.5");
    rejected(r#"{"k":"a","t":1,"i":9223372036854775808}"#, "i", "out of the range of int64: 9223372036854775808");
    rejected(r#"{"k":"a","t":1,"b":0}"#, "b", "expected bool, got number 0");
    rejected(r#"{"k":"a","t":1,"s":{"x":1}}"#, "s", "expected string, got an object");
    rejected(r#"{"k":"a","t":1,"s":5}"#, "s", "expected string, got number 5");
    assert_eq!(lines(r#"{"k":"a","t":1700086400000}"#).rows(), 1, "exactly at the bound");
    let batch = lines(r#"{"k":"a","t":1,"s":"\ud800"}"#);
    assert!(batch.rejects[0].reason.starts_with("malformed string"), "{}", batch.rejects[0].reason);
}

#[test]
fn malformed_rows_are_rejected() {
    for row in [
        "x",
        "{",
        "{}}",
        r#"{"k":"a","t":1,}"#,
        r#"{"k":"a","t":01}"#,
        r#"{"k":"a","t":NaN}"#,
        r#"{"k":"a" "t":1}"#,
        "\u{feff}{}",
    ] {
        let batch = lines(row);
        assert!(batch.rejects[0].reason.starts_with("malformed JSON: "), "{row}: {}", batch.rejects[0].reason);
        assert_eq!((batch.rejects[0].field.as_str(), batch.rejects.len()), ("", 1));
    }
    rejected("5", "", "expected an object, got number 5");
    rejected("[{}]", "", "expected an object, got an array");
    let batch =
        decoder().decode_ndjson(b"{\"k\":\"\xff\",\"t\":1}\n{\"k\":\"a\",\"t\":1,\"z\":\"\xc3\"}", NOW_US, Positions::Ordinal);
    assert_eq!(batch.rejects[0].reason, "not valid UTF-8 at byte 6 of the row");
    assert_eq!((batch.rejects.len(), batch.rejects[0].text.as_str()), (2, "{\"k\":\"\u{fffd}\",\"t\":1}"));
}

/// Nonsense takes more memory as rejects than it has bytes.
#[test]
fn a_body_with_too_many_wrong_rows_is_refused_as_a_whole() {
    let good = "{\"k\":\"a\",\"t\":1}\n";
    let with = |wrong: usize| format!("{good}{}{good}", "7\n".repeat(wrong));
    let most = columns::max_rejects(with(MIN_MAX_REJECTS).len());
    let batch = decoder().decode_lines(with(most).as_bytes(), NOW_US).unwrap();
    assert_eq!((batch.rows(), batch.rejects.len(), batch.span), (2, most, 2 + most as u64));
    let many = with(4 * MIN_MAX_REJECTS);
    let most = columns::max_rejects(many.len());
    let error = decoder().decode_lines(many.as_bytes(), NOW_US).unwrap_err();
    let reason = format!(
        "more than {most} rows of the body are wrong, which is too many to keep each of them; nothing was taken. The first is row \
         1: expected an object, got number 7"
    );
    assert_eq!((error.reason.clone(), error.too_many), (reason, true));
    let array = format!("[{}]", many.trim_end().replace('\n', ","));
    assert_eq!(decoder().decode_json(array.as_bytes(), NOW_US).unwrap_err().reason, error.reason);
    // pieces of files are short, and nobody is there to be told
    let piece = decoder().decode_ndjson(many.as_bytes(), NOW_US, Positions::Ordinal);
    assert_eq!(piece.rejects.len(), 4 * MIN_MAX_REJECTS);
}

/// Rows of few bytes take the room of all fields that they do not have.
#[test]
fn a_body_with_too_many_values_is_refused_as_a_whole() {
    let fields: Vec<_> = (0..4_000).map(|number| serde_json::json!({"name": format!("f{number}"), "type": "bool"})).collect();
    let key = [serde_json::json!({"name": "k", "type": "string"})];
    let schema = serde_json::json!({
        "key": {"field": "k"}, "time": {"field": "t", "unit": "us", "format": null, "timezone": "UTC"},
        "fields": key.iter().chain(&fields).collect::<Vec<_>>(),
    });
    let schema = serde_json::from_value(schema).unwrap();
    let most = MAX_BODY_VALUES / 4_002;
    let rows = |count: usize| "{\"k\":\"a\",\"t\":1}\n".repeat(count);
    let mut decoder = Decoder::new(&schema, 1, DAY_US).unwrap();
    let error = decoder.decode_lines(rows(most + 1).as_bytes(), NOW_US).unwrap_err();
    assert!(error.too_many && error.reason.starts_with("more than 16768 rows of 4002 fields each"), "{error}");
}

#[test]
fn nesting_is_bounded() {
    let row = |depth: usize| format!(r#"{{"k":"a","t":1,"z":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert_eq!(lines(&row(MAX_NESTING)).rows(), 1);
    assert_eq!(lines(&row(MAX_NESTING + 1)).rejects[0].reason, "nested deeper than 64 levels");
    let deep = row(1_000_000);
    assert_eq!(lines(&deep).rejects[0].text.len(), MAX_REJECTED_TEXT_BYTES);
    assert_eq!(decoder().decode_json(deep.as_bytes(), NOW_US).unwrap().rejects.len(), 1);
    let in_text = format!(r#"{{"k":"a","t":1,"z":["\"{}"]}}"#, "[".repeat(100));
    assert_eq!(lines(&in_text).rows(), 1);
}

#[test]
fn documents_are_objects_or_arrays() {
    let json = |body: &str| decoder().decode_json(body.as_bytes(), NOW_US);
    assert_eq!(json("{\"k\":\"a\",\n \"t\":1}\n").unwrap().time_us, [1000]);
    assert_eq!(json(" [ {\"k\":\"a\",\n\"t\":1} ,\n{\"k\":\"b\",\n\"t\":2}]").unwrap().time_us, [1000, 2000]);
    let batch = json(r#"[]"#).unwrap();
    assert_eq!((batch.rows(), batch.span, batch.columns.len()), (0, 0, 5));
    let batch = json(r#"[5,{"k":"a","t":1},{"k":"a"},null]"#).unwrap();
    assert_eq!((batch.span, batch.relative_offset.clone()), (4, Some(vec![1])));
    let places: Vec<_> = batch.rejects.iter().map(|reject| (reject.row, reject.text.as_str())).collect();
    assert_eq!(places, [(0, "5"), (2, r#"{"k":"a"}"#), (3, "null")]);
}

#[test]
fn broken_documents_are_refused_with_the_place() {
    let place = |body: &str| decoder().decode_json(body.as_bytes(), NOW_US).unwrap_err();
    assert_eq!(place("").to_string(), "the body is empty at byte 0");
    assert_eq!(place(" 5 ").to_string(), "expected an object or an array of objects at byte 1");
    assert_eq!(place(r#"[{"k":"a","t":1}] {"#).to_string(), "unexpected text after the JSON value at byte 18");
    assert_eq!(place(r#"[{"k":"a","t":1} {"#).to_string(), "expected `,` or `]` at byte 17");
    assert_eq!(place("[{\"k\":\"a\",\"t\":1},\n{\"k\":\"a\",\n  x]").position, 30);
    assert!(place(r#"[{"k":"a","t":1},]"#).reason.starts_with("malformed JSON"));
    assert!(place("[").reason.starts_with("malformed JSON"));
    assert!(place("nul").reason.starts_with("malformed JSON"));
}

#[test]
fn what_begins_as_an_object_and_is_no_json_is_one_wrong_row() {
    for (body, reason) in [
        (r#"{"k":"a","t":1,"f":NaN}"#, "malformed JSON: expected value at line 1 column 20"),
        ("{\"k\":\"a\"", "malformed JSON: EOF while parsing an object at line 1 column 9"),
        (
            "{\"k\":\"a\",\"t\":1}\n{\"k\":\"b\",\"t\":1}",
            "unexpected text after the object at byte 16; lines of JSON are application/x-ndjson",
        ),
    ] {
        for is_fast in [true, false] {
            let batch =
                decoder_for(r#"{"field":"k"}"#, MS, is_fast).decode_json(format!("\n{body} ").as_bytes(), NOW_US).unwrap();
            assert_eq!((batch.rows(), batch.rejects.len(), batch.span), (0, 1, 1), "{body}");
            let reject = &batch.rejects[0];
            assert_eq!((reject.row, reject.field.as_str(), reject.text.as_str()), (0, "", body));
            assert_eq!(reject.reason, reason);
        }
    }
}

#[test]
fn a_damaged_element_is_one_wrong_row_beside_good_ones() {
    let body = r#"[{"k":"a","t":1},{"k":"b","t":1,"f":NaN} ,{"k":"c","t":2,"z":"],{"}, Infinity, {"k":"d","t":01}]"#;
    let batch = decoder().decode_json(body.as_bytes(), NOW_US).unwrap();
    assert_eq!((keys(&batch), batch.relative_offset.clone(), batch.span), (vec![&b"a"[..], b"c"], Some(vec![0, 2]), 5));
    let rejects: Vec<_> = batch.rejects.iter().map(|reject| (reject.row, reject.field.as_str(), reject.text.as_str())).collect();
    assert_eq!(rejects, [(1, "", r#"{"k":"b","t":1,"f":NaN}"#), (3, "", "Infinity"), (4, "", r#"{"k":"d","t":01}"#)]);
}

#[test]
fn a_line_break_learnt_in_a_document_is_none_in_lines() {
    let mut decoder = decoder();
    assert_eq!(decoder.decode_json(b"{\"k\":\"a\",\n\"t\":1}", NOW_US).unwrap().rows(), 1);
    let batch = decoder.decode_ndjson(b"{\"k\":\"a\",\n\"t\":1}", NOW_US, Positions::Ordinal);
    assert_eq!((batch.rows(), batch.rejects.len()), (0, 2));
}

#[test]
fn time_formats_are_read() {
    let time = r#"{"field":"t","unit":null,"format":"rfc3339","timezone":"UTC"}"#;
    let mut decoder = decoder_for(r#"{"field":"k"}"#, time, true);
    let body = b"{\"k\":\"a\",\"t\":\"1970-01-01T00:00:01Z\"}\n{\"k\":\"a\",\"t\":\"1970-01-01T00:00:01\\u005a\"}\n{\"k\":\"a\",\"t\":\"soon\"}\n{\"k\":\"a\",\"t\":5}";
    let batch = decoder.decode_ndjson(body, NOW_US, Positions::Ordinal);
    assert_eq!(batch.time_us, [1_000_000, 1_000_000]);
    assert_eq!(batch.rejects[0].reason, "expected an RFC 3339 time, got string \"soon\"");
    assert_eq!(batch.rejects[1].reason, "expected an RFC 3339 time, got number 5");
}

#[test]
fn shapes_may_change_and_widen() {
    let mut body = String::new();
    for i in 0..1000 {
        let unknown: String = (0..i % 300).map(|n| format!(r#","u{n}":{n}"#)).collect();
        let long = "l".repeat(i);
        body += &format!("{{\"k\":\"k{i}\"{unknown},\"t\":{i},\"{long}\":\"{long}\",\"f\":{i}.5}}\n");
    }
    let batch = lines(&body);
    assert_eq!((batch.rows(), batch.rejects.len()), (1000, 0));
    assert!(batch.columns[1].as_primitive::<Float64Type>().iter().enumerate().all(|(i, value)| value == Some(i as f64 + 0.5)));
}

fn same(fast: &RowBatch, general: &RowBatch) -> Result<(), TestCaseError> {
    prop_assert_eq!(&fast.rejects, &general.rejects);
    prop_assert_eq!(&fast.time_us, &general.time_us);
    prop_assert_eq!(&fast.key_hash, &general.key_hash);
    prop_assert_eq!(&fast.relative_offset, &general.relative_offset);
    prop_assert_eq!(fast.span, general.span);
    prop_assert_eq!(keys(fast), keys(general));
    for (fast, general) in fast.columns.iter().zip(&general.columns) {
        prop_assert_eq!(fast, general);
    }
    prop_assert_eq!(floats(&fast.columns[1]), floats(&general.columns[1]));
    for (value, bits) in fast.columns[1].as_primitive::<Float64Type>().values().iter().zip(floats(&fast.columns[1])) {
        prop_assert_eq!(value.is_nan(), bits.is_none());
    }
    Ok(())
}

/// Compares accepted rows with what serde_json makes of their lines.
fn as_serde_reads(batch: &RowBatch, body: &[u8]) -> Result<(), TestCaseError> {
    let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
    prop_assert_eq!(lines.len() as u64, batch.span);
    for row in 0..batch.rows() {
        let value: Value = match serde_json::from_slice(lines[batch.relative_offset(row) as usize]) {
            Ok(value) => value,
            Err(error) => {
                // in a member that the schema does not name: half of a surrogate pair, or a number beyond float64
                let reason = error.to_string();
                let harmless = ["surrogate", "hex escape", "out of range"].iter().any(|text| reason.contains(text));
                prop_assert!(harmless, "{}", reason);
                continue;
            }
        };
        let float = value.get("f").and_then(Value::as_f64).map(f64::to_bits);
        prop_assert_eq!(floats(&batch.columns[1])[row], float);
        prop_assert_eq!(texts(&batch.columns[4])[row], value.get("s").and_then(Value::as_str));
        let boolean = batch.columns[3].is_valid(row).then(|| batch.columns[3].as_boolean().value(row));
        prop_assert_eq!(boolean, value.get("b").and_then(Value::as_bool));
        if let Some(integer) = value.get("i").and_then(Value::as_i64) {
            prop_assert_eq!(integers(&batch.columns[2])[row], Some(integer));
        }
        if let Some(key) = value["k"].as_str() {
            prop_assert_eq!(batch.key_reader().get(row), key.as_bytes());
        }
    }
    Ok(())
}

fn space() -> impl Strategy<Value = String> {
    prop_oneof![8 => Just(String::new()), 2 => Just(" ".to_string()), 1 => "[ \t\r]{0,3}"]
}

fn value(usual: BoxedStrategy<String>) -> impl Strategy<Value = String> {
    let odd = prop_oneof![
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        any::<f64>().prop_filter("JSON", |value| value.is_finite()).prop_map(|value| serde_json::to_string(&value).unwrap()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just("null".to_string()),
        Just("true".to_string()),
        Just("\"\\u00e4\\ud83d\\ude00\\/\"".to_string()),
        Just("\"\\ud800\"".to_string()),
        Just("{\"x\":[1,{\"k\":2}]}".to_string()),
        Just("{\"x\": {\"\\n\" :[1 , null] } , \"y\":[] }".to_string()),
        "[\\[\\]{}:, \"1]{2,9}",
        Just("[]".to_string()),
    ];
    prop_oneof![12 => usual, 1 => odd]
}

fn member() -> impl Strategy<Value = String> {
    let text = prop_oneof![4 => "[a-z0-9-]{0,20}", 1 => "[a-zäß€😀]{0,12}"].prop_map(|text| format!("\"{text}\""));
    let float = || "-?(0|[1-9][0-9]{0,5})(\\.[0-9]{1,6})?".boxed();
    let integer = || "-?(0|[1-9][0-9]{0,12})".boxed();
    let one = |name: &'static str, usual: BoxedStrategy<String>| (Just(name), value(usual));
    let named = prop_oneof![
        one("k", text.clone().boxed()),
        one("t", integer()),
        one("f", float()),
        one("i", integer()),
        one("b", prop_oneof![Just("true".to_string()), Just("false".to_string())].boxed()),
        one("s", text.boxed()),
        one("unknown", float()),
        one("\\u006b", float()),
    ];
    (space(), named, space(), space(), space())
        .prop_map(|(before, (name, value), a, b, c)| format!("{before}\"{name}\"{a}:{b}{value}{c}"))
}

fn row() -> impl Strategy<Value = String> {
    let head = prop_oneof![Just(""), Just("\"k\":\"device-1\",\"t\":1,"), Just("\"k\": \"a\", \"t\": 1700000000123, ")];
    (head, prop::collection::vec(member(), 1..7)).prop_map(|(head, members)| format!("{{{head}{}}}", members.join(",")))
}

/// Bodies of generated rows, often the same row several times (so that it is predicted), sometimes with changed bytes.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let repeated = (row(), 1usize..3).prop_map(|(row, count)| vec![row; count]);
    let changes = prop::collection::vec(
        (any::<prop::sample::Index>(), prop_oneof![any::<u8>(), prop::sample::select(b"\"{}[],:\\\n 0-.eE".to_vec())]),
        0..3,
    );
    (prop::collection::vec(repeated, 1..6), changes, any::<bool>()).prop_map(|(rows, changes, mutated)| {
        let mut body = rows.concat().join("\n").into_bytes();
        for (index, byte) in changes {
            if mutated {
                let at = index.index(body.len());
                body[at] = byte;
            }
        }
        body
    })
}

/// An element that is no JSON, in half of the cases.
fn damage() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(vec![
        r#"{"k":"a","t":1,"f":NaN}"#,
        r#"{"k":"a","t":1,"f":-Infinity}"#,
        r#"{"k":"a","t":1,}"#,
        r#"{"k":"a" "t":1}"#,
        r#"{"k":"\q,]","t":1}"#,
        "{\"k\":\"a\nb\",\"t\":1}",
        r#"{k:"a",t:[1,,2]}"#,
        "{'k':1,'t':2}",
        "NaN",
        "tru",
        "+1",
        r#"{"k":"a","t":1.}"#,
    ]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn both_readers_agree_on_lines(body in body(), integer_key in any::<bool>(), bytes in any::<bool>()) {
        let key = if integer_key { r#"{"field":"i"}"# } else { r#"{"field":"k"}"# };
        let positions = if bytes { Positions::Bytes } else { Positions::Ordinal };
        let mut fast_decoder = decoder_for(key, MS, true);
        let general = decoder_for(key, MS, false).decode_ndjson(&body, NOW_US, positions);
        let fast = fast_decoder.decode_ndjson(&body, NOW_US, positions);
        same(&fast, &general)?;
        // now with everything predicted
        same(&fast_decoder.decode_ndjson(&body, NOW_US, positions), &general)?;
        if !bytes && !integer_key {
            as_serde_reads(&fast, &body)?;
        }
    }

    #[test]
    fn both_readers_agree_on_documents(body in body()) {
        let text = String::from_utf8_lossy(&body);
        let array = format!("[{}]", text.trim_end().replace('\n', ",\n"));
        let general = decoder_for(r#"{"field":"k"}"#, MS, false).decode_json(array.as_bytes(), NOW_US);
        match (decoder().decode_json(array.as_bytes(), NOW_US), general) {
            (Ok(fast), Ok(general)) => {
                same(&fast, &general)?;
                let malformed = fast.rejects.iter().any(|reject| reject.reason.starts_with("malformed JSON"));
                prop_assert_eq!(serde_json::from_str::<IgnoredAny>(&array).is_err(), malformed);
            }
            (fast, general) => {
                prop_assert_eq!(fast.err(), general.err());
                prop_assert!(serde_json::from_str::<IgnoredAny>(&array).is_err());
            }
        }
    }

    #[test]
    fn damaged_elements_leave_the_others_as_they_are(rows in prop::collection::vec((0i64..1000, damage()), 1..20)) {
        let good = |at: &i64| format!(r#"{{"k":"key,]}}{at}","t":{at},"z":[{{"y":"\"]"}}]}}"#);
        let all: Vec<String> = rows.iter().map(|(at, damage)| damage.map_or_else(|| good(at), str::to_string)).collect();
        let undamaged: Vec<String> = rows.iter().filter(|(_, damage)| damage.is_none()).map(|(at, _)| good(at)).collect();
        let read = |rows: &[String]| decoder().decode_json(format!("[{}]", rows.join(" ,\n")).as_bytes(), NOW_US).unwrap();
        let (batch, expected) = (read(&all), read(&undamaged));
        prop_assert_eq!((&batch.time_us, keys(&batch)), (&expected.time_us, keys(&expected)));
        prop_assert_eq!((batch.rows(), batch.rejects.len()), (undamaged.len(), all.len() - undamaged.len()));
        let texts: Vec<&str> = batch.rejects.iter().map(|reject| reject.text.as_str()).collect();
        let damaged: Vec<&str> = rows.iter().filter_map(|(_, damage)| damage.map(str::trim)).collect();
        prop_assert_eq!(texts, damaged);
    }

    #[test]
    fn a_body_may_be_cut_at_any_line(body in body(), cut in any::<prop::sample::Index>()) {
        let whole = decoder().decode_ndjson(&body, NOW_US, Positions::Bytes);
        let newline = body[cut.index(body.len())..].iter().position(|byte| *byte == b'\n');
        if let Some(at) = newline.map(|distance| cut.index(body.len()) + distance + 1) {
            let mut decoder = decoder();
            let first = decoder.decode_ndjson(&body[..at], NOW_US, Positions::Bytes);
            let second = decoder.decode_ndjson(&body[at..], NOW_US, Positions::Bytes);
            prop_assert_eq!([first.time_us.clone(), second.time_us.clone()].concat(), whole.time_us.clone());
            let offsets = (0..first.rows()).map(|row| first.relative_offset(row));
            let offsets = offsets.chain((0..second.rows()).map(|row| second.relative_offset(row) + at as u64));
            prop_assert_eq!(offsets.collect::<Vec<_>>(), (0..whole.rows()).map(|row| whole.relative_offset(row)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
        decoder().decode_ndjson(&body, NOW_US, Positions::Bytes);
        let _ = decoder().decode_json(&body, NOW_US);
    }
}
