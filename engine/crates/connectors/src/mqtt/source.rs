//! A session with a broker that outlives connections: the broker keeps what is not acknowledged.
//!
//! Each connection has a client of its own. An acknowledgement that one leaves behind is dropped with it: on the next one its
//! packet number may be another message's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, NetworkOptions, Packet, Publish, QoS, SubAck,
    SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use streamjob_core::config::{MqttSourceConfig, Retained, TopicLevelConfig};
use streamjob_core::decode::Metadata;
use streamjob_core::{Error, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::connection::Connection;
use crate::http_client::explain_chain;
use crate::secret::Secret;
use crate::tls::{client_config, hint_of};

/// Connecting, signing in and subscribing may take so long.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages that have come and are not taken; where there are more, the connection is not read.
pub const MAX_WAITING: usize = 1024;
/// Their bytes, with their topics; a message that is longer waits alone. On top comes what the client has read at once: ten
/// packets at most.
pub const MAX_WAITING_BYTES: usize = 64 << 20;
/// Acknowledgements on their way. A connection has no more packet numbers, so that none ever waits for room.
pub const MAX_ACKNOWLEDGEMENTS: usize = 1 << 16;
/// The largest packet: as much as MQTT has. A larger message than a row may be is refused as a row, for the broker would send it
/// again and again where the connection ended with it.
pub const MAX_PACKET_BYTES: usize = 256 << 20;
/// What may be on its way to the broker.
const MAX_SENT_BYTES: usize = 16 << 20;
/// The last acknowledgements have this long to leave.
const LAST_ACKNOWLEDGEMENTS: Duration = Duration::from_secs(1);

/// A broker, and what is wanted of it.
pub struct MqttSource {
    subscriptions: Arc<Subscriptions>,
    config: MqttSourceConfig,
    options: MqttOptions,
    connection: Arc<Connection>,
}

/// A message of the broker.
#[derive(Debug, Clone)]
pub struct MqttMessage(Publish);

impl MqttMessage {
    pub fn payload(&self) -> &Bytes {
        &self.0.payload
    }
}

/// One connection, with its subscriptions.
pub struct MqttSession {
    client: AsyncClient,
    messages: mpsc::Receiver<Waiting>,
    /// Why the connection has ended.
    ended: Arc<Mutex<Option<Error>>>,
    task: JoinHandle<()>,
    /// It came, and had no room in what was taken.
    held: Option<MqttMessage>,
    retained: Retained,
    levels: Vec<TopicLevelConfig>,
}

/// What is subscribed to.
struct Subscriptions {
    /// Where the job says so.
    place: String,
    topics: Vec<String>,
}

/// A connection on which the subscriptions are asked for.
struct Subscribed {
    client: AsyncClient,
    eventloop: EventLoop,
    early: Early,
    /// Whether the broker has granted them. Else so many messages of the session came that its answer must wait behind them.
    is_granted: bool,
}

/// Messages that came before the broker's answer to the subscriptions.
#[derive(Debug, Default)]
struct Early {
    publishes: Vec<Publish>,
    /// Of these, with their topics.
    bytes: usize,
}

impl Early {
    fn put(&mut self, publish: Publish) {
        self.bytes += size_of(&publish);
        self.publishes.push(publish);
    }

    /// Whether as many are here as may wait.
    fn is_full(&self) -> bool {
        self.publishes.len() >= MAX_WAITING || self.bytes >= MAX_WAITING_BYTES
    }
}

/// What a message counts where messages wait, in bytes.
fn size_of(publish: &Publish) -> usize {
    publish.topic.len() + publish.payload.len()
}

/// A message that waits to be taken, and holds its room until then.
struct Waiting {
    publish: Publish,
    _room: OwnedSemaphorePermit,
}

/// Where messages come in that wait to be taken, [`MAX_WAITING`] of [`MAX_WAITING_BYTES`] at most.
struct Inlet {
    messages: mpsc::Sender<Waiting>,
    /// Bytes.
    room: Arc<Semaphore>,
}

impl Inlet {
    fn new() -> (Inlet, mpsc::Receiver<Waiting>) {
        let (messages, taken) = mpsc::channel(MAX_WAITING);
        (Inlet { messages, room: Arc::new(Semaphore::new(MAX_WAITING_BYTES)) }, taken)
    }

    /// Waits for room. False where nobody wants messages any more.
    async fn put(&self, publish: Publish) -> bool {
        // One that is longer than all room has all of it. Each message that is taken gives its room back: this waits for whoever
        // takes them, and for nothing else.
        let bytes = size_of(&publish).min(MAX_WAITING_BYTES) as u32;
        let room = self.room.clone().acquire_many_owned(bytes).await.expect("it is never closed");
        self.messages.send(Waiting { publish, _room: room }).await.is_ok()
    }
}

impl Subscriptions {
    /// Whether the broker gives what is asked for, as it must.
    fn check(&self, answer: &SubAck) -> Result<()> {
        std::iter::zip(&self.topics, &answer.return_codes).try_for_each(|(topic, code)| self.check_granted(topic, *code))
    }

    fn check_granted(&self, topic: &str, code: SubscribeReasonCode) -> Result<()> {
        match code {
            SubscribeReasonCode::Success(QoS::AtMostOnce) => Err(Error::user(format!(
                "{}.topics: the broker grants only QoS 0 for {topic}, with which messages can be lost; let it grant QoS 1",
                self.place
            ))),
            SubscribeReasonCode::Success(_) => Ok(()),
            SubscribeReasonCode::Failure => Err(Error::user(format!(
                "{}.topics: the broker refuses a subscription to {topic}; let the user read it, or correct it",
                self.place
            ))),
        }
    }
}

impl MqttSource {
    /// Checks the settings and reads the secrets; connects to nothing.
    pub fn new(place: &str, config: &MqttSourceConfig, connection: Arc<Connection>) -> Result<MqttSource> {
        let to = &config.connection;
        let mut options = MqttOptions::new(&to.client_id, &to.host, to.port);
        options
            .set_keep_alive(Duration::from_micros(to.keep_alive_us.max(0) as u64))
            .set_max_packet_size(MAX_PACKET_BYTES, MAX_SENT_BYTES)
            .set_clean_session(false)
            .set_manual_acks(true);
        if let Some(auth) = &to.auth {
            let password = Secret::read(&auth.password, &format!("{place}.password"))?;
            options.set_credentials(&auth.username, password.expose());
        }
        if let Some(tls) = &to.tls {
            let tls = TlsConfiguration::Rustls(Arc::new(client_config(place, tls)?));
            options.set_transport(Transport::tls_with_config(tls));
        }
        let subscriptions = Arc::new(Subscriptions { place: place.to_owned(), topics: config.topics.clone() });
        Ok(MqttSource { subscriptions, config: config.clone(), options, connection })
    }

    /// Connects as somebody else, whose session ends with the connection, and says what the broker takes.
    ///
    /// # Errors
    /// With what is wrong, and what to do about it.
    pub async fn describe(mut self) -> Result<String> {
        let id = format!("{}-check-{}", self.options.client_id(), std::process::id());
        self.options.set_client_id(id);
        self.options.set_clean_session(true);
        let (session, is_granted) = self.connect().await?;
        session.close().await;
        if !is_granted {
            return Err(Error::outside(format!(
                "the broker at {} sends {MAX_WAITING} messages, or {MAX_WAITING_BYTES} bytes, and does not say before whether \
                 it takes the subscriptions; try again",
                self.server()
            )));
        }
        Ok(format!("the broker at {} takes subscriptions to {}", self.server(), self.config.topics.join(", ")))
    }

    fn server(&self) -> String {
        format!("{}:{}", self.config.connection.host, self.config.connection.port)
    }

    /// Connects and subscribes. What the session has kept comes first; where that is more than may wait, a subscription that
    /// the broker refuses ends the session behind it.
    ///
    /// # Errors
    /// `user` where a person must act, `outside` where another try may help.
    pub async fn open(&self) -> Result<MqttSession> {
        Ok(self.connect().await?.0)
    }

    /// A session, and whether the broker has granted the subscriptions by now.
    async fn connect(&self) -> Result<(MqttSession, bool)> {
        let doing = format!("connecting to {}", self.server());
        let subscribed = tokio::time::timeout(CONNECT_TIMEOUT, self.subscribe(&doing)).await;
        let Subscribed { client, eventloop, early, is_granted } =
            subscribed.map_err(|_| Error::outside(format!("{doing}: no answer within {CONNECT_TIMEOUT:?}")))??;
        self.connection.answered();
        let (inlet, messages) = Inlet::new();
        let ended = Arc::new(Mutex::new(None));
        let (reason, connection, subscriptions) = (ended.clone(), self.connection.clone(), self.subscriptions.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = serve(eventloop, early, &inlet, &subscriptions, &connection).await {
                *reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        });
        let (retained, levels) = (self.config.retained, self.config.levels.clone());
        Ok((MqttSession { client, messages, ended, task, held: None, retained, levels }, is_granted))
    }

    async fn subscribe(&self, doing: &str) -> Result<Subscribed> {
        let (client, mut eventloop) = AsyncClient::new(self.options.clone(), MAX_ACKNOWLEDGEMENTS);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
        eventloop.set_network_options(network);
        let mut early = Early::default();
        // The broker answers behind what it has sent before, and sends it whether there is room or not: so nothing more is read
        // until somebody has taken some. To give the connection up would bring the same messages again.
        while !early.is_full() {
            match eventloop.poll().await.map_err(|error| explain(doing, &error, &self.connection))? {
                Event::Incoming(Packet::ConnAck(_)) => {
                    let Subscriptions { place, topics } = &*self.subscriptions;
                    let filters = topics.iter().map(|topic| SubscribeFilter::new(topic.clone(), QoS::AtLeastOnce));
                    let asked = client.try_subscribe_many(filters);
                    asked.map_err(|error| Error::user(format!("{place}.topics: {error}; correct the topics")))?;
                }
                Event::Incoming(Packet::Publish(publish)) => early.put(publish),
                Event::Incoming(Packet::SubAck(answer)) => {
                    self.subscriptions.check(&answer)?;
                    return Ok(Subscribed { client, eventloop, early, is_granted: true });
                }
                _ => {}
            }
        }
        Ok(Subscribed { client, eventloop, early, is_granted: false })
    }
}

/// Reads the connection until it ends, or nobody wants its messages any more.
async fn serve(
    mut eventloop: EventLoop,
    early: Early,
    inlet: &Inlet,
    subscriptions: &Subscriptions,
    connection: &Connection,
) -> Result<()> {
    for publish in early.publishes {
        if !inlet.put(publish).await {
            return Ok(());
        }
    }
    loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                // Also where nobody takes them any more, what was acknowledged has to leave.
                inlet.put(publish).await;
            }
            Ok(Event::Incoming(Packet::SubAck(answer))) => subscriptions.check(&answer)?,
            Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(explain("the connection was lost", &error, connection)),
        }
    }
}

impl MqttSession {
    /// The messages that have come, some at least, at most `max` of `max_bytes` together but for the first.
    ///
    /// # Errors
    /// Where the connection has ended.
    pub async fn next(&mut self, max: usize, max_bytes: usize) -> Result<Vec<MqttMessage>> {
        let mut taken: Vec<MqttMessage> = self.held.take().into_iter().collect();
        while taken.is_empty() {
            let Some(first) = self.messages.recv().await else { return Err(self.reason()) };
            taken.extend(self.read(first.publish));
        }
        let mut bytes = 0;
        while taken.len() < max
            && let Ok(waiting) = self.messages.try_recv()
        {
            let Some(message) = self.read(waiting.publish) else { continue };
            bytes += message.payload().len();
            if bytes > max_bytes {
                self.held = Some(message);
                break;
            }
            taken.push(message);
        }
        Ok(taken)
    }

    /// The message, unless the job skips it.
    fn read(&self, publish: Publish) -> Option<MqttMessage> {
        if publish.retain && self.retained == Retained::Skip {
            let _ = self.client.try_ack(&publish);
            return None;
        }
        Some(MqttMessage(publish))
    }

    /// The levels of a message's topic that the job asks for, in its order.
    pub fn levels<'m>(&self, message: &'m MqttMessage) -> impl Iterator<Item = Metadata<'m>> {
        let topic = &message.0.topic;
        let level = |config: &TopicLevelConfig| topic.split('/').nth(usize::from(config.level).saturating_sub(1));
        self.levels.iter().map(move |config| level(config).map_or(Metadata::Absent, |text| Metadata::Text(text.as_bytes())))
    }

    fn reason(&self) -> Error {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ended.unwrap_or_else(|| Error::outside("the connection has ended"))
    }

    /// Tells the broker that it may forget messages. Where the connection has ended meanwhile, they come again.
    pub fn acknowledge(&self, messages: &[MqttMessage]) {
        for message in messages {
            let _ = self.client.try_ack(&message.0);
        }
    }

    /// Ends the connection once what was acknowledged is out; the session stays with the broker.
    pub async fn close(mut self) {
        self.messages.close();
        while self.messages.try_recv().is_ok() {}
        let _ = self.client.try_disconnect();
        let _ = tokio::time::timeout(LAST_ACKNOWLEDGEMENTS, &mut self.task).await;
    }
}

impl Drop for MqttSession {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The error as a sentence with who must act.
fn explain(doing: &str, error: &ConnectionError, connection: &Connection) -> Error {
    let said = explain_chain(error);
    let hint = match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized) => {
            Some("check username and password")
        }
        ConnectionError::ConnectionRefused(ConnectReturnCode::BadClientId) => Some("choose another clientId"),
        other => hint_of(other),
    };
    if let Some(hint) = hint {
        connection.refused(hint);
        // One that has let the client in before may do so again by itself.
        if let Some(hint) = connection.refusal() {
            return Error::user(format!("{doing}: {said}; {hint}"));
        }
    }
    Error::outside(format!("{doing}: {said}"))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use streamjob_core::Actor;
    use streamjob_core::config::{MessageFormat, MqttConnectionConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    // Kinds of packets: https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html
    const CONNECT: u8 = 1;
    const PUBACK: u8 = 4;
    const SUBSCRIBE: u8 = 8;

    fn publish(bytes: usize) -> Publish {
        Publish::from_bytes("t", QoS::AtLeastOnce, Bytes::from(vec![0; bytes - 1]))
    }

    #[tokio::test]
    async fn messages_wait_for_room_in_bytes_too() {
        let (inlet, mut messages) = Inlet::new();
        assert!(inlet.put(publish(MAX_WAITING_BYTES - 1)).await);
        assert!(inlet.put(publish(1)).await);
        let mut third = Box::pin(inlet.put(publish(2)));
        assert_eq!(third.as_mut().now_or_never(), None, "all room is taken");
        drop(messages.recv().await.expect("the first"));
        assert!(third.await);
        // One that is longer than all waits until nothing else does.
        let mut long = Box::pin(inlet.put(publish(MAX_WAITING_BYTES + 1)));
        assert_eq!(long.as_mut().now_or_never(), None);
        drop(messages.recv().await.expect("the second"));
        assert_eq!(long.as_mut().now_or_never(), None);
        drop(messages.recv().await.expect("the third"));
        assert!(long.await);
        drop(messages);
        assert!(!inlet.put(publish(1)).await, "nobody wants it, and its room is free");
    }

    #[test]
    fn what_comes_early_is_bounded_in_messages_and_in_bytes() {
        let mut early = Early::default();
        early.put(publish(MAX_WAITING_BYTES - 1));
        assert!(!early.is_full());
        early.put(publish(1));
        assert!(early.is_full());
        let mut early = Early::default();
        (1..MAX_WAITING).for_each(|_| early.put(publish(1)));
        assert!(!early.is_full());
        early.put(publish(1));
        assert!(early.is_full());
    }

    fn source(port: u16) -> MqttSource {
        let connection = MqttConnectionConfig {
            host: "127.0.0.1".into(),
            port,
            client_id: "job".into(),
            auth: None,
            tls: None,
            keep_alive_us: 600_000_000,
            backoff_initial_us: 1,
            backoff_max_us: 1,
        };
        let (levels, format, retained) = (Vec::new(), MessageFormat::Json, Retained::Skip);
        let config = MqttSourceConfig { connection, topics: vec!["t".into()], levels, format, retained };
        MqttSource::new("sources.in.mqtt", &config, Arc::default()).expect("right settings")
    }

    /// The kind of the next packet of a client, and what stands behind its length.
    async fn packet(client: &mut TcpStream) -> (u8, Vec<u8>) {
        let kind = client.read_u8().await.expect("a packet") >> 4;
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = client.read_u8().await.expect("its length");
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut rest = vec![0; length];
        client.read_exact(&mut rest).await.expect("the rest");
        (kind, rest)
    }

    /// A broker that has kept more than may wait, and answers to the subscriptions once all of it is acknowledged.
    async fn broker_with_a_backlog(listener: TcpListener, count: u16) -> TcpStream {
        let (mut client, _) = listener.accept().await.expect("a client");
        assert_eq!(packet(&mut client).await.0, CONNECT);
        client.write_all(&[0x20, 2, 1, 0]).await.expect("the session is there");
        for number in 1..=count {
            let [high, low] = number.to_be_bytes();
            client.write_all(&[0x32, 7, 0, 1, b't', high, low, b'{', b'}']).await.expect("a message");
        }
        let (mut asked, mut acknowledged) = (None, 0);
        while asked.is_none() || acknowledged < count {
            match packet(&mut client).await {
                (SUBSCRIBE, rest) => asked = Some([rest[0], rest[1]]),
                (PUBACK, _) => acknowledged += 1,
                (kind, _) => panic!("a packet of kind {kind}"),
            }
        }
        let [high, low] = asked.expect("it was asked");
        client.write_all(&[0x90, 3, high, low, 0x80]).await.expect("the subscription is refused");
        client
    }

    #[tokio::test]
    async fn a_backlog_before_the_answer_to_the_subscriptions_is_taken_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let source = source(listener.local_addr().expect("it is bound").port());
        let count = MAX_WAITING as u16 + 100;
        let broker = tokio::spawn(broker_with_a_backlog(listener, count));
        let mut session = source.open().await.expect("it need not wait for the answer");
        let mut taken = 0;
        while taken < usize::from(count) {
            let messages = session.next(usize::MAX, usize::MAX).await.expect("what the session has kept");
            session.acknowledge(&messages);
            taken += messages.len();
        }
        let refused = session.next(1, 1).await.expect_err("the broker refuses the subscription");
        assert_eq!((refused.actor(), refused.retryable()), (Actor::User, false), "{refused}");
        drop(broker.await.expect("the broker's part"));
    }
}
