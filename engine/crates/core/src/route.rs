//! From one split's batches to the workers that own their rows.
//!
//! Each batch goes, with the numbers of the rows that are a worker's, to every worker that has some. A worker without any
//! is left out; its next delivery, or [`Router::tell`], covers what it was not told (I2). A batch with rejected rows, or of a
//! request with an id, goes to all: which shard owns those is for the workers to know.

use std::sync::Arc;

use crate::batch::{RowBatch, shard_of};
use crate::processor::Delivery;
use crate::progress::{NO_TIME, SplitIndex};
use crate::shard::RequestCommit;

/// Routes the batches of one split, which come in the order of the split and without gaps.
#[derive(Debug)]
pub struct Router {
    split: SplitIndex,
    /// By shard: its worker.
    worker_of: Arc<[u16]>,
    told: Vec<Told>,
    next_offset: u64,
}

/// What a worker knows of the split.
#[derive(Debug, Clone, Copy)]
struct Told {
    offset: u64,
    /// Latest event time of what was left out behind it.
    left_out_max_us: i64,
}

impl Router {
    /// A router whose first batch begins at `start`.
    pub fn new(split: SplitIndex, worker_of: Arc<[u16]>, workers: usize, start: u64) -> Router {
        let told = vec![Told { offset: start, left_out_max_us: NO_TIME }; workers];
        Router { split, worker_of, told, next_offset: start }
    }

    /// The offset that the next batch begins at.
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// Deliveries of the next batch, by worker.
    pub fn route(&mut self, batch: &Arc<RowBatch>, request: Option<&Arc<RequestCommit>>) -> Vec<(usize, Delivery)> {
        let selection = Selection::of(batch, &self.worker_of, self.told.len());
        self.route_selected(batch, selection, request)
    }

    /// As [`Router::route`], with the rows already selected: that needs no router, so that it can be done by whoever brings
    /// the batch, before its place in the split is known.
    pub fn route_selected(
        &mut self,
        batch: &Arc<RowBatch>,
        selection: Selection,
        request: Option<&Arc<RequestCommit>>,
    ) -> Vec<(usize, Delivery)> {
        let first_offset = self.next_offset;
        self.next_offset += batch.span;
        let Selection { rows, max_time_us } = selection;
        let for_all = !batch.rejects.is_empty() || request.is_some();
        let mut deliveries = Vec::with_capacity(rows.len());
        for (worker, rows) in rows.into_iter().enumerate() {
            let told = &mut self.told[worker];
            if rows.is_empty() && !for_all {
                told.left_out_max_us = told.left_out_max_us.max(max_time_us);
                continue;
            }
            let before = std::mem::replace(told, Told { offset: self.next_offset, left_out_max_us: NO_TIME });
            let delivery = Delivery {
                split: self.split,
                first_offset,
                covers_from: before.offset,
                prior_max_us: before.left_out_max_us,
                batch: batch.clone(),
                rows,
                max_time_us,
                request: request.cloned(),
            };
            deliveries.push((worker, delivery));
        }
        deliveries
    }

    /// Tells workers about batches that they were left out of, so that their positions and watermarks move.
    pub fn tell(&mut self) -> Vec<(usize, Delivery)> {
        let end = self.next_offset;
        let mut deliveries = Vec::new();
        for (worker, told) in self.told.iter_mut().enumerate().filter(|(_, told)| told.offset < end) {
            let before = std::mem::replace(told, Told { offset: end, left_out_max_us: NO_TIME });
            let mut delivery = Delivery::new(self.split, end, Arc::new(RowBatch::empty(0)), Vec::new());
            delivery.covers_from = before.offset;
            delivery.prior_max_us = before.left_out_max_us;
            deliveries.push((worker, delivery));
        }
        deliveries
    }
}

/// A batch's rows, selected for each worker.
#[derive(Debug)]
pub struct Selection {
    rows: Vec<Vec<u32>>,
    max_time_us: i64,
}

impl Selection {
    pub fn of(batch: &RowBatch, worker_of: &[u16], workers: usize) -> Selection {
        Selection { rows: select(batch, worker_of, workers), max_time_us: batch.max_time_us() }
    }
}

/// By worker: the numbers of the batch's rows that are its own, ascending.
pub fn select(batch: &RowBatch, worker_of: &[u16], workers: usize) -> Vec<Vec<u32>> {
    if workers == 1 {
        return vec![(0..batch.rows() as u32).collect()];
    }
    let mut selections: Vec<Vec<u32>> = (0..workers).map(|_| Vec::with_capacity(batch.rows() / workers + 16)).collect();
    for (row, hash) in batch.key_hash.iter().enumerate() {
        let worker = worker_of[usize::from(shard_of(*hash, worker_of.len() as u16))];
        selections[usize::from(worker)].push(row as u32);
    }
    selections
}

/// The numbers of the batch's rows that are one worker's, ascending.
pub fn select_for(batch: &RowBatch, worker_of: &[u16], worker: usize) -> Vec<u32> {
    let shards = worker_of.len() as u16;
    let is_mine = |hash: u64| usize::from(worker_of[usize::from(shard_of(hash, shards))]) == worker;
    (0..batch.rows() as u32).filter(|row| is_mine(batch.key_hash[*row as usize])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch(rows: &[(u64, i64)]) -> Arc<RowBatch> {
        let mut batch = RowBatch::empty(rows.len() as u64);
        batch.key_hash = rows.iter().map(|(hash, _)| *hash).collect();
        batch.time_us = rows.iter().map(|(_, time_us)| *time_us).collect();
        Arc::new(batch)
    }

    proptest! {
        /// I2: to each worker the split is told once, without gaps, with all times before each delivery.
        #[test]
        fn every_worker_is_told_of_the_whole_split(
            batches in prop::collection::vec((prop::collection::vec((0u64..4, 0i64..100), 1..4), any::<bool>()), 1..30),
        ) {
            let worker_of: Arc<[u16]> = Arc::from([0u16, 1, 2, 1]);
            let mut router = Router::new(0, worker_of.clone(), 3, 5);
            let (mut told, mut seen_us, mut rows) = ([5u64; 3], [NO_TIME; 3], [0usize; 3]);
            let mut max_us = NO_TIME;
            for (batch_rows, tell) in &batches {
                let mut deliveries = router.route(&batch(batch_rows), None);
                let before_us = max_us;
                max_us = max_us.max(batch_rows.iter().map(|(_, time_us)| *time_us).max().expect("not empty"));
                for (worker, delivery) in &deliveries {
                    prop_assert_eq!(seen_us[*worker].max(delivery.prior_max_us), before_us);
                }
                if *tell {
                    deliveries.extend(router.tell());
                }
                for (worker, delivery) in deliveries {
                    prop_assert_eq!(delivery.covers_from, told[worker]);
                    told[worker] = delivery.to();
                    seen_us[worker] = seen_us[worker].max(delivery.prior_max_us).max(delivery.max_time_us);
                    rows[worker] += delivery.rows.len();
                }
            }
            for (worker, delivery) in router.tell() {
                prop_assert_eq!(delivery.covers_from, told[worker]);
                told[worker] = delivery.to();
            }
            prop_assert_eq!(told, [router.next_offset(); 3]);
            let all = batches.iter().flat_map(|(rows, _)| rows);
            prop_assert_eq!(rows.iter().sum::<usize>(), all.count());
        }
    }
}
