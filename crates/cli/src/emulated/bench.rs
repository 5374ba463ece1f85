//! Rows of the table, run by the reference kernel: the emulated counterpart of a worker process.
//!
//! Each row gets a boot of its own, as it gets a machine of its own in a process, so that what one leaves behind is not another's set-up.

use anyhow::{Context, Result, bail};
use kpkeys_emulator::Line;
use kpkeys_pgtable::Event;
use kpkeys_stats::record::{Exposure, Mode, Record, Sample, Unit};
use kpkeys_workloads::{ALL_ROWS, Row};
use serde::Deserialize;

use super::Emulated;
use crate::bench::plan::PlannedRow;
use crate::bench::worker::{counts_record, entries};

/// CPUs of a machine that counts events: as the machine in a process has them.
pub const CPUS: u32 = 2;
/// Memory for two processes of 1 GiB and the tables of a linear map of pages.
pub const MEMORY_MIB: u32 = 2304;

/// What to run.
#[derive(Clone, Debug)]
pub struct Request {
    /// The mode; [`Mode::Aa`] runs as `off`.
    pub mode: Mode,
    /// The block that samples are for.
    pub block: u32,
    /// The rows.
    pub rows: Vec<Row>,
    /// What the published number of loops is divided by.
    pub scale: u64,
    /// Timed iterations of each row.
    pub iterations: u32,
    /// Count events instead of instructions.
    pub count: bool,
}

/// What the kernel says that it measured.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Measured {
    /// One timed iteration.
    Sample {
        /// The row.
        row: String,
        /// Which iteration, from 0.
        iteration: u32,
        /// How long it took, by the machine's clock.
        ns: u64,
        /// Operations in it.
        operations: u64,
    },
    /// The events of one iteration.
    Counts {
        /// The row.
        row: String,
        /// Operations in it.
        operations: u64,
        /// How many of each kind, in the order of [`Event`].
        events: Vec<u64>,
        /// The most stores that one window covered.
        longest_window_stores: u64,
    },
}

/// The kernel's records, of which those of a benchmark matter.
#[derive(Deserialize)]
#[serde(untagged)]
enum Reported {
    Measured(Measured),
    Other(serde::de::IgnoredAny),
}

impl Measured {
    /// The row's name.
    pub fn row(&self) -> &str {
        match self {
            Measured::Sample { row, .. } | Measured::Counts { row, .. } => row,
        }
    }

    /// Whether it is a time.
    pub fn is_timed(&self) -> bool {
        matches!(self, Measured::Sample { .. })
    }

    /// The record of a run that it is, of this row. `unit` is what the machine's clock counts.
    pub fn record(&self, row: &Row, mode: Mode, block: u32, unit: Unit) -> Record {
        match self {
            Measured::Sample { iteration, ns, operations, .. } => Record::Sample(Sample {
                mode,
                block,
                iteration: *iteration,
                benchmark: row.benchmark.into(),
                result_class: row.result_class.into(),
                unit,
                value: *ns as f64 / *operations as f64,
                entries: entries(row),
            }),
            Measured::Counts { operations, events, longest_window_stores, .. } => {
                let each = |event: Event| {
                    events
                        .get(event as usize)
                        .map_or(0.0, |&count| count as f64 / *operations as f64)
                };
                // The share of time means nothing where a register write costs thousands of cycles.
                let longest_window_stores = *longest_window_stores;
                let exposure = Exposure { open_share: 0.0, longest_window_stores };
                let row = PlannedRow::Workload(*row);
                Record::Counts(counts_record(mode, &row, each, Some(exposure)))
            }
        }
    }
}

impl Emulated {
    /// Runs rows and returns what was counted, as a worker process would have printed it: events, or, where a process is timed, the
    /// instructions the emulated CPU executed. The kernel reads a clock there as everywhere, but the clock counts one nanosecond an
    /// instruction: the emulator's own time would say nothing of any CPU.
    ///
    /// # Errors
    ///
    /// A boot that failed, with what the kernel printed last.
    pub fn bench(&self, request: &Request) -> Result<Vec<Record>> {
        let machine = if request.count { self.clone() } else { self.counting_instructions() };
        let mut records = Vec::new();
        for row in &request.rows {
            machine.bench_row(request, row, &mut records)?;
        }
        Ok(records)
    }

    fn bench_row(&self, request: &Request, row: &Row, records: &mut Vec<Record>) -> Result<()> {
        let number = ALL_ROWS.iter().position(|known| known == row);
        let number = number.context("a row of another build")?;
        let Request { mode, scale, iterations, .. } = *request;
        let (what, mode) = (
            if request.count { "count" } else { "bench" },
            if mode == Mode::Aa { Mode::Off } else { mode },
        );
        let mode = self.words_of(mode.name());
        let words = format!("{what}={number} scale={scale} iterations={iterations} {mode}");
        let before = records.len();
        let mut bad = None;
        let boot = self.boot(&words, &mut |line| match line {
            Line::Record(json) => match record_of(request, row, json) {
                Ok(record) => records.extend(record),
                Err(error) => bad = Some(error),
            },
            Line::Log(text) if text.contains("error: ") => eprintln!("{text}"),
            Line::Log(_) => {}
        })?;
        if let Some(error) = bad {
            return Err(error);
        }
        if !boot.held || records.len() == before {
            bail!("row `{}` failed in the kernel, booted with `{words}`", row.result_class);
        }
        Ok(())
    }
}

fn record_of(request: &Request, row: &Row, json: &str) -> Result<Option<Record>> {
    let reported = serde_json::from_str(json)
        .with_context(|| format!("not a record of the kernel: {json}"))?;
    match reported {
        Reported::Measured(measured) if measured.row() == row.result_class => {
            Ok(Some(measured.record(row, request.mode, request.block, Unit::Instructions)))
        }
        Reported::Measured(_) => {
            bail!("the kernel ran another row than `{}`: {json}", row.result_class)
        }
        Reported::Other(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests;
