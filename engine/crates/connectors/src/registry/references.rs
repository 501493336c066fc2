//! One Avro schema out of several: where a name is used first that another schema declares, that declaration takes its place.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

/// Types nested in each other, through references or not.
const MAX_NESTING: usize = 64;

/// The schema `main` with the types that `others` declare where it uses them. Names that nobody declares stay, for whoever reads
/// the schema to complain of.
///
/// # Errors
/// A text that is no JSON, or types that are nested too deeply.
pub fn inline(main: &str, others: &[String]) -> Result<String, String> {
    let mut whole = Whole { declared: HashMap::new(), placed: HashSet::new() };
    for text in others {
        let mut schema = parse(text)?;
        if let Value::Object(object) = &mut schema
            && let Some((name, space)) = declared_name(object, "")
        {
            // Where it comes to stand the enclosing namespace is another.
            object.insert("namespace".to_owned(), space.into());
            whole.declared.insert(name, schema);
        }
    }
    let mut schema = parse(main)?;
    whole.place(&mut schema, "", 0)?;
    Ok(schema.to_string())
}

struct Whole {
    /// By full name: schemas that may be referred to.
    declared: HashMap<String, Value>,
    /// Full names whose declaration stands somewhere.
    placed: HashSet<String>,
}

impl Whole {
    fn place(&mut self, schema: &mut Value, space: &str, nesting: usize) -> Result<(), String> {
        if nesting > MAX_NESTING {
            return Err(format!("its types are nested more than {MAX_NESTING} deep"));
        }
        match schema {
            Value::String(name) => {
                let full = full_name(name, space);
                if !self.placed.contains(&full)
                    && let Some(declaration) = self.declared.get(&full)
                {
                    *schema = declaration.clone();
                    self.place(schema, "", nesting + 1)?;
                }
            }
            Value::Array(branches) => {
                branches.iter_mut().try_for_each(|branch| self.place(branch, space, nesting + 1))?;
            }
            Value::Object(object) => self.place_members(object, space, nesting + 1)?,
            _ => {}
        }
        Ok(())
    }

    fn place_members(&mut self, object: &mut Map<String, Value>, space: &str, nesting: usize) -> Result<(), String> {
        let Some((name, space)) = declared_name(object, space) else {
            for member in ["type", "items", "values"] {
                object.get_mut(member).map_or(Ok(()), |inner| self.place(inner, space, nesting))?;
            }
            return Ok(());
        };
        // Before its fields: a type may refer to itself.
        self.placed.insert(name);
        let fields = object.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten();
        for field in fields {
            if let Some(inner) = field.get_mut("type") {
                self.place(inner, &space, nesting)?;
            }
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("it, or a schema that it refers to, is no JSON: {error}"))
}

fn full_name(name: &str, space: &str) -> String {
    if name.contains('.') || space.is_empty() { name.to_owned() } else { format!("{space}.{name}") }
}

/// Full name and namespace of a type that has a name.
fn declared_name(object: &Map<String, Value>, space: &str) -> Option<(String, String)> {
    let kind = object.get("type")?.as_str()?;
    if !matches!(kind, "record" | "error" | "enum" | "fixed") {
        return None;
    }
    let name = object.get("name")?.as_str()?;
    let full = full_name(name, object.get("namespace").and_then(Value::as_str).unwrap_or(space));
    let space = full.rsplit_once('.').map_or("", |(space, _)| space).to_owned();
    Some((full, space))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn whole(main: &Value, others: &[Value]) -> Value {
        let others: Vec<String> = others.iter().map(Value::to_string).collect();
        serde_json::from_str(&inline(&main.to_string(), &others).expect("schemas")).expect("JSON")
    }

    fn record(name: &str, fields: &[(&str, Value)]) -> Value {
        let fields: Vec<Value> = fields.iter().map(|(name, kind)| json!({"name": name, "type": kind})).collect();
        json!({"type": "record", "name": name, "fields": fields})
    }

    #[test]
    fn a_type_stands_where_it_is_used_first_and_is_a_name_after_that() {
        let place = record("geo.Place", &[("at", json!("Point"))]);
        let point = record("geo.Point", &[("x", json!("double"))]);
        let union = json!(["null", "geo.Place"]);
        let main = record("a.Reading", &[("from", union), ("to", json!({"type": "array", "items": "geo.Place"}))]);
        let got = whole(&main, &[point, place]);
        let placed = &got["fields"][0]["type"][1];
        assert_eq!((&placed["name"], &placed["namespace"]), (&json!("geo.Place"), &json!("geo")));
        assert_eq!(placed["fields"][0]["type"]["fields"][0]["type"], "double");
        assert_eq!(got["fields"][1]["type"]["items"], "geo.Place");
    }

    #[test]
    fn names_without_a_namespace_keep_none_within_another() {
        let main = json!({"type": "record", "name": "R", "namespace": "a", "fields": [{"name": "p", "type": "P"}]});
        let unrelated = record("P", &[]);
        assert_eq!(whole(&main, &[unrelated]), main, "P of a namespace is another type");
        let own = json!({"type": "enum", "name": "P", "namespace": "a", "symbols": ["S"]});
        assert_eq!(whole(&main, std::slice::from_ref(&own))["fields"][0]["type"], own);
    }

    #[test]
    fn types_may_refer_to_themselves_and_to_each_other() {
        let node = record("Node", &[("next", json!(["null", "Node"])), ("owner", json!(["null", "Tree"]))]);
        let main = record("Tree", &[("root", json!("Node"))]);
        let got = whole(&main, &[node]);
        assert_eq!(got["fields"][0]["type"]["fields"][1]["type"], json!(["null", "Tree"]));
        assert_eq!(got["fields"][0]["type"]["fields"][0]["type"], json!(["null", "Node"]));
    }

    #[test]
    fn what_cannot_be_is_said() {
        let mut deep = json!("int");
        for _ in 0..MAX_NESTING + 2 {
            deep = json!({"type": "array", "items": deep});
        }
        assert!(inline(&deep.to_string(), &[]).expect_err("too deep").contains("nested"));
        assert!(inline("{}", &["{".to_owned()]).expect_err("no JSON").contains("no JSON"));
    }
}
