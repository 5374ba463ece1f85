//! `kpkeys parts`: where each point of overhead goes, beside what the series published of it.
//!
//! The series was measured twice: with register switches alone, since setting keys did nothing by accident, and with both. Its second table
//! less its first is what keys cost. Here the same is measured on purpose, in the same blocks, with more parts.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use kpkeys_stats::compare::Reference;
use kpkeys_stats::parts::{PartsRow, Points, Step, take_apart};
use kpkeys_stats::record::{Mode, Recording};
use serde::Serialize;

use crate::bench::SAMPLES_FILE;
use crate::reference;
use crate::render::{self, Format, Screen};
use crate::usage::UsageError;

const EXAMPLES: &str = "\
Examples:
  kpkeys bench --parts --out results          measures them
  kpkeys parts results                        prints them again
  kpkeys parts results --format markdown      for a page";

/// The options of `kpkeys parts`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Folder of a `bench --parts --out`
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// How to print it
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Rows taken apart, and what follows for the series' conclusions.
#[derive(Serialize)]
pub struct Report {
    /// What each step is.
    pub steps: BTreeMap<&'static str, &'static str>,
    /// The rows.
    pub rows: Vec<Row>,
    /// What the series concludes, and whether it holds here.
    pub conclusions: Vec<Conclusion>,
}

/// One row, here and as published.
#[derive(Serialize)]
pub struct Row {
    /// Measured here.
    #[serde(flatten)]
    pub here: PartsRow,
    /// What the series published of the same steps, in points.
    pub series: BTreeMap<&'static str, f64>,
}

/// A conclusion of the series.
#[derive(Serialize)]
pub struct Conclusion {
    /// What it says.
    pub claim: &'static str,
    /// Whether it holds here; none if that was not measured, or is not known.
    pub holds: Option<bool>,
    /// The same in a sentence, with the figures.
    pub sentence: String,
}

/// Prints the parts of a recorded run.
///
/// # Errors
///
/// [`UsageError`] for a folder that holds no run with parts.
pub fn run(options: &Options) -> Result<()> {
    let file = options.folder.join(SAMPLES_FILE);
    let recording = read(&file)?;
    write(&recording, options.format)
}

fn read(file: &Path) -> Result<Recording, UsageError> {
    Recording::read(file).map_err(|error| {
        UsageError(format!("{error}; expected a folder of `kpkeys bench --parts --out`"))
    })
}

/// Prints the parts of a recording.
///
/// # Errors
///
/// [`UsageError`] for one without parts.
pub fn write(recording: &Recording, format: Format) -> Result<()> {
    let report = Report::of(recording)?;
    let screen = Screen::of_stdout();
    Ok(render::write_parts(&mut io::stdout().lock(), &report, format, screen)?)
}

/// How far from the published figure something may be that still is "about" it, in points.
const ABOUT: f64 = 1.0;

impl Report {
    fn of(recording: &Recording) -> Result<Report> {
        let rows = take_apart(recording)?;
        if rows.is_empty() {
            let why =
                "no part of a mode was measured in this run; `kpkeys bench --parts` measures them";
            return Err(UsageError(why.into()).into());
        }
        let series = Series::published()?;
        let rows: Vec<Row> =
            rows.into_iter().map(|here| Row { series: series.of(&here), here }).collect();
        let conclusions = vec![keys_cost_four_points(&rows), bulk_allocation_helps(&rows)];
        let steps = Step::ALL.map(|step| (step.name, step.about)).into();
        Ok(Report { steps, rows, conclusions })
    }
}

/// The two tables of the series.
struct Series {
    switches: Reference,
    whole: Reference,
}

impl Series {
    fn published() -> Result<Series> {
        let (switches, whole) = ("v5-switch-only", "v5-amended");
        Ok(Series {
            switches: reference::find_effects(switches)?,
            whole: reference::find_effects(whole)?,
        })
    }

    /// The steps that can be told from both tables.
    fn of(&self, row: &PartsRow) -> BTreeMap<&'static str, f64> {
        let find = |table: &Reference, mode: Mode| {
            let same = |other: &&kpkeys_stats::compare::ReferenceRow| {
                other.result_class == row.result_class && other.benchmark == row.benchmark
            };
            Some(table.rows.iter().find(same)?.modes.get(&mode)?.effect_pct)
        };
        let (switches, whole) = (|mode| find(&self.switches, mode), |mode| find(&self.whole, mode));
        let keys = |mode| Some(whole(mode)? - switches(mode)?);
        let steps = [
            ("unbatched-windows", switches(Mode::Unbatched)),
            ("unbatched-keys", keys(Mode::Unbatched)),
            ("batched-windows", switches(Mode::Batched)),
            ("batched-keys", keys(Mode::Batched)),
            ("batched", whole(Mode::Batched)),
        ];
        steps.into_iter().filter_map(|(name, points)| Some((name, points?))).collect()
    }
}

/// The rows of fork that have a step, with what it came to.
fn of_fork<'r>(rows: &'r [Row], step: &'static str) -> Vec<(&'r Row, &'r Points)> {
    let forks = rows.iter().filter(|row| row.here.benchmark == "fork");
    forks.filter_map(|row| Some((row, row.here.steps.get(step)?))).collect()
}

fn keys_cost_four_points(rows: &[Row]) -> Conclusion {
    const STEP: &str = "batched-keys";
    let forks = of_fork(rows, STEP);
    let about = |(row, points): &(&Row, &Points)| {
        let series = row.series.get(STEP)?;
        let (low, high) = (points.low?, points.high?);
        Some(low <= series + ABOUT && series - ABOUT <= high)
    };
    let published: Vec<String> =
        forks.iter().filter_map(|(row, _)| Some(format!("{:.1}", row.series.get(STEP)?))).collect();
    Conclusion::new(
        "setting the keys of page-table pages costs about 4 points of a fork",
        forks.iter().map(about).collect(),
        &format!("the series: {}; here: {}", published.join(" and "), told(&forks)),
    )
}

fn bulk_allocation_helps(rows: &[Row]) -> Conclusion {
    let forks = of_fork(rows, "batched-pool");
    let helps = |(_, points): &(&Row, &Points)| Some(points.high? < 0.0);
    Conclusion::new(
        "allocating page-table pages in bulk should help",
        forks.iter().map(helps).collect(),
        &format!("the series measured none; here the pool changes {}", told(&forks)),
    )
}

fn told(forks: &[(&Row, &Points)]) -> String {
    let each = |(row, points): &(&Row, &Points)| {
        format!("{} by {} points", row.here.result_class, render::points(points))
    };
    if forks.is_empty() {
        return "not measured".to_owned();
    }
    forks.iter().map(each).collect::<Vec<_>>().join(", ")
}

impl Conclusion {
    /// It holds if it does in every row, and does not if in none.
    fn new(claim: &'static str, rows: Option<Vec<bool>>, figures: &str) -> Conclusion {
        let rows = rows.filter(|rows| !rows.is_empty());
        let (holds, verdict) = match rows {
            None => (None, "is not decided here"),
            Some(rows) if rows.iter().all(|held| *held) => (Some(true), "holds here"),
            Some(rows) if rows.iter().any(|held| *held) => {
                (Some(false), "holds in some of these rows only")
            }
            Some(_) => (Some(false), "does not hold here"),
        };
        let sentence = format!("That {claim} {verdict} ({figures}).");
        Conclusion { claim, holds, sentence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(
        class: &str,
        step: &'static str,
        (low, high): (f64, f64),
        series: &[(&'static str, f64)],
    ) -> Row {
        let points = Points {
            points: f64::midpoint(low, high),
            low: Some(low),
            high: Some(high),
            blocks: 12,
        };
        let steps = [(step.to_owned(), points)].into();
        let here = PartsRow { benchmark: "fork".into(), result_class: class.into(), steps };
        Row { here, series: series.iter().copied().collect() }
    }

    #[test]
    fn the_series_keys_cost_four_points_of_a_fork() {
        let series = Series::published().unwrap();
        let fork = row("fork: h:0", "batched", (0.0, 1.0), &[]);
        let steps = series.of(&fork.here);
        assert!((steps["batched-keys"] - 4.32).abs() < 1e-9, "{steps:?}");
        assert!((steps["batched-windows"] + 0.97).abs() < 1e-9);
        assert_eq!(steps["unbatched-windows"], 217.31);
    }

    #[test]
    fn a_conclusion_holds_where_every_row_bears_it_out() {
        let keys =
            |low, high| row("fork: h:0", "batched-keys", (low, high), &[("batched-keys", 4.3)]);
        let holds = |rows: &[Row]| keys_cost_four_points(rows).holds;
        assert_eq!(holds(&[keys(3.0, 3.5)]), Some(true));
        assert_eq!(holds(&[keys(3.0, 3.5), keys(0.5, 1.5)]), Some(false));
        assert_eq!(holds(&[]), None);
        let sentence = keys_cost_four_points(&[keys(0.5, 1.5)]).sentence;
        assert!(
            sentence.contains("does not hold here") && sentence.contains("the series: 4.3"),
            "{sentence}"
        );
        let pool = |low, high| {
            bulk_allocation_helps(&[row("fork: h:0", "batched-pool", (low, high), &[])]).holds
        };
        assert_eq!((pool(-2.0, -1.0), pool(-2.0, 0.5)), (Some(true), Some(false)));
    }
}
