//! A closed window's row as JSON, put together from what is its own and what it shares with others.
//!
//! ```text
//!  {"key":"KEY","window_start":"START","window_end":"END","revision":0,"n":3,…,"_id":"WINDOW/KEY/START/0"}
//!          own └──────── of the window and start ───────────────────┘└ own ┘└ shared ┘own └── shared ──┘
//! ```

use crate::event_time;
use crate::json;
use crate::plan::WindowPlan;

const OPEN: &[u8] = b"{\"key\":\"";

/// What all rows of one window and start share.
#[derive(Debug, Default)]
pub(crate) struct RowFrame {
    /// The window's id and the start that the texts are of.
    of: Option<(u32, i64)>,
    bounds: Vec<u8>,
    id: Vec<u8>,
    end: Vec<u8>,
}

impl RowFrame {
    /// Makes the frame that of one window and start; neighbouring rows mostly have the same.
    pub fn set(&mut self, window: &WindowPlan, start_us: i64) {
        if self.of == Some((window.id, start_us)) {
            return;
        }
        self.of = Some((window.id, start_us));
        let RowFrame { bounds, id, end, .. } = self;
        bounds.clear();
        bounds.extend_from_slice(b"\",\"window_start\":\"");
        event_time::write_rfc3339(start_us, bounds);
        bounds.extend_from_slice(b"\",\"window_end\":\"");
        event_time::write_rfc3339(start_us.saturating_add(window.size_us), bounds);
        bounds.extend_from_slice(b"\",\"revision\":0");
        id.clear();
        id.extend_from_slice(b",\"_id\":\"");
        json::write_escaped(id, window.name.as_bytes());
        id.push(b'/');
        end.clear();
        end.push(b'/');
        event_time::write_rfc3339(start_us, end);
        end.extend_from_slice(b"/0\"}");
    }

    /// The frame with these texts, as [`RowFrame::texts`] gave them.
    pub fn of_texts([bounds, id, end]: [&[u8]; 3]) -> RowFrame {
        RowFrame { of: None, bounds: bounds.to_vec(), id: id.to_vec(), end: end.to_vec() }
    }

    /// What rows share: with it a row can be put together where the window's definition is not at hand.
    pub fn texts(&self) -> [&[u8]; 3] {
        [&self.bounds, &self.id, &self.end]
    }

    /// Bytes of a row with an (escaped) key and members of these lengths.
    pub fn row_bytes(&self, key: usize, members: usize) -> usize {
        OPEN.len() + 2 * key + self.bounds.len() + members + self.id.len() + self.end.len()
    }

    /// Appends a row: its key, escaped as JSON has it, and its members, each with the comma before it.
    pub fn write(&self, key: &[u8], members: &[u8], out: &mut Vec<u8>) {
        out.reserve(self.row_bytes(key.len(), members.len()) + 1);
        for piece in [OPEN, key, &self.bounds, members, &self.id, key, &self.end] {
            out.extend_from_slice(piece);
        }
    }
}
