//! Starts what sends the batches of sinks that take messages, and says what becomes of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use streamjob_connectors::backoff::Backoff;
use streamjob_connectors::connection::Connection;
use streamjob_connectors::deliveries::{Deliver, Delivery as BatchDelivery, DeliveryReport, run_deliveries};
use streamjob_connectors::kafka::KafkaSink;
use streamjob_connectors::nats::NatsSink;
use streamjob_connectors::postgres::{PostgresSink, RowShape};
use streamjob_connectors::transacting::{Hooks, SinkVerdict};
use streamjob_connectors::webhook::Webhook;
use streamjob_core::config::{
    Delivery, HttpSinkConfig, KafkaSinkConfig, NatsSinkConfig, PostgresSinkConfig, PythonSinkConfig, SinkConfig,
};
use streamjob_core::outbox::{first_number, incarnation_of};
use streamjob_core::plan::{Plan, SinkFrom, TimeOutput, WINDOW_COLUMNS};
use streamjob_core::transactions::Progress;
use streamjob_core::{Error, Result};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::hosted::{self, ConnectorHost};
use crate::inbox::Message;
use crate::port::{MESSAGE_QUEUE, Output};
use crate::shared::{ConnectionView, Shared, hear};

/// When the process stops, what sends has this long to end, such as a client that waits for a server's last answer. The process
/// goes on to its own end then: what is not confirmed is in the outboxes.
const SINKS_END: Duration = Duration::from_secs(15);

/// The tasks and threads that send.
#[derive(Default)]
pub struct MessageSinks {
    /// Ends deliveries, also those that wait.
    stop: CancellationToken,
    delivering: TaskTracker,
}

/// One sink on its way to its start.
struct Starting<'a> {
    shared: &'a Arc<Shared>,
    sink: usize,
    receiver: mpsc::Receiver<BatchDelivery>,
    connection: Arc<Connection>,
}

impl Starting<'_> {
    fn place(&self, kind: &str) -> String {
        format!("sinks.{}.{kind}", self.name())
    }

    fn name(&self) -> &str {
        &self.shared.plan.sinks[self.sink].name
    }

    fn guarantee(&self) -> Delivery {
        self.shared.plan.sinks[self.sink].delivery
    }

    /// Gives each batch's end to its worker.
    fn report(&self) -> impl FnMut(DeliveryReport) + Send + use<> {
        let (shared, sink) = (self.shared.clone(), self.sink);
        move |report: DeliveryReport| {
            let worker = usize::from(shared.worker_of[usize::from(report.shard)]);
            shared.inboxes[worker].put(Message::Report { sink, report });
        }
    }

    /// Of a sink with transactions: once it has said for the first time how far it is, rows may be processed.
    fn hooks(
        &self,
    ) -> Hooks<impl FnMut(DeliveryReport) + Send + use<>, impl FnMut(&HashMap<u16, Progress>) -> SinkVerdict + Send + use<>> {
        if self.guarantee() == Delivery::ExactlyOnce {
            self.shared.await_sink();
        }
        let (known, sink, mut first) = (self.shared.clone(), self.sink, true);
        let decide = move |progress: &HashMap<u16, Progress>| match std::mem::replace(&mut first, false) {
            true => judge_progress(&known, sink, progress),
            false => SinkVerdict::GoOn,
        };
        Hooks { report: self.report(), decide }
    }
}

/// Makes the jitter of a sink differ between processes.
fn seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

impl MessageSinks {
    /// Starts what sends the batches of one sink.
    pub fn start(
        &self,
        shared: &Arc<Shared>,
        host: Option<&dyn ConnectorHost>,
        sink: usize,
        config: &SinkConfig,
    ) -> Result<Output> {
        let (sender, receiver) = mpsc::channel(MESSAGE_QUEUE);
        let connection: Arc<Connection> = Arc::default();
        let starting = Starting { shared, sink, receiver, connection: connection.clone() };
        let name: Arc<str> = starting.name().into();
        match config {
            SinkConfig { http: Some(http), .. } => self.start_webhook(starting, http)?,
            SinkConfig { kafka: Some(kafka), .. } => self.start_kafka(starting, kafka)?,
            SinkConfig { nats: Some(nats), .. } => self.start_nats(starting, nats)?,
            SinkConfig { postgres: Some(postgres), .. } => self.start_postgres(starting, postgres)?,
            SinkConfig { python: Some(python), .. } if let Some(host) = host => self.start_hosted(starting, host, python)?,
            _ => return Err(Error::engine(format!("sink {name} takes no messages"))),
        }
        shared.connections.lock().push(ConnectionView {
            source: false,
            name: name.clone(),
            connection,
            topic: None,
            bytes: None,
        });
        Ok(Output::Messages { name, sender })
    }

    /// Ends all of them. What is not confirmed stays in the outboxes.
    pub async fn end(&self) {
        if !self.end_within(SINKS_END).await {
            tracing::warn!(
                "sinks did not end within {SINKS_END:?}, as their servers do not answer; what these have not confirmed is sent by \
                 the next start"
            );
        }
    }

    /// False if some have not ended by then: they are left alone.
    async fn end_within(&self, limit: Duration) -> bool {
        self.stop.cancel();
        self.delivering.close();
        tokio::time::timeout(limit, self.delivering.wait()).await.is_ok()
    }

    fn start_webhook(&self, starting: Starting<'_>, config: &HttpSinkConfig) -> Result<()> {
        let webhook = Arc::new(Webhook::new(config)?.reporting_to(starting.connection.clone()));
        self.deliver(starting, webhook, Backoff::of_micros(config.backoff_initial_us, config.backoff_max_us));
        Ok(())
    }

    fn deliver<D: Deliver>(&self, starting: Starting<'_>, server: Arc<D>, backoff: Backoff) {
        let (report, stop, failed) = (starting.report(), self.stop.clone(), starting.shared.clone());
        let receiver = starting.receiver;
        let task = tokio::spawn(async move {
            run_deliveries(server, backoff, seed(), receiver, report, stop).await;
            Ok(())
        });
        self.delivering.spawn(hear(failed, task));
    }

    /// The library's calls block, so that the sink has a thread of its own.
    fn start_kafka(&self, starting: Starting<'_>, config: &KafkaSinkConfig) -> Result<()> {
        let (name, guarantee) = (starting.name(), starting.guarantee());
        let (place, state_id) = (starting.place("kafka"), starting.shared.state.state_id());
        let kafka = KafkaSink::new(&place, name, config, guarantee, state_id, seed(), starting.connection.clone())?;
        let (hooks, stop, failed) = (starting.hooks(), self.stop.clone(), starting.shared.clone());
        let receiver = starting.receiver;
        let task = tokio::task::spawn_blocking(move || kafka.run(receiver, hooks, &stop));
        self.delivering.spawn(hear(failed, task));
        Ok(())
    }

    fn start_nats(&self, starting: Starting<'_>, config: &NatsSinkConfig) -> Result<()> {
        let (name, guarantee, place) = (starting.name(), starting.guarantee(), starting.place("nats"));
        let nats = Arc::new(NatsSink::new(&place, name, config, guarantee, seed(), starting.connection.clone())?);
        let (report, stop, failed) = (starting.report(), self.stop.clone(), starting.shared.clone());
        let backoff = Backoff::of_micros(config.backoff_initial_us, config.backoff_max_us);
        let receiver = starting.receiver;
        let task = tokio::spawn(async move {
            nats.prepare(&stop).await?;
            run_deliveries(nats, backoff, seed(), receiver, report, stop).await;
            Ok(())
        });
        self.delivering.spawn(hear(failed, task));
        Ok(())
    }

    fn start_hosted(&self, starting: Starting<'_>, host: &dyn ConnectorHost, config: &PythonSinkConfig) -> Result<()> {
        let link = hosted::start_sink(host, starting.name(), config, starting.connection.clone())?;
        self.deliver(starting, Arc::new(link), Backoff::of_micros(config.code.backoff_initial_us, config.code.backoff_max_us));
        Ok(())
    }

    fn start_postgres(&self, starting: Starting<'_>, config: &PostgresSinkConfig) -> Result<()> {
        let (plan, name, guarantee) = (&starting.shared.plan, starting.name(), starting.guarantee());
        let (place, state_id) = (starting.place("postgres"), starting.shared.state.state_id());
        let shape = row_shape(plan, starting.sink);
        let postgres = PostgresSink::new(&place, name, config, shape, guarantee, state_id, seed(), starting.connection.clone())?;
        let (hooks, stop, failed) = (starting.hooks(), self.stop.clone(), starting.shared.clone());
        let receiver = starting.receiver;
        let task = tokio::spawn(async move { postgres.run(receiver, hooks, stop).await });
        self.delivering.spawn(hear(failed, task));
        Ok(())
    }
}

/// The members that a sink's rows have.
pub fn row_shape(plan: &Plan, sink: usize) -> RowShape {
    let (mut members, mut time) = (Vec::new(), None);
    match plan.sinks[sink].from {
        SinkFrom::Window(window) => {
            let columns = plan.windows[window].columns.iter().map(|column| column.name.clone());
            members.extend(columns);
            // It stands between the window's bounds and its aggregates.
            members.insert(WINDOW_COLUMNS.len(), "revision".to_owned());
        }
        SinkFrom::Events | SinkFrom::DeadLetters => {
            members.extend(plan.event_columns.iter().map(|column| column.name.clone()));
            if let TimeOutput::Number(unit) = plan.time_output {
                time = Some((plan.event_columns[plan.time_column].name.clone(), unit));
            }
        }
    }
    members.push("_id".to_owned());
    RowShape { members, time }
}

/// Whether the state is as new as what the sink has. One that is older, as one restored from a backup is, begins a new output
/// incarnation, for which it is opened anew: nothing was processed before.
fn judge_progress(shared: &Shared, sink: usize, progress: &HashMap<u16, Progress>) -> SinkVerdict {
    let incarnation = shared.state.output_incarnation();
    let first = |shard: u16| {
        let known = shared.first_numbers.get().and_then(|numbers| numbers.get(&(sink, shard))).copied().unwrap_or(0);
        known.max(first_number(incarnation))
    };
    let ahead =
        progress.iter().filter(|(shard, progress)| progress.next > first(**shard)).map(|(_, progress)| progress.next).max();
    let Some(ahead) = ahead else {
        shared.sink_is_known();
        return SinkVerdict::GoOn;
    };
    let incarnation = incarnation.max(incarnation_of(ahead)) + 1;
    tracing::warn!(
        reason = "OutputsMayRepeat",
        incarnation,
        sink = shared.plan.sinks[sink].name,
        "the state is older than what this sink holds, as one restored from a backup is: rows since then may come again"
    );
    match shared.state.set_output_incarnation(incarnation) {
        Ok(()) => shared.ask_reopen("a new output incarnation begins"),
        Err(error) => shared.fail(error),
    }
    SinkVerdict::Stop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sink_that_hangs_does_not_hold_up_the_end() {
        let sinks = MessageSinks::default();
        sinks.delivering.spawn(sinks.stop.clone().cancelled_owned());
        assert!(sinks.end_within(SINKS_END).await, "one that ends when it is told to");
        let hanging = MessageSinks::default();
        hanging.delivering.spawn(std::future::pending::<()>());
        assert!(!hanging.end_within(Duration::from_millis(10)).await);
    }
}
