//! What is known of the connection to a server, the same for every connector.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether a server answers. Shared by all clients of one source or sink.
#[derive(Debug, Default)]
pub struct Connection {
    connected: AtomicBool,
    errors: AtomicU64,
    last_error: Mutex<Option<String>>,
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
        let before = self.connected.swap(true, Ordering::Relaxed);
        if !before {
            *self.lock() = None;
        }
        !before
    }

    /// A request or a connection has failed. True where all was well before.
    pub fn failed(&self, text: &str) -> bool {
        self.errors.fetch_add(1, Ordering::Relaxed);
        *self.lock() = Some(text.to_owned());
        self.connected.swap(false, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
