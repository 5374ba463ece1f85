//! Blocks. A block runs every row in every mode once, each in a fresh process, or a fresh boot of an emulator. The processes of a
//! row [take turns](super::turns), in an order drawn from the seed: what changes on the machine falls on all modes alike.

use std::path::Path;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kpkeys_stats::record::{Done, Mode, Record};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::plan::{Place, Plan, PlannedRow};
use super::program::Program;
use super::results::Results;
use super::{cpu, turns};
use crate::emulated::Emulated;
use crate::emulated::bench::Request;
use crate::noise::Activity;
use crate::usage::UsageError;

/// The block number of workers that count: they belong to no block.
pub const COUNTING: u32 = u32::MAX;

/// How much of a run one call does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// All that is left.
    Rest,
    /// So many blocks of what is left.
    AtMost(u32),
    /// This block. The first one brings the counts, which belong to no block.
    Block(u32),
}

impl Share {
    /// What was asked for.
    ///
    /// # Errors
    ///
    /// [`UsageError`] for a block that is not planned.
    pub fn of(plan: &Plan, block: Option<u32>, at_most: Option<u32>) -> Result<Share, UsageError> {
        match (block, at_most) {
            (Some(block), _) if block >= plan.blocks => Err(UsageError(format!(
                "there is no block {block}: {} are planned, counted from 0",
                plan.blocks
            ))),
            (Some(block), _) => Ok(Share::Block(block)),
            (None, Some(blocks)) => Ok(Share::AtMost(blocks)),
            (None, None) => Ok(Share::Rest),
        }
    }

    /// Leaves the blocks that are not to be run now. Returns whether events are to be counted.
    fn limit(self, blocks: &mut Vec<Block<'_>>) -> bool {
        match self {
            Share::Rest => true,
            Share::AtMost(most) => {
                let whole = blocks.len() <= most as usize;
                blocks.truncate(most as usize);
                whole
            }
            Share::Block(number) => {
                blocks.retain(|block| block.number == number);
                number == 0
            }
        }
    }
}

/// Runs what the results do not hold yet, or a share of it. A block's records are kept when the block is whole.
/// Returns how many blocks are left for another call.
///
/// # Errors
///
/// A worker that failed, with what it printed.
pub fn run(plan: &Plan, machine: &Machine, results: &mut Results, share: Share) -> Result<usize> {
    let counting = plan.modes.iter().filter(|mode| !matches!(mode, Mode::Aa | Mode::Linux));
    let mut counting: Vec<Mode> =
        counting.copied().filter(|&mode| !results.has_counts(mode, &plan.rows)).collect();
    let mut blocks: Vec<Block<'_>> =
        blocks(plan).filter(|block| !results.has(&block.done(plan))).collect();
    let missing = blocks.len();
    if !share.limit(&mut blocks) {
        counting.clear();
    }
    let left = missing - blocks.len();
    let timed: usize = blocks.iter().map(|block| block.steps.len()).sum();
    let progress = progress_bar(timed + counting.len());
    let cpu = cpu::measured(plan.cpu).unwrap_or(0);
    for block in blocks {
        let mut records = Vec::new();
        let before = Activity::now(cpu);
        for step in &block.steps {
            let name = step.rows.first().map_or("", PlannedRow::result_class);
            progress.set_message(format!("block {} of {}: {name}", block.number + 1, plan.blocks));
            records.extend(machine.time(plan, step, block.number)?);
            progress.inc(1);
        }
        if plan.place.host().is_some() {
            records.push(Record::Noise(Activity::now(cpu).since(&before, block.number)));
        }
        results.add(records, &block.done(plan))?;
    }
    for mode in counting {
        progress.set_message(format!("counting events: {}", mode.name()));
        results.add(machine.count(plan, mode)?, &[])?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(left)
}

/// Times the baseline in one block, nothing beside it, and counts the events of every mode.
///
/// # Errors
///
/// As [`run`].
pub fn count_and_time_baseline(
    plan: &Plan,
    machine: &Machine,
    results: &mut Results,
) -> Result<()> {
    let counted: Vec<Mode> =
        plan.modes.iter().copied().filter(|mode| !matches!(mode, Mode::Aa | Mode::Linux)).collect();
    let blocks: Vec<Block<'_>> = blocks(plan).take(1).collect();
    let steps: usize = blocks.iter().map(|block| block.steps.len()).sum();
    let progress = progress_bar(steps + counted.len());
    for step in blocks.into_iter().flat_map(|block| block.steps) {
        progress.set_message(step.rows.first().map_or("", PlannedRow::result_class));
        let baseline = Step { modes: vec![Mode::Off], ..step };
        results.add(machine.time(plan, &baseline, 0)?, &[])?;
        progress.inc(1);
    }
    results.add(Vec::new(), &[Done { mode: Mode::Off, block: 0 }])?;
    for mode in counted {
        progress.set_message(format!("counting events: {mode}"));
        results.add(machine.count(plan, mode)?, &[])?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(())
}

/// What runs a row in a mode: a process here, or a boot there.
pub enum Machine {
    /// Worker processes of this program.
    Processes(Program),
    /// The reference kernel in an emulator.
    Emulated(Box<Emulated>),
}

impl Machine {
    /// The machine of a plan. Builds the kernel if it takes one.
    ///
    /// # Errors
    ///
    /// This machine does not have the backend; the emulator is missing, the backend is unknown, or the kernel does not build.
    pub fn new(plan: &Plan) -> Result<Machine> {
        Ok(match &plan.place {
            Place::Host(backend) => {
                backend.check()?;
                Machine::Processes(Program::this()?)
            }
            Place::Emulator { target, backend } => Machine::Emulated(Box::new(
                Emulated::for_bench(*target, backend.as_deref(), plan.keys)?,
            )),
        })
    }

    /// The backend it opens windows by. An emulated machine is booted to be asked.
    ///
    /// # Errors
    ///
    /// The kernel refuses the backend that was asked for, with the reason.
    pub fn backend(&self, plan: &Plan) -> Result<String> {
        match self {
            Machine::Processes(_) => Ok(plan.place.host().unwrap_or_default().name().to_owned()),
            Machine::Emulated(emulated) => emulated.backend(),
        }
    }

    /// The file of the kernel that an emulated machine boots.
    pub fn kernel(&self) -> Option<&Path> {
        match self {
            Machine::Processes(_) => None,
            Machine::Emulated(emulated) => Some(emulated.kernel_file()),
        }
    }

    /// Times one step of a block.
    fn time(&self, plan: &Plan, step: &Step<'_>, block: u32) -> Result<Vec<Record>> {
        match self {
            Machine::Processes(program) => {
                Ok(turns::take(plan, &[program.path.as_path()], step, block)?
                    .pop()
                    .unwrap_or_default())
            }
            Machine::Emulated(emulated) => {
                let mut records = Vec::new();
                for &mode in &step.modes {
                    records.extend(emulated.bench(&request(plan, step.rows, mode, block, false))?);
                }
                Ok(records)
            }
        }
    }

    /// Counts the events of all rows in one mode.
    fn count(&self, plan: &Plan, mode: Mode) -> Result<Vec<Record>> {
        match self {
            Machine::Processes(program) => turns::count(plan, &program.path, mode),
            Machine::Emulated(emulated) => {
                emulated.bench(&request(plan, &plan.rows, mode, COUNTING, true))
            }
        }
    }
}

fn request(plan: &Plan, rows: &[PlannedRow], mode: Mode, block: u32, count: bool) -> Request {
    let rows = rows.iter().filter_map(PlannedRow::workload).copied().collect();
    let (scale, iterations) = (plan.effort.scale(), plan.effort.turns().0);
    Request { mode, block, rows, scale, iterations, count }
}

/// One block: what runs in it, in order.
pub struct Block<'p> {
    /// Counted from 0.
    pub number: u32,
    /// Row by row.
    pub steps: Vec<Step<'p>>,
}

/// One row, or the rows of one trace, which come from one replay: in every mode, in an order drawn from the seed.
pub struct Step<'p> {
    /// The rows.
    pub rows: &'p [PlannedRow],
    /// The modes, in the order in which they start.
    pub modes: Vec<Mode>,
    /// Seed of the order in which they go on.
    pub seed: u64,
}

impl Block<'_> {
    /// The records that say it is whole.
    pub fn done(&self, plan: &Plan) -> Vec<Done> {
        plan.modes.iter().map(|&mode| Done { mode, block: self.number }).collect()
    }
}

fn blocks(plan: &Plan) -> impl Iterator<Item = Block<'_>> {
    endless_blocks(plan).take(plan.blocks as usize)
}

/// As many blocks as anyone wants.
pub fn endless_blocks(plan: &Plan) -> impl Iterator<Item = Block<'_>> {
    let mut order = SmallRng::seed_from_u64(plan.seed);
    (0..).map(move |number| {
        let together =
            |a: &PlannedRow, b: &PlannedRow| a.traced().is_some() && b.traced().is_some();
        let steps = plan.rows.chunk_by(together).map(|rows| {
            let mut modes = plan.modes.clone();
            let linux_did_it = rows.iter().any(PlannedRow::linux_did_it);
            modes.retain(|&mode| mode != Mode::Linux || linux_did_it);
            modes.shuffle(&mut order);
            Step { rows, modes, seed: order.random() }
        });
        Block { number, steps: steps.collect() }
    })
}

/// A bar on a terminal, nothing in a pipe.
pub fn progress_bar(steps: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
    let style =
        ProgressStyle::with_template("{bar:20} {pos}/{len}  {elapsed} of {duration}  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
