//! What a page is made of: a run's table, its blocks, and the attacks recorded beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use kpkeys_stats::record::{Mode, Recording};
use kpkeys_stats::reduce::{RowMeasurements, reduce};
use kpkeys_stats::table::{Row, Table};
use serde::Deserialize;

use crate::bench::SAMPLES_FILE;
use crate::compare::table_of;

/// One run.
pub struct Source {
    /// The folder's name.
    pub name: String,
    /// Its table.
    pub table: Table,
    /// Its blocks; none where only the table was kept.
    rows: Vec<RowMeasurements>,
    /// Attacks recorded beside it.
    pub attacks: Vec<Attacks>,
}

/// What `kpkeys attack --format json` printed.
#[derive(Deserialize)]
pub struct Attacks {
    /// The emulated machine.
    pub on: String,
    /// What protected it.
    pub backend: String,
    /// Every attack.
    pub results: Vec<Attack>,
}

/// One attack.
#[derive(Deserialize)]
pub struct Attack {
    /// The mode it was made in.
    pub mode: String,
    /// What it was aimed at.
    pub target: String,
    /// How it wrote.
    pub primitive: String,
    /// What came of it.
    pub outcome: String,
}

impl Source {
    /// Reads a folder of `bench --out`.
    ///
    /// # Errors
    ///
    /// [`UsageError`](crate::usage::UsageError) for a folder that holds no run; what is wrong in a file that it holds.
    pub fn read(folder: &Path) -> Result<Source> {
        let table = table_of(folder)?;
        let samples = folder.join(SAMPLES_FILE);
        let rows =
            if samples.exists() { reduce(&Recording::read(&samples)?)?.rows } else { Vec::new() };
        let name = folder.file_name().unwrap_or(folder.as_os_str());
        Ok(Source {
            name: name.to_string_lossy().into_owned(),
            table,
            rows,
            attacks: attacks(folder)?,
        })
    }

    /// The effect in each block, in percent.
    pub fn blocks(&self, row: &Row, mode: Mode) -> Vec<f64> {
        let named = |known: &&RowMeasurements| {
            (&known.benchmark, &known.result_class) == (&row.benchmark, &row.result_class)
        };
        let ratios = self.rows.iter().find(named).map(|row| row.log_ratios(mode));
        ratios.into_iter().flatten().map(|ratio| ratio.exp_m1() * 100.0).collect()
    }

    /// Its name for a file.
    pub fn slug(&self) -> String {
        self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
    }
}

fn attacks(folder: &Path) -> Result<Vec<Attacks>> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("attack") && name.ends_with(".json")
        })
        .collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| {
            format!("{} is not what kpkeys attack --format json prints", path.display())
        })
    };
    files.iter().map(read).collect()
}

impl Attacks {
    /// The modes, in order.
    pub fn modes(&self) -> Vec<&str> {
        let mut modes = Vec::new();
        for attack in &self.results {
            if !modes.contains(&attack.mode.as_str()) {
                modes.push(&attack.mode);
            }
        }
        modes
    }

    /// For each target and primitive, what came of it in each mode.
    pub fn matrix(&self) -> BTreeMap<(&str, &str), BTreeMap<&str, &str>> {
        let mut matrix: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for Attack { mode, target, primitive, outcome } in &self.results {
            let cell = matrix.entry((target.as_str(), primitive.as_str())).or_default();
            cell.insert(mode.as_str(), outcome.as_str());
        }
        matrix
    }
}
