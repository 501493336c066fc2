//! Rows as lines on standard output, by a thread of its own: a slow terminal or pipe delays no worker until the queue is full.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use streamjob_core::{Error, Result};

/// Chunks that wait for the writer; a full queue makes [`StdoutSink::write`] wait.
pub const QUEUE_CHUNKS: usize = 64;

/// Writes chunks of whole lines in the order in which they come.
#[derive(Debug)]
pub struct StdoutSink {
    queue: SyncSender<Bytes>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Chunks written and flushed.
    written: AtomicU64,
    failure: OnceLock<Error>,
}

impl StdoutSink {
    /// Starts the thread that writes to the process's standard output. It holds the output's lock only while it writes a chunk,
    /// so that other lines come between chunks, never within one.
    pub fn start() -> Result<StdoutSink> {
        StdoutSink::start_on(io::stdout())
    }

    /// The same on another output, for tests.
    pub fn start_on(output: impl Write + Send + 'static) -> Result<StdoutSink> {
        let (queue, chunks) = sync_channel(QUEUE_CHUNKS);
        let shared = Arc::new(Shared::default());
        let thread = thread::Builder::new()
            .name("stdout-sink".to_owned())
            .spawn({
                let shared = shared.clone();
                move || run(output, &chunks, &shared)
            })
            .map_err(|error| {
                Error::outside(format!("starting the thread of the stdout sink: {error}; raise the limit of threads"))
            })?;
        Ok(StdoutSink { queue, shared, thread })
    }

    /// Queues whole lines, each with its newline; waits while the queue is full.
    ///
    /// # Errors
    /// `user` once the output's reader is gone, `damaged` for other failures; each call after that fails alike.
    pub fn write(&self, lines: Bytes) -> Result<()> {
        let queued = self.queue.send(lines).is_ok();
        match self.shared.failure.get() {
            Some(failure) => Err(failure.clone()),
            None if queued => Ok(()),
            None => Err(Error::engine("the thread of the stdout sink ended without a reason")),
        }
    }

    /// How many chunks, in the order of [`write`](Self::write), are with the operating system: what may count as delivered.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Acquire)
    }

    /// Why nothing is written any more, if that is so.
    pub fn failure(&self) -> Option<&Error> {
        self.shared.failure.get()
    }

    /// Writes what is queued and ends the thread.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn finish(self) -> Result<()> {
        drop(self.queue);
        self.thread.join().map_err(|_| Error::engine("the thread of the stdout sink panicked"))?;
        self.shared.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }
}

/// Ends at the first failure; dropping the receiver then wakes whoever waits for room in the queue.
fn run(mut output: impl Write, chunks: &Receiver<Bytes>, shared: &Shared) {
    if let Err(error) = write_all(&mut output, chunks, shared) {
        // Set before the receiver is dropped by the caller's return: who sees the queue closed finds the reason.
        let _ = shared.failure.set(explain(error));
    }
}

fn write_all(output: &mut impl Write, chunks: &Receiver<Bytes>, shared: &Shared) -> io::Result<()> {
    while let Ok(chunk) = chunks.recv() {
        output.write_all(&chunk)?;
        let mut unflushed = 1;
        for chunk in chunks.try_iter().take(QUEUE_CHUNKS) {
            output.write_all(&chunk)?;
            unflushed += 1;
        }
        output.flush()?;
        shared.written.fetch_add(unflushed, Ordering::Release);
    }
    Ok(())
}

fn explain(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Error::user("writing rows to stdout: whatever read it ended; start the job with its stdout open, or use a file sink")
    } else {
        Error::damaged(format!("writing rows to stdout: {error}; check where it is redirected to, then start again"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_come_out_in_order_and_are_counted() {
        let memory = Memory::default();
        let sink = StdoutSink::start_on(memory.clone()).unwrap();
        let mut expected = Vec::new();
        for number in 0..1000 {
            let line = format!("{number}\n");
            expected.extend_from_slice(line.as_bytes());
            sink.write(Bytes::from(line)).unwrap();
        }
        let shared = sink.shared.clone();
        sink.finish().unwrap();
        assert_eq!(*memory.0.lock().unwrap(), expected);
        assert_eq!(shared.written.load(Ordering::Acquire), 1000);
    }

    #[test]
    fn a_broken_pipe_is_an_error_for_every_later_write() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let sink = StdoutSink::start_on(writer).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let error = loop {
            assert!(std::time::Instant::now() < deadline);
            if let Err(error) = sink.write(Bytes::from_static(b"row\n")) {
                break error;
            }
        };
        assert!(error.message().contains("whatever read it ended"), "{error}");
        assert_eq!(sink.write(Bytes::from_static(b"row\n")).unwrap_err(), error);
        assert_eq!(sink.written(), 0);
        assert_eq!(sink.finish().unwrap_err(), error);
    }

    #[test]
    fn a_full_queue_waits_until_the_reader_goes_on_or_away() {
        let (reader, writer) = io::pipe().unwrap();
        let sink = StdoutSink::start_on(writer).unwrap();
        let row = Bytes::from(vec![b'x'; 64 << 10]);
        let writing = thread::spawn(move || (0..1000).find_map(|_| sink.write(row.clone()).err()));
        thread::sleep(Duration::from_millis(50));
        assert!(!writing.is_finished());
        drop(reader);
        assert!(writing.join().unwrap().is_some());
    }
}
