//! The pictures: effects with their intervals, exposure against overhead, growth.

use kpkeys_stats::compare::Reference;
use kpkeys_stats::record::Mode;
use kpkeys_stats::table::{Row, Table};

use super::canvas::{self, Axis, Canvas, Field, PUBLISHED, Scale};
use super::source::Source;
use crate::reference;
use crate::render::cells;

/// A picture and what it shows.
pub struct Figure {
    /// Its name in a file's.
    pub name: String,
    /// The mode it is of, if it is of one.
    pub mode: Option<Mode>,
    /// What it shows, in a sentence or two.
    pub caption: String,
    /// The picture.
    pub svg: String,
}

/// The published table that effects are set beside.
const BESIDE: &str = "v5-amended";

/// All pictures of a run, without those for which it holds nothing.
pub fn all(source: &Source) -> Vec<Figure> {
    let modes = source.table.protecting_modes();
    let effects = modes.iter().filter_map(|mode| effects(source, &modes, *mode));
    effects.chain(trade(&source.table, &modes)).chain(growth(&source.table, &modes)).collect()
}

const ROW_HEIGHT: u32 = 24;

/// Every row's effect in one mode: its interval, its blocks, and what was published.
fn effects(source: &Source, modes: &[Mode], mode: Mode) -> Option<Figure> {
    let table = &source.table;
    let rows: Vec<&Row> = table.rows.iter().filter(|row| row.effect(mode).is_some()).collect();
    let beside = reference::find_effects(BESIDE).ok();
    let published = |row: &Row| published(beside.as_ref()?, row, mode);
    let values = rows.iter().flat_map(|row| {
        let effect = row.effect(mode);
        let ends =
            effect.map(|effect| [Some(effect.effect_pct), effect.ci_low_pct, effect.ci_high_pct]);
        let ends = ends.into_iter().flatten().flatten();
        ends.chain(source.blocks(row, mode)).chain(published(row)).collect::<Vec<f64>>()
    });
    let axis = Axis::holding(Scale::Symlog, values);
    let colour = canvas::series(modes.iter().position(|known| *known == mode)?);
    let field = Field {
        width: 900,
        height: rows.len() as u32 * ROW_HEIGHT + 90,
        margins: [260, 110, 30, 50],
    };
    let svg = canvas::picture(field, |canvas| {
        canvas.x_axis(&axis, "change of time over `off`", percent)?;
        for (index, row) in rows.iter().enumerate() {
            let y = (30 + ROW_HEIGHT / 2 + index as u32 * ROW_HEIGHT) as i32;
            let at = |value| (canvas.x(&axis, value), y);
            canvas.label((250, y), &row.result_class)?;
            for block in source.blocks(row, mode) {
                canvas.dot(at(block), 3, colour, 0.3)?;
            }
            let Some(effect) = row.effect(mode) else { continue };
            if let (Some(low), Some(high)) = (effect.ci_low_pct, effect.ci_high_pct) {
                canvas.line(at(low), at(high), colour, 3)?;
            }
            canvas.dot(at(effect.effect_pct), 5, colour, 1.0)?;
            if let Some(published) = published(row) {
                canvas.diamond(at(published), 6, PUBLISHED)?;
            }
            canvas.note((800, y), &cells::effect(effect))?;
        }
        Ok(())
    })?;
    let caption = format!(
        "{mode}: dot, the effect; bar, its 95 % interval; pale dots, single blocks; diamond, what the Linux series published ({BESIDE}). \
         In proportion within ±1 %, by logarithm beyond. {}",
        conditions(table)
    );
    Some(Figure { name: format!("effects-{mode}"), mode: Some(mode), caption, svg })
}

fn published(beside: &Reference, row: &Row, mode: Mode) -> Option<f64> {
    let named = beside.rows.iter().find(|known| {
        (&known.benchmark, &known.result_class) == (&row.benchmark, &row.result_class)
    });
    Some(named?.modes.get(&mode)?.effect_pct)
}

/// What a user has to choose: how long tables are writable, against what it costs.
fn trade(table: &Table, modes: &[Mode]) -> Option<Figure> {
    let points: Vec<(usize, f64, f64)> = table
        .rows
        .iter()
        .flat_map(|row| {
            modes.iter().enumerate().filter_map(move |(index, mode)| {
                let open = row.modes.get(mode)?.exposure.as_ref()?.open_share * 100.0;
                Some((index, open, row.effect(*mode)?.effect_pct))
            })
        })
        .collect();
    if points.is_empty() {
        return None;
    }
    let x = Axis { scale: Scale::Linear, low: 0.0, high: 100.0 };
    let y = Axis::holding(Scale::Symlog, points.iter().map(|(.., effect)| *effect));
    let field = Field { width: 900, height: 420, margins: [70, 130, 40, 55] };
    let svg = canvas::picture(field, |canvas| {
        canvas
            .x_axis(&x, "share of the time with a window open, %", |tick| format!("{tick:.0}"))?;
        canvas.y_axis(&y, "change of time over `off`", percent)?;
        for &(index, open, effect) in &points {
            canvas.dot(
                (canvas.x(&x, open), canvas.y(&y, effect)),
                5,
                canvas::series(index),
                0.75,
            )?;
        }
        key(canvas, modes, (785, 50))
    })?;
    let caption = format!(
        "Exposure against overhead: each dot is a row in a mode. Further left, a stray store is let through for less of the time; further \
         down, an operation costs less. {}",
        conditions(table)
    );
    Some(Figure { name: "exposure-against-overhead".into(), mode: None, caption, svg })
}

/// What the names of rows that differ in their number of pages begin with.
const GROWING: (&str, &str) = ("fix_size_alloc_test: p:", ", h:0");

/// Time of an operation by the number of its pages.
fn growth(table: &Table, modes: &[Mode]) -> Option<Figure> {
    let pages = |row: &Row| -> Option<f64> {
        row.result_class.strip_prefix(GROWING.0)?.strip_suffix(GROWING.1)?.parse().ok()
    };
    let mut rows: Vec<(f64, &Row)> =
        table.rows.iter().filter_map(|row| Some((pages(row)?, row))).collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    if rows.len() < 2 {
        return None;
    }
    let time = |row: &Row, mode: Option<Mode>| -> Option<f64> {
        let factor = match mode {
            Some(mode) => 1.0 + row.effect(mode)?.effect_pct / 100.0,
            None => 1.0,
        };
        Some(row.baseline? * factor)
    };
    let lines: Vec<Option<Mode>> =
        [None].into_iter().chain(modes.iter().copied().map(Some)).collect();
    let all = || lines.iter().flat_map(|mode| rows.iter().filter_map(|(_, row)| time(row, *mode)));
    let x = Axis::holding(Scale::Log, rows.iter().map(|(pages, _)| *pages));
    let y = Axis::holding(Scale::Log, all());
    let field = Field { width: 900, height: 420, margins: [80, 130, 40, 55] };
    let svg = canvas::picture(field, |canvas| {
        canvas.x_axis(&x, "pages of an allocation", |tick| format!("{tick:.0}"))?;
        canvas.y_axis(&y, "time of an allocation and its release", |tick| {
            cells::quantity(tick, rows[0].1.unit)
        })?;
        for mode in &lines {
            let colour = match mode {
                Some(mode) => {
                    canvas::series(modes.iter().position(|known| known == mode).unwrap_or(0))
                }
                None => PUBLISHED,
            };
            let points: Vec<(i32, i32)> = rows
                .iter()
                .filter_map(|(pages, row)| {
                    Some((canvas.x(&x, *pages), canvas.y(&y, time(row, *mode)?)))
                })
                .collect();
            for pair in points.windows(2) {
                canvas.line(pair[0], pair[1], colour, 2)?;
            }
            for point in points {
                canvas.dot(point, 4, colour, 1.0)?;
            }
        }
        canvas.dot((785, 50), 5, PUBLISHED, 1.0)?;
        canvas.note((795, 50), "off")?;
        key(canvas, modes, (785, 70))
    })?;
    let caption = format!(
        "Growth: `vmalloc` and `vfree` of so many single pages, both axes by logarithm. {}",
        conditions(table)
    );
    Some(Figure { name: "growth".into(), mode: None, caption, svg })
}

type Drawn = Result<(), plotters::prelude::DrawingAreaErrorKind<std::io::Error>>;

/// Which colour is which mode.
fn key(canvas: &Canvas<'_>, modes: &[Mode], (x, y): (i32, i32)) -> Drawn {
    for (index, mode) in modes.iter().enumerate() {
        let y = y + index as i32 * 20;
        canvas.dot((x, y), 5, canvas::series(index), 1.0)?;
        canvas.note((x + 10, y), mode.name())?;
    }
    Ok(())
}

fn percent(tick: f64) -> String {
    if tick == 0.0 { "0".to_owned() } else { format!("{tick:+.0} %") }
}

/// What every caption has to say, so that a picture by itself claims no more than was measured.
fn conditions(table: &Table) -> String {
    let blocks = format!("{} blocks", table.blocks);
    let mock = match table.backend.as_str() {
        "mock" => ", a mock: windows cost what a register write costs, and enforce nothing",
        _ => "",
    };
    format!(
        "{}, {blocks}, backend {}{mock}; one layout of the code.",
        table.machine.cpu, table.backend
    )
}
