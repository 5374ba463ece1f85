//! Blocks of workers. A block runs every mode once, each in a fresh process, in an order drawn from the seed; so what drifts on
//! the machine during a run falls on all modes alike.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kpkeys_stats::record::{Done, Mode, Record};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::plan::Plan;
use super::results::Results;
use super::worker;

/// The block number of workers that count: they belong to no block.
const COUNTING: u32 = u32::MAX;

/// Runs what the results do not hold yet.
///
/// # Errors
///
/// A worker that failed, with what it printed.
pub fn run(plan: &Plan, results: &mut Results) -> Result<()> {
    let counting = plan.modes.iter().filter(|mode| !matches!(mode, Mode::Aa | Mode::Linux));
    let counting: Vec<Mode> = counting.copied().filter(|&mode| !results.has_counts(mode)).collect();
    let steps = blocks(plan).filter(|done| !results.has(done)).collect::<Vec<_>>();
    let progress = progress_bar(steps.len() + counting.len());
    for done in steps {
        progress.set_message(format!(
            "block {} of {}: {}",
            done.block + 1,
            plan.blocks,
            done.mode.name()
        ));
        results.add(worker_records(plan, done.mode, done.block, false)?, Some(done))?;
        progress.inc(1);
    }
    for mode in counting {
        progress.set_message(format!("counting events: {}", mode.name()));
        results.add(worker_records(plan, mode, COUNTING, true)?, None)?;
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(())
}

/// Every (mode, block), in the order in which they run.
fn blocks(plan: &Plan) -> impl Iterator<Item = Done> + '_ {
    let mut order = SmallRng::seed_from_u64(plan.seed);
    (0..plan.blocks).flat_map(move |block| {
        let mut modes = plan.modes.clone();
        modes.shuffle(&mut order);
        modes.into_iter().map(move |mode| Done { mode, block })
    })
}

/// Runs one worker and reads what it prints.
fn worker_records(plan: &Plan, mode: Mode, block: u32, count: bool) -> Result<Vec<Record>> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let output = Command::new(program)
        .args(worker::arguments(plan, mode, block, count))
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
