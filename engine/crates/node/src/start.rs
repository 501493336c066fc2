//! From a state directory and a job to threads that run: the same way after a crash as after a clean stop (I7).

mod running;
mod topics;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use streamjob_connectors::file_sink::SegmentDirectory;
use streamjob_core::config::SourceConfig;
use streamjob_core::journal::{Journal, JournalOptions, RecoveredLog, recover, split_id};
use streamjob_core::ledger::Ledger;
use streamjob_core::plan::{Plan, SinkFrom, SinkMode};
use streamjob_core::processor::Processor;
use streamjob_core::progress::SplitIndex;
use streamjob_core::shard::{Shard, SplitInfo};
use streamjob_core::source_positions::SourcePositions;
use streamjob_core::trim::Trim;
use streamjob_core::{Error, Result};
use streamjob_state::{FileLogStorage, JobIdentity, ShardStores, SharedResources, StateDir, StoreOptions};

use crate::committer;
use crate::feed::Feed;
use crate::file_rows::FileRows;
use crate::inbox::{Inbox, Message};
use crate::metrics::Metrics;
use crate::options::UdfFactory;
use crate::paced::Paced;
use crate::pin::pin;
use crate::port::{Output, Port, Stdout};
use crate::read_again::{Origins, Rereader};
use crate::replay::{self, Replay};
use crate::sequencer::Sequencer;
use crate::shared::Shared;
use crate::telemetry::Traces;
use crate::topics::{TopicSource, is_unknown};
use crate::udf_calls::CallWatch;
use crate::worker::Worker;

/// RocksDB gets at least this for its cache and memtables, whatever `state.memory` says.
const MIN_STORE_BYTES: u64 = 16 << 20;
/// Source name of the journals' splits: a push source may be renamed without its rows becoming those of another.
const JOURNAL: &str = "journal";
/// A thread that has to end is looked at this often.
const END_LOOK: Duration = Duration::from_millis(1);
/// Threads have this long to end; one that has not by then is stuck in a user function or in stdout.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Background threads of all stores.
const STORE_THREADS: u16 = 2;

/// An opened state directory with all that it holds.
pub struct Opened {
    pub plan: Arc<Plan>,
    // Dropped before the directory, whose lock says that they are closed.
    stores: ShardStores,
    pub state: StateDir,
    storage: Arc<FileLogStorage>,
    logs: Vec<RecoveredLog<FileLogStorage>>,
    files: Vec<SourceFile>,
    topics: Vec<TopicSource>,
    splits: Vec<SplitInfo>,
    /// The split of this start's journal, where the job has a push source.
    journal_split: Option<SplitIndex>,
    journal: Option<Arc<Journal<FileLogStorage>>>,
    /// Where the sources inside of the process go on.
    positions: SourcePositions,
}

/// What a worker's shards say once they are open.
struct Report {
    /// By split, by shard.
    positions: Vec<Vec<(u16, u64)>>,
    /// Sink, shard, number of the first segment that is not committed.
    segments: Vec<(usize, u16, u64)>,
    /// Sink of messages, shard, number of the first batch that is not cut.
    batches: Vec<(usize, u16, u64)>,
    ledger: Ledger,
    committed: Vec<(u16, std::collections::HashMap<String, u64>)>,
    /// What sinks that have left the job owe: name, rows.
    unsent: Vec<(String, u64)>,
}

/// What a worker needs once all have reported.
struct Go {
    outputs: Vec<Output>,
    feeds: Vec<Arc<Feed>>,
    origins: Arc<Origins>,
    starts: Vec<u64>,
}

/// The journal of an earlier start, which several may read.
pub type Log = (SplitIndex, Arc<RecoveredLog<FileLogStorage>>);

/// A file that is replayed.
pub struct SourceFile {
    pub split: SplitIndex,
    pub rows: Arc<FileRows>,
    /// Event time over wall time; 0 for as fast as it goes.
    pub speed: f64,
}

/// Threads and what they share.
pub struct Running {
    pub shared: Arc<Shared>,
    pub sequencer: Option<Arc<Sequencer>>,
    pub resumed: bool,
    outputs: Vec<Output>,
    logs: Vec<Log>,
    /// What may be deleted of the journals, and is not yet.
    trims: Vec<Trim>,
    topics: Vec<Arc<TopicSource>>,
    workers: Vec<JoinHandle<()>>,
    /// Threads that bring rows: of files in event time, of journals, of topics.
    feeders: Vec<JoinHandle<()>>,
    committers: Vec<JoinHandle<()>>,
    /// With a push source: who writes the journal, and who syncs it where that is another.
    journal: Vec<JoinHandle<()>>,
}

impl Opened {
    /// Opens the state, the journal and the files, while the stores are opened. Refuses what does not fit, with the reason.
    pub fn open(plan: Arc<Plan>, path: &Path) -> Result<Opened> {
        let identity = JobIdentity::of(&plan.config);
        let mut state = StateDir::open(path, &identity)?;
        let shared = SharedResources::new(StoreOptions {
            memory_bytes: plan.config.state.store_bytes().max(MIN_STORE_BYTES),
            background_threads: STORE_THREADS,
            ..StoreOptions::default()
        })?;
        let stores = ShardStores::open(&state.shards_path(), plan.config.shards, &shared, !state.shards_created())?;
        state.set_shards_created()?;
        let storage = Arc::new(FileLogStorage::open(&state.journal_path())?);
        let logs = recover(&storage)?;
        let mut opened = Opened {
            plan,
            state,
            stores,
            storage,
            logs,
            files: Vec::new(),
            topics: Vec::new(),
            splits: Vec::new(),
            journal_split: None,
            journal: None,
            positions: SourcePositions::default(),
        };
        opened.open_journal(&identity)?;
        opened.open_files()?;
        opened.open_topics()?;
        // What is known by now is told before anything is begun.
        opened.stores.check()?;
        Ok(opened)
    }

    fn open_journal(&mut self, identity: &JobIdentity) -> Result<()> {
        // Rows of the others say their source themselves.
        let pushes = self.plan.config.sources.iter().filter(|source| source.is_push());
        let source = pushes.min_by_key(|source| source.http.is_none());
        let has_push = source.is_some();
        let source: Arc<str> = source.map_or(JOURNAL, |source| source.name.as_str()).into();
        let info = |incarnation| SplitInfo { id: split_id(JOURNAL, incarnation).into(), source: source.clone(), chained: true };
        for log in &self.logs {
            if log.fingerprint() != identity.schema_fingerprint {
                return Err(Error::user(
                    "spec.schema.fields: the journal holds rows of other fields that no commit has yet; run the old job once more \
                     until it stops by itself (--exit-at-end), or start with another --state-dir",
                ));
            }
            self.splits.push(info(log.incarnation()));
        }
        if has_push {
            let incarnation = StateDir::new_incarnation(self.logs.iter().map(RecoveredLog::incarnation).max());
            let options = JournalOptions::new(incarnation, identity.schema_fingerprint);
            self.journal = Some(Arc::new(Journal::open(self.storage.clone(), options)?));
            self.journal_split = Some(self.splits.len() as SplitIndex);
            self.splits.push(info(incarnation));
        }
        self.open_positions()
    }

    /// Finds where sources go on, and saves it before the first record of this start: what later starts need not look for in
    /// older journals.
    fn open_positions(&mut self) -> Result<()> {
        let saved = self.state.positions()?;
        if saved.is_none() && !self.plan.config.sources.iter().any(SourceConfig::keeps_position) {
            return Ok(());
        }
        self.positions = SourcePositions::recover(saved, &self.logs)?;
        let journal = self.journal.as_ref().map(|journal| journal.incarnation());
        self.state.save_positions(&self.positions.to_save(journal))
    }

    fn open_files(&mut self) -> Result<()> {
        for source in &self.plan.config.sources {
            let Some(file) = &source.file else { continue };
            let rows = FileRows::open(&self.plan, &source.name, file, self.state.created_us())?;
            let split = self.splits.len() as SplitIndex;
            let (id, source) = (rows.file.id().into(), source.name.as_str().into());
            self.splits.push(SplitInfo { id, source, chained: false });
            self.files.push(SourceFile { split, rows: Arc::new(rows), speed: file.speed });
        }
        Ok(())
    }

    fn worker_count(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let wanted = match self.plan.config.engine.worker_threads {
            0 => cores,
            threads => usize::from(threads),
        };
        wanted.clamp(1, usize::from(self.plan.config.shards))
    }

    /// Opens the shards on their workers and lets all threads go, also the one that replays what the journals hold beyond the
    /// shards' commits.
    pub fn start(
        self,
        traces: Traces,
        udfs: &Arc<dyn UdfFactory>,
        exit_at_end: bool,
        sinks: impl FnOnce(&Arc<Shared>) -> Result<Vec<Output>>,
    ) -> Result<Running> {
        let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..self.worker_count()).map(|_| Inbox::new()).unzip();
        let (commits, commit_receiver) = committer::channel(self.worker_count());
        let Opened { plan, state, stores, logs, files, topics, splits, journal_split, journal, positions, .. } = self;
        let shared = Arc::new(Shared::new(plan, state, traces, Metrics::new()?, inboxes, stores, splits));
        let mut workers = Workers { handles: Vec::new(), shared: shared.clone() };
        let calls = CallWatch::open(&shared);
        let reports = workers.spawn(receivers, &commits, udfs, calls.as_ref())?;
        drop(commits);
        shared.stores.settle();
        let starts = take_reports(&shared, &reports)?;
        warn_unsent(&reports);
        for SourceFile { split, rows, .. } in &files {
            rows.file.check_resume(rows.file.id(), starts[usize::from(*split)])?;
        }
        let sources: Vec<Arc<TopicSource>> = topics.into_iter().map(Arc::new).collect();
        let outputs = sinks(&shared)?;
        recover_segments(&shared, &outputs, &reports)?;
        let logs = name_logs(&shared, logs);
        let replays = open_replays(&logs, &starts)?;
        let resumed = shared.received.load(Ordering::Relaxed) > 0
            || starts.iter().any(|start| *start > 0)
            || logs.iter().any(|(_, log)| log.end_offset() > 0);
        let sequencer = match (journal, journal_split) {
            (Some(journal), Some(split)) => {
                shared.trimmer.lock().open_log(&*shared.splits[usize::from(split)].id);
                Some(Arc::new(Sequencer::new(shared.clone(), journal, split, positions)))
            }
            _ => None,
        };
        let origins = Arc::new(Origins::find(&logs, sequencer.as_ref(), &files, &sources));
        let (feeds, paced) = open_feeds(&shared, files, &starts);
        let mut committers = Vec::new();
        for _ in 0..committer::threads(workers.handles.len()) {
            let (owned, sequencer, commits) = (shared.clone(), sequencer.clone(), commit_receiver.clone());
            committers.push(spawn(&shared, "committer", move || committer::run(&owned, sequencer.as_deref(), &commits))?);
        }
        let journal = spawn_journal(&shared, sequencer.as_ref())?;
        for (_, go) in &workers.handles {
            let (outputs, feeds) = (outputs.clone(), feeds.clone());
            let message = Go { outputs, feeds, origins: origins.clone(), starts: starts.clone() };
            go.send(message).map_err(|_| Error::engine("a worker has ended before its start"))?;
        }
        let mut feeders = Vec::new();
        for paced in paced {
            feeders.push(spawn(&shared, "paced", move || paced.run())?);
        }
        for source in &sources {
            feeders.extend(topics::spawn(&shared, source, &starts, exit_at_end)?);
        }
        match replays.is_empty() {
            true => shared.open_gate(),
            false => {
                let replayed = shared.clone();
                feeders.push(spawn(&shared, "replay", move || replay::run(&replayed, replays))?);
            }
        }
        Ok(Running {
            shared,
            sequencer,
            resumed,
            outputs,
            logs,
            trims: Vec::new(),
            topics: sources,
            workers: workers.take(),
            feeders,
            committers,
            journal,
        })
    }
}

/// Says what a sink that has left the job owes: nobody else will (I6).
fn warn_unsent(reports: &[Report]) {
    let mut unsent: BTreeMap<&str, u64> = BTreeMap::new();
    for (sink, rows) in reports.iter().flat_map(|report| &report.unsent) {
        *unsent.entry(sink).or_default() += rows;
    }
    for (sink, rows) in unsent {
        tracing::warn!(
            sink,
            rows,
            "rows wait in the state for a sink that the job does not have any more; a sink of this name and kind sends them"
        );
    }
}

/// By split: the lowest position of all shards, where reading starts.
fn take_reports(shared: &Shared, reports: &[Report]) -> Result<Vec<u64>> {
    let mut by_shard = vec![vec![0u64; usize::from(shared.plan.config.shards)]; shared.splits.len()];
    let mut ledger = Ledger::default();
    for report in reports {
        ledger.add(&report.ledger);
        for (split, positions) in report.positions.iter().enumerate() {
            for (shard, position) in positions {
                by_shard[split][usize::from(*shard)] = *position;
            }
        }
        for (shard, positions) in &report.committed {
            shared.trimmer.lock().committed(*shard, positions.iter().map(|(split, position)| (split.as_str(), *position)));
        }
    }
    let batches = reports.iter().flat_map(|report| &report.batches).map(|(sink, shard, number)| ((*sink, *shard), *number));
    shared.first_numbers.set(batches.collect()).map_err(|_| Error::engine("a process starts once"))?;
    shared.received.store(ledger.taken(), Ordering::Relaxed);
    let starts: Vec<u64> = by_shard.iter().map(|positions| positions.iter().copied().min().unwrap_or(0)).collect();
    shared.start_positions.set(by_shard).map_err(|_| Error::engine("a process starts once"))?;
    Ok(starts)
}

/// The journals of earlier starts are the first splits, in order.
fn name_logs(shared: &Shared, logs: Vec<RecoveredLog<FileLogStorage>>) -> Vec<Log> {
    for (split, log) in std::iter::zip(&shared.splits, &logs) {
        shared.trimmer.lock().ended_log(&*split.id, log.end_offset());
    }
    logs.into_iter().enumerate().map(|(split, log)| (split as SplitIndex, Arc::new(log))).collect()
}

fn open_replays(logs: &[Log], starts: &[u64]) -> Result<Vec<Replay>> {
    let open = |(split, log): &Log| {
        let end_offset = log.end_offset();
        let reader = log.read(starts[usize::from(*split)].min(end_offset))?;
        Ok(Replay { split: *split, reader, end_offset })
    };
    logs.iter().map(open).collect()
}

fn open_feeds(shared: &Arc<Shared>, files: Vec<SourceFile>, starts: &[u64]) -> (Vec<Arc<Feed>>, Vec<Paced>) {
    let (mut feeds, mut paced) = (Vec::new(), Vec::new());
    for SourceFile { split, rows, speed } in files {
        let offset = starts[usize::from(split)];
        if speed > 0.0 {
            paced.push(Paced { shared: shared.clone(), split, rows, offset, speed });
        } else {
            feeds.push(Arc::new(Feed::new(split, rows, offset)));
        }
    }
    (feeds, paced)
}

/// Workers on their way to their start. Dropped before that, they end, and their shards are closed.
struct Workers {
    handles: Vec<(JoinHandle<()>, Sender<Go>)>,
    shared: Arc<Shared>,
}

impl Workers {
    /// Starts the threads, which open their shards.
    fn spawn(
        &mut self,
        receivers: Vec<Receiver<Message>>,
        commits: &Sender<committer::Commit>,
        udfs: &Arc<dyn UdfFactory>,
        calls: Option<&Arc<CallWatch>>,
    ) -> Result<Vec<Report>> {
        let count = receivers.len();
        let (report_sender, reports) = bounded(count);
        for (worker, receiver) in receivers.into_iter().enumerate() {
            let (go_sender, go) = bounded(1);
            let (shared, commits) = (self.shared.clone(), commits.clone());
            let (udfs, calls, report_sender) = (udfs.clone(), calls.cloned(), report_sender.clone());
            let handle = spawn(&self.shared, &format!("worker-{worker}"), move || {
                pin(&shared, worker);
                let opened = open_shards(&shared, worker, &*udfs, calls);
                let (report, processor) = match opened {
                    Ok((report, processor)) => (Ok(report), Some(processor)),
                    Err(error) => {
                        // The others need not go on.
                        shared.abandon(error.clone());
                        (Err(error), None)
                    }
                };
                let _ = report_sender.send(report);
                drop(report_sender);
                let (Some(processor), Ok(go)) = (processor, go.recv()) else { return };
                let Go { outputs, feeds, origins, starts } = go;
                let port = Port::new(shared.clone(), outputs);
                let rereader = Rereader::new(shared.clone(), origins, worker);
                match Worker::new(worker, shared.clone(), receiver, commits, processor, port, feeds, rereader, &starts) {
                    Ok(worker) => worker.run(),
                    Err(error) => shared.fail(error),
                }
            })?;
            self.handles.push((handle, go_sender));
        }
        drop(report_sender);
        let report = |_| reports.recv().map_err(|_| Error::engine("a worker has ended before its start"))?;
        (0..count).map(report).collect()
    }

    /// The threads, which run.
    fn take(mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.handles).into_iter().map(|(handle, _)| handle).collect()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if !self.handles.is_empty() {
            self.shared.abandon(Error::engine("the start has failed"));
        }
        for (handle, go) in self.handles.drain(..) {
            drop(go);
            let _ = handle.join();
        }
    }
}

fn spawn_journal(shared: &Arc<Shared>, sequencer: Option<&Arc<Sequencer>>) -> Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    let Some(sequencer) = sequencer else { return Ok(threads) };
    let writer = sequencer.clone();
    threads.push(spawn(shared, "journal", move || writer.run())?);
    if sequencer.syncs_behind() {
        let syncer = sequencer.clone();
        threads.push(spawn(shared, "journal-sync", move || syncer.sync_behind())?);
    }
    Ok(threads)
}

fn open_shards(
    shared: &Arc<Shared>,
    worker: usize,
    udfs: &dyn UdfFactory,
    calls: Option<Arc<CallWatch>>,
) -> Result<(Report, Processor)> {
    let mut shards = Vec::new();
    for shard in (0..shared.plan.config.shards).filter(|shard| usize::from(shared.worker_of[usize::from(*shard)]) == worker) {
        if let Some(failure) = shared.failure() {
            return Err(failure.clone());
        }
        let store = shared.stores.get(shard)?.clone();
        let mut shard = Shard::open(shard, shared.plan.clone(), store, &shared.splits)?;
        // A journal is deleted once all shards have committed it, and its name is never used again.
        shard.forget_splits(|id| id.strip_prefix(JOURNAL).is_some_and(|rest| rest.starts_with('@')) || is_unknown(id));
        shards.push(shard);
    }
    let mut ledger = Ledger::default();
    shards.iter().for_each(|shard| ledger.add(&shard.ledger));
    // Before anybody can ask: to whoever reads the counters they must never seem to begin anew.
    shared.figures[worker].lock().ledger.add(&ledger);
    let report = Report {
        positions: (0..shared.splits.len())
            .map(|split| shards.iter().map(|shard| (shard.id, shard.progress(split as SplitIndex).position)).collect())
            .collect(),
        segments: shards.iter().flat_map(|shard| shard.open_segments().map(|(sink, number)| (sink, shard.id, number))).collect(),
        batches: shards.iter().flat_map(|shard| shard.next_batches().map(|(sink, number)| (sink, shard.id, number))).collect(),
        ledger,
        committed: shards.iter().map(|shard| (shard.id, shard.positions())).collect(),
        unsent: shards.iter().flat_map(|shard| shard.unsent().iter().cloned()).collect(),
    };
    // Last: functions may still be on their way.
    let mut processor = Processor::new(shared.plan.clone(), shared.splits.clone(), shards, udfs.host(worker)?);
    if let Some(calls) = calls {
        calls.watch(worker, &mut processor);
    }
    Ok((report, processor))
}

/// Publishes committed segments that a crash left under their temporary names, and deletes the others. A state that is older
/// than some sink's output begins a new output incarnation, in all sinks.
fn recover_segments(shared: &Shared, outputs: &[Output], reports: &[Report]) -> Result<()> {
    let mut ahead: Option<(u32, usize)> = None;
    for (sink, shard, number) in reports.iter().flat_map(|report| &report.segments) {
        let Output::Segments(directory) = &outputs[*sink] else { continue };
        let recovered = directory.recover(*shard, *number..*number)?;
        ahead = ahead.max(recovered.next_incarnation.map(|incarnation| (incarnation, *sink)));
    }
    let Some((incarnation, sink)) = ahead else { return Ok(()) };
    shared.state.set_output_incarnation(incarnation)?;
    for output in outputs {
        if let Output::Segments(directory) = output {
            directory.begin_incarnation(incarnation);
        }
    }
    tracing::warn!(
        reason = "OutputsMayRepeat",
        incarnation,
        sink = shared.plan.sinks[sink].name,
        "the state is older than what this sink holds, as one restored from a backup is: rows since then may come again; new \
         files have -r{incarnation} in their names, and messages new keys"
    );
    Ok(())
}

/// Starts a thread. One that panics ends the process: nobody else would do its work.
fn spawn(shared: &Arc<Shared>, name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let (shared, thread) = (shared.clone(), name.to_owned());
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            if std::panic::catch_unwind(AssertUnwindSafe(run)).is_err() {
                shared.fail(Error::engine(format!("the thread {thread} panicked; this is a bug, please report it")));
            }
        })
        .map_err(|error| Error::outside(format!("can't start the thread {name}: {error}")))
}

/// Opens the directories and streams of all sinks; those that take messages are added by whoever has the runtime.
pub fn open_outputs(
    shared: &Shared,
    mut messages: impl FnMut(usize, &streamjob_core::config::SinkConfig) -> Result<Output>,
) -> Result<Vec<Output>> {
    let (plan, state) = (&shared.plan, &shared.state);
    let mut outputs = Vec::new();
    for (index, sink) in plan.sinks.iter().enumerate() {
        let segments =
            |path: PathBuf| Ok(Output::Segments(SegmentDirectory::open(&path, state.state_id(), state.output_incarnation())?));
        if sink.from == SinkFrom::DeadLetters {
            let path = plan.config.dead_letters.as_ref().map(|letters| PathBuf::from(&letters.file.path));
            outputs.push(segments(path.unwrap_or_else(|| state.path().join("dead-letters")))?);
            continue;
        }
        let config = &plan.config.sinks[index];
        outputs.push(match (sink.mode, &config.file) {
            (SinkMode::Segments, Some(file)) => segments(PathBuf::from(&file.path))?,
            (SinkMode::Messages, _) => messages(index, config)?,
            _ => Output::Stdout(Arc::new(Stdout::start()?)),
        });
    }
    Ok(outputs)
}
