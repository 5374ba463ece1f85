//! Records for programs: one JSON object a line, each with a `type`.

use crate::console;
use serde::Serialize;

/// A record.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Record<'a> {
    /// The machine is up.
    Boot {
        /// RAM in KiB.
        ram_kib: u64,
        /// CPUs that run.
        cpus: usize,
        /// Milliseconds since the kernel was entered.
        boot_ms: u128,
        /// What the command line said of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        label: Option<&'a str>,
    },
    /// The final page tables are in use.
    Protection {
        /// The backend's name.
        backend: &'a str,
        /// The mode's name.
        mode: &'a str,
        /// Which keys page tables carry: `one`, or `separate`.
        keys: &'a str,
        /// Whether hardware refuses stores to page tables.
        enforced: bool,
        /// Page-table pages.
        ptps: usize,
        /// Pages that carry the key and wait to become page-table pages.
        spare: usize,
        /// Milliseconds since the kernel was entered.
        up_ms: u128,
    },
    /// One attack.
    Attack {
        /// The protection mode.
        mode: &'a str,
        /// What was attacked.
        target: &'a str,
        /// How.
        primitive: &'a str,
        /// `blocked` or `succeeded`.
        outcome: &'a str,
        /// `blocked` or `none`.
        promised: &'a str,
        /// The error code of the fault that blocked it.
        code: Option<u64>,
        /// Whether that fault is the protection register's.
        by_protection: Option<bool>,
    },
    /// All attacks were made.
    Attacks {
        /// The protection mode.
        mode: &'a str,
        /// How many.
        made: usize,
        /// How many of them went otherwise than they must.
        broken: usize,
    },
    /// One timed iteration of a benchmark.
    Sample {
        /// The row.
        row: &'a str,
        /// Which iteration, from 0.
        iteration: u32,
        /// Nanoseconds, as the emulated machine's clock has them.
        ns: u64,
        /// Operations in them.
        operations: u64,
    },
    /// The events of one iteration of a benchmark.
    Counts {
        /// The row.
        row: &'a str,
        /// Operations counted.
        operations: u64,
        /// How many of each kind, in the order of `kpkeys_pgtable::Event`.
        events: crate::evidence::counter::Counts,
        /// The most stores that one window covered.
        longest_window_stores: u64,
        /// How long the longest gate kept interrupts off, in nanoseconds of the machine's clock: 0 where windows are no gates.
        longest_gate_ns: u64,
    },
    /// The command that was to be run has ended.
    Program {
        /// As a shell shows it: what it exited with, or 128 and the signal that ended it.
        status: u32,
        /// Frames that were there before and are in use, or lost, after.
        missing_frames: i64,
    },
    /// The attacker beside a command has ended.
    Attacker {
        /// Its stores that faulted.
        blocked: u64,
        /// Those that did not.
        succeeded: u64,
    },
    /// The soak has ended.
    Soak {
        /// Operations of all workers.
        operations: u64,
        /// The attacker's stores that faulted.
        blocked: u64,
        /// Those that did not.
        succeeded: u64,
        /// Frames that were there before and are in use, or lost, after.
        missing_frames: i64,
    },
    /// The outcome of one in-kernel test.
    Test {
        /// Its name.
        name: &'a str,
        /// Whether it passed.
        passed: bool,
        /// Why not.
        reason: Option<&'a str>,
    },
    /// Something that an in-kernel test does not check on this machine.
    Skip {
        /// The test's name.
        name: &'a str,
        /// Why not.
        reason: &'a str,
    },
    /// All tests have run.
    Tests {
        /// How many passed.
        passed: usize,
        /// How many did not.
        failed: usize,
    },
}

/// Writes `record` as one line.
pub fn emit(record: &Record<'_>) {
    match serde_json::to_string(record) {
        Ok(line) => console::write_line(format_args!("{line}")),
        Err(error) => log::error!("a record could not be written as JSON: {error}"),
    }
}
