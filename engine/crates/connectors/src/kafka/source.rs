//! Reads the partitions of a topic, each from an offset of its own and each into a queue of its own.
//!
//! Positions are whoever reads them's: nothing is stored in a group, nothing is taken up from one.

use std::ffi::{CStr, CString, c_void};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{IsError, KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use streamjob_core::config::{Isolation, KafkaConnectionConfig};
use streamjob_core::{Error, Result};

use super::client::{Context, settings};
use super::errors::explain;
use super::topic::{create, isolation_level};
use crate::connection::Connection;

/// Messages that one call takes from a queue.
pub const MAX_MESSAGES: usize = 4096;
/// What one reader fetches ahead, kilobytes, over all its partitions: each has its part.
pub const PREFETCH_KB: usize = 32 << 10;
/// The part of a partition is at least this.
pub const MIN_PREFETCH_KB: usize = 256;
/// What is fetched ahead of a partition that is read again.
pub const REREAD_PREFETCH_KB: usize = 2 << 10;
/// Below so many messages of a partition at hand more are fetched.
const PREFETCH_MESSAGES: usize = 50_000;
/// After a fetch that failed, milliseconds.
const FETCH_ERROR_WAIT_MS: usize = 100;
/// A partition of which enough is at hand is looked at again after this long, milliseconds, and fetched if it is read by then.
const FETCH_AGAIN_MS: usize = 5;
/// How long a broker that has nothing new waits for something, milliseconds.
const FETCH_WAIT_MS: usize = 100;

/// A consumer of some partitions of one topic.
pub struct TopicReader {
    // Before the consumer: it is dropped first.
    words: Words,
    consumer: Arc<BaseConsumer<Context>>,
    topic: String,
    place: String,
    wake: SyncSender<()>,
    woken: Receiver<()>,
}

impl TopicReader {
    /// A reader that fetches about `prefetch_kb` of each partition ahead.
    pub fn new(
        place: &str,
        config: &KafkaConnectionConfig,
        topic: &str,
        group: &str,
        isolation: Isolation,
        prefetch_kb: usize,
        connection: Arc<Connection>,
    ) -> Result<TopicReader> {
        let mut client = settings(place, config)?;
        client.set("isolation.level", isolation_level(isolation));
        // The group is named for the sake of the library, which keeps nothing there.
        client.set("group.id", group);
        client.set("enable.auto.commit", "false");
        client.set("enable.auto.offset.store", "false");
        client.set("enable.partition.eof", "true");
        client.set("auto.offset.reset", "error");
        client.set("allow.auto.create.topics", "false");
        let mut default = |name: &str, value: String| {
            if !config.properties.contains_key(name) {
                client.set(name, value);
            }
        };
        default("queued.max.messages.kbytes", prefetch_kb.to_string());
        default("queued.min.messages", PREFETCH_MESSAGES.to_string());
        default("fetch.wait.max.ms", FETCH_WAIT_MS.to_string());
        default("fetch.error.backoff.ms", FETCH_ERROR_WAIT_MS.to_string());
        // Whoever has read what was at hand must not wait for the rest of a second (the default) until more is fetched.
        default("fetch.queue.backoff.ms", FETCH_AGAIN_MS.to_string());
        // Only by its debug lines the library says that a topic was made anew.
        client.set("debug", "topic");
        client.set_log_level(RDKafkaLogLevel::Debug);
        let (wake, woken) = sync_channel(1);
        let consumer = Arc::new(create(place, &client, connection)?);
        let words = Words::of(&consumer).ok_or_else(|| Error::engine(format!("{place}: the client has no queue")))?;
        Ok(TopicReader { words, consumer, topic: topic.to_owned(), place: place.to_owned(), wake, woken })
    }

    pub fn connection(&self) -> &Arc<Connection> {
        &self.consumer.client().context().connection
    }

    /// Reads these partitions from these offsets on, and no others. Gives their queues, in the same order.
    pub fn assign(&self, partitions: &[(i32, u64)]) -> Result<Vec<PartitionQueue>> {
        let list = self.list(partitions)?;
        let open = |(partition, _): &(i32, u64)| {
            let queue = PartitionQueue::open(self.consumer.clone(), &self.topic, *partition, self.wake.clone());
            queue.ok_or_else(|| Error::engine(format!("{}: partition {partition} has no queue", self.place)))
        };
        // Before the assignment: what is fetched must not land in the queue of all.
        let queues = partitions.iter().map(open).collect::<Result<Vec<_>>>()?;
        self.consumer.assign(&list).map_err(|error| explain(&self.place, &error, self.connection()))?;
        queues.iter().for_each(PartitionQueue::separate);
        Ok(queues)
    }

    /// Reads one more partition, from this offset on.
    pub fn add(&self, partition: i32, offset: u64) -> Result<PartitionQueue> {
        let queue = PartitionQueue::open(self.consumer.clone(), &self.topic, partition, self.wake.clone())
            .ok_or_else(|| Error::engine(format!("{}: partition {partition} has no queue", self.place)))?;
        let list = self.list(&[(partition, offset)])?;
        self.consumer.incremental_assign(&list).map_err(|error| explain(&self.place, &error, self.connection()))?;
        queue.separate();
        Ok(queue)
    }

    /// Reads a partition no more. What was fetched of it is never given any more.
    pub fn remove(&self, partition: i32) -> Result<()> {
        let list = self.list(&[(partition, 0)])?;
        self.consumer.incremental_unassign(&list).map_err(|error| explain(&self.place, &error, self.connection()))
    }

    /// Ends the client without waiting for it: what hangs may hang at its end as well.
    pub fn abandon(self) {
        std::thread::spawn(move || drop(self));
    }

    /// Gives nothing more of these partitions.
    pub fn pause(&self, partitions: &[i32]) -> Result<()> {
        let list = self.list(&partitions.iter().map(|partition| (*partition, 0)).collect::<Vec<_>>())?;
        self.consumer.pause(&list).map_err(|error| explain(&self.place, &error, self.connection()))
    }

    fn list(&self, partitions: &[(i32, u64)]) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in partitions {
            let added = list.add_partition_offset(&self.topic, *partition, offset_of(*offset));
            added.map_err(|error| explain(&self.place, &error, self.connection()))?;
        }
        Ok(list)
    }

    /// Waits until some queue has something, at most so long.
    pub fn wait(&self, limit: Duration) {
        let _ = self.woken.recv_timeout(limit);
    }

    /// Hears what the client has to say beside messages. Called behind each take: what was taken may be used only if the topic
    /// is still the one that it was, and the word that it is not comes before its first message does.
    ///
    /// # Errors
    /// Where it will never read again.
    pub fn serve(&self) -> Result<Served> {
        // A call hears one word and gives nothing for most of them: what counts is whether more wait.
        for _ in 0..MAX_SERVED {
            if self.words.is_empty() {
                break;
            }
            if let Some(Err(KafkaError::MessageConsumptionFatal(code))) = self.consumer.poll(Duration::ZERO) {
                let error = KafkaError::MessageConsumptionFatal(code);
                return Err(explain(&self.place, &error, self.connection()));
            }
        }
        Ok(Served { recreated: self.consumer.client().context().recreated.load(Ordering::Acquire) })
    }
}

/// What a client has said.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    /// The topic's name means another topic now.
    pub recreated: bool,
}

/// Words of a client that are heard at once; it says a few for each look at its brokers.
const MAX_SERVED: usize = 1 << 16;

/// What a client says beside messages: logs, errors.
struct Words {
    queue: NonNull<sys::rd_kafka_queue_t>,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for Words {}
unsafe impl Sync for Words {}

impl Words {
    fn of(consumer: &BaseConsumer<Context>) -> Option<Words> {
        // SAFETY: the client is alive; the queue is given back when this is dropped, which is before the client.
        let queue = unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        NonNull::new(queue).map(|queue| Words { queue })
    }

    fn is_empty(&self) -> bool {
        // SAFETY: the queue is alive.
        unsafe { sys::rd_kafka_queue_length(self.queue.as_ptr()) == 0 }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the reference is this one's.
        unsafe { sys::rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
}

fn offset_of(offset: u64) -> Offset {
    Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX))
}

/// What has been fetched of one partition.
pub struct PartitionQueue {
    partition: i32,
    queue: NonNull<sys::rd_kafka_queue_t>,
    /// What the library's callback is given; it lives as long as the queue.
    wake: Box<SyncSender<()>>,
    _consumer: Arc<BaseConsumer<Context>>,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for PartitionQueue {}

unsafe extern "C" fn wake(_client: *mut sys::rd_kafka_t, sender: *mut c_void) {
    // SAFETY: the pointer is the boxed sender of the queue, which outlives the callback.
    let sender = unsafe { &*sender.cast::<SyncSender<()>>() };
    // One word is enough, however many queues have something.
    let _ = sender.try_send(());
}

impl PartitionQueue {
    fn open(consumer: Arc<BaseConsumer<Context>>, topic: &str, partition: i32, sender: SyncSender<()>) -> Option<PartitionQueue> {
        let topic = CString::new(topic).ok()?;
        let mut sender = Box::new(sender);
        // SAFETY: the client lives as long as the queue, which keeps it; so does the sender that the callback is given.
        let queue = unsafe {
            let queue =
                NonNull::new(sys::rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition))?;
            sys::rd_kafka_queue_forward(queue.as_ptr(), std::ptr::null_mut());
            sys::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(wake), (&raw mut *sender).cast());
            queue
        };
        Some(PartitionQueue { partition, queue, wake: sender, _consumer: consumer })
    }

    /// An assignment sends all partitions to the queue of all: this one goes its own way again.
    fn separate(&self) {
        // SAFETY: the queue is alive.
        unsafe { sys::rd_kafka_queue_forward(self.queue.as_ptr(), std::ptr::null_mut()) }
    }

    /// Wakes the reader for what comes. A queue of the same partition that was dropped since has ended that.
    pub fn listen(&self) {
        let sender: *const SyncSender<()> = &*self.wake;
        // SAFETY: the queue is alive, and the sender outlives the callback: it is ended when this is dropped.
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), Some(wake), sender.cast_mut().cast()) }
    }

    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Whether something is at hand.
    pub fn has_some(&self) -> bool {
        // SAFETY: the queue is alive.
        unsafe { sys::rd_kafka_queue_length(self.queue.as_ptr()) > 0 }
    }

    /// Takes what is at hand, at most [`MAX_MESSAGES`]; `messages` is emptied first.
    pub fn take(&self, messages: &mut Messages) {
        messages.clear();
        messages.taken.reserve(MAX_MESSAGES);
        // SAFETY: the array has room for so many pointers, and as many as are counted were written.
        unsafe {
            let room = messages.taken.as_mut_ptr();
            let count = sys::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, room, MAX_MESSAGES);
            messages.taken.set_len(usize::try_from(count).unwrap_or(0));
        }
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is this one's; without the callback nobody uses the sender any more.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, std::ptr::null_mut());
            sys::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// What was taken from a queue, in order.
#[derive(Default)]
pub struct Messages {
    taken: Vec<*mut sys::rd_kafka_message_t>,
}

// SAFETY: messages belong to whoever took them and may be used from any thread.
unsafe impl Send for Messages {}

/// One entry of a queue.
#[derive(Debug)]
pub enum Event<'a> {
    Message(Message<'a>),
    /// Everything before the offset has come, and there is nothing more at the moment.
    End {
        offset: u64,
    },
    /// The partition can't be read; whether it goes on by itself depends on why.
    Failed {
        code: RDKafkaErrorCode,
        text: String,
    },
}

/// A message, as long as what was taken lives.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub partition: i32,
    pub offset: u64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// When the message was made, or came to the broker; `None` for those of very old brokers.
    pub timestamp_us: Option<i64>,
    pub headers: Headers<'a>,
}

/// The headers of a message, by default none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a>(Option<&'a sys::rd_kafka_message_t>);

impl<'a> Headers<'a> {
    /// The value of the last header with this name.
    pub fn last(self, name: &CStr) -> Option<&'a [u8]> {
        header(self.0?, name)
    }
}

impl<'a> Message<'a> {
    fn of(raw: &'a sys::rd_kafka_message_t) -> Message<'a> {
        Message {
            partition: raw.partition,
            offset: u64::try_from(raw.offset).unwrap_or(0),
            key: bytes_of(raw.key, raw.key_len),
            value: bytes_of(raw.payload, raw.len),
            timestamp_us: timestamp_us(raw),
            headers: Headers(Some(raw)),
        }
    }
}

/// What librdkafka has at a pointer; null is nothing, and a length of 0 an empty text.
fn bytes_of<'a>(at: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: librdkafka says how long key and value are; both live as long as the message, which bounds 'a where it is used.
    (!at.is_null()).then(|| unsafe { slice::from_raw_parts(at.cast::<u8>(), len) })
}

fn timestamp_us(raw: &sys::rd_kafka_message_t) -> Option<i64> {
    let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: the message is alive.
    let millis = unsafe { sys::rd_kafka_message_timestamp(raw, &mut kind) };
    (kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE).then(|| millis.saturating_mul(1000))
}

/// The last header with this name.
fn header<'a>(raw: &'a sys::rd_kafka_message_t, name: &CStr) -> Option<&'a [u8]> {
    let (mut headers, mut value, mut size) = (std::ptr::null_mut(), std::ptr::null(), 0);
    // SAFETY: the message is alive, and headers belong to it; librdkafka says how long the value is.
    unsafe {
        if sys::rd_kafka_message_headers(raw, &mut headers).is_error()
            || sys::rd_kafka_header_get_last(headers, name.as_ptr(), &mut value, &mut size).is_error()
        {
            return None;
        }
    }
    bytes_of(value, size)
}

impl Messages {
    /// Whether there are messages among what was taken.
    pub fn has_some(&self) -> bool {
        self.iter().any(|event| matches!(event, Event::Message(_)))
    }

    /// The trace that the first message belongs to.
    pub fn traceparent(&self) -> Option<&[u8]> {
        // SAFETY: as for `iter`.
        header(unsafe { &**self.taken.first()? }, c"traceparent")
    }

    pub fn iter(&self) -> impl Iterator<Item = Event<'_>> {
        // SAFETY: each pointer was given by librdkafka and is destroyed only by `clear`.
        self.taken.iter().map(|message| event_of(unsafe { &**message }))
    }

    /// Gives all of it back.
    pub fn clear(&mut self) {
        for message in self.taken.drain(..) {
            // SAFETY: each is destroyed once.
            unsafe { sys::rd_kafka_message_destroy(message) }
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.clear();
    }
}

fn event_of(raw: &sys::rd_kafka_message_t) -> Event<'_> {
    match raw.err {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Event::Message(Message::of(raw)),
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
            Event::End { offset: u64::try_from(raw.offset).unwrap_or(0) }
        }
        code => {
            // The value of an error is its text.
            let text = bytes_of(raw.payload, raw.len).map_or(String::new(), |text| String::from_utf8_lossy(text).into_owned());
            Event::Failed { code: code.into(), text }
        }
    }
}
