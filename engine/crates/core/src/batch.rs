//! Decoded rows as Arrow columns: what a decoder makes, the journal stores and a worker reads.
//!
//! A batch is immutable and shared by the workers that own some of its rows; each gets the batch and a selection of row
//! numbers, so that routing copies no row.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, StringArray, UInt32Array};
use arrow_select::take::take;

/// Rows of one split, in the order of the split.
#[derive(Debug, Clone)]
pub struct RowBatch {
    /// Event time of each row, microseconds since the epoch.
    pub time_us: Vec<i64>,
    /// `xxh3_64` (seed 0) of each row's key.
    pub key_hash: Vec<u64>,
    /// The row's place behind the batch's first offset. `None`: row i is at i (nothing was rejected between them).
    pub relative_offset: Option<Vec<u32>>,
    /// How far the batch reaches: the offset after it is its first offset plus this.
    pub span: u64,
    /// Where the text of each row's key is.
    pub keys: Keys,
    /// One array a schema field, in the schema's order; each as long as `time_us`. A null float slot holds NaN.
    pub columns: Vec<ArrayRef>,
    /// Rows that could not be decoded, in order.
    pub rejects: Vec<Reject>,
    /// The source's name, where the split has rows of several sources and these are not of the one that it is named after.
    pub source: Option<Arc<str>>,
}

/// Where a row's key is found.
#[derive(Debug, Clone)]
pub enum Keys {
    /// The string column with this number is the key.
    Column(usize),
    /// The key is not a string column of its own (an integer key, as decimal text).
    Text(Arc<StringArray>),
    /// Every row has the same key.
    Const(Arc<str>),
}

/// A row that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reject {
    /// Place behind the batch's first offset.
    pub relative_offset: u32,
    /// The row's number in its request, from 0.
    pub row: u32,
    /// The field that is wrong, empty where the whole row is.
    pub field: String,
    /// What is wrong with it, for a person.
    pub reason: String,
    /// The row as it came, cut to [`MAX_REJECTED_TEXT_BYTES`].
    pub text: String,
}

/// A longer rejected row is cut to this many bytes (at a character) before it is journaled.
pub const MAX_REJECTED_TEXT_BYTES: usize = 4096;

impl RowBatch {
    /// A batch without rows that still covers `span` offsets.
    pub fn empty(span: u64) -> RowBatch {
        RowBatch {
            time_us: Vec::new(),
            key_hash: Vec::new(),
            relative_offset: None,
            span,
            keys: Keys::Const(Arc::from("")),
            columns: Vec::new(),
            rejects: Vec::new(),
            source: None,
        }
    }

    /// Number of decoded rows.
    pub fn rows(&self) -> usize {
        self.time_us.len()
    }

    /// The row's place behind the batch's first offset.
    #[inline]
    pub fn relative_offset(&self, row: usize) -> u64 {
        match &self.relative_offset {
            None => row as u64,
            Some(offsets) => u64::from(offsets[row]),
        }
    }

    /// The part of the batch in the offsets `[from, to)` behind its first one, with memory of its own: a short part of a long
    /// batch does not keep it.
    pub fn cut(&self, from: u64, to: u64) -> RowBatch {
        let place = |offset: u64| match &self.relative_offset {
            None => usize::try_from(offset).unwrap_or(usize::MAX).min(self.rows()),
            Some(offsets) => offsets.partition_point(|place| u64::from(*place) < offset),
        };
        let rows = place(from)..place(to);
        let numbers = UInt32Array::from_iter_values(rows.start as u32..rows.end as u32);
        let part = |array: &dyn Array| take(array, &numbers, None).expect("the rows are there");
        let keys = match &self.keys {
            Keys::Text(texts) => Keys::Text(Arc::new(part(&**texts).as_string::<i32>().clone())),
            keys => keys.clone(),
        };
        let within = |reject: &&Reject| (from..to).contains(&u64::from(reject.relative_offset));
        let move_up = |reject: &Reject| Reject { relative_offset: reject.relative_offset - from as u32, ..reject.clone() };
        RowBatch {
            time_us: self.time_us[rows.clone()].to_vec(),
            key_hash: self.key_hash[rows.clone()].to_vec(),
            relative_offset: self
                .relative_offset
                .as_ref()
                .map(|offsets| offsets[rows].iter().map(|offset| offset - from as u32).collect()),
            span: to.min(self.span).saturating_sub(from),
            keys,
            columns: self.columns.iter().map(|column| part(column)).collect(),
            rejects: self.rejects.iter().filter(within).map(move_up).collect(),
            source: self.source.clone(),
        }
    }

    /// The latest event time of the batch, `i64::MIN` without rows.
    pub fn max_time_us(&self) -> i64 {
        self.time_us.iter().copied().max().unwrap_or(i64::MIN)
    }

    /// Reads keys without a branch on the key's kind for each row.
    pub fn key_reader(&self) -> KeyReader<'_> {
        match &self.keys {
            Keys::Column(column) => {
                let array = self.columns[*column].as_any().downcast_ref::<StringArray>();
                KeyReader::Array(array.expect("a key column is a string column"))
            }
            Keys::Text(array) => KeyReader::Array(array),
            Keys::Const(text) => KeyReader::Const(text.as_bytes()),
        }
    }

    /// What the batch holds in memory, for queues that are bounded in bytes.
    pub fn memory_bytes(&self) -> usize {
        let columns: usize = self.columns.iter().map(|column| column.get_buffer_memory_size()).sum();
        let keys = match &self.keys {
            Keys::Text(array) => array.get_buffer_memory_size(),
            _ => 0,
        };
        let texts = |reject: &Reject| reject.field.len() + reject.reason.len() + reject.text.len();
        let rejects: usize = self.rejects.iter().map(|reject| size_of::<Reject>() + texts(reject)).sum();
        self.rows() * 16 + self.relative_offset.as_ref().map_or(0, |offsets| offsets.len() * 4) + columns + keys + rejects
    }
}

/// Text of the keys of one batch.
#[derive(Clone, Copy)]
pub enum KeyReader<'a> {
    Array(&'a StringArray),
    Const(&'a [u8]),
}

impl<'a> KeyReader<'a> {
    /// The UTF-8 bytes of the row's key.
    #[inline]
    pub fn get(&self, row: usize) -> &'a [u8] {
        match self {
            KeyReader::Array(array) => array.value(row).as_bytes(),
            KeyReader::Const(text) => text,
        }
    }
}

/// Shard of a key: `xxh3_64(key) mod shards`.
#[inline]
pub fn shard_of(key_hash: u64, shards: u16) -> u16 {
    // A quotient of 64 bits takes longer than all else here, and nearly all jobs have a power of two.
    if shards.is_power_of_two() { (key_hash & u64::from(shards - 1)) as u16 } else { (key_hash % u64::from(shards)) as u16 }
}

/// `xxh3_64` with seed 0.
#[inline]
pub fn hash_key(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}
