//! Messages of MQTT brokers into the journal. A message is acknowledged once its row is durable there (I4).

use std::sync::Arc;

use streamjob_connectors::backoff::Backoff;
use streamjob_connectors::connection::Connection;
use streamjob_connectors::mqtt::{MqttSession, MqttSource};
use streamjob_connectors::transacting::Retry;
use streamjob_core::config::{MqttSourceConfig, SourceConfig};
use streamjob_core::{Error, Result, crash};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::push::{MAX_PUSH_BYTES, MAX_PUSH_MESSAGES, PushSource};
use crate::sequencer::Sequencer;
use crate::shared::{ConnectionView, Shared, hear};

/// Starts a task for each source of the job that is a broker's.
///
/// # Errors
/// `user` for settings or secrets that are wrong.
pub fn start(shared: &Arc<Shared>, sequencer: &Arc<Sequencer>, sources: &TaskTracker, stop: &CancellationToken) -> Result<()> {
    for source in &shared.plan.config.sources {
        if let Some(config) = &source.mqtt {
            start_one(shared, sequencer, sources, stop, source, config)?;
        }
    }
    Ok(())
}

fn start_one(
    shared: &Arc<Shared>,
    sequencer: &Arc<Sequencer>,
    sources: &TaskTracker,
    stop: &CancellationToken,
    source: &SourceConfig,
    config: &MqttSourceConfig,
) -> Result<()> {
    let connection: Arc<Connection> = Arc::default();
    let mqtt = MqttSource::new(&format!("sources.{}.mqtt", source.name), config, connection.clone())?;
    let levels: Vec<&str> = config.levels.iter().map(|level| level.field.as_str()).collect();
    let push = PushSource::new(shared, sequencer, &source.name, &levels, &config.format)?;
    shared.connections.lock().push(ConnectionView {
        source: true,
        name: source.name.as_str().into(),
        connection: connection.clone(),
        topic: None,
        bytes: Some(push.bytes.clone()),
    });
    let backoff = Backoff::of_micros(config.connection.backoff_initial_us, config.connection.backoff_max_us);
    let seed = uuid::Uuid::new_v4().as_u64_pair().0;
    let retry = Retry { name: source.name.as_str().into(), backoff, seed, connection };
    let (failed, stop) = (shared.clone(), stop.clone());
    let task = tokio::spawn(async move { run(push, mqtt, retry, &stop).await });
    sources.spawn(hear(failed, task));
    Ok(())
}

/// Takes messages until no rows may come any more.
async fn run(mut push: PushSource, mqtt: MqttSource, retry: Retry, stop: &CancellationToken) -> Result<()> {
    if !push.open().await {
        return Ok(());
    }
    let mut failures = 0;
    while !stop.is_cancelled() {
        let opened = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            opened = mqtt.open() => opened,
        };
        let error = match opened {
            Ok(session) => match take(&mut push, session, &mut failures, stop).await? {
                None => return Ok(()),
                Some(error) => error,
            },
            Err(error) => error,
        };
        failures += 1;
        retry.wait_after(&error.context(format!("source {}", retry.name)), failures, stop).await?;
    }
    Ok(())
}

/// Takes what comes on one connection, and says why it has ended; `None` where the process stops.
async fn take(
    push: &mut PushSource,
    mut session: MqttSession,
    failures: &mut u32,
    stop: &CancellationToken,
) -> Result<Option<Error>> {
    loop {
        let messages = tokio::select! {
            biased;
            () = stop.cancelled() => {
                session.close().await;
                return Ok(None);
            }
            messages = session.next(MAX_PUSH_MESSAGES, MAX_PUSH_BYTES) => messages,
        };
        let messages = match messages {
            Ok(messages) => messages,
            Err(error) => return Ok(Some(error)),
        };
        let payloads: Vec<_> = messages.iter().map(|message| message.payload().clone()).collect();
        let levels: Vec<_> = messages.iter().flat_map(|message| session.levels(message)).collect();
        let Some(receipt) = push.push(&payloads, &levels, None).await? else {
            session.close().await;
            return Ok(None);
        };
        if !receipt.durable().await {
            return Ok(None);
        }
        crash::point("mqtt-before-acknowledge");
        session.acknowledge(&messages);
        *failures = 0;
    }
}
