//! Prints the nanoseconds that conditions need for a row, in batches of 8192 rows.

#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, Float64Array, StringArray};
use streamjob_core::expr::{CompiledExpr, DataKind, Expr};

const ROWS: usize = 8192;
const ROUNDS: usize = 2000;

fn main() {
    let scores: Float64Array = (0..ROWS).map(|row| Some((row % 97) as f64 / 10.0 - 4.0)).collect();
    let sparse: Float64Array = (0..ROWS).map(|row| (row % 7 != 0).then_some(row as f64)).collect();
    let sites: StringArray = (0..ROWS).map(|row| Some(["north", "south", "east"][row % 3])).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(scores), Arc::new(sparse), Arc::new(sites)];
    let kinds = [("score", DataKind::Float64), ("sparse", DataKind::Float64), ("site", DataKind::Utf8)];
    let kinds = kinds.map(|(name, kind)| (name.to_string(), kind));
    let column = |name: &str| format!(r#"{{"kind":"column","name":"{name}"}}"#);
    let literal = |value: &str| format!(r#"{{"kind":"literal","value":{value}}}"#);
    let call =
        |function: &str, args: &[String]| format!(r#"{{"kind":"call","function":"{function}","args":[{}]}}"#, args.join(","));
    let above = call("gt", &[call("abs", &[column("score")]), literal("3")]);
    let north = call("eq", &[column("site"), literal("\"north\"")]);
    let cases = [
        ("score > 3", call("gt", &[column("score"), literal("3")])),
        ("abs(score) > 3", above.clone()),
        ("sparse > 3, with nulls", call("gt", &[column("sparse"), literal("3")])),
        ("site = 'north'", north.clone()),
        ("abs(score) > 3 and site = 'north'", call("and", &[above, north])),
    ];
    for (name, json) in cases {
        let expr: Expr = serde_json::from_str(&json).expect("the expression is valid");
        let compiled = CompiledExpr::compile_condition(&expr, &kinds).expect("the expression is valid");
        let mut best = f64::INFINITY;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            std::hint::black_box(compiled.evaluate_mask(std::hint::black_box(&columns), ROWS).expect("the columns fit"));
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("{name:<40} {:>8.2} ns/row", best * 1e9 / ROWS as f64);
    }
}
