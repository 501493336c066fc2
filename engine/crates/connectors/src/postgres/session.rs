//! One connection to the server, and transactions on it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::SinkExt;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use streamjob_core::config::PostgresSinkConfig;
use streamjob_core::transactions::{Begun, Progress, RefusedRow};
use streamjob_core::{Error, Result, crash};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};

use super::connect::Server;
use super::copy::write_line;
use super::errors::{Doubt, MAX_DOUBTED, Objection, explain, objection_of};
use super::progress::ProgressTable;
use super::table::{RowShape, Table};
use crate::connection::Connection;
use crate::deliveries::Delivery;
use crate::rows::rows;

/// Each transaction sees what was committed before each of its statements, whatever the server's default is: whoever has waited
/// for the sink's row must see the progress of whom it waited for.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Why a transaction came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// Some row is not taken, for this reason: the search for it may begin.
    Row(Objection),
    /// So many rows are not taken, the last for this reason, that the table must be why.
    Table(String),
    /// The server or the way to it; another connection may do better.
    Server(tokio_postgres::Error),
    /// Nothing does better, or what to do is said.
    Final(Error),
}

impl From<tokio_postgres::Error> for Failure {
    /// Of a statement that brings no rows: with a commit a constraint speaks that has waited for it.
    fn from(error: tokio_postgres::Error) -> Failure {
        let objection = objection_of(&error).filter(|objection| !objection.is_doubtful);
        objection.map_or(Failure::Server(error), Failure::Row)
    }
}

impl Failure {
    /// Of a statement that brings rows.
    fn of_rows(error: tokio_postgres::Error) -> Failure {
        objection_of(&error).map_or(Failure::Server(error), Failure::Row)
    }

    /// Whether the server has ended a statement, as it does with one that takes too long.
    pub fn is_canceled(&self) -> bool {
        matches!(self, Failure::Server(error) if error.code() == Some(&SqlState::QUERY_CANCELED))
    }
}

/// What a transaction came to that is committed.
pub(super) struct Transacted {
    /// Rows that were left out, with their shards.
    pub refused: Vec<(u16, RefusedRow)>,
    /// What is to be thought of the table now.
    pub doubt: Doubt,
}

/// A row with its place.
struct Placed<'a> {
    shard: u16,
    batch: u64,
    row: u32,
    text: &'a RawValue,
}

/// A connection that is ready for transactions.
pub(super) struct Session {
    client: Client,
    table: Table,
    copy: Statement,
    merge: Option<Statement>,
    clear: Option<Statement>,
    /// Of a sink that is exactly-once: where progress is kept, and the generation that the sink is held by.
    progress: Option<(ProgressTable, i64)>,
    /// When the server has answered last, which a search needs to know.
    answered: Mutex<Instant>,
}

/// Settings that hold while the connection does: nothing waits for ever, on either side, and what the server has committed it
/// has written down.
fn settings_sql(timeout_us: i64) -> String {
    let timeout_ms = timeout_us / 1000;
    format!(
        "SET statement_timeout = {timeout_ms}; SET lock_timeout = {timeout_ms}; \
         SET idle_in_transaction_session_timeout = {timeout_ms}; \
         SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
}

impl Session {
    /// Connects and looks at the table. Of an exactly-once sink it takes the sink over, the first time, or makes sure that
    /// nobody else has; and says how far the table is.
    pub async fn open(
        server: &Server,
        config: &PostgresSinkConfig,
        shape: &RowShape,
        progress: Option<&ProgressTable>,
        generation: Option<i64>,
        connection: &Arc<Connection>,
    ) -> Result<(Session, HashMap<u16, Progress>)> {
        let client = server.connect(connection).await?;
        let doing = format!("preparing the connection to {}", server.name);
        let failed = |error: tokio_postgres::Error| explain(&doing, &error, connection);
        client.batch_execute(&settings_sql(config.timeout_us)).await.map_err(failed)?;
        let table = Table::describe(&client, config, shape, connection).await?;
        if let Some(sql) = table.staging_sql() {
            client.batch_execute(&sql).await.map_err(failed)?;
        }
        let copy = client.prepare(&table.copy_sql()).await.map_err(failed)?;
        let (mut merge, mut clear) = (None, None);
        if let (Some(merging), Some(clearing)) = (table.merge_sql(), table.clear_sql()) {
            merge = Some(client.prepare(&merging).await.map_err(failed)?);
            clear = Some(client.prepare(&clearing).await.map_err(failed)?);
        }
        let (mut held, mut reached) = (None, HashMap::new());
        if let Some(progress) = progress {
            progress.create(&client, connection).await?;
            let generation = match generation {
                Some(generation) => generation,
                None => progress.claim(&client).await.map_err(|failure| explain_failure(&doing, failure, connection))?,
            };
            let read = async {
                client.batch_execute(BEGIN).await?;
                progress.hold(&client, generation).await?;
                let reached = progress.read(&client).await?;
                client.batch_execute("COMMIT").await?;
                Ok(reached)
            };
            reached = read.await.map_err(|failure| explain_failure(&doing, failure, connection))?;
            held = Some((progress.clone(), generation));
        }
        let answered = Mutex::new(Instant::now());
        Ok((Session { client, table, copy, merge, clear, progress: held, answered }, reached))
    }

    /// The generation that the sink is held by.
    pub fn generation(&self) -> Option<i64> {
        self.progress.as_ref().map(|(_, generation)| *generation)
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// When the server has answered last within the search under way.
    pub fn last_answer(&self) -> Instant {
        *self.answered.lock()
    }

    fn note_answer(&self) {
        *self.answered.lock() = Instant::now();
    }

    /// One transaction: rows, progress, commit. With `search` it looks for rows that the table does not take: those are left
    /// out and given back, with what is to be thought of the table then.
    pub async fn transact(&self, begun: &Begun<'_, Delivery>, search: Option<Doubt>) -> Result<Transacted, Failure> {
        self.note_answer();
        let mut placed = Vec::new();
        for delivery in begun.batches {
            let texts = rows(&delivery.batch.body).map_err(Failure::Final)?;
            let place = |(row, text)| Placed { shard: delivery.shard, batch: delivery.last_seq, row: row as u32, text };
            placed.extend(texts.into_iter().enumerate().map(place));
        }
        self.client.batch_execute(BEGIN).await?;
        if let Some((progress, generation)) = &self.progress {
            progress.hold(&self.client, *generation).await?;
        }
        let transacted = match search {
            Some(doubt) => self.put_searching(&placed, doubt).await?,
            None => {
                self.put(&placed).await?;
                Transacted { refused: Vec::new(), doubt: Doubt::default() }
            }
        };
        crash::point("postgres-before-progress");
        if let Some((progress, _)) = &self.progress {
            progress.store(&self.client, &begun.reached(&transacted.refused)).await?;
        }
        crash::point("postgres-before-commit");
        self.client.batch_execute("COMMIT").await?;
        crash::point("postgres-after-commit");
        Ok(transacted)
    }

    /// Gives the open transaction up.
    pub async fn roll_back(&self) -> Result<(), Failure> {
        Ok(self.client.batch_execute("ROLLBACK").await?)
    }

    /// Brings rows into the table, all or, with an error, none that a rollback leaves.
    async fn put(&self, placed: &[Placed<'_>]) -> Result<(), Failure> {
        let mut lines = Vec::new();
        for (number, placed) in placed.iter().enumerate() {
            let number = self.merge.is_some().then_some(number);
            write_line(&mut lines, placed.text, &self.table.columns, number).map_err(Failure::Final)?;
        }
        // No row is why where the server does not even begin to take some.
        let mut sink = std::pin::pin!(self.client.copy_in::<_, Bytes>(&self.copy).await.map_err(Failure::Server)?);
        sink.send(lines.into()).await.map_err(Failure::of_rows)?;
        sink.finish().await.map_err(Failure::of_rows)?;
        if let Some(merge) = &self.merge {
            self.note_answer();
            self.client.execute(merge, &[]).await.map_err(Failure::of_rows)?;
        }
        Ok(())
    }

    /// Puts rows in halves, and halves of halves where one is not taken, in their order. So a row that is not taken costs as many
    /// tries as its batch has halvings, and all of them at most two for each row.
    async fn put_searching(&self, placed: &[Placed<'_>], doubt: Doubt) -> Result<Transacted, Failure> {
        // A constraint that waits for the commit would be found where no row can be left out any more.
        self.client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
        let (mut refused, mut left, mut doubt) = (Vec::<(u16, RefusedRow)>::new(), vec![placed], doubt.of_next_batch());
        while let Some(part) = left.pop() {
            self.client.batch_execute("SAVEPOINT part").await?;
            self.note_answer();
            let put = self.put(part).await;
            self.note_answer();
            match (put, part) {
                (Ok(()), _) => {
                    doubt.taken();
                    if let Some(clear) = &self.clear {
                        self.client.execute(clear, &[]).await?;
                    }
                    self.client.batch_execute("RELEASE SAVEPOINT part").await?;
                    continue;
                }
                (Err(Failure::Row(objection)), [Placed { shard, batch, row, .. }]) => {
                    doubt.refused(&objection);
                    refused.push((*shard, RefusedRow { batch: *batch, row: *row, reason: objection.reason }));
                    if doubt.is_sure() {
                        break;
                    }
                }
                (Err(Failure::Row(_)), _) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    left.extend([second, first]);
                }
                (Err(failure), _) => return Err(failure),
            }
            self.client.batch_execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part").await?;
        }
        self.note_answer();
        match refused.last() {
            Some((_, row)) if doubt.is_of_table() => Err(Failure::Table(row.reason.clone())),
            _ => Ok(Transacted { refused, doubt }),
        }
    }
}

/// A failure as a sentence with who must act.
pub(super) fn explain_failure(doing: &str, failure: Failure, connection: &Connection) -> Error {
    match failure {
        Failure::Row(objection) => Error::outside(format!("{doing}: {}", objection.reason)),
        Failure::Table(reason) => Error::outside(format!(
            "{doing}: of more than {MAX_DOUBTED} rows, one after the other, none is taken, the last for this reason: {reason}; \
             correct the table, its triggers or its policies; or, where the rows are wrong, let a trigger raise a code of \
             class 22, 23 or P0, which sends any number of them to the dead letters"
        )),
        Failure::Server(error) => explain(doing, &error, connection),
        Failure::Final(error) => error,
    }
}
