//! Requests with an id, as connections see them: the decisions of [`Idempotency`], and waiting for a first that still runs.

use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use streamjob_core::Result;
use streamjob_core::idempotency::{Decision, Idempotency};
use streamjob_core::shard::RequestCommit;
use tokio::sync::watch;

/// Requests that no commit has taken yet.
#[derive(Clone)]
pub struct Requests {
    shared: Arc<Inner>,
}

struct Inner {
    decisions: Mutex<Idempotency>,
    /// Changes whenever a request has ended, so that those who wait for one decide again.
    ended: watch::Sender<()>,
}

/// What to do with a request that has an id.
pub enum Begin {
    /// Nobody has it: run it.
    New(Ticket),
    /// The first answer.
    Answered(Arc<RequestCommit>),
    /// The same id came with another body.
    Conflict,
    /// Too many requests wait for their commit.
    Full,
}

/// The right to run a request. Dropped without an answer, nothing of it was taken and the next one with the id runs.
pub struct Ticket {
    id: String,
    requests: Requests,
    /// Set once the request's rows are in the journal: from then on only its answer ends it.
    kept: bool,
}

impl Requests {
    pub fn new(retention_us: i64) -> Requests {
        let inner = Inner { decisions: Mutex::new(Idempotency::new(retention_us)), ended: watch::channel(()).0 };
        Requests { shared: Arc::new(inner) }
    }

    /// Decides about a request, and waits for a first one with its id. `stored` reads the store of the id's home shard.
    ///
    /// The id is taken before the store is read. So a first request either still has its entry here, or its commit was
    /// readable before its entry went, and is found in the store: no repeat falls between the two.
    pub async fn begin<F>(&self, id: &str, body_hash: u64, now_us: i64, stored: impl Fn() -> F) -> Result<Begin>
    where
        F: Future<Output = Result<Option<RequestCommit>>>,
    {
        loop {
            let mut ended = self.shared.ended.subscribe();
            // Bound first: in the scrutinee the lock would be held over all arms.
            let decision = self.shared.decisions.lock().begin(id, body_hash, now_us);
            match decision {
                Decision::LookUp | Decision::New => {}
                Decision::WaitFor => {
                    let _ = ended.changed().await;
                    continue;
                }
                Decision::RepeatOf(answer) => return Ok(Begin::Answered(answer)),
                Decision::Conflict => return Ok(Begin::Conflict),
                Decision::Full => return Ok(Begin::Full),
            }
            // Gives the id back if reading the store fails, or the client goes meanwhile.
            let ticket = Ticket { id: id.to_owned(), requests: self.clone(), kept: false };
            let stored = stored().await?;
            let decision = self.shared.decisions.lock().resolve(id, body_hash, stored);
            let begin = match decision {
                Decision::New => return Ok(Begin::New(ticket)),
                Decision::RepeatOf(answer) => Begin::Answered(answer),
                Decision::Conflict => Begin::Conflict,
                Decision::LookUp | Decision::WaitFor | Decision::Full => Begin::Full,
            };
            // The id was given back already.
            ticket.keep();
            self.shared.ended.send_replace(());
            return Ok(begin);
        }
    }

    /// The request is durable and this is its answer; also for those that a start finds in the journal.
    pub fn answered(&self, answer: Arc<RequestCommit>) {
        self.shared.decisions.lock().answered(answer);
        self.shared.ended.send_replace(());
    }

    /// A commit that can be read has these: from now on they are found in the store.
    pub fn committed(&self, requests: &[RequestCommit]) {
        if requests.is_empty() {
            return;
        }
        let mut decisions = self.shared.decisions.lock();
        requests.iter().for_each(|request| decisions.committed(request));
    }

    /// Requests that run or wait for their commit.
    pub fn len(&self) -> usize {
        self.shared.decisions.lock().len()
    }
}

impl Ticket {
    /// The request's rows are in the journal: whoever makes them durable answers, also where the client has gone.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.kept {
            self.requests.shared.decisions.lock().failed(&self.id);
            self.requests.shared.ended.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_US: i64 = 3_600_000_000;

    fn answer(id: &str, body_hash: u64) -> RequestCommit {
        RequestCommit {
            id: id.to_owned(),
            body_hash,
            split: "http@1".to_owned(),
            first_offset: 0,
            received_us: 1,
            status: 202,
            answer: "{}".to_owned(),
        }
    }

    async fn begin(requests: &Requests, body_hash: u64, stored: Option<RequestCommit>) -> Begin {
        requests.begin("a", body_hash, 1, || std::future::ready(Ok(stored.clone()))).await.expect("memory")
    }

    #[tokio::test]
    async fn a_repeat_waits_for_the_first_and_gets_its_answer() {
        let requests = Requests::new(HOUR_US);
        let Begin::New(ticket) = begin(&requests, 7, None).await else { panic!("it is new") };
        let repeat = tokio::spawn({
            let requests = requests.clone();
            async move { begin(&requests, 7, None).await }
        });
        tokio::task::yield_now().await;
        assert!(matches!(begin(&requests, 8, None).await, Begin::Conflict));
        ticket.keep();
        requests.answered(Arc::new(answer("a", 7)));
        assert!(matches!(repeat.await.expect("no panic"), Begin::Answered(_)));
    }

    #[tokio::test]
    async fn a_first_that_failed_leaves_its_place() {
        let requests = Requests::new(HOUR_US);
        let Begin::New(ticket) = begin(&requests, 7, None).await else { panic!("it is new") };
        drop(ticket);
        assert!(matches!(begin(&requests, 8, None).await, Begin::New(_)));
        assert_eq!(requests.len(), 0, "the second was dropped as well");
    }

    #[tokio::test]
    async fn a_committed_request_is_answered_from_the_store() {
        let requests = Requests::new(HOUR_US);
        assert!(matches!(begin(&requests, 7, Some(answer("a", 7))).await, Begin::Answered(_)));
        assert!(matches!(begin(&requests, 8, Some(answer("a", 7))).await, Begin::Conflict));
        let old = RequestCommit { received_us: 1 - HOUR_US, ..answer("a", 7) };
        assert!(matches!(begin(&requests, 8, Some(old)).await, Begin::New(_)));
        assert_eq!(requests.len(), 0);
    }
}
