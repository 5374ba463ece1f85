//! `kpkeys instructions`: how many instructions each operation executes, with several backends side by side.
//!
//! On an emulated machine whose clock counts instructions, the clock the kernel reads around a row is an exact count of
//! what the row executed. It says what a backend and a mode add to the path of an operation - the code that opens and closes
//! windows, its branches, its barriers as instructions -, and nothing of how long a CPU takes for any of them.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context, Result, bail};
use kpkeys_emulator::Target;
use kpkeys_pgtable::Keys;
use kpkeys_stats::record::{Mode, Record};
use kpkeys_workloads::Row;
use serde::Serialize;

use crate::bench::plan::{self, PlannedRow};
use crate::emulated::bench::Request;
use crate::emulated::{Emulated, check_backend, check_keys};
use crate::render;
use crate::usage::UsageError;

const EXAMPLES: &str = "\
Examples:
  kpkeys instructions                           all rows, the best backend beside the mock
  kpkeys instructions --rows 'fork*' --backends pan,mock
  kpkeys instructions --on qemu-x86_64 --modes fused --keys separate
  kpkeys instructions --on qemu-x86_64 --format csv";

/// The options of `kpkeys instructions`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Which machine: qemu-x86_64 or qemu-aarch64
    #[arg(long, default_value = "qemu-aarch64", value_name = "WHERE")]
    on: String,
    /// Backends to set side by side, separated by commas [default: the best there is, and mock]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    backends: Vec<String>,
    /// Which keys page tables carry in mode fused: one, or separate [default: one]
    #[arg(long, value_name = "KEYS", value_parser = crate::emulated::keys)]
    keys: Option<Keys>,
    /// Rows to run, by name with * and ?; may be given again [default: all]
    #[arg(long, value_name = "GLOB")]
    rows: Vec<String>,
    /// Modes to set beside `off`, separated by commas: unbatched, batched, fused-lean, fused [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    modes: Vec<String>,
    /// How to print it
    #[arg(long, value_enum, default_value = "table")]
    format: render::Format,
}

/// What was counted.
#[derive(Serialize)]
pub struct Report {
    /// The emulated machine.
    pub on: String,
    /// Always `instructions`, for readers of several files.
    pub unit: &'static str,
    /// The backends, in the order they were asked for.
    pub backends: Vec<String>,
    /// Which keys page tables carried in mode `fused`.
    pub keys: &'static str,
    /// The modes, `off` first.
    pub modes: Vec<Mode>,
    /// The rows, in the order of the table.
    pub rows: Vec<Counted>,
}

/// One row.
#[derive(Serialize)]
pub struct Counted {
    /// What it belongs to.
    pub benchmark: &'static str,
    /// Its name.
    pub result_class: &'static str,
    /// Instructions of one operation, by backend and mode.
    pub instructions: BTreeMap<String, BTreeMap<Mode, f64>>,
}

/// What the published number of loops is divided by: averages hardly change with more.
const SCALE: u64 = 50;

/// Counts and prints.
///
/// # Errors
///
/// [`UsageError`] for names that do not exist; a backend the emulated CPU does not have; a kernel that did not do its work.
pub fn run(options: &Options) -> Result<()> {
    let target: Target = options.on.parse().map_err(|error| UsageError(format!("{error}")))?;
    let rows = workloads(&options.rows)?;
    let modes = plan::modes(&options.modes, false)?;
    plan::refuse_parts(&modes)?;
    let modes: Vec<Mode> = [Mode::Off].into_iter().chain(modes).collect();
    let keys = options.keys.unwrap_or_default();
    let backends = backends(target, &options.backends, keys)?;
    let mut counted: Vec<_> = rows.iter().map(Counted::new).collect();
    for (name, machine) in &backends {
        for mode in &modes {
            for (row, counted) in rows.iter().zip(&mut counted) {
                eprintln!("kpkeys: {name}, {}: {}", mode.name(), row.result_class);
                let value = count(machine, *mode, row)?;
                counted.instructions.entry(name.clone()).or_default().insert(*mode, value);
            }
        }
    }
    let report = Report {
        on: target.name().to_owned(),
        unit: "instructions",
        keys: keys.name(),
        backends: backends.into_iter().map(|(name, _)| name).collect(),
        modes,
        rows: counted,
    };
    let screen = render::Screen::of_stdout();
    render::write_instructions(&mut io::stdout().lock(), &report, options.format, screen)?;
    Ok(())
}

impl Counted {
    fn new(row: &Row) -> Self {
        let Row { benchmark, result_class, .. } = *row;
        Counted { benchmark, result_class, instructions: BTreeMap::new() }
    }
}

fn workloads(patterns: &[String]) -> Result<Vec<Row>, UsageError> {
    let all: Vec<_> = kpkeys_workloads::ALL_ROWS.map(PlannedRow::Workload).into();
    let chosen = plan::choose(&all, patterns)?;
    Ok(chosen.iter().filter_map(PlannedRow::workload).copied().collect())
}

/// A machine for each backend: those asked for, or the best one and the mock.
fn backends(target: Target, names: &[String], keys: Keys) -> Result<Vec<(String, Emulated)>> {
    for name in names {
        check_backend(target, name)?;
        check_keys(keys, name)?;
    }
    let best = Emulated::for_bench(target, None, keys)?;
    let names = match names {
        [] => vec![best.backend()?, "mock".to_owned()],
        names => names.to_vec(),
    };
    let machine = |name: String| {
        let machine = best.with_backend(&name);
        // A refusal comes before the long part, with the kernel's own reason.
        machine.backend()?;
        Ok((name, machine))
    };
    names.into_iter().map(machine).collect()
}

/// Instructions of one operation of a row.
fn count(machine: &Emulated, mode: Mode, row: &Row) -> Result<f64> {
    let rows = vec![*row];
    let request = Request { mode, block: 0, rows, scale: SCALE, iterations: 1, count: false };
    let mut records = machine.bench(&request)?.into_iter();
    match records.next().context("the kernel reported no sample")? {
        Record::Sample(sample) => Ok(sample.value),
        other => bail!(
            "the kernel reported something else than a sample: {}",
            serde_json::to_string(&other)?
        ),
    }
}
