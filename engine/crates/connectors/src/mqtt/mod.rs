//! MQTT: a broker's messages, acknowledged when whoever takes them says so.
//!
//! Knows a broker, topics and messages; what becomes of them is decided elsewhere.

mod source;

pub use source::{MAX_WAITING, MqttMessage, MqttSession, MqttSource};
