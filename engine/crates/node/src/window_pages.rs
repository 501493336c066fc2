//! Closed windows by REST: what the workers hold that no commit has, and what the stores have, in pages.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use streamjob_core::batch::{hash_key, shard_of};
use streamjob_core::event_time::parse_rfc3339;
use streamjob_core::plan::Plan;
use streamjob_core::processor::Processor;
use streamjob_core::shard::{HistoryReader, Shard};
use streamjob_core::store::ShardStore;
use streamjob_core::{Error, Result};
use utoipa::ToSchema;

use crate::rest::{Asked, answer, ask};
use crate::shared::{Shared, blocking};

/// Rows of a page where the query names no limit.
const DEFAULT_LIMIT: usize = 100;
/// Rows of a page at most.
const MAX_LIMIT: usize = 10_000;
/// Window starts that one page looks through at most; then it ends with a cursor.
const MAX_STARTS: usize = 10_000;
/// Shards whose rows one query asks for at once: it holds those of so many, whatever the number of shards.
const SHARDS_AT_ONCE: usize = 4;

/// A page of closed windows.
#[derive(serde::Serialize, ToSchema)]
pub struct WindowPage {
    /// Rows as the sinks have them: key, window_start, window_end, revision, aggregates, _id.
    #[schema(value_type = Vec<Object>)]
    items: Vec<Box<serde_json::value::RawValue>>,
    /// Cursor of the next page, null at the end.
    next: Option<String>,
}

/// Which closed windows.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct WindowQuery {
    /// Name of the window; may be left out where the job has one.
    window: Option<String>,
    /// First start, RFC 3339.
    from: Option<String>,
    /// Starts before this, RFC 3339.
    to: Option<String>,
    /// Rows of the page, at most 10000.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Which rows of the newest start.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LatestQuery {
    /// Name of the window; may be left out where the job has one.
    window: Option<String>,
    /// Rows of the page, at most 10000.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

impl From<LatestQuery> for WindowQuery {
    fn from(LatestQuery { window, limit, cursor }: LatestQuery) -> WindowQuery {
        WindowQuery { window, limit, cursor, from: None, to: None }
    }
}

/// A query as it came: whoever wrote it may have to hear what is wrong.
pub type Given<T> = std::result::Result<Query<T>, QueryRejection>;

/// A query, understood.
pub struct PageQuery {
    window: usize,
    window_id: u32,
    from_us: i64,
    to_us: i64,
    limit: usize,
    cursor: Option<String>,
}

/// What a worker knows of one shard's closed windows that the store may not.
struct Pending {
    rows: Vec<(i64, Vec<u8>)>,
    known: bool,
    max_event_us: i64,
    store: Arc<dyn ShardStore>,
}

impl PageQuery {
    pub fn new<T: Into<WindowQuery>>(plan: &Plan, query: Given<T>) -> Result<PageQuery> {
        let Query(query) = query.map_err(|rejected| Error::user(rejected.body_text()))?;
        let query: WindowQuery = query.into();
        let window = match (&query.window, plan.windows.len()) {
            (Some(name), _) => plan.windows.iter().position(|window| window.name == *name),
            (None, 1) => Some(0),
            (None, _) => None,
        };
        let names = || plan.windows.iter().map(|window| window.name.as_str()).collect::<Vec<_>>().join(", ");
        let window = window.ok_or_else(|| Error::user(format!("window: name one of the job's windows ({})", names())))?;
        let time = |name: &str, text: &Option<String>, default: i64| match text {
            None => Ok(default),
            Some(text) => parse_rfc3339(text)
                .ok_or_else(|| Error::user(format!("{name}: expected a time such as 2026-01-31T12:00:00Z (got {text})"))),
        };
        let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
        if limit == 0 || limit > MAX_LIMIT {
            return Err(Error::user(format!("limit: expected 1 to {MAX_LIMIT} (got {limit})")));
        }
        Ok(PageQuery {
            window,
            window_id: plan.windows[window].id,
            from_us: time("from", &query.from, i64::MIN)?,
            to_us: time("to", &query.to, i64::MAX)?,
            limit,
            cursor: query.cursor.clone(),
        })
    }

    /// What the worker holds of the starts in `starts`, asked before the store is read: a row that moves in between is seen
    /// twice, never missed.
    fn pending(&self, shared: &Shared, shard: u16, key: Option<(u64, String)>, starts: Range<i64>) -> Asked<Pending> {
        let window = self.window;
        ask(shared, shard, move |processor| {
            let shard = shard_in(processor, shard)?;
            let mut rows = Vec::new();
            let hash = key.as_ref().map(|(hash, _)| *hash);
            shard.visit_pending_history(window, hash, &starts, &mut |start_us, json| rows.push((start_us, json.to_vec())));
            let known = match &key {
                Some((hash, key)) => shard.look_up(*hash, key.as_bytes())?.is_some(),
                None => true,
            };
            Ok(Pending { rows, known, max_event_us: shard.max_event_time_us(), store: shard.store().clone() })
        })
    }

    pub async fn of_key(self, shared: &Arc<Shared>, key: String) -> Result<Option<WindowPage>> {
        let hash = hash_key(key.as_bytes());
        let shard = shard_of(hash, shared.plan.config.shards);
        let pending = answer(self.pending(shared, shard, Some((hash, key.clone())), self.from_us..self.to_us)).await?;
        if !pending.known {
            return Ok(None);
        }
        let ttl_us = shared.plan.config.history.raw_us;
        blocking(shared, move || self.read_key(hash, &key, pending, ttl_us)).await.map(Some)
    }

    fn read_key(self, hash: u64, key: &str, pending: Pending, ttl_us: i64) -> Result<WindowPage> {
        let expired_us = pending.max_event_us.saturating_sub(ttl_us);
        let cursor = match &self.cursor {
            None => i64::MIN,
            Some(text) => text.parse().map_err(|_| Error::user("cursor: pass on what `next` said"))?,
        };
        let from_us = self.from_us.max(cursor).max(expired_us);
        let mut starts: BTreeMap<i64, Vec<Vec<u8>>> = BTreeMap::new();
        for (start_us, row) in pending.rows.into_iter().filter(|(start, _)| *start >= from_us) {
            starts.entry(start_us).or_default().push(row);
        }
        let reader = HistoryReader { store: &*pending.store, window: self.window_id };
        let mut page = Vec::new();
        let mut at = from_us;
        for _ in 0..MAX_STARTS {
            let stored = reader.next_start(at, self.to_us)?;
            let held = starts.range(at..).next().map(|(start, _)| *start);
            let Some(start_us) = stored.into_iter().chain(held).min() else { return finish(page, None) };
            if page.len() >= self.limit {
                return finish(page, Some(start_us.to_string()));
            }
            let mut rows = starts.remove(&start_us).unwrap_or_default();
            reader.rows_of(start_us, hash, &mut |json| {
                if !rows.iter().any(|row| row == json) {
                    rows.push(json.to_vec());
                }
            })?;
            page.extend(rows.into_iter().filter(|row| has_key(row, key)));
            at = start_us.saturating_add(1);
        }
        finish(page, Some(at.to_string()))
    }

    /// Pages go through the shards in their order; the cursor is `start:shard:rows of it that were given`. No more shards are asked
    /// than the page needs, so that a query holds the rows of a few.
    pub async fn latest(self, shared: &Arc<Shared>) -> Result<WindowPage> {
        let (start_us, first_shard, mut skip) = match &self.cursor {
            Some(text) => parse_latest_cursor(text).ok_or_else(|| Error::user("cursor: pass on what `next` said"))?,
            None => match self.newest(shared).await? {
                Some(start_us) => (start_us, 0, 0),
                None => return finish(Vec::new(), None),
            },
        };
        let mut page: Vec<Vec<u8>> = Vec::new();
        let shards: Vec<u16> = (0..shared.plan.config.shards).skip(first_shard).collect();
        for group in shards.chunks(SHARDS_AT_ONCE) {
            let asked = group.iter().map(|shard| self.pending(shared, *shard, None, start_us..start_us.saturating_add(1)));
            for (shard, asked) in std::iter::zip(group, asked.collect::<Vec<_>>()) {
                let (pending, window_id) = (answer(asked).await?, self.window_id);
                let rows = blocking(shared, move || rows_of_start(pending, window_id, start_us)).await?;
                let (total, room) = (rows.len(), self.limit - page.len());
                page.extend(rows.into_iter().skip(skip).take(room));
                let given = (skip + room).min(total);
                if given < total {
                    return finish(page, Some(format!("{start_us}:{shard}:{given}")));
                }
                skip = 0;
                if page.len() == self.limit {
                    return finish(page, Some(format!("{start_us}:{}:0", shard + 1)));
                }
            }
        }
        finish(page, None)
    }

    /// The newest start that has closed in any shard.
    async fn newest(&self, shared: &Shared) -> Result<Option<i64>> {
        let window = self.window;
        let closed = |shard| ask(shared, shard, move |processor| Ok(shard_in(processor, shard)?.latest_closed(window)));
        let asked: Vec<_> = (0..shared.plan.config.shards).map(closed).collect();
        let mut newest = None;
        for asked in asked {
            newest = newest.max(answer(asked).await?);
        }
        Ok(newest)
    }
}

fn shard_in(processor: &Processor, shard: u16) -> Result<&Shard> {
    let found = processor.shards().iter().find(|known| known.id == shard);
    found.ok_or_else(|| Error::engine("a worker was asked for a shard of another"))
}

/// All rows of one start that a shard has, sorted.
fn rows_of_start(pending: Pending, window_id: u32, start_us: i64) -> Result<Vec<Vec<u8>>> {
    let mut rows: Vec<Vec<u8>> = pending.rows.into_iter().map(|(_, row)| row).collect();
    let reader = HistoryReader { store: &*pending.store, window: window_id };
    reader.all_rows(start_us, &mut |json| {
        rows.push(json.to_vec());
        true
    })?;
    rows.sort_unstable();
    rows.dedup();
    Ok(rows)
}

fn parse_latest_cursor(text: &str) -> Option<(i64, usize, usize)> {
    let mut parts = text.split(':');
    let cursor = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(cursor)
}

/// Keys with equal hashes share a chunk; the row itself says whose it is.
fn has_key(row: &[u8], key: &str) -> bool {
    let mut head = b"{\"key\":".to_vec();
    streamjob_core::json::write_string(&mut head, key.as_bytes());
    head.push(b',');
    row.starts_with(&head)
}

fn finish(rows: Vec<Vec<u8>>, next: Option<String>) -> Result<WindowPage> {
    let raw = |row: Vec<u8>| {
        let text = String::from_utf8(row).map_err(|_| Error::damaged("a row of the history is not UTF-8"))?;
        serde_json::value::RawValue::from_string(text).map_err(|_| Error::damaged("a row of the history is not JSON"))
    };
    Ok(WindowPage { items: rows.into_iter().map(raw).collect::<Result<_>>()?, next })
}
