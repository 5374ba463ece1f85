//! The rows that replay a trace: real, system and user time of a recorded command in each mode.
//!
//! The replay executes and times the command's memory management. What else it did is taken from the recording, so that the
//! overhead is a share of the whole, as in the series' kernbench rows:
//!
//! - *system time*: the recorded one, minus what the recorder measured in faults, memory calls and tear-down at exit, plus what the
//!   replay took;
//! - *user time*: the recorded one. Nothing here changes it;
//! - *real time*: the recorded one, longer or shorter in the same proportion as user and system time together: processors are as
//!   busy as they were;
//! - *memory management*: what the replay took, alone. Only for traces of one's own.
//!
//! `docs/src/traces.md` has the limits.

use std::path::Path;

use anyhow::{Context, Result};
use kpkeys_hosted::Setup;
use kpkeys_mm::Kernel;
use kpkeys_pgtable::{Config, Machine};
use kpkeys_replay::{History, Stage, Tally, replayer};
use kpkeys_trace::{Kinds, RunTimes};

use crate::usage::UsageError;
use kpkeys_workloads::Clock;

/// The recorded build that the kernbench rows replay.
const REFERENCE: &[u8] = include_bytes!("../../data/kernbench.trace");
/// What the rows of that build belong to.
pub const KERNBENCH: &str = "kernbench";
/// What the rows of a given trace belong to.
pub const TRACE: &str = "trace";

/// A row of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TracedRow {
    /// Elapsed time of the command.
    Real,
    /// Its time in the kernel.
    System,
    /// Its time in user mode.
    User,
    /// The part of system time that is replayed.
    Memory,
}

impl TracedRow {
    /// Rows of the series' table.
    pub const KERNBENCH: [TracedRow; 3] = [TracedRow::Real, TracedRow::System, TracedRow::User];

    /// Its name, as in the series' table where that has it.
    pub fn result_class(self) -> &'static str {
        match self {
            TracedRow::Real => "real time",
            TracedRow::System => "system time",
            TracedRow::User => "user time",
            TracedRow::Memory => "memory management",
        }
    }

    /// Whether its time is that of the replayed events, which counts go with.
    pub fn has_events(self) -> bool {
        matches!(self, TracedRow::System | TracedRow::Memory)
    }
}

/// Reads the trace in `file`, or the reference trace.
///
/// # Errors
///
/// [`UsageError`] for a file that cannot be used.
pub fn read(file: Option<&Path>) -> Result<History> {
    let Some(file) = file else {
        return History::read(REFERENCE).context("the reference trace cannot be used");
    };
    let bytes = std::fs::read(file)
        .map_err(|error| UsageError(format!("cannot read {}: {error}", file.display())))?;
    History::read(&bytes).map_err(|error| UsageError(format!("{}: {error}", file.display())).into())
}

/// The rows a trace of one's own has: those of kernbench only where the recording knows what the replay replaces in its times.
pub fn rows_of(history: &History) -> Vec<TracedRow> {
    let recorded = Times::recorded(history);
    let mut rows = vec![TracedRow::Memory];
    if history.header.kinds.contains(Kinds::DURATIONS) && recorded.add_up() {
        rows.splice(0..0, TracedRow::KERNBENCH);
    }
    // A short command's time may be less than the clock tick that user and system time are sampled by: there is nothing to compare.
    rows.retain(|&row| row == TracedRow::Memory || recorded.of(row) > 0.0);
    rows
}

/// What the recording lacks, for everybody who reads a result made from it.
pub fn caveats(history: &History) -> Vec<String> {
    let mut caveats = history.header.caveats();
    caveats.extend(history.trailer.caveats());
    let recorded = Times::recorded(history);
    if !recorded.add_up() {
        let ms = |ns| ns as f64 / 1e6;
        caveats.push(format!(
            "there is no system or real time: what was measured in faults, memory calls and tear-down ({:.1} ms) is more than all \
             of system time ({:.1} ms)",
            ms(recorded.replaced_ns),
            ms(recorded.recorded.system_ns)
        ));
    }
    caveats
}

/// Times of one replay.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    recorded: RunTimes,
    /// What the recorder measured of what the replay does.
    replaced_ns: u64,
    replayed_ns: u64,
}

impl Times {
    /// What it was in the recording, where that is known.
    pub fn recorded(history: &History) -> Times {
        let (costs, trailer) = (&history.summary.costs, &history.trailer);
        let replaced = [costs.fault_ns, costs.call_ns, Some(trailer.teardown_ns)];
        let replaced_ns = replaced.iter().flatten().fold(0, |sum: u64, ns| sum.saturating_add(*ns));
        let recorded = trailer.unrecorded.unwrap_or(trailer.recorded);
        Times { recorded, replaced_ns, replayed_ns: replaced_ns }
    }

    /// Whether what the replay replaces is a part of system time. Durations that hold waiting may be more than that; nothing can
    /// be said then about the rest.
    fn add_up(&self) -> bool {
        self.replaced_ns <= self.recorded.system_ns
    }

    /// What a row says, in nanoseconds.
    pub fn of(&self, row: TracedRow) -> f64 {
        let RunTimes { real_ns, user_ns, system_ns } = self.recorded;
        let system_now_ns = system_ns as f64 - self.replaced_ns as f64 + self.replayed_ns as f64;
        match row {
            TracedRow::System => system_now_ns,
            TracedRow::User => user_ns as f64,
            TracedRow::Memory => self.replayed_ns as f64,
            TracedRow::Real => {
                let busy_ns = (user_ns + system_ns).max(1) as f64;
                real_ns as f64 * (user_ns as f64 + system_now_ns) / busy_ns
            }
        }
    }
}

/// A machine for a trace: with as much memory as it needs.
pub fn setup(history: &History, cpus: usize, config: Config) -> Setup {
    Setup { pages: history.memory_pages(), cpus, config }
}

/// Uses every frame once, as in a kernel that has run for a while: from then on each must be cleared before it is used again.
///
/// # Errors
///
/// None in practice: it asks for what is there.
pub fn wear_in<M: Machine>(kernel: &Kernel<M>) -> Result<()> {
    for _ in 0..2 {
        let all = kernel.frames().free_frames();
        let file = kernel.new_file(all - all / 64, 1).context("no memory to wear in")?;
        kernel.close_file(file);
    }
    Ok(())
}

/// Replays a trace once.
///
/// # Errors
///
/// Out of memory.
pub fn replay<M: Machine, C: Clock>(
    kernel: &Kernel<M>,
    clock: &C,
    history: &History,
) -> Result<(Times, Tally)> {
    let file = Stage::file(kernel, &history.header).context("no memory for the file")?;
    clock.begin();
    let start = clock.now_ns();
    let result = replayer::replay(kernel, &file, history);
    let replayed_ns = clock.now_ns() - start;
    clock.end();
    kernel.close_file(file);
    let tally = result.context("the replay stopped")?;
    Ok((Times { replayed_ns, ..Times::recorded(history) }, tally))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 s on two processors: 12 s of user time, 4 s of system time, 1 s of that memory management.
    fn times(replayed_ns: u64) -> Times {
        let second = 1_000_000_000;
        let recorded =
            RunTimes { real_ns: 10 * second, user_ns: 12 * second, system_ns: 4 * second };
        Times { recorded, replaced_ns: second, replayed_ns }
    }

    #[test]
    fn only_the_memory_management_of_system_time_is_replaced() {
        assert_eq!(times(1_000_000_000).of(TracedRow::System), 4e9);
        assert_eq!(times(1_100_000_000).of(TracedRow::System), 4.1e9);
        assert_eq!(times(1_100_000_000).of(TracedRow::Memory), 1.1e9);
        assert_eq!(times(1_100_000_000).of(TracedRow::User), 12e9);
    }

    #[test]
    fn waiting_that_makes_durations_more_than_system_time_is_not_cut_off() {
        let mut history = read(None).unwrap();
        assert_eq!(rows_of(&history).len(), 4);
        history.summary.costs.call_ns = Some(history.trailer.recorded.system_ns * 8);
        assert_eq!(rows_of(&history), [TracedRow::Memory]);
        let said = caveats(&history).into_iter().find(|caveat| caveat.contains("is more than all"));
        assert!(said.is_some(), "{:?}", caveats(&history));
    }

    #[test]
    fn real_time_keeps_processors_as_busy_as_they_were() {
        assert_eq!(times(1_000_000_000).of(TracedRow::Real), 10e9);
        assert_eq!(times(2_600_000_000).of(TracedRow::Real), 11e9);
    }

    #[test]
    fn the_reference_trace_has_what_its_rows_need() {
        let history = read(None).unwrap();
        let needed = Kinds::FAULTS | Kinds::FAULT_WRITES | Kinds::KERNEL_FAULTS | Kinds::DURATIONS;
        assert!(history.header.kinds.contains(needed), "{:?}", history.header.kinds);
        assert!(Times::recorded(&history).add_up());
        assert_eq!(
            caveats(&history).len(),
            1,
            "its durations are elapsed time: {:?}",
            caveats(&history)
        );
        assert_eq!(history.trailer.lost, 0);
        assert_eq!(history.trailer.outcome, kpkeys_trace::Outcome::Exited(0));
        assert!(history.summary.counts.execs > 150, "{:?}", history.summary.counts);
    }
}
