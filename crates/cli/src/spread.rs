//! `kpkeys spread`: what the same measurement gives with the code laid out differently.
//!
//! A build that differs in an unrelated line moves hot loops across cache lines, and the effects of small rows with them. No interval
//! of one program covers that. Runs of several builds of one commit do: their smallest and largest effect stand side by side here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use kpkeys_stats::flag::Flag;
use kpkeys_stats::record::{Machine, Mode};
use kpkeys_stats::table::{Row, Table};
use serde::Serialize;

use crate::compare::table_of;
use crate::render::{self, Screen};
use crate::table::keep_rows;
use crate::usage::UsageError;

const EXAMPLES: &str = "\
Examples:
  kpkeys spread results/*                     what they gave
  kpkeys spread --format markdown results/*   for a page
  kpkeys spread --headline results/*          the effects alone, if they are fit to be quoted

kpkeys bench --layouts 4 --out results builds several layouts and fills such folders.";

/// The options of `kpkeys spread`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Folders of `bench --out`, each of another build of one commit; those of several machines stand one below the other
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// Rows, by name with * and ?; may be given again [default: all]
    #[arg(long, value_name = "GLOB")]
    rows: Vec<String>,
    /// The effects alone, for a headline: refused for fewer than three layouts, or where a gate did not hold
    #[arg(long)]
    headline: bool,
    /// How to print it
    #[arg(long, value_enum, default_value = "table")]
    format: render::Format,
}

/// All machines.
#[derive(Serialize)]
pub struct Report {
    /// In the order in which they were named.
    pub machines: Vec<Spread>,
}

/// What several layouts gave on one machine.
#[derive(Serialize)]
pub struct Spread {
    /// The machine.
    pub machine: Machine,
    /// The commit that all of them were built from.
    pub commit: String,
    /// The layouts, by the names of their folders.
    pub layouts: Vec<Layout>,
    /// Blocks of each run.
    pub blocks: usize,
    /// The rows.
    pub rows: Vec<SpreadRow>,
}

/// One build and the run it made.
#[derive(Serialize)]
pub struct Layout {
    /// The name of its folder.
    pub name: String,
    /// SHA-256 of the program.
    pub build_hash: String,
    /// When its run was begun.
    pub started: String,
    /// Whether the gates of its run held.
    pub gates_hold: bool,
}

/// One row in every layout.
#[derive(Serialize)]
pub struct SpreadRow {
    /// What it belongs to.
    pub benchmark: String,
    /// Its name.
    pub result_class: String,
    /// Whether most of its baseline was recorded on another machine.
    pub baseline_recorded: bool,
    /// Smallest and largest baseline.
    pub baseline_ns: Option<Range>,
    /// The protecting modes.
    pub modes: BTreeMap<Mode, SpreadCell>,
}

/// One mode of one row in every layout.
#[derive(Serialize)]
pub struct SpreadCell {
    /// Smallest and largest effect in percent.
    pub effect_pct: Range,
    /// From the lowest to the highest end of the 95 % intervals: what noise and layout together leave open.
    pub interval_pct: Option<Range>,
    /// What all layouts say, at least three of them: fit for a headline.
    pub agreed: Option<Flag>,
    /// The flag in each layout, in their order.
    pub flags: Vec<Option<Flag>>,
    /// Smallest and largest share of the time with a window open, where that was counted.
    pub open_share: Option<Range>,
    /// Stores in the longest window of any.
    pub longest_window_stores: Option<u64>,
}

/// Ends of what was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Range {
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Range {
    /// None without values.
    fn of(values: impl Iterator<Item = f64>) -> Option<Range> {
        values.fold(None, |range, value| {
            let Range { low, high } = range.unwrap_or(Range { low: value, high: value });
            Some(Range { low: low.min(value), high: high.max(value) })
        })
    }
}

/// Reads the folders and prints what they have in common. Returns whether the gates of every run held.
///
/// # Errors
///
/// A folder without a table, or [`UsageError`] for runs that cannot stand side by side.
pub fn run(options: &Options) -> Result<bool> {
    let mut report = of_folders(&options.folders)?;
    for spread in &mut report.machines {
        keep_rows(&mut spread.rows, |row| &row.result_class, &options.rows)?;
    }
    let (out, screen) = (&mut io::stdout().lock(), Screen::of_stdout());
    if options.headline {
        report.machines.iter().try_for_each(Spread::require_headline)?;
        render::write_headline(out, &report, options.format, screen)?;
    } else {
        render::write_spread(out, &report, options.format, screen)?;
    }
    Ok(report.gates_hold())
}

impl Spread {
    /// Refuses what no headline may rest on. Effects that layouts do not agree about may be quoted, as the range they are.
    fn require_headline(&self) -> Result<(), UsageError> {
        let (cpu, layouts) = (&self.machine.cpu, self.layouts.len());
        if layouts < HEADLINE_LAYOUTS {
            let why = format!("{layouts} of {HEADLINE_LAYOUTS} layouts of the code on {cpu}");
            return Err(UsageError(format!(
                "{why}: a headline needs {HEADLINE_LAYOUTS}, since effects move with where the code lies; `kpkeys bench --layouts {HEADLINE_LAYOUTS}` runs them"
            )));
        }
        match self.layouts.iter().find(|layout| !layout.gates_hold) {
            Some(void) => Err(UsageError(format!(
                "the A/A gate of `{}` on {cpu} failed: its table is void, and no headline",
                void.name
            ))),
            None => Ok(()),
        }
    }
}

impl Report {
    /// Whether the gates of every run held.
    pub fn gates_hold(&self) -> bool {
        self.machines.iter().flat_map(|spread| &spread.layouts).all(|layout| layout.gates_hold)
    }
}

/// What the runs in these folders have in common.
///
/// # Errors
///
/// As [`run`].
pub fn of_folders(folders: &[PathBuf]) -> Result<Report> {
    let mut machines: Vec<Vec<Run>> = Vec::new();
    for folder in folders {
        let run = Run::read(folder)?;
        match machines.iter_mut().find(|runs| runs[0].table.machine == run.table.machine) {
            Some(runs) => runs.push(run),
            None => machines.push(vec![run]),
        }
    }
    let machines = machines.iter().map(|runs| spread(runs)).collect::<Result<_, _>>()?;
    Ok(Report { machines })
}

/// One folder.
struct Run {
    folder: PathBuf,
    table: Table,
}

impl Run {
    fn read(folder: &Path) -> Result<Run> {
        Ok(Run { folder: folder.to_owned(), table: table_of(folder)? })
    }

    /// What must be the same in all runs of a machine, by name.
    fn conditions(&self) -> Result<[(&'static str, String); 6], UsageError> {
        let origin = self.table.origin.as_ref().ok_or_else(|| {
            let folder = self.folder.display();
            UsageError(format!("{folder} does not say which program recorded it"))
        })?;
        Ok([
            ("commit", origin.commit.clone().unwrap_or_else(|| "not known".to_owned())),
            ("place", self.table.on.clone()),
            ("backend", self.table.backend.clone()),
            ("paging", self.table.paging.clone()),
            ("blocks", self.table.blocks.to_string()),
            ("rows", origin.rows.join(", ")),
        ])
    }
}

/// Sets the runs of one machine side by side.
fn spread(runs: &[Run]) -> Result<Spread, UsageError> {
    let first = &runs[0];
    let conditions = first.conditions()?;
    let mut builds = BTreeSet::new();
    for run in runs {
        for ((name, here), (_, there)) in conditions.iter().zip(run.conditions()?) {
            if *here != there {
                let [one, other] = [first, run].map(|run| run.folder.display());
                return Err(UsageError(format!(
                    "{name} is {here} in {one} and {there} in {other}"
                )));
            }
        }
        let build = run.table.origin.as_ref().map(|origin| &origin.build_hash);
        if !builds.insert(build) {
            let folder = run.folder.display();
            return Err(UsageError(format!(
                "{folder} was made by a build that another folder has"
            )));
        }
    }
    Ok(Spread {
        machine: first.table.machine.clone(),
        commit: conditions[0].1.clone(),
        layouts: runs.iter().filter_map(layout).collect(),
        blocks: first.table.blocks,
        rows: first.table.rows.iter().map(|row| spread_row(row, runs)).collect(),
    })
}

fn layout(run: &Run) -> Option<Layout> {
    let origin = run.table.origin.as_ref()?;
    let name = run.folder.file_name().unwrap_or(run.folder.as_os_str());
    Some(Layout {
        name: name.to_string_lossy().into_owned(),
        build_hash: origin.build_hash.clone(),
        started: origin.started.clone(),
        gates_hold: run.table.gates_hold(),
    })
}

fn spread_row(row: &Row, runs: &[Run]) -> SpreadRow {
    let same = |other: &&Row| {
        (&other.benchmark, &other.result_class) == (&row.benchmark, &row.result_class)
    };
    let rows: Vec<&Row> = runs.iter().filter_map(|run| run.table.rows.iter().find(same)).collect();
    let cells =
        Mode::PROTECTING.into_iter().filter_map(|mode| Some((mode, spread_cell(mode, &rows)?)));
    SpreadRow {
        benchmark: row.benchmark.clone(),
        result_class: row.result_class.clone(),
        baseline_recorded: row.baseline_recorded,
        baseline_ns: Range::of(rows.iter().filter_map(|row| row.baseline)),
        modes: cells.collect(),
    }
}

fn spread_cell(mode: Mode, rows: &[&Row]) -> Option<SpreadCell> {
    let effects = || rows.iter().filter_map(|row| row.effect(mode));
    let exposures = || rows.iter().filter_map(|row| row.modes.get(&mode)?.exposure.as_ref());
    let ends = effects().flat_map(|effect| [effect.ci_low_pct, effect.ci_high_pct]).flatten();
    Some(SpreadCell {
        effect_pct: Range::of(effects().map(|effect| effect.effect_pct))?,
        interval_pct: Range::of(ends),
        agreed: agreed(&effects().map(|effect| effect.flag).collect::<Vec<_>>()),
        flags: effects().map(|effect| effect.flag).collect(),
        open_share: Range::of(exposures().map(|exposure| exposure.open_share)),
        longest_window_stores: exposures().map(|exposure| exposure.longest_window_stores).max(),
    })
}

/// Fewest layouts that may speak for the others.
const HEADLINE_LAYOUTS: usize = 3;

/// The flag of all layouts, if they are enough.
fn agreed(flags: &[Option<Flag>]) -> Option<Flag> {
    let first = (*flags.first()?)?;
    let all = flags.len() >= HEADLINE_LAYOUTS && flags.iter().all(|flag| *flag == Some(first));
    all.then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_headline_needs_three_layouts_of_one_mind() {
        let (r, i) = (Some(Flag::Regression), Some(Flag::Improvement));
        assert_eq!(agreed(&[r, r, r]), r);
        assert_eq!(agreed(&[r, r]), None);
        assert_eq!(agreed(&[r, r, i]), None);
        assert_eq!(agreed(&[r, None, r]), None);
        assert_eq!(agreed(&[]), None);
    }

    #[test]
    fn a_headline_is_refused_for_one_layout_and_for_a_void_table() {
        let layout = |gates_hold| Layout {
            name: "as-built".into(),
            build_hash: "0".into(),
            started: String::new(),
            gates_hold,
        };
        let of = |layouts: Vec<Layout>| Spread {
            machine: Machine {
                cpu: "a CPU".into(),
                cpus: 2,
                arch: "x86_64".into(),
                os: String::new(),
                extra: serde_json::Map::new(),
            },
            commit: "0".into(),
            layouts,
            blocks: 12,
            rows: Vec::new(),
        };
        of(vec![layout(true), layout(true), layout(true)]).require_headline().unwrap();
        let one = of(vec![layout(true)]).require_headline().unwrap_err().0;
        assert!(one.contains("1 of 3 layouts") && one.contains("--layouts 3"), "{one}");
        let void = of(vec![layout(true), layout(false), layout(true)]).require_headline();
        assert!(void.unwrap_err().0.contains("`as-built` on a CPU failed"));
    }

    #[test]
    fn a_range_holds_all_there_is() {
        assert_eq!(Range::of([].into_iter()), None);
        let range = Range::of([3.4, -6.4, 1.0].into_iter());
        assert_eq!(range, Some(Range { low: -6.4, high: 3.4 }));
    }
}
