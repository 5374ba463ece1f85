//! `kpkeys estimate`: what protection is expected to cost, before it is adopted.
//!
//! What each mode does is counted, exactly and anywhere; what that costs is a machine's. The two together are an expectation for every row
//! and mode, with how far it may be off. `--validate` sets it beside what was measured.
//!
//! | module | concept |
//! |---|---|
//! | [`costs`] | costs of CPUs with their sources, and costs that are given |
//! | [`measure`] | costs measured here, or recorded by a run |
//! | [`software`] | what modes execute beside events |

pub mod costs;
mod measure;
mod software;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use anyhow::Result;
use kpkeys_stats::cost::UnitCost;
use kpkeys_stats::predict::{Costs, Prediction};
use kpkeys_stats::record::{Counts, Mode, Unit};
use kpkeys_stats::table::{Effect, Row as MeasuredRow, Table};
use serde::Serialize;

use crate::bench;
use crate::compare::table_of;
use crate::render::{self, Format, Screen};
use crate::usage::UsageError;
use software::Instructions;

const EXAMPLES: &str = "\
Examples:
  kpkeys estimate                                      every row and mode, counted and timed here, costs measured here
  kpkeys estimate --trace make.trace                   a recorded command
  kpkeys estimate --from results --machine graviton3   counts and baselines of a run, costs of another CPU
  kpkeys estimate --from results --switch-ns 12.5-20 --key-change-ns 600
  kpkeys estimate --validate results                   expected beside measured, by the costs that the run recorded
  kpkeys estimate --machines                           the CPUs whose costs are known, with sources";

/// The options of `kpkeys estimate`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Counts and baselines from this results folder, instead of counting and timing the baseline here
    #[arg(long, value_name = "DIR", conflicts_with_all = ["trace", "rows"])]
    from: Option<PathBuf>,
    /// Set the expectation beside what was measured in this results folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["from", "trace", "rows"])]
    validate: Option<PathBuf>,
    /// A recorded command, instead of the rows of the evaluation
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Rows, by name with * and ?; may be given again [default: all]
    #[arg(long, value_name = "GLOB")]
    rows: Vec<String>,
    /// Modes, separated by commas [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    modes: Vec<String>,
    /// Costs of a CPU of the list, instead of those the run recorded, or measuring them here
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
    /// How windows are opened there
    #[arg(long, value_name = "BACKEND", default_value = "mock", requires = "machine")]
    backend: String,
    /// List the CPUs whose costs are known, with their sources
    #[arg(long)]
    machines: bool,
    /// Nanoseconds of a switch with its barrier: a number, or a range such as 12.5-20
    #[arg(long, value_name = "NS", value_parser = costs::parse)]
    switch_ns: Option<UnitCost>,
    /// Nanoseconds of the barrier alone
    #[arg(long, value_name = "NS", value_parser = costs::parse)]
    barrier_ns: Option<UnitCost>,
    /// What modes execute, as `cargo xtask instructions` wrote it at the commit of the run [default: that of this version]
    #[arg(long, value_name = "FILE")]
    instructions: Option<PathBuf>,
    /// Nanoseconds of a key change's TLB flush
    #[arg(long, value_name = "NS", value_parser = costs::parse)]
    key_change_ns: Option<UnitCost>,
    /// How to print it
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Everything that was estimated.
#[derive(Serialize)]
pub struct Report {
    /// The costs.
    pub costs: Costs,
    /// Why they are worth nothing, if they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worthless: Option<String>,
    /// Whether baselines are this machine's and the costs another's.
    pub foreign_costs: bool,
    /// The rows.
    pub rows: Vec<Row>,
    /// How many expectations came true, by mode, where there is something measured.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub validated: BTreeMap<Mode, Validated>,
}

/// A row.
#[derive(Serialize)]
pub struct Row {
    /// What it belongs to.
    pub benchmark: String,
    /// Its name.
    pub result_class: String,
    /// The time of its baseline.
    pub baseline_ns: f64,
    /// What is expected of each mode.
    pub modes: BTreeMap<Mode, Expected>,
}

/// One mode of a row.
#[derive(Serialize)]
pub struct Expected {
    /// The expectation.
    #[serde(flatten)]
    pub prediction: Prediction,
    /// What was measured, with `--validate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured_pct: Option<f64>,
    /// Whether that is within the expectation's ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub came_true: Option<bool>,
    /// Whether what was measured, with its 95 % interval, lies wholly outside of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contradicted: Option<bool>,
}

/// How good expectations were.
#[derive(Default, Serialize)]
pub struct Validated {
    /// Rows with both.
    pub rows: usize,
    /// Rows measured within the expectation's ends.
    pub within_stated: usize,
    /// Rows whose measured 95 % interval lies wholly outside of the ends.
    pub contradicted: usize,
    /// Rows measured within 2 points of the expectation.
    pub within_2_points: usize,
    /// Rows measured within a tenth of what is expected to be added.
    pub within_a_tenth: usize,
}

/// Estimates, and prints it.
///
/// # Errors
///
/// [`UsageError`] for a machine, a row or a mode that does not exist, or a folder without counts.
pub fn run(options: &Options) -> Result<()> {
    let mut out = io::stdout().lock();
    if options.machines {
        return Ok(render::write_known_costs(
            &mut out,
            &costs::KNOWN,
            options.format,
            Screen::of_stdout(),
        )?);
    }
    let modes = bench::plan::modes(&options.modes, false)?;
    let folder = options.from.as_deref().or(options.validate.as_deref());
    let table = match folder {
        Some(folder) => table_of(folder)?,
        None => {
            bench::count_and_time_baseline(options.trace.as_deref(), &options.rows, &options.modes)?
        }
    };
    let instructions = Instructions::read(options.instructions.as_deref())?;
    let costs = costs_of(options, &table)?;
    let report = Report::of(&table, costs, &instructions, &modes, options)?;
    Ok(render::write_estimate(&mut out, &report, options.format, Screen::of_stdout())?)
}

/// The costs that were asked for; else those of the machine that the baselines are of.
fn costs_of(options: &Options, table: &Table) -> Result<Costs> {
    let of_a_run = options.from.is_some() || options.validate.is_some();
    let mut costs = match &options.machine {
        Some(name) => costs::known(name, &options.backend)?,
        None => match table.switch_ns.filter(|_| of_a_run) {
            Some(switch_ns) => measure::recorded(table.machine.cpu.clone(), switch_ns),
            None => measure::here(table.machine.cpu.clone()),
        },
    };
    let mut given = Vec::new();
    if let Some(cost) = options.switch_ns {
        costs.switch = cost;
        given.push("switch");
    }
    if let Some(cost) = options.barrier_ns {
        costs.barrier = cost;
        given.push("barrier");
    }
    if let Some(cost) = options.key_change_ns {
        costs.key_change = cost;
        given.push("key change");
    }
    if !given.is_empty() {
        costs.source = format!("{} given; the rest: {}", given.join(", "), costs.source);
    }
    Ok(costs)
}

impl Report {
    fn of(
        table: &Table,
        costs: Costs,
        instructions: &Instructions,
        modes: &[Mode],
        options: &Options,
    ) -> Result<Report> {
        let measured = options.validate.is_some();
        let row = |row| estimate(row, &costs, instructions, modes, measured);
        let rows = table.rows.iter().filter_map(row);
        let rows: Vec<Row> = rows.collect();
        if rows.is_empty() {
            let why = "nothing to estimate from: no row has counts of its baseline and of a mode, and a time in nanoseconds";
            return Err(UsageError(why.into()).into());
        }
        let validated = if measured { validate(&rows) } else { BTreeMap::new() };
        let worthless = measure::worthless(&costs)
            .filter(|_| options.machine.is_none() && options.switch_ns.is_none());
        Ok(Report { costs, worthless, foreign_costs: options.machine.is_some(), rows, validated })
    }
}

/// A row that was counted.
fn estimate(
    row: &MeasuredRow,
    costs: &Costs,
    instructions: &Instructions,
    modes: &[Mode],
    measured: bool,
) -> Option<Row> {
    let counts = |mode: Mode| -> Option<&Counts> { row.modes.get(&mode)?.counts.as_ref() };
    let (off, baseline_ns) = (counts(Mode::Off)?, baseline_ns(row)?);
    let expected = |mode: &Mode| {
        let software = instructions.of(&row.result_class, *mode)?;
        let prediction = costs.predict(baseline_ns, off, counts(*mode)?, software);
        let effect = row.effect(*mode).filter(|_| measured);
        Some((*mode, Expected::of(prediction, effect)))
    };
    let modes: BTreeMap<Mode, Expected> = modes.iter().filter_map(expected).collect();
    let (benchmark, result_class) = (row.benchmark.clone(), row.result_class.clone());
    (!modes.is_empty()).then_some(Row { benchmark, result_class, baseline_ns, modes })
}

impl Expected {
    /// An expectation, beside what was measured if there is anything.
    fn of(prediction: Prediction, measured: Option<&Effect>) -> Expected {
        let Prediction { low_pct, high_pct, .. } = prediction;
        let within = |effect: &Effect| (low_pct..=high_pct).contains(&effect.effect_pct);
        let outside = |effect: &Effect| {
            let (low, high) = (effect.ci_low_pct?, effect.ci_high_pct?);
            Some(high < low_pct || low > high_pct)
        };
        Expected {
            prediction,
            measured_pct: measured.map(|effect| effect.effect_pct),
            came_true: measured.map(within),
            contradicted: measured.and_then(outside),
        }
    }
}

fn validate(rows: &[Row]) -> BTreeMap<Mode, Validated> {
    let mut validated: BTreeMap<Mode, Validated> = BTreeMap::new();
    for (mode, expected) in rows.iter().flat_map(|row| &row.modes) {
        let Some(measured) = expected.measured_pct else { continue };
        let of_mode = validated.entry(*mode).or_default();
        let off_by = (measured - expected.prediction.effect_pct).abs();
        of_mode.rows += 1;
        of_mode.within_stated += usize::from(expected.came_true == Some(true));
        of_mode.contradicted += usize::from(expected.contradicted == Some(true));
        of_mode.within_2_points += usize::from(off_by <= 2.0);
        of_mode.within_a_tenth += usize::from(off_by <= 0.1 * expected.prediction.effect_pct.abs());
    }
    validated
}

fn baseline_ns(row: &MeasuredRow) -> Option<f64> {
    row.baseline.filter(|_| row.unit == Some(Unit::Ns))
}
