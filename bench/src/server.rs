//! Just enough of an HTTP/1.1 server: requests with a Content-Length on keep-alive connections, one thread.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clock::wall_us;
use crate::http::content_length;
use crate::poll::{Poll, resolve};

const LISTENER: u64 = u64::MAX;
/// The longest wait for news, so that a signal or the end is seen.
const MAX_WAIT: Duration = Duration::from_millis(50);
/// Bytes that one read takes.
const READ_BYTES: usize = 256 << 10;
/// A larger request closes the connection.
const MAX_REQUEST_BYTES: usize = 64 << 20;

/// One whole request.
pub struct Request<'a> {
    /// The request line and headers, with the empty line.
    pub head: &'a [u8],
    pub body: &'a [u8],
    /// When its last bytes were read, microseconds of the wall clock.
    pub received_us: i64,
}

/// Prints `READY http://ADDRESS`, then hands each request to `handle`, which appends a whole answer to its second argument. Ends on
/// SIGTERM, SIGINT, or after `duration`.
pub fn serve(address: &str, duration: Option<Duration>, mut handle: impl FnMut(&Request, &mut Vec<u8>)) -> Result<(), String> {
    let address = resolve(address)?;
    let listener = TcpListener::bind(address).map_err(|error| format!("listening on {address}: {error}"))?;
    listener.set_nonblocking(true).map_err(|error| format!("listening on {address}: {error}"))?;
    let mut poll = Poll::new()?;
    poll.add_listener(&listener, LISTENER).map_err(|error| format!("watching {address}: {error}"))?;
    let stop = stop_on_signals()?;
    println!("READY http://{}", listener.local_addr().map_err(|error| error.to_string())?);
    let end = duration.map(|duration| Instant::now() + duration);
    let mut connections = Connections { open: HashMap::new(), next_token: 0, space: vec![0; READ_BYTES] };
    let mut tokens = Vec::new();
    while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
        tokens.clear();
        poll.wait(MAX_WAIT, &mut tokens)?;
        for token in &tokens {
            if *token == LISTENER {
                connections.accept(&listener, &poll);
            } else {
                connections.progress(*token, &mut handle);
            }
        }
    }
    Ok(())
}

/// A flag that SIGTERM and SIGINT set.
pub fn stop_on_signals() -> Result<Arc<AtomicBool>, String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|error| format!("waiting for signals: {error}"))?;
    }
    Ok(stop)
}

struct Connections {
    open: HashMap<u64, Connection>,
    next_token: u64,
    space: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// What has come and is no whole request yet.
    pending: Vec<u8>,
    /// Answers that the kernel did not take yet.
    answers: Vec<u8>,
}

impl Connections {
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) {
        while let Ok((stream, _)) = listener.accept() {
            let prepared = stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true));
            if prepared.and_then(|()| poll.add(&stream, self.next_token)).is_ok() {
                self.open.insert(self.next_token, Connection { stream, pending: Vec::new(), answers: Vec::new() });
                self.next_token += 1;
            }
        }
    }

    fn progress(&mut self, token: u64, handle: &mut impl FnMut(&Request, &mut Vec<u8>)) {
        let Some(connection) = self.open.get_mut(&token) else { return };
        if !matches!(connection.progress(&mut self.space, handle), Ok(true)) {
            self.open.remove(&token);
        }
    }
}

impl Connection {
    /// Reads all that has come and answers it; false once the other side has closed.
    fn progress(&mut self, space: &mut [u8], handle: &mut impl FnMut(&Request, &mut Vec<u8>)) -> io::Result<bool> {
        loop {
            let read = match self.stream.read(space) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if read == 0 {
                return Ok(false);
            }
            self.take(&space[..read], handle)?;
            if read < space.len() {
                break;
            }
        }
        self.send()?;
        Ok(true)
    }

    /// Answers the whole requests in what was pending and `bytes`, without a copy where nothing was pending.
    fn take(&mut self, bytes: &[u8], handle: &mut impl FnMut(&Request, &mut Vec<u8>)) -> io::Result<()> {
        let received_us = wall_us();
        if self.pending.is_empty() {
            let done = answer_all(bytes, received_us, &mut self.answers, handle)?;
            self.pending.extend_from_slice(&bytes[done..]);
        } else {
            self.pending.extend_from_slice(bytes);
            let done = answer_all(&self.pending, received_us, &mut self.answers, handle)?;
            self.pending.drain(..done);
        }
        if self.pending.len() > MAX_REQUEST_BYTES {
            return Err(io::Error::other("a request is too large"));
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        let mut sent = 0;
        while sent < self.answers.len() {
            match self.stream.write(&self.answers[sent..]) {
                Ok(written) => sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.answers.drain(..sent);
        Ok(())
    }
}

/// Answers every whole request in `bytes`; returns how many bytes these were.
fn answer_all(
    bytes: &[u8],
    received_us: i64,
    answers: &mut Vec<u8>,
    handle: &mut impl FnMut(&Request, &mut Vec<u8>),
) -> io::Result<usize> {
    let mut done = 0;
    while let Some((head, body)) = split_request(&bytes[done..])? {
        handle(&Request { head, body, received_us }, answers);
        done += head.len() + body.len();
    }
    Ok(done)
}

/// Head and body of the first request, once it is whole.
fn split_request(bytes: &[u8]) -> io::Result<Option<(&[u8], &[u8])>> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let (head, rest) = bytes.split_at(end + 4);
    let len = content_length(head).ok_or_else(|| io::Error::other("a request without Content-Length"))?;
    Ok(rest.get(..len as usize).map(|body| (head, body)))
}
