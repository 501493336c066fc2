//! Columns under construction. A row is written value by value, then committed, or rolled back when a later value fails.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder, NullBuffer, OffsetBuffer, ScalarBuffer};

use crate::batch::{Keys, Reject, RowBatch, hash_key};
use crate::config::FieldType;

use super::BodyError;
use super::layout::{KeyRule, Layout};

/// Buffers with more unused room than one part in this many are shrunk: queues are bounded in bytes held.
const MAX_UNUSED_PART: usize = 4;
/// Unused room for this many values is kept anyway: small batches come often and shrinking costs an allocation.
const MAX_UNUSED_VALUES: usize = 16;

/// Texts up to this length are copied with what stands behind them.
const SHORT_TEXT_BYTES: usize = 16;

/// Rows of a body that may be rejected, however short it is.
pub const MIN_MAX_REJECTS: usize = 1 << 12;
/// One more row may be rejected for each so many bytes of a body.
pub const BYTES_PER_REJECT: usize = 32;

/// One column: values of all rows, a default where null, and the numbers of the null rows.
#[derive(Debug)]
pub(super) struct Column {
    pub values: Values,
    nulls: Vec<u32>,
}

#[derive(Debug)]
pub(super) enum Values {
    Float64(Vec<f64>),
    Int64(Vec<i64>),
    Bool(Vec<bool>),
    Utf8(Strings),
}

/// Texts one after the other; text i is `bytes[offsets[i]..offsets[i + 1]]`.
#[derive(Debug)]
pub(super) struct Strings {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
}

impl Strings {
    fn with_capacity(rows: usize, bytes: usize) -> Strings {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Strings { offsets, bytes: Vec::with_capacity(bytes) }
    }

    /// Appends a text, which must be UTF-8. The callers bound all input of a batch to `i32::MAX` bytes.
    #[inline(always)]
    pub fn push(&mut self, text: &[u8]) {
        debug_assert!(std::str::from_utf8(text).is_ok());
        self.bytes.extend_from_slice(text);
        self.offsets.push(self.bytes.len() as i32);
    }

    /// Appends the text `bytes[from..to]`, which must be UTF-8.
    #[inline(always)]
    pub fn push_part(&mut self, bytes: &[u8], from: usize, to: usize) {
        match bytes.get(from..).and_then(<[u8]>::first_chunk::<SHORT_TEXT_BYTES>) {
            // A copy of a fixed length is no call.
            Some(chunk) if to - from <= SHORT_TEXT_BYTES => {
                let end = self.bytes.len() + (to - from);
                self.bytes.extend_from_slice(chunk);
                self.bytes.truncate(end);
                self.offsets.push(end as i32);
            }
            _ => self.push(&bytes[from..to]),
        }
    }

    #[inline(always)]
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    #[inline(always)]
    fn last(&self) -> &[u8] {
        &self.bytes[self.offsets[self.offsets.len() - 2] as usize..]
    }

    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.bytes.truncate(self.offsets[rows] as usize);
    }

    fn finish(self, nulls: Option<NullBuffer>) -> StringArray {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(shrunk(self.offsets)));
        StringArray::new(offsets, shrunk(self.bytes).into(), nulls)
    }
}

fn shrunk<T>(mut values: Vec<T>) -> Vec<T> {
    if values.capacity() - values.len() > values.len() / MAX_UNUSED_PART + MAX_UNUSED_VALUES {
        values.shrink_to_fit();
    }
    values
}

impl Column {
    pub fn with_capacity(data_type: FieldType, rows: usize, string_bytes: usize) -> Column {
        let values = match data_type {
            FieldType::Float64 => Values::Float64(Vec::with_capacity(rows)),
            FieldType::Int64 => Values::Int64(Vec::with_capacity(rows)),
            FieldType::Bool => Values::Bool(Vec::with_capacity(rows)),
            FieldType::String => Values::Utf8(Strings::with_capacity(rows, string_bytes)),
        };
        Column { values, nulls: Vec::new() }
    }

    #[inline(always)]
    pub fn len(&self) -> usize {
        match &self.values {
            Values::Float64(values) => values.len(),
            Values::Int64(values) => values.len(),
            Values::Bool(values) => values.len(),
            Values::Utf8(values) => values.len(),
        }
    }

    /// Appends a null; a null float holds NaN.
    pub fn push_null(&mut self) {
        self.nulls.push(self.len() as u32);
        match &mut self.values {
            Values::Float64(values) => values.push(f64::NAN),
            Values::Int64(values) => values.push(0),
            Values::Bool(values) => values.push(false),
            Values::Utf8(values) => values.push(b""),
        }
    }

    fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::Float64(values) => values.truncate(rows),
            Values::Int64(values) => values.truncate(rows),
            Values::Bool(values) => values.truncate(rows),
            Values::Utf8(values) => values.truncate(rows),
        }
        while self.nulls.last().is_some_and(|row| *row as usize >= rows) {
            self.nulls.pop();
        }
    }

    pub fn finish(self) -> ArrayRef {
        let nulls = null_buffer(&self.nulls, self.len());
        match self.values {
            Values::Float64(values) => Arc::new(Float64Array::new(ScalarBuffer::from(shrunk(values)), nulls)),
            Values::Int64(values) => Arc::new(Int64Array::new(ScalarBuffer::from(shrunk(values)), nulls)),
            Values::Bool(values) => Arc::new(BooleanArray::new(BooleanBuffer::from(values), nulls)),
            Values::Utf8(values) => Arc::new(values.finish(nulls)),
        }
    }
}

fn null_buffer(null_rows: &[u32], rows: usize) -> Option<NullBuffer> {
    if null_rows.is_empty() {
        return None;
    }
    let mut valid = BooleanBufferBuilder::new(rows);
    valid.append_n(rows, true);
    for row in null_rows {
        valid.set_bit(*row as usize, false);
    }
    Some(NullBuffer::new(valid.finish()))
}

/// The batch under construction.
#[derive(Debug)]
pub(super) struct Rows {
    pub columns: Vec<Column>,
    pub time_us: Vec<i64>,
    key_hash: Vec<u64>,
    key_texts: Strings,
    /// `None` as long as row i is at i.
    offsets: Option<Vec<u32>>,
    rejects: Vec<Reject>,
    /// More rejects than this are not taken; see [`max_rejects`].
    max_rejects: usize,
    /// More rows than this are not taken.
    max_rows: usize,
    /// Committed rows. Longer columns belong to the row that is being read.
    rows: usize,
}

/// Rows of one body that may be rejected. What is kept of a rejected row takes more memory than a few bytes of nonsense do, of
/// which a body can have many.
pub(super) fn max_rejects(body_bytes: usize) -> usize {
    MIN_MAX_REJECTS + body_bytes / BYTES_PER_REJECT
}

/// Refuses a body that has more than so many rows to reject.
pub(super) fn too_many_rejects(max: usize, first: &Reject, position: usize) -> BodyError {
    let field = if first.field.is_empty() { String::new() } else { format!("{}: ", first.field) };
    let reason = format!(
        "more than {max} rows of the body are wrong, which is too many to keep each of them; nothing was taken. The first is row \
         {}: {field}{}",
        first.row, first.reason
    );
    BodyError { reason, position, too_many: true }
}

/// How many rows and bytes of text to make room for; learnt from the batch before.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Expected {
    pub rows: usize,
    pub string_bytes: usize,
}

impl Rows {
    /// `explicit_offsets`: rows are not numbered one by one, each says where it is.
    pub fn new(layout: &Layout, expected: Expected, explicit_offsets: bool) -> Rows {
        let Expected { rows, string_bytes } = expected;
        let key_rows = if matches!(layout.key, KeyRule::Integer(_)) { rows } else { 0 };
        Rows {
            columns: layout.types.iter().map(|data_type| Column::with_capacity(*data_type, rows, string_bytes)).collect(),
            time_us: Vec::with_capacity(rows),
            key_hash: Vec::with_capacity(rows),
            key_texts: Strings::with_capacity(key_rows, key_rows * 8),
            offsets: explicit_offsets.then(|| Vec::with_capacity(rows)),
            rejects: Vec::new(),
            max_rejects: usize::MAX,
            max_rows: usize::MAX,
            rows: 0,
        }
    }

    /// Bounds what is kept of a body of so many bytes.
    pub fn bound(&mut self, body_bytes: usize, layout: &Layout) {
        self.max_rejects = max_rejects(body_bytes);
        self.max_rows = layout.max_rows();
    }

    /// Refuses a body whose rows have more values than are kept: where most fields are missing they take far more memory than
    /// the body. `position` is where it was read to.
    #[inline(always)]
    pub fn check_values(&self, position: usize) -> Result<(), BodyError> {
        if self.rows > self.max_rows { Err(self.too_many_values(position)) } else { Ok(()) }
    }

    #[cold]
    fn too_many_values(&self, position: usize) -> BodyError {
        let reason = format!(
            "more than {} rows of {} fields each, which take more memory than one body may; send them in parts",
            self.max_rows,
            self.columns.len() + 1
        );
        BodyError { reason, position, too_many: true }
    }

    /// Whether more rows are rejected than the bound allows. To be asked behind each: one row more may be noted, not many.
    #[inline]
    pub fn has_too_many_rejects(&self) -> bool {
        self.rejects.len() > self.max_rejects
    }

    /// Refuses a body with [too many rejected rows](Self::has_too_many_rejects); `position` is where it was read to.
    #[inline]
    pub fn check_rejects(&self, position: usize) -> Result<(), BodyError> {
        match self.has_too_many_rejects() {
            true => Err(too_many_rejects(self.max_rejects, &self.rejects[0], position)),
            false => Ok(()),
        }
    }

    /// Number of committed rows.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Rows so far, rejected ones too.
    #[inline(always)]
    pub fn seen(&self) -> usize {
        self.rows + self.rejects.len()
    }

    /// Bytes of text in the widest string column.
    pub fn string_bytes(&self) -> usize {
        let bytes =
            self.columns.iter().map(|column| if let Values::Utf8(strings) = &column.values { strings.bytes.len() } else { 0 });
        bytes.max().unwrap_or(0)
    }

    /// Ends a row of which every column and the time were written. `offset` is its place.
    #[inline(always)]
    pub fn commit(&mut self, layout: &Layout, offset: usize) {
        let hash = match &layout.key {
            KeyRule::Const { hash, .. } => *hash,
            KeyRule::Column(column) => match &self.columns[*column].values {
                Values::Utf8(strings) => hash_key(strings.last()),
                _ => unreachable!("the layout admits this key only for a string column"),
            },
            KeyRule::Integer(column) => match &self.columns[*column].values {
                Values::Int64(values) => {
                    let mut buffer = itoa::Buffer::new();
                    let text = buffer.format(values[self.rows]).as_bytes();
                    self.key_texts.push(text);
                    hash_key(text)
                }
                _ => unreachable!("the layout admits this key only for an int64 column"),
            },
        };
        self.key_hash.push(hash);
        if let Some(offsets) = &mut self.offsets {
            offsets.push(offset as u32);
        }
        self.rows += 1;
        debug_assert!(self.time_us.len() == self.rows && self.columns.iter().all(|column| column.len() == self.rows));
    }

    /// Forgets what was written since the last commit.
    pub fn roll_back(&mut self) {
        let rows = self.rows;
        self.time_us.truncate(rows);
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
    }

    /// Notes a rejected row; what was written of it is rolled back.
    pub fn reject(&mut self, offset: usize, field: &str, reason: String, text: String) {
        self.roll_back();
        let rows = self.rows as u32;
        self.offsets.get_or_insert_with(|| (0..rows).collect());
        let row = self.seen() as u32;
        self.rejects.push(Reject { relative_offset: offset as u32, row, field: field.to_string(), reason, text });
    }

    /// The batch; it reaches over `span` offsets.
    pub fn finish(mut self, layout: &Layout, span: u64) -> RowBatch {
        self.roll_back();
        let keys = match &layout.key {
            KeyRule::Column(column) => Keys::Column(*column),
            KeyRule::Integer(_) => Keys::Text(Arc::new(self.key_texts.finish(None))),
            KeyRule::Const { text, .. } => Keys::Const(text.clone()),
        };
        RowBatch {
            time_us: shrunk(self.time_us),
            key_hash: shrunk(self.key_hash),
            relative_offset: self.offsets.map(shrunk),
            span,
            keys,
            columns: self.columns.into_iter().map(Column::finish).collect(),
            rejects: self.rejects,
            source: None,
        }
    }
}
