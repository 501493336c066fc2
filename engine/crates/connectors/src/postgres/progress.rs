//! How far a table is with the batches of each shard: rows of a table of their own, written in the transaction that holds the
//! batches' rows.
//!
//! One more row, of no shard, is the sink's owner: a process takes the next generation when it starts, and each transaction holds
//! the row and compares. So a process that was thought dead writes nothing after another one has taken its place.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Arc;

use streamjob_core::transactions::{Progress, RefusedRow};
use streamjob_core::{Error, Result};
use tokio_postgres::types::{FromSql, WasNull, WrongType};
use tokio_postgres::{Client, Row};

use super::errors::{explain, said};
use super::session::Failure;
use super::table::quote_name;
use crate::connection::Connection;

/// What stands for the shard in the owner's row.
const OWNER: i32 = -1;
/// The table's columns and its key.
const DEFINITION: &str =
    "(state text, sink text, shard integer, next bigint NOT NULL, refused text NOT NULL, PRIMARY KEY (state, sink, shard))";

/// The progress of one sink of one state.
#[derive(Debug, Clone)]
pub(super) struct ProgressTable {
    /// As the job writes it.
    pub plain_name: String,
    name: String,
    state: String,
    sink: String,
}

impl ProgressTable {
    pub fn new(name: &str, state: &str, sink: &str) -> ProgressTable {
        ProgressTable { plain_name: name.to_owned(), name: quote_name(name), state: state.to_owned(), sink: sink.to_owned() }
    }

    pub async fn is_there(&self, client: &Client) -> Result<bool, tokio_postgres::Error> {
        Ok(client.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&self.name]).await?.get(0))
    }

    /// Makes the table where it is not there, which needs a right of its own.
    pub async fn create(&self, client: &Client, connection: &Arc<Connection>) -> Result<()> {
        let doing = format!("the table of progress, {}", self.plain_name);
        let is_there = self.is_there(client).await.map_err(|error| explain(&doing, &error, connection))?;
        if is_there {
            return Ok(());
        }
        let sql = format!("CREATE TABLE IF NOT EXISTS {} {DEFINITION}", self.name);
        match client.batch_execute(&sql).await {
            Ok(()) => Ok(()),
            Err(error) if error.code().is_some_and(|code| code.code() == "42501") => Err(Error::user(format!(
                "{doing}, is not there, and the user may not create it; let the user, or do it yourself: {sql}"
            ))),
            Err(error) => Err(explain(&doing, &error, connection)),
        }
    }

    /// Takes the sink over from whoever had it, and gives the generation to hold it by.
    ///
    /// # Errors
    /// `user` where the table is another than it must be.
    pub async fn claim(&self, client: &Client) -> Result<i64, Failure> {
        let sql = format!(
            "INSERT INTO {} AS owner (state, sink, shard, next, refused) VALUES ($1, $2, $3, 1, '') \
             ON CONFLICT (state, sink, shard) DO UPDATE SET next = owner.next + 1 RETURNING next",
            self.name
        );
        let row = client.query_one(&sql, &[&self.state, &self.sink, &OWNER]).await.map_err(|error| self.failed(error))?;
        self.value(&row, 0)
    }

    /// Holds the sink until the transaction ends.
    ///
    /// # Errors
    /// Where another process has taken it, where nobody knows any more who has, and where the table is another than it must be.
    pub async fn hold(&self, client: &Client, generation: i64) -> Result<(), Failure> {
        let sql = format!("SELECT next FROM {} WHERE state = $1 AND sink = $2 AND shard = $3 FOR UPDATE", self.name);
        let row = client.query_opt(&sql, &[&self.state, &self.sink, &OWNER]).await.map_err(|error| self.failed(error))?;
        match row.map(|row| self.value::<i64>(&row, 0)).transpose()? {
            Some(found) if found == generation => Ok(()),
            Some(_) => Err(Failure::Final(Error::user(format!(
                "sink {}: another process with a copy of this state directory writes to the table; stop one of them",
                self.sink
            )))),
            None => Err(Failure::Final(Error::damaged(format!(
                "sink {}: its rows in the table {} are gone: nobody knows what was written, and going on could repeat rows",
                self.sink, self.plain_name
            )))),
        }
    }

    /// By shard: what is in the table. Whoever asks holds the sink, so that no transaction of another is open.
    pub async fn read(&self, client: &Client) -> Result<HashMap<u16, Progress>, Failure> {
        let sql = format!("SELECT shard, next, refused FROM {} WHERE state = $1 AND sink = $2 AND shard >= 0", self.name);
        let mut found = HashMap::new();
        for row in client.query(&sql, &[&self.state, &self.sink]).await.map_err(|error| self.failed(error))? {
            let (shard, next, refused) =
                (self.value::<i32>(&row, 0)?, self.value::<i64>(&row, 1)?, self.value::<String>(&row, 2)?);
            let damaged = |why: &dyn std::fmt::Display| {
                Failure::Final(Error::damaged(format!(
                    "the table {}: the row of sink {} and shard {shard} can't be read: {why}; delete the sink's rows there only if \
                     rows that are not confirmed may come twice",
                    self.plain_name, self.sink
                )))
            };
            let refused = read_refused(&refused).map_err(|error| damaged(&error))?;
            let shard = u16::try_from(shard).map_err(|error| damaged(&error))?;
            let next = u64::try_from(next).map_err(|error| damaged(&error))?;
            found.insert(shard, Progress { next, refused });
        }
        Ok(found)
    }

    /// Stores how far the open transaction brings the shards.
    pub async fn store(&self, client: &Client, reached: &[(u16, Progress)]) -> Result<(), Failure> {
        let sql = format!(
            "INSERT INTO {} (state, sink, shard, next, refused) \
             SELECT $1, $2, shard, next, refused FROM unnest($3::int4[], $4::int8[], $5::text[]) AS reached (shard, next, refused) \
             ON CONFLICT (state, sink, shard) DO UPDATE SET next = excluded.next, refused = excluded.refused",
            self.name
        );
        let too_far = |_| Failure::Final(Error::engine("a batch's number is above all that the table can hold"));
        let shards: Vec<i32> = reached.iter().map(|(shard, _)| i32::from(*shard)).collect();
        let next: Vec<i64> =
            reached.iter().map(|(_, progress)| i64::try_from(progress.next)).collect::<Result<_, _>>().map_err(too_far)?;
        let refused: Vec<String> = reached.iter().map(|(_, progress)| write_refused(&progress.refused)).collect();
        let stored = client.execute(&sql, &[&self.state, &self.sink, &shards, &next, &refused]).await;
        stored.map_err(|error| self.failed(error))?;
        Ok(())
    }

    /// What a row has in a column.
    fn value<'r, T: FromSql<'r>>(&self, row: &'r Row, column: usize) -> Result<T, Failure> {
        row.try_get(column).map_err(|error| self.failed(error))
    }

    /// The failure of a statement on the table. Where its columns or its key are others than they must be, it says how they
    /// must be: no other try helps.
    fn failed(&self, error: tokio_postgres::Error) -> Failure {
        if !is_of_definition(&error) {
            return error.into();
        }
        Failure::Final(Error::user(format!(
            "the table of progress, {}, is not as it must be: {}; alter it so that it is as this makes it, and keep its rows, \
             or name another in progressTable if the sink has never written: CREATE TABLE {} {DEFINITION}",
            self.plain_name,
            said(&error),
            self.name
        )))
    }
}

/// Whether the columns, their types or the key of the table of progress are why: the right columns take all values that its
/// statements have.
fn is_of_definition(error: &tokio_postgres::Error) -> bool {
    let Some(code) = error.code().map(|code| code.code()) else {
        return error.source().is_some_and(|cause| cause.is::<WrongType>() || cause.is::<WasNull>());
    };
    // No such column, another type, no operator for the type, no such key, a column that the server fills in, no table at all.
    let is_of_columns = matches!(code, "42703" | "42804" | "42883" | "42P10" | "428C9" | "42809");
    is_of_columns || matches!(code.get(..2), Some("22" | "23"))
}

/// Rows that were left out, as JSON; nothing where there are none.
fn write_refused(refused: &[RefusedRow]) -> String {
    match refused.is_empty() {
        true => String::new(),
        false => serde_json::to_string(refused).expect("numbers and texts are JSON"),
    }
}

fn read_refused(text: &str) -> Result<Vec<RefusedRow>, serde_json::Error> {
    if text.is_empty() { Ok(Vec::new()) } else { serde_json::from_str(text) }
}
