//! What Kafka's errors mean for a person.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use streamjob_core::Error;

use crate::connection::Connection;

/// Whether another producer has taken this one's place for good.
pub(super) fn is_fenced(error: &KafkaError) -> bool {
    matches!(code(error), Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch))
}

/// The code of an error, also of one in a transaction.
pub(super) fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::Transaction(inner) => Some(inner.code()),
        other => other.rdkafka_error_code(),
    }
}

/// What to do about a connection that the server, or this side, refuses.
pub(super) fn refusal_of(code: Code) -> Option<&'static str> {
    match code {
        Code::Authentication | Code::SaslAuthenticationFailed => Some("check sasl.username and its password"),
        Code::SSL => Some("check tls: the authority that signed the server's certificate, and the host's name in it"),
        _ => None,
    }
}

/// The error as a sentence with who must act. `doing` says what was tried; the text of a failed connection says more than its
/// code.
pub(super) fn explain(doing: &str, error: &KafkaError, connection: &Connection) -> Error {
    let said = match error {
        KafkaError::Transaction(inner) => inner.string(),
        KafkaError::ClientCreation(text) => text.clone(),
        KafkaError::ClientConfig(_, text, name, value) if !name.contains("password") => format!("{name}={value}: {text}"),
        KafkaError::ClientConfig(_, text, name, _) => format!("{name}: {text}"),
        other => other.rdkafka_error_code().map_or_else(|| other.to_string(), |code| code.to_string()),
    };
    let because = connection.last_error().map_or(String::new(), |last| format!(" ({last})"));
    let user = |hint: &str| Error::user(format!("{doing}: {said}{because}; {hint}"));
    // A request that nobody could send ends with its time, whatever the reason.
    if let Some(hint) = connection.refusal() {
        return user(hint);
    }
    match code(error) {
        Some(Code::TopicAuthorizationFailed) => user("let the user read, write and describe the topic"),
        Some(Code::GroupAuthorizationFailed) => user("let the user read the group, or choose another groupId"),
        Some(Code::TransactionalIdAuthorizationFailed) => user("let the user write and describe the transactional id"),
        Some(Code::ClusterAuthorizationFailed) => user("let the user do that on the cluster"),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => user("create the topic, or correct its name"),
        Some(Code::InvalidTopic) => user("correct the topic's name"),
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) => {
            user("another process with a copy of this state directory writes to the topic; stop one of them")
        }
        None => match error {
            KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => user("correct the connection's settings"),
            _ => Error::outside(format!("{doing}: {said}{because}")),
        },
        Some(_) => Error::outside(format!("{doing}: {said}{because}")),
    }
}
