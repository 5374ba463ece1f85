//! One table beside another: a published one, or that of an earlier run.
//!
//! Two tables come from two sessions or two machines, so nothing is tested across them; the rows
//! are set side by side, and where both sides have intervals it is said whether they overlap.

use crate::{
    flag::Flag,
    interval::Interval,
    record::Mode,
    table::{Effect, Table},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A table reduced to what can be compared: named rows with effects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reference {
    /// The name it is asked for by.
    pub name: String,
    /// Where and how it was measured, in a sentence.
    pub note: String,
    /// The rows.
    pub rows: Vec<ReferenceRow>,
}

/// One row of a [`Reference`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReferenceRow {
    /// The benchmark it belongs to.
    pub benchmark: String,
    /// The row's name.
    pub result_class: String,
    /// The effect of each mode.
    pub modes: BTreeMap<Mode, ReferenceEffect>,
}

/// An effect as far as tables from elsewhere give it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReferenceEffect {
    /// Change over the baseline in percent; positive is slower.
    pub effect_pct: f64,
    /// What that table says of it, by its own rule.
    pub flag: Option<Flag>,
    /// 95 % interval, where the table has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci_low_pct: Option<f64>,
    /// Its upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci_high_pct: Option<f64>,
}

/// Two tables side by side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// The other table.
    pub name: String,
    /// Where and how it was measured.
    pub note: String,
    /// Every row of either table: those of this one first, in its order.
    pub rows: Vec<ComparedRow>,
}

impl Comparison {
    /// The row of that name.
    #[must_use]
    pub fn row(&self, benchmark: &str, result_class: &str) -> Option<&ComparedRow> {
        self.rows.iter().find(|row| row.result_class == result_class && row.benchmark == benchmark)
    }
}

/// One row of a [`Comparison`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComparedRow {
    /// The benchmark it belongs to.
    pub benchmark: String,
    /// The row's name.
    pub result_class: String,
    /// Each mode that either table has for this row.
    pub modes: BTreeMap<Mode, ComparedEffect>,
}

/// One effect in both tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComparedEffect {
    /// In this table.
    pub here: Option<ReferenceEffect>,
    /// In the other.
    pub there: Option<ReferenceEffect>,
    /// `here - there` in percentage points.
    pub difference_points: Option<f64>,
    /// Whether the 95 % intervals overlap, where both tables have them.
    pub intervals_overlap: Option<bool>,
}

impl Reference {
    /// An earlier run as a reference.
    #[must_use]
    pub fn of_table(name: &str, table: &Table) -> Self {
        let row = |row: &crate::table::Row| ReferenceRow {
            benchmark: row.benchmark.clone(),
            result_class: row.result_class.clone(),
            modes: Mode::PROTECTING
                .into_iter()
                .filter_map(|mode| Some((mode, ReferenceEffect::of(row.effect(mode)?))))
                .collect(),
        };
        Reference {
            name: name.to_owned(),
            note: format!("{} on {}, {} blocks", table.backend, table.machine.cpu, table.blocks),
            rows: table.rows.iter().map(row).collect(),
        }
    }

    fn row(&self, benchmark: &str, result_class: &str) -> Option<&ReferenceRow> {
        self.rows.iter().find(|row| row.result_class == result_class && row.benchmark == benchmark)
    }
}

impl ReferenceEffect {
    fn of(effect: &Effect) -> Self {
        ReferenceEffect {
            effect_pct: effect.effect_pct,
            flag: effect.flag,
            ci_low_pct: effect.ci_low_pct,
            ci_high_pct: effect.ci_high_pct,
        }
    }

    fn interval(&self) -> Option<Interval> {
        Some(Interval { low: self.ci_low_pct?, high: self.ci_high_pct? })
    }
}

impl Table {
    /// This table with another one beside it.
    #[must_use]
    pub fn compared_with(mut self, other: &Reference) -> Self {
        self.compare = Some(compare(&Reference::of_table("this run", &self), other));
        self
    }
}

/// Sets two tables side by side. Rows match by benchmark and result class; a row or mode that only
/// one side has is kept with the other side empty.
#[must_use]
pub fn compare(here: &Reference, there: &Reference) -> Comparison {
    let only_there =
        there.rows.iter().filter(|row| here.row(&row.benchmark, &row.result_class).is_none());
    let compared = |row: &ReferenceRow| ComparedRow {
        benchmark: row.benchmark.clone(),
        result_class: row.result_class.clone(),
        modes: compare_modes(
            here.row(&row.benchmark, &row.result_class),
            there.row(&row.benchmark, &row.result_class),
        ),
    };
    Comparison {
        name: there.name.clone(),
        note: there.note.clone(),
        rows: here.rows.iter().chain(only_there).map(compared).collect(),
    }
}

fn compare_modes(
    here: Option<&ReferenceRow>,
    there: Option<&ReferenceRow>,
) -> BTreeMap<Mode, ComparedEffect> {
    let of = |row: Option<&ReferenceRow>, mode| row.and_then(|row| row.modes.get(&mode).cloned());
    Mode::PROTECTING
        .into_iter()
        .map(|mode| (mode, of(here, mode), of(there, mode)))
        .filter(|(_, here, there)| here.is_some() || there.is_some())
        .map(|(mode, here, there)| (mode, ComparedEffect::of(here, there)))
        .collect()
}

impl ComparedEffect {
    fn of(here: Option<ReferenceEffect>, there: Option<ReferenceEffect>) -> Self {
        let both = here.as_ref().zip(there.as_ref());
        let intervals = both.and_then(|(here, there)| here.interval().zip(there.interval()));
        ComparedEffect {
            difference_points: both.map(|(here, there)| here.effect_pct - there.effect_pct),
            intervals_overlap: intervals.map(|(here, there)| here.overlaps(there)),
            here,
            there,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row, mode, effect and its interval.
    type Given = (&'static str, Mode, f64, Option<(f64, f64)>);

    fn reference(name: &str, rows: &[Given]) -> Reference {
        let row = |(class, mode, effect_pct, ci): &Given| {
            let (ci_low_pct, ci_high_pct) = ci.unzip();
            let effect =
                ReferenceEffect { effect_pct: *effect_pct, flag: None, ci_low_pct, ci_high_pct };
            ReferenceRow {
                benchmark: "b".to_owned(),
                result_class: (*class).to_owned(),
                modes: BTreeMap::from([(*mode, effect)]),
            }
        };
        let rows = rows.iter().map(row).collect();
        Reference { name: name.to_owned(), note: String::new(), rows }
    }

    #[test]
    fn rows_match_by_name_and_no_row_is_lost() {
        let here =
            reference("here", &[("x", Mode::Batched, 3.0, None), ("y", Mode::Batched, 1.0, None)]);
        let there =
            reference("there", &[("z", Mode::Batched, 9.0, None), ("x", Mode::Batched, 3.5, None)]);
        let compared = compare(&here, &there);
        let names: Vec<&str> = compared.rows.iter().map(|row| row.result_class.as_str()).collect();
        assert_eq!(names, ["x", "y", "z"]);
        assert_eq!(compared.rows[0].modes[&Mode::Batched].difference_points, Some(-0.5));
        assert_eq!(compared.rows[1].modes[&Mode::Batched].there, None);
        assert_eq!(compared.rows[2].modes[&Mode::Batched].here, None);
    }

    #[test]
    fn modes_of_one_side_only_are_kept() {
        let here = reference("here", &[("x", Mode::Fused, 0.5, None)]);
        let there = reference("there", &[("x", Mode::Batched, 3.0, None)]);
        let modes = &compare(&here, &there).rows[0].modes;
        assert_eq!(modes.keys().copied().collect::<Vec<_>>(), [Mode::Batched, Mode::Fused]);
        assert_eq!(modes[&Mode::Fused].difference_points, None);
    }

    #[test]
    fn intervals_are_compared_where_both_sides_have_them() {
        let at = |ci| reference("r", &[("x", Mode::Batched, 3.0, ci)]);
        let overlap =
            |a, b| compare(&at(a), &at(b)).rows[0].modes[&Mode::Batched].intervals_overlap;
        assert_eq!(overlap(Some((2.0, 4.0)), Some((3.5, 5.0))), Some(true));
        assert_eq!(overlap(Some((2.0, 3.0)), Some((3.5, 5.0))), Some(false));
        assert_eq!(overlap(Some((2.0, 3.0)), None), None);
    }
}
