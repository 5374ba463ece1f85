//! Runs against each other: a table of what changed, and the same for scripts.

use std::io::{self, Write};

use kpkeys_stats::contrast::{Change, Contrast, ContrastRow, Measure, Verdict};
use kpkeys_stats::record::Unit;
use serde_json::{Map, Value, json};

use super::cells::{self, NONE};
use super::grid::Grid;
use crate::compare::Report;

/// The rows, one line for each mode and measure.
pub fn rows(contrast: &Contrast, markdown: bool) -> Grid {
    let line = |(row, change): (&ContrastRow, &Change)| {
        let names = [row.result_class.clone(), what(change)];
        names.into_iter().chain(values(change, row.unit)).collect::<Vec<_>>()
    };
    let mut lines: Vec<Vec<String>> = contrast.changes().map(line).collect();
    if !markdown {
        blank_repeats(&mut lines);
    }
    let heads = ["result class", "mode", "before", "after", "change", "95 %", "p", "verdict"];
    let spare = ["p", "before", "after", "95 %"].map(str::to_owned).to_vec();
    Grid { heads: heads.map(str::to_owned).to_vec(), text_columns: 2, lines, spare, folded: false }
}

/// The benchmarks, their rows together.
pub fn groups(contrast: &Contrast, markdown: bool) -> Grid {
    let mut lines = Vec::new();
    for group in &contrast.groups {
        for change in &group.changes {
            let name = format!("{} ({} rows)", group.benchmark, group.rows);
            let [_, _, rest @ ..] = values(change, None);
            lines.push([name, what(change)].into_iter().chain(rest).collect());
        }
    }
    if !markdown {
        blank_repeats(&mut lines);
    }
    let heads = ["geometric mean", "mode", "change", "95 %", "p", "verdict"];
    let spare = ["p", "95 %"].map(str::to_owned).to_vec();
    Grid { heads: heads.map(str::to_owned).to_vec(), text_columns: 2, lines, spare, folded: false }
}

/// What stands above: the two runs, and what stands in the way of a conclusion.
pub fn title(contrast: &Contrast) -> String {
    format!("{} → {}", contrast.before, contrast.after)
}

/// What is said beneath.
pub fn legend(contrast: &Contrast) -> Vec<String> {
    let mut lines = Vec::new();
    if !contrast.conclusive {
        lines.push(
            "NOTHING IS CONCLUDED, because these differ; --across names what is meant to:"
                .to_owned(),
        );
    }
    let (meant, unmeant): (Vec<_>, Vec<_>) =
        contrast.differences.iter().partition(|difference| difference.accepted);
    lines.extend(unmeant.iter().map(|difference| format!("differs: {difference}")));
    lines.extend(meant.iter().map(|difference| format!("differs: {difference}")));
    lines.push(
        "change: of the time of an operation, or of that time over the baseline of the same run (effect), in percent; + is slower. \
         95 %: its interval. p: of no change, corrected for all rows and modes."
            .to_owned(),
    );
    lines.push(format!(
        "verdict: slower or faster, p < 0.05 and an interval without 0; same: the 90 % interval lies within ±{} %; otherwise undecided.",
        contrast.equal_pct
    ));
    lines.push(if contrast.paired {
        "The builds took turns in the same blocks, and are compared block by block.".to_owned()
    } else {
        "Separate runs share no blocks: effects have a verdict, times have none, since the machine may have been another between them."
            .to_owned()
    });
    if contrast.conclusive && !contrast.can_decide {
        lines.push(format!(
            "Slower and faster are out of reach: too few blocks for {} comparisons. That none is shown means nothing.",
            contrast.comparisons
        ));
    }
    lines
}

fn what(change: &Change) -> String {
    match change.measure {
        Measure::Time => change.mode.name().to_owned(),
        Measure::Effect => format!("{} effect", change.mode),
    }
}

fn values(change: &Change, unit: Option<Unit>) -> [String; 6] {
    let value = |value: Option<f64>| match (change.measure, value) {
        (_, None) => NONE.to_owned(),
        (Measure::Time, Some(time)) => cells::quantity(time, unit),
        (Measure::Effect, Some(effect)) => format!("{} %", cells::signed(effect, 2)),
    };
    let interval = change
        .ci_low_pct
        .zip(change.ci_high_pct)
        .map(|(low, high)| format!("{} to {}", cells::signed(low, 2), cells::signed(high, 2)));
    [
        value(change.before),
        value(change.after),
        cells::signed(change.change_pct, 2),
        interval.unwrap_or_else(|| NONE.to_owned()),
        change.p_holm.map_or_else(|| NONE.to_owned(), |p| format!("{p:.4}")),
        change.verdict.map_or(NONE, Verdict::name).to_owned(),
    ]
}

fn blank_repeats(lines: &mut [Vec<String>]) {
    for index in (1..lines.len()).rev() {
        if lines[index][0] == lines[index - 1][0] {
            lines[index][0].clear();
        }
    }
}

/// One line for each row, mode and measure.
pub fn csv(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut writer = ::csv::Writer::from_writer(out);
    writer.write_record([
        "before",
        "after",
        "benchmark",
        "result_class",
        "mode",
        "measure",
        "unit",
        "value_before",
        "value_after",
        "change_pct",
        "ci_low_pct",
        "ci_high_pct",
        "p",
        "p_holm",
        "blocks",
        "verdict",
    ])?;
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for contrast in &report.comparisons {
        for (row, change) in contrast.changes() {
            let measure = if change.measure == Measure::Time { "time" } else { "effect" };
            let unit = row.unit.map_or("", Unit::name);
            let numbers = [
                change.before,
                change.after,
                Some(change.change_pct),
                change.ci_low_pct,
                change.ci_high_pct,
                change.p,
                change.p_holm,
            ]
            .map(number);
            let names = [
                &contrast.before,
                &contrast.after,
                &row.benchmark,
                &row.result_class,
                change.mode.name(),
                measure,
                unit,
            ];
            let blocks = change.blocks.to_string();
            let tail = [blocks.as_str(), change.verdict.map_or("", Verdict::name)];
            writer.write_record(
                names.into_iter().chain(numbers.iter().map(String::as_str)).chain(tail),
            )?;
        }
    }
    writer.flush()
}

/// The Bencher Metric Format: an object of benchmarks, each an object of measures with a value and, where it has them, bounds. What the
/// later runs measured; of a change the interval is given.
pub fn bmf(report: &Report) -> Value {
    let mut benchmarks = Map::new();
    for contrast in &report.comparisons {
        for (row, change) in contrast.changes() {
            let name = match report.comparisons.len() {
                1 => format!("{} / {}", row.result_class, change.mode),
                _ => format!("{} / {} / {}", contrast.after, row.result_class, change.mode),
            };
            let of = benchmarks.entry(name).or_insert_with(|| json!({}));
            let (value, changed) = match (change.measure, row.unit) {
                (Measure::Effect, _) => ("overhead-percent", "overhead-change-percent"),
                (_, Some(Unit::Ns) | None) => ("latency", "latency-change-percent"),
                (_, Some(unit)) => (unit.name(), "change-percent"),
            };
            if let Some(after) = change.after {
                of[value] = json!({ "value": after });
            }
            of[changed] = json!({ "value": change.change_pct });
            if let (Some(low), Some(high)) = (change.ci_low_pct, change.ci_high_pct) {
                of[changed]["lower_value"] = json!(low);
                of[changed]["upper_value"] = json!(high);
            }
        }
    }
    Value::Object(benchmarks)
}
