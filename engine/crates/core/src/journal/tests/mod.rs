//! Tests of the journal, and what they share.

mod log;
mod records;

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, Float64Array, StringArray};

use super::*;
use crate::batch::{Keys, hash_key};

/// A batch of `rows` readings; the text makes it differ from others and longer.
pub(super) fn readings(rows: usize, text: &str) -> RowBatch {
    let keys: Vec<String> = (0..rows).map(|row| format!("device-{:05}{text}", row * 7919 % 10_000)).collect();
    RowBatch {
        time_us: (0..rows as i64).map(|row| 1_700_000_000_000_000 + row * 1000).collect(),
        key_hash: keys.iter().map(|key| hash_key(key.as_bytes())).collect(),
        relative_offset: None,
        span: rows.max(1) as u64,
        keys: Keys::Column(0),
        columns: vec![
            Arc::new(StringArray::from_iter_values(keys)) as ArrayRef,
            Arc::new(Float64Array::from_iter_values((0..rows).map(|row| (2000 + row % 1000) as f64 / 100.0))),
            Arc::new(Float64Array::from_iter_values((0..rows).map(|row| (row as f64).sin()))),
        ],
        rejects: Vec::new(),
        source: None,
    }
}

pub(super) fn request(id: &str) -> RequestRecord {
    let errors = vec![RequestError { row: 3, field: "temperature".into(), reason: "is no number".into() }];
    RequestRecord { id: id.into(), body_hash: 99, received_us: -5, accepted: 10, rejected: 1, errors }
}

pub(super) fn assert_same(left: &RowBatch, right: &RowBatch) {
    assert_eq!(left.time_us, right.time_us);
    assert_eq!(left.key_hash, right.key_hash);
    assert_eq!(left.relative_offset, right.relative_offset);
    assert_eq!(left.span, right.span);
    assert_eq!(left.rejects, right.rejects);
    assert_eq!(left.columns.len(), right.columns.len());
    for (left, right) in left.columns.iter().zip(&right.columns) {
        assert_eq!(left.data_type(), right.data_type());
        assert_eq!(left.nulls().filter(|n| n.null_count() > 0), right.nulls().filter(|n| n.null_count() > 0));
        match (left.as_any().downcast_ref::<Float64Array>(), right.as_any().downcast_ref::<Float64Array>()) {
            (Some(left), Some(right)) => {
                for row in 0..left.len() {
                    assert_eq!(left.value(row).to_bits(), right.value(row).to_bits(), "row {row}");
                }
            }
            _ => assert_eq!(left, right),
        }
    }
    match (&left.keys, &right.keys) {
        (Keys::Column(left), Keys::Column(right)) => assert_eq!(left, right),
        (Keys::Text(left), Keys::Text(right)) => assert_eq!(left, right),
        (Keys::Const(left), Keys::Const(right)) => assert_eq!(left, right),
        other => panic!("{other:?}"),
    }
}
