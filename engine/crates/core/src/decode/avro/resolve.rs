//! From a writer's schema, and a reader's if there is one, to what is to be done with each of its values: put it into a
//! column or skip it. Aliases, defaults and unions are settled here, promotions where values are put into columns.

use std::sync::Arc;

use serde_json::Value;

use super::schema::{Field, Kind, Logical, Schema, TypeId};
use crate::decode::layout::{Layout, Node, ROOT, Slot, Target, UNKNOWN};
use crate::decode::scalar::Scalar;

/// How rows of one writer's schema are read.
#[derive(Debug)]
pub(super) struct Program {
    pub writer: Schema,
    pub root: Vec<Op>,
}

/// What is to be done with a value of the writer, or instead of one.
#[derive(Debug)]
pub(super) enum Op {
    Skip(TypeId),
    /// A scalar for a column.
    Value {
        slot: Slot,
        read: Read,
    },
    /// A value that no column takes.
    Strange {
        slot: Slot,
        what: &'static str,
        type_id: TypeId,
    },
    /// The number of a branch comes first.
    Union(Vec<Op>),
    Record(Vec<Op>),
    /// Members by name.
    Map {
        entries: Vec<(Box<[u8]>, Op)>,
        values: TypeId,
    },
    /// An object was expected whose way is this.
    NotObject {
        way: String,
        what: &'static str,
        type_id: TypeId,
    },
    /// The writer has no such field, the reader's schema a value for it.
    Default {
        slot: Slot,
        value: Literal,
    },
}

/// How a scalar is written.
#[derive(Debug)]
pub(super) enum Read {
    Null,
    Boolean,
    Int,
    Long,
    Date,
    /// Units in a second.
    Moment(i64),
    Float,
    Double,
    String,
    Bytes,
    Fixed(usize),
    /// `None`: as bytes with their length.
    Decimal {
        size: Option<usize>,
        scale: u32,
    },
    Uuid,
    Enum(Arc<[Arc<str>]>),
}

/// The value of a default.
#[derive(Debug)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Other(&'static str),
}

impl Literal {
    pub fn scalar(&self) -> Scalar<'_> {
        match self {
            Literal::Null => Scalar::Null,
            Literal::Bool(value) => Scalar::Bool(*value),
            Literal::Int(value) => Scalar::Int(*value),
            Literal::Float(value) => Scalar::Float(*value),
            Literal::Text(text) => Scalar::Text(text),
            Literal::Other(what) => Scalar::Other(what),
        }
    }

    fn of(json: &Value) -> Literal {
        match json {
            Value::Null => Literal::Null,
            Value::Bool(value) => Literal::Bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(value), _) => Literal::Int(value),
                (None, value) => Literal::Float(value.unwrap_or(f64::NAN)),
            },
            Value::String(text) => Literal::Text(text.clone()),
            Value::Array(_) => Literal::Other("an array"),
            Value::Object(_) => Literal::Other("an object"),
        }
    }
}

/// A type of the reader's schema, if there is one.
type ReaderType = Option<TypeId>;

struct Resolver<'a> {
    writer: &'a Schema,
    reader: Option<&'a Schema>,
    layout: &'a Layout,
}

/// Settles how rows of `writer` are read. `reader` gives fields other names (aliases) and values (defaults).
pub(super) fn resolve(writer: Schema, reader: Option<&Schema>, layout: &Layout) -> Program {
    let resolver = Resolver { writer: &writer, reader, layout };
    let root = resolver.record(writer.root, reader.map(|reader| reader.root), ROOT);
    Program { writer, root }
}

/// The first field of the job that a schema has no place for: its name and the place.
pub(super) fn unknown_field(schema: &Schema, layout: &Layout) -> Option<(String, String)> {
    let is_there = |path: &Vec<String>| has_path(schema, schema.root, path);
    let slot = layout.paths.iter().position(|path| !is_there(path))?;
    Some((layout.names[slot].clone(), layout.paths[slot].join(".")))
}

fn has_path(schema: &Schema, type_id: TypeId, path: &[String]) -> bool {
    let Some((name, rest)) = path.split_first() else { return true };
    match schema.kind(type_id) {
        Kind::Record { fields, .. } => fields.iter().any(|field| field.name == *name && has_path(schema, field.type_id, rest)),
        Kind::Map(values) => has_path(schema, *values, rest),
        Kind::Union(branches) => branches.iter().any(|branch| has_path(schema, *branch, path)),
        _ => false,
    }
}

impl Resolver<'_> {
    /// What is to be done with the fields of a record, in the writer's order, and then for those that it has not.
    fn record(&self, writer: TypeId, reader: ReaderType, node: Node) -> Vec<Op> {
        let fields = self.writer.fields(writer);
        let wanted = self.wanted(fields, reader);
        let mut ops = Vec::with_capacity(fields.len());
        for (field, as_field) in std::iter::zip(fields, &wanted) {
            let (name, reader_type) = match (self.reader, as_field) {
                (None, _) => (&field.name, None),
                (Some(_), Some(known)) => (&known.name, Some(known.type_id)),
                (Some(_), None) => {
                    ops.push(Op::Skip(field.type_id));
                    continue;
                }
            };
            ops.push(match self.layout.target(node, name.as_bytes()) {
                Target::Value(UNKNOWN) => Op::Skip(field.type_id),
                Target::Value(slot) => self.value(field.type_id, reader_type, slot),
                Target::Object(inner) => self.object(field.type_id, reader_type, inner),
            });
        }
        ops.retain(|op| !matches!(op, Op::Skip(type_id) if self.writer.types[*type_id].is_empty));
        let reader_fields = self.reader.zip(reader).map_or(&[][..], |(schema, record)| schema.fields(record));
        for field in reader_fields.iter().filter(|field| !wanted.iter().flatten().any(|taken| taken.name == field.name)) {
            if let Some(default) = &field.default {
                self.default(node, &field.name, default, &mut ops);
            }
        }
        ops
    }

    /// By field of the writer: the reader's field that takes it, by its name before its aliases; each at most once.
    fn wanted(&self, fields: &[Field], reader: ReaderType) -> Vec<Option<&Field>> {
        let mut wanted = vec![None; fields.len()];
        let Some((schema, record)) = self.reader.zip(reader) else { return wanted };
        for known in schema.fields(record) {
            let by_name = fields.iter().position(|field| field.name == known.name);
            let by_alias = || fields.iter().position(|field| known.aliases.contains(&field.name));
            if let Some(at) = by_name.or_else(by_alias).filter(|at| wanted[*at].is_none()) {
                wanted[at] = Some(known);
            }
        }
        wanted
    }

    fn value(&self, writer: TypeId, reader: ReaderType, slot: Slot) -> Op {
        let strange = |what| Op::Strange { slot, what, type_id: writer };
        let read = match (self.writer.kind(writer), self.writer.types[writer].logical) {
            (Kind::Union(branches), _) => {
                return Op::Union(branches.iter().map(|branch| self.value(*branch, reader, slot)).collect());
            }
            (Kind::Array(_), _) => return strange("an array"),
            (Kind::Map(_) | Kind::Record { .. }, _) => return strange("an object"),
            (Kind::Null, _) => Read::Null,
            (Kind::Boolean, _) => Read::Boolean,
            (Kind::Int, Logical::Date) => Read::Date,
            (Kind::Int, _) => Read::Int,
            (Kind::Long, Logical::Millis) => Read::Moment(1_000),
            (Kind::Long, Logical::Micros) => Read::Moment(1_000_000),
            (Kind::Long, Logical::Nanos) => Read::Moment(1_000_000_000),
            (Kind::Long, _) => Read::Long,
            (Kind::Float, _) => Read::Float,
            (Kind::Double, _) => Read::Double,
            (Kind::String, _) => Read::String,
            (Kind::Bytes, Logical::Decimal { scale }) => Read::Decimal { size: None, scale },
            (Kind::Bytes, _) => Read::Bytes,
            (Kind::Fixed { size, .. }, Logical::Decimal { scale }) => Read::Decimal { size: Some(*size), scale },
            (Kind::Fixed { .. }, Logical::Uuid) => Read::Uuid,
            (Kind::Fixed { size, .. }, _) => Read::Fixed(*size),
            (Kind::Enum { symbols, .. }, _) => Read::Enum(self.symbols(symbols, reader)),
        };
        Op::Value { slot, read }
    }

    /// A writer's symbols as the reader names them: those that it does not know are its default, if it has one.
    fn symbols(&self, symbols: &Arc<[Arc<str>]>, reader: ReaderType) -> Arc<[Arc<str>]> {
        let known = self.reader.zip(reader).and_then(|(schema, type_id)| find_enum(schema, type_id));
        let Some((known, Some(default))) = known else { return symbols.clone() };
        symbols.iter().map(|symbol| if known.contains(symbol) { symbol } else { default }).cloned().collect()
    }

    fn object(&self, writer: TypeId, reader: ReaderType, node: Node) -> Op {
        let not = |what| Op::NotObject { way: self.layout.text(node).to_string(), what, type_id: writer };
        match self.writer.kind(writer) {
            Kind::Null => Op::Record(Vec::new()),
            Kind::Record { .. } => {
                let reader = self.reader.zip(reader).and_then(|(schema, type_id)| find_record(schema, type_id));
                Op::Record(self.record(writer, reader, node))
            }
            Kind::Union(branches) => Op::Union(branches.iter().map(|branch| self.object(*branch, reader, node)).collect()),
            Kind::Map(values) => self.map(*values, node),
            Kind::Array(_) => not("an array"),
            Kind::Boolean => not("a bool"),
            Kind::String | Kind::Enum { .. } => not("a string"),
            Kind::Bytes | Kind::Fixed { .. } => not("bytes"),
            Kind::Int | Kind::Long | Kind::Float | Kind::Double => not("a number"),
        }
    }

    fn map(&self, values: TypeId, node: Node) -> Op {
        let entry = |(name, target): (&[u8], Target)| {
            let op = match target {
                Target::Value(slot) => self.value(values, None, slot),
                Target::Object(inner) => self.object(values, None, inner),
            };
            (Box::from(name), op)
        };
        Op::Map { entries: self.layout.members(node).map(entry).collect(), values }
    }

    /// The default of a field of the reader, as far as the job reads it.
    fn default(&self, node: Node, name: &str, default: &Value, ops: &mut Vec<Op>) {
        match self.layout.target(node, name.as_bytes()) {
            Target::Value(UNKNOWN) => {}
            Target::Value(slot) => ops.push(Op::Default { slot, value: Literal::of(default) }),
            Target::Object(inner) => {
                for (name, value) in default.as_object().into_iter().flatten() {
                    self.default(inner, name, value, ops);
                }
            }
        }
    }
}

type Symbols<'a> = (&'a Arc<[Arc<str>]>, Option<&'a Arc<str>>);

fn find_enum(schema: &Schema, type_id: TypeId) -> Option<Symbols<'_>> {
    match schema.kind(type_id) {
        Kind::Enum { symbols, default, .. } => Some((symbols, default.as_ref())),
        Kind::Union(branches) => branches.iter().find_map(|branch| find_enum(schema, *branch)),
        _ => None,
    }
}

fn find_record(schema: &Schema, type_id: TypeId) -> Option<TypeId> {
    match schema.kind(type_id) {
        Kind::Record { .. } => Some(type_id),
        Kind::Union(branches) => branches.iter().copied().find(|branch| matches!(schema.kind(*branch), Kind::Record { .. })),
        _ => None,
    }
}
