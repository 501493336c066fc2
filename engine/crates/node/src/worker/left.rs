//! Shards of a worker that leave rows because a sink takes none, and what is read again for them (I9).

use streamjob_core::catch_up::Wanted;
use streamjob_core::processor::{Delivery, Refusal};
use streamjob_core::progress::{SplitIndex, SplitStatus};
use streamjob_core::{Error, Result};

use super::Worker;
use crate::inbox::Parcel;

impl Worker {
    /// Sees who leaves rows from now on, and who has caught up.
    pub(super) fn look_at_shards(&mut self) {
        for due in self.catch_up.look(self.processor.shards_mut(), &self.reorder) {
            self.processor.shards_mut()[due.place].set_status(due.split, due.status);
        }
        let behind = self.catch_up.behind();
        if behind != self.behind {
            self.shared.count_behind(self.behind, behind);
            self.behind = behind;
            if behind == 0 {
                self.rereader.rest();
            }
        }
    }

    /// A split's reader has said something for the offset that the worker has reached: it holds for the shards that are there.
    pub(super) fn set_status(&mut self, split: SplitIndex, status: SplitStatus) {
        let at = self.reorder.next_offset(split);
        for (place, shard) in self.processor.shards_mut().iter_mut().enumerate() {
            if !self.catch_up.defer(place, shard, split, at, status) {
                shard.set_status(split, status);
            }
        }
    }

    /// Reads about a batch for shards that have left rows and have room, so that they come nearer also under full load; false if
    /// there was nothing to do.
    pub(super) fn catch_up(&mut self) -> Result<bool> {
        let limit = self.shared.plan.config.engine.batch_rows.max(1) as usize;
        let mut rows = 0;
        while rows < limit {
            match self.read_again()? {
                None => return Ok(rows > 0),
                Some(read) => rows += read.max(1),
            }
            self.look_at_shards();
        }
        Ok(true)
    }

    /// One step of catching up: the rows that were read, whoever they are of.
    fn read_again(&mut self) -> Result<Option<usize>> {
        loop {
            let parcels = match self.catch_up.wanted(self.processor.shards(), &self.reorder) {
                None => return Ok(None),
                Some(Wanted::Kept(parcels)) => parcels,
                Some(Wanted::Read { split, from, to }) => {
                    let read = self.rereader.read((split, from, to), &mut self.buffer);
                    match read.map_err(|error| error.context("reading rows again that a shard had left"))? {
                        Some(delivery) => vec![Parcel { delivery, trace: None, _hold: None }],
                        None => {
                            self.catch_up.at_end(split, from);
                            continue;
                        }
                    }
                }
            };
            let deliveries: Vec<Delivery> = parcels.iter().map(|parcel| parcel.delivery.clone()).collect();
            let refusals = self.processor.process(&deliveries, &mut self.port)?;
            self.check_refusals(&refusals)?;
            return Ok(Some(deliveries.iter().map(|delivery| delivery.batch.rows()).sum()));
        }
    }

    /// Only a shard that has left rows misses some.
    pub(super) fn check_refusals(&self, refusals: &[Refusal]) -> Result<()> {
        let is_behind =
            |refusal: &&Refusal| self.processor.place_of(refusal.shard).is_some_and(|place| self.catch_up.is_behind(place));
        match refusals.iter().find(|refusal| !is_behind(refusal)) {
            None => Ok(()),
            Some(refusal) => Err(Error::engine(format!(
                "shard {} wants offset {} of split {} and was given a later one",
                refusal.shard,
                refusal.wanted,
                self.shared.splits[usize::from(refusal.split)].id
            ))),
        }
    }
}
