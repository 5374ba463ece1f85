//! One run of several that are compared: what it says of each row, from its samples or, without them, from its table.

use std::collections::BTreeMap;

use crate::{
    compare::Reference,
    conditions::Conditions,
    record::{Mode, Recording, Unit},
    reduce::{Measurements, ReduceError, RowMeasurements, reduce},
    table::Table,
};

/// One of the runs compared.
#[derive(Clone, Debug)]
pub struct Side {
    /// What it is called: a folder, a file, a published table.
    pub name: String,
    /// Under what it was made.
    pub conditions: Conditions,
    /// The session it shares blocks in, if it does.
    pub session: Option<String>,
    /// Why it proves nothing, if it does not.
    pub void: Option<String>,
    /// Its rows, in order.
    pub rows: Vec<SideRow>,
}

/// One row of a run.
#[derive(Clone, Debug)]
pub struct SideRow {
    /// Samples; without them there are no modes in it.
    pub measured: RowMeasurements,
    /// What a table says where there are no samples.
    given: BTreeMap<Mode, Given>,
}

/// What a table says of a mode.
#[derive(Clone, Copy, Debug, Default)]
struct Given {
    time: Option<f64>,
    effect_pct: Option<f64>,
}

impl Side {
    /// A recorded run; `table` is the one made of it.
    ///
    /// # Errors
    ///
    /// What [`reduce`] refuses.
    pub fn of_recording(
        name: &str,
        recording: &Recording,
        table: &Table,
    ) -> Result<Self, ReduceError> {
        let Measurements { rows, .. } = reduce(recording)?;
        let run = recording.run();
        Ok(Side {
            name: name.to_owned(),
            conditions: Conditions::of_run(run),
            session: run.origin.as_ref().and_then(|origin| origin.session.clone()),
            void: void(table),
            rows: rows.into_iter().map(|measured| SideRow { measured, given: [].into() }).collect(),
        })
    }

    /// A table without its samples: it can be shown, and proves nothing.
    #[must_use]
    pub fn of_table(name: &str, table: &Table) -> Self {
        let row = |row: &crate::table::Row| {
            let given = |mode: Mode| Given {
                effect_pct: row.effect(mode).map(|effect| effect.effect_pct),
                time: match (row.baseline, row.effect(mode)) {
                    (Some(off), _) if mode == Mode::Off => Some(off),
                    (Some(off), Some(effect)) => Some(off * (1.0 + effect.effect_pct / 100.0)),
                    _ => None,
                },
            };
            let given = row.modes.keys().map(|mode| (*mode, given(*mode))).collect();
            SideRow { measured: empty(&row.benchmark, &row.result_class, row.unit), given }
        };
        Side {
            name: name.to_owned(),
            conditions: Conditions::of_table(table),
            session: None,
            void: void(table).or_else(|| Some("a table without its samples".to_owned())),
            rows: table.rows.iter().map(row).collect(),
        }
    }

    /// A published table.
    #[must_use]
    pub fn of_reference(reference: &Reference) -> Self {
        let row = |row: &crate::compare::ReferenceRow| {
            let given = |effect_pct| Given { effect_pct: Some(effect_pct), time: None };
            let effects = row.modes.iter();
            SideRow {
                measured: empty(&row.benchmark, &row.result_class, None),
                given: effects.map(|(mode, effect)| (*mode, given(effect.effect_pct))).collect(),
            }
        };
        Side {
            name: reference.name.clone(),
            conditions: Conditions::published(&reference.note),
            session: None,
            void: Some("a published table without its samples".to_owned()),
            rows: reference.rows.iter().map(row).collect(),
        }
    }

    /// The row of that name.
    #[must_use]
    pub fn row(&self, benchmark: &str, result_class: &str) -> Option<&SideRow> {
        let named = |row: &&SideRow| {
            (row.measured.benchmark.as_str(), row.measured.result_class.as_str())
                == (benchmark, result_class)
        };
        self.rows.iter().find(named)
    }

    /// Whether the other run's blocks are this one's.
    #[must_use]
    pub fn shares_blocks_with(&self, other: &Side) -> bool {
        self.session.is_some() && self.session == other.session
    }
}

impl SideRow {
    /// Its modes, the host kernel's left out.
    pub fn modes(&self) -> impl Iterator<Item = Mode> {
        let shown = |mode: &Mode| {
            *mode != Mode::Linux
                && (self.given.contains_key(mode)
                    || self.measured.modes.get(mode).is_some_and(|mode| !mode.blocks.is_empty()))
        };
        Mode::ALL.into_iter().filter(shown)
    }

    /// Time of one operation.
    #[must_use]
    pub fn time(&self, mode: Mode) -> Option<f64> {
        self.measured.geometric_mean(mode).or_else(|| self.given.get(&mode)?.time)
    }

    /// Effect of a mode in percent of its own run's baseline.
    #[must_use]
    pub fn effect_pct(&self, mode: Mode) -> Option<f64> {
        let ratios = self.measured.log_ratios(mode);
        let measured =
            (!ratios.is_empty()).then(|| crate::estimate::percent(crate::interval::mean(&ratios)));
        measured.or_else(|| self.given.get(&mode)?.effect_pct)
    }
}

fn empty(benchmark: &str, result_class: &str, unit: Option<Unit>) -> RowMeasurements {
    RowMeasurements {
        benchmark: benchmark.to_owned(),
        result_class: result_class.to_owned(),
        unit,
        entries: None,
        modes: BTreeMap::new(),
    }
}

fn void(table: &Table) -> Option<String> {
    (!table.gates_hold()).then(|| "the A/A gate failed".to_owned())
}
