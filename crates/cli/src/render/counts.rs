//! The event counts: one line for each row and mode.

use super::{
    Format,
    cells::{self, NONE},
    grid::Grid,
};
use kpkeys_stats::{
    record::{Counts, Exposure, Unit},
    table::{Cell, Row, Table},
};

/// The counts of every row in every mode that was counted. On a terminal a row's name stands on a
/// line of its own above its modes; folded, across all columns.
pub fn grid(table: &Table, format: Format, folded: bool) -> Grid {
    let extra = extra_counters(table);
    let added = match table.rows.iter().find_map(|row| row.unit) {
        Some(Unit::Instructions) => "extra\ninstr.",
        _ => "extra\ntime",
    };
    let mut lines = Vec::new();
    for row in &table.rows {
        let counted =
            row.modes.iter().filter_map(|(mode, cell)| Some((*mode, cell, cell.counts.as_ref()?)));
        for (index, (mode, cell, counts)) in counted.enumerate() {
            let numbers = numbers(row, cell, counts, &extra);
            if format == Format::Markdown {
                let names = [row.result_class.clone(), mode.name().to_owned()];
                lines.push(names.into_iter().chain(numbers).collect());
                continue;
            }
            if index == 0 {
                lines.push(vec![row.result_class.clone()]);
            }
            lines.push([format!("  {}", mode.name())].into_iter().chain(numbers).collect());
        }
    }
    let names: &[&str] =
        if format == Format::Markdown { &["result class", "mode"] } else { &["result class"] };
    let spare = extra.iter().map(|name| head(name)).chain(SPARE.map(str::to_owned)).collect();
    Grid { heads: heads(names, added, &extra), text_columns: names.len(), lines, spare, folded }
}

fn heads(names: &[&str], added: &str, extra: &[String]) -> Vec<String> {
    let fixed = [
        added,
        "switches",
        "barriers",
        "windows",
        "entry\nstores",
        "ptps",
        "key\nchanges",
        "tlb\nflushes",
    ];
    let exposure = ["open\nshare", "longest\nwindow"];
    let extra = extra.iter().map(|name| head(name));
    let fixed = names.iter().copied().chain(fixed).map(str::to_owned);
    fixed.chain(extra).chain(exposure.map(str::to_owned)).collect()
}

/// What follows from the other columns goes first.
const SPARE: [&str; 6] =
    ["barriers", "ptps", "tlb\nflushes", "switches", "key\nchanges", "extra\ntime"];

/// The head of a further counter.
fn head(name: &str) -> String {
    name.replacen('_', "\n", 1)
}

fn numbers(row: &Row, cell: &Cell, counts: &Counts, extra: &[String]) -> Vec<String> {
    let added =
        cell.effect.as_ref().and_then(|effect| effect.extra_ns.or(effect.extra_instructions));
    let added = added.map_or_else(|| NONE.to_owned(), |added| cells::quantity(added, row.unit));
    let mut line = vec![added];
    line.extend(counts.named().take(Counts::FIXED).map(|(_, count)| cells::count(count)));
    line.extend(extra.iter().map(|name| {
        counts.extra.get(name).map_or_else(|| NONE.to_owned(), |count| cells::count(*count))
    }));
    line.extend(exposure(cell.exposure.as_ref()));
    line
}

fn exposure(exposure: Option<&Exposure>) -> [String; 2] {
    match exposure {
        Some(exposure) => [
            format!("{:.2} %", exposure.open_share * 100.0),
            cells::count(exposure.longest_window_stores as f64),
        ],
        None => [NONE.to_owned(), NONE.to_owned()],
    }
}

/// The names of all further counters, in order.
fn extra_counters(table: &Table) -> Vec<String> {
    let cells = table.rows.iter().flat_map(|row| row.modes.values());
    let names =
        cells.filter_map(|cell| cell.counts.as_ref()).flat_map(|counts| counts.extra.keys());
    let mut names: Vec<String> = names.cloned().collect();
    names.sort();
    names.dedup();
    names
}
