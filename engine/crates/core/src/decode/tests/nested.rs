//! Members of members, read by both readers and by serde_json.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const PATHS: [(&str, &str, &[&str]); 6] = [
    ("k", "string", &["k"]),
    ("f", "float64", &["p", "f"]),
    ("deep", "int64", &["p", "q", "i"]),
    ("dotted", "string", &["p", "a.b"]),
    ("b", "bool", &["r", "b"]),
    ("s", "string", &["s"]),
];

fn nested(general: bool) -> Decoder {
    let field = |(name, kind, path): (&str, &str, &[&str])| serde_json::json!({"name": name, "type": kind, "path": path});
    let fields: Vec<Value> = PATHS.into_iter().map(field).collect();
    let time = serde_json::json!({"field": "t", "path": ["p", "t"], "unit": "ms", "format": null, "timezone": "UTC"});
    let schema = serde_json::json!({"key": {"field": "k"}, "time": time, "fields": fields});
    let mut decoder = Decoder::new(&serde_json::from_value(schema).unwrap(), 32, DAY_US).unwrap();
    if general {
        decoder.use_general_parser_only();
    }
    decoder
}

fn read(body: &str) -> RowBatch {
    let general = nested(true).decode_ndjson(body.as_bytes(), NOW_US, Positions::Ordinal);
    let mut decoder = nested(false);
    for _ in 0..2 {
        let fast = decoder.decode_ndjson(body.as_bytes(), NOW_US, Positions::Ordinal);
        super::same(&fast, &general).unwrap();
    }
    general
}

#[test]
fn members_of_members_become_columns() {
    let batch = read(concat!(
        r#"{"k":"a","p":{"t":1,"f":1.5,"q":{"i":7},"a.b":"x"},"r":{"b":true},"s":"y"}"#,
        "\n",
        r#"{ "p" : { "q" : { "z":[{}], "i" : 8 } , "t" : 2 } , "k" : "b" }"#,
        "\n",
        r#"{"k":"c","p":{"t":3,"q":null},"r":null}"#,
        "\n",
        r#"{"k":"d","p":{"t":4,"q":{}},"r":{},"p.f":5}"#,
    ));
    assert_eq!(batch.rejects, []);
    assert_eq!(batch.time_us, [1000, 2000, 3000, 4000]);
    assert_eq!(floats(&batch.columns[1]), [Some(1.5f64.to_bits()), None, None, None]);
    assert_eq!(integers(&batch.columns[2]), [Some(7), Some(8), None, None]);
    assert_eq!(texts(&batch.columns[3]), [Some("x"), None, None, None]);
    assert_eq!(texts(&batch.columns[5]), [Some("y"), None, None, None]);
}

#[test]
fn the_last_of_doubled_objects_wins_as_a_whole() {
    let batch = read(concat!(
        r#"{"k":"a","p":{"t":1,"f":1.5},"p":{"t":2}}"#,
        "\n",
        r#"{"k":"a","p":{"t":1},"r":{"b":true},"r":null}"#,
        "\n",
        r#"{"k":"a","r":null,"p":{"t":1},"r":{"b":true}}"#,
        "\n",
        r#"{"k":"a","p":{"t":1,"q":{"i":1},"q":{}}}"#,
    ));
    assert_eq!(batch.time_us, [2000, 1000, 1000, 1000]);
    assert_eq!(floats(&batch.columns[1])[0], None);
    assert_eq!(batch.columns[4].as_boolean().iter().collect::<Vec<_>>(), [None, None, Some(true), None]);
    assert_eq!(integers(&batch.columns[2]), [None; 4]);
}

#[test]
fn what_should_be_an_object_and_is_none_is_rejected() {
    let batch = read(concat!(
        r#"{"k":"a","p":5}"#,
        "\n",
        r#"{"k":"a","p":{"t":1,"q":[1]}}"#,
        "\n",
        r#"{"k":"a","p":null}"#,
        "\n",
        r#"{"k":"a","p":{"t":1},"r":"x"}"#,
    ));
    let told: Vec<_> = batch.rejects.iter().map(|reject| (reject.field.as_str(), reject.reason.as_str())).collect();
    assert_eq!(
        told,
        [
            ("p", "expected an object, got number 5"),
            ("p.q", "expected an object, got an array"),
            ("t", "the event time is missing"),
            ("r", "expected an object, got string \"x\""),
        ]
    );
}

#[test]
fn more_objects_than_the_fast_path_tells_apart_are_read_too() {
    let count = 200;
    let field = |n: usize| serde_json::json!({"name": format!("f{n}"), "type": "int64", "path": [format!("p{n}"), "x"]});
    let fields: Vec<Value> = (0..count).map(field).collect();
    let time = serde_json::json!({"field": "t", "path": null, "unit": "ms", "format": null, "timezone": "UTC"});
    let schema = serde_json::json!({"key": {"const": "k"}, "time": time, "fields": fields});
    let mut decoder = Decoder::new(&serde_json::from_value(schema).unwrap(), 32, DAY_US).unwrap();
    let members: Vec<String> = (0..count).map(|n| format!(r#""p{n}":{{"x":{n}}}"#)).collect();
    let body = format!(r#"{{"t":1,{}}}"#, members.join(","));
    let batch = decoder.decode_ndjson(body.as_bytes(), NOW_US, Positions::Ordinal);
    assert_eq!(integers(&batch.columns[count - 1]), [Some(count as i64 - 1)]);
}

fn value(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        4 => "-?(0|[1-9][0-9]{0,4})",
        2 => Just("1.5".to_string()),
        2 => Just("null".to_string()),
        2 => Just("true".to_string()),
        3 => Just("\"x\"".to_string()),
        1 => Just("[{\"t\":1}]".to_string()),
        1 => Just("\"\\u00e4\"".to_string()),
        1 => Just("{}".to_string()),
    ];
    if depth == 0 { leaf.boxed() } else { prop_oneof![3 => leaf, 1 => object(depth - 1)].boxed() }
}

fn object(depth: u32) -> BoxedStrategy<String> {
    let name = prop::sample::select(vec!["k", "p", "f", "q", "i", "a.b", "r", "b", "s", "t", "z", "p.f", "\\u0070"]);
    let member = (name, prop_oneof![Just(""), Just(" ")], value(depth))
        .prop_map(|(name, space, value)| format!("{space}\"{name}\":{space}{value}{space}"));
    prop::collection::vec(member, 0..5).prop_map(|members| format!("{{{}}}", members.join(","))).boxed()
}

fn usual() -> impl Strategy<Value = String> {
    let p = ("[1-9]{1,3}", "(0|[1-9]{1,3})\\.[0-9]{1,3}", any::<bool>(), "[1-9]").prop_map(|(t, f, with_q, i)| {
        let q = if with_q { format!(",\"q\":{{\"i\":{i}}}") } else { String::new() };
        format!("{{\"t\":{t},\"f\":{f}{q},\"a.b\":\"x\"}}")
    });
    (p, object(1)).prop_map(|(p, other)| format!("{{\"k\":\"a\",\"p\":{p},\"r\":{{\"b\":true}},\"z\":{other}}}"))
}

fn lines_of() -> impl Strategy<Value = String> {
    let row = prop_oneof![3 => usual(), 1 => object(3)];
    let changed =
        (row, proptest::option::weighted(0.1, (any::<prop::sample::Index>(), "[{}\\[\\],:\" x]"))).prop_map(|(row, change)| {
            let Some((index, with)) = change else { return row };
            let at = index.index(row.len());
            let mut row = row.into_bytes();
            row[at] = with.as_bytes()[0];
            String::from_utf8_lossy(&row).into_owned()
        });
    prop::collection::vec(changed, 1..8).prop_map(|rows| rows.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn both_readers_agree_on_nested_rows(body in lines_of()) {
        let batch = read(&body);
        let rows: Vec<&str> = body.split('\n').filter(|line| !line.trim().is_empty()).collect();
        prop_assert_eq!(rows.len() as u64, batch.span);
        for row in 0..batch.rows() {
            let value: Value = serde_json::from_str(rows[batch.relative_offset(row) as usize]).unwrap();
            prop_assert_eq!(floats(&batch.columns[1])[row], value["p"]["f"].as_f64().map(f64::to_bits));
            prop_assert_eq!(texts(&batch.columns[3])[row], value["p"]["a.b"].as_str());
            if let Some(integer) = value["p"]["q"]["i"].as_i64() {
                prop_assert_eq!(integers(&batch.columns[2])[row], Some(integer));
            }
        }
    }

    #[test]
    fn a_document_gives_the_rows_of_its_lines(body in lines_of()) {
        let lines = nested(false).decode_ndjson(body.as_bytes(), NOW_US, Positions::Ordinal);
        let array = format!("[{}]", body.replace('\n', ",\n"));
        // a stray quote or bracket of a line takes others with it
        if serde_json::from_str::<IgnoredAny>(&array).is_ok() {
            let document = nested(false).decode_json(array.as_bytes(), NOW_US).unwrap();
            prop_assert_eq!(document.time_us, lines.time_us);
            prop_assert_eq!(document.columns, lines.columns);
        }
    }
}
