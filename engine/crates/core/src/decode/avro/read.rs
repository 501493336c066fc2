//! Reads values in Avro's binary encoding.

use std::fmt::Write;

use super::resolve::{Op, Program, Read};
use super::schema::{Kind, Schema, TypeId};
use crate::decode::MAX_NESTING;
use crate::decode::columns::Rows;
use crate::decode::general::Rejection;
use crate::decode::layout::Slot;
use crate::decode::scalar::{self, Scalar};
use crate::decode::template::Context;

/// The bytes are not of the schema: where a row ends is not known any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken(pub &'static str);

const ENDS_EARLY: Broken = Broken("the bytes end in the middle of the record");
const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// A place in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes }
    }

    /// Bytes behind it.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Broken> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(*head)
    }

    /// A zigzag integer of up to ten bytes.
    #[inline]
    pub fn long(&mut self) -> Result<i64, Broken> {
        let mut value = 0u64;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                if at == 9 && *byte > 1 {
                    break;
                }
                self.rest = &self.rest[at + 1..];
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(if self.rest.len() < 10 { ENDS_EARLY } else { Broken("an integer is longer than 64 bits") })
    }

    #[inline]
    fn int(&mut self) -> Result<i64, Broken> {
        let value = self.long()?;
        if i32::try_from(value).is_err() {
            return Err(Broken("an int is out of its range"));
        }
        Ok(value)
    }

    pub fn length(&mut self) -> Result<usize, Broken> {
        usize::try_from(self.long()?).map_err(|_| Broken("a length is below zero"))
    }

    /// Bytes after their length.
    pub fn bytes(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.length()?;
        self.take(length)
    }
}

/// Reads one row into uncommitted values of `rows`. The cursor is behind it then, also where the row is rejected.
pub(super) fn read_row(
    program: &Program,
    cursor: &mut Cursor,
    context: &Context,
    rows: &mut Rows,
) -> Result<Result<(), Rejection>, Broken> {
    let mut reader = RowReader { schema: &program.writer, context, rows, rejection: None, found: 0 };
    reader.record(&program.root, cursor)?;
    if reader.found < context.layout.slots_of_rows() {
        reader.fill();
    }
    Ok(reader.rejection.map_or(Ok(()), Err))
}

struct RowReader<'a, 'c> {
    schema: &'a Schema,
    context: &'a Context<'c>,
    rows: &'a mut Rows,
    /// What is wrong with the row; the rest of it is only skipped.
    rejection: Option<Rejection>,
    found: usize,
}

impl RowReader<'_, '_> {
    fn record(&mut self, ops: &[Op], cursor: &mut Cursor) -> Result<(), Broken> {
        ops.iter().try_for_each(|op| self.run(op, cursor))
    }

    fn run(&mut self, op: &Op, cursor: &mut Cursor) -> Result<(), Broken> {
        match op {
            Op::Value { slot, read } => self.value(*slot, read, cursor),
            Op::Skip(type_id) => skip(self.schema, *type_id, cursor, 1),
            Op::Union(branches) => {
                let branch = cursor.long()?;
                let branch = usize::try_from(branch).ok().and_then(|branch| branches.get(branch));
                self.run(branch.ok_or(Broken("a union has no such branch"))?, cursor)
            }
            Op::Record(ops) => self.record(ops, cursor),
            Op::Default { slot, value } => {
                self.push(*slot, value.scalar());
                Ok(())
            }
            Op::Strange { slot, what, type_id } => {
                self.push(*slot, Scalar::Other(what));
                skip(self.schema, *type_id, cursor, 1)
            }
            Op::NotObject { way, what, type_id } => {
                self.reject(way.clone(), format!("expected an object, got {what}"));
                skip(self.schema, *type_id, cursor, 1)
            }
            Op::Map { entries, values } => self.map(entries, *values, cursor),
        }
    }

    fn map(&mut self, entries: &[(Box<[u8]>, Op)], values: TypeId, cursor: &mut Cursor) -> Result<(), Broken> {
        let mut seen = vec![false; entries.len()];
        loop {
            // the size of a block is of no use where its members are wanted
            let count = match cursor.long()? {
                0 => return Ok(()),
                count if count < 0 => cursor.long().map(|_| count.unsigned_abs())?,
                count => count.unsigned_abs(),
            };
            for _ in 0..count {
                let name = cursor.bytes()?;
                match entries.iter().position(|(wanted, _)| **wanted == *name) {
                    None => skip(self.schema, values, cursor, 1)?,
                    Some(entry) if seen[entry] => {
                        self.reject(String::from_utf8_lossy(name).into_owned(), "is twice in a map".to_string());
                        skip(self.schema, values, cursor, 1)?;
                    }
                    Some(entry) => {
                        seen[entry] = true;
                        self.run(&entries[entry].1, cursor)?;
                    }
                }
            }
        }
    }

    #[inline]
    fn value(&mut self, slot: Slot, read: &Read, cursor: &mut Cursor) -> Result<(), Broken> {
        match read {
            Read::Double => self.push(slot, Scalar::Float(f64::from_le_bytes(cursor.array()?))),
            Read::Long => self.push(slot, Scalar::Int(cursor.long()?)),
            Read::String => match std::str::from_utf8(cursor.bytes()?) {
                Ok(text) => self.push(slot, Scalar::Text(text)),
                Err(_) => self.reject_field(slot, "not valid UTF-8".to_string()),
            },
            Read::Null => self.push(slot, Scalar::Null),
            Read::Boolean => match cursor.array()? {
                [0] => self.push(slot, Scalar::Bool(false)),
                [1] => self.push(slot, Scalar::Bool(true)),
                _ => return Err(Broken("a boolean is neither 0 nor 1")),
            },
            Read::Int => self.push(slot, Scalar::Int(cursor.int()?)),
            Read::Float => self.push(slot, Scalar::Float(f32::from_le_bytes(cursor.array()?).into())),
            Read::Enum(symbols) => {
                let symbol = usize::try_from(cursor.int()?).ok().and_then(|symbol| symbols.get(symbol));
                self.push(slot, Scalar::Text(symbol.ok_or(Broken("an enum has no such symbol"))?));
            }
            Read::Date => {
                let raw = cursor.int()?;
                self.push(slot, Scalar::Moment { us: raw * MICROS_PER_DAY, raw });
            }
            Read::Moment(units) => {
                let raw = cursor.long()?;
                // nanoseconds are floored; what overflows is out of the range of event times anyway
                let us = match MICROS_PER_SECOND / units {
                    0 => raw.div_euclid(units / MICROS_PER_SECOND),
                    factor => raw.saturating_mul(factor),
                };
                self.push(slot, Scalar::Moment { us, raw });
            }
            Read::Bytes => self.bytes(slot, cursor.bytes()?),
            Read::Fixed(size) => self.bytes(slot, cursor.take(*size)?),
            Read::Decimal { size, scale } => {
                let bytes = match size {
                    Some(size) => cursor.take(*size)?,
                    None => cursor.bytes()?,
                };
                self.push(slot, decimal(bytes, *scale).map_or(Scalar::Other("a decimal of more than 128 bits"), Scalar::Float));
            }
            Read::Uuid => self.push(slot, Scalar::Text(&uuid(cursor.array()?))),
        }
        Ok(())
    }

    fn bytes(&mut self, slot: Slot, bytes: &[u8]) {
        self.push(slot, std::str::from_utf8(bytes).map_or(Scalar::Other("bytes that are no text"), Scalar::Text));
    }

    #[inline]
    fn push(&mut self, slot: Slot, value: Scalar) {
        if self.rejection.is_none() {
            self.found += 1;
            if let Err(reason) = scalar::push(self.context, self.rows, slot, value) {
                self.reject_field(slot, reason);
            }
        }
    }

    #[cold]
    fn reject_field(&mut self, slot: Slot, reason: String) {
        self.reject(self.context.layout.names[slot].clone(), reason);
    }

    #[cold]
    fn reject(&mut self, field: String, reason: String) {
        self.rejection.get_or_insert(Rejection { field, reason });
    }

    /// Puts nulls where the record had no value.
    #[cold]
    fn fill(&mut self) {
        let layout = self.context.layout;
        let row = self.rows.len();
        for slot in 0..layout.slots() {
            let length = if slot == layout.time_slot() { self.rows.time_us.len() } else { self.rows.columns[slot].len() };
            if length > row || self.rejection.is_some() || layout.is_metadata(slot) {
                continue;
            }
            match scalar::missing(layout, slot) {
                Some(reason) => self.reject_field(slot, reason.to_string()),
                None => self.rows.columns[slot].push_null(),
            }
        }
    }
}

/// Skips a value; `depth` is the level of nesting that it is on.
fn skip(schema: &Schema, type_id: TypeId, cursor: &mut Cursor, depth: usize) -> Result<(), Broken> {
    if schema.types[type_id].is_empty {
        return Ok(());
    }
    if depth > MAX_NESTING {
        return Err(Broken("the record is nested too deep"));
    }
    match schema.kind(type_id) {
        Kind::Null => {}
        Kind::Boolean => drop(cursor.take(1)?),
        Kind::Int => drop(cursor.int()?),
        Kind::Long => drop(cursor.long()?),
        Kind::Float => drop(cursor.take(4)?),
        Kind::Double => drop(cursor.take(8)?),
        Kind::Bytes | Kind::String => drop(cursor.bytes()?),
        Kind::Fixed { size, .. } => drop(cursor.take(*size)?),
        Kind::Enum { symbols, .. } => {
            if cursor.length()? >= symbols.len() {
                return Err(Broken("an enum has no such symbol"));
            }
        }
        Kind::Array(items) => skip_blocks(schema, *items, false, cursor, depth)?,
        Kind::Map(values) => skip_blocks(schema, *values, true, cursor, depth)?,
        Kind::Union(branches) => {
            let branch = branches.get(cursor.length()?).ok_or(Broken("a union has no such branch"))?;
            skip(schema, *branch, cursor, depth + 1)?;
        }
        Kind::Record { solid, .. } => {
            for field in solid {
                skip(schema, *field, cursor, depth + 1)?;
            }
        }
    }
    Ok(())
}

fn skip_blocks(schema: &Schema, items: TypeId, is_map: bool, cursor: &mut Cursor, depth: usize) -> Result<(), Broken> {
    loop {
        match cursor.long()? {
            0 => return Ok(()),
            count if count < 0 => drop(cursor.bytes()?),
            // items without bytes: a loop over their number could take for ever
            _ if !is_map && schema.types[items].is_empty => {}
            count => {
                for _ in 0..count {
                    if is_map {
                        cursor.bytes()?;
                    }
                    skip(schema, items, cursor, depth + 1)?;
                }
            }
        }
    }
}

/// The float nearest to an unscaled big-endian integer over a power of ten; `None` beyond 128 bits.
fn decimal(bytes: &[u8], scale: u32) -> Option<f64> {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let mut whole = [if negative { 0xff } else { 0 }; 16];
    let start = whole.len().checked_sub(bytes.len())?;
    whole[start..].copy_from_slice(bytes);
    format!("{}e-{scale}", i128::from_be_bytes(whole)).parse().ok()
}

fn uuid(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_zigzag_and_bounded() {
        let long = |bytes: &[u8]| Cursor::new(bytes).long();
        assert_eq!([long(&[0]), long(&[1]), long(&[2]), long(&[0x80, 1])], [Ok(0), Ok(-1), Ok(1), Ok(64)]);
        let min = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(long(&min), Ok(i64::MIN));
        let mut beyond = min;
        beyond[9] = 2;
        assert_eq!(long(&beyond), Err(Broken("an integer is longer than 64 bits")));
        assert_eq!(long(&[0xff; 11]), Err(Broken("an integer is longer than 64 bits")));
        assert_eq!(long(&[0x80]), Err(ENDS_EARLY));
        assert_eq!(long(&[]), Err(ENDS_EARLY));
        assert_eq!(Cursor::new(&min).int(), Err(Broken("an int is out of its range")));
        assert_eq!(Cursor::new(&[1]).bytes(), Err(Broken("a length is below zero")));
    }

    #[test]
    fn decimals_are_the_nearest_floats() {
        assert_eq!(decimal(&[0x30, 0x39], 2), Some(123.45));
        assert_eq!(decimal(&[0xff], 1), Some(-0.1));
        assert_eq!(decimal(&[], 3), Some(0.0));
        assert_eq!(decimal(&[1; 17], 0), None);
        assert_eq!(decimal(&[0x7f; 16], u32::MAX), Some(0.0));
    }
}
