//! Rows that a process may have died of, and until when they are called in isolation.

use serde::{Deserialize, Serialize};

use super::record::{MAX_SPANS, RunningCall};
use crate::plan::Plan;
use crate::progress::{SplitIndex, unsortable};
use crate::shard::{Shard, SplitInfo};

/// Calls that are kept as suspects; the newest win.
pub const MAX_SUSPECTS: usize = 64;
/// From so many deaths on that no commit has passed, all calls of the functions that ran are isolated: one that ends its process on
/// many rows has only its first batch behind it otherwise.
const DEATHS_UNTIL_ALL: u32 = 2;

/// What is kept beside the state until commits have passed it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSuspects {
    /// How often the process has died in a call since commits passed all suspects.
    pub deaths: u32,
    pub calls: Vec<RunningCall<'static>>,
}

impl SavedSuspects {
    /// The same after a start that found these calls unfinished.
    #[must_use]
    pub fn after(mut self, unfinished: Vec<RunningCall<'static>>) -> SavedSuspects {
        if unfinished.is_empty() {
            return self;
        }
        self.deaths = self.deaths.saturating_add(1);
        self.calls.retain(|call| !unfinished.contains(call));
        self.calls.extend(unfinished);
        self.calls.drain(..self.calls.len().saturating_sub(MAX_SUSPECTS));
        self
    }
}

/// What rows are numbered in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// By offset.
    Split(SplitIndex),
    /// By the start, with its sign bit turned.
    Window(usize),
}

/// Rows of one place, `from..to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub place: Place,
    pub from: u64,
    pub to: u64,
}

/// Adds rows to the span of their place: one a place is enough. Places that find no room in a note are left out.
pub fn widen(spans: &mut Vec<Span>, place: Place, from: u64, to: u64) {
    let known = spans.iter().rposition(|span| span.place == place);
    match known {
        Some(at) => (spans[at].from, spans[at].to) = (spans[at].from.min(from), spans[at].to.max(to)),
        None if spans.len() < MAX_SPANS => spans.push(Span { place, from, to }),
        None => {}
    }
}

/// How far a shard is.
#[derive(Debug, Clone)]
pub(crate) struct ShardAt {
    /// By split.
    positions: Vec<u64>,
    /// Windows that end here are closed.
    closed_us: i64,
}

impl ShardAt {
    pub fn of(shard: &Shard) -> ShardAt {
        let positions = (0..shard.splits()).map(|split| shard.progress(split as SplitIndex).position).collect();
        let closed_us = if shard.has_closable() { i64::MIN } else { shard.watermark_us() };
        ShardAt { positions, closed_us }
    }

    fn has_passed(&self, span: &Span, plan: &Plan) -> bool {
        match span.place {
            Place::Split(split) => self.positions[usize::from(split)] >= span.to,
            Place::Window(window) => {
                let last_us = unsortable(span.to.saturating_sub(1));
                last_us.saturating_add(plan.windows[window].size_us) <= self.closed_us
            }
        }
    }
}

/// Which rows of a call are isolated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Isolated {
    None,
    All,
    /// By row.
    Some(Vec<bool>),
}

/// The suspects of one worker.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    /// Number of the function and its rows.
    calls: Vec<(usize, Vec<Span>)>,
    /// Functions of which all calls are isolated.
    all_of: Vec<usize>,
    /// By place of the shard among the worker's: what is committed, and what the commit under way will have committed.
    committed: Vec<ShardAt>,
    frozen: Vec<Option<ShardAt>>,
}

impl Suspects {
    /// Suspects that this worker has not passed. Functions, splits and windows that are gone have no rows any more.
    pub fn new(saved: &SavedSuspects, plan: &Plan, splits: &[SplitInfo], shards: &[Shard]) -> Suspects {
        let place = |of: &str| match of.strip_prefix(WINDOW) {
            Some(name) => plan.windows.iter().position(|window| window.name == name).map(Place::Window),
            None => splits.iter().position(|split| *split.id == *of).map(|split| Place::Split(split as SplitIndex)),
        };
        let calls = saved.calls.iter().filter_map(|call| {
            let udf = plan.config.udfs.iter().position(|udf| udf.name == call.udf)?;
            let spans = call.spans.iter().filter_map(|span| Some(Span { place: place(&span.of)?, from: span.from, to: span.to }));
            Some((udf, spans.collect()))
        });
        let mut suspects = Suspects {
            calls: calls.collect(),
            all_of: Vec::new(),
            committed: shards.iter().map(ShardAt::of).collect(),
            frozen: vec![None; shards.len()],
        };
        if saved.deaths >= DEATHS_UNTIL_ALL {
            suspects.all_of = suspects.calls.iter().map(|(udf, _)| *udf).collect();
        }
        suspects.forget_passed(plan);
        suspects
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Which of `rows` rows are isolated; `at` says where each of them stands.
    pub fn choose(&self, udf: usize, rows: usize, at: &dyn Fn(usize) -> (Place, u64)) -> Isolated {
        if self.all_of.contains(&udf) {
            return Isolated::All;
        }
        let mut spans = self.calls.iter().filter(|(suspect, _)| *suspect == udf).flat_map(|(_, spans)| spans).peekable();
        if spans.peek().is_none() {
            return Isolated::None;
        }
        let spans: Vec<&Span> = spans.collect();
        let is_suspect = |row| {
            let (place, number) = at(row);
            spans.iter().any(|span| span.place == place && (span.from..span.to).contains(&number))
        };
        let mask: Vec<bool> = (0..rows).map(is_suspect).collect();
        match mask.iter().filter(|isolated| **isolated).count() {
            0 => Isolated::None,
            count if count == rows => Isolated::All,
            _ => Isolated::Some(mask),
        }
    }

    /// Whether all calls of some function are isolated.
    pub fn has_all_of(&self) -> bool {
        !self.all_of.is_empty()
    }

    /// All workers of the process have passed their suspects.
    pub fn all_passed(&mut self) {
        self.all_of.clear();
    }

    /// A commit of this shard is under way.
    pub fn froze(&mut self, place: usize, at: ShardAt) {
        self.frozen[place] = Some(at);
    }

    /// It is durable. True if that was the last thing to be passed.
    pub fn committed(&mut self, place: usize, plan: &Plan) -> bool {
        let Some(at) = self.frozen[place].take().filter(|_| !self.is_empty()) else { return false };
        self.committed[place] = at;
        self.forget_passed(plan);
        self.is_empty()
    }

    /// Forgets what lies behind the commits of all shards: it is never called again.
    fn forget_passed(&mut self, plan: &Plan) {
        let committed = &self.committed;
        for (_, spans) in &mut self.calls {
            spans.retain(|span| !committed.iter().all(|at| at.has_passed(span, plan)));
        }
        self.calls.retain(|(_, spans)| !spans.is_empty());
    }
}

/// Before the name of a window, where a note names rows.
pub(crate) const WINDOW: &str = "window/";
