//! What PostgreSQL's errors mean for a person, and for a row.

use streamjob_core::Error;
use tokio_postgres::error::{Severity, SqlState};

use crate::connection::Connection;
use crate::http_client::explain_chain;
use crate::tls::hint_of;

/// Of a server's text at most this many characters are kept with a row.
pub const MAX_REASON_CHARS: usize = 300;

/// Rows that may be refused one after the other, none taken in between, for reasons that may be the table's own. With one more
/// the table is to blame: else one that takes nothing would send everything to the dead letters.
pub const MAX_DOUBTED: u32 = 100;

/// Why a row is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Objection {
    /// The server's own words, [`MAX_REASON_CHARS`] characters at most.
    pub reason: String,
    /// The table may be why as well as the row.
    pub is_doubtful: bool,
}

/// Rows that were refused one after the other with a doubtful [`Objection`], since one was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Doubt {
    /// Of batches before.
    before: u32,
    /// Of this batch.
    here: u32,
}

impl Doubt {
    /// The same with a batch that is searched now.
    pub fn of_next_batch(self) -> Doubt {
        Doubt { before: self.before.saturating_add(self.here), here: 0 }
    }

    /// Some row was taken: the table takes rows.
    pub fn taken(&mut self) {
        *self = Doubt::default();
    }

    /// A row was refused, alone. One that is surely refused for what it is says nothing of the others.
    pub fn refused(&mut self, objection: &Objection) {
        self.here = self.here.saturating_add(u32::from(objection.is_doubtful));
    }

    /// Whether nothing of the batch has to be looked at any more. Until then a row that is taken may follow, however many were
    /// refused before the batch.
    pub fn is_sure(self) -> bool {
        self.here > MAX_DOUBTED
    }

    /// Whether, once the batch is searched, the table is to blame rather than the rows.
    pub fn is_of_table(self) -> bool {
        self.before.saturating_add(self.here) > MAX_DOUBTED
    }
}

/// What may be why a statement that brings rows to the table has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// A row: its values, a constraint, an exception of a trigger.
    Row,
    /// A row, or the table: what types, functions and triggers of others say under codes of their own.
    Doubtful,
    /// No row.
    Other,
}

/// By SQLSTATE, the server's routine that says it, and whether that ends the session.
fn blame(code: &str, routine: Option<&str>, ends_session: bool) -> Blame {
    // A policy of row-level security and RAISE have the same code as a missing right, or a name that is not there. Routines are
    // named in the sources' language, whatever that of the messages is.
    let is_said_of_a_row = || matches!(routine, Some("ExecWithCheckOptions" | "exec_stmt_raise"));
    match code.get(..2).unwrap_or_default() {
        _ if ends_session => Blame::Other,
        // Data exceptions, constraints, limits of a row (as of an index), exceptions of functions and triggers.
        "22" | "23" | "54" | "P0" => Blame::Row,
        // Connections, transactions, prepared statements, who may sign in, names of databases and schemas, conflicts with
        // others, resources, what others hold, an operator or a timeout, the system, snapshots, the server's files.
        "08" | "25" | "26" | "28" | "3D" | "3F" | "40" | "53" | "55" | "57" | "58" | "72" | "F0" => Blame::Other,
        // Names, types and rights of the statement; but 42601 is also said of a value that is written in a language of its own,
        // as those of tsquery and jsonpath are.
        "42" if code != "42601" && !is_said_of_a_row() => Blame::Other,
        // Damaged data and indexes; a foreign server that does not answer.
        _ if matches!(code, "XX001" | "XX002" | "HV00N") => Blame::Other,
        _ => Blame::Doubtful,
    }
}

/// Why a row is not taken, where a statement that brings rows to the table has failed. `None` where no row is why: another try,
/// or a person, may help.
pub(super) fn objection_of(error: &tokio_postgres::Error) -> Option<Objection> {
    let db = error.as_db_error()?;
    let ends_session = matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
    let is_doubtful = match blame(db.code().code(), db.routine(), ends_session) {
        Blame::Row => false,
        Blame::Doubtful => true,
        Blame::Other => return None,
    };
    Some(Objection { reason: said(error).chars().take(MAX_REASON_CHARS).collect(), is_doubtful })
}

/// The server's own words.
pub(super) fn said(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else { return explain_chain(error) };
    match db.detail() {
        Some(detail) => format!("{} ({detail})", db.message()),
        None => db.message().to_owned(),
    }
}

/// The error as a sentence with who must act. `doing` says what was tried.
pub(super) fn explain(doing: &str, error: &tokio_postgres::Error, connection: &Connection) -> Error {
    let said = said(error);
    if let Some(hint) = refusal(error) {
        connection.refused(hint);
        // One that has let the client in before may do so again by itself.
        return match connection.refusal() {
            Some(hint) => Error::user(format!("{doing}: {said}; {hint}")),
            None => Error::outside(format!("{doing}: {said}")),
        };
    }
    Error::outside(format!("{doing}: {said}"))
}

/// What to do about a server that refuses the client, or that this side refuses.
fn refusal(error: &tokio_postgres::Error) -> Option<&'static str> {
    let Some(code) = error.code() else { return refusal_of_tls(error) };
    match *code {
        SqlState::INVALID_PASSWORD => Some("check username and password"),
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            Some("check username, password and tls against the server's pg_hba.conf")
        }
        SqlState::INVALID_CATALOG_NAME => Some("create the database, or correct its name"),
        SqlState::INSUFFICIENT_PRIVILEGE => Some("grant the user what is missing"),
        _ => None,
    }
}

fn refusal_of_tls(error: &tokio_postgres::Error) -> Option<&'static str> {
    if let Some(hint) = hint_of(error) {
        return Some(hint);
    }
    let text = explain_chain(error);
    if text.contains("server does not support TLS") {
        return Some("remove tls, or let the server use it");
    }
    text.contains("password missing").then_some("give username and password")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_row_causes_is_not_blamed_on_one() {
        let connections = ["08006", "08P01", "HV00N"];
        let transactions = ["25006", "25P02", "25P03", "40001", "40P01", "26000", "72000"];
        let resources = ["53100", "53200", "53300", "55P03", "55006", "57014", "57P01", "58030", "F0000", "XX001", "XX002"];
        let names_and_rights =
            ["42703", "42P01", "42501", "42883", "42704", "42P10", "42804", "42809", "428C9", "28000", "3D000", "3F000"];
        for code in [&connections[..], &transactions, &resources, &names_and_rights].concat() {
            assert_eq!(blame(code, Some("aclcheck_error"), false), Blame::Other, "{code}");
            assert_eq!(blame(code, None, false), Blame::Other, "{code}");
        }
    }

    #[test]
    fn what_a_row_may_cause_is_looked_for_in_the_rows() {
        for code in ["22P02", "22003", "23502", "23514", "54000", "P0001"] {
            assert_eq!(blame(code, None, false), Blame::Row, "{code}");
            assert_eq!(blame(code, None, true), Blame::Other, "{code} ends the session");
        }
        for code in ["42601", "XX000", "ZZ001", "38000", "44000", "0A000", "21000", "", "é"] {
            assert_eq!(blame(code, None, false), Blame::Doubtful, "{code}");
            assert_eq!(blame(code, None, true), Blame::Other, "{code} ends the session");
        }
        assert_eq!(blame("42501", Some("ExecWithCheckOptions"), false), Blame::Doubtful, "a policy");
        assert_eq!(blame("42704", Some("exec_stmt_raise"), false), Blame::Doubtful, "RAISE");
        assert_eq!(blame("40001", Some("exec_stmt_raise"), false), Blame::Other, "whoever raises it wants another try");
    }

    #[test]
    fn a_table_that_takes_no_row_is_to_blame() {
        let objection = |is_doubtful| Objection { reason: "odd".to_owned(), is_doubtful };
        let mut doubt = Doubt::default();
        for _ in 0..MAX_DOUBTED {
            doubt.refused(&objection(true));
            doubt.refused(&objection(false));
        }
        assert!(!doubt.is_of_table(), "a row that is surely wrong says nothing of the table");
        // In a batch that follows a row may be taken yet.
        let mut next = doubt.of_next_batch();
        next.refused(&objection(true));
        assert!(next.is_of_table() && !next.is_sure());
        next.taken();
        assert_eq!(next, Doubt::default());
        // In the same batch it is enough.
        doubt.refused(&objection(true));
        assert!(doubt.is_of_table() && doubt.is_sure());
    }
}
