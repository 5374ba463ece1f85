//! Expected costs, row by row, and beside what was measured; and the list of CPUs.

use super::{
    cells::{self, NONE},
    grid::Grid,
};
use crate::estimate::costs::Known;
use crate::estimate::{Expected, Report, Row};
use kpkeys_stats::cost::UnitCost;
use kpkeys_stats::predict::{LAYOUT_POINTS, SOFTWARE};
use kpkeys_stats::record::{Mode, Unit};

/// The table.
pub fn grid(report: &Report) -> Grid {
    let modes = modes(report);
    let mut heads = vec!["result class".to_owned(), "off".to_owned()];
    for mode in &modes {
        heads.push(format!("{mode}\nexpected"));
        if report.validated.contains_key(mode) {
            heads.push(format!("{mode}\nmeasured"));
        }
    }
    let line = |row: &Row| {
        let mut line =
            vec![row.result_class.clone(), cells::quantity(row.baseline_ns, Some(Unit::Ns))];
        for mode in &modes {
            let expected = row.modes.get(mode);
            line.push(expected.map_or_else(|| NONE.to_owned(), cell));
            if report.validated.contains_key(mode) {
                line.push(expected.and_then(measured).unwrap_or_else(|| NONE.to_owned()));
            }
        }
        line
    };
    let lines = report.rows.iter().map(line).collect();
    Grid { heads, text_columns: 1, lines, ..Grid::default() }
}

fn modes(report: &Report) -> Vec<Mode> {
    let modes: std::collections::BTreeSet<Mode> =
        report.rows.iter().flat_map(|row| row.modes.keys().copied()).collect();
    modes.into_iter().collect()
}

/// The expectation and where it may end.
fn cell(expected: &Expected) -> String {
    let of = expected.prediction;
    let digits = if of.effect_pct.abs() < 100.0 { 1 } else { 0 };
    let [low, high] = [of.low_pct, of.high_pct].map(|end| cells::signed(end, digits));
    format!("{} ({low} to {high})", cells::signed(of.effect_pct, digits))
}

/// What was measured, marked where nobody would have expected it.
fn measured(expected: &Expected) -> Option<String> {
    let mark = match (expected.came_true, expected.contradicted) {
        (_, Some(true)) => " !!",
        (Some(false), _) => " !",
        _ => "",
    };
    Some(format!("{}{mark}", cells::signed(expected.measured_pct?, 1)))
}

/// What is said beneath it.
pub fn legend(report: &Report) -> Vec<String> {
    let costs = &report.costs;
    let cost = |name: &str, cost: UnitCost| {
        format!("{name} {:.1} ({:.1} to {:.1}) ns", cost.ns, cost.low_ns, cost.high_ns)
    };
    let all = [
        cost("a switch with its barrier", costs.switch),
        cost("the barrier alone", costs.barrier),
        cost("the flush of a key change", costs.key_change),
    ];
    let mut lines = vec![
        format!(
            "expected: change over the baseline in percent, and where it may be: the range of the costs and of what an instruction takes, and {LAYOUT_POINTS} points for where the code lies."
        ),
        format!(
            "software: the instructions that a mode executes more, counted; a percent of them costs {} ({} to {}) percent. Of rows that were not counted, those of a window.",
            SOFTWARE.ns, SOFTWARE.low_ns, SOFTWARE.high_ns
        ),
        format!("costs of {}: {}.", costs.machine, all.join(", ")),
        format!("source: {}.", costs.source),
    ];
    lines.extend(report.worthless.clone().map(|why| format!("WORTH NOTHING: {why}.")));
    if report.foreign_costs {
        lines.push("costs of another machine on baselines of this one: percentages are as good as the two machines are alike.".to_owned());
    }
    for (mode, validated) in &report.validated {
        lines.push(format!(
            "{mode}: of {} rows, {} were measured within the stated ends (others are marked !), {} with their whole interval outside (!!), {} within 2 points, {} within a tenth.",
            validated.rows, validated.within_stated, validated.contradicted, validated.within_2_points, validated.within_a_tenth
        ));
    }
    lines
}

/// The list of CPUs.
pub fn known(list: &[Known]) -> Grid {
    let heads = ["machine", "backends", "source"].map(str::to_owned).to_vec();
    let line = |known: &Known| {
        vec![known.name.to_owned(), known.backends.join(", "), known.source.to_owned()]
    };
    Grid { heads, text_columns: 3, lines: list.iter().map(line).collect(), ..Grid::default() }
}
