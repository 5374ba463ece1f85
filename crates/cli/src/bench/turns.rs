//! Worker processes that take turns.
//!
//! A machine that is shared with others does not hold one speed: within seconds everything takes half as long again, and later not.
//! So the workers of a row, one for each mode, all live at the same time, and each round has every one of them do one iteration, in
//! an order drawn anew: what is compared was measured milliseconds apart. Outside its turn a worker sleeps.
//!
//! A worker prints an empty line whenever it waits, then does an iteration for each line it is sent, and ends when its input does.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kpkeys_stats::record::{Mode, Record};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::plan::{Plan, PlannedRow};
use super::run::{COUNTING, Step};
use super::worker;
use crate::emulation;

/// Turns of the host kernel in a block, ahead of the others: its set-up touches 1 GiB for real.
const LINUX_TURNS: u32 = 2;

/// Times the rows of one step with each of these programs, all of whose workers take turns. Returns the records of each.
///
/// # Errors
///
/// A worker that failed; it has said why on standard error.
pub fn take(
    plan: &Plan,
    programs: &[&Path],
    step: &Step<'_>,
    block: u32,
) -> Result<Vec<Vec<Record>>> {
    let mut records = vec![Vec::new(); programs.len()];
    let mut workers = Vec::new();
    for &mode in &step.modes {
        for (build, program) in programs.iter().enumerate() {
            let mut worker = Worker::start(plan, program, step.rows, mode, block, false)?;
            worker.build = build;
            worker.read_until_waiting(&mut records[build])?;
            workers.push(worker);
        }
    }
    let (mut linux, mut modes): (Vec<_>, Vec<_>) =
        workers.into_iter().partition(|worker| worker.mode == Mode::Linux);
    for _ in 0..LINUX_TURNS {
        linux.iter_mut().try_for_each(|worker| worker.turn(&mut records[worker.build]))?;
    }
    let mut order = SmallRng::seed_from_u64(step.seed);
    let (least, most) = plan.effort.turns();
    let start = Instant::now();
    for round in 0..most {
        if round >= least && start.elapsed() > plan.effort.budget() {
            break;
        }
        modes.shuffle(&mut order);
        modes.iter_mut().try_for_each(|worker| worker.turn(&mut records[worker.build]))?;
    }
    linux.into_iter().chain(modes).try_for_each(Worker::end)?;
    Ok(records)
}

/// Counts the events of all rows in one mode.
///
/// # Errors
///
/// As [`take`].
pub fn count(plan: &Plan, program: &Path, mode: Mode) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut worker = Worker::start(plan, program, &plan.rows, mode, COUNTING, true)?;
    worker.read_until_waiting(&mut records)?;
    worker.end()?;
    Ok(records)
}

/// A worker process. Dropped before its end, it is killed.
struct Worker {
    /// Which of the programs it runs.
    build: usize,
    mode: Mode,
    block: u32,
    process: Child,
    turns: Option<ChildStdin>,
    printed: BufReader<ChildStdout>,
}

impl Worker {
    fn start(
        plan: &Plan,
        program: &Path,
        rows: &[PlannedRow],
        mode: Mode,
        block: u32,
        count: bool,
    ) -> Result<Worker> {
        let mut process = emulation::command(program)
            .args(worker::arguments(plan, rows, mode, block, count))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("cannot start {} as a worker", program.display()))?;
        let turns = process.stdin.take();
        let printed = process.stdout.take().context("a worker has no standard output")?;
        Ok(Worker { build: 0, mode, block, process, turns, printed: BufReader::new(printed) })
    }

    fn turn(&mut self, records: &mut Vec<Record>) -> Result<()> {
        let sent = self.turns.as_mut().map(|turns| turns.write_all(b"\n"));
        match sent {
            Some(Ok(())) => self.read_until_waiting(records),
            _ => self.failed(),
        }
    }

    /// Reads what it prints up to the empty line that says it waits.
    fn read_until_waiting(&mut self, records: &mut Vec<Record>) -> Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            match self.printed.read_line(&mut line) {
                Ok(0) | Err(_) => return self.failed(),
                Ok(_) if line == "\n" => return Ok(()),
                Ok(_) => records.push(serde_json::from_str(&line).with_context(|| {
                    format!("a worker printed something else than a record: {line}")
                })?),
            }
        }
    }

    fn failed(&mut self) -> Result<()> {
        let status = self.process.wait().context("a worker was lost")?;
        let (mode, block) = (self.mode.name(), self.block);
        bail!("the worker for mode `{mode}` in block {block} failed: {status}")
    }

    fn end(mut self) -> Result<()> {
        self.turns = None;
        let status = self.process.wait().context("a worker was lost")?;
        if status.success() { Ok(()) } else { self.failed() }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails only if it has ended already, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
