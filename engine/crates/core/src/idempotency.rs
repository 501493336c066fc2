//! Requests with an id: a repeat gets the first answer and runs nothing (I10).
//!
//! ```text
//!  begin ──▶ LookUp ──▶ [home shard's store] ──▶ resolve ──▶ New ──▶ [journal] ──▶ answered ──▶ [home shard commits] ──▶ committed
//!     │                                             │         └──▶ failed: the next one with the id is new
//!     └──▶ WaitFor, RepeatOf, Conflict, Full        └──▶ RepeatOf, Conflict
//! ```
//!
//! The id is claimed before the store is read, and forgotten here only when a commit can be read there: whoever finds
//! nothing in both is the first. (Reading first would miss what is committed and forgotten in between.)
//!
//! A start puts the requests back that the journal has and no commit took yet, before it takes new ones. From `New` on the
//! request must end in `answered` or `failed` whether its client still waits or not, `failed` only if nothing was journaled.

use std::collections::HashMap;
use std::sync::Arc;

use crate::guards::{self, Guard};
use crate::journal::RequestRecord;
use crate::json;
use crate::shard::RequestCommit;

/// Requests that run or wait for their commit, at most; above it new ones with an id must wait (I6).
pub const MAX_UNCOMMITTED_REQUESTS: usize = 1 << 20;

/// What to do with a request that has an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The id is claimed; read the store of its home shard, then call [`Idempotency::resolve`].
    LookUp,
    /// Nobody has it: run it, then call [`Idempotency::answered`] or [`Idempotency::failed`].
    New,
    /// The first answer is the answer.
    RepeatOf(Arc<RequestCommit>),
    /// The same id came with another body.
    Conflict,
    /// The first is running; decide again when it has ended.
    WaitFor,
    /// Too many requests are not committed yet; decide again later.
    Full,
}

#[derive(Debug)]
enum Entry {
    /// Its shard's store is being read: whether it is the first is not known.
    Claimed {
        received_us: i64,
    },
    /// `committed`: its commit came before its answer.
    Running {
        body_hash: u64,
        received_us: i64,
        committed: bool,
    },
    Answered(Arc<RequestCommit>),
}

/// The requests that no store has yet.
#[derive(Debug)]
pub struct Idempotency {
    retention_us: i64,
    max_entries: usize,
    entries: HashMap<String, Entry>,
}

impl Idempotency {
    pub fn new(retention_us: i64) -> Idempotency {
        Idempotency { retention_us, max_entries: MAX_UNCOMMITTED_REQUESTS, entries: HashMap::new() }
    }

    /// Decides about a request that came at `now_us`, which its record must keep as `received_us`.
    pub fn begin(&mut self, id: &str, body_hash: u64, now_us: i64) -> Decision {
        match self.entries.get(id) {
            _ if guards::off(Guard::Idempotency) => {}
            Some(Entry::Running { body_hash: first, .. }) if *first != body_hash => return Decision::Conflict,
            Some(Entry::Claimed { .. } | Entry::Running { .. }) => return Decision::WaitFor,
            Some(Entry::Answered(answer)) if !self.has_expired(answer, now_us) => return repeat(answer, body_hash),
            Some(Entry::Answered(_)) => {}
            None if self.entries.len() >= self.max_entries => return Decision::Full,
            None => {}
        }
        self.entries.insert(id.to_owned(), Entry::Claimed { received_us: now_us });
        Decision::LookUp
    }

    /// Decides about a claimed request; `stored` is what the store has under its id, read since the claim.
    pub fn resolve(&mut self, id: &str, body_hash: u64, stored: Option<RequestCommit>) -> Decision {
        let Some(Entry::Claimed { received_us }) = self.entries.get(id) else { return Decision::WaitFor };
        let received_us = *received_us;
        match stored {
            Some(stored) if !self.has_expired(&stored, received_us) && !guards::off(Guard::Idempotency) => {
                self.entries.remove(id);
                repeat(&Arc::new(stored), body_hash)
            }
            _ => {
                self.entries.insert(id.to_owned(), Entry::Running { body_hash, received_us, committed: false });
                Decision::New
            }
        }
    }

    fn has_expired(&self, stored: &RequestCommit, now_us: i64) -> bool {
        stored.received_us.saturating_add(self.retention_us) <= now_us
    }

    /// The request is durable and this is its answer; also for those that a start finds in the journal, in any order.
    pub fn answered(&mut self, answer: Arc<RequestCommit>) {
        match self.entries.get(&answer.id) {
            Some(Entry::Running { received_us, committed: true, .. }) if *received_us == answer.received_us => {
                self.entries.remove(&answer.id);
            }
            Some(Entry::Answered(younger)) if younger.received_us > answer.received_us => {}
            _ => {
                self.entries.insert(answer.id.clone(), Entry::Answered(answer));
            }
        }
    }

    /// Nothing of the request was taken: the next one with the id is new.
    pub fn failed(&mut self, id: &str) {
        if matches!(self.entries.get(id), Some(Entry::Claimed { .. } | Entry::Running { .. })) {
            self.entries.remove(id);
        }
    }

    /// A commit has this request: from now on it is found in the store.
    pub fn committed(&mut self, request: &RequestCommit) {
        match self.entries.get_mut(&request.id) {
            Some(Entry::Answered(answer)) if answer.received_us == request.received_us => {
                self.entries.remove(&request.id);
            }
            Some(Entry::Running { received_us, committed, .. }) if *received_us == request.received_us => *committed = true,
            // It was forgotten, or belongs to a later request under the same id.
            _ => {}
        }
    }

    /// Requests that run or wait for their commit.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn repeat(answer: &Arc<RequestCommit>, body_hash: u64) -> Decision {
    if answer.body_hash == body_hash { Decision::RepeatOf(answer.clone()) } else { Decision::Conflict }
}

/// A request's answer, made from what the journal keeps of it: the same at first and at every repeat.
pub fn answer_of(request: &RequestRecord, split: &str, first_offset: u64) -> RequestCommit {
    RequestCommit {
        id: request.id.clone(),
        body_hash: request.body_hash,
        split: split.to_owned(),
        first_offset,
        received_us: request.received_us,
        status: answer_status(request),
        answer: answer_text(request),
    }
}

/// Status of a request's answer: 202 if a row was accepted or none came.
pub fn answer_status(request: &RequestRecord) -> u16 {
    if request.accepted == 0 && request.rejected > 0 { 400 } else { 202 }
}

/// Body of a request's answer.
pub fn answer_text(request: &RequestRecord) -> String {
    let mut text = Vec::with_capacity(48);
    text.extend_from_slice(b"{\"accepted\":");
    json::write_u64(&mut text, u64::from(request.accepted));
    text.extend_from_slice(b",\"rejected\":");
    json::write_u64(&mut text, u64::from(request.rejected));
    text.extend_from_slice(b",\"errors\":[");
    for (number, error) in request.errors.iter().enumerate() {
        text.extend_from_slice(if number == 0 { b"{\"row\":" } else { b",{\"row\":" });
        json::write_u64(&mut text, u64::from(error.row));
        text.extend_from_slice(b",\"field\":");
        json::write_string(&mut text, error.field.as_bytes());
        text.extend_from_slice(b",\"reason\":");
        json::write_string(&mut text, error.reason.as_bytes());
        text.push(b'}');
    }
    text.extend_from_slice(b"]}");
    String::from_utf8(text).expect("JSON of strings and numbers is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: &str, body_hash: u64, received_us: i64) -> RequestCommit {
        let record = RequestRecord { id: id.to_owned(), body_hash, received_us, accepted: 1, rejected: 0, errors: vec![] };
        answer_of(&record, "in@1", 5)
    }

    /// Claims and resolves at once.
    fn decide(requests: &mut Idempotency, id: &str, body_hash: u64, now_us: i64, stored: Option<RequestCommit>) -> Decision {
        match requests.begin(id, body_hash, now_us) {
            Decision::LookUp => requests.resolve(id, body_hash, stored),
            decision => decision,
        }
    }

    #[test]
    fn a_request_is_new_once_and_then_repeated() {
        let mut requests = Idempotency::new(100);
        assert_eq!(decide(&mut requests, "a", 1, 0, None), Decision::New);
        assert_eq!(requests.begin("a", 1, 0), Decision::WaitFor);
        assert_eq!(requests.begin("a", 2, 0), Decision::Conflict);
        let first = Arc::new(answer("a", 1, 0));
        requests.answered(first.clone());
        assert_eq!(requests.begin("a", 1, 9), Decision::RepeatOf(first.clone()));
        assert_eq!(requests.begin("a", 2, 9), Decision::Conflict);
        requests.committed(&first);
        assert!(requests.is_empty());
        assert_eq!(decide(&mut requests, "a", 1, 9, Some((*first).clone())), Decision::RepeatOf(first.clone()));
        assert_eq!(decide(&mut requests, "a", 2, 9, Some((*first).clone())), Decision::Conflict);
        assert!(requests.is_empty(), "a repeat leaves no claim");
    }

    #[test]
    fn two_that_look_at_once_do_not_both_run() {
        let mut requests = Idempotency::new(100);
        assert_eq!(requests.begin("a", 1, 0), Decision::LookUp);
        assert_eq!(requests.begin("a", 1, 1), Decision::WaitFor);
        assert_eq!(requests.begin("a", 2, 1), Decision::WaitFor, "which of the two bodies is the first's is not known yet");
        assert_eq!(requests.resolve("a", 1, None), Decision::New);
        assert_eq!(requests.begin("a", 2, 2), Decision::Conflict);
    }

    #[test]
    fn what_failed_or_has_expired_is_new_again() {
        let mut requests = Idempotency::new(100);
        assert_eq!(decide(&mut requests, "a", 1, 0, None), Decision::New);
        requests.failed("a");
        assert_eq!(decide(&mut requests, "a", 2, 0, None), Decision::New);
        requests.failed("a");
        assert_eq!(decide(&mut requests, "a", 2, 100, Some(answer("a", 1, 0))), Decision::New);
    }

    #[test]
    fn a_commit_of_an_older_request_forgets_no_newer_one() {
        let mut requests = Idempotency::new(100);
        let older = answer("a", 1, 0);
        assert_eq!(decide(&mut requests, "a", 2, 200, Some(older.clone())), Decision::New);
        requests.committed(&older);
        assert_eq!(requests.begin("a", 2, 200), Decision::WaitFor);
        let newer = Arc::new(answer("a", 2, 200));
        requests.answered(newer.clone());
        requests.failed("a");
        requests.committed(&older);
        assert_eq!(requests.begin("a", 2, 201), Decision::RepeatOf(newer));
    }

    #[test]
    fn a_commit_may_come_before_the_answer() {
        let mut requests = Idempotency::new(100);
        assert_eq!(decide(&mut requests, "a", 1, 7, None), Decision::New);
        let first = answer("a", 1, 7);
        requests.committed(&first);
        assert_eq!(requests.begin("a", 1, 8), Decision::WaitFor);
        requests.answered(Arc::new(first));
        assert!(requests.is_empty());
    }

    #[test]
    fn uncommitted_requests_are_bounded() {
        let mut requests = Idempotency { max_entries: 1, ..Idempotency::new(100) };
        assert_eq!(requests.begin("a", 1, 0), Decision::LookUp);
        assert_eq!(requests.begin("b", 1, 0), Decision::Full);
        assert_eq!(requests.begin("a", 1, 0), Decision::WaitFor);
    }

    #[test]
    fn an_answer_says_what_was_taken() {
        let record = RequestRecord { id: "a".into(), body_hash: 1, received_us: 0, accepted: 0, rejected: 2, errors: vec![] };
        let commit = answer_of(&record, "in@1", 5);
        assert_eq!((commit.status, commit.answer.as_str()), (400, "{\"accepted\":0,\"rejected\":2,\"errors\":[]}"));
        assert_eq!(answer("a", 1, 0).status, 202);
    }
}
