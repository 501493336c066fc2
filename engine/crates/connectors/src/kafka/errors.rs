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

/// What to do about rows that the broker does not take, however often they come; `None` for any other failure. It answers for
/// messages that came together: one of them may be the reason, or that they are too much together.
pub(super) fn refusal_of_rows(error: &KafkaError) -> Option<&'static str> {
    let (KafkaError::MessageProduction(_) | KafkaError::Transaction(_)) = error else { return None };
    match code(error)? {
        Code::InvalidRecord | Code::InvalidDifferentRecord => Some("give every row a key, as a compacted topic wants"),
        Code::MessageSizeTooLarge => Some("lower message.max.bytes to the topic's max.message.bytes, or raise that"),
        _ => None,
    }
}

/// Why a row that was refused alone goes to the dead letters.
pub(super) fn reason_of_refusal(error: &KafkaError) -> Option<String> {
    let (code, hint) = (code(error)?, refusal_of_rows(error)?);
    Some(format!("the topic refuses it: {code}; {hint}"))
}

/// Whether a message went because its transaction had failed, or its client ended, which says nothing of why.
pub(super) fn is_purged(error: &KafkaError) -> bool {
    matches!(code(error), Some(Code::PurgeQueue | Code::PurgeInflight))
}

/// What a description says of a topic that is not there, or that the client may not see.
pub(super) fn is_unseen(error: &KafkaError) -> bool {
    matches!(code(error), Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::TopicAuthorizationFailed))
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
        Some(_) => {
            let hint = refusal_of_rows(error).map_or(String::new(), |hint| format!("; {hint}"));
            Error::outside(format!("{doing}: {said}{because}{hint}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_to_blame_only_where_the_broker_says_so_of_messages_that_were_sent() {
        let hint = |code| refusal_of_rows(&KafkaError::MessageProduction(code)).unwrap_or_default();
        assert!(hint(Code::InvalidRecord).contains("give every row a key"));
        assert!(hint(Code::InvalidDifferentRecord).contains("give every row a key"));
        assert!(hint(Code::MessageSizeTooLarge).contains("lower message.max.bytes to the topic's max.message.bytes"));
        for other in [Code::TopicAuthorizationFailed, Code::MessageTimedOut, Code::PurgeQueue, Code::State] {
            assert_eq!(hint(other), "", "{other:?}");
        }
        assert_eq!(refusal_of_rows(&KafkaError::MessageConsumption(Code::MessageSizeTooLarge)), None);
    }

    #[test]
    fn what_a_person_can_do_is_said_and_a_retry_goes_on() {
        let said = explain("producing", &KafkaError::MessageProduction(Code::InvalidRecord), &Connection::default());
        assert!(said.retryable() && said.message().ends_with("give every row a key, as a compacted topic wants"), "{said}");
    }

    #[test]
    fn a_topic_that_could_not_be_asked_is_not_taken_for_one_that_is_not_there() {
        for unseen in [Code::UnknownTopicOrPartition, Code::UnknownTopic, Code::TopicAuthorizationFailed] {
            assert!(is_unseen(&KafkaError::MetadataFetch(unseen)), "{unseen:?}");
        }
        for passing in [Code::OperationTimedOut, Code::BrokerTransportFailure, Code::RequestTimedOut, Code::LeaderNotAvailable] {
            assert!(!is_unseen(&KafkaError::MetadataFetch(passing)), "{passing:?}");
        }
    }
}
