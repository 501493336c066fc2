//! Where reading began in splits of which no shard had a position: decided once, before the first row, so that shards that come
//! back from different commits agree about it.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use streamjob_core::{Error, Result};

use crate::StateDir;
use crate::disk::{file_error, replace};

const STARTS: &str = "starts.json";

impl StateDir {
    /// By split: the first offset that is read.
    pub fn starts(&self) -> Result<BTreeMap<String, u64>> {
        let path = self.path().join(STARTS);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(file_error("cannot read", &path, &error)),
        };
        serde_json::from_str(&text).map_err(|error| {
            Error::damaged(format!("{} cannot be read: {error}; restore it, or start with a new state directory", path.display()))
        })
    }

    /// Writes down, durably, where reading begins in splits that are new. What is known stays.
    pub fn add_starts(&self, new: impl IntoIterator<Item = (String, u64)>) -> Result<BTreeMap<String, u64>> {
        let mut starts = self.starts()?;
        let before = starts.len();
        for (split, offset) in new {
            starts.entry(split).or_insert(offset);
        }
        if starts.len() > before {
            let json = serde_json::to_string_pretty(&starts);
            let json = json.map_err(|error| Error::engine(format!("starts cannot be written as JSON: {error}")))?;
            replace(&self.path().join(STARTS), (json + "\n").as_bytes())?;
        }
        Ok(starts)
    }
}
