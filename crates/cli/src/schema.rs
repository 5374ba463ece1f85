//! `kpkeys schema`: what the command's JSON looks like, as JSON Schema.
//!
//! The schemas are made from the types that are printed, and published in `docs/schema`. Fields are only added: a file there that
//! differs from what the types say is a failing test, and one that loses a field is a broken promise.

use std::io::{self, Write};

use anyhow::Result;
use kpkeys_stats::record::Record;
use kpkeys_stats::table::Table;
use schemars::{Schema, schema_for};

use crate::usage::UsageError;
use crate::{compare, history};

/// What has a schema.
const NAMES: [&str; 4] = ["table", "samples", "comparison", "history"];

/// Prints the schema of that name.
///
/// # Errors
///
/// [`UsageError`] for a name that none has.
pub fn run(name: &str) -> Result<()> {
    let schema = of(name).ok_or_else(|| UsageError::unknown("schema", name, NAMES))?;
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &schema)?;
    Ok(writeln!(out)?)
}

fn of(name: &str) -> Option<Schema> {
    match name {
        "table" => Some(schema_for!(Table)),
        "samples" => Some(schema_for!(Record)),
        "comparison" => Some(schema_for!(compare::Report)),
        "history" => Some(schema_for!(history::History)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::{env, fs};

    /// Every property of a schema, by its path, and every word that a field may be.
    fn promises(at: &str, value: &serde_json::Value, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    match name.as_str() {
                        "properties" => {
                            let names =
                                value.as_object().into_iter().flat_map(serde_json::Map::keys);
                            found.extend(names.map(|property| format!("{at}/{property}")));
                        }
                        "const" => _ = found.insert(format!("{at}={value}")),
                        "enum" => {
                            let words = value.as_array().into_iter().flatten();
                            found.extend(words.map(|word| format!("{at}={word}")));
                        }
                        _ => {}
                    }
                    promises(&format!("{at}/{name}"), value, found);
                }
            }
            // Where in a list it stands says nothing.
            serde_json::Value::Array(values) => {
                values.iter().for_each(|value| promises(at, value, found));
            }
            _ => {}
        }
    }

    #[test]
    fn the_published_schemas_are_those_of_the_types_and_lose_nothing() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema");
        for name in NAMES {
            let file = folder.join(format!("{name}.json"));
            let schema = serde_json::to_value(of(name).unwrap()).unwrap();
            let published = fs::read_to_string(&file).unwrap_or_default();
            let was: serde_json::Value = serde_json::from_str(&published).unwrap();
            let (mut before, mut now) = (BTreeSet::new(), BTreeSet::new());
            promises("", &was, &mut before);
            promises("", &schema, &mut now);
            let lost: Vec<_> = before.difference(&now).collect();
            assert!(lost.is_empty(), "{name}.json promises what is printed no more: {lost:?}");
            if env::var_os("KPKEYS_BLESS").is_some() {
                let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
                fs::write(&file, text).unwrap();
            } else {
                assert_eq!(was, schema, "{name}.json: KPKEYS_BLESS=1 writes it anew");
            }
        }
    }
}
