//! Modes taken apart: one line a row, one column a step, beside what the series published of it.

use super::{
    cells::{self, NONE},
    grid::Grid,
};
use crate::parts::{Report, Row};
use kpkeys_stats::parts::{Points, Step};

/// Columns: what stands above them, and the step. Steps that the series published are preceded by its figure.
const COLUMNS: [(&str, &str); 11] = [
    ("unbatched\nwindows", "unbatched-windows"),
    ("unbatched\n+ keys", "unbatched-keys"),
    ("batched\nwindows", "batched-windows"),
    ("batched\n+ keys", "batched-keys"),
    ("batched\nwhole", "batched"),
    ("batched\nkeys alone", "batched-keys-alone"),
    ("pool for\nkeys", "batched-pool"),
    ("lean\nwindows", "lean-windows"),
    ("lean\n+ pool", "lean-pool"),
    ("lean\nwhole", "lean"),
    ("of it\ndeferral", "lean-deferral"),
];

/// The table.
pub fn grid(report: &Report) -> Grid {
    let mut heads = vec!["result class".to_owned()];
    let mut lines: Vec<Vec<String>> =
        report.rows.iter().map(|row| vec![row.here.result_class.clone()]).collect();
    let mut spare = Vec::new();
    for (head, step) in COLUMNS {
        if report.rows.iter().any(|row| row.series.contains_key(step)) {
            heads.push(format!("series\n{}", head.replace('\n', " ")));
            add(&mut lines, report, |row| {
                row.series.get(step).map(|points| cells::signed(*points, 2))
            });
        }
        heads.push(head.to_owned());
        add(&mut lines, report, |row| row.here.steps.get(step).map(points));
        if step.starts_with("unbatched") {
            spare.extend(heads[heads.len() - 2..].iter().cloned());
        }
    }
    Grid { heads, text_columns: 1, lines, spare, ..Grid::default() }
}

fn add(lines: &mut [Vec<String>], report: &Report, cell: impl Fn(&Row) -> Option<String>) {
    for (line, row) in lines.iter_mut().zip(&report.rows) {
        line.push(cell(row).unwrap_or_else(|| NONE.to_owned()));
    }
}

/// A difference with the half width of its interval.
pub fn points(points: &Points) -> String {
    let half = points.low.zip(points.high).map(|(low, high)| (high - low) / 2.0);
    let half = half.map_or_else(|| "?".to_owned(), |half| format!("{half:.2}"));
    format!("{} ±{half}", cells::signed(points.points, 2))
}

/// What is said beneath the table.
pub fn legend(report: &Report) -> Vec<String> {
    let mut lines = vec![
        "points: percent of the baseline; ± is the half width of the 95 % interval over blocks. Nothing here is flagged: what is claimed of a \
         mode is claimed by the table of the run."
            .to_owned(),
        "series: from its two published tables, switches alone and with keys; the second less the first is what keys cost there.".to_owned(),
    ];
    let steps = COLUMNS.iter().filter_map(|(head, name)| {
        let step = Step::ALL.into_iter().find(|step| step.name == *name)?;
        Some(format!("{}: {}", head.replace('\n', " "), step.about))
    });
    lines.extend(steps);
    lines.extend(report.conclusions.iter().map(|conclusion| conclusion.sentence.clone()));
    lines
}
