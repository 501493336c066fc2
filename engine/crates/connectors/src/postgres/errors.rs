//! What PostgreSQL's errors mean for a person, and for a row.

use streamjob_core::Error;
use tokio_postgres::error::SqlState;

use crate::connection::Connection;
use crate::http_client::explain_chain;
use crate::tls::hint_of;

/// Of a server's text at most this many characters are kept with a row.
pub const MAX_REASON_CHARS: usize = 300;

/// Why the row itself is not taken: a value that its type has not, a constraint, a trigger that objects. `None` where another
/// try, or a person, may help.
pub(super) fn refusal_of(error: &tokio_postgres::Error) -> Option<String> {
    let db = error.as_db_error()?;
    // Data exceptions, constraints, limits of a row (as of an index), exceptions of functions and triggers.
    let is_of_row = matches!(db.code().code().get(..2), Some("22" | "23" | "54" | "P0"));
    is_of_row.then(|| said(error).chars().take(MAX_REASON_CHARS).collect())
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
