//! What can be compared, by what is written on the command line.

use std::path::Path;

use anyhow::{Context, Result};
use kpkeys_stats::record::Recording;
use kpkeys_stats::side::Side;
use kpkeys_stats::table::Table;

use crate::bench::{SAMPLES_FILE, TABLE_FILE, read_table};
use crate::reference;
use crate::usage::UsageError;

/// A folder of `bench --out`, a file of samples, a table in JSON, or the name of a published table.
///
/// # Errors
///
/// [`UsageError`] for what is none of these; what is wrong in a file that is one.
pub fn side(name: &str) -> Result<Side> {
    let path = Path::new(name);
    if path.is_dir() {
        return folder(path, name);
    }
    if path.is_file() {
        return file(path, name);
    }
    let published = reference::find_effects(name)
        .map_err(|error| UsageError(format!("{name} is no folder and no file, and an {error}")))?;
    Ok(Side::of_reference(&published))
}

/// A folder of `bench --out`.
///
/// # Errors
///
/// As [`side`].
pub fn folder(path: &Path, name: &str) -> Result<Side> {
    let samples = path.join(SAMPLES_FILE);
    if samples.exists() {
        return recording(&samples, name);
    }
    match read_table(path)? {
        Some(table) => Ok(Side::of_table(name, &table)),
        None => Err(no_run(name).into()),
    }
}

/// The table of a folder of `bench --out`, made anew from its samples where they are there.
///
/// # Errors
///
/// As [`side`].
pub fn table_of(folder: &Path) -> Result<Table> {
    let samples = folder.join(SAMPLES_FILE);
    if samples.exists() {
        return table(&Recording::read(&samples)?, &samples);
    }
    match read_table(folder)? {
        Some(table) => Ok(table),
        None => Err(no_run(&folder.display().to_string()).into()),
    }
}

fn table(recording: &Recording, samples: &Path) -> Result<Table> {
    Table::build(recording, &reference::graviton3())
        .with_context(|| format!("{} gives no table", samples.display()))
}

fn no_run(name: &str) -> UsageError {
    let expected = "expected a folder of bench --out";
    UsageError(format!(
        "{name} is no run: it holds neither {SAMPLES_FILE} nor {TABLE_FILE}; {expected}"
    ))
}

fn file(path: &Path, name: &str) -> Result<Side> {
    if path.extension().is_some_and(|extension| extension == "jsonl") {
        return recording(path, name);
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let table: Table = serde_json::from_str(&text).map_err(|error| {
        UsageError(format!("{name} is no table of bench --format json ({error})"))
    })?;
    Ok(Side::of_table(name, &table))
}

fn recording(samples: &Path, name: &str) -> Result<Side> {
    let recording = Recording::read(samples)?;
    let table = table(&recording, samples)?;
    Side::of_recording(name, &recording, &table)
        .with_context(|| format!("{} cannot be compared", samples.display()))
}
