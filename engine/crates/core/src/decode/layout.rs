//! What the decoder knows of a job's schema: where each JSON member goes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::{FieldType, KeyConfig, SchemaConfig};
use crate::event_time::TimeParser;
use crate::{Error, Result};

/// Most fields of a schema.
pub const MAX_FIELDS: usize = 4096;

/// Where a member's value goes: column numbers first, then the time field, else [`UNKNOWN`].
pub(super) type Slot = usize;

/// The slot of a member that the schema does not name.
pub(super) const UNKNOWN: Slot = usize::MAX;

/// Where a row's key comes from.
#[derive(Debug, Clone)]
pub(super) enum KeyRule {
    /// A string column.
    Column(usize),
    /// An int64 column, as decimal text.
    Integer(usize),
    Const {
        text: Arc<str>,
        hash: u64,
    },
}

#[derive(Debug)]
pub(super) struct Layout {
    /// Names in slot order, the time field last.
    pub names: Vec<String>,
    pub types: Vec<FieldType>,
    pub key: KeyRule,
    pub time: TimeParser,
    slots: HashMap<Box<[u8]>, Slot>,
}

impl Layout {
    pub fn new(schema: &SchemaConfig) -> Result<Layout> {
        if schema.fields.len() > MAX_FIELDS {
            return Err(Error::user(format!("spec.schema.fields: at most {MAX_FIELDS} fields (got {})", schema.fields.len())));
        }
        let mut names: Vec<String> = schema.fields.iter().map(|field| field.name.clone()).collect();
        names.push(schema.time.field.clone());
        let mut slots = HashMap::with_capacity(names.len());
        for (slot, name) in names.iter().enumerate() {
            if slots.insert(Box::from(name.as_bytes()), slot).is_some() {
                return Err(Error::user(format!("spec.schema: the field \"{name}\" is there twice")));
            }
        }
        let types: Vec<FieldType> = schema.fields.iter().map(|field| field.data_type).collect();
        let key = key_rule(&schema.key, &names[..types.len()], &types)?;
        Ok(Layout { names, types, key, time: TimeParser::new(&schema.time)?, slots })
    }

    /// The slot of the time field.
    #[inline]
    pub fn time_slot(&self) -> Slot {
        self.types.len()
    }

    /// The slot of the column that holds the key.
    #[inline]
    pub fn key_slot(&self) -> Option<Slot> {
        match self.key {
            KeyRule::Column(column) | KeyRule::Integer(column) => Some(column),
            KeyRule::Const { .. } => None,
        }
    }

    /// Columns and the time field.
    #[inline]
    pub fn slots(&self) -> usize {
        self.names.len()
    }

    /// The slot of a member's name, its escapes resolved.
    pub fn slot_of(&self, name: &[u8]) -> Slot {
        self.slots.get(name).copied().unwrap_or(UNKNOWN)
    }
}

fn key_rule(key: &KeyConfig, names: &[String], types: &[FieldType]) -> Result<KeyRule> {
    let field = match key {
        KeyConfig::Const(text) => {
            return Ok(KeyRule::Const { text: Arc::from(text.as_str()), hash: crate::batch::hash_key(text.as_bytes()) });
        }
        KeyConfig::Field(field) => field,
    };
    let Some(column) = names.iter().position(|name| name == field) else {
        return Err(Error::user(format!("spec.schema.key: no such field (got \"{field}\"; add it to spec.schema.fields)")));
    };
    match types[column] {
        FieldType::String => Ok(KeyRule::Column(column)),
        FieldType::Int64 => Ok(KeyRule::Integer(column)),
        FieldType::Float64 | FieldType::Bool => {
            Err(Error::user(format!("spec.schema.key: the key must be a string or int64 field (got \"{field}\")")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(schema: &str) -> String {
        Layout::new(&serde_json::from_str(schema).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn wrong_schemas_are_refused() {
        let time = r#""time":{"field":"t","unit":"ms","format":null,"timezone":"UTC"}"#;
        assert!(error(&format!(r#"{{"key":{{"field":"k"}},{time},"fields":[]}}"#)).contains("no such field"));
        assert!(
            error(&format!(r#"{{"key":{{"const":"k"}},{time},"fields":[{{"name":"t","type":"int64"}}]}}"#)).contains("twice")
        );
        assert!(
            error(&format!(r#"{{"key":{{"field":"k"}},{time},"fields":[{{"name":"k","type":"bool"}}]}}"#)).contains("must be")
        );
    }
}
