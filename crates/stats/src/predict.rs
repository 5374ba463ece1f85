//! What protection is expected to cost, from what it does and what that costs on a machine.
//!
//! ```text
//! added = switches * c_switch - merged * c_barrier + key_changes * c_key + ptps * c_pooled
//! ```
//!
//! each for what the mode does on top of the baseline.
//! A switch is a register write with its barrier. Where that is merged with one that comes anyway, there are fewer barriers than switches, and
//! it is not paid. `c_pooled` is what a page-table page from the pool costs more (or less) than one from the frame
//! allocator. Unlike the projection beside a table ([`crate::cost`]), whose costs are another machine's, these are meant to come true, and
//! are tested against what was measured.

use serde::{Deserialize, Serialize};

use crate::cost::UnitCost;
use crate::record::{Counts, Mode};

/// What events cost on a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// The machine.
    pub machine: String,
    /// Where the costs come from.
    pub source: String,
    /// A switch with its barrier, among others: each waits for little more than the one before.
    pub switch: UnitCost,
    /// A switch with its barrier, far from others: it waits for what else is under way.
    pub lone_switch: UnitCost,
    /// The barrier alone.
    pub barrier: UnitCost,
    /// A change of the key of a page-table page, without the switches around it.
    pub key_change: UnitCost,
    /// A page-table page from the pool instead of the frame allocator.
    pub pooled_ptp: UnitCost,
}

/// An expected effect, in percent of the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The expectation.
    pub effect_pct: f64,
    /// Where the true one may be.
    pub low_pct: f64,
    /// Its other end.
    pub high_pct: f64,
    /// Nanoseconds added to one operation.
    pub extra_ns: f64,
}

/// Points by which an effect moves with where the code lies, and which no cost of events foresees.
pub const LAYOUT_POINTS: f64 = 1.0;

/// Whether page-table pages come from the pool in a mode.
fn is_pooled(mode: Mode) -> bool {
    match mode {
        Mode::BatchedPool | Mode::LeanNoDeferral => true,
        Mode::LeanNoPool => false,
        _ => !matches!(
            mode.whole().unwrap_or(mode),
            Mode::Off | Mode::Aa | Mode::Unbatched | Mode::Batched
        ),
    }
}

impl Costs {
    /// What a mode is expected to cost a row, by the counts of both and the time of the baseline.
    #[must_use]
    pub fn predict(&self, mode: Mode, baseline_ns: f64, off: &Counts, on: &Counts) -> Prediction {
        let terms = self.terms(mode, off, on);
        let extra_ns: f64 = terms.iter().map(|(times, cost)| times * cost.ns).sum();
        // Costs are off for reasons of their own, so what they are off by adds up as squares do.
        let reach = |end: fn(&UnitCost) -> f64, toward: f64| {
            let off_by = |(times, cost): &(f64, UnitCost)| times * (end(cost) - cost.ns);
            let squares = terms.iter().map(off_by).filter(|ns| ns * toward > 0.0).map(|ns| ns * ns);
            squares.sum::<f64>()
        };
        let side = |toward: f64| {
            let squares = reach(|cost| cost.low_ns, toward) + reach(|cost| cost.high_ns, toward);
            (squares.sqrt() / baseline_ns * 100.0).hypot(LAYOUT_POINTS)
        };
        let effect_pct = extra_ns / baseline_ns * 100.0;
        let (low_pct, high_pct) = (effect_pct - side(-1.0), effect_pct + side(1.0));
        Prediction { effect_pct, low_pct, high_pct, extra_ns }
    }

    /// How many of what, on top of the baseline.
    fn terms(&self, mode: Mode, off: &Counts, on: &Counts) -> [(f64, UnitCost); 4] {
        let switch = match mode {
            Mode::Unbatched | Mode::UnbatchedSwitches => self.switch,
            _ => self.lone_switch,
        };
        let switches = on.switches - off.switches;
        let merged = (switches - (on.barriers - off.barriers)).max(0.0);
        let pooled = if is_pooled(mode) { on.ptps } else { 0.0 };
        let spared = UnitCost {
            ns: -self.barrier.ns,
            low_ns: -self.barrier.high_ns,
            high_ns: -self.barrier.low_ns,
        };
        [
            (switches, switch),
            (merged, spared),
            (on.key_changes - off.key_changes, self.key_change),
            (pooled, self.pooled_ptp),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs() -> Costs {
        let cost = |ns: f64| UnitCost { ns, low_ns: 0.9 * ns, high_ns: 1.1 * ns };
        Costs {
            machine: "test".into(),
            source: "test".into(),
            switch: cost(10.0),
            lone_switch: cost(20.0),
            barrier: UnitCost::exactly(5.0),
            key_change: cost(50.0),
            pooled_ptp: UnitCost::exactly(-30.0),
        }
    }

    fn counts(switches: f64, barriers: f64, key_changes: f64, ptps: f64) -> Counts {
        Counts { switches, barriers, key_changes, ptps, ..Counts::default() }
    }

    #[test]
    fn each_mode_is_charged_for_what_it_does_more_than_the_baseline() {
        let off = counts(0.0, 1.0, 0.0, 2.0);
        let added = |mode, on: &Counts| costs().predict(mode, 1000.0, &off, on).extra_ns;
        // Four switches among others, each with its barrier, and one key.
        assert_eq!(added(Mode::Unbatched, &counts(4.0, 5.0, 1.0, 2.0)), 4.0 * 10.0 + 50.0);
        // Two far apart, one of whose barriers was due anyway.
        assert_eq!(added(Mode::Batched, &counts(2.0, 2.0, 0.0, 2.0)), 2.0 * 20.0 - 5.0);
        // The pool makes up for it.
        assert_eq!(added(Mode::FusedLean, &counts(2.0, 3.0, 0.0, 2.0)), 2.0 * 20.0 - 2.0 * 30.0);
        assert_eq!(added(Mode::LeanNoPool, &counts(2.0, 3.0, 0.0, 2.0)), 40.0);
    }

    #[test]
    fn it_is_no_more_certain_than_the_costs_and_the_layout() {
        let off = Counts::default();
        let of = |switches| {
            costs().predict(Mode::Unbatched, 1000.0, &off, &counts(switches, switches, 0.0, 0.0))
        };
        let nothing = of(0.0);
        assert_eq!((nothing.low_pct, nothing.high_pct), (-LAYOUT_POINTS, LAYOUT_POINTS));
        let much = of(1000.0);
        assert_eq!(much.effect_pct, 1000.0);
        assert!(
            (much.high_pct - 1100.0).abs() < 0.1 && (much.low_pct - 900.0).abs() < 0.1,
            "{much:?}"
        );
    }
}
