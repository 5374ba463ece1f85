//! The published tables as they are, without anything measured here.

use super::{
    Format,
    cells::{self, NONE},
    grid::Grid,
    results::under_benchmarks,
};
use crate::reference::{self, BaselineTable, EffectTable, Published};
use kpkeys_stats::record::{Mode, Unit};
use serde_json::{Value, json};

/// The name of a table and what it holds.
pub fn title(table: Published) -> String {
    match table {
        Published::Effects(table) => format!("{}, {}: {}", table.name, table.date, table.note),
        Published::Baselines(table) => format!("{}: {}", table.name, table.note),
    }
}

/// The rows of a table. On a terminal the benchmark stands only beside its first row, on a narrow one above it.
pub fn grid(table: Published, format: Format, folded: bool) -> Grid {
    let mut grid = match table {
        Published::Effects(table) => effects(table),
        Published::Baselines(table) => baselines(table),
    };
    if folded {
        return under_headings(grid);
    }
    if format != Format::Markdown {
        blank_repeats(&mut grid.lines);
    }
    grid
}

/// The benchmark on a line of its own above its rows, instead of a column.
fn under_headings(grid: Grid) -> Grid {
    let names: Vec<[String; 2]> =
        grid.lines.iter().map(|line| [line[0].clone(), line[1].clone()]).collect();
    let names = names.iter().map(|[benchmark, class]| (benchmark.as_str(), class.as_str()));
    let lines = grid.lines.iter().map(|line| line[1..].to_vec()).collect();
    Grid {
        heads: grid.heads[1..].to_vec(),
        text_columns: 1,
        lines: under_benchmarks(names, lines, true),
        folded: true,
        ..Grid::default()
    }
}

/// What is said beneath the tables.
pub fn legend() -> Vec<String> {
    vec![
        "effects: change of time over the unhardened kernel in percent, + is slower. R slower, I \
         faster, by the series' own rule; ? neither."
            .to_owned(),
        format!("source: {}", reference::catalogue().source),
    ]
}

/// The tables as one JSON object.
pub fn object(tables: &[Published]) -> Value {
    json!({ "source": reference::catalogue().source, "tables": tables })
}

fn effects(table: &EffectTable) -> Grid {
    let line = |row: &kpkeys_stats::compare::ReferenceRow| {
        let of =
            |mode| row.modes.get(&mode).map_or_else(|| NONE.to_owned(), cells::reference_effect);
        vec![
            row.benchmark.clone(),
            row.result_class.clone(),
            of(Mode::Unbatched),
            of(Mode::Batched),
        ]
    };
    let heads = ["benchmark", "result class", Mode::Unbatched.name(), Mode::Batched.name()];
    Grid {
        heads: heads.map(str::to_owned).to_vec(),
        text_columns: 2,
        lines: table.rows.iter().map(line).collect(),
        ..Grid::default()
    }
}

fn baselines(table: &BaselineTable) -> Grid {
    let line = |row: &reference::BaselineRow| {
        let time = cells::quantity(row.ns_per_loop, Some(Unit::Ns));
        vec![row.benchmark.clone(), row.result_class.clone(), time]
    };
    Grid {
        heads: ["benchmark", "result class", "off, per loop"].map(str::to_owned).to_vec(),
        text_columns: 2,
        lines: table.rows.iter().map(line).collect(),
        ..Grid::default()
    }
}

fn blank_repeats(lines: &mut [Vec<String>]) {
    for index in (1..lines.len()).rev() {
        if lines[index][0] == lines[index - 1][0] {
            lines[index][0].clear();
        }
    }
}
