//! Rows into a table.
//!
//! Exactly-once: batches, and how far each shard is with them, in transactions of a connection that holds the sink against all
//! others. At-least-once: the same without progress; a batch is confirmed once its transaction is committed.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use streamjob_core::config::{Delivery as Guarantee, PostgresSinkConfig};
use streamjob_core::transactions::{Begun, Bounds, Numbered, Progress, RefusedRow, Transactions};
use streamjob_core::{Error, Result};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connect::Server;
use super::errors::Doubt;
use super::progress::ProgressTable;
use super::session::{Failure, Session, Transacted, explain_failure};
use super::size::Size;
use super::table::RowShape;
use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::deliveries::{Delivery, DeliveryReport};
use crate::transacting::{Hooks, MAX_HELD_BATCHES, Retry, SinkVerdict, receive};

/// Whether the connection is still there is looked at this often where nothing else happens.
const LOOK: Duration = Duration::from_secs(1);
/// When the process stops, the open transaction gets this long to end.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// What outlives a connection.
#[derive(Default)]
struct Memory {
    /// The sink is held by it, once it is taken over.
    generation: Option<i64>,
    /// Tries that came to nothing since the last transaction that was committed.
    failures: u32,
    size: Size,
    doubt: Doubt,
}

/// One table that rows go to.
pub struct PostgresSink {
    name: Arc<str>,
    config: PostgresSinkConfig,
    shape: RowShape,
    server: Server,
    /// Of a sink that is exactly-once.
    progress: Option<ProgressTable>,
    connection: Arc<Connection>,
    timeout: Duration,
    retry: Retry,
}

impl PostgresSink {
    /// Checks the settings and reads the secrets; connects to nothing.
    #[expect(clippy::too_many_arguments, reason = "a sink is wired once")]
    pub fn new(
        place: &str,
        name: &str,
        config: &PostgresSinkConfig,
        shape: RowShape,
        guarantee: Guarantee,
        state_id: &str,
        seed: u64,
        connection: Arc<Connection>,
    ) -> Result<PostgresSink> {
        let micros = |us: i64| Duration::from_micros(us.max(0) as u64);
        let backoff = Backoff::of_micros(config.backoff_initial_us, config.backoff_max_us);
        let is_exactly_once = guarantee == Guarantee::ExactlyOnce;
        Ok(PostgresSink {
            name: name.into(),
            server: Server::new(place, &config.connection)?,
            progress: is_exactly_once.then(|| ProgressTable::new(&config.progress_table, state_id, name)),
            timeout: micros(config.timeout_us),
            retry: Retry { name: name.into(), backoff, seed, connection: connection.clone() },
            config: config.clone(),
            shape,
            connection,
        })
    }

    /// Connects and says what is there; changes nothing.
    ///
    /// # Errors
    /// With what is wrong, and what to do about it.
    pub async fn describe(&self) -> Result<String> {
        let client = self.server.connect(&self.connection).await?;
        let table = super::table::Table::describe(&client, &self.config, &self.shape, &self.connection).await?;
        let columns: Vec<&str> = table.columns.iter().map(|column| &*column.name).collect();
        let said = format!("the table {} takes {}", self.config.table, columns.join(", "));
        let Some(progress) = &self.progress else { return Ok(said) };
        let doing = format!("the table {}", progress.plain_name);
        let is_there = progress.is_there(&client).await;
        let is_there = is_there.map_err(|error| super::errors::explain(&doing, &error, &self.connection))?;
        let kept = if is_there { "keeps the progress" } else { "is not there and will be created" };
        Ok(format!("{said}; the table {} {kept}", progress.plain_name))
    }

    /// Sends what comes until `stop` is cancelled. What is not confirmed then stays in the outbox.
    ///
    /// # Errors
    /// Where it never can go on: another process has taken its place, the record of progress is damaged, something is not
    /// allowed.
    pub async fn run<R, D>(
        self,
        mut batches: mpsc::Receiver<Delivery>,
        mut hooks: Hooks<R, D>,
        stop: CancellationToken,
    ) -> Result<()>
    where
        R: FnMut(DeliveryReport),
        D: FnMut(&HashMap<u16, Progress>) -> SinkVerdict,
    {
        let (mut transactions, mut memory) = (Transactions::default(), Memory::default());
        while !stop.is_cancelled() {
            let error = match self.connect(memory.generation, &stop).await {
                Ok((session, progress)) => {
                    memory.generation = session.generation();
                    self.connection.answered();
                    if self.progress.is_some() && (hooks.decide)(&progress) == SinkVerdict::Stop {
                        return Ok(());
                    }
                    // Without a record it is known from the answers that came.
                    let progress = if self.progress.is_some() { progress } else { transactions.known().clone() };
                    hooks.confirm(transactions.recovered(progress)?);
                    let sent = self.send_all(&session, &mut batches, &mut transactions, &mut hooks, &mut memory, &stop).await;
                    transactions.lost();
                    match sent {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            memory.failures += 1;
            self.retry.wait_after(&error, memory.failures, &stop).await?;
        }
        Ok(())
    }

    async fn connect(&self, generation: Option<i64>, stop: &CancellationToken) -> Result<(Session, HashMap<u16, Progress>)> {
        let doing = || format!("sink {}: connecting to {}", self.name, self.server.name);
        let progress = self.progress.as_ref();
        let opened = Session::open(&self.server, &self.config, &self.shape, progress, generation, &self.connection);
        let until = Instant::now() + super::connect::CONNECT_TIMEOUT + self.timeout;
        self.answered(opened, || until, stop).await.ok_or_else(|| Error::outside(format!("{}: no answer", doing())))?
    }

    /// Runs transactions until the process stops, or one comes to nothing.
    async fn send_all<R, D>(
        &self,
        session: &Session,
        batches: &mut mpsc::Receiver<Delivery>,
        transactions: &mut Transactions<Delivery>,
        hooks: &mut Hooks<R, D>,
        memory: &mut Memory,
        stop: &CancellationToken,
    ) -> Result<()>
    where
        R: FnMut(DeliveryReport),
        D: FnMut(&HashMap<u16, Progress>) -> SinkVerdict,
    {
        // Batches that a transaction was given up for: each is tried alone, with a search for the rows that are not taken.
        let mut to_search = 0usize;
        loop {
            let room = MAX_HELD_BATCHES.saturating_sub(transactions.len());
            let Some(received) = receive(batches, transactions.is_empty(), room, LOOK, stop).await else { return Ok(()) };
            received.into_iter().for_each(|delivery| transactions.put(delivery));
            hooks.confirm(transactions.take_known());
            let bounds = match to_search {
                0 => memory.size.bounds(),
                _ => Bounds { rows: 0, bytes: 0 },
            };
            let Some(begun) = transactions.begin(bounds) else {
                match session.is_closed() {
                    true => return Err(Error::outside(format!("sink {}: the server has closed the connection", self.name))),
                    false => continue,
                }
            };
            let count = begun.batches.len();
            match self.transact(session, &begun, to_search > 0, memory, stop).await? {
                Some(refused) => {
                    memory.failures = 0;
                    self.connection.answered();
                    to_search = to_search.saturating_sub(count);
                    hooks.confirm(transactions.committed(&refused));
                }
                None => {
                    transactions.aborted();
                    to_search = count;
                }
            }
        }
    }

    /// One transaction. `None`: some row is not taken, and it was given up.
    async fn transact(
        &self,
        session: &Session,
        begun: &Begun<'_, Delivery>,
        searching: bool,
        memory: &mut Memory,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<(u16, RefusedRow)>>> {
        let (began, search) = (Instant::now(), searching.then_some(memory.doubt));
        let attempt = async {
            match session.transact(begun, search).await {
                Ok(transacted) => Ok(Some(transacted)),
                Err(Failure::Row(_)) if !searching => session.roll_back().await.map(|()| None),
                Err(failure) => Err(failure),
            }
        };
        // A search asks the server at most twice for each row of its batch, and goes on while there are answers.
        let since = || if searching { began.max(session.last_answer()) } else { began };
        let failure = match self.answered(attempt, || since() + self.timeout, stop).await {
            Some(Ok(None)) => return Ok(None),
            Some(Ok(Some(Transacted { refused, doubt }))) => {
                memory.doubt = doubt;
                if !searching {
                    memory.size.committed(began.elapsed(), self.timeout);
                }
                return Ok(Some(refused));
            }
            Some(Err(failure)) => Some(failure),
            None => None,
        };
        Err(self.given_up(begun, searching, failure, memory, stop))
    }

    /// What to say of a transaction that has failed, or has no answer in time; where it took too long, the next are smaller.
    fn given_up(
        &self,
        begun: &Begun<'_, Delivery>,
        searching: bool,
        failure: Option<Failure>,
        memory: &mut Memory,
        stop: &CancellationToken,
    ) -> Error {
        let doing = format!("sink {}: a transaction", self.name);
        let error = match failure {
            Some(failure) if !failure.is_canceled() => return explain_failure(&doing, failure, &self.connection),
            Some(failure) => explain_failure(&doing, failure, &self.connection),
            None if stop.is_cancelled() => return Error::outside(format!("{doing}: given up, since the process stops")),
            None => Error::outside(format!("{doing}: no answer within {:?}", self.timeout)),
        };
        let rows: usize = begun.batches.iter().map(Numbered::rows).sum();
        let bytes: usize = begun.batches.iter().map(Numbered::bytes).sum();
        // A search has one batch, and nothing is smaller.
        if !searching {
            memory.size.too_slow(rows, bytes);
        }
        let next = if searching { "" } else { ", and the next has half of them at most, or one batch" };
        Error::outside(format!("{error}; it had {rows} rows{next}; raise timeout, or lower maxBatchRows"))
    }

    /// What comes of `asked`, unless there is nothing by the time that `until` says, which may move, or a moment after the
    /// process was told to stop.
    async fn answered<T>(
        &self,
        asked: impl Future<Output = T>,
        until: impl Fn() -> Instant,
        stop: &CancellationToken,
    ) -> Option<T> {
        let late = async {
            while until() > Instant::now() {
                tokio::time::sleep_until(until()).await;
            }
        };
        let stopped = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ANSWER).await;
        };
        tokio::select! {
            outcome = asked => Some(outcome),
            () = late => None,
            () = stopped => None,
        }
    }
}
