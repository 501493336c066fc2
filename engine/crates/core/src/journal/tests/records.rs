//! Round trips of records, and damaged ones.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use proptest::prelude::*;

use super::super::*;
use super::{assert_same, request};
use crate::batch::{Keys, Reject, hash_key};

fn floats() -> impl Strategy<Value = Vec<Option<f64>>> {
    prop_oneof![
        prop::collection::vec(prop::option::weighted(0.9, any::<f64>()), 0..80),
        prop::collection::vec(prop::option::weighted(0.9, (-1_000_000i64..1_000_000).prop_map(|n| n as f64 / 100.0)), 0..2000),
        prop::collection::vec((-1000i64..1000).prop_map(|n| Some(n as f64)), 0..2000),
        Just(vec![Some(-0.0), Some(f64::NAN), Some(f64::INFINITY), None, Some(1e300), Some(5e-324)]),
    ]
}

/// A null float slot holds NaN, as decoders leave it.
fn float_array(values: &[Option<f64>]) -> Float64Array {
    let nulls = arrow_buffer::NullBuffer::from_iter(values.iter().map(Option::is_some));
    let values: Vec<f64> = values.iter().map(|value| value.unwrap_or(f64::NAN)).collect();
    Float64Array::new(values.into(), Some(nulls))
}

prop_compose! {
    fn batches()(
        floats in floats(),
        seed in any::<u64>(),
        key_kind in 0..3,
        gaps in any::<bool>(),
        sliced in any::<bool>(),
        rejects in prop::collection::vec(("[a-z]{0,5}", ".{0,40}"), 0..4),
    ) -> RowBatch {
        let rows = floats.len();
        let mixed = |row: usize| (seed ^ row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let text = |row: usize| "é".repeat(mixed(row) as usize % 9) + &row.to_string();
        let strings: StringArray = (0..rows).map(|row| Some(text(row))).collect();
        let nullable: StringArray = (0..rows).map(|row| (mixed(row) % 3 > 0).then(|| text(row + 1))).collect();
        let ints: Int64Array = (0..rows).map(|row| (mixed(row) % 5 > 0).then(|| mixed(row) as i64)).collect();
        let bools: BooleanArray = (0..rows).map(|row| (mixed(row) % 7 > 0).then(|| mixed(row) % 2 == 0)).collect();
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(float_array(&floats)), Arc::new(strings.clone()), Arc::new(nullable), Arc::new(ints), Arc::new(bools)];
        let from = if sliced { rows.min(3) } else { 0 };
        columns = columns.iter().map(|column| column.slice(from, rows - from)).collect();
        let strings = strings.slice(from, rows - from);
        let rows = rows - from;
        let keys = match key_kind {
            0 => Keys::Column(1),
            1 => Keys::Text(Arc::new(strings.clone())),
            _ => Keys::Const(Arc::from("the machine")),
        };
        let key = |row: usize| if key_kind == 2 { "the machine" } else { strings.value(row) };
        let offsets: Option<Vec<u32>> = gaps.then(|| (0..rows as u32).map(|row| row * 2 + (row & 1)).collect());
        let last = offsets.as_ref().and_then(|offsets| offsets.last().copied()).unwrap_or(rows as u32);
        let span = u64::from(last) + 1 + rejects.len() as u64;
        RowBatch {
            time_us: (0..rows).map(|row| if seed % 2 == 0 { mixed(row) as i64 } else { row as i64 * 250 }).collect(),
            key_hash: (0..rows).map(|row| hash_key(key(row).as_bytes())).collect(),
            relative_offset: offsets,
            span,
            keys,
            columns,
            rejects: rejects.into_iter().enumerate().map(|(row, (field, text))| Reject {
                relative_offset: last + row as u32, row: row as u32, field, reason: "wrong".into(), text,
            }).collect(),
            source: None,
        }
    }
}

proptest! {
    #[test]
    fn every_batch_comes_back(batch in batches(), first_offset in any::<u64>(), named in any::<bool>()) {
        let request = named.then(|| request("r-1"));
        let mut frame = Vec::new();
        encode_record(&batch, request.as_ref(), first_offset, &mut frame).unwrap();
        let (record, used) = decode_record(&frame).unwrap();
        prop_assert_eq!(used, frame.len());
        prop_assert_eq!(record.first_offset, first_offset);
        prop_assert_eq!(&record.request, &request);
        assert_same(&batch, &record.batch);
    }

    #[test]
    fn a_source_and_its_position_come_back_with_the_rows(batch in batches(), position in prop::option::of(".{0,40}")) {
        let origin = Origin { source: "meters".into(), position };
        let mut encoded = RecordEncoder::new().encode_from(origin.clone(), &batch).unwrap();
        prop_assert_eq!(encoded.origin(), Some(&origin));
        let (record, _) = decode_record(encoded.seal(9)).unwrap();
        assert_same(&batch, &record.batch);
        prop_assert_eq!(record.batch.source.as_deref(), Some("meters"));
        prop_assert_eq!(record.origin, Some(origin));
    }

    /// Past the checksums, as a fuzzer goes: an error or a record, never a panic.
    #[test]
    fn damaged_payloads_are_errors(
        batch in batches(),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        cut in any::<bool>(),
        pushed in any::<bool>(),
    ) {
        let mut frame = Vec::new();
        encode_record(&batch, Some(&request("r")), 5, &mut frame).unwrap();
        if pushed {
            let origin = Origin { source: "meters".into(), position: Some("7".into()) };
            frame = RecordEncoder::new().encode_from(origin, &batch).unwrap().seal(5).to_vec();
        }
        let mut payload = frame[FRAME_HEADER_BYTES..].to_vec();
        let at = at.index(payload.len());
        if cut { payload.truncate(at) } else { payload[at] ^= 1u8 << bit }
        let _ = decode_payload(&payload, 5, batch.span);
    }

    #[test]
    fn arbitrary_bytes_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_payload(&bytes, 0, 100);
        prop_assert!(decode_record(&bytes).is_err());
    }
}

/// Such a record is written by nobody but damage; a value in a null slot would count as one.
#[test]
fn null_floats_are_nan_whatever_the_record_holds() {
    for values in [vec![5.5, 1e300], vec![5.5, 2.0]] {
        let nulls = arrow_buffer::NullBuffer::from(vec![false, true]);
        let batch = RowBatch {
            time_us: vec![0, 1],
            key_hash: vec![0, 0],
            columns: vec![Arc::new(Float64Array::new(values.into(), Some(nulls)))],
            ..RowBatch::empty(2)
        };
        let mut frame = Vec::new();
        encode_record(&batch, None, 0, &mut frame).unwrap();
        let (record, _) = decode_record(&frame).unwrap();
        let floats = record.batch.columns[0].as_any().downcast_ref::<Float64Array>().unwrap();
        assert!(floats.values()[0].is_nan() && floats.values()[1].is_finite());
    }
}

#[test]
fn a_position_that_is_too_long_is_refused_and_says_what_to_do() {
    let origin = Origin { source: "meters".into(), position: Some("9".repeat(MAX_POSITION_BYTES + 1)) };
    let error = RecordEncoder::new().encode_from(origin, &RowBatch::empty(1)).unwrap_err();
    assert!(error.message().starts_with("the source meters: its position has 65537 bytes"), "{error}");
}
