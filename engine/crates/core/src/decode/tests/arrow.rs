//! Arrow IPC: types, nulls, structs, and bodies that would become larger than they are.

use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    Decimal128Array, DictionaryArray, Float32Array, Int8Array, Int32Array, Int64Array, LargeStringArray, NullArray, RecordBatch,
    StringArray, StringViewArray, StructArray, TimestampNanosecondArray, UInt64Array,
};
use arrow_buffer::NullBuffer;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field};

use super::*;

const LARGE: usize = 64 << 20;

fn stream(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn keys_and_times(rows: usize) -> Vec<(&'static str, ArrayRef)> {
    let keys: StringArray = (0..rows).map(|row| Some(format!("k{row}"))).collect();
    let times: Int64Array = (0..rows).map(|row| Some(row as i64)).collect();
    vec![("k", Arc::new(keys)), ("t", Arc::new(times))]
}

fn with(name: &'static str, array: impl Array + 'static) -> RowBatch {
    let rows = array.len();
    let columns = keys_and_times(rows).into_iter().chain([(name, Arc::new(array) as ArrayRef)]).collect();
    decoder().decode_arrow(&stream(columns), LARGE, NOW_US).unwrap()
}

fn reasons(batch: &RowBatch) -> Vec<(u32, &str, &str)> {
    batch.rejects.iter().map(|reject| (reject.relative_offset, &*reject.field, &*reject.reason)).collect()
}

#[test]
fn numbers_of_any_width_are_taken_where_they_fit() {
    let batch = with("f", Int8Array::from(vec![Some(-1), None]));
    assert_eq!(floats(&batch.columns[1]), [Some((-1f64).to_bits()), None]);
    let batch = with("i", UInt64Array::from(vec![7, u64::MAX]));
    assert_eq!(integers(&batch.columns[2]), [Some(7)]);
    assert_eq!(reasons(&batch), [(1, "i", "out of the range of int64: 1.8446744073709552e+19")]);
    let batch = with("i", Float32Array::from(vec![Some(3.0), Some(2.5), Some(f32::NAN)]));
    assert_eq!((integers(&batch.columns[2]), batch.relative_offset.clone()), (vec![Some(3), None], Some(vec![0, 2])));
    assert_eq!(reasons(&batch), [(1, "i", "expected int64, got number 2.5")]);
    let decimals = Decimal128Array::from(vec![12345, -1]).with_precision_and_scale(10, 2).unwrap();
    assert_eq!(floats(&with("f", decimals).columns[1]), [Some(123.45f64.to_bits()), Some((-0.01f64).to_bits())]);
    let batch = with("f", Float32Array::from(vec![f32::INFINITY, 1.5]));
    assert_eq!(floats(&batch.columns[1]), [None, Some(1.5f64.to_bits())]);
    let batch = with("b", Int32Array::from(vec![Some(1), None]));
    assert_eq!(reasons(&batch), [(0, "b", "expected bool, got number 1")]);
}

#[test]
fn texts_come_in_several_layouts() {
    for array in [
        Arc::new(LargeStringArray::from(vec![Some("x"), None])) as ArrayRef,
        Arc::new(StringViewArray::from(vec![Some("x"), None])),
        Arc::new(vec![Some("x"), None].into_iter().collect::<DictionaryArray<Int32Type>>()),
    ] {
        assert_eq!(texts(&with("s", array).columns[4]), [Some("x"), None]);
    }
    assert_eq!(texts(&with("s", NullArray::new(2)).columns[4]), [None, None]);
}

#[test]
fn a_body_with_too_many_wrong_rows_is_refused() {
    // columns of nulls take no bytes at all
    let nulls = |rows: usize| stream(vec![("k", Arc::new(NullArray::new(rows)) as ArrayRef)]);
    let most = columns::max_rejects(nulls(1).len());
    assert_eq!(decoder().decode_arrow(&nulls(most), LARGE, NOW_US).unwrap().rejects.len(), most);
    let error = decoder().decode_arrow(&nulls(100_000), LARGE, NOW_US).unwrap_err();
    assert!(error.too_many && error.reason.ends_with("The first is row 0: k: the key is null"), "{error}");
}

#[test]
fn moments_have_their_own_unit() {
    let times = TimestampNanosecondArray::from(vec![Some(1_500), Some(-1), None]).with_timezone("Europe/Berlin");
    let columns = vec![keys_and_times(3).remove(0), ("t", Arc::new(times) as ArrayRef)];
    let batch = decoder().decode_arrow(&stream(columns), LARGE, NOW_US).unwrap();
    assert_eq!(batch.time_us, [1, -1]);
    assert_eq!(reasons(&batch), [(2, "t", "the event time is null")]);
    assert_eq!(batch.rejects[0].text, r#"{"k":"k2","t":null}"#);
}

#[test]
fn integer_keys_are_text_and_missing_ones_reject_all_rows() {
    let columns = vec![("k", Arc::new(Int32Array::from(vec![5, -6])) as ArrayRef), keys_and_times(2).remove(1)];
    let batch = decoder().decode_arrow(&stream(columns), LARGE, NOW_US).unwrap();
    assert_eq!(keys(&batch), [&b"5"[..], b"-6"]);
    let batch = decoder().decode_arrow(&stream(keys_and_times(2).split_off(1)), LARGE, NOW_US).unwrap();
    assert_eq!(reasons(&batch), [(0, "k", "the key is missing"), (1, "k", "the key is missing")]);
}

#[test]
fn members_of_structs_are_null_where_the_struct_is() {
    let fields = vec![Field::new("x", DataType::Float64, true), Field::new("y", DataType::Int32, true)];
    let values: Vec<ArrayRef> =
        vec![Arc::new(arrow_array::Float64Array::from(vec![1.5, 2.5])), Arc::new(Int32Array::from(vec![1, 2]))];
    let nested = StructArray::new(fields.into(), values, Some(NullBuffer::from(vec![true, false])));
    let schema = r#"{"key":{"field":"k"},"time":{"field":"t","unit":"ms","format":null,"timezone":"UTC"},
        "fields":[{"name":"k","type":"string"},{"name":"f","type":"float64","path":["p","x"]}]}"#;
    let mut decoder = Decoder::new(&serde_json::from_str(schema).unwrap(), 32, DAY_US).unwrap();
    let columns = |p: ArrayRef| stream(keys_and_times(2).into_iter().chain([("p", p)]).collect());
    let batch = decoder.decode_arrow(&columns(Arc::new(nested)), LARGE, NOW_US).unwrap();
    assert_eq!(floats(&batch.columns[1]), [Some(1.5f64.to_bits()), None]);
    assert!(batch.columns[1].as_primitive::<Float64Type>().values()[1].is_nan());
    let flat = decoder.decode_arrow(&columns(Arc::new(Int32Array::from(vec![1, 2]))), LARGE, NOW_US);
    assert!(flat.unwrap_err().reason.contains("must be a struct"));
}

#[test]
fn a_few_bytes_do_not_become_many() {
    let long = "x".repeat(100_000);
    let rows = 10_000;
    let dictionary: DictionaryArray<Int32Type> =
        DictionaryArray::new(Int32Array::from(vec![0; rows]), Arc::new(StringArray::from(vec![long.as_str()])));
    let mut views = arrow_array::builder::StringViewBuilder::new().with_deduplicate_strings();
    (0..rows).for_each(|_| views.append_value(&long));
    for array in [Arc::new(dictionary) as ArrayRef, Arc::new(views.finish())] {
        let body = stream(keys_and_times(rows).into_iter().chain([("s", array)]).collect());
        assert!(body.len() < 2 << 20);
        let error = decoder().decode_arrow(&body, LARGE, NOW_US).unwrap_err();
        assert!(error.reason.contains("its texts are longer than the 67108864 bytes left"), "{error}");
    }
}

#[test]
fn more_values_than_a_body_may_have_are_refused_before_they_are_made() {
    let rows = MAX_BODY_VALUES / 6 + 1;
    let body = stream(vec![("unread", Arc::new(NullArray::new(rows)) as ArrayRef)]);
    let error = decoder().decode_arrow(&body, LARGE, NOW_US).unwrap_err();
    assert!(error.reason.starts_with("more than 67108864 values"), "{error}");
}
