//! The sample file: what a measuring run writes, one JSON object a line.
//!
//! The file opens with one [`Run`] line that says on what and how was measured. Then follow
//! [`Sample`] and [`CountsRecord`] lines in the order in which they were taken, and a [`NoiseRecord`] for each block. When the worker of
//! one mode in one block has finished, a [`Done`] line says so; what a worker wrote before it was
//! killed has no such line, is ignored by every reader, and is measured again when the run is
//! continued, which first cuts the file back to the end of its last whole block. A line is written
//! whole before the next one starts, so that a kill can only tear the last line.
//!
//! Values are checked when they are read and when they are written ([`Record::check`]), so that
//! everything after this module may rely on finite, positive times.

mod mode;
mod origin;
mod read;
mod write;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub use mode::Mode;
pub use origin::Origin;
pub use read::{Problem, ReadError, Reader, Recording};
pub use write::{WriteError, Writer};

/// The format version this crate writes.
pub const FORMAT: u32 = 2;
/// The one before, which is read as well. What it calls `fused` checked nothing, and is [`Mode::FusedLean`] by now.
pub const BEFORE_INTEGRITY: u32 = 1;

/// One line of the sample file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// The header: the first line, and only the first.
    Run(Box<Run>),
    /// One timed iteration.
    Sample(Sample),
    /// Event counts and exposure of one row in one mode.
    Counts(CountsRecord),
    /// A worker finished: what it wrote counts.
    Done(Done),
    /// What else happened on the machine during a block.
    Noise(NoiseRecord),
}

/// What was run, where, and from which build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// Version of this file format: [`FORMAT`], or [`BEFORE_INTEGRITY`].
    pub format: u32,
    /// The machine that ran it.
    pub machine: Machine,
    /// `host`, or the emulated machine, such as `qemu-x86_64`.
    pub on: String,
    /// How a window was opened, such as `mock`.
    pub backend: String,
    /// Which keys page tables carried in mode `fused`, if not one: `separate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// The entry format of the tables, such as `aarch64`.
    pub paging: String,
    /// Measured cost of one register switch with its barrier; absent where time means nothing.
    pub switch_ns: Option<f64>,
    /// Seed of the order of modes in each block; also seeds the bootstrap.
    pub seed: u64,
    /// Blocks planned.
    pub blocks: u32,
    /// Whether the shortened run was asked for.
    pub quick: bool,
    /// What was built: version, revision and profile.
    pub build: String,
    /// What made it; none in a file of a version that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// The machine a run was taken on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many CPUs the run could use.
    pub cpus: u32,
    /// The instruction set, such as `x86_64`.
    pub arch: String,
    /// The operating system and its version.
    pub os: String,
    /// Whatever else is worth keeping, such as the governor or the hypervisor.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One timed iteration of one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sample {
    /// The protection mode.
    pub mode: Mode,
    /// The block, counted from 0.
    pub block: u32,
    /// The repeat inside this process, counted from 0.
    pub iteration: u32,
    /// The benchmark the row belongs to, such as `vmalloc`.
    pub benchmark: String,
    /// The row, such as `fix_size_alloc_test: p:1, h:0`.
    pub result_class: String,
    /// What `value` counts.
    pub unit: Unit,
    /// Time (or instructions) of one operation.
    pub value: f64,
    /// Table entries one operation handles in the baseline, for a time per entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<f64>,
}

/// What a sample's value is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// CPU cycles.
    Cycles,
    /// Instructions, the only meaningful measure under an emulator.
    Instructions,
}

/// Event counts of one row in one mode, from a build or a run that counts instead of timing.
///
/// Counts do not depend on the machine, so one record for each row and mode is enough; if there
/// are several, the last one is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CountsRecord {
    /// The protection mode.
    pub mode: Mode,
    /// The benchmark the row belongs to.
    pub benchmark: String,
    /// The row.
    pub result_class: String,
    /// Events per timed operation.
    pub counts: Counts,
    /// How long windows were open.
    pub exposure: Option<Exposure>,
}

/// Events per timed operation. Averages where one operation differs from the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// Writes of the protection register.
    pub switches: f64,
    /// Barriers, those of the baseline included.
    pub barriers: f64,
    /// Windows opened.
    pub windows: f64,
    /// Stores to page-table entries.
    pub entry_stores: f64,
    /// Page-table pages allocated.
    pub ptps: f64,
    /// Changes of the key of a page-table page.
    pub key_changes: f64,
    /// TLB flushes.
    pub tlb_flushes: f64,
    /// Further counters by name, such as `checks`.
    #[serde(flatten)]
    pub extra: BTreeMap<String, f64>,
}

/// How exposed the tables were while a row ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Exposure {
    /// Share of the time during which a window was open, 0 to 1.
    pub open_share: f64,
    /// Stores made in the longest window.
    pub longest_window_stores: u64,
}

/// What else happened on the machine while a block was measured, as far as the system says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NoiseRecord {
    /// The block.
    pub block: u32,
    /// Share of all CPUs' time that a hypervisor gave to others, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal_pct: Option<f64>,
    /// Share in which other processes ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others_pct: Option<f64>,
    /// How often the core was slowed for its heat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<u64>,
}

/// The worker of one mode in one block has finished.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub struct Done {
    /// The protection mode.
    pub mode: Mode,
    /// The block.
    pub block: u32,
}

/// A value that no measurement can have.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} is {value}; expected {expected}")]
pub struct ValueError {
    /// The field that holds it.
    pub field: String,
    /// The value found.
    pub value: f64,
    /// What would have been accepted.
    pub expected: &'static str,
}

const POSITIVE: &str = "a finite number above 0";
const NOT_NEGATIVE: &str = "a finite number of at least 0";
const PERCENT: &str = "a share between 0 and 100";
const SHARE: &str = "a share between 0 and 1";

impl Record {
    /// What a record of the version [`BEFORE_INTEGRITY`] says in the words of this one.
    fn renamed_as_lean(mut self) -> Self {
        let rename = |mode: &mut Mode| {
            if *mode == Mode::Fused {
                *mode = Mode::FusedLean;
            }
        };
        match &mut self {
            Record::Run(run) => {
                run.origin.iter_mut().flat_map(|origin| &mut origin.modes).for_each(rename);
            }
            Record::Sample(sample) => rename(&mut sample.mode),
            Record::Counts(record) => rename(&mut record.mode),
            Record::Done(done) => rename(&mut done.mode),
            Record::Noise(_) => {}
        }
        self
    }

    /// Checks every number of the record.
    ///
    /// # Errors
    ///
    /// The first field whose number cannot be a measurement: a time that is not finite and above
    /// 0 (its logarithm is taken), a count that is negative, a share outside 0 to 1.
    pub fn check(&self) -> Result<(), ValueError> {
        match self {
            Record::Run(run) => run.switch_ns.map_or(Ok(()), |ns| positive("switch_ns", ns)),
            Record::Sample(sample) => sample.check(),
            Record::Counts(record) => record.check(),
            Record::Done(_) => Ok(()),
            Record::Noise(noise) => noise.check(),
        }
    }
}

impl NoiseRecord {
    fn check(&self) -> Result<(), ValueError> {
        let shares = [("steal_pct", self.steal_pct), ("others_pct", self.others_pct)];
        shares.into_iter().try_for_each(|(field, share)| {
            let share = share.unwrap_or(0.0);
            require((0.0..=100.0).contains(&share), field, share, PERCENT)
        })
    }
}

impl Sample {
    fn check(&self) -> Result<(), ValueError> {
        positive("value", self.value)?;
        self.entries.map_or(Ok(()), |entries| positive("entries", entries))
    }
}

impl CountsRecord {
    fn check(&self) -> Result<(), ValueError> {
        for (name, count) in self.counts.named() {
            let ok = count.is_finite() && count >= 0.0;
            require(ok, &format!("counts.{name}"), count, NOT_NEGATIVE)?;
        }
        let share = self.exposure.as_ref().map_or(0.0, |exposure| exposure.open_share);
        require((0.0..=1.0).contains(&share), "exposure.open_share", share, SHARE)
    }
}

impl Unit {
    /// The unit's name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Unit::Ns => "ns",
            Unit::Cycles => "cycles",
            Unit::Instructions => "instructions",
        }
    }
}

impl Counts {
    /// How many counters every record has; [`Counts::named`] yields these first.
    pub const FIXED: usize = 7;

    /// Every counter with its name, the fixed ones first, in the order in which they are printed.
    pub fn named(&self) -> impl Iterator<Item = (&str, f64)> {
        let fixed: [_; Counts::FIXED] = [
            ("switches", self.switches),
            ("barriers", self.barriers),
            ("windows", self.windows),
            ("entry_stores", self.entry_stores),
            ("ptps", self.ptps),
            ("key_changes", self.key_changes),
            ("tlb_flushes", self.tlb_flushes),
        ];
        fixed.into_iter().chain(self.extra.iter().map(|(name, count)| (name.as_str(), *count)))
    }
}

fn positive(field: &str, value: f64) -> Result<(), ValueError> {
    require(value.is_finite() && value > 0.0, field, value, POSITIVE)
}

fn require(ok: bool, field: &str, value: f64, expected: &'static str) -> Result<(), ValueError> {
    if ok { Ok(()) } else { Err(ValueError { field: field.to_owned(), value, expected }) }
}

#[cfg(test)]
mod tests;
