//! What a run says of itself: progress for the live view, totals at the end.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use streamjob_core::ledger::Outcome;
use streamjob_core::plan::SinkFrom;

use crate::metrics::Rate;
use crate::options::Totals;
use crate::shared::Shared;

/// One look at a running job, as JSON.
pub fn progress(shared: &Shared, rate: &mut Rate) -> String {
    let ledger = shared.ledger();
    let received = shared.received_rows(&ledger);
    let mut pending = vec![0u64; shared.plan.sinks.len()];
    let (mut windows, mut events) = (Vec::new(), Vec::new());
    for figures in &shared.figures {
        let figures = figures.lock();
        std::iter::zip(&mut pending, &figures.pending_rows).for_each(|(sum, rows)| *sum += rows);
        windows.extend(figures.recent_windows.iter().filter_map(|row| serde_json::from_str::<Value>(row).ok()));
        events.extend(figures.recent_events.iter().filter_map(|row| serde_json::from_str::<Value>(row).ok()));
    }
    windows.sort_by(|a, b| text(a, "window_start").cmp(text(b, "window_start")).then_with(|| text(a, "key").cmp(text(b, "key"))));
    let time = &shared.plan.config.schema.time.field;
    events.sort_by(|a, b| match (a[time].as_f64(), b[time].as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => text(a, time).cmp(text(b, time)),
    });
    let sinks: Vec<Value> = shared
        .plan
        .sinks
        .iter()
        .enumerate()
        .filter(|(_, sink)| sink.from != SinkFrom::DeadLetters)
        .map(|(index, sink)| {
            json!({"name": sink.name, "sent_rows": shared.sent_rows[index].load(Ordering::Relaxed), "pending_rows": pending[index]})
        })
        .collect();
    json!({
        "uptime_us": shared.uptime_us(),
        "received": received,
        "applied": ledger.of(Outcome::Applied),
        "filtered": ledger.of(Outcome::Filtered),
        "late": ledger.of(Outcome::Late),
        "rejected": ledger.of(Outcome::Rejected),
        "failed": ledger.of(Outcome::Failed),
        "duplicate": ledger.of(Outcome::Duplicate),
        "windows": ledger.windows,
        "anomalies": ledger.anomalies,
        "rate_events_per_s": rate.per_second(received, shared.uptime_us()),
        "queue_rows": received - ledger.taken(),
        // The end of time is i64::MAX: all sources have finished, which is not the same as no event yet.
        "watermark_us": shared.watermark_us(),
        "sinks": sinks,
        "latest_windows": windows,
        "latest_events": events,
        "message": Value::Null,
    })
    .to_string()
}

fn text<'a>(row: &'a Value, member: &str) -> &'a str {
    row[member].as_str().unwrap_or_default()
}

/// Counts since the state was created.
pub fn totals(shared: &Shared, resumed: bool) -> Totals {
    let ledger = shared.ledger();
    Totals {
        received: shared.received_rows(&ledger),
        applied: ledger.of(Outcome::Applied),
        late: ledger.of(Outcome::Late),
        rejected: ledger.of(Outcome::Rejected),
        windows: ledger.windows,
        anomalies: ledger.anomalies,
        resumed,
    }
}
