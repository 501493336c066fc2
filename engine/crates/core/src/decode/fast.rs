//! Which fast path reads the rows of a schema.

use super::columns::Rows;
use super::layout::Layout;
use super::nested::{MAX_NODES, NestedTemplate};
use super::template::{Context, Template};
use super::text::Breaks;

#[derive(Debug)]
pub(super) enum FastReader {
    /// All values are members of the row itself.
    Flat(Template),
    /// Some are members of its members.
    Nested(NestedTemplate),
    /// None: there are too many objects of which members are read, or a test compares.
    Off,
}

impl FastReader {
    pub fn new(layout: &Layout) -> FastReader {
        match layout.nodes() {
            1 => FastReader::Flat(Template::default()),
            2..=MAX_NODES => FastReader::Nested(NestedTemplate::default()),
            _ => FastReader::Off,
        }
    }

    /// Prepares for a body.
    pub fn begin(&mut self, breaks: Breaks) {
        match self {
            FastReader::Flat(template) => template.begin(breaks),
            FastReader::Nested(template) => template.begin(breaks),
            FastReader::Off => {}
        }
    }

    /// Reads the object at `at` into uncommitted values of `rows` and gives the position after it. `None`: leave it to the
    /// general parser after a roll-back.
    #[inline(always)]
    pub fn read_object(&mut self, context: &Context, rows: &mut Rows, bytes: &[u8], at: usize) -> Option<usize> {
        match self {
            FastReader::Flat(template) => template.read_object(context, rows, bytes, at),
            FastReader::Nested(template) => template.read_object(context, rows, bytes, at),
            FastReader::Off => None,
        }
    }
}
