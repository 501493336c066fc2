//! Levels of a message's topic as members of its JSON object.

use bytes::Bytes;
use streamjob_core::config::TopicLevelConfig;
use streamjob_core::json::write_string;

/// Which fields are levels of the topic.
#[derive(Debug, Clone, Default)]
pub struct TopicLevels(Vec<TopicLevelConfig>);

impl TopicLevels {
    pub fn new(levels: &[TopicLevelConfig]) -> TopicLevels {
        TopicLevels(levels.to_vec())
    }

    /// The message with the levels of its topic as last members: of a member given twice the last counts. What is no object stays
    /// as it is, and is rejected where it is decoded.
    pub fn add(&self, topic: &str, payload: &Bytes) -> Bytes {
        let Some(end) = payload.iter().rposition(|byte| !byte.is_ascii_whitespace()).filter(|_| !self.0.is_empty()) else {
            return payload.clone();
        };
        if payload[end] != b'}' {
            return payload.clone();
        }
        let before = payload[..end].trim_ascii_end();
        let mut out = Vec::with_capacity(payload.len() + topic.len() + self.0.len() * 16);
        out.extend_from_slice(before);
        let mut first = before.ends_with(b"{");
        for TopicLevelConfig { field, level } in &self.0 {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            write_string(&mut out, field.as_bytes());
            out.push(b':');
            match topic.split('/').nth(usize::from(*level).saturating_sub(1)) {
                Some(text) => write_string(&mut out, text.as_bytes()),
                None => out.extend_from_slice(b"null"),
            }
        }
        out.push(b'}');
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn levels(levels: &[(&str, u16)]) -> TopicLevels {
        let one = |(field, level): &(&str, u16)| TopicLevelConfig { field: (*field).to_owned(), level: *level };
        TopicLevels(levels.iter().map(one).collect())
    }

    proptest! {
        #[test]
        fn levels_are_the_last_members_of_any_object(names in prop::collection::btree_map(".{0,5}", any::<i64>(), 0..4), topic in ".{0,20}") {
            let object = serde_json::to_string_pretty(&names).expect("JSON");
            let added = levels(&[("site", 1), ("device", 2)]).add(&topic, &Bytes::from(format!(" {object}\n ")));
            let read: serde_json::Value = serde_json::from_slice(&added).expect("still an object");
            let parts: Vec<&str> = topic.split('/').collect();
            prop_assert_eq!(read["site"].as_str(), parts.first().copied());
            prop_assert_eq!(read["device"].as_str(), parts.get(1).copied());
            for (name, value) in names.iter().filter(|(name, _)| *name != "site" && *name != "device") {
                prop_assert_eq!(read[name].as_i64(), Some(*value));
            }
        }
    }

    #[test]
    fn what_is_no_object_stays_as_it_is() {
        for text in ["", "[1]", "no json", "{\"a\":1", "17 "] {
            let payload = Bytes::from_static(text.as_bytes());
            assert_eq!(levels(&[("site", 1)]).add("a/b", &payload), payload);
        }
        let payload = Bytes::from_static(b"{\"site\":\"other\"}");
        assert_eq!(levels(&[]).add("a/b", &payload), payload);
        assert_eq!(&levels(&[("site", 2)]).add("a/b", &payload)[..], b"{\"site\":\"other\",\"site\":\"b\"}");
    }
}
