//! Deliveries that came before their turn: a file's chunks are decoded by several workers at once.

use std::collections::BTreeMap;

use streamjob_core::progress::{SplitIndex, SplitStatus};

use crate::inbox::Parcel;

/// Brings deliveries of each split into their order. Bounded by the chunks that may be under way
/// ([`crate::feed::CHUNKS_A_WORKER`]) and by the credits.
pub struct Reorder {
    splits: Vec<SplitOrder>,
}

struct SplitOrder {
    next: u64,
    waiting: BTreeMap<u64, Parcel>,
    status: Option<(u64, SplitStatus)>,
}

impl Reorder {
    /// `starts`: the offset that comes first, for each split.
    pub fn new(starts: &[u64]) -> Reorder {
        let splits = starts.iter().map(|next| SplitOrder { next: *next, waiting: BTreeMap::new(), status: None }).collect();
        Reorder { splits }
    }

    pub fn put(&mut self, parcel: Parcel) {
        let order = &mut self.splits[usize::from(parcel.delivery.split)];
        order.waiting.insert(parcel.delivery.covers_from, parcel);
    }

    pub fn put_status(&mut self, split: SplitIndex, at: u64, status: SplitStatus) {
        self.splits[usize::from(split)].status = Some((at, status));
    }

    /// Moves deliveries whose turn it is to `ready`, until it has `max_rows`.
    pub fn take(&mut self, max_rows: usize, ready: &mut Vec<Parcel>) {
        let mut rows = 0;
        for order in &mut self.splits {
            while rows < max_rows
                && let Some(entry) = order.waiting.first_entry()
                && *entry.key() <= order.next
            {
                let parcel = entry.remove();
                order.next = order.next.max(parcel.delivery.to());
                rows += parcel.delivery.rows.len();
                ready.push(parcel);
            }
        }
    }

    /// A status whose offset is reached.
    pub fn take_status(&mut self) -> Option<(SplitIndex, SplitStatus)> {
        for (split, order) in self.splits.iter_mut().enumerate() {
            if let Some((at, status)) = order.status {
                if at <= order.next && order.waiting.is_empty() {
                    order.status = None;
                    // An idle reader that has brought rows since is not idle.
                    if at == order.next || status == SplitStatus::Finished {
                        return Some((split as SplitIndex, status));
                    }
                }
            }
        }
        None
    }

    pub fn is_empty(&self) -> bool {
        self.splits.iter().all(|order| order.waiting.is_empty() && order.status.is_none())
    }
}
