//! `/metrics`: figures of the engine in Prometheus' text format. docs/metrics.md lists them all.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use metrics::{Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use streamjob_core::ledger::Outcome;
use streamjob_core::{Error, Result};

use crate::shared::{Shared, now_us};
use crate::topics::Partition;

/// Upper bounds of latency buckets, seconds.
const SECONDS: [f64; 14] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The metrics of one run, and those of the process that user functions write.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    functions: PrometheusHandle,
    pub commit_duration: Histogram,
    pub ingest_duration: Histogram,
}

/// What is recorded where no run is known; one recorder a process, however many runs it has.
static FUNCTIONS: OnceLock<PrometheusHandle> = OnceLock::new();

impl Metrics {
    pub fn new() -> Result<Metrics> {
        let functions = match FUNCTIONS.get() {
            Some(handle) => handle.clone(),
            None => {
                let recorder = recorder()?;
                let handle = FUNCTIONS.get_or_init(|| recorder.handle()).clone();
                // A host that has a recorder of its own keeps it.
                let _ = metrics::set_global_recorder(recorder);
                describe_functions();
                handle
            }
        };
        let recorder = recorder()?;
        let handle = recorder.handle();
        let (commit_duration, ingest_duration) = metrics::with_local_recorder(&recorder, || {
            describe();
            let ingest = metrics::histogram!("streamjob_ingest_duration_seconds");
            (metrics::histogram!("streamjob_commit_duration_seconds"), ingest)
        });
        Ok(Metrics { recorder, handle, functions, commit_duration, ingest_duration })
    }

    /// All figures as text.
    pub fn render(&self, shared: &Shared) -> String {
        metrics::with_local_recorder(&self.recorder, || update(shared));
        self.upkeep();
        self.handle.render() + &self.functions.render()
    }
}

impl Metrics {
    /// Sorts what was recorded into the histograms' buckets. Until then every value is kept, so it must be called also where
    /// nobody reads the metrics.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
        self.functions.run_upkeep();
    }
}

fn recorder() -> Result<PrometheusRecorder> {
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS);
    Ok(builder.map_err(|error| Error::engine(format!("the metrics' buckets: {error}")))?.build_recorder())
}

fn describe_functions() {
    describe_histogram!("udf_latency_seconds", "Time of one call of a user function.");
    describe_histogram!("udf_lock_wait_seconds", "Time that a call of a user function waited for the interpreter's lock.");
    describe_counter!("udf_errors_total", "Calls of user functions that failed.");
    describe_counter!("udf_isolated_calls_total", "Calls of user functions in a process of their own.");
}

fn describe() {
    describe_counter!("events_processed_total", "Rows by what became of them; each row once, over restarts.");
    describe_counter!("events_received_total", "Rows that came in: processed and in flight, over restarts.");
    describe_gauge!("streamjob_ingest_rate_events_per_second", "Rows received per second, over the last interval.");
    describe_histogram!("streamjob_ingest_duration_seconds", "Time from a request to its answer, once its rows are durable.");
    describe_gauge!("streamjob_queue_rows", "Rows received and not processed yet.");
    describe_gauge!("streamjob_queue_units", "Part of the queues' bound that is in use, in rows or 256 bytes.");
    describe_gauge!("streamjob_uncommitted_request_ids", "Requests with an Idempotency-Key that no commit has yet.");
    describe_gauge!("streamjob_disk_full", "1 while something waits for room on a disk; rows are refused then.");
    describe_gauge!("streamjob_event_time_lag_seconds", "Wall-clock time less the watermark.");
    describe_gauge!("streamjob_watermark_timestamp_seconds", "The lowest watermark of all shards.");
    describe_histogram!("streamjob_commit_duration_seconds", "Time of one shard's commit, fsync included.");
    describe_gauge!("streamjob_checkpoint_duration_seconds", "Time of the newest commit.");
    describe_gauge!("streamjob_checkpoint_lag_seconds", "Time since the newest commit.");
    describe_counter!("streamjob_commits_total", "Commits since the process started.");
    describe_counter!("streamjob_commit_bytes_total", "Bytes of keys and values committed since the process started.");
    describe_counter!("streamjob_windows_closed_total", "Rows of closed windows, over restarts.");
    describe_counter!("streamjob_anomalies_total", "Event rows that passed the where of a sink, over restarts.");
    describe_gauge!("streamjob_hot_keys", "Keys in memory.");
    describe_gauge!("streamjob_hot_bytes", "Memory of the keys in memory.");
    describe_counter!("streamjob_sink_rows_total", "Rows handed to a sink since the process started; for messages, confirmed.");
    describe_gauge!("streamjob_sink_pending_rows", "Rows that a message sink has not confirmed.");
    describe_gauge!("streamjob_output_incarnation", "How often the state was older than its sinks; above 0 outputs may repeat.");
    describe_gauge!("streamjob_blocked_shards", "Shards that take no rows, as a sink takes none of theirs.");
    describe_gauge!("streamjob_behind_shards", "Blocked shards, and those that read again what they have left.");
    describe_gauge!("streamjob_connected", "1 while the server of a source or sink answers.");
    describe_counter!("streamjob_connection_errors_total", "Requests and connections that failed since the process started.");
    describe_gauge!("streamjob_source_lag_rows", "Offsets of a source that are written and not applied yet.");
    describe_counter!("streamjob_source_bytes_total", "Bytes of messages read since the process started.");
    describe_counter!("streamjob_source_skipped_total", "Messages without a value that were skipped, as the job asks.");
    describe_counter!("streamjob_source_lost_total", "Offsets that were gone before they were read.");
    describe_gauge!("streamjob_rocksdb_sst_bytes", "Bytes of all SST files.");
    describe_gauge!("streamjob_rocksdb_memtable_bytes", "Bytes in memtables.");
    describe_gauge!("streamjob_rocksdb_block_cache_bytes", "Bytes in the shared block cache.");
    describe_gauge!("streamjob_rocksdb_pending_compaction_bytes", "Bytes that compaction still has to rewrite.");
    describe_gauge!("streamjob_rocksdb_l0_files", "Files that compaction has not merged.");
}

fn update(shared: &Shared) {
    let ledger = shared.ledger();
    for outcome in Outcome::ALL {
        counter!("events_processed_total", "outcome" => outcome.as_str()).absolute(ledger.of(outcome));
    }
    let received = shared.received_rows(&ledger);
    counter!("events_received_total").absolute(received);
    counter!("streamjob_windows_closed_total").absolute(ledger.windows);
    counter!("streamjob_anomalies_total").absolute(ledger.anomalies);
    gauge!("streamjob_queue_rows").set((received - ledger.taken()) as f64);
    gauge!("streamjob_queue_units").set(shared.credits.taken() as f64);
    gauge!("streamjob_uncommitted_request_ids").set(shared.requests.len() as f64);
    gauge!("streamjob_disk_full").set(if shared.is_disk_full() { 1.0 } else { 0.0 });
    gauge!("streamjob_ingest_rate_events_per_second").set(shared.rate.lock().per_second(received, shared.uptime_us()));
    if let Some(watermark_us) = shared.shown_watermark_us() {
        gauge!("streamjob_watermark_timestamp_seconds").set(watermark_us as f64 / 1e6);
        gauge!("streamjob_event_time_lag_seconds").set(now_us().saturating_sub(watermark_us) as f64 / 1e6);
    }
    update_commits(shared);
    update_connections(shared);
    update_state(shared);
}

fn update_commits(shared: &Shared) {
    let figures = &shared.commit_figures;
    counter!("streamjob_commits_total").absolute(figures.commits.load(Ordering::Relaxed));
    counter!("streamjob_commit_bytes_total").absolute(figures.bytes.load(Ordering::Relaxed));
    gauge!("streamjob_checkpoint_duration_seconds").set(figures.last_duration_us.load(Ordering::Relaxed) as f64 / 1e6);
    let since_us = shared.uptime_us().saturating_sub(figures.last_at_us.load(Ordering::Relaxed));
    gauge!("streamjob_checkpoint_lag_seconds").set(since_us as f64 / 1e6);
}

fn update_connections(shared: &Shared) {
    for view in &*shared.connections.lock() {
        let labels = [("kind", if view.source { "source" } else { "sink" }.to_owned()), ("connector", view.name.to_string())];
        gauge!("streamjob_connected", &labels).set(if view.connection.is_connected() { 1.0 } else { 0.0 });
        counter!("streamjob_connection_errors_total", &labels).absolute(view.connection.errors());
        let source = || view.name.to_string();
        if let Some(bytes) = &view.bytes {
            counter!("streamjob_source_bytes_total", "source" => source()).absolute(bytes.load(Ordering::Relaxed));
        }
        let Some(topic) = &view.topic else { continue };
        let applied = |split: u16| {
            let positions = shared.figures.iter().map(|it| it.lock().positions.get(usize::from(split)).copied().unwrap_or(0));
            positions.min().unwrap_or(0)
        };
        let lag = |partition: &Partition| {
            let end = partition.end.load(Ordering::Relaxed);
            end.saturating_sub(applied(partition.split).max(partition.base))
        };
        gauge!("streamjob_source_lag_rows", "source" => source()).set(topic.partitions.iter().map(lag).sum::<u64>() as f64);
        let figures = &topic.figures;
        counter!("streamjob_source_bytes_total", "source" => source()).absolute(figures.bytes.load(Ordering::Relaxed));
        counter!("streamjob_source_skipped_total", "source" => source()).absolute(figures.skipped.load(Ordering::Relaxed));
        counter!("streamjob_source_lost_total", "source" => source()).absolute(figures.lost.load(Ordering::Relaxed));
    }
}

fn update_state(shared: &Shared) {
    let (mut keys, mut bytes, mut blocked, mut behind) = (0, 0, 0, 0);
    let mut pending = vec![0; shared.plan.sinks.len()];
    for figures in &shared.figures {
        let figures = figures.lock();
        keys += figures.keys;
        bytes += figures.table_bytes;
        blocked += figures.blocked_shards;
        behind += figures.behind_shards;
        std::iter::zip(&mut pending, &figures.pending_rows).for_each(|(sum, rows)| *sum += rows);
    }
    gauge!("streamjob_hot_keys").set(keys as f64);
    gauge!("streamjob_hot_bytes").set(bytes as f64);
    gauge!("streamjob_output_incarnation").set(f64::from(shared.state.output_incarnation()));
    gauge!("streamjob_blocked_shards").set(blocked as f64);
    gauge!("streamjob_behind_shards").set(behind as f64);
    for (sink, plan) in shared.plan.sinks.iter().enumerate() {
        counter!("streamjob_sink_rows_total", "sink" => plan.name.clone())
            .absolute(shared.sent_rows[sink].load(Ordering::Relaxed));
        gauge!("streamjob_sink_pending_rows", "sink" => plan.name.clone()).set(pending[sink] as f64);
    }
    let stats: Vec<_> = shared.stores.opened().map(|store| store.stats()).collect();
    let sum = |figure: fn(&streamjob_state::StoreStats) -> u64| stats.iter().map(figure).sum::<u64>() as f64;
    gauge!("streamjob_rocksdb_sst_bytes").set(sum(|stats| stats.sst_bytes));
    gauge!("streamjob_rocksdb_memtable_bytes").set(sum(|stats| stats.memtable_bytes));
    gauge!("streamjob_rocksdb_pending_compaction_bytes").set(sum(|stats| stats.pending_compaction_bytes));
    gauge!("streamjob_rocksdb_l0_files").set(sum(|stats| stats.l0_files));
    gauge!("streamjob_rocksdb_block_cache_bytes").set(stats.first().map_or(0, |stats| stats.block_cache_bytes) as f64);
}

/// Rows per second between two looks.
#[derive(Debug, Default)]
pub struct Rate {
    rows: u64,
    at_us: u64,
    last: f64,
}

impl Rate {
    /// A look sooner than this keeps the last rate.
    const SHORTEST_US: u64 = 200_000;

    pub fn per_second(&mut self, rows: u64, now_us: u64) -> f64 {
        let passed_us = now_us.saturating_sub(self.at_us);
        if passed_us >= Self::SHORTEST_US {
            self.last = rows.saturating_sub(self.rows) as f64 * 1e6 / passed_us as f64;
            self.rows = rows;
            self.at_us = now_us;
        }
        self.last
    }
}
