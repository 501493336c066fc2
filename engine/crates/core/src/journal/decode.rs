//! From a frame back to rows. Nothing in the bytes is trusted: a damaged record is an error, never a panic, and costs
//! memory only in proportion to its length.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};

use super::columns::{read_deltas, read_planes, read_varint, take, unzigzag};
use super::encode::*;
use super::frame::{FRAME_HEADER_BYTES, Header, check_payload, read_header};
use super::{
    JournalRecord, MAX_BODY_BYTES, MAX_POSITION_BYTES, MAX_RECORD_COLUMNS, MAX_RECORD_ROWS, MAX_REQUEST_ERRORS, Origin,
    RequestRecord,
};
use crate::batch::{Keys, Reject, RowBatch, hash_key};
use crate::{Error, Result};

/// LZ4 cannot expand a byte to more than this many.
const MAX_EXPANSION: usize = 255;

/// Decodes the frame at the front of `bytes`; returns the record and the frame's length.
pub fn decode_record(bytes: &[u8]) -> Result<(JournalRecord, usize)> {
    let Header::Record { payload_len, payload_crc, first_offset, span } = read_header(bytes)? else {
        return Err(Error::damaged("no record begins here"));
    };
    let payload = take(&mut &bytes[FRAME_HEADER_BYTES..], payload_len)?;
    check_payload(payload, payload_crc)?;
    let record = decode_payload(payload, first_offset, span)?;
    Ok((record, FRAME_HEADER_BYTES + payload_len))
}

/// Decodes a frame's payload, whose checksum the caller has compared.
pub fn decode_payload(payload: &[u8], first_offset: u64, span: u64) -> Result<JournalRecord> {
    let mut input = payload;
    let decompressed;
    let body = match take(&mut input, 1)?[0] {
        PAYLOAD_RAW => input,
        PAYLOAD_LZ4 => {
            decompressed = decompress(&mut input)?;
            &decompressed
        }
        other => return Err(Error::damaged(format!("a record of the unknown form {other}"))),
    };
    decode_body(body, first_offset, span).map_err(|error| error.context("a damaged record"))
}

fn decompress(input: &mut &[u8]) -> Result<Vec<u8>> {
    let length: [u8; 4] = take(input, 4)?.try_into().expect("four bytes were taken");
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_BODY_BYTES.min(input.len().saturating_mul(MAX_EXPANSION)) {
        return Err(Error::damaged(format!("a record announces {length} bytes of columns in {} compressed ones", input.len())));
    }
    let mut body = vec![0; length];
    match lz4_flex::block::decompress_into(input, &mut body) {
        Ok(written) if written == length => Ok(body),
        Ok(written) => Err(Error::damaged(format!("a record announces {length} bytes of columns and has {written}"))),
        Err(error) => Err(Error::damaged(format!("a record cannot be decompressed: {error}"))),
    }
}

fn decode_body(body: &[u8], first_offset: u64, span: u64) -> Result<JournalRecord> {
    let mut input = body;
    let rows = read_varint(&mut input, "the number of rows", MAX_RECORD_ROWS)?;
    let flags = take(&mut input, 1)?[0];
    let column_count = read_varint(&mut input, "the number of columns", MAX_RECORD_COLUMNS)?;
    let time_us = read_deltas(&mut input, rows)?;
    let relative_offset = match flags & FLAG_OFFSETS {
        0 => None,
        _ => Some(read_offsets(&mut input, rows, span)?),
    };
    if relative_offset.is_none() && rows as u64 > span {
        return Err(Error::damaged(format!("{rows} rows in {span} offsets")));
    }
    let keys = read_keys(&mut input, rows)?;
    let columns = (0..column_count).map(|_| read_column(&mut input, rows)).collect::<Result<Vec<_>>>()?;
    let rejects: Vec<Reject> = if flags & FLAG_REJECTS == 0 { Vec::new() } else { read_postcard(&mut input)? };
    if rejects.iter().any(|reject| u64::from(reject.relative_offset) >= span) {
        return Err(Error::damaged("a rejected row lies behind the record's end"));
    }
    let request: Option<RequestRecord> = if flags & FLAG_REQUEST == 0 { None } else { Some(read_postcard(&mut input)?) };
    if request.as_ref().is_some_and(|request| request.errors.len() > MAX_REQUEST_ERRORS) {
        return Err(Error::damaged(format!("a request's answer lists more than {MAX_REQUEST_ERRORS} errors")));
    }
    let origin: Option<Origin> = if flags & FLAG_ORIGIN == 0 { None } else { Some(read_postcard(&mut input)?) };
    let position = origin.as_ref().and_then(|origin| origin.position.as_ref());
    if position.is_some_and(|position| position.len() > MAX_POSITION_BYTES) {
        return Err(Error::damaged(format!("a source's position has more than {MAX_POSITION_BYTES} bytes")));
    }
    if !input.is_empty() || flags & !(FLAG_OFFSETS | FLAG_REJECTS | FLAG_REQUEST | FLAG_ORIGIN) != 0 {
        return Err(Error::damaged(format!("{} bytes are left behind the last column (flags {flags:#x})", input.len())));
    }
    let key_hash = hash_keys(&keys, &columns, rows)?;
    let source = origin.as_ref().map(|origin| Arc::from(origin.source.as_str()));
    let batch = RowBatch { time_us, key_hash, relative_offset, span, keys, columns, rejects, source };
    Ok(JournalRecord { first_offset, batch: Arc::new(batch), request, origin })
}

fn read_offsets(input: &mut &[u8], rows: usize, span: u64) -> Result<Vec<u32>> {
    let offsets = read_planes(input, rows)?;
    if !offsets.is_sorted_by(|a, b| a < b) || offsets.last().is_some_and(|&last| last >= span || last > u64::from(u32::MAX)) {
        return Err(Error::damaged("relative offsets do not ascend within the record"));
    }
    Ok(offsets.into_iter().map(|offset| offset as u32).collect())
}

fn read_keys(input: &mut &[u8], rows: usize) -> Result<Keys> {
    match take(input, 1)?[0] {
        KEYS_COLUMN => Ok(Keys::Column(read_varint(input, "the key's column", MAX_RECORD_COLUMNS)?)),
        KEYS_TEXT => Ok(Keys::Text(Arc::new(read_strings(input, rows, None)?))),
        KEYS_CONST => {
            let length = read_varint(input, "the key's length", input.len())?;
            let text = std::str::from_utf8(take(input, length)?);
            Ok(Keys::Const(Arc::from(text.map_err(|_| Error::damaged("a key is not UTF-8"))?)))
        }
        other => Err(Error::damaged(format!("keys of the unknown form {other}"))),
    }
}

fn hash_keys(keys: &Keys, columns: &[ArrayRef], rows: usize) -> Result<Vec<u64>> {
    let array = match keys {
        Keys::Const(text) => return Ok(vec![hash_key(text.as_bytes()); rows]),
        Keys::Text(array) => array.as_ref(),
        Keys::Column(column) => {
            let array = columns.get(*column).and_then(|array| array.as_any().downcast_ref::<StringArray>());
            array.ok_or_else(|| Error::damaged(format!("the key's column {column} is no string column of the record")))?
        }
    };
    Ok((0..rows).map(|row| hash_key(array.value(row).as_bytes())).collect())
}

fn read_column(input: &mut &[u8], rows: usize) -> Result<ArrayRef> {
    let kind = take(input, 1)?[0];
    let nulls = match kind & COLUMN_NULLABLE {
        0 => None,
        _ => Some(NullBuffer::new(read_bits(input, rows)?)),
    };
    Ok(match kind & !COLUMN_NULLABLE {
        COLUMN_FLOAT => {
            let values = read_planes(input, rows)?.into_iter().map(f64::from_bits).collect();
            Arc::new(float_array(values, nulls))
        }
        COLUMN_DECIMAL => Arc::new(read_decimals(input, rows, nulls)?),
        COLUMN_INT => Arc::new(Int64Array::new(ScalarBuffer::from(read_deltas(input, rows)?), nulls)),
        COLUMN_BOOL => Arc::new(BooleanArray::new(read_bits(input, rows)?, nulls)),
        COLUMN_STRING => Arc::new(read_strings(input, rows, nulls)?),
        other => return Err(Error::damaged(format!("a column of the unknown kind {other}"))),
    })
}

fn read_decimals(input: &mut &[u8], rows: usize, nulls: Option<NullBuffer>) -> Result<Float64Array> {
    let number = usize::from(take(input, 1)?[0]);
    let scale = *DECIMAL_SCALES.get(number).ok_or_else(|| Error::damaged(format!("the unknown decimal scale {number}")))?;
    let values = read_planes(input, rows)?.into_iter().map(|word| unzigzag(word) as f64 / scale).collect();
    Ok(float_array(values, nulls))
}

/// A null slot holds NaN, whatever the record has there: readers look at the value alone.
fn float_array(mut values: Vec<f64>, nulls: Option<NullBuffer>) -> Float64Array {
    if let Some(nulls) = &nulls {
        for (value, valid) in values.iter_mut().zip(nulls.iter()) {
            if !valid {
                *value = f64::NAN;
            }
        }
    }
    Float64Array::new(ScalarBuffer::from(values), nulls)
}

fn read_strings(input: &mut &[u8], rows: usize, nulls: Option<NullBuffer>) -> Result<StringArray> {
    let lengths = read_planes(input, rows)?;
    let mut offsets = Vec::with_capacity(rows + 1);
    let mut end = 0u64;
    offsets.push(0i32);
    for length in lengths {
        end = end.saturating_add(length);
        offsets.push(i32::try_from(end).map_err(|_| Error::damaged("a string column beyond 2 GiB"))?);
    }
    let text = Buffer::from(take(input, end as usize)?);
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    StringArray::try_new(offsets, text, nulls).map_err(|error| Error::damaged(format!("a damaged string column: {error}")))
}

fn read_bits(input: &mut &[u8], rows: usize) -> Result<BooleanBuffer> {
    let bytes = take(input, rows.div_ceil(8))?;
    Ok(BooleanBuffer::new(Buffer::from(bytes), 0, rows))
}

fn read_postcard<T: serde::de::DeserializeOwned>(input: &mut &[u8]) -> Result<T> {
    let (value, rest) = postcard::take_from_bytes(input)
        .map_err(|error| Error::damaged(format!("rejected rows, the request or the source: {error}")))?;
    *input = rest;
    Ok(value)
}
