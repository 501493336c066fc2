//! Rows into a topic as soon as they come. What the broker has not confirmed at a commit is in the outbox.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer};
use streamjob_core::Result;
use streamjob_core::transactions::{Done, RefusedRow};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::client::Context;
use super::errors::{reason_of_refusal, refusal_of_rows};
use super::produce::{ANSWER_LOOK, texts_of};
use super::search::Parts;
use super::sink::KafkaSink;
use crate::deliveries::{Delivery, DeliveryReport};
use crate::transacting::MAX_HELD_BATCHES;

/// A batch whose rows the broker does not have yet.
struct UnderWay {
    delivery: Delivery,
    /// Rows that the broker never will have.
    refused: Vec<RefusedRow>,
    /// Rows without an answer.
    left: u32,
    failed: bool,
    /// Rows were refused: it may be for these, or for others that came to the broker with them.
    to_search: bool,
}

pub(super) fn run(
    sink: &KafkaSink,
    batches: &mut mpsc::Receiver<Delivery>,
    report: &mut impl FnMut(DeliveryReport),
    stop: &CancellationToken,
) -> Result<()> {
    let mut waiting: Vec<Delivery> = Vec::new();
    let mut failures = 0;
    while !stop.is_cancelled() {
        let producer = sink.create_producer()?;
        let mut under_way: HashMap<u64, UnderWay> = HashMap::new();
        let error = send(sink, &producer, batches, &mut waiting, &mut under_way, report, stop);
        // In their order, as far as they have no answer.
        let mut again: Vec<(u64, UnderWay)> = under_way.into_iter().collect();
        again.sort_unstable_by_key(|(number, _)| *number);
        waiting = again.into_iter().map(|(_, batch)| batch.delivery).chain(waiting).collect();
        // Those of a shard in their order, whichever has failed first.
        waiting.sort_by_key(|delivery| delivery.last_seq);
        let Err(error) = error else { return Ok(()) };
        // The stop has ended it.
        if stop.is_cancelled() && error.retryable() {
            return Ok(());
        }
        failures += 1;
        sink.wait_after(&error, failures, stop)?;
    }
    Ok(())
}

/// Sends until the process stops or the producer is of no use any more.
fn send(
    sink: &KafkaSink,
    producer: &BaseProducer<Context>,
    batches: &mut mpsc::Receiver<Delivery>,
    waiting: &mut Vec<Delivery>,
    under_way: &mut HashMap<u64, UnderWay>,
    report: &mut impl FnMut(DeliveryReport),
    stop: &CancellationToken,
) -> Result<()> {
    let (mut next, mut failures): (u64, u32) = (1, 0);
    loop {
        let room = MAX_HELD_BATCHES.saturating_sub(under_way.len() + waiting.len());
        let idle = under_way.is_empty() && waiting.is_empty();
        let Some(received) = sink.receive(batches, idle, room, stop) else { return Ok(()) };
        waiting.extend(received);
        while !waiting.is_empty() {
            let refused = sink.too_large(&waiting[0])?;
            let delivery = waiting.remove(0);
            let (number, left) = (next, delivery.batch.rows.saturating_sub(refused.len() as u32));
            if left == 0 {
                report(DeliveryReport::of(Done { batch: delivery, refused }));
                continue;
            }
            next += 1;
            let produced = sink.produce(producer, &delivery, refused.iter(), number, stop);
            under_way.insert(number, UnderWay { delivery, refused, left, failed: false, to_search: false });
            if let Err(error) = produced {
                return Err(sink.explain("producing", &error));
            }
        }
        producer.poll(if under_way.is_empty() { Duration::ZERO } else { ANSWER_LOOK });
        let mut answers = take_answers(sink, producer, under_way, waiting, report);
        search_all(sink, &mut answers, waiting, report, stop);
        if let Some((code, text)) = producer.client().fatal_error() {
            return Err(streamjob_core::Error::outside(format!("the producer can't go on: {code}: {text}")));
        }
        failures = if answers.confirmed > 0 { 0 } else { failures };
        if let Some(error) = answers.failure {
            failures += 1;
            sink.wait_after(&error, failures, stop)?;
        }
    }
}

/// What has come of batches.
#[derive(Default)]
struct Answers {
    confirmed: usize,
    /// Why some have failed, which are tried again after a wait.
    failure: Option<streamjob_core::Error>,
    /// Batches with rows that may never be taken.
    to_search: Vec<UnderWay>,
}

/// Confirms batches whose rows the broker has; those that it has not taken come again.
fn take_answers(
    sink: &KafkaSink,
    producer: &BaseProducer<Context>,
    under_way: &mut HashMap<u64, UnderWay>,
    waiting: &mut Vec<Delivery>,
    report: &mut impl FnMut(DeliveryReport),
) -> Answers {
    let mut answers = Answers::default();
    for (number, failed) in producer.context().take_delivered() {
        let Some(batch) = under_way.get_mut(&number) else { continue };
        batch.left = batch.left.saturating_sub(1);
        batch.failed |= failed.is_some();
        batch.to_search |= failed.is_some_and(|code| refusal_of_rows(&KafkaError::MessageProduction(code)).is_some());
        if batch.left > 0 {
            continue;
        }
        let Some(batch) = under_way.remove(&number) else { continue };
        if batch.to_search {
            // What was said of it is found again for its rows alone.
            producer.context().take_undelivered();
            answers.to_search.push(batch);
        } else if batch.failed {
            let why = producer.context().take_undelivered();
            let why = sink.note_failure(why.as_ref());
            // The first has the reason; it is given once.
            answers.failure.get_or_insert(why);
            waiting.push(batch.delivery);
        } else {
            answers.confirmed += 1;
            sink.note_answer();
            report(DeliveryReport::of(Done { batch: batch.delivery, refused: batch.refused }));
        }
    }
    answers
}

/// Sends batches in parts, of which rows were refused. One that comes to nothing is tried again with the others that have failed.
fn search_all(
    sink: &KafkaSink,
    answers: &mut Answers,
    waiting: &mut Vec<Delivery>,
    report: &mut impl FnMut(DeliveryReport),
    stop: &CancellationToken,
) {
    for batch in std::mem::take(&mut answers.to_search) {
        match search(sink, &batch, stop) {
            Ok(refused) => {
                answers.confirmed += 1;
                sink.note_answer();
                report(DeliveryReport::of(Done { batch: batch.delivery, refused }));
            }
            Err(error) => {
                answers.failure.get_or_insert(error);
                waiting.push(batch.delivery);
            }
        }
    }
}

/// Sends a batch in parts. Gives the rows that the topic never takes; it has the others, perhaps more than once.
fn search(sink: &KafkaSink, batch: &UnderWay, stop: &CancellationToken) -> Result<Vec<RefusedRow>> {
    // A producer of its own: answers about other batches must not be taken for those about a part.
    let producer = sink.create_producer()?;
    let failed = |error: KafkaError| sink.note_failure(Some(&error));
    let texts = texts_of(&batch.delivery).map_err(failed)?;
    let mut parts = Parts::new(batch.delivery.last_seq, texts.len(), batch.refused.clone());
    loop {
        match sink.try_part(&producer, &batch.delivery, &texts, &mut parts, stop) {
            Ok(true) => {}
            Ok(false) => return Ok(parts.given_up().to_vec()),
            Err(error) => match reason_of_refusal(&error) {
                Some(reason) => parts.refused(reason),
                None => return Err(failed(error)),
            },
        }
    }
}
