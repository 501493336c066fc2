//! The fast path: reads an object on the guess that its members come as in the object before it.
//!
//! The guess is only about where to look: each member's name, with the punctuation around it, is compared byte by byte
//! with the last object's. A wrong guess costs a look-up of the name and corrects the guess. What this reader does not
//! understand it leaves to the general parser, which alone decides whether a row is rejected and why.

use super::columns::{Column, Rows, Strings, Values};
use super::layout::{Layout, Slot};
use super::number;
use super::text::{self, Breaks};

/// Members of one object that are guessed; those behind are looked up.
pub(super) const MAX_MEMBERS: usize = 256;
/// A longer member name (with the punctuation around it) is not guessed.
pub(super) const MAX_PATTERN_BYTES: usize = 256;
/// Bytes compared at once.
const CHUNK: usize = 16;

/// Guesses kept for one place: producers of a few shapes may be mixed.
pub(super) const MAX_GUESSES: usize = 4;

/// The expected order of members.
#[derive(Debug, Default)]
pub(super) struct Template {
    members: Vec<Guesses>,
    /// What a line break was when the members were learnt.
    breaks: Option<Breaks>,
}

/// What may stand at one place.
#[derive(Debug)]
struct Guesses {
    /// What stood there last.
    first: Member,
    others: Vec<Member>,
}

/// Everything between two values: `,"temperature": `.
#[derive(Debug)]
pub(super) struct Member {
    text: Box<[u8]>,
    first: u128,
    first_mask: u128,
    second: u128,
    second_mask: u128,
    slot: Slot,
}

impl Member {
    pub fn new(text: &[u8], slot: Slot) -> Member {
        let chunk = |from: usize| {
            let (mut bytes, mut mask) = ([0; CHUNK], [0; CHUNK]);
            for (i, byte) in text.iter().skip(from).take(CHUNK).enumerate() {
                (bytes[i], mask[i]) = (*byte, 0xff);
            }
            (u128::from_le_bytes(bytes), u128::from_le_bytes(mask))
        };
        let ((first, first_mask), (second, second_mask)) = (chunk(0), chunk(CHUNK));
        Member { text: Box::from(text), first, first_mask, second, second_mask, slot }
    }

    #[inline(always)]
    pub fn matches(&self, bytes: &[u8], at: usize) -> bool {
        let Some(rest) = bytes.get(at..) else { return false };
        let Some(chunk) = rest.first_chunk::<CHUNK>() else {
            return rest.starts_with(&self.text);
        };
        if (u128::from_le_bytes(*chunk) ^ self.first) & self.first_mask != 0 {
            return false;
        }
        self.text.len() <= CHUNK || self.matches_second(rest)
    }

    #[inline(always)]
    fn matches_second(&self, rest: &[u8]) -> bool {
        match rest[CHUNK..].first_chunk::<CHUNK>() {
            Some(chunk) if self.text.len() <= 2 * CHUNK => (u128::from_le_bytes(*chunk) ^ self.second) & self.second_mask == 0,
            _ => rest.starts_with(&self.text),
        }
    }
}

enum Next {
    Value { slot: Slot, at: usize },
    End(usize),
}

/// What the fast path needs besides the row.
pub(super) struct Context<'a> {
    pub layout: &'a Layout,
    /// A later event time is rejected.
    pub latest_us: i64,
    pub breaks: Breaks,
}

impl Template {
    /// Prepares for a body; a line break in a learnt member would be wrong where it ends the row.
    pub fn begin(&mut self, breaks: Breaks) {
        if self.breaks != Some(breaks) {
            self.members.clear();
            self.breaks = Some(breaks);
        }
    }

    /// Reads the object at `at` into uncommitted values of `rows` and gives the position after it. `None`: leave it to
    /// the general parser after a roll-back.
    #[inline(always)]
    pub fn read_object(&mut self, context: &Context, rows: &mut Rows, bytes: &[u8], mut at: usize) -> Option<usize> {
        let mut found = 0;
        let mut index = 0;
        loop {
            let slot = match self.members.get(index) {
                Some(guesses) if guesses.first.matches(bytes, at) => {
                    at += guesses.first.text.len();
                    guesses.first.slot
                }
                _ => match self.correct(context, bytes, at, index)? {
                    Next::Value { slot, at: value } => {
                        at = value;
                        slot
                    }
                    Next::End(end) => {
                        at = end;
                        break;
                    }
                },
            };
            let known;
            (at, known) = read_value(context, rows, slot, bytes, at, 1)?;
            found += usize::from(known);
            index += 1;
            if bytes.get(at) == Some(&b'}') {
                at += 1;
                break;
            }
        }
        if found < context.layout.slots_of_rows() {
            fill_missing(context.layout, rows)?;
        }
        Some(at)
    }

    /// Tries the other guesses before it learns a new one; the right one becomes the first.
    #[cold]
    #[inline(never)]
    fn correct(&mut self, context: &Context, bytes: &[u8], at: usize, index: usize) -> Option<Next> {
        if let Some(guesses) = self.members.get_mut(index)
            && let Some(other) = guesses.others.iter_mut().find(|other| other.matches(bytes, at))
        {
            std::mem::swap(&mut guesses.first, other);
            return Some(Next::Value { slot: guesses.first.slot, at: at + guesses.first.text.len() });
        }
        self.learn(context, bytes, at, index)
    }

    /// Reads a member's name the long way and expects it here in the next object.
    fn learn(&mut self, context: &Context, bytes: &[u8], start: usize, index: usize) -> Option<Next> {
        let mut at = text::skip_whitespace(bytes, start, context.breaks);
        match (bytes.get(at)?, index) {
            (b'{', 0) | (b',', 1..) => at += 1,
            (b'}', 1..) => return Some(Next::End(at + 1)),
            _ => return None,
        }
        at = text::skip_whitespace(bytes, at, context.breaks);
        if bytes.get(at) != Some(&b'"') {
            return None;
        }
        let name_end = text::string_end(bytes, at + 1)?;
        let slot = context.layout.slot_of(&bytes[at + 1..name_end]);
        at = text::skip_whitespace(bytes, name_end + 1, context.breaks);
        if bytes.get(at) != Some(&b':') {
            return None;
        }
        at = text::skip_whitespace(bytes, at + 1, context.breaks);
        if index < MAX_MEMBERS && at - start <= MAX_PATTERN_BYTES {
            let member = Member::new(&bytes[start..at], slot);
            self.expect(index, member);
        }
        Some(Next::Value { slot, at })
    }

    fn expect(&mut self, index: usize, member: Member) {
        if let Some(guesses) = self.members.get_mut(index) {
            guesses.others.insert(0, std::mem::replace(&mut guesses.first, member));
            guesses.others.truncate(MAX_GUESSES - 1);
        } else if index == self.members.len() {
            self.members.push(Guesses { first: member, others: Vec::new() });
        }
    }
}

/// Reads the value at `at` for `slot`; gives the position after it and whether the schema knows the member. `outer`: the
/// objects that are open.
#[inline(always)]
pub(super) fn read_value(
    context: &Context,
    rows: &mut Rows,
    slot: Slot,
    bytes: &[u8],
    at: usize,
    outer: usize,
) -> Option<(usize, bool)> {
    let layout = context.layout;
    let row = rows.len();
    if let Some(column) = rows.columns.get_mut(slot) {
        let end = match &mut column.values {
            Values::Float64(values) => read_float(values, row, bytes, at),
            Values::Int64(values) => read_integer(values, row, bytes, at),
            Values::Bool(values) => read_bool(values, row, bytes, at),
            Values::Utf8(strings) => read_string(strings, row, layout.key_slot() == Some(slot), bytes, at),
        };
        return match end {
            Some(end) => Some((end, true)),
            None => read_null(column, row, layout.key_slot() == Some(slot), bytes, at).map(|end| (end, true)),
        };
    }
    if slot == layout.time_slot() {
        if rows.time_us.len() != row {
            return None;
        }
        let (time_us, end) = read_time(layout, bytes, at)?;
        if time_us > context.latest_us {
            return None;
        }
        rows.time_us.push(time_us);
        return Some((end, true));
    }
    let end = match bytes.get(at)? {
        b'{' | b'[' => text::skip_nested(bytes, at, context.breaks, outer),
        _ => text::skip_scalar(bytes, at),
    };
    end.map(|end| (end, false))
}

/// Each reader leaves a second value of one row (a duplicate member) to the general parser, by the column's length.
#[inline(always)]
fn read_float(values: &mut Vec<f64>, row: usize, bytes: &[u8], at: usize) -> Option<usize> {
    let (number, end) = number::scan(bytes, at)?;
    let value = number.to_f64()?;
    (values.len() == row).then(|| values.push(value))?;
    Some(end)
}

#[inline(always)]
fn read_integer(values: &mut Vec<i64>, row: usize, bytes: &[u8], at: usize) -> Option<usize> {
    let (number, end) = number::scan(bytes, at)?;
    let value = number.to_i64()?;
    (values.len() == row).then(|| values.push(value))?;
    Some(end)
}

#[inline(always)]
fn read_bool(values: &mut Vec<bool>, row: usize, bytes: &[u8], at: usize) -> Option<usize> {
    let (value, end) = match text::literal(bytes, at, b"true") {
        Some(end) => (true, end),
        None => (false, text::literal(bytes, at, b"false")?),
    };
    (values.len() == row).then(|| values.push(value))?;
    Some(end)
}

#[inline(always)]
fn read_string(strings: &mut Strings, row: usize, is_key: bool, bytes: &[u8], at: usize) -> Option<usize> {
    if strings.len() != row {
        return None;
    }
    if bytes.get(at) == Some(&b'"') {
        let end = text::string_end(bytes, at + 1)?;
        strings.push_part(bytes, at + 1, end);
        return Some(end + 1);
    }
    if !is_key {
        return None;
    }
    let (number, end) = number::scan(bytes, at)?;
    strings.push(number::key_text(number, &bytes[at..end])?);
    Some(end)
}

#[inline(never)]
fn read_null(column: &mut Column, row: usize, is_key: bool, bytes: &[u8], at: usize) -> Option<usize> {
    let end = text::literal(bytes, at, b"null")?;
    if is_key || column.len() != row {
        return None;
    }
    column.push_null();
    Some(end)
}

#[inline(always)]
fn read_time(layout: &Layout, bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    if let Some(unit) = layout.time.unit() {
        let (number, end) = number::scan(bytes, at)?;
        return Some((number.to_time_us(unit)?, end));
    }
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let end = text::string_end(bytes, at + 1)?;
    let text = std::str::from_utf8(&bytes[at + 1..end]).ok()?;
    Some((layout.time.parse_text(text).ok()?, end + 1))
}

/// Puts nulls where the object had no member. `None` if key or time are missing.
#[cold]
#[inline(never)]
pub(super) fn fill_missing(layout: &Layout, rows: &mut Rows) -> Option<()> {
    let row = rows.len();
    if rows.time_us.len() == row && !layout.is_metadata(layout.time_slot()) {
        return None;
    }
    for (slot, column) in rows.columns.iter_mut().enumerate() {
        if column.len() == row && !layout.is_metadata(slot) {
            if layout.key_slot() == Some(slot) {
                return None;
            }
            column.push_null();
        }
    }
    Some(())
}
