//! The control token. Its file may change beneath a running process, as that of a Secret does: it is read again when a
//! request brings another token than the known one.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderValue;
use parking_lot::Mutex;

use crate::rest::is_authorised;

/// Wrong tokens make the file be read no more often than this.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// Bytes of a token; a longer file holds none.
const MAX_TOKEN_BYTES: usize = 4096;

/// What `Authorization: Bearer` must say.
pub struct ControlToken {
    known: Mutex<Arc<str>>,
    file: Option<PathBuf>,
    read_at: Mutex<Option<Instant>>,
}

impl ControlToken {
    /// The token as it was when the process started, and the file that it was read from.
    pub fn new(known: Arc<str>, file: Option<PathBuf>) -> Self {
        Self { known: Mutex::new(known), file, read_at: Mutex::new(None) }
    }

    /// Whether a request brings the token. One that does not may wait for a look into the file.
    pub async fn allows(&self, header: Option<&HeaderValue>) -> bool {
        if self.matches(header) {
            return true;
        }
        let Some(file) = self.file.clone().filter(|_| header.is_some() && self.may_read(Instant::now())) else { return false };
        if let Ok(Some(text)) = tokio::task::spawn_blocking(move || read(&file)).await {
            *self.known.lock() = text;
        }
        self.matches(header)
    }

    fn matches(&self, header: Option<&HeaderValue>) -> bool {
        let known = self.known.lock().clone();
        is_authorised(Some(&known), header)
    }

    /// Whether it is time to read the file again; notes that it is read.
    fn may_read(&self, now: Instant) -> bool {
        let mut read_at = self.read_at.lock();
        let due = read_at.is_none_or(|last| now.saturating_duration_since(last) >= READ_AGAIN);
        if due {
            *read_at = Some(now);
        }
        due
    }
}

/// The token in a file; `None` where there is none, and the known one stays.
fn read(file: &Path) -> Option<Arc<str>> {
    let mut text = String::new();
    File::open(file).ok()?.take(MAX_TOKEN_BYTES as u64 + 1).read_to_string(&mut text).ok()?;
    let token = text.trim();
    (!token.is_empty() && text.len() <= MAX_TOKEN_BYTES).then(|| Arc::from(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_tokens_read_the_file_once_a_second() {
        let token = ControlToken::new(Arc::from("a"), Some(PathBuf::from("nowhere")));
        let start = Instant::now();
        let asked = [0, 1, 999, 1000, 1001, 1999, 2000].map(|millis| token.may_read(start + Duration::from_millis(millis)));
        assert_eq!(asked, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn a_file_without_a_token_leaves_the_known_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        assert_eq!(read(&file), None);
        std::fs::write(&file, " \n").unwrap();
        assert_eq!(read(&file), None);
        std::fs::write(&file, "x".repeat(MAX_TOKEN_BYTES + 1)).unwrap();
        assert_eq!(read(&file), None);
        std::fs::write(&file, "token\n").unwrap();
        assert_eq!(read(&file), Some(Arc::from("token")));
    }
}
