//! A table: which column gets which member of the rows, and the statements that write to it.

use std::sync::Arc;

use streamjob_core::config::{PostgresSinkConfig, TableMode, TimeUnit};
use streamjob_core::{Error, Result};
use tokio_postgres::Client;

use super::errors::explain;
use crate::connection::Connection;

/// Rows of a transaction, before they replace those of the table. Seen by its own connection alone.
const STAGING: &str = "pg_temp.streamjob_rows";
/// Tells which of several rows with the same key came last.
const ROW_NUMBER: &str = "streamjob_row";

/// What the rows that come to the sink look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowShape {
    /// The names of their members.
    pub members: Vec<String>,
    /// The member that is a time, where it is written as a number, and of what.
    pub time: Option<(String, TimeUnit)>,
}

/// How a value is written for a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As JSON.
    Json,
    /// As a time; a number is one of this unit.
    Time(TimeUnit),
    /// Without a fraction that is zero.
    Integer,
    /// As the server reads it.
    Plain,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub name: String,
    pub member: String,
    pub kind: Kind,
    type_name: String,
}

/// A column as the server describes it.
#[derive(Debug, Clone)]
struct Found {
    name: String,
    /// Without the parameters of the type, and of a domain what it is made of.
    base_type: String,
    type_name: String,
    /// It takes no null and has no default.
    needed: bool,
    nullable: bool,
    /// The server makes its values.
    made: bool,
}

/// The table, as far as the sink writes to it.
#[derive(Debug)]
pub(super) struct Table {
    /// Its name, quoted.
    name: String,
    pub columns: Vec<Column>,
    key: Vec<String>,
    mode: TableMode,
}

const COLUMNS: &str = "SELECT a.attname::text, COALESCE(b.typname, t.typname)::text, format_type(a.atttypid, a.atttypmod),
        a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', a.attgenerated <> '' OR a.attidentity = 'a',
        NOT (a.attnotnull OR t.typnotnull)
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON t.typtype = 'd' AND b.oid = t.typbasetype
    WHERE a.attrelid = to_regclass($1::text) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

impl Table {
    /// Asks the server what the table is, and whether the sink may write to it as the job says.
    ///
    /// # Errors
    /// `user` where the table, the job or the user's rights must be changed.
    pub async fn describe(
        client: &Client,
        config: &PostgresSinkConfig,
        shape: &RowShape,
        connection: &Arc<Connection>,
    ) -> Result<Table> {
        let name = quote_name(&config.table);
        let doing = format!("the table {}", config.table);
        let rows = client.query(COLUMNS, &[&name]).await.map_err(|error| explain(&doing, &error, connection))?;
        let found: Vec<Found> = rows
            .iter()
            .map(|row| Found {
                name: row.get(0),
                base_type: row.get(1),
                type_name: row.get(2),
                needed: row.get(3),
                made: row.get(4),
                nullable: row.get(5),
            })
            .collect();
        let columns = choose(&found, config, shape)?;
        let table = Table { name, columns, key: config.key.clone(), mode: config.mode };
        // Planned and not run: it says what is wrong with rights and keys before there is a row.
        client.batch_execute(&table.explain_sql()).await.map_err(|error| match error.code().map(|code| code.code()) {
            Some("42P10") => Error::user(format!(
                "{doing}: its key, ({}), is not unique; CREATE UNIQUE INDEX ON {} ({}), or name the columns of one in key",
                config.key.join(", "),
                table.name,
                table.key_list(),
            )),
            Some("42501") => Error::user(format!(
                "{doing}: {}; GRANT SELECT, INSERT, UPDATE ON {} TO the user",
                super::errors::said(&error),
                table.name
            )),
            _ => explain(&doing, &error, connection),
        })?;
        check_key(&found, config)?;
        Ok(table)
    }

    /// What the transaction's rows are copied with.
    pub fn copy_sql(&self) -> String {
        match self.mode {
            TableMode::Append => format!("COPY {} ({}) FROM STDIN", self.name, self.column_list()),
            TableMode::Upsert => format!("COPY {STAGING} ({}, {ROW_NUMBER}) FROM STDIN", self.column_list()),
        }
    }

    /// Makes the table that rows come to first, empty at each transaction's end. `None` where they need none.
    pub fn staging_sql(&self) -> Option<String> {
        let columns: Vec<String> = self.columns.iter().map(|column| quote(&column.name)).collect();
        (self.mode == TableMode::Upsert).then(|| {
            format!(
                "CREATE TEMPORARY TABLE streamjob_rows ON COMMIT DELETE ROWS AS SELECT {}, 0::bigint AS {ROW_NUMBER} FROM {} \
                 WITH NO DATA",
                columns.join(", "),
                self.name
            )
        })
    }

    /// Brings the rows that came to the staging table into the table: of those with the same key the last.
    pub fn merge_sql(&self) -> Option<String> {
        (self.mode == TableMode::Upsert).then(|| {
            let (columns, key) = (self.column_list(), self.key_list());
            format!(
                "INSERT INTO {} ({columns}) SELECT DISTINCT ON ({key}) {columns} FROM {STAGING} ORDER BY {key}, {ROW_NUMBER} DESC {}",
                self.name,
                self.conflict()
            )
        })
    }

    /// Empties the staging table within a transaction, for the rows that come next.
    pub fn clear_sql(&self) -> Option<String> {
        (self.mode == TableMode::Upsert).then(|| format!("DELETE FROM {STAGING}"))
    }

    fn explain_sql(&self) -> String {
        let nulls: Vec<String> = self.columns.iter().map(|column| format!("NULL::{}", column.type_name)).collect();
        let conflict = if self.mode == TableMode::Upsert { self.conflict() } else { String::new() };
        format!("EXPLAIN INSERT INTO {} ({}) SELECT {} {conflict}", self.name, self.column_list(), nulls.join(", "))
    }

    fn conflict(&self) -> String {
        let is_key = |column: &&Column| self.key.contains(&column.name);
        let set: Vec<String> = self.columns.iter().filter(|column| !is_key(column)).map(|column| quote(&column.name)).collect();
        let set: Vec<String> = set.iter().map(|name| format!("{name} = excluded.{name}")).collect();
        match set.is_empty() {
            true => format!("ON CONFLICT ({}) DO NOTHING", self.key_list()),
            false => format!("ON CONFLICT ({}) DO UPDATE SET {}", self.key_list(), set.join(", ")),
        }
    }

    fn column_list(&self) -> String {
        self.columns.iter().map(|column| quote(&column.name)).collect::<Vec<_>>().join(", ")
    }

    fn key_list(&self) -> String {
        self.key.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
    }
}

/// Which columns get which members.
fn choose(found: &[Found], config: &PostgresSinkConfig, shape: &RowShape) -> Result<Vec<Column>> {
    let table = &config.table;
    if found.is_empty() {
        return Err(Error::user(format!("there is no table {table}; create it, or correct its name: case counts")));
    }
    let column = |found: &Found, member: &str| Column {
        name: found.name.clone(),
        member: member.to_owned(),
        kind: kind_of(&found.base_type, member, shape),
        type_name: found.type_name.clone(),
    };
    let columns: Vec<Column> = match &config.columns {
        None => {
            let named = found.iter().filter(|column| !column.made && shape.members.contains(&column.name));
            named.map(|found| column(found, &found.name)).collect()
        }
        Some(columns) => {
            let mut chosen = Vec::new();
            for wanted in columns {
                let there = found.iter().find(|column| column.name == wanted.column).ok_or_else(|| {
                    Error::user(format!(
                        "the table {table} has no column {}; add it, or correct its name in columns",
                        wanted.column
                    ))
                })?;
                chosen.push(column(there, &wanted.member));
            }
            chosen
        }
    };
    if columns.is_empty() {
        let members = shape.members.join(", ");
        return Err(Error::user(format!("the table {table} has no column of a member's name ({members}); name some in columns")));
    }
    let is_written = |name: &str| columns.iter().any(|column| column.name == name);
    if let Some(needed) = found.iter().find(|column| column.needed && !is_written(&column.name)) {
        let name = &needed.name;
        return Err(Error::user(format!(
            "the table {table} needs a value for {name}, and no member is written to it; give it a default, or a member in columns"
        )));
    }
    if let Some(key) = config.key.iter().find(|key| !is_written(key)) {
        return Err(Error::user(format!("the column {key} of the table {table} is in key, and no member is written to it")));
    }
    Ok(columns)
}

/// Whether a key tells rows apart.
fn check_key(found: &[Found], config: &PostgresSinkConfig) -> Result<()> {
    let table = &config.table;
    // An index takes no two nulls for the same; rows with one would be added again and again, or taken for each other.
    if let Some(open) = found.iter().find(|column| column.nullable && config.key.contains(&column.name)) {
        let name = &open.name;
        return Err(Error::user(format!(
            "the column {name} of the table {table} is in key and takes nulls, which no key tells apart; ALTER TABLE {} ALTER \
             COLUMN {} SET NOT NULL",
            quote_name(table),
            quote(name)
        )));
    }
    Ok(())
}

fn kind_of(base_type: &str, member: &str, shape: &RowShape) -> Kind {
    match (base_type, &shape.time) {
        ("json" | "jsonb", _) => Kind::Json,
        ("int2" | "int4" | "int8", _) => Kind::Integer,
        ("timestamptz" | "timestamp" | "date", Some((time, unit))) if time == member => Kind::Time(*unit),
        _ => Kind::Plain,
    }
}

/// A name with its quotes.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table's name, perhaps with its schema before a dot.
pub(super) fn quote_name(name: &str) -> String {
    name.split('.').map(quote).collect::<Vec<_>>().join(".")
}

/// A column of a member's name, for tests of what is written to it.
#[cfg(test)]
pub(super) fn column(name: &str, kind: Kind) -> Column {
    Column { name: name.to_owned(), member: name.to_owned(), kind, type_name: "text".to_owned() }
}

#[cfg(test)]
mod tests {
    use streamjob_core::config::{PostgresConnectionConfig, TableColumnConfig};

    use super::*;

    fn config(mode: TableMode, key: &[&str], columns: Option<&[(&str, &str)]>) -> PostgresSinkConfig {
        let pair = |(column, member): &(&str, &str)| TableColumnConfig { column: (*column).into(), member: (*member).into() };
        PostgresSinkConfig {
            connection: PostgresConnectionConfig {
                host: "db".into(),
                port: 5432,
                database: "d".into(),
                username: "u".into(),
                password: None,
                tls: None,
            },
            table: "s.t".into(),
            mode,
            key: key.iter().map(|key| (*key).to_owned()).collect(),
            columns: columns.map(|columns| columns.iter().map(pair).collect()),
            progress_table: "p".into(),
            max_batch_rows: 1,
            timeout_us: 1,
            backoff_initial_us: 1,
            backoff_max_us: 1,
        }
    }

    fn found(name: &str, base_type: &str) -> Found {
        let (name, type_name) = (name.to_owned(), base_type.to_owned());
        Found { name, base_type: base_type.to_owned(), type_name, needed: false, nullable: false, made: false }
    }

    fn shape() -> RowShape {
        RowShape { members: ["key", "n", "at"].map(str::to_owned).into(), time: Some(("at".to_owned(), TimeUnit::Ms)) }
    }

    fn message(found: &[Found], config: &PostgresSinkConfig) -> String {
        choose(found, config, &shape()).expect_err("something is wrong").message().to_owned()
    }

    #[test]
    fn columns_get_the_members_of_their_names_or_those_that_the_job_says() {
        let table = [found("id", "int8"), found("n", "int4"), found("at", "timestamptz"), found("doc", "jsonb")];
        let chosen = choose(&table, &config(TableMode::Append, &[], None), &shape()).expect("two of them");
        let names: Vec<_> = chosen.iter().map(|column| (&*column.name, column.kind)).collect();
        assert_eq!(names, [("n", Kind::Integer), ("at", Kind::Time(TimeUnit::Ms))]);
        let columns = [("doc", "key"), ("id", "n")];
        let chosen = choose(&table, &config(TableMode::Append, &[], Some(&columns)), &shape()).expect("both are there");
        let names: Vec<_> = chosen.iter().map(|column| (&*column.name, &*column.member, column.kind)).collect();
        assert_eq!(names, [("doc", "key", Kind::Json), ("id", "n", Kind::Integer)]);
    }

    #[test]
    fn what_a_table_lacks_is_named() {
        let append = config(TableMode::Append, &[], None);
        assert!(message(&[], &append).contains("there is no table s.t"));
        assert!(message(&[found("x", "text")], &append).contains("no column of a member's name"));
        let needed = Found { needed: true, ..found("owner", "text") };
        assert!(message(&[needed, found("n", "int4")], &append).contains("needs a value for owner"));
        let upsert = config(TableMode::Upsert, &["key"], None);
        assert!(message(&[found("n", "int4")], &upsert).contains("the column key of the table s.t is in key"));
        let nullable = Found { nullable: true, ..found("key", "text") };
        let said = check_key(std::slice::from_ref(&nullable), &upsert).expect_err("nulls").message().to_owned();
        assert!(said.contains("ALTER TABLE \"s\".\"t\" ALTER COLUMN \"key\" SET NOT NULL"), "{said}");
        assert!(check_key(&[nullable, found("n", "int4")], &append).is_ok());
        let columns = config(TableMode::Append, &[], Some(&[("nothing", "n")]));
        assert!(message(&[found("n", "int4")], &columns).contains("has no column nothing"));
    }

    #[test]
    fn statements_name_everything_in_quotes() {
        let columns = choose(&[found("key", "text"), found("n", "int4")], &config(TableMode::Append, &[], None), &shape());
        let columns = columns.expect("both are there");
        let name = quote_name("s.t\"x");
        let table = Table { name, columns, key: vec!["key".into()], mode: TableMode::Upsert };
        assert_eq!(table.copy_sql(), "COPY pg_temp.streamjob_rows (\"key\", \"n\", streamjob_row) FROM STDIN");
        assert_eq!(
            table.merge_sql().expect("rows are replaced"),
            "INSERT INTO \"s\".\"t\"\"x\" (\"key\", \"n\") SELECT DISTINCT ON (\"key\") \"key\", \"n\" FROM pg_temp.streamjob_rows \
             ORDER BY \"key\", streamjob_row DESC ON CONFLICT (\"key\") DO UPDATE SET \"n\" = excluded.\"n\""
        );
        let append = Table { mode: TableMode::Append, ..table };
        assert_eq!(append.copy_sql(), "COPY \"s\".\"t\"\"x\" (\"key\", \"n\") FROM STDIN");
        assert_eq!((append.merge_sql(), append.staging_sql()), (None, None));
    }
}
