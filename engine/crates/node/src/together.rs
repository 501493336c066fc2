//! Single rows that come at the same time: one batch and one record of the journal for all of them.
//!
//! ```text
//!  request ─▶ waiting (one list a thread) ─┐
//!  request ─▶ waiting ─────────────────────┼─▶ decode, encode, journal, wait: once ─▶ an answer for each
//!  request ─▶ waiting ─────────────────────┘
//! ```
//!
//! Nobody waits for others to come: the first request asks for a task that runs once those are read that the sockets have
//! already. For one row a request costs many times what the row itself does.
//!
//! Only bodies of exactly one line that begins with `{` are taken together, and where one of them is rejected each runs
//! alone: so the answers are those that each would get by itself. A record is whole or absent, and so is each request in
//! it (I10); requests with an id never come here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::formats::Format;
use crate::inbox::BodyShare;
use crate::ingest::{Answer, Ingest};

/// Requests that wait on one thread; one more runs alone.
const MAX_TOGETHER: usize = 512;
/// A longer body runs alone.
const MAX_BYTES: usize = 4 << 10;
/// Lists of waiting requests; threads share one only where there are more of them.
const POOLS: usize = 4;

/// A request that waits for its group.
pub struct Single {
    pub format: Format,
    pub body: Bytes,
    answer: oneshot::Sender<Answer>,
    _share: BodyShare,
}

/// Requests that wait.
#[derive(Default)]
pub struct Together {
    pools: [Pool; POOLS],
}

/// Of its own cache lines, since each thread has another one.
#[derive(Default)]
#[repr(align(128))]
struct Pool {
    waiting: Mutex<Vec<Single>>,
}

/// The number of the calling thread, from 0, by its first call.
pub fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    MINE.with(|mine| *mine)
}

/// The one line that a body consists of, if it may be taken together with others.
fn line_of(body: &[u8]) -> Option<&[u8]> {
    let line = body.trim_ascii_end();
    (line.first() == Some(&b'{') && line.len() <= MAX_BYTES && !line.contains(&b'\n')).then_some(line)
}

impl Together {
    /// Answers a request together with those that come at the same time; gives it back where it must run alone.
    pub async fn run(
        ingest: &Arc<Ingest>,
        format: Format,
        body: Bytes,
        share: BodyShare,
    ) -> std::result::Result<Answer, (Bytes, BodyShare)> {
        if line_of(&body).is_none() {
            return Err((body, share));
        }
        let pool = thread_number() % POOLS;
        let (sender, answer) = oneshot::channel();
        let first = {
            let mut waiting = ingest.together.pools[pool].waiting.lock();
            if waiting.len() >= MAX_TOGETHER {
                return Err((body, share));
            }
            waiting.push(Single { format, body, answer: sender, _share: share });
            waiting.len() == 1
        };
        if first {
            // A task of its own: this request's connection may break.
            tokio::spawn(run_group(ingest.clone(), pool));
        }
        Ok(answer.await.unwrap_or_else(|_| {
            Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "the process is stopping; whether the row was kept is not known")
        }))
    }
}

async fn run_group(ingest: Arc<Ingest>, pool: usize) {
    // Whoever is ready to be read comes first.
    tokio::task::yield_now().await;
    let group = std::mem::take(&mut *ingest.together.pools[pool].waiting.lock());
    let bytes = group.iter().map(|single| single.body.len() + 1).sum();
    let mut lines = Vec::with_capacity(bytes);
    for single in &group {
        lines.extend_from_slice(line_of(&single.body).unwrap_or_default());
        lines.push(b'\n');
    }
    match ingest.run_lines(&lines, group.len()).await {
        Some(Ok(answer)) | Some(Err(answer)) => group.into_iter().for_each(|single| drop(single.answer.send(answer.clone()))),
        None => {
            // Each by itself and all at once, so that they still share a sync of the journal.
            for single in group {
                let ingest = ingest.clone();
                tokio::spawn(async move {
                    // Whole, so that the body's share of the memory is held until the answer.
                    let Single { format, body, answer, _share } = single;
                    let _ = answer.send(ingest.run_alone(format, body).await);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_object_on_one_line_is_taken_together() {
        assert_eq!(line_of(b"{\"a\":1}\r\n"), Some(&b"{\"a\":1}"[..]));
        for body in [&b"[{\"a\":1}]"[..], b"{\"a\":1}\n{\"a\":2}", b"{\"a\":\n1}", b"", b" {}"] {
            assert_eq!(line_of(body), None, "{}", String::from_utf8_lossy(body));
        }
        assert_eq!(line_of(&[&b"{"[..], &[b' '; MAX_BYTES][..], b"}"].concat()), None);
    }
}
