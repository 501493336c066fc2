//! One error for the whole engine: a sentence for a person, who must act, and whether a retry helps.

use std::fmt;

/// Who can do something about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The author of the job or whoever started the process.
    User,
    /// A disk, a server or another system outside of this process.
    Outside,
    /// The engine itself: a bug.
    Engine,
}

impl Actor {
    pub fn as_str(self) -> &'static str {
        match self {
            Actor::User => "user",
            Actor::Outside => "outside",
            Actor::Engine => "engine",
        }
    }
}

/// What went wrong, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    actor: Actor,
    retryable: bool,
    disk_full: bool,
    stalled: bool,
    message: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The job or the command line is wrong; a retry gives the same.
    pub fn user(message: impl Into<String>) -> Error {
        Error { actor: Actor::User, retryable: false, disk_full: false, stalled: false, message: message.into() }
    }

    /// Something outside failed; the same call may succeed later.
    pub fn outside(message: impl Into<String>) -> Error {
        Error { actor: Actor::Outside, retryable: true, disk_full: false, stalled: false, message: message.into() }
    }

    /// A disk has no room: the same call succeeds once it has some.
    pub fn disk_full(message: impl Into<String>) -> Error {
        Error { disk_full: true, ..Error::outside(message) }
    }

    /// A disk has room and is behind with what it was given: the same call succeeds once it has caught up.
    pub fn stalled(message: impl Into<String>) -> Error {
        Error { stalled: true, ..Error::outside(message) }
    }

    /// Something outside failed for good: damaged data, a disk that lost a write.
    pub fn damaged(message: impl Into<String>) -> Error {
        Error { actor: Actor::Outside, retryable: false, disk_full: false, stalled: false, message: message.into() }
    }

    /// An invariant of the engine does not hold.
    pub fn engine(message: impl Into<String>) -> Error {
        Error { actor: Actor::Engine, retryable: false, disk_full: false, stalled: false, message: message.into() }
    }

    /// The same error with what was being done put before it.
    pub fn context(mut self, doing: impl fmt::Display) -> Error {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    pub fn actor(&self) -> Actor {
        self.actor
    }

    /// Whether a disk without room is the reason.
    pub fn is_disk_full(&self) -> bool {
        self.disk_full
    }

    /// Whether a disk that is too slow is the reason.
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    pub fn retryable(&self) -> bool {
        self.retryable
    }

    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
