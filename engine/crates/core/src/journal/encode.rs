//! From rows to a frame.
//!
//! ```text
//! payload  [0][body]                     short bodies, and those that do not shrink
//!          [1][u32 body length][LZ4 block of the body]
//! body     varint rows · flags u8 · varint columns
//!          times · relative offsets? · keys · columns · rejects? · request? · origin?
//! column   [kind | NULLABLE][validity bitmap?][values]
//! ```
//!
//! Key hashes are not kept; the decoder makes them again.

use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_schema::DataType;
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use super::columns::{write_deltas, write_planes, write_varint, zigzag};
use super::frame::{FRAME_HEADER_BYTES, seal_frame, write_header};
use super::{
    COMPRESS_FROM_BYTES, MAX_BODY_BYTES, MAX_POSITION_BYTES, MAX_RECORD_COLUMNS, MAX_RECORD_ROWS, Origin, RequestRecord,
};
use crate::batch::{Keys, RowBatch};
use crate::{Error, Result};

pub(super) const PAYLOAD_RAW: u8 = 0;
pub(super) const PAYLOAD_LZ4: u8 = 1;

pub(super) const FLAG_OFFSETS: u8 = 1;
pub(super) const FLAG_REJECTS: u8 = 2;
pub(super) const FLAG_REQUEST: u8 = 4;
pub(super) const FLAG_ORIGIN: u8 = 8;

pub(super) const KEYS_COLUMN: u8 = 0;
pub(super) const KEYS_TEXT: u8 = 1;
pub(super) const KEYS_CONST: u8 = 2;

pub(super) const COLUMN_FLOAT: u8 = 0;
pub(super) const COLUMN_DECIMAL: u8 = 1;
pub(super) const COLUMN_INT: u8 = 2;
pub(super) const COLUMN_BOOL: u8 = 3;
pub(super) const COLUMN_STRING: u8 = 4;
pub(super) const COLUMN_NULLABLE: u8 = 0x80;

/// Powers of ten by which a column of decimal fractions is tried as whole numbers.
pub(super) const DECIMAL_SCALES: [f64; 6] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e6];

/// Rows by which a scale is chosen before the whole column is tried.
const DECIMAL_SAMPLE_ROWS: usize = 8;

/// A frame whose place in the log is not known yet.
#[derive(Debug, Clone)]
pub struct EncodedRecord {
    bytes: Vec<u8>,
    span: u64,
    origin: Option<Origin>,
}

impl EncodedRecord {
    /// Completes the frame with the offset of its first row and returns its bytes, in constant time.
    pub fn seal(&mut self, first_offset: u64) -> &[u8] {
        seal_frame(&mut self.bytes, first_offset);
        &self.bytes
    }

    /// The frame's length in bytes: what [`super::Journal::reserve`] wants to know.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a frame has a header.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Offsets that the record covers.
    pub fn span(&self) -> u64 {
        self.span
    }

    /// Who brought the rows, where that was a source inside of the process.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }
}

/// Encodes records; keeps its buffers from one to the next. One for each thread that encodes.
pub struct RecordEncoder {
    body: Vec<u8>,
    words: Vec<u64>,
    /// 8 KiB for bodies below 64 KiB, replaced by a larger one when a longer body comes.
    table: Option<Box<CompressTable>>,
}

impl Default for RecordEncoder {
    fn default() -> RecordEncoder {
        RecordEncoder::new()
    }
}

impl RecordEncoder {
    pub fn new() -> RecordEncoder {
        RecordEncoder { body: Vec::new(), words: Vec::new(), table: None }
    }

    /// Encodes one request. The error names the bound that it exceeds, or a column type that no decoder makes.
    pub fn encode(&mut self, batch: &RowBatch, request: Option<&RequestRecord>) -> Result<EncodedRecord> {
        let mut bytes = Vec::new();
        self.encode_into(batch, request, &mut bytes)?;
        Ok(EncodedRecord { bytes, span: batch.span, origin: None })
    }

    /// Encodes rows that a source inside of the process brought. The error names the bound that they exceed.
    pub fn encode_from(&mut self, origin: Origin, batch: &RowBatch) -> Result<EncodedRecord> {
        if let Some(bytes) = origin.position.as_ref().map(String::len).filter(|bytes| *bytes > MAX_POSITION_BYTES) {
            return Err(Error::user(format!(
                "the source {}: its position has {bytes} bytes as JSON, at most {MAX_POSITION_BYTES} are possible: keep less in it",
                origin.source
            )));
        }
        let mut bytes = Vec::new();
        self.encode_parts(batch, None, Some(&origin), &mut bytes)?;
        Ok(EncodedRecord { bytes, span: batch.span, origin: Some(origin) })
    }

    /// Appends the frame of one request to `out`; [`seal_frame`] must complete it.
    pub fn encode_into(&mut self, batch: &RowBatch, request: Option<&RequestRecord>, out: &mut Vec<u8>) -> Result<()> {
        self.encode_parts(batch, request, None, out)
    }

    fn encode_parts(
        &mut self,
        batch: &RowBatch,
        request: Option<&RequestRecord>,
        origin: Option<&Origin>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        check_bounds(batch)?;
        self.body.clear();
        self.write_body(batch, request, origin)?;
        if self.body.len() > MAX_BODY_BYTES {
            return Err(Error::user(format!(
                "a request holds {} bytes of columns, at most {MAX_BODY_BYTES} are possible: send smaller requests",
                self.body.len()
            )));
        }
        let start = out.len();
        out.reserve(FRAME_HEADER_BYTES + 5 + self.body.len());
        out.resize(start + FRAME_HEADER_BYTES, 0);
        if !self.compress_body(out) {
            out.push(PAYLOAD_RAW);
            out.extend_from_slice(&self.body);
        }
        write_header(&mut out[start..], batch.span)
    }

    /// Appends the compressed payload. False, and nothing appended, where that gains nothing.
    fn compress_body(&mut self, out: &mut Vec<u8>) -> bool {
        if self.body.len() < COMPRESS_FROM_BYTES {
            return false;
        }
        let table = self.table.get_or_insert_with(|| Box::new(CompressTable::small()));
        let start = out.len();
        out.push(PAYLOAD_LZ4);
        out.extend_from_slice(&(self.body.len() as u32).to_le_bytes());
        let block = out.len();
        out.resize(block + get_maximum_output_size(self.body.len()), 0);
        match compress_into_with_table(&self.body, &mut out[block..], table) {
            Ok(compressed) if compressed < self.body.len() => out.truncate(block + compressed),
            _ => out.truncate(start),
        }
        out.len() > start
    }

    fn write_body(&mut self, batch: &RowBatch, request: Option<&RequestRecord>, origin: Option<&Origin>) -> Result<()> {
        let RecordEncoder { body, words, .. } = self;
        let rows = batch.rows();
        write_varint(rows as u64, body);
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        body.push(
            flag(batch.relative_offset.is_some(), FLAG_OFFSETS)
                | flag(!batch.rejects.is_empty(), FLAG_REJECTS)
                | flag(request.is_some(), FLAG_REQUEST)
                | flag(origin.is_some(), FLAG_ORIGIN),
        );
        write_varint(batch.columns.len() as u64, body);
        write_deltas(&batch.time_us, words, body);
        if let Some(offsets) = &batch.relative_offset {
            words.clear();
            words.extend(offsets.iter().map(|&offset| u64::from(offset)));
            write_planes(words, body);
        }
        match &batch.keys {
            Keys::Column(column) => {
                body.push(KEYS_COLUMN);
                write_varint(*column as u64, body);
            }
            Keys::Text(array) => {
                body.push(KEYS_TEXT);
                write_strings(array, words, body);
            }
            Keys::Const(text) => {
                body.push(KEYS_CONST);
                write_varint(text.len() as u64, body);
                body.extend_from_slice(text.as_bytes());
            }
        }
        for column in &batch.columns {
            write_column(column, words, body)?;
        }
        if !batch.rejects.is_empty() {
            write_postcard(&batch.rejects, body)?;
        }
        request.map_or(Ok(()), |request| write_postcard(request, body))?;
        origin.map_or(Ok(()), |origin| write_postcard(origin, body))
    }
}

fn check_bounds(batch: &RowBatch) -> Result<()> {
    if batch.rows() > MAX_RECORD_ROWS {
        let rows = batch.rows();
        return Err(Error::user(format!("a request has {rows} rows, at most {MAX_RECORD_ROWS} are possible: send fewer")));
    }
    if batch.columns.len() > MAX_RECORD_COLUMNS {
        let columns = batch.columns.len();
        return Err(Error::user(format!("the schema has {columns} fields, at most {MAX_RECORD_COLUMNS} are possible")));
    }
    if batch.span == 0 {
        return Err(Error::engine("a record of the journal must cover an offset (a request without rows covers one)"));
    }
    Ok(())
}

fn write_column(column: &ArrayRef, words: &mut Vec<u64>, out: &mut Vec<u8>) -> Result<()> {
    let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0);
    let nullable = if nulls.is_some() { COLUMN_NULLABLE } else { 0 };
    let kind_at = out.len();
    out.push(nullable);
    if let Some(nulls) = nulls {
        write_bits(nulls.inner(), out);
    }
    let any = column.as_any();
    let kind = if let Some(array) = any.downcast_ref::<Float64Array>() {
        write_floats(array, words, out)
    } else if let Some(array) = any.downcast_ref::<Int64Array>() {
        write_deltas(array.values(), words, out);
        COLUMN_INT
    } else if let Some(array) = any.downcast_ref::<BooleanArray>() {
        write_bits(array.values(), out);
        COLUMN_BOOL
    } else if let Some(array) = any.downcast_ref::<StringArray>() {
        write_strings(array, words, out);
        COLUMN_STRING
    } else {
        return Err(unknown_type(column.data_type()));
    };
    out[kind_at] |= kind;
    Ok(())
}

fn unknown_type(data_type: &DataType) -> Error {
    Error::engine(format!("the journal keeps string, float64, int64 and bool columns, not {data_type}"))
}

/// Floats, as scaled whole numbers where all of them are decimal fractions (most sensors), else as their bits.
fn write_floats(array: &Float64Array, words: &mut Vec<u64>, out: &mut Vec<u8>) -> u8 {
    let values = array.values();
    let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
    let sample = &values[..values.len().min(DECIMAL_SAMPLE_ROWS)];
    for (number, scale) in DECIMAL_SCALES.iter().enumerate() {
        if scale_floats(sample, nulls, *scale, words) && scale_floats(values, nulls, *scale, words) {
            out.push(number as u8);
            write_planes(words, out);
            return COLUMN_DECIMAL;
        }
    }
    words.clear();
    words.extend(values.iter().map(|value| value.to_bits()));
    write_planes(words, out);
    COLUMN_FLOAT
}

/// The nearest whole number, for magnitudes below 2^51: adding this pushes the fraction out of the mantissa.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// Fills `words` with `value * scale`; false unless each, divided again, gives the very same bits. Null slots count as 0.
fn scale_floats(values: &[f64], nulls: Option<&NullBuffer>, scale: f64, words: &mut Vec<u64>) -> bool {
    words.clear();
    let mut exact = true;
    match nulls {
        None => words.extend(values.iter().map(|&value| scale_float(value, scale, &mut exact))),
        Some(nulls) => words.extend(values.iter().zip(nulls.iter()).map(|(&value, valid)| match valid {
            true => scale_float(value, scale, &mut exact),
            false => 0,
        })),
    }
    exact
}

#[inline(always)]
fn scale_float(value: f64, scale: f64, exact: &mut bool) -> u64 {
    let whole = (value * scale + ROUND) - ROUND;
    *exact &= (whole / scale).to_bits() == value.to_bits() && whole.abs() < 2_251_799_813_685_248.0;
    zigzag(whole as i64)
}

fn write_strings(array: &StringArray, words: &mut Vec<u64>, out: &mut Vec<u8>) {
    let offsets = array.value_offsets();
    words.clear();
    words.extend(offsets.windows(2).map(|pair| (pair[1] - pair[0]) as u64));
    write_planes(words, out);
    let (first, last) = (offsets[0] as usize, offsets[offsets.len() - 1] as usize);
    out.extend_from_slice(&array.value_data()[first..last]);
}

fn write_bits(bits: &BooleanBuffer, out: &mut Vec<u8>) {
    let packed = bits.sliced();
    let bytes = bits.len().div_ceil(8);
    out.extend_from_slice(&packed.as_slice()[..bytes]);
    // The bits behind the last row are whatever the buffer held: cleared, so that equal rows make equal bytes.
    if let (Some(last), used @ 1..) = (out.last_mut(), bits.len() % 8) {
        *last &= (1u8 << used) - 1;
    }
}

fn write_postcard<T: serde::Serialize>(value: &T, out: &mut Vec<u8>) -> Result<()> {
    let encoded = postcard::to_extend(value, std::mem::take(out));
    *out = encoded.map_err(|error| Error::engine(format!("a record of the journal cannot be encoded: {error}")))?;
    Ok(())
}

/// Appends one sealed frame to `out`. For tests and tools; a server keeps a [`RecordEncoder`] and seals later.
pub fn encode_record(batch: &RowBatch, request: Option<&RequestRecord>, first_offset: u64, out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    RecordEncoder::new().encode_into(batch, request, out)?;
    seal_frame(&mut out[start..], first_offset);
    Ok(())
}
