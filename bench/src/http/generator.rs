//! The loop that drives all connections.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Options;
use super::connection::Connection;
use super::pace::Pace;
use super::request::{Requests, Source};
use super::totals::Totals;
use crate::clock::Moment;
use crate::poll::{Poll, resolve};
use crate::server::stop_on_signals;

/// How long a connection rests after 429, 503 or a failure.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest wait for news, so that a signal or the end is seen.
const MAX_WAIT: Duration = Duration::from_millis(50);
/// Bytes that one read takes.
const READ_BYTES: usize = 64 << 10;

pub struct Generator<'a> {
    options: &'a Options,
    address: SocketAddr,
    poll: Poll,
    connections: Vec<Connection>,
    /// Free connections, the one that is free longest first.
    idle: VecDeque<usize>,
    /// Connections that rest, in the order in which they go on.
    paused: VecDeque<(Instant, usize)>,
    source: Source,
    pace: Pace,
    totals: Totals,
    drain_until: Instant,
    space: Vec<u8>,
    stop: Arc<AtomicBool>,
}

impl<'a> Generator<'a> {
    /// Connects everything.
    pub fn new(options: &'a Options) -> Result<Generator<'a>, String> {
        let (host, path) = split_url(&options.url)?;
        let address = resolve(host)?;
        let poll = Poll::new()?;
        let source = Source::new(options, Instant::now());
        let mut connections = Vec::with_capacity(options.connections);
        for number in 0..options.connections {
            let requests = Requests::new(options, host, path, &source, number as u64);
            let mut connection = Connection::new(requests, options.pipeline);
            let connected = connection.connect(address).and_then(|stream| poll.add(stream, number as u64));
            connected.map_err(|error| format!("connecting to {host}: {error}; is the server running?"))?;
            connections.push(connection);
        }
        let start = Instant::now();
        let measured = start + options.warmup..start + options.warmup + options.duration;
        let requests_per_s = options.rate.map(|rate| rate as f64 / options.events_per_request as f64);
        Ok(Generator {
            options,
            address,
            poll,
            idle: (0..connections.len()).collect(),
            paused: VecDeque::new(),
            connections,
            source: Source::new(options, start),
            pace: Pace::new(requests_per_s, start, measured.end),
            drain_until: measured.end + options.drain,
            totals: Totals::new(start, measured),
            space: vec![0; READ_BYTES],
            stop: stop_on_signals()?,
        })
    }

    /// Sends until the end, waits for the last answers, and says what happened.
    pub fn run(mut self) -> Result<Value, String> {
        let mut tokens = Vec::new();
        loop {
            let now = Moment::now();
            self.resume(now.instant);
            let next = if self.stop.load(Ordering::Relaxed) { None } else { self.send_due(&now) };
            if next.is_none() && (self.nothing_under_way() || now.instant >= self.drain_until) {
                break;
            }
            tokens.clear();
            self.poll.wait(self.time_to_wait(next), &mut tokens)?;
            for token in &tokens {
                self.progress(*token as usize);
            }
            if let Some(rest) = self.options.tick.checked_sub(now.instant.elapsed()).filter(|rest| !rest.is_zero()) {
                std::thread::sleep(rest);
            }
        }
        self.totals.unanswered += self.connections.iter_mut().map(Connection::close).sum::<u64>();
        Ok(self.totals.summary(self.options))
    }

    /// Sends what is due on free connections; returns when the next request is due, `None` after the end.
    fn send_due(&mut self, now: &Moment) -> Option<Instant> {
        while let Some(&number) = self.idle.front() {
            let connection = &mut self.connections[number];
            connection.begin();
            while connection.under_way() < self.options.pipeline
                && let Some(intended) = self.pace.take(now.instant)
            {
                connection.add(&mut self.source, now, intended);
            }
            if connection.under_way() == 0 {
                break;
            }
            self.idle.pop_front();
            if connection.send().is_err() {
                self.fail(number);
            }
        }
        self.totals.backlog_max = self.totals.backlog_max.max(self.pace.backlog(now.instant));
        self.pace.next(now.instant)
    }

    fn time_to_wait(&self, next: Option<Instant>) -> Duration {
        let next = next.filter(|_| !self.idle.is_empty());
        let resume = self.paused.front().map(|(until, _)| *until);
        let wake = next.into_iter().chain(resume).min();
        wake.map_or(MAX_WAIT, |wake| wake.saturating_duration_since(Instant::now()).min(MAX_WAIT))
    }

    /// Goes on with a connection that has news.
    fn progress(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        if !connection.is_open() {
            return;
        }
        let was_idle = connection.is_idle();
        let now = Instant::now();
        let mut refused = false;
        let totals = &mut self.totals;
        let received = connection.send().and_then(|()| {
            connection.receive(&mut self.space, |response, request| {
                refused |= matches!(response.status, 429 | 503);
                totals.answered(now, &response, &request);
            })
        });
        if received.is_err() {
            self.fail(number);
        } else if connection.is_idle() && !was_idle {
            if refused {
                self.paused.push_back((now + PAUSE, number));
            } else {
                self.idle.push_back(number);
            }
        }
    }

    /// Gives up a broken connection, to open it again after a while.
    fn fail(&mut self, number: usize) {
        self.totals.unanswered += self.connections[number].close();
        self.idle.retain(|idle| *idle != number);
        self.paused.retain(|(_, paused)| *paused != number);
        self.paused.push_back((Instant::now() + PAUSE, number));
    }

    fn resume(&mut self, now: Instant) {
        while let Some(&(until, number)) = self.paused.front()
            && until <= now
        {
            self.paused.pop_front();
            let connection = &mut self.connections[number];
            if !connection.is_open() {
                let connected = connection.connect(self.address).and_then(|stream| self.poll.add(stream, number as u64));
                if connected.is_err() {
                    self.fail(number);
                    continue;
                }
                self.totals.reconnects += 1;
            }
            self.idle.push_back(number);
        }
    }

    fn nothing_under_way(&self) -> bool {
        self.connections.iter().all(|connection| connection.under_way() == 0)
    }
}

/// `http://host:port/path` as host with port, and path.
fn split_url(url: &str) -> Result<(&str, &str), String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("--url must begin with http:// (got {url})"))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !host.contains(':') {
        return Err(format!("--url must name the port, as http://127.0.0.1:8080/ingest (got {url})"));
    }
    Ok((host, if path.is_empty() { "/" } else { path }))
}
