//! Where sources inside of the process go on, beside the journals whose records say it as well.

use std::fs;
use std::io;

use streamjob_core::source_positions::SavedPositions;
use streamjob_core::{Error, Result, crash};

use crate::StateDir;
use crate::disk::{file_error, replace};

const POSITIONS: &str = "positions.json";

impl StateDir {
    /// What was saved last; `None` where nothing ever was.
    pub fn positions(&self) -> Result<Option<SavedPositions>> {
        let path = self.path().join(POSITIONS);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error("cannot read", &path, &error)),
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Error::damaged(format!("{} cannot be read: {error}; restore it, or start with a new state directory", path.display()))
        })
    }

    /// Saves positions, durably: after a crash the file has the old ones or these.
    pub fn save_positions(&self, positions: &SavedPositions) -> Result<()> {
        let json = serde_json::to_string_pretty(positions);
        let json = json.map_err(|error| Error::engine(format!("positions cannot be written as JSON: {error}")))?;
        crash::point("positions-before-save");
        replace(&self.path().join(POSITIONS), (json + "\n").as_bytes())?;
        crash::point("positions-after-save");
        Ok(())
    }
}
