//! Building the table from a recording.
//!
//! The corrections need the whole table: first every comparison is estimated, then the p-values of
//! each family are corrected together, and only then can flags be given. There are three families:
//! the protecting modes, the A/A twin, and modes taken apart.

use super::{AA_GATE, Cell, Effect, Gate, Row, Table};
use crate::{
    cost::{CostModel, Projection},
    estimate::{Estimate, bca_interval, percent},
    flag::{Flag, blocks_needed, can_flag, flag, holm, smallest_p_holm},
    interval::Interval,
    pooled::pooled_flag,
    record::{Mode, Recording, Run, Unit},
    reduce::{Measurements, ModeMeasurements, ReduceError, RowMeasurements, reduce},
};
use std::collections::BTreeMap;

impl Table {
    /// Evaluates a recording.
    ///
    /// # Errors
    ///
    /// A [`ReduceError`] when the samples cannot be reduced to rows.
    pub fn build(recording: &Recording, model: &CostModel) -> Result<Self, ReduceError> {
        let measurements = reduce(recording)?;
        let run = recording.run();
        let twin = Family::of(&measurements, &[Mode::Aa], run.seed);
        let family = Family::of(&measurements, &Mode::PROTECTING, run.seed);
        // Parts explain the modes. They must not take away from what can be said of those.
        let parts = Family::of(&measurements, &Mode::PARTS, run.seed);
        let families = [&twin, &family, &parts];
        let rows = measurements.rows.iter().enumerate();
        let rows = rows.map(|(index, row)| build_row(index, row, &families, model)).collect();
        let gates = BTreeMap::from([(AA_GATE.to_owned(), twin.gate())]);
        Ok(assemble(run, measurements, &family, gates, rows, model))
    }
}

fn assemble(
    run: &Run,
    measurements: Measurements,
    family: &Family,
    gates: BTreeMap<String, Gate>,
    rows: Vec<Row>,
    model: &CostModel,
) -> Table {
    let (comparisons, pairs) = (family.tests.len(), family.pairs());
    Table {
        machine: run.machine.clone(),
        on: run.on.clone(),
        backend: run.backend.clone(),
        keys: run.keys.clone(),
        paging: run.paging.clone(),
        switch_ns: run.switch_ns,
        blocks: measurements.blocks,
        seed: run.seed,
        quick: run.quick,
        build: run.build.clone(),
        origin: run.origin.clone(),
        can_flag: can_flag(comparisons, pairs),
        comparisons,
        smallest_p_holm: smallest_p_holm(comparisons, pairs),
        blocks_needed: blocks_needed(comparisons),
        gates,
        notices: measurements.notices.iter().map(ToString::to_string).collect(),
        projection_costs: model.costs.clone(),
        rows,
        compare: None,
    }
}

/// Comparisons whose p-values are corrected together.
struct Family {
    tests: BTreeMap<(usize, Mode), Test>,
}

struct Test {
    estimate: Estimate,
    bca: Option<Interval>,
    p_holm: f64,
}

impl Family {
    fn of(measurements: &Measurements, modes: &[Mode], seed: u64) -> Self {
        let mut tests = BTreeMap::new();
        for (index, row) in measurements.rows.iter().enumerate() {
            for mode in modes {
                let ratios = row.log_ratios(*mode);
                let Some(estimate) = Estimate::of(&ratios, seed) else { continue };
                let bca = bca_interval(&ratios, seed);
                tests.insert((index, *mode), Test { estimate, bca, p_holm: 1.0 });
            }
        }
        let p_values: Vec<f64> = tests.values().map(|test| test.estimate.p).collect();
        for (test, p_holm) in tests.values_mut().zip(holm(&p_values)) {
            test.p_holm = p_holm;
        }
        Family { tests }
    }

    /// The most blocks that any comparison has.
    fn pairs(&self) -> usize {
        self.tests.values().map(|test| test.estimate.pairs).max().unwrap_or(0)
    }

    fn gate(&self) -> Gate {
        let flagged = |test: &Test| test.flag().is_some_and(Flag::is_change);
        if self.tests.is_empty() {
            return Gate::NotRun;
        }
        if self.tests.values().any(flagged) { Gate::Fail } else { Gate::Pass }
    }
}

impl Test {
    fn flag(&self) -> Option<Flag> {
        flag(&self.estimate, self.p_holm)
    }

    fn effect(&self, row: &RowMeasurements, mode: Mode) -> Effect {
        let Estimate { mean, t95, p, p_method, pairs, .. } = self.estimate;
        let (ci_low_pct, ci_high_pct) = ends_pct(t95);
        let (bca_low_pct, bca_high_pct) = ends_pct(self.bca);
        let extra = row.paired_baseline(mode).map(|off| off * mean.exp_m1());
        let extra_in = |unit| extra.filter(|_| row.unit == Some(unit));
        let extra_ns = extra_in(Unit::Ns);
        let linux = row.geometric_mean(Mode::Linux);
        Effect {
            effect_pct: percent(mean),
            ci_low_pct,
            ci_high_pct,
            half_width_pct: ci_low_pct.zip(ci_high_pct).map(|(low, high)| (high - low) / 2.0),
            bca_low_pct,
            bca_high_pct,
            extra_ns,
            extra_instructions: extra_in(Unit::Instructions),
            of_linux_pct: extra_ns.zip(linux).map(|(extra, linux)| extra / linux * 100.0),
            p,
            p_method,
            p_holm: self.p_holm,
            pairs,
            flag: self.flag(),
            compat_flag: compat_flag(row, mode),
        }
    }
}

fn ends_pct(interval: Option<Interval>) -> (Option<f64>, Option<f64>) {
    interval.map(|interval| (percent(interval.low), percent(interval.high))).unzip()
}

fn compat_flag(row: &RowMeasurements, mode: Mode) -> Option<Flag> {
    pooled_flag(&row.modes.get(&Mode::Off)?.pooled(), &row.modes.get(&mode)?.pooled())
}

fn build_row(index: usize, row: &RowMeasurements, families: &[&Family], model: &CostModel) -> Row {
    let baseline = row.geometric_mean(Mode::Off);
    let baseline_ns = baseline.filter(|_| row.unit == Some(Unit::Ns));
    let modes = row.modes.iter().filter(|(mode, _)| **mode != Mode::Linux);
    let cell = |(mode, measured): (&Mode, &ModeMeasurements)| {
        let test = families.iter().find_map(|family| family.tests.get(&(index, *mode)));
        let cell = Cell {
            effect: test.map(|test| test.effect(row, *mode)),
            projection: project(row, *mode, baseline_ns, model),
            counts: measured.counts.clone(),
            exposure: measured.exposure.clone(),
        };
        (*mode, cell)
    };
    Row {
        benchmark: row.benchmark.clone(),
        result_class: row.result_class.clone(),
        unit: row.unit,
        baseline,
        baseline_recorded: is_recorded(row),
        per_entry_ns: baseline_ns.zip(row.entries).map(|(ns, entries)| ns / entries),
        linux_here: row.geometric_mean(Mode::Linux),
        modes: modes.map(cell).collect(),
    }
}

/// Rows of a trace are the recorded time with its memory management replaced; only that alone is all measured here.
fn is_recorded(row: &RowMeasurements) -> bool {
    ["kernbench", "trace"].contains(&row.benchmark.as_str())
        && row.result_class != "memory management"
}

/// Projects a protecting mode that was counted, as was its baseline.
fn project(
    row: &RowMeasurements,
    mode: Mode,
    baseline_ns: Option<f64>,
    model: &CostModel,
) -> Option<Projection> {
    if !Mode::PROTECTING.contains(&mode) {
        return None;
    }
    let counts = |mode| row.modes.get(&mode)?.counts.as_ref();
    model.project(&row.result_class, baseline_ns, counts(Mode::Off)?, counts(mode)?)
}
