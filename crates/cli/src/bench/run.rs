//! Blocks of workers. A block runs every row in every mode once, each in a fresh process. A row's modes run one right after the
//! other, in an order drawn from the seed: what drifts on the machine, over seconds or over the session, falls on all modes alike.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kpkeys_stats::record::{Done, Mode, Record};
use kpkeys_workloads::Row;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::plan::{HOST_BACKEND, Place, Plan, PlannedRow};
use super::results::Results;
use super::worker;
use crate::emulated::Emulated;
use crate::emulated::bench::Request;

/// The block number of workers that count: they belong to no block.
const COUNTING: u32 = u32::MAX;

/// Runs what the results do not hold yet. A block's records are kept when the block is whole.
///
/// # Errors
///
/// A worker that failed, with what it printed.
pub fn run(plan: &Plan, machine: &Machine, results: &mut Results) -> Result<()> {
    let counting = plan.modes.iter().filter(|mode| !matches!(mode, Mode::Aa | Mode::Linux));
    let counting: Vec<Mode> = counting.copied().filter(|&mode| !results.has_counts(mode)).collect();
    let blocks: Vec<Block<'_>> =
        blocks(plan).filter(|block| !results.has(&block.done(plan))).collect();
    let timed: usize = blocks.iter().map(|block| block.steps.len()).sum();
    let progress = progress_bar(timed + counting.len());
    for block in blocks {
        let mut records = Vec::new();
        for (rows, mode) in &block.steps {
            let name = rows.first().map_or("", PlannedRow::result_class);
            progress.set_message(format!("block {} of {}: {name}", block.number + 1, plan.blocks));
            records.extend(machine.records(plan, rows, *mode, block.number, false)?);
            progress.inc(1);
        }
        results.add(records, &block.done(plan))?;
    }
    for mode in counting {
        progress.set_message(format!("counting events: {}", mode.name()));
        results.add(machine.records(plan, &plan.rows, mode, COUNTING, true)?, &[])?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(())
}

/// What runs a row in a mode: a process here, or a boot there.
pub enum Machine {
    /// Worker processes.
    Processes,
    /// The reference kernel in an emulator.
    Emulated(Emulated),
}

impl Machine {
    /// The machine of a plan. Builds the kernel if it takes one.
    ///
    /// # Errors
    ///
    /// The emulator is missing, the backend is unknown, or the kernel does not build.
    pub fn new(plan: &Plan) -> Result<Machine> {
        Ok(match &plan.place {
            Place::Host => Machine::Processes,
            Place::Emulator { target, backend } => {
                Machine::Emulated(Emulated::for_bench(*target, backend.as_deref())?)
            }
        })
    }

    /// The backend it opens windows by. An emulated machine is booted to be asked.
    ///
    /// # Errors
    ///
    /// The kernel refuses the backend that was asked for, with the reason.
    pub fn backend(&self) -> Result<String> {
        match self {
            Machine::Processes => Ok(HOST_BACKEND.to_owned()),
            Machine::Emulated(emulated) => emulated.backend(),
        }
    }

    fn records(
        &self,
        plan: &Plan,
        rows: &[PlannedRow],
        mode: Mode,
        block: u32,
        count: bool,
    ) -> Result<Vec<Record>> {
        match self {
            Machine::Processes => worker_records(plan, rows, mode, block, count),
            Machine::Emulated(emulated) => {
                let (scale, iterations) = (plan.effort.scale(), plan.effort.iterations());
                let rows: Vec<Row> =
                    rows.iter().filter_map(PlannedRow::workload).copied().collect();
                emulated.bench(&Request { mode, block, rows: &rows, scale, iterations, count })
            }
        }
    }
}

/// One block: what runs in it, in order. The rows of a trace come from one replay, so they run together.
struct Block<'p> {
    number: u32,
    steps: Vec<(&'p [PlannedRow], Mode)>,
}

impl Block<'_> {
    /// The records that say it is whole.
    fn done(&self, plan: &Plan) -> Vec<Done> {
        plan.modes.iter().map(|&mode| Done { mode, block: self.number }).collect()
    }
}

fn blocks(plan: &Plan) -> impl Iterator<Item = Block<'_>> {
    let mut order = SmallRng::seed_from_u64(plan.seed);
    (0..plan.blocks).map(move |number| {
        let together =
            |a: &PlannedRow, b: &PlannedRow| a.traced().is_some() && b.traced().is_some();
        let steps = plan.rows.chunk_by(together).flat_map(|rows| {
            let mut modes = plan.modes.clone();
            let linux_did_it = rows.iter().any(PlannedRow::linux_did_it);
            modes.retain(|&mode| mode != Mode::Linux || linux_did_it);
            modes.shuffle(&mut order);
            modes.into_iter().map(move |mode| (rows, mode))
        });
        Block { number, steps: steps.collect() }
    })
}

/// Runs one worker and reads what it prints.
fn worker_records(
    plan: &Plan,
    rows: &[PlannedRow],
    mode: Mode,
    block: u32,
    count: bool,
) -> Result<Vec<Record>> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let output = Command::new(program)
        .args(worker::arguments(plan, rows, mode, block, count))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start a worker")?;
    if !output.status.success() {
        bail!("the worker for mode `{}` in block {block} failed: {}", mode.name(), output.status);
    }
    let text =
        String::from_utf8(output.stdout).context("a worker printed something else than records")?;
    text.lines()
        .map(|line| {
            serde_json::from_str(line)
                .with_context(|| format!("a worker printed something else than a record: {line}"))
        })
        .collect()
}

fn progress_bar(steps: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len}  {elapsed} of {duration}  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
