//! The names of segments: `part-{shard:05}-{seq:012}[-r{incarnation}].ndjson`, temporary ones with a dot before and `.tmp` behind.

const PREFIX: &str = "part-";
const EXTENSION: &str = ".ndjson";
const TEMPORARY: &str = ".tmp";
const SHARD_DIGITS: usize = 5;
const SEQ_DIGITS: usize = 12;

/// Which segment a file is. The order is that of shard, sequence, incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentName {
    pub shard: u16,
    pub seq: u64,
    pub incarnation: u32,
}

impl SegmentName {
    pub fn published(&self) -> String {
        let SegmentName { shard, seq, incarnation } = self;
        let restart = if *incarnation == 0 { String::new() } else { format!("-r{incarnation}") };
        format!("{PREFIX}{shard:0SHARD_DIGITS$}-{seq:0SEQ_DIGITS$}{restart}{EXTENSION}")
    }

    pub fn temporary(&self) -> String {
        format!(".{}{TEMPORARY}", self.published())
    }

    pub fn parse_published(name: &str) -> Option<SegmentName> {
        let middle = name.strip_prefix(PREFIX)?.strip_suffix(EXTENSION)?;
        let mut parts = middle.splitn(3, '-');
        let shard = parts.next()?.parse().ok()?;
        let seq = parts.next()?.parse().ok()?;
        let incarnation = match parts.next() {
            None => 0,
            Some(restart) => restart.strip_prefix('r')?.parse().ok()?,
        };
        let parsed = SegmentName { shard, seq, incarnation };
        // Only names as they are written here: neither `part-1-2` nor `+1` nor `-r0`.
        (parsed.published() == name).then_some(parsed)
    }

    pub fn parse_temporary(name: &str) -> Option<SegmentName> {
        SegmentName::parse_published(name.strip_prefix('.')?.strip_suffix(TEMPORARY)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_promised_and_read_back() {
        let plain = SegmentName { shard: 7, seq: 12, incarnation: 0 };
        assert_eq!(plain.published(), "part-00007-000000000012.ndjson");
        assert_eq!(plain.temporary(), ".part-00007-000000000012.ndjson.tmp");
        let restarted = SegmentName { incarnation: 3, ..plain };
        assert_eq!(restarted.published(), "part-00007-000000000012-r3.ndjson");
        let large = SegmentName { shard: u16::MAX, seq: u64::MAX, incarnation: u32::MAX };
        for name in [plain, restarted, large] {
            assert_eq!(SegmentName::parse_published(&name.published()), Some(name));
            assert_eq!(SegmentName::parse_temporary(&name.temporary()), Some(name));
            assert_eq!(SegmentName::parse_published(&name.temporary()), None);
        }
    }

    #[test]
    fn foreign_names_are_not_segments() {
        for name in
            ["part-7-12.ndjson", "part-00007-+00000000012.ndjson", "part-00007-000000000012-r0.ndjson", "part-00007.ndjson", "x"]
        {
            assert_eq!(SegmentName::parse_published(name), None, "{name}");
        }
    }
}
