//! What a node keeps on its disk: the state directory, one RocksDB instance a shard, and the files of the journal.
//!
//! What is written and when is decided in `streamjob-core`; here it becomes files.

#[cfg(feature = "crash-points")]
pub mod crash;
mod directory;
mod disk;
mod log;
mod positions;
mod resources;
mod shard;
mod starts;
mod stats;
mod stores;
mod udf_calls;

pub use directory::{JobIdentity, StateDir};
pub use log::FileLogStorage;
pub use resources::{SharedResources, StoreOptions};
pub use shard::RocksShardStore;
pub use stats::StoreStats;
pub use stores::ShardStores;
pub use udf_calls::{CallNotes, UdfCalls};
