//! Where each point of overhead goes: modes taken apart, part by part.
//!
//! A step is the difference of two modes in the same blocks, in points: percent of the baseline. Its interval is Student's over blocks, as
//! everywhere; it carries no flag. Steps explain a table, and what is claimed of a mode is claimed by the table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::interval::{mean, student_t};
use crate::record::{Mode, Recording};
use crate::reduce::{ReduceError, RowMeasurements, reduce};

/// One part of a cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The name it has in files.
    pub name: &'static str,
    /// What it means, for people.
    pub about: &'static str,
    /// The mode without the part; the baseline if there is none.
    pub from: Option<Mode>,
    /// The mode with it.
    pub to: Mode,
}

impl Step {
    const fn new(name: &'static str, from: Option<Mode>, to: Mode, about: &'static str) -> Step {
        Step { name, about, from, to }
    }

    /// All steps, in the order in which they are printed.
    pub const ALL: [Step; 11] = [
        Step::new(
            "unbatched-windows",
            None,
            Mode::UnbatchedSwitches,
            "unbatched:switches over off: a window for each store, no keys",
        ),
        Step::new(
            "unbatched-keys",
            Some(Mode::UnbatchedSwitches),
            Mode::Unbatched,
            "unbatched over unbatched:switches: what setting keys adds",
        ),
        Step::new(
            "batched-windows",
            None,
            Mode::BatchedSwitches,
            "batched:switches over off: windows, no keys",
        ),
        Step::new(
            "batched-keys",
            Some(Mode::BatchedSwitches),
            Mode::Batched,
            "batched over batched:switches: what setting keys adds, with the windows it takes",
        ),
        Step::new(
            "batched-keys-alone",
            None,
            Mode::BatchedKeys,
            "batched:keys over off: keys set, no register ever written",
        ),
        Step::new("batched", None, Mode::Batched, "batched over off: the whole"),
        Step::new(
            "batched-pool",
            Some(Mode::Batched),
            Mode::BatchedPool,
            "batched:pool over batched: what allocation in bulk changes",
        ),
        Step::new(
            "lean-windows",
            Some(Mode::Batched),
            Mode::LeanNoPool,
            "fused-lean:no-pool over batched: what fewer windows change, deferral included",
        ),
        Step::new(
            "lean-pool",
            Some(Mode::LeanNoPool),
            Mode::FusedLean,
            "fused-lean over fused-lean:no-pool: what the pool changes there",
        ),
        Step::new(
            "lean-deferral",
            Some(Mode::LeanNoDeferral),
            Mode::FusedLean,
            "fused-lean over fused-lean:no-deferral: what unmaps that wait for a window change",
        ),
        Step::new("lean", None, Mode::FusedLean, "fused-lean over off: the whole"),
    ];
}

/// A difference in percent of the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Points {
    /// Mean over blocks.
    pub points: f64,
    /// Lower end of its 95 % interval; none with a single block.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Blocks that entered.
    pub blocks: usize,
}

/// One row, taken apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartsRow {
    /// The benchmark it belongs to.
    pub benchmark: String,
    /// Its name.
    pub result_class: String,
    /// Each step that was measured, by name.
    pub steps: BTreeMap<String, Points>,
}

impl Points {
    fn of(differences: &[f64]) -> Option<Points> {
        if differences.is_empty() {
            return None;
        }
        let interval = student_t(differences, 0.95);
        let (low, high) = interval.map(|interval| (interval.low, interval.high)).unzip();
        Some(Points { points: mean(differences), low, high, blocks: differences.len() })
    }

    /// Whether it is on one side of zero, not by chance.
    #[must_use]
    pub fn excludes_zero(&self) -> bool {
        self.low.is_some_and(|low| low > 0.0) || self.high.is_some_and(|high| high < 0.0)
    }
}

/// Takes the rows of a recording apart. Empty if no parts were measured.
///
/// # Errors
///
/// A [`ReduceError`] when the samples cannot be reduced to rows.
pub fn take_apart(recording: &Recording) -> Result<Vec<PartsRow>, ReduceError> {
    let rows = reduce(recording)?.rows;
    let measured =
        |row: &RowMeasurements| Mode::PARTS.iter().any(|part| row.modes.contains_key(part));
    let rows = rows.iter().filter(|row| measured(row)).map(|row| PartsRow {
        benchmark: row.benchmark.clone(),
        result_class: row.result_class.clone(),
        steps: steps_of(row),
    });
    Ok(rows.filter(|row| !row.steps.is_empty()).collect())
}

fn steps_of(row: &RowMeasurements) -> BTreeMap<String, Points> {
    let step =
        |step: Step| Some((step.name.to_owned(), Points::of(&row.points(step.from, step.to))?));
    Step::ALL.into_iter().filter_map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::recording;

    #[test]
    fn the_parts_of_a_mode_add_up_to_it_block_by_block() {
        let recorded = recording(&[
            (Mode::Off, &[100.0, 200.0, 100.0]),
            (Mode::BatchedSwitches, &[102.0, 206.0, 104.0]),
            (Mode::Batched, &[106.0, 214.0, 108.0]),
        ]);
        let rows = take_apart(&recorded).unwrap();
        let steps = &rows[0].steps;
        // 4 points in each block, whatever the windows cost there.
        let keys = steps["batched-keys"];
        assert!((keys.points - 4.0).abs() < 1e-9 && keys.excludes_zero(), "{keys:?}");
        assert!((keys.high.unwrap() - keys.low.unwrap()).abs() < 1e-6, "{keys:?}");
        let windows = steps["batched-windows"];
        assert!((windows.points + keys.points - steps["batched"].points).abs() < 1e-9);
        assert!(windows.low.unwrap() < 2.0 && windows.high.unwrap() > 4.0, "{windows:?}");
        assert!(!steps.contains_key("batched-pool"), "nobody measured it");
    }

    #[test]
    fn a_run_without_parts_has_no_rows_here() {
        let recorded = recording(&[(Mode::Off, &[100.0]), (Mode::Batched, &[104.0])]);
        assert_eq!(take_apart(&recorded).unwrap(), []);
    }
}
