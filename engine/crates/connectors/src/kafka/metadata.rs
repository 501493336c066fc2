//! What is known of a message beside its value, for fields of its row.

use std::ffi::CString;

use streamjob_core::config::{KafkaMetadata, KafkaMetadataConfig};
use streamjob_core::decode::Metadata;
use streamjob_core::{Error, Result};

use super::Message;

/// Where the fields come from that a message's value does not have, in the order of the job's.
#[derive(Debug, Default)]
pub struct MetadataFields(Vec<From>);

#[derive(Debug)]
enum From {
    Key,
    Timestamp,
    Partition,
    Offset,
    Header(CString),
}

impl MetadataFields {
    /// # Errors
    /// `user` for a header's name that has a zero byte.
    pub fn new(place: &str, fields: &[KafkaMetadataConfig]) -> Result<MetadataFields> {
        let from = |config: &KafkaMetadataConfig| {
            Ok(match &config.from {
                KafkaMetadata::Key => From::Key,
                KafkaMetadata::Timestamp => From::Timestamp,
                KafkaMetadata::Partition => From::Partition,
                KafkaMetadata::Offset => From::Offset,
                KafkaMetadata::Header(name) => From::Header(CString::new(name.as_str()).map_err(|_| {
                    Error::user(format!("{place}.metadata.{}: a header's name has no zero byte; correct it", config.field))
                })?),
            })
        };
        Ok(MetadataFields(fields.iter().map(from).collect::<Result<_>>()?))
    }

    /// Appends what a message has for each field.
    pub fn push<'m>(&self, message: &Message<'m>, out: &mut Vec<Metadata<'m>>) {
        let text = |bytes: Option<&'m [u8]>| bytes.map_or(Metadata::Absent, Metadata::Text);
        out.extend(self.0.iter().map(|from| match from {
            From::Key => text(message.key),
            From::Timestamp => message.timestamp_us.map_or(Metadata::Absent, Metadata::Time),
            From::Partition => Metadata::Integer(message.partition.into()),
            From::Offset => Metadata::Integer(message.offset.cast_signed()),
            From::Header(name) => text(message.headers.last(name)),
        }));
    }
}
