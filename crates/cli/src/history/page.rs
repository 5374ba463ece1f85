//! A page of lines: every series over its commits, its levels, and where they change.

use anyhow::Result;
use maud::{PreEscaped, html};
use plotters::style::text_anchor::{HPos, VPos};

use super::series::{Dated, History, Series};
use crate::render::cells;
use crate::report::canvas::{self, Axis, Field, INK, Scale};
use crate::report::page::document;

/// The page.
///
/// # Errors
///
/// A history that cannot be made into JSON.
pub fn page(history: &History) -> Result<String> {
    let mut machines: Vec<&str> =
        history.series.iter().map(|series| series.machine.as_str()).collect();
    machines.dedup();
    let body = html! {
        header {
            h1 { "What changed, commit by commit" }
            p { "Dot: a commit, its runs together. Line: a level. A level ends where a change is more than the noise of runs and the layout of builds explain." }
        }
        main {
            @for machine in machines {
                section {
                    h2 { (machine) }
                    @for series in history.series.iter().filter(|series| series.machine == machine) {
                        figure {
                            div.scroll tabindex="0" role="img" aria-label=(title(series)) { (PreEscaped(picture(series).unwrap_or_default())) }
                            figcaption {
                                (title(series))
                                @for turn in &series.changes {
                                    br; (format!("{:.12}: {} to {}", turn.commit, value(series, turn.before), value(series, turn.after)))
                                }
                            }
                        }
                    }
                }
            }
        }
    };
    document("history", history, &body)
}

fn title(series: &Series) -> String {
    let mode = series.mode.map_or(String::new(), |mode| format!(", {mode}"));
    format!("{}{mode}, {} commits", series.name, series.points.len())
}

/// A value of the series in words.
pub fn value(series: &Series, value: f64) -> String {
    match series.unit {
        "%" => format!("{} %", cells::signed(value, 2)),
        _ => cells::count((value * 10.0).round() / 10.0),
    }
}

fn picture(series: &Series) -> Option<String> {
    let points = &series.points;
    let values = || points.iter().map(|point| point.value);
    let (low, high) =
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let room = ((high - low) * 0.2).max(high.abs() * 0.01).max(0.5);
    let y = Axis { scale: Scale::Linear, low: low - room, high: high + room };
    let x = Axis { scale: Scale::Linear, low: 0.0, high: points.len().max(2) as f64 - 1.0 };
    let field = Field { width: 900, height: 170, margins: [110, 30, 20, 30] };
    canvas::picture(field, |canvas| {
        let colour = canvas::series(1);
        for end in [low, high] {
            canvas.label((100, canvas.y(&y, end)), &value(series, end))?;
        }
        for (from, to, level) in levels(series) {
            let at = |index: usize| (canvas.x(&x, index as f64), canvas.y(&y, level));
            canvas.line(at(from), at(to), INK, 1)?;
        }
        for (index, point) in points.iter().enumerate() {
            canvas.dot((canvas.x(&x, index as f64), canvas.y(&y, point.value)), 4, colour, 0.9)?;
        }
        let ends: [(Option<&Dated>, i32, HPos); 2] = [
            (points.first(), 110, HPos::Left),
            (points.last().filter(|_| points.len() > 1), 870, HPos::Right),
        ];
        for (point, at, side) in ends {
            let Some(point) = point else { continue };
            let name = format!("{:.10} {:.8}", point.date, point.commit);
            canvas.text((at, 148), &name, INK, side, VPos::Top)?;
        }
        Ok(())
    })
}

/// First and last point of each level, and the level.
fn levels(series: &Series) -> Vec<(usize, usize, f64)> {
    let place = |commit: &str| series.points.iter().position(|point| point.commit == commit);
    let starts = series
        .changes
        .iter()
        .filter_map(|turn| Some((place(&turn.commit)?, turn.before, turn.after)));
    let starts: Vec<_> = starts.collect();
    let mut levels = Vec::new();
    let mut first = 0;
    for (start, before, _) in &starts {
        levels.push((first, start - 1, *before));
        first = *start;
    }
    if let Some((_, _, after)) = starts.last() {
        levels.push((first, series.points.len() - 1, *after));
    }
    levels
}
