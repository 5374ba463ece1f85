//! The tables of a page. A cell that holds a number names the field of the page's JSON that it is, so that a test can read both.

use kpkeys_stats::flag::Flag;
use kpkeys_stats::record::Mode;
use kpkeys_stats::table::{Effect, Row, Table};
use maud::{Markup, html};

use super::source::{Attacks, Source};
use crate::render::cells::{self, NONE};

/// Effects of every row and mode, with baseline and the host kernel's time.
pub fn effects(source: &Source, id: &str) -> Markup {
    let table = &source.table;
    let modes = table.protecting_modes();
    let heads = html! {
        th.benchmark scope="col" { (sort_by("benchmark")) }
        (row_head("result class")) (number_head("off")) (number_head("linux here"))
        (mode_head(Mode::Aa, "A/A"))
        @for mode in &modes {
            (mode_head(*mode, mode.name())) (mode_head(*mode, "95 %, from")) (mode_head(*mode, "to"))
            (mode_head(*mode, "p, corrected"))
        }
    };
    let body = html! {
        @for (index, row) in table.rows.iter().enumerate() {
            tr {
                td.benchmark { (row.benchmark) }
                th.row scope="row" { (row.result_class) @if row.baseline_recorded { (cells::RECORDED) } }
                (number(&format!("{id}/rows/{index}/baseline"), row.baseline, None, |time| cells::quantity(time, row.unit)))
                (number(&format!("{id}/rows/{index}/linux_here"), row.linux_here, None, |time| cells::quantity(time, row.unit)))
                (effect(id, index, row, Mode::Aa))
                @for mode in &modes {
                    (effect(id, index, row, *mode)) (end(id, index, row, *mode, "ci_low_pct", |effect| effect.ci_low_pct))
                    (end(id, index, row, *mode, "ci_high_pct", |effect| effect.ci_high_pct))
                    (p(id, index, row, *mode))
                }
            }
        }
    };
    sortable("Effects, in percent of the time without protection; + is slower", &heads, &body)
}

/// Events of an operation.
pub fn counts(source: &Source, id: &str) -> Markup {
    let rows: Vec<(usize, &Row)> = source.table.rows.iter().enumerate().collect();
    let names =
        ["switches", "barriers", "windows", "entry_stores", "ptps", "key_changes", "tlb_flushes"];
    let heads = html! {
        (row_head("result class")) (head("mode"))
        @for name in names { (number_head(&name.replace('_', " "))) }
        (number_head("open, % of the time")) (number_head("longest window, stores"))
    };
    let body = html! {
        @for (index, row) in rows {
            @for (mode, cell) in &row.modes {
                @if let Some(counts) = &cell.counts {
                    tr data-mode=(mode.name()) {
                        th.row scope="row" { (row.result_class) }
                        td { (mode.name()) }
                        @for (name, count) in counts.named().take(names.len()) {
                            (number(&format!("{id}/rows/{index}/modes/{mode}/counts/{name}"), Some(count), None, cells::count))
                        }
                        @let exposure = cell.exposure.as_ref();
                        (number(&format!("{id}/rows/{index}/modes/{mode}/exposure/open_share"), exposure.map(|exposure| exposure.open_share), None, |share| format!("{:.2} %", share * 100.0)))
                        (number(&format!("{id}/rows/{index}/modes/{mode}/exposure/longest_window_stores"), exposure.map(|exposure| exposure.longest_window_stores as f64), None, cells::count))
                    }
                }
            }
        }
    };
    sortable("Events of one operation, counted", &heads, &body)
}

/// What each attack came to, in each mode.
pub fn attacks(attacks: &Attacks) -> Markup {
    let modes = attacks.modes();
    let heads =
        html! { (row_head("target")) (head("way to write")) @for mode in &modes { (head(mode)) } };
    let body = html! {
        @for ((target, primitive), outcomes) in attacks.matrix() {
            tr {
                th.row scope="row" { (target) }
                td { (primitive) }
                @for mode in &modes {
                    @let outcome = outcomes.get(mode).copied().unwrap_or(NONE);
                    td class=(format!("outcome {outcome}")) { (outcome) }
                }
            }
        }
    };
    let caption = format!("Attacks on {}, backend {}", attacks.on, attacks.backend);
    sortable(&caption, &heads, &body)
}

/// What was measured beneath which conditions: the lines of a terminal's legend.
pub fn machine(table: &Table) -> Markup {
    html! {
        dl {
            dt { "machine" } dd { (crate::render::machine(&table.machine).trim_start_matches("machine: ")) }
            dt { "run" } dd { (crate::render::run(table).trim_start_matches("run: ")) }
            @if let Some(origin) = &table.origin {
                dt { "made" } dd { (origin.started) ", " (origin.program()) }
            }
            @for (name, gate) in &table.gates {
                dt { "gate " (name) } dd { (format!("{gate:?}").to_lowercase()) }
            }
            @for notice in &table.notices { dt { "note" } dd { (notice) } }
        }
    }
}

fn sortable(caption: &str, heads: &Markup, body: &Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table.sortable {
                caption { span { (caption) } }
                thead { tr { (heads) } }
                tbody { (body) }
            }
        }
    }
}

fn head(name: &str) -> Markup {
    html! { th scope="col" { (sort_by(name)) } }
}

/// Of the column with the names of rows, which stays in sight.
fn row_head(name: &str) -> Markup {
    html! { th.row scope="col" { (sort_by(name)) } }
}

fn number_head(name: &str) -> Markup {
    html! { th.number scope="col" { (sort_by(name)) } }
}

fn mode_head(mode: Mode, name: &str) -> Markup {
    html! { th.number scope="col" data-mode=(mode.name()) { (sort_by(name)) } }
}

fn sort_by(name: &str) -> Markup {
    html! { button type="button" { (name) } }
}

/// A cell with the number in that field of the JSON.
fn number(
    path: &str,
    value: Option<f64>,
    mode: Option<Mode>,
    text: impl Fn(f64) -> String,
) -> Markup {
    let mode = mode.map(Mode::name);
    html! {
        @match value {
            Some(value) => { td.number data-mode=[mode] data-path=(path) data-value=(value) { (text(value)) } }
            None => { td.number data-mode=[mode] { (NONE) } }
        }
    }
}

fn effect(id: &str, index: usize, row: &Row, mode: Mode) -> Markup {
    let path = format!("{id}/rows/{index}/modes/{mode}/effect_pct");
    let effect = row.effect(mode);
    let flag = effect.and_then(|effect| effect.flag);
    let text = |value| match flag {
        Some(flag) => format!("{} ({})", cells::signed(value, 2), flag.letter()),
        None => cells::signed(value, 2),
    };
    let class = match flag {
        Some(Flag::Regression) => "number slower",
        Some(Flag::Improvement) => "number faster",
        _ => "number",
    };
    match effect {
        Some(effect) => html! {
            td class=(class) data-mode=(mode.name()) data-path=(path) data-value=(effect.effect_pct) { (text(effect.effect_pct)) }
        },
        None => number(&path, None, Some(mode), text),
    }
}

fn end(
    id: &str,
    index: usize,
    row: &Row,
    mode: Mode,
    name: &str,
    of: impl Fn(&Effect) -> Option<f64>,
) -> Markup {
    let path = format!("{id}/rows/{index}/modes/{mode}/{name}");
    number(&path, row.effect(mode).and_then(of), Some(mode), |value| cells::signed(value, 2))
}

fn p(id: &str, index: usize, row: &Row, mode: Mode) -> Markup {
    let path = format!("{id}/rows/{index}/modes/{mode}/p_holm");
    number(&path, row.effect(mode).map(|effect| effect.p_holm), Some(mode), |p| format!("{p:.4}"))
}
