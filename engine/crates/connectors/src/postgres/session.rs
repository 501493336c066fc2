//! One connection to the server, and transactions on it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::SinkExt;
use serde_json::value::RawValue;
use streamjob_core::config::PostgresSinkConfig;
use streamjob_core::transactions::{Begun, Progress, RefusedRow};
use streamjob_core::{Error, Result, crash};
use tokio_postgres::{Client, Statement};

use super::connect::Server;
use super::copy::write_line;
use super::errors::{explain, refusal_of};
use super::progress::ProgressTable;
use super::table::{RowShape, Table};
use crate::connection::Connection;
use crate::deliveries::Delivery;
use crate::rows::rows;

/// Why a transaction came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// Some row is not taken, for this reason: the search for it may begin.
    Row(String),
    /// The server or the way to it; another connection may do better.
    Server(tokio_postgres::Error),
    /// Nothing does better, or what to do is said.
    Final(Error),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        refusal_of(&error).map_or(Failure::Server(error), Failure::Row)
    }
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
                None => progress.claim(&client).await.map_err(failed)?,
            };
            let read = async {
                client.batch_execute("BEGIN").await?;
                progress.hold(&client, generation).await?;
                let reached = progress.read(&client).await?;
                client.batch_execute("COMMIT").await?;
                Ok(reached)
            };
            reached = read.await.map_err(|failure| explain_failure(&doing, failure, connection))?;
            held = Some((progress.clone(), generation));
        }
        Ok((Session { client, table, copy, merge, clear, progress: held }, reached))
    }

    /// The generation that the sink is held by.
    pub fn generation(&self) -> Option<i64> {
        self.progress.as_ref().map(|(_, generation)| *generation)
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// One transaction: rows, progress, commit. `searching` for rows that the table does not take: those are left out and given
    /// back.
    pub async fn transact(&self, begun: &Begun<'_, Delivery>, searching: bool) -> Result<Vec<(u16, RefusedRow)>, Failure> {
        let mut placed = Vec::new();
        for delivery in begun.batches {
            let texts = rows(&delivery.batch.body).map_err(Failure::Final)?;
            let place = |(row, text)| Placed { shard: delivery.shard, batch: delivery.last_seq, row: row as u32, text };
            placed.extend(texts.into_iter().enumerate().map(place));
        }
        self.client.batch_execute("BEGIN").await?;
        if let Some((progress, generation)) = &self.progress {
            progress.hold(&self.client, *generation).await?;
        }
        let refused = match searching {
            true => self.put_searching(&placed).await?,
            false => {
                self.put(&placed).await?;
                Vec::new()
            }
        };
        crash::point("postgres-before-progress");
        if let Some((progress, _)) = &self.progress {
            progress.store(&self.client, &begun.reached(&refused)).await?;
        }
        crash::point("postgres-before-commit");
        self.client.batch_execute("COMMIT").await?;
        crash::point("postgres-after-commit");
        Ok(refused)
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
        let mut sink = std::pin::pin!(self.client.copy_in::<_, Bytes>(&self.copy).await?);
        sink.send(lines.into()).await?;
        sink.finish().await?;
        if let Some(merge) = &self.merge {
            self.client.execute(merge, &[]).await?;
        }
        Ok(())
    }

    /// Puts rows in halves, and halves of halves where one is not taken, in their order. So a row that is not taken costs as many
    /// tries as its batch has halvings, and all of them at most two for each row.
    async fn put_searching(&self, placed: &[Placed<'_>]) -> Result<Vec<(u16, RefusedRow)>, Failure> {
        // A constraint that waits for the commit would be found where no row can be left out any more.
        self.client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
        let (mut refused, mut left) = (Vec::new(), vec![placed]);
        while let Some(part) = left.pop() {
            self.client.batch_execute("SAVEPOINT part").await?;
            match (self.put(part).await, part) {
                (Ok(()), _) => {
                    if let Some(clear) = &self.clear {
                        self.client.execute(clear, &[]).await?;
                    }
                    self.client.batch_execute("RELEASE SAVEPOINT part").await?;
                    continue;
                }
                (Err(Failure::Row(reason)), [Placed { shard, batch, row, .. }]) => {
                    refused.push((*shard, RefusedRow { batch: *batch, row: *row, reason }));
                }
                (Err(Failure::Row(_)), _) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    left.extend([second, first]);
                }
                (Err(failure), _) => return Err(failure),
            }
            self.client.batch_execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part").await?;
        }
        Ok(refused)
    }
}

/// A failure as a sentence with who must act.
pub(super) fn explain_failure(doing: &str, failure: Failure, connection: &Connection) -> Error {
    match failure {
        Failure::Row(reason) => Error::outside(format!("{doing}: {reason}")),
        Failure::Server(error) => explain(doing, &error, connection),
        Failure::Final(error) => error,
    }
}
