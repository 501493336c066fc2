//! Messages one after the other: `FF FF FF FF`, the length of the metadata, the metadata, the body.

use arrow_ipc::{Message, MetadataVersion, root_as_message};

use super::MAX_ARROW_MESSAGE_BYTES;

/// What a file begins with; zeros follow, and then a stream.
const FILE_MAGIC: [u8; 6] = *b"ARROW1";
/// The magic and its zeros are a multiple of this long.
const ALIGNMENT: usize = 8;
/// Writers align to 8 or 64 bytes; longer runs of zeros are taken for the end of the stream.
pub(in crate::decode) const MAX_START: usize = 512;

/// Where the first message begins: behind the magic of a file.
pub(in crate::decode) fn stream_start(bytes: &[u8]) -> usize {
    if !bytes.starts_with(&FILE_MAGIC) {
        return 0;
    }
    let is_padding = |at: &usize| bytes.get(*at..at + ALIGNMENT).is_some_and(|word| word == [0; ALIGNMENT]);
    (ALIGNMENT..MAX_START).step_by(ALIGNMENT).find(|at| !is_padding(at)).unwrap_or(MAX_START)
}

const CONTINUATION: u32 = u32::MAX;
/// Metadata grows with the number of columns; this is far above 4,096 of them.
const MAX_METADATA_BYTES: usize = 16 << 20;

/// One message.
pub(in crate::decode) struct Frame<'a> {
    pub message: Message<'a>,
    pub body: &'a [u8],
    /// Where the next one begins.
    pub end: usize,
}

/// How long a message is, as far as its beginning says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) enum Length {
    /// The stream has ended.
    End,
    /// That many bytes from its beginning are needed to know more.
    Needs(usize),
    /// Where the metadata is, and how long the message is as a whole.
    Whole { metadata: (usize, usize), length: usize },
}

impl Length {
    /// Of the message that begins `bytes`.
    pub fn of(bytes: &[u8]) -> Result<Length, String> {
        let word = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map(|word| u32::from_le_bytes(*word));
        let Some(first) = word(0) else { return Ok(Length::Needs(8)) };
        // streams from before Arrow 0.15 have no continuation
        let (length, start) = match first {
            CONTINUATION => match word(4) {
                Some(length) => (length as usize, 8),
                None => return Ok(Length::Needs(8)),
            },
            length => (length as usize, 4),
        };
        if length == 0 {
            return Ok(Length::End);
        }
        if length > MAX_METADATA_BYTES {
            return Err(format!("no Arrow IPC, or metadata of {length} bytes; at most {MAX_METADATA_BYTES} are read"));
        }
        let Some(metadata) = bytes.get(start..start + length) else { return Ok(Length::Needs(start + length)) };
        let body = parse(metadata)?.bodyLength();
        match usize::try_from(body).ok().filter(|body| *body <= MAX_ARROW_MESSAGE_BYTES) {
            Some(body) => Ok(Length::Whole { metadata: (start, start + length), length: start + length + body }),
            None => Err(format!("a message of {body} bytes; at most {MAX_ARROW_MESSAGE_BYTES} are read")),
        }
    }
}

fn parse(metadata: &[u8]) -> Result<Message<'_>, String> {
    let message = root_as_message(metadata).map_err(|_| "no Arrow IPC: the metadata of a message is broken".to_string())?;
    if message.version() < MetadataVersion::V4 {
        return Err("an Arrow IPC stream from before version 0.8, which is not read".to_string());
    }
    Ok(message)
}

/// The message at `at`; `None` at the end of the stream, which may also be the end of the bytes.
pub(in crate::decode) fn read_frame(bytes: &[u8], at: usize) -> Result<Option<Frame<'_>>, String> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.is_empty() {
        return Ok(None);
    }
    match Length::of(rest)? {
        Length::End => Ok(None),
        Length::Needs(_) => Err("the Arrow IPC stream ends early".to_string()),
        Length::Whole { metadata: (start, end), length } => match rest.get(end..length) {
            Some(body) => Ok(Some(Frame { message: parse(&rest[start..end])?, body, end: at + length })),
            None => Err("the Arrow IPC stream ends early".to_string()),
        },
    }
}
