//! Avro schemas: from their JSON text to types that name each other by number, so that recursive ones are no cycle.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

/// The longest text of a schema.
pub const MAX_SCHEMA_BYTES: usize = 1 << 20;
/// Most types of a schema, each place where one is written out counted.
pub const MAX_SCHEMA_TYPES: usize = 1 << 14;

/// The longest symbol of an enum, or text of a default: a byte of a message may stand for it.
pub const MAX_SYMBOL_BYTES: usize = 4096;

/// A type's number in its [`Schema`].
pub(super) type TypeId = usize;

/// A parsed schema.
#[derive(Debug)]
pub(super) struct Schema {
    pub types: Vec<Type>,
    pub root: TypeId,
}

#[derive(Debug)]
pub(super) struct Type {
    pub kind: Kind,
    pub logical: Logical,
    /// Whether its values take no bytes.
    pub is_empty: bool,
}

#[derive(Debug)]
pub(super) enum Kind {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed {
        name: String,
        size: usize,
    },
    Enum {
        name: String,
        symbols: Arc<[Arc<str>]>,
        /// What a reader takes for a symbol that it doesn't know.
        default: Option<Arc<str>>,
    },
    Array(TypeId),
    Map(TypeId),
    Union(Vec<TypeId>),
    Record {
        name: String,
        fields: Vec<Field>,
        /// Types of the fields whose values take bytes.
        solid: Vec<TypeId>,
    },
}

#[derive(Debug)]
pub(super) struct Field {
    pub name: String,
    pub aliases: Vec<String>,
    pub type_id: TypeId,
    /// What a reader takes where the writer has no such field.
    pub default: Option<Value>,
}

/// What the plain type means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logical {
    None,
    Date,
    Millis,
    Micros,
    Nanos,
    Decimal { scale: u32 },
    Uuid,
}

impl Schema {
    /// Reads a schema, whose root must be a record.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Schema, String> {
        if text.len() > MAX_SCHEMA_BYTES {
            return Err(format!("the Avro schema is longer than {MAX_SCHEMA_BYTES} bytes"));
        }
        let json: Value = serde_json::from_str(text).map_err(|error| format!("the Avro schema is no valid JSON: {error}"))?;
        let mut parser = Parser { types: Vec::new(), names: HashMap::new() };
        let root = parser.read(&json, "").map_err(|reason| format!("the Avro schema: {reason}"))?;
        if !matches!(parser.types[root].kind, Kind::Record { .. }) {
            return Err("the Avro schema: the outermost type must be a record".to_string());
        }
        let mut schema = Schema { types: parser.types, root };
        schema.find_empty();
        Ok(schema)
    }

    pub fn kind(&self, type_id: TypeId) -> &Kind {
        &self.types[type_id].kind
    }

    /// The fields of a record, or none.
    pub fn fields(&self, type_id: TypeId) -> &[Field] {
        match self.kind(type_id) {
            Kind::Record { fields, .. } => fields,
            _ => &[],
        }
    }

    /// Marks the types whose values take no bytes: first all that could, then those no more that hold one that can't.
    fn find_empty(&mut self) {
        for at in 0..self.types.len() {
            self.types[at].is_empty =
                matches!(self.types[at].kind, Kind::Null | Kind::Fixed { size: 0, .. } | Kind::Record { .. });
        }
        loop {
            let is_wrong =
                |at: &usize| self.types[*at].is_empty && self.fields(*at).iter().any(|field| !self.types[field.type_id].is_empty);
            let wrong: Vec<TypeId> = (0..self.types.len()).filter(is_wrong).collect();
            if wrong.is_empty() {
                break;
            }
            wrong.into_iter().for_each(|at| self.types[at].is_empty = false);
        }
        let empty: Vec<bool> = self.types.iter().map(|known| known.is_empty).collect();
        for known in &mut self.types {
            if let Kind::Record { fields, solid, .. } = &mut known.kind {
                solid.extend(fields.iter().map(|field| field.type_id).filter(|type_id| !empty[*type_id]));
            }
        }
    }
}

struct Parser {
    types: Vec<Type>,
    /// Full names of what was declared so far.
    names: HashMap<String, TypeId>,
}

impl Parser {
    fn add(&mut self, kind: Kind, logical: Logical) -> Result<TypeId, String> {
        if self.types.len() >= MAX_SCHEMA_TYPES {
            return Err(format!("more than {MAX_SCHEMA_TYPES} types"));
        }
        self.types.push(Type { kind, logical, is_empty: false });
        Ok(self.types.len() - 1)
    }

    /// Reads a type; names without a dot are in `space`.
    fn read(&mut self, json: &Value, space: &str) -> Result<TypeId, String> {
        match json {
            Value::String(name) => self.named(name, Logical::None, space),
            Value::Array(branches) => self.union(branches, space),
            Value::Object(object) => self.object(object, space),
            _ => Err(format!("expected a type, got {json}")),
        }
    }

    fn named(&mut self, name: &str, logical: Logical, space: &str) -> Result<TypeId, String> {
        let kind = match name {
            "null" => Kind::Null,
            "boolean" => Kind::Boolean,
            "int" => Kind::Int,
            "long" => Kind::Long,
            "float" => Kind::Float,
            "double" => Kind::Double,
            "bytes" => Kind::Bytes,
            "string" => Kind::String,
            _ => {
                let known = self.names.get(&full_name(name, space)).or_else(|| self.names.get(name));
                return known.copied().ok_or_else(|| format!("there is no type \"{name}\""));
            }
        };
        self.add(kind, logical)
    }

    fn union(&mut self, branches: &[Value], space: &str) -> Result<TypeId, String> {
        let branches: Vec<TypeId> = branches.iter().map(|branch| self.read(branch, space)).collect::<Result<_, _>>()?;
        let mut known = Vec::new();
        for branch in &branches {
            let name = match &self.types[*branch].kind {
                Kind::Union(_) => return Err("a union directly inside of a union".to_string()),
                kind => type_name(kind),
            };
            if known.contains(&name) {
                return Err(format!("a union has {name} twice"));
            }
            known.push(name);
        }
        self.add(Kind::Union(branches), Logical::None)
    }

    fn object(&mut self, object: &Map<String, Value>, space: &str) -> Result<TypeId, String> {
        let kind = object.get("type").ok_or("a type without \"type\"")?;
        let Value::String(kind) = kind else { return self.read(kind, space) };
        match kind.as_str() {
            "array" => {
                let items = self.read(object.get("items").ok_or("an array without \"items\"")?, space)?;
                self.add(Kind::Array(items), Logical::None)
            }
            "map" => {
                let values = self.read(object.get("values").ok_or("a map without \"values\"")?, space)?;
                self.add(Kind::Map(values), Logical::None)
            }
            "record" | "error" => self.record(object, space),
            "enum" => self.enumeration(object, space),
            "fixed" => self.fixed(object, space),
            name => self.named(name, logical(object, name), space),
        }
    }

    fn record(&mut self, object: &Map<String, Value>, space: &str) -> Result<TypeId, String> {
        let (name, space) = declared_name(object, space)?;
        let record = self.add(Kind::Record { name: name.clone(), fields: Vec::new(), solid: Vec::new() }, Logical::None)?;
        self.declare(&name, record)?;
        let listed = object.get("fields").and_then(Value::as_array).ok_or_else(|| format!("{name} has no \"fields\""))?;
        let mut fields: Vec<Field> = Vec::with_capacity(listed.len());
        for field in listed {
            let field = self.field(field, &space).map_err(|reason| format!("{name}: {reason}"))?;
            if fields.iter().any(|known| known.name == field.name) {
                return Err(format!("{name} has the field \"{}\" twice", field.name));
            }
            fields.push(field);
        }
        self.types[record].kind = Kind::Record { name, fields, solid: Vec::new() };
        Ok(record)
    }

    fn field(&mut self, json: &Value, space: &str) -> Result<Field, String> {
        let name = json.get("name").and_then(Value::as_str).ok_or("a field without \"name\"")?.to_string();
        let kind = json.get("type").ok_or_else(|| format!("the field \"{name}\" has no \"type\""))?;
        let type_id = self.read(kind, space).map_err(|reason| format!("{name}: {reason}"))?;
        if json.get("default").is_some_and(|default| default.to_string().len() > MAX_SYMBOL_BYTES) {
            return Err(format!("{name}: its default is longer than {MAX_SYMBOL_BYTES} bytes"));
        }
        let aliases = json.get("aliases").and_then(Value::as_array).into_iter().flatten();
        let aliases = aliases.filter_map(Value::as_str).map(str::to_string).collect();
        Ok(Field { name, aliases, type_id, default: json.get("default").cloned() })
    }

    fn enumeration(&mut self, object: &Map<String, Value>, space: &str) -> Result<TypeId, String> {
        let (name, _) = declared_name(object, space)?;
        let symbols = object.get("symbols").and_then(Value::as_array).ok_or_else(|| format!("{name} has no \"symbols\""))?;
        let symbols = symbols.iter().map(|symbol| symbol.as_str().map(Arc::from)).collect::<Option<Arc<[Arc<str>]>>>();
        let symbols = symbols.ok_or_else(|| format!("{name}: symbols are texts"))?;
        if symbols.iter().any(|symbol| symbol.len() > MAX_SYMBOL_BYTES) {
            return Err(format!("{name}: a symbol is longer than {MAX_SYMBOL_BYTES} bytes"));
        }
        let default = object.get("default").and_then(Value::as_str).filter(|text| text.len() <= MAX_SYMBOL_BYTES).map(Arc::from);
        let type_id = self.add(Kind::Enum { name: name.clone(), symbols, default }, Logical::None)?;
        self.declare(&name, type_id)?;
        Ok(type_id)
    }

    fn fixed(&mut self, object: &Map<String, Value>, space: &str) -> Result<TypeId, String> {
        let (name, _) = declared_name(object, space)?;
        let size = object.get("size").and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok());
        let size = size.filter(|size| *size <= i32::MAX as usize).ok_or_else(|| format!("{name}: \"size\" must be a size"))?;
        let type_id = self.add(Kind::Fixed { name: name.clone(), size }, logical(object, "fixed"))?;
        self.declare(&name, type_id)?;
        Ok(type_id)
    }

    fn declare(&mut self, name: &str, type_id: TypeId) -> Result<(), String> {
        match self.names.insert(name.to_string(), type_id) {
            None => Ok(()),
            Some(_) => Err(format!("the type \"{name}\" is declared twice")),
        }
    }
}

/// The full name of a declared type, and the namespace of what it contains.
fn declared_name(object: &Map<String, Value>, space: &str) -> Result<(String, String), String> {
    let name = object.get("name").and_then(Value::as_str).ok_or("a named type without \"name\"")?;
    let space = object.get("namespace").and_then(Value::as_str).unwrap_or(space);
    let name = full_name(name, space);
    let is_name = |part: &str| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if !name.split('.').all(is_name) {
        return Err(format!("\"{name}\" is no name; names have letters, digits and _"));
    }
    let space = name.rsplit_once('.').map_or("", |(space, _)| space).to_string();
    Ok((name, space))
}

fn full_name(name: &str, space: &str) -> String {
    if name.contains('.') || space.is_empty() { name.to_string() } else { format!("{space}.{name}") }
}

/// The logical type, where it fits the type that it is on; others are ignored, as the specification wants.
fn logical(object: &Map<String, Value>, on: &str) -> Logical {
    let name = object.get("logicalType").and_then(Value::as_str).unwrap_or_default();
    match (name, on) {
        ("date", "int") => Logical::Date,
        ("timestamp-millis" | "local-timestamp-millis", "long") => Logical::Millis,
        ("timestamp-micros" | "local-timestamp-micros", "long") => Logical::Micros,
        ("timestamp-nanos" | "local-timestamp-nanos", "long") => Logical::Nanos,
        ("decimal", "bytes" | "fixed") => {
            let scale = object.get("scale").and_then(Value::as_u64).unwrap_or(0);
            u32::try_from(scale).map_or(Logical::None, |scale| Logical::Decimal { scale })
        }
        ("uuid", "fixed") if object.get("size").and_then(Value::as_u64) == Some(16) => Logical::Uuid,
        _ => Logical::None,
    }
}

/// What tells the branches of a union apart.
pub(super) fn type_name(kind: &Kind) -> String {
    let name = match kind {
        Kind::Null => "null",
        Kind::Boolean => "boolean",
        Kind::Int => "int",
        Kind::Long => "long",
        Kind::Float => "float",
        Kind::Double => "double",
        Kind::Bytes => "bytes",
        Kind::String => "string",
        Kind::Array(_) => "array",
        Kind::Map(_) => "map",
        Kind::Union(_) => "union",
        Kind::Fixed { name, .. } | Kind::Enum { name, .. } | Kind::Record { name, .. } => name,
    };
    name.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Schema::parse(text).expect_err("a wrong schema")
    }

    #[test]
    fn wrong_schemas_are_refused_with_the_place() {
        assert!(error("{").contains("no valid JSON"));
        assert!(error("\"long\"").contains("must be a record"));
        assert!(error(r#"{"type":"record","fields":[]}"#).contains("without \"name\""));
        assert!(error(r#"{"type":"record","name":"1","fields":[]}"#).contains("is no name"));
        assert!(error(r#"{"type":"record","name":"R"}"#).contains("R has no \"fields\""));
        let field = |kind: &str| error(&format!(r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":{kind}}}]}}"#));
        assert_eq!(field("\"lang\""), "the Avro schema: R: a: there is no type \"lang\"");
        assert!(field(r#"["null","null"]"#).contains("null twice"));
        assert!(field(r#"["null",["int"]]"#).contains("union directly"));
        assert!(field(r#"{"type":"array"}"#).contains("without \"items\""));
        assert!(field(r#"{"type":"fixed","name":"F","size":-1}"#).contains("must be a size"));
        assert!(field(r#"{"type":"record","name":"R","fields":[]}"#).contains("declared twice"));
        assert!(error(&"[".repeat(1000)).contains("no valid JSON"));
    }

    #[test]
    fn names_are_found_in_their_namespace() {
        let schema = Schema::parse(
            r#"{"type":"record","name":"a.b.R","fields":[
                {"name":"one","type":{"type":"enum","name":"E","symbols":["x"]}},
                {"name":"two","type":"E"}, {"name":"three","type":["null","a.b.E"]},
                {"name":"four","type":{"type":"fixed","name":"F","namespace":"c","size":4}}, {"name":"five","type":"c.F"},
                {"name":"self","type":["null","R"]}]}"#,
        )
        .unwrap();
        let fields = schema.fields(schema.root);
        assert_eq!(fields[0].type_id, fields[1].type_id);
        assert_eq!(fields[3].type_id, fields[4].type_id);
        assert!(matches!(schema.kind(fields[5].type_id), Kind::Union(branches) if branches[1] == schema.root));
    }

    #[test]
    fn types_without_bytes_are_known() {
        let schema = Schema::parse(
            r#"{"type":"record","name":"R","fields":[
                {"name":"a","type":"null"},
                {"name":"b","type":{"type":"record","name":"B","fields":[{"name":"x","type":"null"},{"name":"self","type":"B"}]}},
                {"name":"c","type":{"type":"record","name":"C","fields":[{"name":"x","type":"B"},{"name":"y","type":"int"}]}}]}"#,
        )
        .unwrap();
        let empty: Vec<bool> = schema.fields(schema.root).iter().map(|field| schema.types[field.type_id].is_empty).collect();
        assert_eq!(empty, [true, true, false]);
        assert!(!schema.types[schema.root].is_empty);
    }
}
