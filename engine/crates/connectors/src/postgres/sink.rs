//! Rows into a table.
//!
//! Exactly-once: batches, and how far each shard is with them, in transactions of a connection that holds the sink against all
//! others. At-least-once: the same without progress; a batch is confirmed once its transaction is committed.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use streamjob_core::config::{Delivery as Guarantee, PostgresSinkConfig};
use streamjob_core::transactions::{Bounds, Progress, RefusedRow, Transactions};
use streamjob_core::{Error, Result};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::connect::Server;
use super::progress::ProgressTable;
use super::session::{Failure, Session, explain_failure};
use super::table::RowShape;
use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::deliveries::{Delivery, DeliveryReport};
use crate::transacting::{Hooks, MAX_HELD_BATCHES, Retry, SinkVerdict, TRANSACTION_BYTES, TRANSACTION_ROWS, receive};

/// Whether the connection is still there is looked at this often where nothing else happens.
const LOOK: Duration = Duration::from_secs(1);
/// When the process stops, the open transaction gets this long to end.
const LAST_ANSWER: Duration = Duration::from_secs(2);
/// A search for rows that are not taken asks the server for each of them: it may take so many times the timeout of one statement.
const SEARCH_TIMEOUTS: u32 = 20;

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
        let mut transactions = Transactions::default();
        let (mut generation, mut failures) = (None, 0);
        while !stop.is_cancelled() {
            let error = match self.connect(generation, &stop).await {
                Ok((session, progress)) => {
                    generation = session.generation();
                    self.connection.answered();
                    if self.progress.is_some() && (hooks.decide)(&progress) == SinkVerdict::Stop {
                        return Ok(());
                    }
                    // Without a record it is known from the answers that came.
                    let progress = if self.progress.is_some() { progress } else { transactions.known().clone() };
                    hooks.confirm(transactions.recovered(progress)?);
                    let sent = self.send_all(&session, &mut batches, &mut transactions, &mut hooks, &mut failures, &stop).await;
                    transactions.lost();
                    match sent {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            failures += 1;
            self.retry.wait_after(&error, failures, &stop).await?;
        }
        Ok(())
    }

    async fn connect(&self, generation: Option<i64>, stop: &CancellationToken) -> Result<(Session, HashMap<u16, Progress>)> {
        let doing = || format!("sink {}: connecting to {}", self.name, self.server.name);
        let progress = self.progress.as_ref();
        let opened = Session::open(&self.server, &self.config, &self.shape, progress, generation, &self.connection);
        let within = super::connect::CONNECT_TIMEOUT + self.timeout;
        self.answered(opened, within, stop).await.ok_or_else(|| Error::outside(format!("{}: no answer", doing())))?
    }

    /// Runs transactions until the process stops, or one comes to nothing.
    async fn send_all<R, D>(
        &self,
        session: &Session,
        batches: &mut mpsc::Receiver<Delivery>,
        transactions: &mut Transactions<Delivery>,
        hooks: &mut Hooks<R, D>,
        failures: &mut u32,
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
                0 => Bounds { rows: TRANSACTION_ROWS, bytes: TRANSACTION_BYTES },
                _ => Bounds { rows: 0, bytes: 0 },
            };
            let Some(begun) = transactions.begin(bounds) else {
                match session.is_closed() {
                    true => return Err(Error::outside(format!("sink {}: the server has closed the connection", self.name))),
                    false => continue,
                }
            };
            let count = begun.batches.len();
            match self.transact(session, &begun, to_search > 0, stop).await? {
                Some(refused) => {
                    *failures = 0;
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
        begun: &streamjob_core::transactions::Begun<'_, Delivery>,
        searching: bool,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<(u16, RefusedRow)>>> {
        let doing = || format!("sink {}: a transaction", self.name);
        let within = if searching { self.timeout * SEARCH_TIMEOUTS } else { self.timeout };
        let attempt = async {
            match session.transact(begun, searching).await {
                Ok(refused) => Ok(Some(refused)),
                Err(Failure::Row(_)) if !searching => session.roll_back().await.map(|()| None),
                Err(failure) => Err(failure),
            }
        };
        match self.answered(attempt, within, stop).await {
            Some(outcome) => outcome.map_err(|failure| explain_failure(&doing(), failure, &self.connection)),
            None => Err(Error::outside(format!("{}: no answer within {within:?}", doing()))),
        }
    }

    /// What comes of `asked`, unless it takes longer than `within`, or than a moment once the process stops.
    async fn answered<T>(&self, asked: impl Future<Output = T>, within: Duration, stop: &CancellationToken) -> Option<T> {
        let stopped = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ANSWER).await;
        };
        tokio::select! {
            outcome = asked => Some(outcome),
            () = tokio::time::sleep(within) => None,
            () = stopped => None,
        }
    }
}
