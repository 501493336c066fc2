//! One run from start to end: signals, time limits, checkpoints, the live view.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use streamjob_core::catch_up::takes_rows;
use streamjob_core::config::SourceConfig;
use streamjob_core::outbox::MAX_OUTBOX_BYTES;
use streamjob_core::plan::{Limits, Plan};
use streamjob_core::progress::{SplitIndex, SplitStatus};
use streamjob_core::{Error, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control_token::ControlToken;
use crate::formats::Formats;
use crate::hosted::{self, ConnectorHost};
use crate::inbox::Message;
use crate::ingest::Ingest;
use crate::message_sinks::MessageSinks;
use crate::options::{OnReady, Options, StopHandle, Totals};
use crate::rest::Rest;
use crate::shared::{Gate, Shared};
use crate::start::{Opened, Running, open_outputs};
use crate::telemetry::Traces;
use crate::{mqtt, progress_json, server, telemetry};

/// How often the run looks at what may have changed without a word.
const LOOK: Duration = Duration::from_millis(20);
/// How often recorded durations are sorted into their buckets, which bounds what is kept of them.
const UPKEEP: Duration = Duration::from_secs(1);
/// Threads for connections, webhooks and the run itself.
const IO_THREADS: usize = 2;
/// When the process stops, requests under way have this long to end; after that they are told to come again.
const DRAIN: Duration = Duration::from_secs(3);
/// Rows that are in when the process stops have this long to be processed, committed and delivered. What is left then is in
/// the journal, the files or the outbox, for the next start.
const REST: Duration = Duration::from_secs(2);
/// User code has this long to close what it has open.
const HOST_END: Duration = Duration::from_secs(5);
/// The last answers have this long to leave.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Before the state is opened anew, whoever still uses it has this long to let go of it: a query that reads, a body that is decoded.
const LET_GO: Duration = Duration::from_secs(10);
/// All outboxes of one sink hold about this many bytes together; each shard has its part.
const OUTBOX_BYTES: usize = 256 << 20;
/// The part of a shard is at least this.
const MIN_OUTBOX_BYTES: usize = 256 << 10;

/// Runs a job until a signal, the time limit or the end of its sources.
pub fn run(options: Options) -> Result<Totals> {
    telemetry::init_logs()?;
    let outbox_bytes = (OUTBOX_BYTES / usize::from(options.config.shards.max(1))).clamp(MIN_OUTBOX_BYTES, MAX_OUTBOX_BYTES);
    let plan = Plan::compile_with(options.config.clone(), Limits { outbox_bytes, ..Limits::default() })?;
    #[cfg(feature = "crash-points")]
    streamjob_state::crash::arm()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .thread_name("io")
        .enable_all()
        .build()
        .map_err(|error| Error::outside(format!("can't start the runtime: {error}")))?;
    let outcome = runtime.block_on(run_async(plan, options));
    runtime.shutdown_timeout(LAST_ANSWERS);
    outcome
}

/// The tasks beside the workers.
struct Tasks {
    /// Ends the listener, and each connection after the request that it is at.
    listener: CancellationToken,
    connections: TaskTracker,
    /// Ends each connection at once: a client that does not read its answer would hold the state.
    hangup: CancellationToken,
    /// Ends sources inside of the process, once they have brought what they have.
    sources: CancellationToken,
    bringing: TaskTracker,
    sinks: MessageSinks,
}

/// How one opening of the state ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The run is over.
    Over,
    /// What was found at the start has changed: the state is opened anew.
    Reopen,
}

async fn run_async(plan: Arc<Plan>, mut options: Options) -> Result<Totals> {
    let mut signals = Signals::new(&options)?;
    // Before anything is created: a busy port must leave nothing behind.
    let listener = match &options.listen {
        Some(address) => Some(server::bind(address).await?),
        None => None,
    };
    // Clients that connect while the state is opened anew wait for it.
    let listener = listener.map(|(listener, address)| (Arc::new(listener), address));
    let deadline = options.run_for.map(|limit| Instant::now() + limit);
    let mut resumed = None;
    loop {
        let (end, totals, alive) = run_once(plan.clone(), &mut options, &mut signals, listener.clone(), deadline).await?;
        let resumed = *resumed.get_or_insert(totals.resumed);
        if end == End::Over {
            return Ok(Totals { resumed, ..totals });
        }
        let_go(&alive).await?;
    }
}

/// Waits until nobody uses the state any more, and it is closed: it is locked until then.
async fn let_go(alive: &Weak<()>) -> Result<()> {
    let deadline = Instant::now() + LET_GO;
    while alive.strong_count() > 0 {
        if Instant::now() >= deadline {
            let text = format!("the state can't be opened anew: something has used it for {LET_GO:?} since it was closed");
            return Err(Error::engine(text));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// From the state directory to its end.
async fn run_once(
    plan: Arc<Plan>,
    options: &mut Options,
    signals: &mut Signals,
    listener: Option<(Arc<TcpListener>, SocketAddr)>,
    deadline: Option<Instant>,
) -> Result<(End, Totals, Weak<()>)> {
    let traces = Traces::from_env(&plan.config.name)?;
    let formats = Formats::new(&plan)?;
    let tasks = Tasks {
        listener: CancellationToken::new(),
        connections: TaskTracker::new(),
        hangup: CancellationToken::new(),
        sources: CancellationToken::new(),
        bringing: TaskTracker::new(),
        sinks: MessageSinks::default(),
    };
    let (udfs, exit_at_end) = (options.udfs.clone(), options.exit_at_end);
    let host = match plan.config.has_user_connectors() {
        true => Some(tokio::task::block_in_place(|| options.connectors.host())?),
        false => None,
    };
    let mut running = tokio::task::block_in_place(|| {
        let opened = Opened::open(plan, &options.state_dir)?;
        let start =
            |shared: &Arc<Shared>| open_outputs(shared, |sink, config| tasks.sinks.start(shared, host.as_deref(), sink, config));
        opened.start(traces, &udfs, exit_at_end, start)
    })?;
    let mut ready = None;
    if let Some((listener, address)) = listener {
        let sequencer = running.sequencer.clone().filter(|_| running.shared.plan.config.has_http_source());
        let ingest = sequencer.map(|sequencer| Arc::new(Ingest::new(running.shared.clone(), sequencer, formats)));
        let token = options.control_token.clone().map(|token| ControlToken::new(token, options.control_token_file.clone()));
        let router = crate::rest::router(Rest::new(running.shared.clone()), token);
        let clients = server::Clients {
            shutdown: tasks.listener.clone(),
            hangup: tasks.hangup.clone(),
            connections: tasks.connections.clone(),
        };
        tokio::spawn(server::serve(listener, ingest, router, clients));
        ready = options.on_ready.take().map(|on_ready| (on_ready, format!("http://{address}")));
    }
    let outcome = match tokio::task::block_in_place(|| start_sources(&tasks, host.as_deref(), &running)) {
        Ok(()) => Watch::new(&running, options, ready, deadline).until_end(&mut running, options, signals).await,
        Err(error) => Err(error),
    };
    let end = *outcome.as_ref().unwrap_or(&End::Over);
    let alive = Arc::downgrade(&running.shared.alive);
    let totals = finish(running, tasks, host, outcome.map(|_| ())).await?;
    Ok((end, totals, alive))
}

/// Stops in the order of who needs whom: requests under way get their answers, rows that are in are processed, committed and
/// delivered as far as that goes within a few seconds, then changes are committed and threads end, the journal's last.
async fn finish(mut running: Running, tasks: Tasks, host: Option<Arc<dyn ConnectorHost>>, outcome: Result<()>) -> Result<Totals> {
    let shared = running.shared.clone();
    let resumed = running.resumed;
    tasks.listener.cancel();
    tasks.sources.cancel();
    tasks.bringing.close();
    // Also where there never was a listener.
    tasks.connections.close();
    if outcome.is_ok() && shared.failure().is_none() {
        let drained = async { tokio::join!(tasks.connections.wait(), tasks.bringing.wait()) };
        let _ = tokio::time::timeout(DRAIN, drained).await;
    }
    shared.close_gate();
    tokio::task::block_in_place(|| running.begin_stop());
    running.rest(REST).await;
    tasks.sinks.end().await;
    if let Some(host) = host {
        tokio::task::block_in_place(|| host.stop(HOST_END));
    }
    let ended = tokio::task::block_in_place(|| running.end());
    let _ = tokio::time::timeout(LAST_ANSWERS, tasks.connections.wait()).await;
    tasks.hangup.cancel();
    tokio::task::block_in_place(|| shared.traces.finish());
    outcome?;
    if let Some(error) = shared.failure() {
        return Err(error.clone());
    }
    ended?;
    Ok(progress_json::totals(&shared, resumed))
}

/// Starts the sources inside of the process.
fn start_sources(tasks: &Tasks, host: Option<&dyn ConnectorHost>, running: &Running) -> Result<()> {
    let Some(sequencer) = &running.sequencer else { return Ok(()) };
    mqtt::start(&running.shared, sequencer, &tasks.bringing, &tasks.sources)?;
    match host {
        Some(host) => hosted::start_sources(&running.shared, sequencer, host, &tasks.bringing, &tasks.sources),
        None => Ok(()),
    }
}

/// Whatever asks the run to end: SIGINT, SIGTERM, the host process.
struct Signals {
    unix: Option<(Signal, Signal)>,
    stop: StopHandle,
}

impl Signals {
    fn new(options: &Options) -> Result<Signals> {
        let failed = |error: std::io::Error| Error::outside(format!("can't listen to signals: {error}"));
        let unix = match options.handle_signals {
            true => Some((signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?)),
            false => None,
        };
        Ok(Signals { unix, stop: options.stop.clone() })
    }

    async fn any(&mut self) {
        match &mut self.unix {
            None => self.stop.token.cancelled().await,
            Some((interrupt, terminate)) => tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = self.stop.token.cancelled() => {}
            },
        }
    }
}

/// Called once rows are taken, with the URL.
type Ready = Option<(OnReady, String)>;

/// What a run watches while the workers work.
struct Watch {
    shared: Arc<Shared>,
    trim: tokio::time::Interval,
    upkeep: tokio::time::Interval,
    progress: tokio::time::Interval,
    look: tokio::time::Interval,
    deadline: Option<Instant>,
    ready: Ready,
    idle: Idle,
    ending: Ending,
    rate: crate::metrics::Rate,
}

/// When the push source last brought something.
struct Idle {
    end_offset: u64,
    since: Instant,
    announced: bool,
}

/// How far the end of all sources is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// All files are read and sources that have an end are there; push sources are closed.
    Closed,
    /// The end of time was announced.
    Announced,
}

impl Watch {
    fn new(running: &Running, options: &Options, ready: Ready, deadline: Option<Instant>) -> Watch {
        let config = &running.shared.plan.config;
        let interval_us = config.checkpoint.interval_us.max(1_000) as u64;
        let mut trim = tokio::time::interval(Duration::from_micros(interval_us));
        trim.set_missed_tick_behavior(MissedTickBehavior::Delay);
        trim.reset();
        let mut upkeep = tokio::time::interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut progress = tokio::time::interval(options.progress_interval.max(LOOK));
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watch {
            shared: running.shared.clone(),
            trim,
            upkeep,
            progress,
            look,
            deadline,
            ready,
            idle: Idle { end_offset: 0, since: Instant::now(), announced: false },
            ending: Ending::No,
            rate: crate::metrics::Rate::default(),
        }
    }

    async fn until_end(&mut self, running: &mut Running, options: &mut Options, signals: &mut Signals) -> Result<End> {
        loop {
            tokio::select! {
                () = signals.any() => return Ok(End::Over),
                _ = self.trim.tick() => tokio::task::block_in_place(|| running.trim()),
                _ = self.upkeep.tick() => self.shared.metrics.upkeep(),
                _ = self.progress.tick() => self.tell(options),
                _ = self.look.tick() => {}
                () = self.shared.changed.notified() => {}
            }
            if self.shared.failure().is_some() || self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(End::Over);
            }
            if *self.shared.gate.borrow() != Gate::Starting
                && let Some((on_ready, url)) = self.ready.take()
            {
                tokio::task::block_in_place(|| on_ready(&url));
            }
            if self.shared.reopens() {
                options.on_ready = options.on_ready.take().or(self.ready.take().map(|(on_ready, _)| on_ready));
                return Ok(End::Reopen);
            }
            self.look_at_idle(running);
            if self.look_at_end(running, options.exit_at_end) {
                return Ok(End::Over);
            }
        }
    }

    fn tell(&mut self, options: &mut Options) {
        if let Some(on_progress) = &mut options.on_progress {
            let text = progress_json::progress(&self.shared, &mut self.rate);
            tokio::task::block_in_place(|| on_progress(&text));
        }
    }

    /// A push source without rows for `idleTimeout` stops holding the watermark.
    fn look_at_idle(&mut self, running: &Running) {
        let Some(sequencer) = &running.sequencer else { return };
        let end_offset = sequencer.end_offset();
        let timeout = Duration::from_micros(self.shared.plan.config.time.idle_timeout_us.max(0) as u64);
        // Whoever has rows and is told to come again later is not idle.
        if end_offset != self.idle.end_offset || (self.refuses_rows() && !self.idle.announced) {
            self.idle = Idle { end_offset, since: Instant::now(), announced: false };
        } else if !self.idle.announced && self.idle.since.elapsed() >= timeout && self.ending == Ending::No {
            self.idle.announced = true;
            self.announce(sequencer.split(), end_offset, SplitStatus::Idle);
        }
    }

    /// Whether rows that are pushed are refused for now, whatever they are.
    fn refuses_rows(&self) -> bool {
        let shards = usize::from(self.shared.plan.config.shards);
        !self.shared.is_open() || self.shared.is_disk_full() || !takes_rows(self.shared.behind(), shards)
    }

    fn announce(&self, split: SplitIndex, at: u64, status: SplitStatus) {
        self.shared.inboxes.iter().for_each(|inbox| inbox.put(Message::Status { split, at, status }));
    }

    /// Whether nothing but what is being read keeps time from ending.
    fn may_end(&self, exit_at_end: bool) -> bool {
        let has_endless = self.shared.plan.config.sources.iter().any(SourceConfig::is_endless);
        (exit_at_end || !has_endless) && !self.shared.has_unfinished_sources()
    }

    /// True once everything is read, closed, committed and delivered. Without `exit_at_end` that never ends a run, but where
    /// all sources have an end, time ends with them all the same.
    fn look_at_end(&mut self, running: &Running, exit_at_end: bool) -> bool {
        match self.ending {
            Ending::No if self.may_end(exit_at_end) && running.replayed() => {
                if self.shared.plan.config.sources.iter().all(SourceConfig::is_endless) {
                    tracing::warn!(
                        "the job has nothing to read to an end: it takes nothing, finishes what its journal holds and ends"
                    );
                }
                if let Some(sequencer) = &running.sequencer {
                    self.shared.close_gate();
                    // Nothing is appended any more, so that this end is the end.
                    self.announce(sequencer.split(), sequencer.close(), SplitStatus::Finished);
                }
                self.ending = Ending::Closed;
            }
            Ending::Closed if running.finished() => {
                self.shared.inboxes.iter().for_each(|inbox| inbox.put(Message::EndOfTime));
                self.ending = Ending::Announced;
            }
            Ending::Announced => return exit_at_end && running.is_complete(),
            Ending::No | Ending::Closed => {}
        }
        false
    }
}
