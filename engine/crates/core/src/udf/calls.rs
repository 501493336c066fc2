//! Calls of a worker that may end its process: each is noted while it runs, and rows that a process may have died of are isolated.

use std::sync::Arc;

use arrow_array::{ArrayRef, UInt32Array};
use arrow_schema::DataType;
use arrow_select::take::take;

use super::record::{self, CallRecord, IsolatedRows, NamedSpan, RunningCall};
use super::suspects::{Isolated, Place, SavedSuspects, ShardAt, Span, Suspects, WINDOW};
use super::{UdfHost, UdfResult, call_bisecting, call_isolated, finite, joined};
use crate::plan::Plan;
use crate::shard::{Shard, SplitInfo};
use crate::{Error, Result};

/// A function to be called.
pub struct Callee<'a> {
    pub index: usize,
    pub name: &'a str,
    pub kinds: &'a [DataType],
}

/// The rows that it is called with.
pub struct CalledRows<'a> {
    pub len: usize,
    /// All of them lie in these.
    pub spans: &'a [Span],
    /// Where a row stands.
    pub at: &'a dyn Fn(usize) -> (Place, u64),
}

/// One worker's calls.
pub struct Calls {
    plan: Arc<Plan>,
    splits: Vec<SplitInfo>,
    record: Box<dyn CallRecord>,
    suspects: Suspects,
    note: Vec<u8>,
}

impl Calls {
    pub fn new(
        plan: Arc<Plan>,
        splits: &[SplitInfo],
        shards: &[Shard],
        saved: &SavedSuspects,
        mut record: Box<dyn CallRecord>,
    ) -> Calls {
        let suspects = Suspects::new(saved, &plan, splits, shards);
        if suspects.is_empty() {
            record.passed();
        }
        Calls { plan, splits: splits.to_vec(), record, suspects, note: Vec::new() }
    }

    /// Calls a function with rows, those that are suspects in isolation. A row gets the same result either way (I11): what it sees is
    /// in the inputs.
    pub fn call(
        &mut self,
        host: &mut dyn UdfHost,
        callee: &Callee<'_>,
        inputs: &[ArrayRef],
        rows: &CalledRows<'_>,
    ) -> Result<UdfResult> {
        if self.suspects.has_all_of() && self.record.all_passed() {
            self.suspects.all_passed();
            host.end_isolation();
        }
        match self.suspects.choose(callee.index, rows.len, rows.at) {
            Isolated::None => self.noted(host, callee, inputs, rows.len, rows.spans),
            Isolated::All => self.isolated(host, callee, inputs, rows.len),
            Isolated::Some(mask) => {
                let (suspects, others): (Vec<u32>, Vec<u32>) = (0..rows.len as u32).partition(|row| mask[*row as usize]);
                let isolated = self.isolated(host, callee, &taken(inputs, &suspects)?, suspects.len())?;
                let result = self.noted(host, callee, &taken(inputs, &others)?, others.len(), rows.spans)?;
                together(callee.kinds, [(suspects, isolated), (others, result)])
            }
        }
    }

    fn noted(
        &mut self,
        host: &mut dyn UdfHost,
        callee: &Callee<'_>,
        inputs: &[ArrayRef],
        rows: usize,
        spans: &[Span],
    ) -> Result<UdfResult> {
        let named = |span: &Span| NamedSpan {
            of: match span.place {
                Place::Split(split) => (&*self.splits[usize::from(split)].id).into(),
                Place::Window(window) => format!("{WINDOW}{}", self.plan.windows[window].name).into(),
            },
            from: span.from,
            to: span.to,
        };
        let spans = spans.iter().map(named).collect();
        record::write(RunningCall { udf: callee.name.into(), spans }, &mut self.note);
        self.record.begin(&self.note);
        let result = call_bisecting(host, callee.index, inputs, rows, callee.kinds);
        self.record.end();
        result
    }

    fn isolated(&mut self, host: &mut dyn UdfHost, callee: &Callee<'_>, inputs: &[ArrayRef], rows: usize) -> Result<UdfResult> {
        let (result, deaths) = call_isolated(host, callee.index, inputs, rows, callee.kinds)?;
        self.record.isolated(&IsolatedRows { udf: callee.name, rows, failed: result.failed.len(), deaths });
        Ok(result)
    }

    /// A commit of the shard at this place is under way.
    pub(crate) fn froze(&mut self, place: usize, shard: &Shard) {
        if !self.suspects.is_empty() {
            self.suspects.froze(place, ShardAt::of(shard));
        }
    }

    /// It is durable.
    pub(crate) fn committed(&mut self, place: usize, host: &mut dyn UdfHost) {
        if self.suspects.committed(place, &self.plan) {
            self.record.passed();
            // Where all calls are isolated, they are until the other workers have passed theirs: a process that dies before that
            // would take what those have done along.
            if !self.suspects.has_all_of() {
                host.end_isolation();
            }
        }
    }
}

fn taken(columns: &[ArrayRef], rows: &[u32]) -> Result<Vec<ArrayRef>> {
    let rows = UInt32Array::from(rows.to_vec());
    columns.iter().map(|column| take(column, &rows, None).map(finite).map_err(|error| failed(&error))).collect()
}

/// The results of two calls, in the order of the rows.
fn together(kinds: &[DataType], parts: [(Vec<u32>, UdfResult); 2]) -> Result<UdfResult> {
    let mut order = vec![0u32; parts.iter().map(|(rows, _)| rows.len()).sum()];
    let rows = parts.iter().flat_map(|(rows, _)| rows);
    rows.enumerate().for_each(|(at, row)| order[*row as usize] = at as u32);
    let mut failures = Vec::new();
    let mut pieces = Vec::new();
    for (rows, result) in parts {
        failures.extend(result.failed.into_iter().map(|(row, reason)| (rows[row] as usize, reason)));
        pieces.push(result.outputs);
    }
    failures.sort_by_key(|(row, _)| *row);
    let outputs = kinds.iter().enumerate().map(|(output, kind)| joined(&pieces, output, kind)).collect::<Result<Vec<_>>>()?;
    Ok(UdfResult { outputs: taken(&outputs, &order)?, failed: failures })
}

fn failed(error: &arrow_schema::ArrowError) -> Error {
    Error::engine(format!("dividing a UDF's rows: {error}"))
}
