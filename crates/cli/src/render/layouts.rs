//! What several layouts of the code gave: costs, and beside them how long windows are and how much of the time one is open.

use super::cells::{self, NONE};
use super::grid::Grid;
use super::results::under_benchmarks;
use crate::spread::{Range, Spread, SpreadCell, SpreadRow};
use kpkeys_stats::flag::Flag;
use kpkeys_stats::record::{Mode, Unit};

/// Smallest and largest effect of each row and mode.
pub fn costs(spread: &Spread, folded: bool) -> Grid {
    let modes = modes(spread);
    let line = |row: &SpreadRow| {
        let effects = modes.iter().map(|mode| row.modes.get(mode).map_or(NONE.into(), effect));
        [row.result_class.clone(), baseline(row)].into_iter().chain(effects).collect()
    };
    let heads = ["result class", "off"].into_iter().chain(modes.iter().map(|mode| mode.name()));
    let spare = vec!["off".to_owned()];
    Grid { spare, ..grid(heads.map(str::to_owned).collect(), spread, folded, line) }
}

/// The ends of all intervals of each row and mode.
pub fn intervals(spread: &Spread, folded: bool) -> Grid {
    let modes = modes(spread);
    let line = |row: &SpreadRow| {
        let cells = modes.iter().map(|mode| row.modes.get(mode).map_or(NONE.into(), interval));
        [row.result_class.clone()].into_iter().chain(cells).collect()
    };
    let heads = modes.iter().map(|mode| format!("{}\n95 %, all layouts", mode.name()));
    grid(["result class".to_owned()].into_iter().chain(heads).collect(), spread, folded, line)
}

/// The longest window of each row and mode, in stores, and the share of the time with one open.
pub fn exposure(spread: &Spread, folded: bool) -> Grid {
    let modes = modes(spread);
    let line = |row: &SpreadRow| {
        let windows = modes.iter().map(|mode| row.modes.get(mode).map_or(NONE.into(), window));
        [row.result_class.clone()].into_iter().chain(windows).collect()
    };
    let heads = modes.iter().map(|mode| format!("{}\nopen, longest", mode.name()));
    grid(["result class".to_owned()].into_iter().chain(heads).collect(), spread, folded, line)
}

/// What is said beneath.
pub fn legend(spread: &Spread) -> Vec<String> {
    let mut lines = vec![
        format!(
            "smallest to largest effect over {} layouts of the code, in percent of `off`; + is slower. R, I, = or - is the flag in each; ! where at least three agree, as a headline needs.",
            spread.layouts.len()
        ),
        "95 %, all layouts: from the lowest to the highest end of the layouts' 95 % intervals.".to_owned(),
        "open: share of the time of the operation with a window open; longest: stores in the longest window.".to_owned(),
    ];
    if spread.rows.iter().any(|row| row.baseline_recorded) {
        lines.push(format!(
            "{}: most of this baseline was recorded, kernbench's on another machine.",
            cells::RECORDED
        ));
    }
    let layout = |layout: &crate::spread::Layout| {
        let void = if layout.gates_hold { "" } else { ", A/A GATE FAILED, THE TABLE IS VOID" };
        format!("{} (build {:.12}, {}{void})", layout.name, layout.build_hash, layout.started)
    };
    lines.push(format!(
        "layouts: {}",
        spread.layouts.iter().map(layout).collect::<Vec<_>>().join("; ")
    ));
    lines.push(format!("{} blocks each; commit {}", spread.blocks, spread.commit));
    lines
}

fn modes(spread: &Spread) -> Vec<Mode> {
    let shown = |mode: &Mode| spread.rows.iter().any(|row| row.modes.contains_key(mode));
    Mode::PROTECTING.into_iter().filter(shown).collect()
}

fn grid(
    heads: Vec<String>,
    spread: &Spread,
    folded: bool,
    line: impl Fn(&SpreadRow) -> Vec<String>,
) -> Grid {
    let names = spread.rows.iter().map(|row| (row.benchmark.as_str(), row.result_class.as_str()));
    let lines = spread.rows.iter().map(line).collect();
    let lines = if folded { under_benchmarks(names, lines, folded) } else { lines };
    Grid { heads, text_columns: 1, lines, folded, ..Grid::default() }
}

fn baseline(row: &SpreadRow) -> String {
    let mark = if row.baseline_recorded { cells::RECORDED } else { "" };
    let time = |ns| cells::quantity(ns, Some(Unit::Ns));
    match row.baseline_ns {
        Some(Range { low, high }) if time(low) == time(high) => format!("{}{mark}", time(low)),
        Some(Range { low, high }) => format!("{} to {}{mark}", time(low), time(high)),
        None => NONE.to_owned(),
    }
}

fn effect(cell: &SpreadCell) -> String {
    let Range { low, high } = cell.effect_pct;
    let flags: String = cell.flags.iter().map(|flag| flag.map_or(NONE, Flag::letter)).collect();
    let agreed = if cell.agreed.is_some() { " !" } else { "" };
    format!("{} to {} {flags}{agreed}", cells::signed(low, 1), cells::signed(high, 1))
}

/// What noise and layout together leave open.
fn interval(cell: &SpreadCell) -> String {
    cell.interval_pct.map_or_else(
        || NONE.to_owned(),
        |Range { low, high }| format!("{} to {}", cells::signed(low, 1), cells::signed(high, 1)),
    )
}

fn window(cell: &SpreadCell) -> String {
    match (cell.open_share, cell.longest_window_stores) {
        (Some(Range { low, high }), Some(stores)) => {
            format!("{:.1} to {:.1} %, {}", low * 100.0, high * 100.0, cells::count(stores as f64))
        }
        _ => NONE.to_owned(),
    }
}
