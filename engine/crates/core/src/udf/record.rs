//! The note of which call runs: what a start after the process has died in a user function goes by.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Spans of one note. Rows of a call that has more are not named: they are found when the process dies a second time.
pub const MAX_SPANS: usize = 32;
/// A note: one small write, which lies in one page.
pub const MAX_RECORD_BYTES: usize = 2048;

/// Length and checksum before the note.
const HEAD_BYTES: usize = 8;
/// What is written over a note whose call has returned: a note of no length.
pub const NO_CALL: [u8; HEAD_BYTES] = [0; HEAD_BYTES];

/// A call of a function, by names that the next start knows as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunningCall<'a> {
    pub udf: Cow<'a, str>,
    pub spans: Vec<NamedSpan<'a>>,
}

/// Rows that stand side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedSpan<'a> {
    /// A split, or `window/NAME`.
    pub of: Cow<'a, str>,
    /// Offsets, or starts of windows with their sign bit turned, so that they are in order.
    pub from: u64,
    /// Behind the last one.
    pub to: u64,
}

/// Where notes go. They outlive the process, not the machine: a process that the machine took along did not die of a function.
/// No call waits for them, and a note that cannot be written is none.
pub trait CallRecord: Send {
    /// A call begins: `note` is what [`read`] will be given.
    fn begin(&mut self, note: &[u8]);

    /// It has returned.
    fn end(&mut self);

    /// Rows were called in isolation.
    fn isolated(&mut self, isolated: &IsolatedRows<'_>);

    /// The worker's shards have committed all that earlier processes died of.
    fn passed(&mut self);

    /// Whether those of all workers have.
    fn all_passed(&self) -> bool;
}

/// What came of rows that were called in isolation.
#[derive(Debug)]
pub struct IsolatedRows<'a> {
    pub udf: &'a str,
    pub rows: usize,
    /// Those without a result.
    pub failed: usize,
    /// Processes that the function has ended.
    pub deaths: usize,
}

/// Writes a call down. Spans that find no room are left out.
pub fn write(mut call: RunningCall<'_>, note: &mut Vec<u8>) {
    call.spans.truncate(MAX_SPANS);
    loop {
        note.clear();
        note.extend_from_slice(&NO_CALL);
        *note = postcard::to_extend(&call, std::mem::take(note)).expect("texts and numbers into a vector");
        if note.len() <= MAX_RECORD_BYTES {
            break;
        }
        if call.spans.pop().is_none() {
            return note.clear();
        }
    }
    let length = (note.len() - HEAD_BYTES) as u32;
    let checksum = crc32fast::hash(&note[HEAD_BYTES..]);
    note[..4].copy_from_slice(&length.to_le_bytes());
    note[4..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// The call that ran when this was left; `None` where none did, and where it cannot be read.
pub fn read(left: &[u8]) -> Option<RunningCall<'static>> {
    let (head, rest) = left.split_at_checked(HEAD_BYTES)?;
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let length = number(&head[..4]) as usize;
    if length == 0 || length > MAX_RECORD_BYTES {
        return None;
    }
    let note = rest.get(..length)?;
    if crc32fast::hash(note) != number(&head[4..]) {
        return None;
    }
    let call: RunningCall<'static> = postcard::from_bytes(note).ok()?;
    (call.spans.len() <= MAX_SPANS).then_some(call)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_call() -> impl Strategy<Value = RunningCall<'static>> {
        let span = (".{0,40}", any::<u64>(), any::<u64>());
        let span = span.prop_map(|(of, from, to)| NamedSpan { of: of.into(), from, to });
        (".{0,40}", prop::collection::vec(span, 0..=MAX_SPANS)).prop_map(|(udf, spans)| RunningCall { udf: udf.into(), spans })
    }

    fn written(call: &RunningCall<'static>) -> Vec<u8> {
        let mut note = b"of an earlier call".to_vec();
        write(call.clone(), &mut note);
        note
    }

    proptest! {
        #[test]
        fn a_note_says_its_call(call in any_call(), longer in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut note = written(&call);
            prop_assert!(note.len() <= MAX_RECORD_BYTES);
            // What an earlier, longer note has left behind it.
            note.extend(longer);
            let read = read(&note).expect("a whole note");
            prop_assert_eq!(&read.udf, &call.udf);
            prop_assert!(call.spans.starts_with(&read.spans));
            prop_assert!(read.spans.len() == call.spans.len() || call.spans.iter().map(|span| span.of.len()).sum::<usize>() > 1000);
        }

        #[test]
        fn a_note_that_is_cut_or_changed_is_none(call in any_call(), at in any::<prop::sample::Index>(), bit in 0..8) {
            let note = written(&call);
            prop_assert_eq!(read(&note[..at.index(note.len())]), None);
            let mut changed = note;
            let at = at.index(changed.len());
            changed[at] ^= 1u8 << bit;
            prop_assert_eq!(read(&changed), None);
        }

        #[test]
        fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn a_note_over_which_nothing_was_written_is_none() {
        let mut note = written(&RunningCall { udf: "f".into(), spans: Vec::new() });
        assert!(read(&note).is_some());
        note[..NO_CALL.len()].copy_from_slice(&NO_CALL);
        assert_eq!(read(&note), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_name_that_finds_no_room_leaves_no_note() {
        assert_eq!(read(&written(&RunningCall { udf: "f".repeat(MAX_RECORD_BYTES).into(), spans: Vec::new() })), None);
    }
}
