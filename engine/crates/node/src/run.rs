//! One run from start to end: signals, time limits, checkpoints, the live view.

use std::sync::Arc;
use std::time::{Duration, Instant};

use streamjob_connectors::backoff::Backoff;
use streamjob_connectors::deliveries::run_deliveries;
use streamjob_connectors::webhook::Webhook;
use streamjob_core::config::HttpSinkConfig;
use streamjob_core::plan::Plan;
use streamjob_core::progress::{SplitIndex, SplitStatus};
use streamjob_core::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::inbox::Message;
use crate::ingest::Ingest;
use crate::metrics::Metrics;
use crate::options::{Options, StopHandle, Totals};
use crate::port::Output;
use crate::rest::Rest;
use crate::shared::Shared;
use crate::start::{Opened, Running, open_outputs};
use crate::{progress_json, server};

/// Batches on their way to one webhook's task.
const WEBHOOK_QUEUE: usize = 256;
/// How often the run looks at what may have changed without a word.
const LOOK: Duration = Duration::from_millis(20);
/// Rows that came in before a split counts as busy again.
const THREADS: usize = 2;

/// Runs a job until a signal, the time limit or the end of its sources.
pub fn run(options: Options) -> Result<Totals> {
    let plan = Plan::compile(options.config.clone())?;
    #[cfg(feature = "crash-points")]
    streamjob_state::crash::arm()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("io")
        .enable_all()
        .build()
        .map_err(|error| Error::outside(format!("can't start the runtime: {error}")))?;
    let outcome = runtime.block_on(run_async(plan, options));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// The tasks beside the workers.
struct Tasks {
    tracker: TaskTracker,
    /// Ends the listener.
    listener: CancellationToken,
    /// Ends deliveries, also those that wait.
    deliveries: CancellationToken,
}

async fn run_async(plan: Arc<Plan>, mut options: Options) -> Result<Totals> {
    let metrics = Metrics::install()?;
    let mut signals = Signals::new(&options)?;
    let listener = match &options.listen {
        Some(address) => Some(server::bind(address).await?),
        None => None,
    };
    let tasks = Tasks { tracker: TaskTracker::new(), listener: CancellationToken::new(), deliveries: CancellationToken::new() };
    let opened = Opened::open(plan.clone(), &options.state_dir)?;
    let udfs = options.udfs.clone();
    let mut running = tokio::task::block_in_place(|| {
        opened.start(&udfs, |shared, state| open_outputs(&plan, state, |sink, http| start_webhook(&tasks, shared, sink, http)))
    })?;
    if let Some((listener, address)) = listener {
        let ingest = running.sequencer.clone().map(|sequencer| Arc::new(Ingest::new(running.shared.clone(), sequencer)));
        let router = crate::rest::router(Rest { shared: running.shared.clone(), metrics });
        tasks.tracker.spawn(server::serve(listener, ingest, router, tasks.listener.clone()));
        if let Some(on_ready) = options.on_ready.take() {
            on_ready(&format!("http://{address}"));
        }
    }
    let mut watch = Watch::new(&running, &options);
    let outcome = watch.until_end(&mut running, &mut options, &mut signals, &tasks).await;
    finish(running, tasks, outcome).await
}

async fn finish(running: Running, tasks: Tasks, outcome: Result<()>) -> Result<Totals> {
    tasks.listener.cancel();
    let shared = running.shared.clone();
    let resumed = running.resumed;
    // Requests under way end first: their rows are in the journal, so it must still be written.
    tokio::time::sleep(Duration::ZERO).await;
    tokio::task::block_in_place(|| running.stop());
    tasks.deliveries.cancel();
    tasks.tracker.close();
    let _ = tokio::time::timeout(Duration::from_secs(10), tasks.tracker.wait()).await;
    outcome?;
    if let Some(error) = shared.failure() {
        return Err(error.clone());
    }
    Ok(progress_json::totals(&shared, resumed))
}

fn start_webhook(tasks: &Tasks, shared: &Arc<Shared>, sink: usize, config: &HttpSinkConfig) -> Result<Output> {
    let (sender, receiver) = mpsc::channel(WEBHOOK_QUEUE);
    let webhook = Arc::new(Webhook::new(config)?);
    let backoff = Backoff::new(
        Duration::from_micros(config.backoff_initial_us.max(0) as u64),
        Duration::from_micros(config.backoff_max_us.max(0) as u64),
    );
    let seed = uuid::Uuid::new_v4().as_u64_pair().0;
    let reports = shared.clone();
    let report = move |report: streamjob_connectors::deliveries::DeliveryReport| {
        let worker = usize::from(reports.worker_of[usize::from(report.shard)]);
        reports.inboxes[worker].put(Message::Report { sink, report });
    };
    let shutdown = tasks.deliveries.clone();
    tasks.tracker.spawn(async move {
        run_deliveries(webhook, backoff, seed, receiver, report, shutdown).await;
    });
    Ok(Output::Webhook { name: shared.plan.sinks[sink].name.as_str().into(), sender })
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

/// What a run watches while the workers work.
struct Watch {
    shared: Arc<Shared>,
    checkpoint: tokio::time::Interval,
    progress: tokio::time::Interval,
    look: tokio::time::Interval,
    deadline: Option<Instant>,
    /// Offset of the push source's journal when rows last came, and when that was.
    busy: (u64, Instant, bool),
    ending: Ending,
    rate: crate::metrics::Rate,
}

/// How far the end of `--exit-at-end` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    /// All files are read; the push source is closed.
    Closed,
    /// The end of time was announced.
    Announced {
        looks: u32,
    },
}

/// Quiet looks in a row that make the end: figures of the workers are a look old.
const QUIET_LOOKS: u32 = 4;

impl Watch {
    fn new(running: &Running, options: &Options) -> Watch {
        let config = &running.shared.plan.config;
        let interval_us = config.checkpoint.interval_us.max(1_000) as u64;
        let mut checkpoint = tokio::time::interval(Duration::from_micros(interval_us));
        checkpoint.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        checkpoint.reset();
        Watch {
            shared: running.shared.clone(),
            checkpoint,
            progress: tokio::time::interval(options.progress_interval.max(LOOK)),
            look: tokio::time::interval(LOOK),
            deadline: options.run_for.map(|limit| Instant::now() + limit),
            busy: (0, Instant::now(), true),
            ending: Ending::No,
            rate: crate::metrics::Rate::default(),
        }
    }

    async fn until_end(
        &mut self,
        running: &mut Running,
        options: &mut Options,
        signals: &mut Signals,
        tasks: &Tasks,
    ) -> Result<()> {
        loop {
            tokio::select! {
                () = signals.any() => return Ok(()),
                _ = self.checkpoint.tick() => {
                    tokio::task::block_in_place(|| running.trim());
                }
                _ = self.progress.tick() => self.tell(options),
                _ = self.look.tick() => {
                    self.look_at_idle(running);
                    if options.exit_at_end && self.look_at_end(running, tasks) {
                        return Ok(());
                    }
                }
            }
            if self.shared.failure().is_some() || self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(());
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
        let end = sequencer.end_offset();
        let timeout = Duration::from_micros(self.shared.plan.config.time.idle_timeout_us.max(0) as u64);
        if end != self.busy.0 {
            self.busy = (end, Instant::now(), true);
        } else if self.busy.2 && self.busy.1.elapsed() >= timeout {
            self.busy.2 = false;
            self.announce(sequencer.split(), end, SplitStatus::Idle);
        }
    }

    fn announce(&self, split: SplitIndex, at: u64, status: SplitStatus) {
        self.shared.inboxes.iter().for_each(|inbox| inbox.put(Message::Status { split, at, status }));
    }

    /// True once everything is read, closed, committed and delivered.
    fn look_at_end(&mut self, running: &Running, tasks: &Tasks) -> bool {
        match self.ending {
            Ending::No if running.replayed() => {
                tasks.listener.cancel();
                if let Some(sequencer) = &running.sequencer {
                    self.announce(sequencer.split(), sequencer.end_offset(), SplitStatus::Finished);
                }
                self.ending = Ending::Closed;
            }
            Ending::Closed if running.finished() => {
                self.shared.inboxes.iter().for_each(|inbox| inbox.put(Message::EndOfTime));
                self.ending = Ending::Announced { looks: 0 };
            }
            Ending::Announced { looks } => {
                let looks = if running.is_quiet() { looks + 1 } else { 0 };
                self.ending = Ending::Announced { looks };
                return looks >= QUIET_LOOKS;
            }
            Ending::No | Ending::Closed => {}
        }
        false
    }
}
