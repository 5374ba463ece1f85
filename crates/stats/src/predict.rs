//! What protection is expected to cost, from what it does and what that costs on a machine.
//!
//! ```text
//! added = switches * c_switch - merged * c_barrier + key_changes * c_key + software
//! ```
//!
//! each for what the mode does on top of the baseline.
//! A switch is a register write with its barrier. Where that is merged with one that comes anyway, there are fewer barriers than switches, and
//! it is not paid. The software is everything else: the instructions that the mode executes more or fewer, which are counted, by what an
//! instruction takes there ([`Software`]). Unlike the projection beside a table ([`crate::cost`]), whose costs are another machine's, these are
//! meant to come true, and are tested against what was measured.

use serde::{Deserialize, Serialize};

use crate::cost::UnitCost;
use crate::record::Counts;

/// What events cost on a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// The machine.
    pub machine: String,
    /// Where the costs come from.
    pub source: String,
    /// A switch with its barrier.
    pub switch: UnitCost,
    /// The barrier alone.
    pub barrier: UnitCost,
    /// A change of the key of a page-table page beyond its instructions and the switches around it: its TLB flush.
    pub key_change: UnitCost,
}

/// What a mode does beside events.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Software {
    /// Instructions that it executes more than the baseline, as a share of the baseline's.
    Counted(f64),
    /// Nobody counted them for this row: what they take for each window.
    PerWindow(UnitCost),
}

/// By how much slower, or faster, an operation gets where it executes a hundred percent more instructions.
///
/// Not by a hundred, since what is added is hot and touches little, and what is already there waits for memory; not by a fixed time either, since
/// the same check takes longer where its line is cold. Median and middle nine tenths of the rows whose instructions differ by more than a tenth,
/// over the three layouts of the run of commit 2997e35. Runs of other commits validate it.
pub const SOFTWARE: UnitCost = UnitCost { ns: 0.65, low_ns: 0.28, high_ns: 1.26 };

/// Points by which an effect moves with where the code lies, and which no cost foresees: of the rows of `batched` and `fused-lean` in three
/// layouts of commit 2997e35, nine in ten lie within so much of their middle.
pub const LAYOUT_POINTS: f64 = 2.0;

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
    /// Of them, by instructions and not by events.
    pub software_ns: f64,
}

impl Costs {
    /// What a mode is expected to cost a row, by the counts of both, its software, and the time of the baseline.
    #[must_use]
    pub fn predict(
        &self,
        baseline_ns: f64,
        off: &Counts,
        on: &Counts,
        software: Software,
    ) -> Prediction {
        let terms = self.terms(baseline_ns, off, on, software);
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
        let software_ns = terms[3].0 * terms[3].1.ns;
        Prediction { effect_pct, low_pct, high_pct, extra_ns, software_ns }
    }

    /// How many of what, on top of the baseline.
    fn terms(
        &self,
        baseline_ns: f64,
        off: &Counts,
        on: &Counts,
        software: Software,
    ) -> [(f64, UnitCost); 4] {
        let switches = on.switches - off.switches;
        let merged = (switches - (on.barriers - off.barriers)).max(0.0);
        let spared = UnitCost {
            ns: -self.barrier.ns,
            low_ns: -self.barrier.high_ns,
            high_ns: -self.barrier.low_ns,
        };
        [
            (switches, self.switch),
            (merged, spared),
            (on.key_changes - off.key_changes, self.key_change),
            match software {
                Software::Counted(share) => (share * baseline_ns, SOFTWARE),
                Software::PerWindow(cost) => (on.windows - off.windows, cost),
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Software = Software::Counted(0.0);

    fn costs() -> Costs {
        let cost = |ns: f64| UnitCost { ns, low_ns: 0.9 * ns, high_ns: 1.1 * ns };
        Costs {
            machine: "test".into(),
            source: "test".into(),
            switch: cost(10.0),
            barrier: UnitCost::exactly(5.0),
            key_change: cost(50.0),
        }
    }

    fn counts(switches: f64, barriers: f64, key_changes: f64) -> Counts {
        Counts { switches, barriers, key_changes, windows: switches / 2.0, ..Counts::default() }
    }

    #[test]
    fn a_mode_is_charged_for_what_it_does_more_than_the_baseline() {
        let off = counts(0.0, 1.0, 0.0);
        let added = |on: &Counts, software| costs().predict(1000.0, &off, on, software).extra_ns;
        // Four switches, each with its barrier, and one key.
        assert_eq!(added(&counts(4.0, 5.0, 1.0), NOTHING), 4.0 * 10.0 + 50.0);
        // Two, one of whose barriers was due anyway.
        assert_eq!(added(&counts(2.0, 2.0, 0.0), NOTHING), 2.0 * 10.0 - 5.0);
        // A tenth more instructions, of a microsecond; and a tenth fewer make up for it.
        assert_eq!(added(&counts(2.0, 3.0, 0.0), Software::Counted(0.1)), 20.0 + 65.0);
        assert_eq!(added(&counts(2.0, 3.0, 0.0), Software::Counted(-0.1)), 20.0 - 65.0);
        let each = Software::PerWindow(UnitCost::exactly(7.0));
        assert_eq!(added(&counts(4.0, 5.0, 0.0), each), 40.0 + 2.0 * 7.0);
    }

    #[test]
    fn it_is_no_more_certain_than_the_costs_the_software_and_the_layout() {
        let off = Counts::default();
        let of = |switches, software| {
            costs().predict(1000.0, &off, &counts(switches, switches, 0.0), software)
        };
        let nothing = of(0.0, NOTHING);
        assert_eq!((nothing.low_pct, nothing.high_pct), (-LAYOUT_POINTS, LAYOUT_POINTS));
        let much = of(1000.0, NOTHING);
        assert_eq!(much.effect_pct, 1000.0);
        assert!(
            (much.high_pct - 1100.0).abs() < 0.1 && (much.low_pct - 900.0).abs() < 0.1,
            "{much:?}"
        );
        // Instructions that are spared are as uncertain as those that are added, the other way round.
        let (more, fewer) = (of(0.0, Software::Counted(1.0)), of(0.0, Software::Counted(-1.0)));
        assert!((more.effect_pct - 65.0).abs() < 1e-9 && (fewer.effect_pct + 65.0).abs() < 1e-9);
        assert!((more.high_pct + fewer.low_pct).abs() < 1e-9, "{more:?} {fewer:?}");
        assert!(more.high_pct > 125.9 && more.low_pct < 28.1, "{more:?}");
    }
}
