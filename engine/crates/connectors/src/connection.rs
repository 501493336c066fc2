//! What is known of the connection to a server, the same for every connector.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether a server answers. Shared by all clients of one source or sink.
#[derive(Debug, Default)]
pub struct Connection {
    connected: AtomicBool,
    /// It has answered since the process started.
    known: AtomicBool,
    errors: AtomicU64,
    last_error: Mutex<Option<String>>,
    refusal: Mutex<Option<&'static str>>,
}

impl Connection {
    /// Whether the server answered last time.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Connections and requests that failed since the process started.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// The last error's text, until the server answers again.
    pub fn last_error(&self) -> Option<String> {
        self.lock().clone()
    }

    /// The server has answered. True where it did not before.
    pub fn answered(&self) -> bool {
        self.known.store(true, Ordering::Relaxed);
        let before = self.connected.swap(true, Ordering::Relaxed);
        if !before {
            *self.lock() = None;
            *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        !before
    }

    /// A request or a connection has failed. True where all was well before.
    pub fn failed(&self, text: &str) -> bool {
        self.errors.fetch_add(1, Ordering::Relaxed);
        *self.lock() = Some(text.to_owned());
        self.connected.swap(false, Ordering::Relaxed)
    }

    /// The server refuses the client, for a reason that a person must see to.
    pub fn refused(&self, what_to_do: &'static str) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(what_to_do);
    }

    /// What a person must do about a server that refuses the client. One that has let it in before may do so again by itself.
    pub fn refusal(&self) -> Option<&'static str> {
        match self.known.load(Ordering::Relaxed) {
            true => None,
            false => *self.refusal.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
