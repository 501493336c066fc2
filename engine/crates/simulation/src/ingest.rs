//! From a request to the journal, and back to its client.

use std::sync::Arc;

use streamjob_core::batch::RowBatch;
use streamjob_core::decode::Positions;
use streamjob_core::guards::{self, Guard};
use streamjob_core::idempotency::{Decision, answer_of};
use streamjob_core::journal::{RequestError, RequestRecord};
use streamjob_core::processor::Delivery;

use crate::clients::{Answer, Message};
use crate::events::{Event, NodeEvent};
use crate::node::Waiting;
use crate::rows::{Fate, MS};
use crate::world::{Done, Stop, World, broken, violation};

/// A request waits so long for a process that starts.
const MAX_GATE_US: i64 = 500 * MS;

impl World {
    /// A request comes in.
    pub fn arrive(&mut self, message: Message) -> Done {
        match self.node {
            Some(_) => self.at_gate(message, self.now_us),
            None => Ok(()),
        }
    }

    /// A request waits while the journals of earlier starts are read, and is refused where that takes long, or while a disk is full.
    pub fn at_gate(&mut self, message: Message, since_us: i64) -> Done {
        let waits_us = self.now_us - since_us;
        let node = self.node();
        if node.closing || node.is_disk_full() || (!node.is_open() && waits_us > MAX_GATE_US) {
            self.answer(&message, 503, "");
            return Ok(());
        }
        if !node.is_open() {
            self.report.at_gate += 1;
            self.node_after(20 * MS, NodeEvent::AtGate { message, since_us });
            return Ok(());
        }
        let request = &self.requests[message.request];
        let (id, body_hash, now_us) = (request.id.clone(), request.body_hash, self.clock_us());
        match id {
            None => self.decode(message, now_us),
            Some(id) => {
                let decision = self.node().ingest.requests.begin(&id, body_hash, now_us);
                self.decided(message, decision, now_us)
            }
        }
    }

    fn decided(&mut self, message: Message, decision: Decision, received_us: i64) -> Done {
        match decision {
            Decision::LookUp => {
                let wait_us = self.random.between(10, 30 * MS);
                self.node_after(wait_us, NodeEvent::LookUp { message, received_us });
            }
            Decision::New => return self.decode(message, received_us),
            Decision::RepeatOf(first) => self.answer(&message, first.status, &first.answer),
            Decision::Conflict => self.answer(&message, 422, ""),
            Decision::WaitFor => self.after(20 * MS, Event::Arrive(message)),
            Decision::Full => self.answer(&message, 429, ""),
        }
        Ok(())
    }

    /// The store of the request's home shard has been read.
    pub fn look_up(&mut self, message: Message, received_us: i64) -> Done {
        let request = &self.requests[message.request];
        let (id, body_hash) = (request.id.clone().unwrap_or_default(), request.body_hash);
        let stored = self.stored_request(&id)?;
        let decision = self.node().ingest.requests.resolve(&id, body_hash, stored);
        self.decided(message, decision, received_us)
    }

    fn decode(&mut self, message: Message, received_us: i64) -> Done {
        let request = &self.requests[message.request];
        let (body, array, id) = (request.body.clone(), request.array, request.id.clone());
        let decoder = &mut self.node().ingest.decoder;
        let batch = match array {
            true => decoder.decode_json(&body, received_us).map_err(|error| Stop::Violation(format!("decode: {error}")))?,
            false => decoder.decode_ndjson(&body, received_us, Positions::Ordinal),
        };
        self.compare_batch(&batch, &self.requests[message.request].fates)?;
        self.take(message, id, Arc::new(batch), received_us)
    }

    /// The decoder takes and rejects what the sender thinks.
    pub fn compare_batch(&self, batch: &RowBatch, fates: &[Fate]) -> Done {
        let rows = fates.iter().filter(|fate| **fate != Fate::Rejected).count();
        if (batch.rows(), batch.rejects.len()) != (rows, fates.len() - rows) {
            return violation(format!("decode: {} rows and {} rejects of {fates:?}", batch.rows(), batch.rejects.len()));
        }
        Ok(())
    }

    /// Gives a request its place in the journal, or refuses it before anything of it was taken.
    fn take(&mut self, message: Message, id: Option<String>, batch: Arc<RowBatch>, received_us: i64) -> Done {
        let record = RequestRecord {
            id: id.clone().unwrap_or_default(),
            body_hash: self.requests[message.request].body_hash,
            received_us,
            accepted: batch.rows() as u32,
            rejected: batch.rejects.len() as u32,
            errors: errors(&batch),
        };
        let node = self.node();
        let has_room = node.has_room();
        let ingest = &mut node.ingest;
        let mut frame = ingest
            .encoder
            .encode(&batch, id.is_some().then_some(&record))
            .map_err(|error| Stop::Violation(format!("I4: {error}")))?;
        let refusal = if !has_room { Some(429) } else { ingest.journal.reserve(frame.len()).is_err().then_some(503) };
        if let Some(status) = refusal {
            if let Some(id) = &id {
                ingest.requests.failed(id);
            }
            self.answer(&message, status, "");
            return Ok(());
        }
        let first_offset = ingest.router.next_offset();
        ingest.frames.extend_from_slice(frame.seal(first_offset));
        let commit = answer_of(&record, &ingest.id, first_offset);
        let answer = Answer { status: commit.status, body: commit.answer.clone() };
        let request = id.is_some().then(|| Arc::new(commit));
        let deliveries = ingest.router.route(&batch, request.as_ref());
        let end = ingest.router.next_offset();
        ingest.idle = false;
        let split = ingest.id.clone();
        let number = message.request;
        ingest.answers.push(end, Waiting { message, answer, request });
        self.note(|| format!("request {number} is [{first_offset}, {end}) of {split}"));
        self.truth.append(&split, number, first_offset, &self.requests[number].fates).map_err(broken("I4"))?;
        let now_us = self.now_us;
        self.node().ingest.last_arrival_us = now_us;
        self.dispatch(deliveries);
        self.schedule_append();
        self.give_answers();
        Ok(())
    }

    fn schedule_append(&mut self) {
        let scheduled = std::mem::replace(&mut self.node().ingest.append_scheduled, true);
        if !scheduled {
            let wait_us = self.random.between(100, 5 * MS);
            self.node_after(wait_us, NodeEvent::Append);
        }
    }

    fn schedule_sync(&mut self) {
        let scheduled = std::mem::replace(&mut self.node().ingest.sync_scheduled, true);
        if !scheduled {
            let wait_us = if self.setup.slow_journal { self.random.between(100 * MS, 700 * MS) } else { self.disk_us() };
            self.node_after(wait_us, NodeEvent::Sync);
        }
    }

    /// Sends deliveries on their way: they may overtake each other, and in bad times one may be lost.
    pub fn dispatch(&mut self, deliveries: Vec<(usize, Delivery)>) {
        for (worker, delivery) in deliveries {
            if self.is_faulty() && self.random.once_in(150) {
                self.report.lost_deliveries += 1;
                self.note(|| {
                    format!(
                        "the delivery [{}, {}) of split {} for worker {worker} is lost",
                        delivery.covers_from,
                        delivery.to(),
                        delivery.split
                    )
                });
                continue;
            }
            self.node().outstanding += 1;
            let wait_us = if self.random.once_in(5) { self.random.between(MS, 150 * MS) } else { self.random.between(10, MS) };
            self.node_after(wait_us, NodeEvent::Deliver { worker, delivery });
        }
    }

    /// What came since the last time goes to the journal.
    pub fn append(&mut self) -> Done {
        let ingest = &mut self.node().ingest;
        ingest.append_scheduled = false;
        let frames = std::mem::take(&mut ingest.frames);
        let end = ingest.router.next_offset();
        if let Err(error) = ingest.journal.append(&frames, end) {
            return Err(self.failed("I4", &error));
        }
        let told = self.node().ingest.router.tell();
        self.dispatch(told);
        self.schedule_sync();
        Ok(())
    }

    /// Everything appended becomes durable, and answers may be given.
    pub fn sync(&mut self) -> Done {
        let ingest = &mut self.node().ingest;
        ingest.sync_scheduled = false;
        match ingest.journal.sync() {
            Ok(durable) => self.note(|| format!("the journal is durable up to {durable}")),
            Err(error) if guards::off(Guard::EndAfterFailure) => {
                self.note(|| format!("a sync failed, and is tried again: {error}"));
                self.storage.fail_syncs_after(None);
                self.schedule_sync();
            }
            Err(error) => return Err(self.failed("I4", &error)),
        }
        // A full disk is met by the next request that needs room.
        let _ = self.node().ingest.journal.prepare_ahead();
        self.give_answers();
        Ok(())
    }

    fn give_answers(&mut self) {
        let ingest = &mut self.node().ingest;
        let ready: Vec<Waiting> = ingest.answers.take(ingest.journal.durable_offset()).collect();
        for Waiting { message, answer, request } in ready {
            if let Some(request) = request {
                self.node().ingest.requests.answered(request);
            }
            self.answer(&message, answer.status, &answer.body);
        }
    }

    fn answer(&mut self, message: &Message, status: u16, body: &str) {
        let wait_us = self.random.between(100, 20 * MS);
        let answer = Answer { status, body: body.to_owned() };
        self.after(wait_us, Event::Answer { client: message.client, attempt: message.attempt, answer });
    }
}

fn errors(batch: &RowBatch) -> Vec<RequestError> {
    let error = |reject: &streamjob_core::batch::Reject| RequestError {
        row: reject.row,
        field: reject.field.clone(),
        reason: reject.reason.clone(),
    };
    batch.rejects.iter().map(error).collect()
}
