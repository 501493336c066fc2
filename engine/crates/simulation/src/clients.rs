//! Clients that push rows: they wait, lose patience, repeat themselves, and remember what they were promised.

use std::sync::Arc;

use streamjob_core::batch::hash_key;

use crate::events::Event;
use crate::job::Setup;
use crate::random::Random;
use crate::rows::{Fate, MS, RowMaker, SECOND};
use crate::world::{Done, World, violation};

/// A client waits so long for an answer.
const PATIENCE_US: i64 = 1_500 * MS;
/// A request is repeated only while it is certain that the engine remembers it.
const MARGIN_US: i64 = 2 * SECOND;

/// What the engine said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// A request on its way.
#[derive(Debug, Clone)]
pub struct Message {
    pub client: usize,
    pub attempt: u64,
    pub request: usize,
}

/// What a client means to send.
#[derive(Debug)]
pub struct Request {
    /// Its `Idempotency-Key`.
    pub id: Option<String>,
    pub body: Arc<[u8]>,
    pub body_hash: u64,
    /// A JSON array; else one object a line.
    pub array: bool,
    pub fates: Vec<Fate>,
    pub first_sent_us: i64,
    pub answered_us: i64,
    /// The least that the engine's clock has said since: its record may have that time.
    pub lowest_clock_us: i64,
    /// The first answer that promised something.
    pub answer: Option<Answer>,
    /// Whether an attempt may have been taken without an answer.
    pub uncertain: bool,
    /// Another request has its id, which the engine must notice.
    pub conflicts: bool,
}

pub struct Client {
    number: usize,
    maker: RowMaker,
    left: u32,
    attempt: u64,
    /// The request whose answer it waits for.
    waiting: Option<usize>,
    /// A request that was refused for now.
    retry: Option<usize>,
}

impl Client {
    pub fn new(number: usize, setup: &Setup) -> Client {
        let maker = RowMaker::new(format!("c{number}"), setup.keys);
        Client { number, maker, left: setup.requests_a_client, attempt: 0, waiting: None, retry: None }
    }

    pub fn is_done(&self) -> bool {
        self.left == 0 && self.waiting.is_none() && self.retry.is_none()
    }

    fn make(&mut self, random: &mut Random, now_us: i64, id: Option<String>) -> Request {
        let count = if random.once_in(10) { random.between(10, 40) } else { random.between(1, 6) };
        let (texts, fates): (Vec<String>, Vec<Fate>) = (0..count).map(|_| self.maker.make(random, now_us)).unzip();
        let array = random.percent(30);
        let body = if array { format!("[{}]", texts.join(",")) } else { texts.join("\n") };
        Request {
            id,
            body_hash: hash_key(body.as_bytes()),
            body: body.into_bytes().into(),
            array,
            fates,
            first_sent_us: now_us,
            answered_us: now_us,
            lowest_clock_us: i64::MAX,
            answer: None,
            uncertain: false,
            conflicts: false,
        }
    }
}

impl World {
    pub fn retention_us(&self) -> i64 {
        self.setup.plan.config.idempotency.retention_us
    }

    /// The client sends something: mostly new, sometimes what it sent before.
    pub fn client_acts(&mut self, client: usize) {
        if self.clients[client].waiting.is_some() {
            return;
        }
        if let Some(request) = self.clients[client].retry.take() {
            return match self.may_repeat(request) {
                true => self.client_sends(client, request),
                false => self.client_gives_up(client, request),
            };
        }
        if self.clients[client].left == 0 {
            return;
        }
        if !self.is_faulty() {
            // Time is over; what was promised is checked.
            self.clients[client].left = 0;
            return;
        }
        self.clients[client].left -= 1;
        let request = match self.random.below(10) {
            0 | 1 => self.earlier(client, true),
            2 => self.earlier(client, true).map(|first| self.conflicting(client, first)),
            3 if !self.setup.moves_clock => self.earlier(client, false).map(|first| self.again(client, first)),
            _ => None,
        };
        let request = request.unwrap_or_else(|| self.fresh(client));
        self.client_sends(client, request);
    }

    /// Whether the engine still knows the request's id, if it has one.
    fn may_repeat(&self, request: usize) -> bool {
        let request = &self.requests[request];
        request.id.is_none() || self.latest_clock_us() - request.lowest_clock_us < self.retention_us() - MARGIN_US
    }

    fn client_gives_up(&mut self, client: usize, request: usize) {
        self.note(|| format!("client {client} gives request {request} up"));
        self.after(MS, Event::Client(client));
    }

    /// A named request that was answered: one that the engine must still know, or one that it has forgotten.
    fn earlier(&mut self, client: usize, remembered: bool) -> Option<usize> {
        let prefix = format!("id-{client}-");
        let fits = |place: usize| {
            let request = &self.requests[place];
            let mine = request.id.as_ref().is_some_and(|id| id.starts_with(&prefix)) && !request.conflicts;
            let newer = |other: &Request| other.id == request.id && other.first_sent_us > request.first_sent_us;
            let newest = !self.requests.iter().any(newer);
            let forgotten = self.now_us - request.answered_us > self.retention_us() + MARGIN_US;
            let right_age = if remembered { self.may_repeat(place) } else { forgotten };
            mine && request.answer.is_some() && right_age && newest
        };
        let known: Vec<usize> = (0..self.requests.len()).filter(|place| fits(*place)).collect();
        (!known.is_empty()).then(|| *self.random.pick(&known))
    }

    fn fresh(&mut self, client: usize) -> usize {
        let id = self.random.percent(60).then(|| format!("id-{client}-{}", self.requests.len()));
        self.add_request(client, id)
    }

    fn add_request(&mut self, client: usize, id: Option<String>) -> usize {
        let mut request = self.clients[client].make(&mut self.random, self.now_us, id);
        request.lowest_clock_us = self.clock_us();
        self.requests.push(request);
        self.requests.len() - 1
    }

    /// Another body under the id of an earlier request.
    fn conflicting(&mut self, client: usize, first: usize) -> usize {
        let id = self.requests[first].id.clone();
        let request = self.add_request(client, id);
        self.requests[request].conflicts = true;
        self.requests[request].first_sent_us = self.requests[first].first_sent_us;
        self.requests[request].lowest_clock_us = self.requests[first].lowest_clock_us;
        request
    }

    /// An id that is free again.
    fn again(&mut self, client: usize, first: usize) -> usize {
        let id = self.requests[first].id.clone();
        self.add_request(client, id)
    }

    fn client_sends(&mut self, client: usize, request: usize) {
        let sender = &mut self.clients[client];
        sender.attempt += 1;
        sender.waiting = Some(request);
        let message = Message { client: sender.number, attempt: sender.attempt, request };
        let attempt = sender.attempt;
        self.note(|| format!("client {client} sends request {request}"));
        let wait_us = self.random.between(100, 30 * MS);
        if self.requests[request].id.is_some() && self.random.once_in(8) {
            // The network brings it twice.
            let again_us = self.random.between(100, 200 * MS);
            self.after(again_us, Event::Arrive(message.clone()));
        }
        self.after(wait_us, Event::Arrive(message));
        self.after(PATIENCE_US, Event::Timeout { client, attempt });
    }

    pub fn client_times_out(&mut self, client: usize, attempt: u64) {
        let Some(request) = self.clients[client].waiting.filter(|_| self.clients[client].attempt == attempt) else { return };
        self.requests[request].uncertain = true;
        self.clients[client].waiting = None;
        match self.requests[request].id.is_some() && self.may_repeat(request) {
            true => self.client_sends(client, request),
            false => self.client_gives_up(client, request),
        }
    }

    pub fn client_hears(&mut self, client: usize, attempt: u64, answer: Answer) -> Done {
        let Some(request) = self.clients[client].waiting.filter(|_| self.clients[client].attempt == attempt) else {
            return Ok(());
        };
        self.note(|| format!("client {client} hears {} for request {request}", answer.status));
        self.clients[client].waiting = None;
        let wait_us = self.random.between(MS, 800 * MS);
        self.after(wait_us, Event::Client(client));
        let now_us = self.now_us;
        let known = &mut self.requests[request];
        match (answer.status, known.conflicts) {
            (429 | 503, _) => {
                self.report.refused_requests += 1;
                self.clients[client].retry = Some(request);
            }
            (422, true) => {}
            (202 | 400, true) => return violation(format!("I10: request {request} has the id of another and is taken")),
            (202 | 400, false) => match &known.answer {
                Some(first) if *first != answer => {
                    return violation(format!("I10: request {request} was answered {first:?} and then {answer:?}"));
                }
                Some(_) => self.report.repeats += 1,
                None => {
                    known.answer = Some(answer);
                    known.answered_us = now_us;
                }
            },
            (other, _) => return violation(format!("request {request} was answered {other}")),
        }
        Ok(())
    }
}
