//! Messages of a source whose schemas are in a registry: decoded once all that they name are there.
//!
//! A number is asked for by a task of its own, so that whoever decodes may wait for it or come again later.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use streamjob_connectors::registry::{Found, MAX_CACHED_SCHEMAS, Registry};
use streamjob_core::batch::RowBatch;
use streamjob_core::config::MessageFormat;
use streamjob_core::decode::{Decoder, Metadata, Payload};
use streamjob_core::{Error, Result};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::random::Random;

/// Whoever waits for a schema looks this often whether it should go on waiting.
const LOOK: Duration = Duration::from_millis(50);

/// The schemas of one source.
#[derive(Default)]
pub struct Schemas {
    asking: Option<Asking>,
}

struct Asking {
    registry: Arc<Registry>,
    runtime: Handle,
    answers: Arc<Answers>,
    /// Ends with this.
    tasks: Mutex<JoinSet<()>>,
    random: Arc<Random>,
}

#[derive(Default)]
struct Answers {
    known: Mutex<Known>,
    arrived: Condvar,
    /// The same for a task.
    arrived_for_task: Notify,
}

/// What was asked, beside the schemas, which the registry's client keeps.
#[derive(Default)]
struct Known {
    asked: HashSet<u32>,
    /// Numbers without a schema, and why.
    missing: HashMap<u32, String>,
}

impl Schemas {
    /// Those of a source of messages. Reads the registry's secrets and connects to nothing yet.
    ///
    /// # Errors
    /// `user` for an address or a secret that is wrong.
    pub fn of(format: &MessageFormat) -> Result<Schemas> {
        let MessageFormat::Avro(avro) = format else { return Ok(Schemas::default()) };
        let Some(registry) = &avro.registry else { return Ok(Schemas::default()) };
        let runtime = Handle::try_current().map_err(|_| Error::engine("a registry is asked without a runtime"))?;
        let asking = Asking {
            registry: Arc::new(Registry::new(registry)?),
            runtime,
            answers: Arc::default(),
            tasks: Mutex::default(),
            random: Arc::new(Random::new()),
        };
        Ok(Schemas { asking: Some(asking) })
    }

    /// Decodes messages. `None` while schemas that they name are on their way: come again then.
    pub fn decode(&self, decoder: &mut Decoder, payloads: &[Payload], metadata: &[Metadata], span: u64) -> Option<RowBatch> {
        // each turn knows at least one schema more, of which the messages name a bounded number
        loop {
            let wanted = match decoder.decode_messages(payloads, metadata, span) {
                Ok(batch) => return Some(batch),
                Err(wanted) => wanted.0,
            };
            let mut learnt = false;
            for id in wanted {
                if let Some(found) = self.ask(id) {
                    learnt = true;
                    match found {
                        Found::Schema(text) => decoder.learn(id, Ok(&text)),
                        Found::Missing(reason) => decoder.learn(id, Err(reason)),
                    }
                }
            }
            if !learnt {
                return None;
            }
        }
    }

    /// As [`Schemas::decode`], and waits for schemas as long as `go_on` says so.
    pub fn decode_waiting(
        &self,
        decoder: &mut Decoder,
        payloads: &[Payload],
        metadata: &[Metadata],
        span: u64,
        go_on: impl Fn() -> bool,
    ) -> Option<RowBatch> {
        loop {
            if let Some(batch) = self.decode(decoder, payloads, metadata, span) {
                return Some(batch);
            }
            if !go_on() {
                return None;
            }
            if let Some(asking) = &self.asking {
                let mut known = asking.answers.known.lock();
                asking.answers.arrived.wait_for(&mut known, LOOK);
            }
        }
    }

    /// Waits until some schema has come since the last call; for the one task that decodes.
    pub async fn arrival(&self) {
        match &self.asking {
            Some(asking) => asking.answers.arrived_for_task.notified().await,
            None => std::future::pending().await,
        }
    }

    /// What is under a number, if that is known; else it is on its way.
    fn ask(&self, id: u32) -> Option<Found> {
        let Some(asking) = &self.asking else {
            return Some(Found::Missing("the job has no schema registry".to_owned()));
        };
        asking.ask(id)
    }
}

impl Asking {
    fn ask(&self, id: u32) -> Option<Found> {
        if let Some(schema) = self.registry.known(id) {
            return Some(Found::Schema(schema));
        }
        let mut known = self.answers.known.lock();
        if let Some(reason) = known.missing.get(&id) {
            return Some(Found::Missing(reason.clone()));
        }
        if known.asked.insert(id) {
            let (registry, answers, random) = (self.registry.clone(), self.answers.clone(), self.random.clone());
            let mut tasks = self.tasks.lock();
            while tasks.try_join_next().is_some() {}
            tasks.spawn_on(
                async move {
                    let found = registry.schema(id, || random.next()).await;
                    answers.note(id, found);
                },
                &self.runtime,
            );
        }
        None
    }
}

impl Answers {
    fn note(&self, id: u32, found: Found) {
        let mut known = self.known.lock();
        known.asked.remove(&id);
        if let Found::Missing(reason) = found {
            if known.missing.len() >= MAX_CACHED_SCHEMAS {
                known.missing.clear();
            }
            known.missing.insert(id, reason);
        }
        self.arrived.notify_all();
        self.arrived_for_task.notify_one();
    }
}
