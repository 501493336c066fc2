//! A web server that takes batches: a correct one, which takes each `Idempotency-Key` once.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

/// What one sink's server has taken.
#[derive(Debug, Default)]
pub struct Receiver {
    taken: BTreeMap<String, Arc<[u8]>>,
    pub rows: Vec<Value>,
    pub repeated: u64,
}

impl Receiver {
    /// Takes a batch. The error says what is wrong with it (I8).
    pub fn take(&mut self, key: &str, body: &Arc<[u8]>) -> Result<(), String> {
        match self.taken.get(key) {
            Some(first) if first != body => Err(format!(
                "batch {key} came with other bytes: first {}, then {}",
                String::from_utf8_lossy(first),
                String::from_utf8_lossy(body)
            )),
            Some(_) => {
                self.repeated += 1;
                Ok(())
            }
            None => {
                let rows: Vec<Value> =
                    serde_json::from_slice(body).map_err(|error| format!("batch {key} is no array: {error}"))?;
                self.rows.extend(rows);
                self.taken.insert(key.to_owned(), body.clone());
                Ok(())
            }
        }
    }
}
