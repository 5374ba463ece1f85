//! `kpkeys table`: the table of a kept run once more, whole or in part.
//!
//! It is made anew from the samples, where they were kept. Intervals, p-values and flags are those of the whole run: what is left out here was
//! measured, and counts in the correction for many comparisons.

use std::io;
use std::path::PathBuf;

use anyhow::Result;
use kpkeys_stats::record::Mode;
use wildmatch::WildMatch;

use crate::bench;
use crate::compare::table_of;
use crate::render::{self, Format, Screen};
use crate::usage::UsageError;

const EXAMPLES: &str = "\
Examples:
  kpkeys table results                                  as bench printed it
  kpkeys table results --modes fused --rows 'fork*'     a part of it
  kpkeys table results --format markdown                for a page";

/// The options of `kpkeys table`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Folder of a `bench --out`
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Rows, by name with * and ?; may be given again [default: all]
    #[arg(long, value_name = "GLOB")]
    rows: Vec<String>,
    /// Modes, separated by commas [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    modes: Vec<String>,
    /// Print the event counts too
    #[arg(long)]
    counts: bool,
    /// How to print it
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Prints it. Returns whether the gates of the run held.
///
/// # Errors
///
/// [`UsageError`] for a folder that holds no run, and for rows and modes that do not exist.
pub fn run(options: &Options) -> Result<bool> {
    let mut table = table_of(&options.folder)?;
    keep_rows(&mut table.rows, |row| &row.result_class, &options.rows)?;
    if !options.modes.is_empty() {
        let modes = bench::plan::modes(&options.modes, false)?;
        let shown = |mode: &Mode| matches!(mode, Mode::Off | Mode::Aa) || modes.contains(mode);
        table.rows.iter_mut().for_each(|row| row.modes.retain(|mode, _| shown(mode)));
    }
    let out = &mut io::stdout().lock();
    render::write_results(out, &table, options.format, options.counts, Screen::of_stdout())?;
    Ok(table.gates_hold())
}

/// Keeps the rows that some pattern names; all, without patterns.
///
/// # Errors
///
/// [`UsageError`] for a pattern that names none, with the rows there are.
pub fn keep_rows<R>(
    rows: &mut Vec<R>,
    name: impl Fn(&R) -> &str,
    patterns: &[String],
) -> Result<(), UsageError> {
    let named = |row: &R, pattern: &String| WildMatch::new(pattern).matches(name(row));
    if let Some(none) = patterns.iter().find(|pattern| !rows.iter().any(|row| named(row, pattern)))
    {
        let valid: Vec<&str> = rows.iter().map(&name).collect();
        return Err(UsageError(format!(
            "no row matches `{none}`; the rows of this run are:\n  {}",
            valid.join("\n  ")
        )));
    }
    rows.retain(|row| patterns.is_empty() || patterns.iter().any(|pattern| named(row, pattern)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_by_pattern_and_a_pattern_without_rows_is_refused() {
        let all = || vec!["fork: h:0", "fork: h:1", "munmap: h:0"];
        let kept = |patterns: &[&str]| {
            let mut rows = all();
            let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.into()).collect();
            keep_rows(&mut rows, |row| row, &patterns).map(|()| rows)
        };
        assert_eq!(kept(&[]).unwrap(), all());
        assert_eq!(kept(&["fork*", "munmap: h:0"]).unwrap(), all());
        assert_eq!(kept(&["*h:0"]).unwrap(), ["fork: h:0", "munmap: h:0"]);
        let error = kept(&["fork*", "spoon*"]).unwrap_err().0;
        assert!(error.starts_with("no row matches `spoon*`") && error.contains("munmap: h:0"));
    }
}
