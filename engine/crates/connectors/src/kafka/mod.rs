//! Kafka, by librdkafka: topics as splits that are read again from any offset, and as a sink whose transactions carry how far it
//! is.
//!
//! Clients are given plain settings; what follows from shards and commits is decided elsewhere.

mod client;
mod errors;
mod group;
mod metadata;
mod produce;
mod progress;
mod search;
mod sink;
mod sink_at_least_once;
mod source;
mod topic;

pub use client::RESERVED_PROPERTIES;
pub use group::GroupOffsets;
pub use metadata::MetadataFields;
pub use rdkafka::error::RDKafkaErrorCode as Code;
pub use sink::KafkaSink;
pub use source::{
    Event, Headers, MIN_PREFETCH_KB, Message, Messages, PREFETCH_KB, PartitionQueue, REREAD_PREFETCH_KB, TopicReader,
};
pub use topic::{Bounds, Topic, TopicInfo};
