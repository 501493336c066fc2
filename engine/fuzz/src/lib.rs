//! What the fuzz targets share: schemas, and what must hold for every batch of rows.

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, ArrayRef};
use arrow_buffer::NullBuffer;
use streamjob_core::batch::{Keys, MAX_REJECTED_TEXT_BYTES, RowBatch, hash_key};
use streamjob_core::config::SchemaConfig;
use streamjob_core::journal::{decode_record, encode_record};

/// The wall clock of all targets.
pub const NOW_US: i64 = 1_700_000_000_000_000;
/// How far a row may be in the future.
pub const MAX_AHEAD_US: i64 = 86_400_000_000;

const TIMES: [&str; 5] = [
    r#"{"field":"t","unit":"ms","format":null,"timezone":"UTC"}"#,
    r#"{"field":"t","unit":"s","format":null,"timezone":"UTC"}"#,
    r#"{"field":"t","unit":"ns","format":null,"timezone":"UTC"}"#,
    r#"{"field":"t","unit":null,"format":"rfc3339","timezone":"UTC"}"#,
    r#"{"field":"t","unit":null,"format":"%Y-%m-%d %H:%M:%S.%f","timezone":"Europe/Berlin"}"#,
];
const KEYS: [&str; 3] = [r#"{"field":"k"}"#, r#"{"field":"i"}"#, r#"{"const":"machine"}"#];
const FIELDS: &str = r#"[{"name":"k","type":"string"},{"name":"f","type":"float64"},{"name":"i","type":"int64"},{"name":"b","type":"bool"},{"name":"s","type":"string"}]"#;

/// One of the schemas; `b'0'` is the first.
pub fn schema(choice: u8) -> SchemaConfig {
    let choice = usize::from(choice.wrapping_sub(b'0'));
    let (time, key) = (TIMES[choice % TIMES.len()], KEYS[choice / TIMES.len() % KEYS.len()]);
    serde_json::from_str(&format!(r#"{{"key":{key},"time":{time},"fields":{FIELDS}}}"#)).expect("a valid schema")
}

/// Text of each row's key.
pub fn keys(batch: &RowBatch) -> Vec<&[u8]> {
    let reader = batch.key_reader();
    (0..batch.rows()).map(|row| reader.get(row)).collect()
}

fn real_nulls(array: &ArrayRef) -> Option<&NullBuffer> {
    array.nulls().filter(|nulls| nulls.null_count() > 0)
}

/// The bits of a float column's slots.
fn bits(array: &ArrayRef) -> Option<Vec<u64>> {
    array.as_primitive_opt::<Float64Type>().map(|floats| floats.values().iter().map(|value| value.to_bits()).collect())
}

/// Asserts what every batch promises, wherever it comes from.
pub fn assert_sound(batch: &RowBatch) {
    let rows = batch.rows();
    assert_eq!(batch.key_hash.len(), rows);
    for column in &batch.columns {
        assert_eq!(column.len(), rows);
        column.to_data().validate_full().expect("a valid Arrow array");
        if let Some(floats) = column.as_primitive_opt::<Float64Type>() {
            for row in (0..rows).filter(|row| floats.is_null(*row)) {
                assert!(floats.values()[row].is_nan(), "a null float slot holds NaN");
            }
        }
    }
    if let Keys::Text(array) = &batch.keys {
        assert_eq!(array.len(), rows);
        array.to_data().validate_full().expect("a valid Arrow array");
    }
    for (row, key) in keys(batch).into_iter().enumerate() {
        assert_eq!(batch.key_hash[row], hash_key(key));
    }
    let offsets: Vec<u64> = (0..rows).map(|row| batch.relative_offset(row)).collect();
    assert!(offsets.is_sorted_by(|a, b| a < b), "offsets ascend");
    assert!(offsets.last().is_none_or(|last| *last < batch.span), "offsets lie within the span");
    assert!(batch.rejects.iter().all(|reject| u64::from(reject.relative_offset) < batch.span));
}

/// Asserts what a decoder promises besides.
pub fn assert_decoded(batch: &RowBatch, latest_us: i64) {
    assert_sound(batch);
    assert!(batch.time_us.iter().all(|time_us| *time_us <= latest_us));
    assert!(batch.rejects.is_sorted_by(|a, b| a.relative_offset < b.relative_offset && a.row < b.row));
    let taken: Vec<u64> = (0..batch.rows()).map(|row| batch.relative_offset(row)).collect();
    for reject in &batch.rejects {
        assert!(taken.binary_search(&u64::from(reject.relative_offset)).is_err(), "a row is taken or rejected");
        assert!(reject.text.len() <= MAX_REJECTED_TEXT_BYTES && !reject.reason.is_empty());
    }
}

/// Asserts that the journal gives a batch back.
pub fn assert_kept(batch: &RowBatch) {
    if batch.span == 0 {
        return;
    }
    let mut frame = Vec::new();
    encode_record(batch, None, 7, &mut frame).expect("a small batch");
    let (record, _) = decode_record(&frame).expect("the frame was just made");
    assert_same(&record.batch, batch);
}

/// Asserts that two batches hold the same rows, to the bit.
pub fn assert_same(left: &RowBatch, right: &RowBatch) {
    assert_eq!(left.span, right.span);
    assert_eq!(left.time_us, right.time_us);
    assert_eq!(left.key_hash, right.key_hash);
    assert_eq!(left.relative_offset, right.relative_offset);
    assert_eq!(left.rejects, right.rejects);
    assert_eq!(keys(left), keys(right));
    assert_eq!(left.columns.len(), right.columns.len());
    for (left, right) in std::iter::zip(&left.columns, &right.columns) {
        assert_eq!(real_nulls(left), real_nulls(right));
        match (bits(left), bits(right)) {
            (Some(left), Some(right)) => assert_eq!(left, right),
            _ => assert_eq!(left, right),
        }
    }
}
