//! The tables that the Linux series published, to print and to compare with.
//!
//! The figures are in `data/series-tables.json`, which also says where they come from. They were
//! measured by others on another machine with another rule for flags; `kpkeys reference` shows them
//! as they are, and `bench --compare` sets them beside a run.

use kpkeys_stats::{
    compare::{Reference, ReferenceRow},
    cost::CostModel,
};
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// All published tables.
#[derive(Debug, Serialize, Deserialize)]
pub struct Catalogue {
    /// Where the figures come from.
    pub source: String,
    /// Tables of effects over a baseline.
    pub effects: Vec<EffectTable>,
    /// Tables of baseline times.
    pub baselines: Vec<BaselineTable>,
}

/// A published table of effects.
#[derive(Debug, Serialize, Deserialize)]
pub struct EffectTable {
    /// The name it is asked for by.
    pub name: String,
    /// The day it was posted.
    pub date: String,
    /// What was and was not measured.
    pub note: String,
    /// The rows, in the order of the posting.
    pub rows: Vec<ReferenceRow>,
}

/// A published table of baseline times.
#[derive(Debug, Serialize, Deserialize)]
pub struct BaselineTable {
    /// The name it is asked for by.
    pub name: String,
    /// What one loop is, and on what it ran.
    pub note: String,
    /// The rows.
    pub rows: Vec<BaselineRow>,
}

/// One baseline time.
#[derive(Debug, Serialize, Deserialize)]
pub struct BaselineRow {
    /// The benchmark the row belongs to.
    pub benchmark: String,
    /// The row's name.
    pub result_class: String,
    /// Time of one loop.
    pub ns_per_loop: f64,
}

/// One table of the catalogue.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Published {
    /// Effects over a baseline.
    Effects(&'static EffectTable),
    /// Baseline times.
    Baselines(&'static BaselineTable),
}

/// A name that no published table has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown table `{name}`; expected one of {valid}")]
pub struct UnknownTable {
    /// The name asked for.
    pub name: String,
    /// The names there are.
    pub valid: String,
}

/// The published tables.
pub fn catalogue() -> &'static Catalogue {
    static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
        serde_json::from_str(include_str!("../data/series-tables.json"))
            .expect("the file is part of the program, and a test parses it")
    });
    &CATALOGUE
}

/// Every published table, in the order in which they are printed.
pub fn published() -> impl Iterator<Item = Published> {
    let effects = catalogue().effects.iter().map(Published::Effects);
    effects.chain(catalogue().baselines.iter().map(Published::Baselines))
}

/// The published table of that name.
///
/// # Errors
///
/// [`UnknownTable`], which lists the valid names.
pub fn find(name: &str) -> Result<Published, UnknownTable> {
    published().find(|table| table.name() == name).ok_or_else(|| unknown(name, published()))
}

/// The published table of effects of that name, as `bench --compare` needs it.
///
/// # Errors
///
/// [`UnknownTable`], which lists the names of the tables that hold effects.
pub fn find_effects(name: &str) -> Result<Reference, UnknownTable> {
    let effects = &catalogue().effects;
    match effects.iter().find(|table| table.name == name) {
        Some(table) => Ok(table.as_reference()),
        None => Err(unknown(name, effects.iter().map(Published::Effects))),
    }
}

fn unknown(name: &str, tables: impl Iterator<Item = Published>) -> UnknownTable {
    let valid = tables.map(Published::name).collect::<Vec<_>>().join(", ");
    UnknownTable { name: name.to_owned(), valid }
}

/// The cost model of the machine on which the series was measured, with its published baselines.
pub fn graviton3() -> CostModel {
    let rows = catalogue().baselines.iter().flat_map(|table| &table.rows);
    CostModel::graviton3(rows.map(|row| (row.result_class.clone(), row.ns_per_loop)))
}

impl Published {
    /// The name it is asked for by.
    pub fn name(self) -> &'static str {
        match self {
            Published::Effects(table) => &table.name,
            Published::Baselines(table) => &table.name,
        }
    }
}

impl EffectTable {
    fn as_reference(&self) -> Reference {
        let note = format!("the Linux series, {}: {}", self.date, self.note);
        Reference { name: self.name.clone(), note, rows: self.rows.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kpkeys_stats::{
        flag::Flag,
        record::{Counts, Mode},
    };

    #[test]
    fn the_published_figures_are_the_published_ones() {
        let amended = find_effects("v5-amended").unwrap();
        assert_eq!(amended.rows.len(), 17);
        let fork = amended.rows.iter().find(|row| row.result_class == "fork: h:1").unwrap();
        assert_eq!(fork.modes[&Mode::Batched].effect_pct, 6.99);
        assert_eq!(fork.modes[&Mode::Batched].flag, Some(Flag::Regression));
        let munmap = amended.rows.iter().find(|row| row.result_class == "munmap: h:0").unwrap();
        assert_eq!(munmap.modes[&Mode::Batched].flag, None);
        let switch_only = find_effects("v5-switch-only").unwrap();
        assert_eq!(switch_only.rows[3].modes[&Mode::Unbatched].effect_pct, 217.31);
    }

    #[test]
    fn both_tables_have_the_same_rows_and_baselines_name_some_of_them() {
        let [amended, switch_only] = &catalogue().effects[..] else { panic!("two tables") };
        let classes = |table: &'static EffectTable| -> Vec<&str> {
            table.rows.iter().map(|row| row.result_class.as_str()).collect()
        };
        assert_eq!(classes(amended), classes(switch_only));
        for row in &catalogue().baselines[0].rows {
            assert!(classes(amended).contains(&row.result_class.as_str()), "{row:?}");
        }
        assert_eq!(graviton3().baselines_ns["vm_map_ram_test: p:1, h:0"], 162.4);
    }

    /// How good the cost model is on the machine it is meant for: the windows of the `unbatched`
    /// vmalloc rows are known (two for each page: one store to map, one to unmap), and so is what
    /// they were measured to cost. The bounds are quoted in `docs/src/reading-the-table.md`.
    #[test]
    fn the_cost_model_is_within_40_percent_of_the_published_unbatched_rows() {
        let pages = |class: &str| match class {
            "random_size_alloc_test: p:1, h:0" => Some(50.5),
            _ => class.split_once("p:")?.1.split_once(',')?.0.parse().ok(),
        };
        let amended = find_effects("v5-amended").unwrap();
        let projected = amended.rows.iter().filter(|row| row.benchmark == "vmalloc").map(|row| {
            let switches = 4.0 * pages(&row.result_class).unwrap();
            let counts = Counts { switches, ..Counts::default() };
            let model = graviton3().project(&row.result_class, None, &Counts::default(), &counts);
            (model.unwrap().effect_pct / row.modes[&Mode::Unbatched].effect_pct, &row.result_class)
        });
        let projected: Vec<_> = projected.collect();
        assert_eq!(projected.len(), 10);
        for (ratio, class) in projected {
            assert!((0.6..1.3).contains(&ratio), "{class}: {ratio} of the published effect");
        }
    }

    #[test]
    fn an_unknown_table_is_answered_with_the_valid_ones() {
        assert_eq!(
            find("v6").unwrap_err().to_string(),
            "unknown table `v6`; expected one of v5-amended, v5-switch-only, graviton3-baseline"
        );
        assert_eq!(
            find_effects("graviton3-baseline").unwrap_err().to_string(),
            "unknown table `graviton3-baseline`; expected one of v5-amended, v5-switch-only"
        );
    }
}
