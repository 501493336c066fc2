//! Topics at the start: their splits, and the threads that read and watch them.

use std::sync::Arc;
use std::thread::JoinHandle;

use streamjob_core::progress::SplitIndex;
use streamjob_core::{Error, Result};

use super::Opened;
use crate::shared::{ConnectionView, Shared};
use crate::topics::{TopicRun, TopicSource, TopicWatch};

impl Opened {
    pub(super) fn open_topics(&mut self) -> Result<()> {
        for source in &self.plan.config.sources {
            let Some(kafka) = &source.kafka else { continue };
            let mut topic = TopicSource::find(&self.state, source, kafka)?;
            let splits = topic.number(self.splits.len() as SplitIndex);
            if self.splits.len() + splits.len() > usize::from(SplitIndex::MAX) {
                return Err(Error::user(format!("sources.{}: more than {} partitions", source.name, SplitIndex::MAX)));
            }
            self.splits.extend(splits);
            self.topics.push(topic);
        }
        Ok(())
    }
}

/// The threads of one topic: who reads it, where its partitions are known, and who asks about it.
pub(super) fn spawn(
    shared: &Arc<Shared>,
    source: &Arc<TopicSource>,
    starts: &[u64],
    exit_at_end: bool,
) -> Result<Vec<JoinHandle<()>>> {
    shared.connections.lock().push(ConnectionView {
        source: true,
        name: source.name.clone(),
        connection: source.connection.clone(),
        topic: Some(source.clone()),
        bytes: None,
    });
    let watch = TopicWatch { shared: shared.clone(), source: source.clone(), exit_at_end };
    let mut threads = vec![super::spawn(shared, "topic-watch", move || watch.run())?];
    if source.info.is_some() {
        let starts = source.partitions.iter().map(|partition| starts[usize::from(partition.split)]).collect();
        let run = TopicRun { shared: shared.clone(), source: source.clone(), starts, exit_at_end };
        threads.push(super::spawn(shared, "topic", move || run.run())?);
    }
    Ok(threads)
}
