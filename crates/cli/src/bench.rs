//! `kpkeys bench`: runs the evaluation and prints the series' table for this machine.
//!
//! | module | concept |
//! |---|---|
//! | [`plan`] | what was asked for, checked: rows, modes, how much of it |
//! | [`mod@run`] | blocks: every row in every mode, in seeded random order |
//! | `planted` | a slowdown planted on purpose, in builds that ask for it |
//! | [`turns`] | the workers of a row, which take turns |
//! | [`cpu`] | the CPU that is measured on |
//! | [`backend`] | what windows are opened by in a process |
//! | [`worker`] | one row in one mode, or the rows of one trace, in a process of its own: prints records |
//! | [`traced`] | the rows that replay a trace |
//! | [`results`] | where records are kept, and how a killed run goes on |
//! | [`mod@import`] | what a machine said on its serial line, as a run |
//! | [`interleave`] | several builds whose workers take turns in the same blocks |
//! | [`layouts`] | one commit in several layouts of its code |
//! | [`program`] | the build whose workers are timed |
//! | [`header`] | the header of a recording: what ties it to what made it |
//! | [`machine`] | what this machine is |
//! | [`mod@list`] | the rows, each with what it does |

mod backend;
pub mod cpu;
mod header;
mod import;
pub mod interleave;
pub mod layouts;
mod list;
mod machine;
pub mod plan;
#[cfg(feature = "planted")]
mod planted;
mod program;
mod results;
mod run;
mod traced;
mod turns;
pub mod worker;

use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::{Context, Result};
use kpkeys_stats::compare::Reference;
use kpkeys_stats::table::Table;

pub use results::{SAMPLES_FILE, TABLE_FILE, keep_table, write_whole};

use crate::noise::{Disturbance, Settings};
use crate::usage::{UsageError, told_once};
use crate::{parts, reference, render};

const EXAMPLES: &str = "\
Examples:
  kpkeys bench --quick                        a first look, in under 90 seconds
  kpkeys bench --list                         the rows, one line each
  kpkeys bench --rows 'fork*' --modes fused   some rows, one mode
  kpkeys bench --counts --out results         with event counts; samples and tables are kept
  kpkeys bench --parts --out results          where each point goes: windows, keys, pool, deferral
  kpkeys bench --compare v5-amended           beside what the Linux series published
  kpkeys bench --compare results              beside an earlier run
  kpkeys bench --trace make.trace             a recorded command's memory management
  kpkeys bench --layouts 4 --out epyc         how far it depends on where the code lies
  kpkeys bench --backend pku                  by the CPU's keys for user pages: the real instruction, and it protects
  kpkeys bench --modes fused --keys separate  tables of address spaces with a key of their own
  kpkeys bench --on qemu-aarch64              instructions and counts in an emulator
  kpkeys bench --import serial.log --out box  what a machine of kpkeys image said";

/// The options of `kpkeys bench`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Where to run: host, or in the reference kernel on qemu-x86_64 or qemu-aarch64
    #[arg(long, default_value = "host", value_name = "WHERE")]
    on: String,
    /// How windows are opened: mock or pku on the host [default: mock]; pks or smap (x86-64), pan, ttbr0 or poe (arm64), mock or none in an emulator [default: the best there is]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// Which keys page tables carry in mode fused: one, or separate, where those of address spaces have one of their own (pks, poe, pku, mock) [default: one]
    #[arg(long, value_name = "KEYS", value_parser = crate::emulated::keys)]
    keys: Option<kpkeys_pgtable::Keys>,
    /// Entry format of the page tables on the host: aarch64 (as the series) or x86_64 [default: aarch64]
    #[arg(long, value_name = "FORMAT")]
    paging: Option<String>,
    /// Rows to run, by name with * and ?; may be given again [default: all]
    #[arg(long, value_name = "GLOB")]
    rows: Vec<String>,
    /// Print the rows, one line each, and run nothing
    #[arg(long)]
    list: bool,
    /// Print the table of what a machine with a disk of `kpkeys image` said on its serial line, and run nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["on", "backend", "keys", "paging", "rows", "trace", "modes", "parts", "blocks", "cpu", "layouts", "pause_after", "only_block", "list", "quick", "full"])]
    import: Option<std::path::PathBuf>,
    /// Replay this trace instead of the rows of the evaluation
    #[arg(long, value_name = "FILE")]
    trace: Option<std::path::PathBuf>,
    /// Modes to compare with `off`, separated by commas: unbatched, batched, fused-lean, fused, or parts of them [default: all, no parts]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    modes: Vec<String>,
    /// Take the modes apart too, and print where each point goes: batched:switches, batched:keys, ...
    #[arg(long)]
    parts: bool,
    /// Four blocks, short rows: effects and intervals in under 90 seconds, no flags
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Twenty-four blocks and the published numbers of loops
    #[arg(long)]
    full: bool,
    /// How many blocks to run [default: 12; 4 with --quick, 24 with --full; 1 in an emulator, where counts alone mean something]
    #[arg(long, value_name = "N")]
    blocks: Option<u32>,
    /// Seed of the order of modes in each block
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Measure on this CPU [default: the last that may be used]
    #[arg(long, value_name = "N")]
    cpu: Option<usize>,
    /// Print the event counts too
    #[arg(long)]
    counts: bool,
    /// Set a published table, or an earlier results folder, beside this run
    #[arg(long, value_name = "TABLE")]
    compare: Option<String>,
    /// Keep samples and table in this folder; a run that was killed there goes on
    #[arg(long, value_name = "DIR")]
    out: Option<std::path::PathBuf>,
    /// Build and run the command in so many layouts of its code, block by block in turns, and print how far their effects lie apart
    #[arg(long, value_name = "N", conflicts_with_all = ["compare", "pause_after", "list"], value_parser = clap::value_parser!(u32).range(i64::from(*layouts::RANGE.start())..=i64::from(*layouts::RANGE.end())))]
    layouts: Option<u32>,
    /// Run only so many more blocks, without a table; the same call goes on later
    #[arg(long, value_name = "N", requires = "out", value_parser = clap::value_parser!(u32).range(1..))]
    pause_after: Option<u32>,
    /// Run this block alone of those planned, counted from 0, without a table; events are counted with block 0. Folders of several
    /// machines or moments can be put together
    #[arg(long, value_name = "K", requires = "out", conflicts_with = "pause_after")]
    only_block: Option<u32>,
    /// How to print the table
    #[arg(long, value_enum, default_value = "table")]
    format: render::Format,
}

/// Runs the evaluation. Returns whether every gate held.
///
/// # Errors
///
/// [`UsageError`] for what cannot be asked; otherwise what went wrong on the way.
pub fn run(options: &Options) -> Result<bool> {
    if let Some(count) = options.layouts {
        return layouts::run(options, count);
    }
    if let Some(file) = &options.import {
        return import(options, file);
    }
    let plan = plan::Plan::new(options)?;
    if options.list {
        list::write(&mut io::stdout().lock(), &plan.rows)?;
        return Ok(true);
    }
    if plan.place.host().is_some() {
        advise(plan.cpu);
    }
    let runner = run::Machine::new(&plan)?;
    let beside = options.compare.as_deref().map(compared).transpose()?;
    let header = header::run_header(&plan, &runner, &program::Program::this()?)?;
    let mut results = results::Results::open(options.out.as_deref(), &header)?;
    if let Some(reused) = results.reused(&plan.modes) {
        eprintln!("kpkeys: {reused}");
    }
    let share = run::Share::of(&plan, options.only_block, options.pause_after)?;
    let left = run::run(&plan, &runner, &mut results, share)?;
    if options.only_block.is_some() {
        return Ok(true);
    }
    if left > 0 {
        eprintln!("kpkeys: {left} of {} blocks are left; the same call goes on", plan.blocks);
        return Ok(true);
    }
    let mut table = Table::build(&results.recording()?, &reference::graviton3())?;
    table.notices.extend(plan.caveats()?);
    let counts = options.counts || plan.place.host().is_none();
    show(options, &results, table, beside.as_ref(), counts)
}

/// Keeps what a machine said as a run, and prints its table.
fn import(options: &Options, file: &Path) -> Result<bool> {
    let beside = options.compare.as_deref().map(compared).transpose()?;
    let imported = import::read(file, options.seed)?;
    if imported.left_out > 0 {
        let boots = imported.left_out;
        eprintln!("kpkeys: {boots} boots did not come to a good end and are left out");
    }
    let mut results = results::Results::open(options.out.as_deref(), &imported.run)?;
    results.add(imported.records, &imported.done)?;
    let table = Table::build(&results.recording()?, &reference::graviton3())?;
    show(options, &results, table, beside.as_ref(), options.counts)
}

/// Keeps and prints a table; returns whether its gates hold.
fn show(
    options: &Options,
    results: &results::Results,
    mut table: Table,
    beside: Option<&Reference>,
    counts: bool,
) -> Result<bool> {
    if let Some(beside) = beside {
        table = table.compared_with(beside);
    }
    results.keep_table(&table)?;
    if options.parts {
        parts::write(&results.recording()?, options.format)?;
        return Ok(told(&table));
    }
    let screen = render::Screen::of_stdout();
    render::write_results(&mut io::stdout().lock(), &table, options.format, counts, screen)?;
    Ok(told(&table))
}

/// Whether the gates of a table hold; says so if not.
fn told(table: &Table) -> bool {
    if !table.gates_hold() {
        eprintln!(
            "kpkeys: the A/A twin of the baseline shows an effect; this machine was not steady enough and the table is void"
        );
    }
    table.gates_hold()
}

impl Options {
    /// The options that these words give, as if they stood behind `command`.
    ///
    /// # Errors
    ///
    /// [`UsageError`], in the words of a command line's.
    fn of(command: &'static str, words: &[String]) -> Result<Options, UsageError> {
        let command = clap::Command::new(command).no_binary_name(true);
        <Options as clap::Args>::augment_args(command)
            .try_get_matches_from(words)
            .and_then(|matches| <Options as clap::FromArgMatches>::from_arg_matches(&matches))
            .map_err(|error| UsageError(error.render().to_string().trim().to_owned()))
    }
}

/// Counts the events of rows in modes, and times the baseline alone: what an estimate is made from.
///
/// # Errors
///
/// As [`run()`].
pub fn count_and_time_baseline(
    trace: Option<&Path>,
    rows: &[String],
    modes: &[String],
) -> Result<Table> {
    let mut words = ["--quick", "--blocks=1"].map(str::to_owned).to_vec();
    words.extend(trace.map(|trace| format!("--trace={}", trace.display())));
    words.extend(rows.iter().map(|row| format!("--rows={row}")));
    if !modes.is_empty() {
        words.push(format!("--modes={}", modes.join(",")));
    }
    let options = Options::of("kpkeys bench", &words)?;
    let plan = plan::Plan::new(&options)?;
    let runner = run::Machine::new(&plan)?;
    let mut results = results::Results::open(
        None,
        &header::run_header(&plan, &runner, &program::Program::this()?)?,
    )?;
    run::count_and_time_baseline(&plan, &runner, &mut results)?;
    Ok(Table::build(&results.recording()?, &reference::graviton3())?)
}

/// Refuses what [`run()`] would refuse before it does anything.
///
/// # Errors
///
/// [`UsageError`], with what would be right.
pub fn check(options: &Options) -> Result<(), UsageError> {
    let checked = plan::Plan::new(options).and_then(|plan| {
        run::Share::of(&plan, options.only_block, options.pause_after)?;
        Ok(())
    });
    checked.map_err(|error| UsageError(told_once(&error)))
}

/// Says on a terminal, before anything is measured, what would disturb it.
fn advise(cpu: Option<usize>) {
    if !io::stderr().is_terminal() {
        return;
    }
    let settings = Settings::read(cpu::measured(cpu).unwrap_or(0));
    for Disturbance { name, found, advice, .. } in settings.disturbances() {
        eprintln!("kpkeys: {name}: {found} -> {advice}");
    }
}

/// The table in a results folder, if one is there.
///
/// # Errors
///
/// A file that cannot be read, or holds something else.
pub fn read_table(folder: &Path) -> Result<Option<Table>> {
    let path = folder.join(TABLE_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not a table of kpkeys bench", path.display()))
        .map(Some)
}

/// What `--compare` names: a published table, or a folder that holds an earlier run's.
fn compared(name: &str) -> Result<Reference> {
    if let Some(table) = read_table(Path::new(name))? {
        return Ok(Reference::of_table(name, &table));
    }
    reference::find_effects(name).map_err(|error| {
        UsageError(format!("{error}; or give a folder of an earlier --out")).into()
    })
}
