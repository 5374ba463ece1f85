//! The table of one run, typed.
//!
//! Serialised it is the object that `kpkeys bench --format json` prints: scripts rely on its field
//! names, so fields may be added but none renamed or removed. `docs/src/reading-the-table.md` says
//! what each number means.

mod build;

use crate::{
    compare::Comparison,
    cost::{Projection, UnitCosts},
    flag::Flag,
    permutation::PMethod,
    record::{Counts, Exposure, Machine, Mode, Origin, Unit},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The evaluation of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Table {
    /// The machine measured.
    pub machine: Machine,
    /// `host`, or the emulated machine.
    pub on: String,
    /// How a window was opened.
    pub backend: String,
    /// Which keys page tables carried in mode `fused`, if not one: `separate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// The entry format of the tables.
    pub paging: String,
    /// Measured cost of one register switch with its barrier.
    pub switch_ns: Option<f64>,
    /// Blocks with a finished baseline.
    pub blocks: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Whether the shortened run was asked for.
    pub quick: bool,
    /// What was built.
    pub build: String,
    /// What made the run; none for a run of a version that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Whether `R` and `I` are within reach of so many blocks for so many comparisons. If not, an
    /// absent flag means nothing.
    pub can_flag: bool,
    /// Comparisons in the family of Holm's correction.
    pub comparisons: usize,
    /// The smallest corrected p-value that this table can reach.
    pub smallest_p_holm: f64,
    /// Fewest blocks with which a table of this size can be flagged, where there is such a number.
    pub blocks_needed: Option<usize>,
    /// Checks the run has to pass, by name. `aa`: the twin of the baseline shows no effect.
    pub gates: BTreeMap<String, Gate>,
    /// What was tolerated on the way, in words.
    pub notices: Vec<String>,
    /// The unit costs behind every `projection`.
    pub projection_costs: UnitCosts,
    /// The rows, in the order in which they were run, benchmarks together.
    pub rows: Vec<Row>,
    /// Another table set beside this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<Comparison>,
}

/// The name of the A/A gate in [`Table::gates`].
pub const AA_GATE: &str = "aa";

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Nothing was found. For `aa` this is evidence only if [`Table::can_flag`].
    Pass,
    /// The table is void.
    Fail,
    /// The samples do not hold what the check needs.
    NotRun,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Row {
    /// The benchmark it belongs to.
    pub benchmark: String,
    /// The row's name, as in the series' table.
    pub result_class: String,
    /// What the baseline is in; none for a row that was only counted.
    pub unit: Option<Unit>,
    /// Geometric mean over blocks of the time of one operation without protection.
    pub baseline: Option<f64>,
    /// Whether most of that was recorded on the machine a trace is of, not measured here.
    #[serde(default)]
    pub baseline_recorded: bool,
    /// The same for one table entry.
    pub per_entry_ns: Option<f64>,
    /// What the host kernel takes for the same operation.
    pub linux_here: Option<f64>,
    /// What each mode gave, `off` and `aa` included.
    pub modes: BTreeMap<Mode, Cell>,
}

/// One mode of one row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cell {
    /// The measured effect; none for the baseline itself and for rows that were only counted.
    #[serde(flatten)]
    pub effect: Option<Effect>,
    /// The projected effect, by the unit costs of another machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projection: Option<Projection>,
    /// Events per operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// How long windows were open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<Exposure>,
}

/// A measured effect. Percentages are changes over the baseline; positive is slower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Effect {
    /// Mean over blocks, of log ratios.
    pub effect_pct: f64,
    /// Student-t 95 % interval; none with a single block.
    pub ci_low_pct: Option<f64>,
    /// Its upper end.
    pub ci_high_pct: Option<f64>,
    /// Half the width of that interval: what an effect without a flag is uncertain by.
    pub half_width_pct: Option<f64>,
    /// BCa bootstrap 95 % interval.
    pub bca_low_pct: Option<f64>,
    /// Its upper end.
    pub bca_high_pct: Option<f64>,
    /// Time added to one operation: the difference of the geometric means over the paired blocks,
    /// so that it agrees with `effect_pct`. None unless the row is in nanoseconds.
    pub extra_ns: Option<f64>,
    /// The same in instructions; none unless the row is in instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_instructions: Option<f64>,
    /// That time in percent of what the host kernel takes for the same operation: the scale on which a baseline that is faster
    /// than the host's does not magnify the effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of_linux_pct: Option<f64>,
    /// p-value of the sign-flip test.
    pub p: f64,
    /// How it was computed.
    pub p_method: PMethod,
    /// The p-value corrected for the number of comparisons.
    pub p_holm: f64,
    /// Blocks that entered.
    pub pairs: usize,
    /// What may be said of the effect.
    pub flag: Option<Flag>,
    /// What the series' own rule says.
    pub compat_flag: Option<Flag>,
}

impl Table {
    /// Whether no gate failed.
    #[must_use]
    pub fn gates_hold(&self) -> bool {
        !self.gates.values().any(|gate| *gate == Gate::Fail)
    }

    /// The modes that protect and have an effect in some row, in column order.
    #[must_use]
    pub fn protecting_modes(&self) -> Vec<Mode> {
        let shown = |mode: &Mode| self.rows.iter().any(|row| row.effect(*mode).is_some());
        Mode::PROTECTING.into_iter().filter(shown).collect()
    }
}

impl Row {
    /// The measured effect of a mode.
    #[must_use]
    pub fn effect(&self, mode: Mode) -> Option<&Effect> {
        self.modes.get(&mode)?.effect.as_ref()
    }
}

#[cfg(test)]
mod tests;
