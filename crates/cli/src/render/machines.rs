//! One evaluation on several kinds of machines, side by side: nothing is pooled, and nothing is tested across them.

use super::{
    cells::{self, NONE},
    grid::Grid,
};
use kpkeys_stats::table::{Row, Table};

/// One line a row and mode, one column a machine.
pub fn grid(machines: &[(&str, &Table)]) -> Grid {
    let mut heads = vec!["result class".to_owned(), "mode".to_owned()];
    heads.extend(machines.iter().map(|(name, _)| (*name).to_owned()));
    let mut lines = Vec::new();
    let Some((_, first)) = machines.first() else { return Grid::default() };
    for row in &first.rows {
        for mode in first.protecting_modes() {
            let mut line = vec![row.result_class.clone(), mode.name().to_owned()];
            line.extend(machines.iter().map(|(_, table)| {
                let effect = same(table, row).and_then(|row| row.effect(mode));
                effect.map_or_else(|| NONE.to_owned(), cells::effect)
            }));
            lines.push(line);
        }
    }
    Grid { heads, text_columns: 2, lines, ..Grid::default() }
}

fn same<'t>(table: &'t Table, row: &Row) -> Option<&'t Row> {
    let same = |other: &&Row| {
        (&other.benchmark, &other.result_class) == (&row.benchmark, &row.result_class)
    };
    table.rows.iter().find(same)
}

/// What is said beneath it.
pub fn legend(machines: &[(&str, &Table)]) -> Vec<String> {
    let machine = |(name, table): &(&str, &Table)| {
        let switch = table.switch_ns.map_or(String::new(), |ns| format!(", a switch {ns:.1} ns"));
        format!("{name}: {}, {} blocks{switch}", table.machine.cpu, table.blocks)
    };
    machines.iter().map(machine).collect()
}
