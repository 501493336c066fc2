//! What the decoders know of a job's schema: where each member goes, also through members of members.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config::{FieldType, KeyConfig, SchemaConfig};
use crate::decode::MAX_BODY_VALUES;
use crate::event_time::TimeParser;
use crate::{Error, Result};

/// Most fields of a schema.
pub const MAX_FIELDS: usize = 4096;

/// Most members that a field's path leads through, its own included.
pub const MAX_PATH_MEMBERS: usize = 16;

/// A member whose members are read: its number in [`Layout`], outermost first.
pub(super) type Node = usize;

/// The row itself.
pub(super) const ROOT: Node = 0;

/// What a member is to the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A value that is read, or [`UNKNOWN`].
    Value(Slot),
    /// An object of which members are read.
    Object(Node),
}

/// The members that are read of one object.
#[derive(Debug, Default)]
struct Members {
    targets: HashMap<Box<[u8]>, Target>,
    parent: Node,
    /// The way to it, for a reason.
    text: String,
}

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
    /// By slot: names of the members that lead to the value; empty where the row does not have it.
    pub paths: Vec<Vec<String>>,
    /// Slots that messages' metadata fill, in its order.
    pub metadata: Vec<Slot>,
    nodes: Vec<Members>,
}

impl Layout {
    /// `metadata`: the fields that the rows themselves don't have.
    pub fn new(schema: &SchemaConfig, metadata: &[&str]) -> Result<Layout> {
        if schema.fields.len() > MAX_FIELDS {
            return Err(Error::user(format!("spec.schema.fields: at most {MAX_FIELDS} fields (got {})", schema.fields.len())));
        }
        let mut names: Vec<String> = schema.fields.iter().map(|field| field.name.clone()).collect();
        names.push(schema.time.field.clone());
        let mut known = HashSet::with_capacity(names.len());
        if let Some(name) = names.iter().find(|name| !known.insert(name.as_str())) {
            return Err(Error::user(format!("spec.schema: the field \"{name}\" is there twice")));
        }
        let paths = schema.fields.iter().map(|field| &field.path).chain([&schema.time.path]);
        let mut paths: Vec<Vec<String>> =
            std::iter::zip(paths, &names).map(|(path, name)| path.clone().unwrap_or_else(|| vec![name.clone()])).collect();
        let metadata = metadata.iter().map(|name| metadata_slot(name, &names, &mut paths)).collect::<Result<Vec<_>>>()?;
        let mut nodes = vec![Members::default()];
        for (slot, path) in paths.iter().enumerate().filter(|(slot, _)| !metadata.contains(slot)) {
            add_path(&mut nodes, path, slot).map_err(|error| error.context(format!("spec.schema: {}", names[slot])))?;
        }
        let types: Vec<FieldType> = schema.fields.iter().map(|field| field.data_type).collect();
        let key = key_rule(&schema.key, &names[..types.len()], &types)?;
        Ok(Layout { names, types, key, time: TimeParser::new(&schema.time)?, paths, metadata, nodes })
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

    /// Rows of one body at most, so that it has no more than [`MAX_BODY_VALUES`].
    pub fn max_rows(&self) -> usize {
        MAX_BODY_VALUES / self.slots()
    }

    /// Slots that the rows themselves fill.
    #[inline]
    pub fn slots_of_rows(&self) -> usize {
        self.names.len() - self.metadata.len()
    }

    /// Whether messages' metadata fill a slot, which the row then leaves alone.
    #[inline]
    pub fn is_metadata(&self, slot: Slot) -> bool {
        self.paths[slot].is_empty()
    }

    /// How many objects there are of which members are read, the row included.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The object that an object is a member of; the row is its own.
    pub fn parent(&self, node: Node) -> Node {
        self.nodes[node].parent
    }

    /// The way to an object: `sensor.position`.
    pub fn text(&self, node: Node) -> &str {
        &self.nodes[node].text
    }

    /// What a member of an object is, its name's escapes resolved.
    pub fn target(&self, node: Node, name: &[u8]) -> Target {
        self.nodes[node].targets.get(name).copied().unwrap_or(Target::Value(UNKNOWN))
    }

    /// The members of an object that are read.
    pub fn members(&self, node: Node) -> impl Iterator<Item = (&[u8], Target)> {
        self.nodes[node].targets.iter().map(|(name, target)| (&**name, *target))
    }

    /// The slot of a member of a flat row, its name's escapes resolved.
    pub fn slot_of(&self, name: &[u8]) -> Slot {
        match self.nodes[ROOT].targets.get(name) {
            Some(Target::Value(slot)) => *slot,
            _ => UNKNOWN,
        }
    }
}

/// The slot of a field that messages' metadata fill. It has no path from here on.
fn metadata_slot(name: &str, names: &[String], paths: &mut [Vec<String>]) -> Result<Slot> {
    let slot = names.iter().position(|known| known == name).filter(|slot| !paths[*slot].is_empty());
    let slot = slot.ok_or_else(|| Error::user(format!("\"{name}\" is no field of the schema, or is filled twice")))?;
    paths[slot].clear();
    Ok(slot)
}

/// Notes where the value of `slot` is.
fn add_path(nodes: &mut Vec<Members>, path: &[String], slot: Slot) -> Result<()> {
    let Some((last, through)) = path.split_last() else { return Err(Error::user("a path names at least one member")) };
    if path.len() > MAX_PATH_MEMBERS {
        return Err(Error::user(format!("a path names at most {MAX_PATH_MEMBERS} members (got {})", path.len())));
    }
    let taken = |name: &str| Error::user(format!("another field reads the member \"{name}\" or a part of it"));
    let mut node = ROOT;
    for name in through {
        let next = nodes.len();
        node = match nodes[node].targets.get(name.as_bytes()) {
            Some(Target::Object(inner)) => *inner,
            Some(Target::Value(_)) => return Err(taken(name)),
            None => {
                let text = if node == ROOT { name.clone() } else { format!("{}.{name}", nodes[node].text) };
                nodes[node].targets.insert(Box::from(name.as_bytes()), Target::Object(next));
                nodes.push(Members { targets: HashMap::new(), parent: node, text });
                next
            }
        };
    }
    match nodes[node].targets.insert(Box::from(last.as_bytes()), Target::Value(slot)) {
        None => Ok(()),
        Some(_) => Err(taken(last)),
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
        Layout::new(&serde_json::from_str(schema).unwrap(), &[]).unwrap_err().to_string()
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
        let with_paths = |a: &str, b: &str| {
            let fields = format!(r#"{{"name":"a","type":"string","path":{a}}},{{"name":"b","type":"string","path":{b}}}"#);
            error(&format!(r#"{{"key":{{"const":"k"}},{time},"fields":[{fields}]}}"#))
        };
        assert!(with_paths(r#"["x"]"#, r#"["x"]"#).contains("b: another field reads the member \"x\""));
        assert!(with_paths(r#"["x"]"#, r#"["x","y"]"#).contains("b: another field"));
        assert!(with_paths(r#"["x","y"]"#, r#"["x"]"#).contains("b: another field"));
        assert!(with_paths(r#"["x"]"#, r#"["t"]"#).contains("t: another field"));
        assert!(with_paths("[]", "null").contains("a: a path names at least one"));
        let long = serde_json::to_string(&vec!["x"; MAX_PATH_MEMBERS + 1]).unwrap();
        assert!(with_paths(&long, "null").contains("at most 16 members"));
    }
}
