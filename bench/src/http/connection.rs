//! One keep-alive connection with its own requests.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::request::{Requests, Source};
use super::response::{self, Response};
use crate::clock::Moment;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A request without its answer yet.
pub struct UnderWay {
    pub intended: Instant,
    pub spike: bool,
}

pub struct Connection {
    stream: Option<TcpStream>,
    requests: Requests,
    /// Requests in the present group and bytes of it that were sent.
    group: usize,
    sent: usize,
    under_way: VecDeque<UnderWay>,
    /// The beginning of an answer whose rest has not come.
    partial: Vec<u8>,
}

impl Connection {
    pub fn new(requests: Requests, pipeline: usize) -> Connection {
        let under_way = VecDeque::with_capacity(pipeline);
        Connection { stream: None, requests, group: 0, sent: 0, under_way, partial: Vec::new() }
    }

    /// Opens the connection; the socket is to be watched then.
    pub fn connect(&mut self, address: SocketAddr) -> io::Result<&TcpStream> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(self.stream.insert(stream))
    }

    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.sent == self.requests.bytes(self.group).len()
    }

    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Begins a new group of requests.
    pub fn begin(&mut self) {
        self.group = 0;
        self.sent = 0;
    }

    /// Adds a request to the group.
    pub fn add(&mut self, source: &mut Source, now: &Moment, intended: Instant) {
        let spike = self.requests.prepare(self.group, source, now, intended);
        self.under_way.push_back(UnderWay { intended, spike });
        self.group += 1;
    }

    /// Sends what the kernel takes of the group.
    pub fn send(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let bytes = self.requests.bytes(self.group);
        while self.sent < bytes.len() {
            match stream.write(&bytes[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads all that has come into `space` and hands each answer on, with its request.
    pub fn receive(&mut self, space: &mut [u8], mut answered: impl FnMut(Response, UnderWay)) -> io::Result<()> {
        loop {
            let Some(stream) = &mut self.stream else { return Ok(()) };
            let read = match stream.read(space) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.take_answers(&space[..read], &mut answered)?;
            // The kernel reports anything that comes after a short read as a new edge.
            if read < space.len() {
                return Ok(());
            }
        }
    }

    fn take_answers(&mut self, bytes: &[u8], answered: &mut impl FnMut(Response, UnderWay)) -> io::Result<()> {
        let joined;
        let mut rest = bytes;
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.partial);
            rest = &joined;
        }
        while let Some(response) = response::parse(rest).map_err(io::Error::other)? {
            rest = &rest[response.len..];
            let request = self.under_way.pop_front().ok_or_else(|| io::Error::other("an answer without a request"))?;
            answered(response, request);
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Gives the connection up; returns how many requests will never be answered.
    pub fn close(&mut self) -> u64 {
        let unanswered = self.under_way.len() as u64;
        self.stream = None;
        self.under_way.clear();
        self.partial.clear();
        self.begin();
        unanswered
    }
}
