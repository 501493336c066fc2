//! Tries the connections of a job, with its secrets, and writes nothing.

use std::sync::Arc;

use serde::Serialize;
use streamjob_connectors::kafka::Topic;
use streamjob_connectors::mqtt::MqttSource;
use streamjob_connectors::nats::NatsSink;
use streamjob_connectors::postgres::PostgresSink;
use streamjob_connectors::registry::Registry;
use streamjob_connectors::webhook::Webhook;
use streamjob_core::config::{AvroConfig, Delivery, Isolation, JobConfig, KafkaConnectionConfig, MessageFormat};
use streamjob_core::plan::Plan;
use streamjob_core::{Error, Result};
use tokio::runtime::Runtime;

use crate::message_sinks::row_shape;

/// What came of one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// Where in the job it stands.
    pub place: String,
    /// What is there, or what is wrong.
    pub said: String,
    pub works: bool,
    /// Who can do something about it.
    pub actor: Option<&'static str>,
    pub retryable: bool,
}

/// What is said of user code.
const NOT_TRIED: &str = "not tried, since that would run its code";

/// Tries every source and sink that has a server, one after the other.
pub fn try_connections(config: &JobConfig) -> Result<Vec<Tried>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::outside(format!("can't start the runtime: {error}")))?;
    let mut tried = Vec::new();
    for (number, source) in config.sources.iter().enumerate() {
        let place = format!("spec.sources[{number}].kafka");
        if let Some(kafka) = &source.kafka {
            let found = describe(&place, &kafka.connection, &kafka.topic, kafka.isolation);
            tried.push(told(place.clone(), found));
            if let MessageFormat::Avro(avro) = &kafka.format {
                tried.extend(try_registry(&runtime, &format!("{place}.format.avro.registry"), avro));
            }
        }
        if let Some(avro) = source.http.as_ref().and_then(|http| http.avro.as_ref()) {
            tried.extend(try_registry(&runtime, &format!("spec.sources[{number}].http.avro.registry"), avro));
        }
        if let Some(mqtt) = &source.mqtt {
            let place = format!("spec.sources[{number}].mqtt");
            let asked = MqttSource::new(&place, mqtt, Arc::default());
            tried.push(told(place, asked.and_then(|mqtt| runtime.block_on(mqtt.describe()))));
        }
    }
    for (number, source) in config.sources.iter().enumerate().filter(|(_, source)| source.python.is_some()) {
        tried.push(told(format!("spec.sources[{number}].python"), Ok(format!("{}: {NOT_TRIED}", source.name))));
    }
    for (number, sink) in config.sinks.iter().enumerate() {
        if sink.python.is_some() {
            tried.push(told(format!("spec.sinks[{number}].python"), Ok(format!("{}: {NOT_TRIED}", sink.name))));
        }
        if let Some(kafka) = &sink.kafka {
            let place = format!("spec.sinks[{number}].kafka");
            let found = describe(&place, &kafka.connection, &kafka.topic, Isolation::ReadCommitted).map(|said| {
                let progress = &kafka.progress_topic;
                let kept = match describe(&place, &kafka.connection, progress, Isolation::ReadCommitted) {
                    _ if sink.delivery == Delivery::AtLeastOnce => return said,
                    Ok(said) => said,
                    Err(_) => format!("the topic {progress} is not there and will be created"),
                };
                format!("{said}; {kept}")
            });
            tried.push(told(place, found));
        }
        if let Some(nats) = &sink.nats {
            let place = format!("spec.sinks[{number}].nats");
            let asked = NatsSink::new(&place, &sink.name, nats, sink.delivery, 0, Arc::default());
            tried.push(told(place, asked.and_then(|nats| runtime.block_on(nats.describe()))));
        }
        if let Some(postgres) = &sink.postgres {
            let place = format!("spec.sinks[{number}].postgres");
            let asked = Plan::compile(config.clone()).and_then(|plan| {
                let shape = row_shape(&plan, number);
                let sink = PostgresSink::new(&place, &sink.name, postgres, shape, sink.delivery, "", 0, Arc::default())?;
                runtime.block_on(sink.describe())
            });
            tried.push(told(place, asked));
        }
        if let Some(http) = &sink.http {
            let asked = Webhook::new(http).and_then(|webhook| runtime.block_on(webhook.ask()));
            tried.push(told(format!("spec.sinks[{number}].http"), asked));
        }
    }
    Ok(tried)
}

fn try_registry(runtime: &Runtime, place: &str, avro: &AvroConfig) -> Option<Tried> {
    let registry = avro.registry.as_ref()?;
    let asked = Registry::new(registry).and_then(|registry| runtime.block_on(registry.try_once()));
    Some(told(place.to_owned(), asked))
}

fn describe(place: &str, connection: &KafkaConnectionConfig, topic: &str, isolation: Isolation) -> Result<String> {
    let client = Topic::new(place, connection, topic, isolation, Arc::default())?;
    let info = client.describe()?;
    for partition in &info.partitions {
        client.bounds(*partition)?;
    }
    Ok(format!("the topic {topic} has {} partitions", info.partitions.len()))
}

fn told(place: String, outcome: Result<String>) -> Tried {
    match outcome {
        Ok(said) => Tried { place, said, works: true, actor: None, retryable: false },
        Err(error) => {
            let (actor, retryable) = (Some(error.actor().as_str()), error.retryable());
            Tried { place, said: error.message().to_owned(), works: false, actor, retryable }
        }
    }
}
