//! Shows a group's offsets to tools, such as those that watch lag. Nothing of the job's own depends on them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use streamjob_connectors::kafka::GroupOffsets;
use streamjob_core::{Error, Result};

use super::TopicSource;
use crate::shared::Shared;

/// How often the last ones are asked after.
const LOOK: Duration = Duration::from_millis(10);
/// What a stop gives the last offsets of all sources. A group's first ones wait for a coordinator to be made, which may refuse
/// some attempts.
pub const LAST_LIMIT: Duration = Duration::from_secs(10);
/// Refused attempts are followed by the next after this long.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// By partition: offsets that tools have been shown; and who shows them, from the first on.
#[derive(Default)]
pub struct Shown {
    offsets: HashMap<i32, u64>,
    group: Option<GroupOffsets>,
}

/// How far that is.
#[derive(Debug, PartialEq, Eq)]
pub enum Showing {
    /// Tools see all that there is.
    Done,
    UnderWay,
    /// Not now; the next call tries again.
    Failed,
    /// Not before a person has done something.
    Refused,
}

impl TopicSource {
    /// Shows what has moved, without waiting: while some are under way, nothing is begun. I3: upstream is told only what every
    /// shard has committed.
    pub fn show(&self, shared: &Shared) -> Showing {
        let Shown { offsets, group } = &mut *self.shown.lock();
        if let Some(group) = group.as_mut().filter(|group| group.is_under_way()) {
            match group.ended() {
                None => return Showing::UnderWay,
                Some(Ok(positions)) => offsets.extend(positions),
                Some(Err(error)) => return failed(&error),
            }
        }
        let mut moved = Vec::new();
        for partition in &self.partitions {
            let lowest = shared.trimmer.lock().lowest(&shared.splits[usize::from(partition.split)].id);
            let position = lowest.max(partition.base);
            if lowest > 0 && offsets.get(&partition.number) != Some(&position) {
                moved.push((partition.number, position));
            }
        }
        if moved.is_empty() {
            return Showing::Done;
        }
        match self.begin(group, moved) {
            Ok(()) => Showing::UnderWay,
            Err(error) => failed(&error),
        }
    }

    fn begin(&self, group: &mut Option<GroupOffsets>, moved: Vec<(i32, u64)>) -> Result<()> {
        let (config, topic) = (&self.config, self.topic.name());
        let client = match group.take() {
            Some(client) => client,
            None => GroupOffsets::new(&self.place(), &config.connection, topic, &config.group_id)?,
        };
        group.insert(client).begin(moved)
    }

    /// Shows where the job stopped. A coordinator that does not answer is not waited for beyond the deadline.
    pub fn show_last(&self, shared: &Shared, deadline: Instant) {
        while Instant::now() < deadline {
            match self.show(shared) {
                Showing::Done | Showing::Refused => return,
                Showing::UnderWay => std::thread::sleep(LOOK),
                Showing::Failed => std::thread::sleep(TRY_AGAIN),
            }
        }
    }
}

fn failed(error: &Error) -> Showing {
    tracing::debug!("{error}");
    if error.retryable() { Showing::Failed } else { Showing::Refused }
}
