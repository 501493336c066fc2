//! A session with a broker that outlives connections: the broker keeps what is not acknowledged.
//!
//! Each connection has a client of its own. An acknowledgement that one leaves behind is dropped with it: on the next one its
//! packet number may be another message's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, NetworkOptions, Packet, Publish, QoS,
    SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use streamjob_core::config::{MqttSourceConfig, Retained, TopicLevelConfig};
use streamjob_core::decode::Metadata;
use streamjob_core::{Error, Result};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::connection::Connection;
use crate::http_client::explain_chain;
use crate::secret::Secret;
use crate::tls::{client_config, hint_of};

/// Connecting, signing in and subscribing may take so long.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages that have come and are not taken; where there are more, the connection is not read.
pub const MAX_WAITING: usize = 1024;
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
    place: String,
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
    messages: mpsc::Receiver<Publish>,
    /// Why the connection has ended.
    ended: Arc<Mutex<Option<Error>>>,
    task: JoinHandle<()>,
    /// It came, and had no room in what was taken.
    held: Option<MqttMessage>,
    retained: Retained,
    levels: Vec<TopicLevelConfig>,
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
        Ok(MqttSource { place: place.to_owned(), config: config.clone(), options, connection })
    }

    /// Connects as somebody else, whose session ends with the connection, and says what the broker takes.
    ///
    /// # Errors
    /// With what is wrong, and what to do about it.
    pub async fn describe(mut self) -> Result<String> {
        let id = format!("{}-check-{}", self.options.client_id(), std::process::id());
        self.options.set_client_id(id);
        self.options.set_clean_session(true);
        self.open().await?.close().await;
        Ok(format!("the broker at {} takes subscriptions to {}", self.server(), self.config.topics.join(", ")))
    }

    fn server(&self) -> String {
        format!("{}:{}", self.config.connection.host, self.config.connection.port)
    }

    /// Connects and subscribes. What the session has kept comes first.
    ///
    /// # Errors
    /// `user` where a person must act, `outside` where another try may help.
    pub async fn open(&self) -> Result<MqttSession> {
        let doing = format!("connecting to {}", self.server());
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, self.subscribe(&doing)).await;
        let (client, eventloop, early) =
            opened.map_err(|_| Error::outside(format!("{doing}: no answer within {CONNECT_TIMEOUT:?}")))??;
        self.connection.answered();
        let (sender, messages) = mpsc::channel(MAX_WAITING);
        let ended = Arc::new(Mutex::new(None));
        let (reason, connection) = (ended.clone(), self.connection.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = serve(eventloop, early, &sender).await {
                let error = explain("the connection was lost", &error, &connection);
                *reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        });
        let (retained, levels) = (self.config.retained, self.config.levels.clone());
        Ok(MqttSession { client, messages, ended, task, held: None, retained, levels })
    }

    async fn subscribe(&self, doing: &str) -> Result<(AsyncClient, EventLoop, Vec<Publish>)> {
        let (client, mut eventloop) = AsyncClient::new(self.options.clone(), MAX_ACKNOWLEDGEMENTS);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
        eventloop.set_network_options(network);
        let mut early = Vec::new();
        loop {
            match eventloop.poll().await.map_err(|error| explain(doing, &error, &self.connection))? {
                Event::Incoming(Packet::ConnAck(_)) => {
                    let filters = self.config.topics.iter().map(|topic| SubscribeFilter::new(topic.clone(), QoS::AtLeastOnce));
                    let asked = client.try_subscribe_many(filters);
                    asked.map_err(|error| Error::user(format!("{}.topics: {error}; correct the topics", self.place)))?;
                }
                Event::Incoming(Packet::Publish(publish)) => early.push(publish),
                Event::Incoming(Packet::SubAck(answer)) => {
                    for (topic, code) in std::iter::zip(&self.config.topics, &answer.return_codes) {
                        self.check_granted(topic, *code)?;
                    }
                    return Ok((client, eventloop, early));
                }
                _ => {}
            }
        }
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

/// Reads the connection until it ends, or nobody wants its messages any more.
async fn serve(mut eventloop: EventLoop, early: Vec<Publish>, messages: &mpsc::Sender<Publish>) -> Result<(), ConnectionError> {
    for publish in early {
        if messages.send(publish).await.is_err() {
            return Ok(());
        }
    }
    loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                // Also where nobody takes them any more, what was acknowledged has to leave.
                let _ = messages.send(publish).await;
            }
            Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error),
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
            taken.extend(self.read(first));
        }
        let mut bytes = 0;
        while taken.len() < max
            && let Ok(publish) = self.messages.try_recv()
        {
            let Some(message) = self.read(publish) else { continue };
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
