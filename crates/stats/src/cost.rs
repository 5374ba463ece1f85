//! A projection: what a row would cost on a machine whose unit costs are known.
//!
//! ```text
//! T(row) = T_base + switches * c_switch + key_changes * c_key + checks * c_check
//! ```
//!
//! The counts are exact and do not depend on the machine, so a machine that cannot be measured here
//! can still be estimated from three unit costs. `switches`, `key_changes` and `checks` are what a
//! mode does on top of the baseline; `checks` are the tests of "is protection on, is the window
//! open already" and come from an extra counter of that name.
//!
//! `c_switch` includes the barrier behind the register write, for every switch. A leave whose
//! barrier is merged with one that the lazy-MMU section issues anyway is not credited. Crediting it
//! with the 13 ns of an ISB was tried: for the short vmalloc rows, whose batched loop makes 4
//! switches and 3 barriers, it gives 51 ns instead of 64 ns, where the series' figures for p:1,
//! p:4, p:16 and vm_map_ram are 85, 97, 62 and 44 ns. The simpler form is the nearer one. For
//! `fused`, which issues fewer barriers than it makes switches, the projection is therefore on the
//! high side.
//!
//! A projection is not a measurement and is never tested or flagged.

use crate::record::Counts;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A unit cost with the range in which it is known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnitCost {
    /// The value used.
    pub ns: f64,
    /// The lowest it may be.
    pub low_ns: f64,
    /// The highest it may be.
    pub high_ns: f64,
}

impl UnitCost {
    /// A cost that is known exactly, such as one given by the user.
    #[must_use]
    pub const fn exactly(ns: f64) -> Self {
        UnitCost { ns, low_ns: ns, high_ns: ns }
    }
}

/// What the three kinds of events cost on some machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnitCosts {
    /// The machine, as it is named beside the projection.
    pub machine: String,
    /// One switch of the protection register, barrier included.
    pub switch: UnitCost,
    /// One change of the key of a page-table page, TLB flush included.
    pub key_change: UnitCost,
    /// One check that finds nothing to switch.
    pub check: UnitCost,
}

/// Unit costs, and the baselines of that machine where they are known.
#[derive(Clone, Debug, PartialEq)]
pub struct CostModel {
    /// The unit costs.
    pub costs: UnitCosts,
    /// The machine's own baseline of a row in nanoseconds, by result class.
    pub baselines_ns: BTreeMap<String, f64>,
}

/// Where the baseline of a projection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BaseSource {
    /// Published for the machine that is projected to.
    Published,
    /// Measured in this run, since none is published: costs of one machine on the times of another.
    Measured,
}

/// A projected effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Projection {
    /// Change over the baseline, in percent.
    pub effect_pct: f64,
    /// With every unit cost at its lowest.
    pub low_pct: f64,
    /// With every unit cost at its highest.
    pub high_pct: f64,
    /// Nanoseconds added to one operation.
    pub extra_ns: f64,
    /// The baseline used.
    pub base_ns: f64,
    /// Where the baseline comes from.
    pub base: BaseSource,
}

impl CostModel {
    /// Graviton3, on which the series was measured: a switch 16 ns (12.5 to 20) and a key change
    /// 0.58 us (0.44 to 0.71), both derived from the series' tables. No cost of a check is
    /// published; it is a predicted branch and taken as 0.
    #[must_use]
    pub fn graviton3(baselines_ns: impl IntoIterator<Item = (String, f64)>) -> Self {
        let costs = UnitCosts {
            machine: "Graviton3".to_owned(),
            switch: UnitCost { ns: 16.0, low_ns: 12.5, high_ns: 20.0 },
            key_change: UnitCost { ns: 580.0, low_ns: 440.0, high_ns: 710.0 },
            check: UnitCost::exactly(0.0),
        };
        CostModel { costs, baselines_ns: baselines_ns.into_iter().collect() }
    }

    /// Projects one row. `measured_base_ns` is used where the machine's own baseline is not known;
    /// without either there is no projection.
    #[must_use]
    pub fn project(
        &self,
        result_class: &str,
        measured_base_ns: Option<f64>,
        baseline: &Counts,
        mode: &Counts,
    ) -> Option<Projection> {
        let published = self.baselines_ns.get(result_class).map(|ns| (*ns, BaseSource::Published));
        let (base_ns, base) = published.or(measured_base_ns.map(|ns| (ns, BaseSource::Measured)))?;
        let pct = |bound| 100.0 * self.costs.added_ns(baseline, mode, bound) / base_ns;
        Some(Projection {
            effect_pct: pct(|cost| cost.ns),
            low_pct: pct(|cost| cost.low_ns),
            high_pct: pct(|cost| cost.high_ns),
            extra_ns: self.costs.added_ns(baseline, mode, |cost| cost.ns),
            base_ns,
            base,
        })
    }
}

impl UnitCosts {
    /// Nanoseconds that the events of `mode` add to those of `baseline`.
    fn added_ns(&self, baseline: &Counts, mode: &Counts, bound: fn(UnitCost) -> f64) -> f64 {
        (mode.switches - baseline.switches) * bound(self.switch)
            + (mode.key_changes - baseline.key_changes) * bound(self.key_change)
            + (checks(mode) - checks(baseline)) * bound(self.check)
    }
}

fn checks(counts: &Counts) -> f64 {
    counts.extra.get("checks").copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P256: &str = "fix_size_alloc_test: p:256, h:0";

    fn counts(switches: f64, key_changes: f64) -> Counts {
        Counts { switches, key_changes, ..Counts::default() }
    }

    #[test]
    fn a_published_baseline_is_preferred_to_a_measured_one() {
        let model = CostModel::graviton3([(P256.to_owned(), 23_679.0)]);
        let off = Counts::default();
        // 512 windows of two switches: 1024 * 16 ns on 23,679 ns.
        let projection = model.project(P256, Some(1.0), &off, &counts(1024.0, 0.0)).unwrap();
        assert_eq!((projection.base_ns, projection.base), (23_679.0, BaseSource::Published));
        assert_eq!(projection.extra_ns, 16_384.0);
        assert!((projection.effect_pct - 69.192).abs() < 1e-3);
        assert!((projection.low_pct - 54.057).abs() < 1e-3);
        assert!((projection.high_pct - 86.490).abs() < 1e-3);
    }

    #[test]
    fn without_a_published_baseline_the_measured_one_is_named_as_such() {
        let model = CostModel::graviton3([]);
        let projection =
            model.project("fork: h:0", Some(1e6), &Counts::default(), &counts(0.0, 100.0));
        let projection = projection.unwrap();
        assert_eq!(projection.base, BaseSource::Measured);
        assert!((projection.effect_pct - 5.8).abs() < 1e-9);
        assert_eq!(model.project("fork: h:0", None, &Counts::default(), &counts(1.0, 1.0)), None);
    }

    #[test]
    fn only_what_the_mode_adds_is_charged() {
        let mut model = CostModel::graviton3([]);
        model.costs.check = UnitCost::exactly(2.0);
        let extra = |checks| BTreeMap::from([("checks".to_owned(), checks)]);
        let off = Counts { extra: extra(10.0), ..counts(1.0, 1.0) };
        let on = Counts { extra: extra(15.0), ..counts(3.0, 1.0) };
        let projection = model.project("row", Some(1000.0), &off, &on).unwrap();
        assert_eq!(projection.extra_ns, 2.0 * 16.0 + 5.0 * 2.0);
    }
}
