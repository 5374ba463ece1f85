//! `kpkeys bench`: runs the evaluation and prints the series' table for this machine.
//!
//! | module | concept |
//! |---|---|
//! | [`plan`] | what was asked for, checked: rows, modes, how much of it |
//! | [`mod@run`] | blocks: every row in every mode, in seeded random order |
//! | [`turns`] | the workers of a row, which take turns |
//! | [`worker`] | one row in one mode, or the rows of one trace, in a process of its own: prints records |
//! | [`traced`] | the rows that replay a trace |
//! | [`results`] | where records are kept, and how a killed run goes on |
//! | [`machine`] | what this machine is |

mod machine;
pub mod plan;
mod results;
mod run;
mod traced;
mod turns;
pub mod worker;

use std::io;

use anyhow::{Context, Result};
use kpkeys_stats::compare::Reference;
use kpkeys_stats::table::Table;

use crate::{reference, render, usage::UsageError};

/// The options of `kpkeys bench`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Where to run: host, or in the reference kernel on qemu-x86_64 or qemu-aarch64
    #[arg(long, default_value = "host", value_name = "WHERE")]
    on: String,
    /// How windows are opened: mock on the host; pks (x86-64), pan or poe (arm64), mock or none in an emulator [default: the best there is]
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// Entry format of the page tables on the host: aarch64 (as the series) or x86_64 [default: aarch64]
    #[arg(long, value_name = "FORMAT")]
    paging: Option<String>,
    /// Rows to run, by name with * and ?; may be given again [default: all]
    #[arg(long, value_name = "GLOB")]
    rows: Vec<String>,
    /// Replay this trace instead of the rows of the evaluation
    #[arg(long, value_name = "FILE")]
    trace: Option<std::path::PathBuf>,
    /// Modes to compare with `off`, separated by commas: unbatched, batched, fused [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    modes: Vec<String>,
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
    /// Print the event counts too
    #[arg(long)]
    counts: bool,
    /// Set a published table, or an earlier results folder, beside this run
    #[arg(long, value_name = "TABLE")]
    compare: Option<String>,
    /// Keep samples and table in this folder; a run that was killed there goes on
    #[arg(long, value_name = "DIR")]
    out: Option<std::path::PathBuf>,
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
    let plan = plan::Plan::new(options)?;
    let runner = run::Machine::new(&plan)?;
    let beside = options.compare.as_deref().map(compared).transpose()?;
    let header = machine::run_header(&plan, runner.backend()?);
    let mut results = results::Results::open(options.out.as_deref(), &header)?;
    run::run(&plan, &runner, &mut results)?;
    let mut table = Table::build(&results.recording()?, &reference::graviton3())?;
    table.notices.extend(plan.caveats()?);
    if let Some(beside) = &beside {
        table = table.compared_with(beside);
    }
    results.keep_table(&table)?;
    let counts = options.counts || plan.place != plan::Place::Host;
    render::write_results(&mut io::stdout().lock(), &table, options.format, counts)?;
    if !table.gates_hold() {
        eprintln!(
            "kpkeys: the A/A twin of the baseline shows an effect; this machine was not steady enough and the table is void"
        );
    }
    Ok(table.gates_hold())
}

/// What `--compare` names: a published table, or a folder that holds an earlier run's.
fn compared(name: &str) -> Result<Reference> {
    let path = std::path::Path::new(name).join(results::TABLE_FILE);
    if path.exists() {
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let table: Table = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a table of kpkeys bench", path.display()))?;
        return Ok(Reference::of_table(name, &table));
    }
    reference::find_effects(name).map_err(|error| {
        UsageError(format!("{error}; or give a folder of an earlier --out")).into()
    })
}
