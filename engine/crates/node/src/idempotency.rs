//! Requests with an id: running, answered but not committed, or in the store of their home shard (I10).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use streamjob_core::shard::RequestCommit;
use tokio::sync::watch;

/// Requests that no commit has taken yet.
#[derive(Clone, Default)]
pub struct Requests {
    entries: Arc<Mutex<HashMap<String, Entry>>>,
}

enum Entry {
    Running { body_hash: u64, done: watch::Receiver<()> },
    Answered(Arc<RequestCommit>),
}

/// What to do with a request that has an id.
pub enum Begin {
    /// Nobody has it: run it, then call [`Ticket::answer`], or drop the ticket if it failed.
    New(Ticket),
    /// The first answer.
    Answered(Arc<RequestCommit>),
    /// The first is running; look again when it is done.
    Wait(watch::Receiver<()>),
    /// The same id came with another body.
    Conflict,
}

/// The right to run a request. Dropped without an answer, the next one with the id runs.
pub struct Ticket {
    id: String,
    requests: Requests,
    _done: watch::Sender<()>,
    answered: bool,
}

impl Requests {
    /// Decides about a request whose id is in no store.
    pub fn begin(&self, id: &str, body_hash: u64) -> Begin {
        let mut entries = self.entries.lock();
        match entries.get(id) {
            Some(Entry::Running { body_hash: first, .. }) if *first != body_hash => Begin::Conflict,
            Some(Entry::Running { done, .. }) => Begin::Wait(done.clone()),
            Some(Entry::Answered(answer)) if answer.body_hash != body_hash => Begin::Conflict,
            Some(Entry::Answered(answer)) => Begin::Answered(answer.clone()),
            None => {
                let (sender, receiver) = watch::channel(());
                entries.insert(id.to_owned(), Entry::Running { body_hash, done: receiver });
                Begin::New(Ticket { id: id.to_owned(), requests: self.clone(), _done: sender, answered: false })
            }
        }
    }

    /// Keeps the answer of a request that is in the journal.
    pub fn answered(&self, answer: Arc<RequestCommit>) {
        self.entries.lock().insert(answer.id.clone(), Entry::Answered(answer));
    }

    /// A commit has these: from now on they are found in the store.
    pub fn committed<'a>(&self, ids: impl Iterator<Item = &'a str>) {
        let mut entries = self.entries.lock();
        for id in ids {
            entries.remove(id);
        }
    }
}

impl Ticket {
    /// The request is durable and this is its answer.
    pub fn answer(mut self, answer: Arc<RequestCommit>) {
        self.answered = true;
        self.requests.answered(answer);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.requests.entries.lock().remove(&self.id);
        }
    }
}
