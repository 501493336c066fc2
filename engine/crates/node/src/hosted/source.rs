//! From a source in a host to the journal, and back to it what is durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use streamjob_core::config::{PythonSourceConfig, SourceConfig};
use streamjob_core::{Error, Result};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{BATCHES_UNDER_WAY, Brought, ConnectorHost, HostedSource, Intake, SourceStart, read_secrets};
use crate::push::{PushSource, Receipt};
use crate::sequencer::Sequencer;
use crate::shared::{ConnectionView, Shared, hear};

/// Starts all sources that are user code. They bring rows until `stop` is cancelled, and end with what they have then.
pub fn start_sources(
    shared: &Arc<Shared>,
    sequencer: &Arc<Sequencer>,
    host: &dyn ConnectorHost,
    bringing: &TaskTracker,
    stop: &CancellationToken,
) -> Result<()> {
    let python = |source: &SourceConfig| Some((source.name.clone(), source.python.clone()?));
    let sources: Vec<(String, PythonSourceConfig)> = shared.plan.config.sources.iter().filter_map(python).collect();
    for (name, config) in &sources {
        let place = format!("sources.{name}.python");
        let push = PushSource::new(shared, sequencer, name, &[], &config.format)?;
        let secrets = read_secrets(&place, &config.code.secrets)?;
        let (intake, brought) = Intake::new(name);
        // What is from before the job had positions, or from when it had them and has not now, is none of this source's.
        let position = push.position().filter(|_| config.positions);
        let source = host.source(SourceStart { name, config, secrets, position, intake: intake.clone() })?;
        shared.connections.lock().push(ConnectionView {
            source: true,
            name: name.as_str().into(),
            connection: intake.connection.clone(),
            topic: None,
            bytes: Some(push.bytes.clone()),
        });
        shared.source_begins();
        let run = Run { shared: shared.clone(), push, source, intake };
        let stop = stop.clone();
        let task = tokio::spawn(async move {
            run.run(brought, stop).await;
            Ok(())
        });
        bringing.spawn(hear(shared.clone(), task));
    }
    Ok(())
}

/// One source, as a task.
struct Run {
    shared: Arc<Shared>,
    push: PushSource,
    source: Arc<dyn HostedSource>,
    intake: Intake,
}

impl Run {
    async fn run(mut self, mut brought: mpsc::Receiver<Brought>, stop: CancellationToken) {
        if !self.push.open().await {
            return;
        }
        self.source.begin();
        let (receipts, pending) = mpsc::channel(BATCHES_UNDER_WAY);
        let telling = tokio::spawn(tell(self.source.clone(), pending));
        let is_whole = self.take(&mut brought, &receipts, &stop).await;
        drop(receipts);
        let _ = telling.await;
        if self.intake.finished.load(Ordering::Acquire) {
            self.shared.source_has_finished();
        } else if is_whole && !stop.is_cancelled() {
            let name = &self.intake.source;
            self.shared.fail(Error::engine(format!("the source {name} ended without a word; this is a bug, please report it")));
        }
    }

    /// Brings batches until no more come. False: the process takes no more.
    async fn take(
        &mut self,
        brought: &mut mpsc::Receiver<Brought>,
        receipts: &mpsc::Sender<(u64, Receipt)>,
        stop: &CancellationToken,
    ) -> bool {
        let (mut told, shared) = (false, self.shared.clone());
        loop {
            tokio::select! {
                () = stop.cancelled(), if !told => {
                    told = true;
                    self.source.stop();
                }
                // A source that does not end keeps nothing of the process's: the state may be opened anew.
                () = shared.closed() => return false,
                batch = brought.recv() => {
                    let Some(Brought { ticket, messages, position }) = batch else { return true };
                    match self.push.push(&messages, &[], position).await {
                        Ok(Some(receipt)) => drop(receipts.send((ticket, receipt)).await),
                        Ok(None) => return false,
                        Err(error) => {
                            self.shared.fail(error);
                            return false;
                        }
                    }
                }
            }
        }
    }
}

/// Tells a source what is durable, in the order in which it came.
async fn tell(source: Arc<dyn HostedSource>, mut pending: mpsc::Receiver<(u64, Receipt)>) {
    while let Some((ticket, receipt)) = pending.recv().await {
        if !receipt.durable().await {
            return;
        }
        source.durable(ticket);
    }
}
