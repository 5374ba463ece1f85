//! `kpkeys history`: runs by commit and machine over time, and where something changed.
//!
//! | module | concept |
//! |---|---|
//! | [`series`] | one value over commits, with what its points are uncertain by, and its changes |
//! | [`page`] | a page of lines |

mod page;
mod series;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::bench::{SAMPLES_FILE, TABLE_FILE, write_whole};
use crate::compare::table_of;
use crate::render::{self, Format, Screen};
use crate::usage::UsageError;
pub use page::value;
pub use series::{ASSUMED_LAYOUT_PCT, History, Series};

const EXAMPLES: &str = "\
Examples:
  kpkeys history results                       what changed, row by row
  kpkeys history results -o history.html       a page of lines
  kpkeys history results --format json         every point

results holds folders of `bench --out`, one a run, and instructions.jsonl, to which
`cargo xtask history results` adds what the gate counts at each commit.";

/// The options of `kpkeys history`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// A folder of folders of `bench --out`
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Write a page of lines to this file instead
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How to print it
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// The file of instruction counts.
const INSTRUCTIONS_FILE: &str = "instructions.jsonl";

/// The gate's counts at one commit.
#[derive(Clone, Debug, Deserialize)]
pub struct Counted {
    /// The commit.
    pub commit: String,
    /// When it was made.
    pub date: String,
    /// What compiled it: counts of two compilers are two histories.
    pub compiler: String,
    /// Instructions of one operation, by its name.
    pub counts: std::collections::BTreeMap<String, f64>,
}

/// Reads the folder and prints or writes what changed.
///
/// # Errors
///
/// [`UsageError`] for a folder without runs; what is wrong in a file that is there.
pub fn run(options: &Options) -> Result<()> {
    let folder = &options.folder;
    let mut runs = Vec::new();
    for folder in folders(folder)? {
        runs.push(table_of(&folder)?);
    }
    let counted = counted(&folder.join(INSTRUCTIONS_FILE))?;
    if runs.is_empty() && counted.is_empty() {
        let why = format!("no folder of bench --out and no {INSTRUCTIONS_FILE}");
        return Err(UsageError(format!("{} holds {why}", folder.display())).into());
    }
    let undated = runs.iter().filter(|run| run.origin.is_none()).count();
    if undated > 0 {
        let all = runs.len();
        eprintln!(
            "kpkeys: {undated} of {all} runs are of a version that named no commit; they are left out"
        );
    }
    let history = History::of(&runs, &counted);
    match &options.output {
        Some(file) => write_whole(file, page::page(&history)?.as_bytes())
            .with_context(|| format!("cannot write {}", file.display())),
        None => {
            let out = &mut io::stdout().lock();
            Ok(render::write_history(out, &history, options.format, Screen::of_stdout())?)
        }
    }
}

/// Every folder below this one, at any depth, that holds a run, in order.
fn folders(root: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(root)
        .map_err(|error| UsageError(format!("{} cannot be read: {error}", root.display())))?;
    let mut inside: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    inside.sort();
    let mut found = Vec::new();
    for folder in inside {
        if folder.join(SAMPLES_FILE).exists() || folder.join(TABLE_FILE).exists() {
            found.push(folder);
        } else {
            found.extend(folders(&folder)?);
        }
    }
    Ok(found)
}

fn counted(file: &Path) -> Result<Vec<Counted>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let line = |(index, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| {
            let expected = "expected commit, date, compiler and counts";
            format!("{}:{}: no line of counts; {expected}", file.display(), index + 1)
        })
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(line).collect()
}
