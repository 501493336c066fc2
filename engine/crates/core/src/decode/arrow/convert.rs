//! From the columns of a batch to those of the job: types, nulls, keys and times; rows that do not fit are taken out.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal128Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, StringArray, new_null_array};
use arrow_schema::{DataType, TimeUnit};

use super::batch::Batch;
use crate::batch::{Keys, Reject, RowBatch, hash_key};
use crate::config::FieldType;
use crate::decode::columns::Column;
use crate::decode::layout::{KeyRule, Layout, Slot};
use crate::decode::scalar::{self, Scalar};

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The rows of a batch that do not fit.
pub(super) struct Wrong {
    /// By row: the first field that does not fit, and why. Beyond `max` without a reason.
    by_row: Vec<Option<(Slot, String)>>,
    count: usize,
    max: usize,
}

impl Wrong {
    fn note(&mut self, row: usize, slot: Slot, reason: impl Into<String>) {
        let wrong = &mut self.by_row[row];
        if wrong.is_none() {
            self.count += 1;
            *wrong = Some((slot, if self.count > self.max { String::new() } else { reason.into() }));
        }
    }

    fn note_all(&mut self, slot: Slot, reason: &str) {
        (0..self.by_row.len()).for_each(|row| self.note(row, slot, reason));
    }
}

/// The rows of one batch, before those are taken out that do not fit.
pub(super) struct Chunk {
    /// In the order of the job's fields; a place that does not fit holds anything.
    columns: Vec<ArrayRef>,
    time_us: Vec<i64>,
    wrong: Wrong,
    /// The columns as they came, for the text of rejects.
    batch: Batch,
    skip: usize,
}

impl Chunk {
    /// Converts all columns; the first `skip` rows are left out. Of more than `max_rejects` wrong rows is known that they are too
    /// many.
    pub fn convert(layout: &Layout, latest_us: i64, batch: Batch, skip: usize, max_rejects: usize) -> Chunk {
        let mut wrong = Wrong { by_row: vec![None; batch.rows], count: 0, max: max_rejects };
        let convert = |slot| convert_column(layout, slot, &batch, &mut wrong);
        let columns = (0..layout.time_slot()).map(convert).collect();
        let time_us = convert_time(layout, latest_us, &batch, &mut wrong);
        Chunk { columns, time_us, wrong, batch, skip }
    }

    fn rejects(&self, layout: &Layout, first: usize) -> impl Iterator<Item = Reject> {
        self.wrong.by_row.iter().enumerate().skip(self.skip).filter_map(move |(row, wrong)| {
            let (slot, reason) = wrong.as_ref()?;
            let place = (first + row - self.skip) as u32;
            let (field, reason) = (layout.names[*slot].clone(), reason.clone());
            Some(Reject { relative_offset: place, row: place, field, reason, text: self.text(layout, row) })
        })
    }

    /// A row as a JSON object of the fields that are read.
    fn text(&self, layout: &Layout, row: usize) -> String {
        let mut text = String::new();
        for (slot, column) in self.batch.columns.iter().enumerate() {
            if let Some(column) = column {
                scalar_at(column, row).write_member(&layout.names[slot], &mut text);
            }
        }
        scalar::end_members(text)
    }

    fn rows(&self) -> usize {
        self.batch.rows - self.skip
    }

    /// How many rows do not fit, those that are left out too.
    pub fn wrong_rows(&self) -> usize {
        self.wrong.count
    }
}

/// The rows that do not fit, in order.
pub(super) fn rejects<'a>(layout: &'a Layout, chunks: &'a [Chunk]) -> impl Iterator<Item = Reject> + 'a {
    let firsts = chunks.iter().scan(0, |next, chunk| Some(std::mem::replace(next, *next + chunk.rows())));
    std::iter::zip(chunks, firsts).flat_map(|(chunk, first)| chunk.rejects(layout, first))
}

/// One batch of all rows that fit, in order.
pub(super) fn join(layout: &Layout, chunks: Vec<Chunk>) -> Result<RowBatch, String> {
    let span: usize = chunks.iter().map(Chunk::rows).sum();
    let rejects: Vec<Reject> = rejects(layout, &chunks).collect();
    let fits: Vec<bool> = chunks.iter().flat_map(|chunk| chunk.wrong.by_row[chunk.skip..].iter().map(Option::is_none)).collect();
    let kept = |row: &usize| fits[*row];
    let offsets = (!rejects.is_empty()).then(|| (0..span).filter(kept).map(|row| row as u32).collect());
    let mut time_us: Vec<i64> = chunks.iter().flat_map(|chunk| chunk.time_us[chunk.skip..].iter().copied()).collect();
    let mut columns = join_columns(layout, &chunks)?;
    if !rejects.is_empty() {
        let mut row = 0;
        time_us.retain(|_| {
            row += 1;
            fits[row - 1]
        });
        let mask = BooleanArray::from(fits);
        for column in &mut columns {
            *column = arrow_select::filter::filter(column, &mask).map_err(|error| error.to_string())?;
        }
    }
    let (keys, key_hash) = keys_of(layout, &columns, time_us.len());
    Ok(RowBatch { time_us, key_hash, relative_offset: offsets, span: span as u64, keys, columns, rejects, source: None })
}

fn join_columns(layout: &Layout, chunks: &[Chunk]) -> Result<Vec<ArrayRef>, String> {
    let join = |slot: Slot| {
        let parts: Vec<ArrayRef> = chunks.iter().map(|chunk| chunk.columns[slot].slice(chunk.skip, chunk.rows())).collect();
        match parts.as_slice() {
            [] => Ok(new_null_array(&arrow_type(layout.types[slot]), 0)),
            [one] => Ok(one.clone()),
            _ => {
                let parts: Vec<&dyn Array> = parts.iter().map(|part| &**part).collect();
                arrow_select::concat::concat(&parts).map_err(|error| error.to_string())
            }
        }
    };
    (0..layout.time_slot()).map(join).collect()
}

fn keys_of(layout: &Layout, columns: &[ArrayRef], rows: usize) -> (Keys, Vec<u64>) {
    match &layout.key {
        KeyRule::Const { text, hash } => (Keys::Const(text.clone()), vec![*hash; rows]),
        KeyRule::Column(column) => {
            let texts = columns[*column].as_string::<i32>();
            (Keys::Column(*column), (0..rows).map(|row| hash_key(texts.value(row).as_bytes())).collect())
        }
        KeyRule::Integer(column) => {
            let numbers = columns[*column].as_primitive::<Int64Type>().values();
            let texts: StringArray = numbers.iter().map(|number| Some(number.to_string())).collect();
            let hashes = (0..rows).map(|row| hash_key(texts.value(row).as_bytes())).collect();
            (Keys::Text(Arc::new(texts)), hashes)
        }
    }
}

fn arrow_type(data_type: FieldType) -> DataType {
    match data_type {
        FieldType::Float64 => DataType::Float64,
        FieldType::Int64 => DataType::Int64,
        FieldType::Bool => DataType::Boolean,
        FieldType::String => DataType::Utf8,
    }
}

fn convert_column(layout: &Layout, slot: Slot, batch: &Batch, wrong: &mut Wrong) -> ArrayRef {
    let (data_type, is_key) = (layout.types[slot], layout.key_slot() == Some(slot));
    let Some(array) = &batch.columns[slot] else {
        if let Some(reason) = scalar::missing(layout, slot) {
            wrong.note_all(slot, reason);
        }
        return nulls_of(data_type, batch.rows);
    };
    let is_whole = !(is_key && array.null_count() > 0);
    match cast(data_type, array).filter(|_| is_whole) {
        Some(converted) => converted,
        None => {
            let mut column = Column::with_capacity(data_type, batch.rows, 0);
            for row in 0..batch.rows {
                if let Err(reason) = scalar::push_to(&mut column, is_key, scalar_at(array, row)) {
                    column.push_null();
                    wrong.note(row, slot, reason);
                }
            }
            column.finish()
        }
    }
}

/// Nulls; a null float holds NaN.
fn nulls_of(data_type: FieldType, rows: usize) -> ArrayRef {
    let mut column = Column::with_capacity(data_type, rows, 0);
    (0..rows).for_each(|_| column.push_null());
    column.finish()
}

/// The whole column at once, where every value of its type fits.
fn cast(data_type: FieldType, array: &ArrayRef) -> Option<ArrayRef> {
    use DataType::{
        Boolean, Float16, Float32, Float64, Int8, Int16, Int32, Int64, LargeUtf8, UInt8, UInt16, UInt32, UInt64, Utf8, Utf8View,
    };
    let from = array.data_type();
    let to = arrow_type(data_type);
    let fits = match data_type {
        FieldType::Float64 => {
            matches!(from, Float64 | Float32 | Float16 | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64)
        }
        FieldType::Int64 => matches!(from, Int64 | Int32 | Int16 | Int8 | UInt8 | UInt16 | UInt32),
        FieldType::Bool => matches!(from, Boolean),
        FieldType::String => matches!(from, Utf8 | LargeUtf8 | Utf8View),
    };
    let converted = match fits {
        false => return None,
        true if *from == to => array.clone(),
        true => arrow_cast::cast(array, &to).ok()?,
    };
    Some(if data_type == FieldType::Float64 { finite(&converted) } else { converted })
}

/// Null, with NaN in its slot, wherever a float is null, NaN or infinite.
fn finite(array: &ArrayRef) -> ArrayRef {
    let floats = array.as_primitive::<Float64Type>();
    let is_clean = floats.null_count() == 0 && floats.values().iter().all(|value| value.is_finite());
    if is_clean {
        return array.clone();
    }
    let value = |row| if floats.is_valid(row) { floats.value(row) } else { f64::NAN };
    let values: Vec<f64> = (0..floats.len()).map(value).map(|value| if value.is_finite() { value } else { f64::NAN }).collect();
    let nulls = arrow_buffer::NullBuffer::from_iter(values.iter().map(|value| !value.is_nan()));
    Arc::new(Float64Array::new(values.into(), Some(nulls)))
}

fn convert_time(layout: &Layout, latest_us: i64, batch: &Batch, wrong: &mut Wrong) -> Vec<i64> {
    let slot = layout.time_slot();
    let Some(array) = &batch.columns[slot] else {
        let reason = scalar::missing(layout, slot).unwrap_or_default();
        wrong.note_all(slot, reason);
        return vec![0; batch.rows];
    };
    let convert = |row| {
        scalar::time_us(layout, latest_us, scalar_at(array, row)).unwrap_or_else(|reason| {
            wrong.note(row, slot, reason);
            0
        })
    };
    (0..batch.rows).map(convert).collect()
}

/// One value of any column that [`Batch`] can hold.
fn scalar_at(array: &ArrayRef, row: usize) -> Scalar<'_> {
    if array.is_null(row) {
        return Scalar::Null;
    }
    fn value<T: ArrowPrimitiveType>(array: &ArrayRef, row: usize) -> T::Native {
        array.as_primitive::<T>().value(row)
    }
    let moment = |raw: i64, factor: i64| Scalar::Moment { us: raw.saturating_mul(factor), raw };
    let text = |bytes| std::str::from_utf8(bytes).map_or(Scalar::Other("bytes that are no text"), Scalar::Text);
    match array.data_type() {
        DataType::Boolean => Scalar::Bool(array.as_boolean().value(row)),
        DataType::Int8 => Scalar::Int(value::<Int8Type>(array, row).into()),
        DataType::Int16 => Scalar::Int(value::<Int16Type>(array, row).into()),
        DataType::Int32 => Scalar::Int(value::<Int32Type>(array, row).into()),
        DataType::Int64 => Scalar::Int(value::<Int64Type>(array, row)),
        DataType::UInt8 => Scalar::Int(value::<UInt8Type>(array, row).into()),
        DataType::UInt16 => Scalar::Int(value::<UInt16Type>(array, row).into()),
        DataType::UInt32 => Scalar::Int(value::<UInt32Type>(array, row).into()),
        DataType::UInt64 => {
            let number = value::<UInt64Type>(array, row);
            i64::try_from(number).map_or(Scalar::BigInt(number as f64), Scalar::Int)
        }
        DataType::Float16 => Scalar::Float(value::<Float16Type>(array, row).to_f64()),
        DataType::Float32 => Scalar::Float(value::<Float32Type>(array, row).into()),
        DataType::Float64 => Scalar::Float(value::<Float64Type>(array, row)),
        DataType::Decimal128(_, scale) => decimal(value::<Decimal128Type>(array, row), *scale),
        DataType::Utf8 => Scalar::Text(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Scalar::Text(array.as_string::<i64>().value(row)),
        DataType::Utf8View => Scalar::Text(array.as_string_view().value(row)),
        DataType::Binary => text(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => text(array.as_binary::<i64>().value(row)),
        DataType::Date32 => moment(value::<Date32Type>(array, row).into(), MICROS_PER_DAY),
        DataType::Date64 => moment(value::<Date64Type>(array, row), 1_000),
        DataType::Timestamp(TimeUnit::Second, _) => moment(value::<TimestampSecondType>(array, row), 1_000_000),
        DataType::Timestamp(TimeUnit::Millisecond, _) => moment(value::<TimestampMillisecondType>(array, row), 1_000),
        DataType::Timestamp(TimeUnit::Microsecond, _) => moment(value::<TimestampMicrosecondType>(array, row), 1),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let raw = value::<TimestampNanosecondType>(array, row);
            Scalar::Moment { us: raw.div_euclid(1_000), raw }
        }
        DataType::Null => Scalar::Null,
        _ => Scalar::Other("a value that is not read"),
    }
}

/// A decimal as the nearest float, or as an integer where it has no fraction.
fn decimal(unscaled: i128, scale: i8) -> Scalar<'static> {
    match (i64::try_from(unscaled), scale) {
        (Ok(whole), 0) => Scalar::Int(whole),
        _ => format!("{unscaled}e{}", -i32::from(scale)).parse().map_or(Scalar::Other("a decimal"), Scalar::Float),
    }
}
