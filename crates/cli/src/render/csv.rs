//! Comma-separated values: one line for each row and mode, an empty field where there is nothing.

use crate::instructions::Report;
use crate::reference::Published;
use crate::spread;
use ::csv::Writer;
use kpkeys_stats::{
    compare::ReferenceEffect,
    flag::Flag,
    record::{Counts, Mode},
    table::{Cell, Effect, Row, Table},
};
use std::io::{self, Write};

/// Prints every number of a run's table.
pub fn results(out: &mut impl Write, table: &Table) -> io::Result<()> {
    let mut writer = Writer::from_writer(out);
    let counters = Counts::default();
    let counters = counters.named().map(|(name, _)| name);
    let heads = ROW_HEADS.into_iter().chain(EFFECT_HEADS).chain(PROJECTION_HEADS);
    writer.write_record(heads.chain(counters).chain(TAIL_HEADS))?;
    for row in &table.rows {
        for (mode, cell) in &row.modes {
            writer.write_record(line(table, row, *mode, cell))?;
        }
    }
    writer.flush()
}

/// Prints counts of instructions, one line for each row, backend and mode.
pub fn instructions(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut writer = Writer::from_writer(out);
    writer.write_record(["benchmark", "result_class", "backend", "mode", "instructions"])?;
    for row in &report.rows {
        for (backend, modes) in &row.instructions {
            for (mode, value) in modes {
                let names = [row.benchmark, row.result_class, backend, mode.name()];
                writer.write_record(names.into_iter().chain([value.to_string().as_str()]))?;
            }
        }
    }
    writer.flush()
}

/// Prints what several layouts gave, one line for each machine, row and mode.
pub fn spread(out: &mut impl Write, report: &spread::Report) -> io::Result<()> {
    let mut writer = Writer::from_writer(out);
    let heads = ["cpu", "commit", "layouts", "benchmark", "result_class", "mode"];
    writer.write_record(heads.into_iter().chain([
        "low_pct",
        "high_pct",
        "longest_window_stores",
    ]))?;
    for machine in &report.machines {
        let layouts = machine.layouts.len().to_string();
        for row in &machine.rows {
            for (mode, cell) in &row.modes {
                let names = [&machine.machine.cpu, &machine.commit, &layouts, &row.benchmark];
                let ends = [cell.effect_pct.low, cell.effect_pct.high].map(|end| end.to_string());
                let longest =
                    cell.longest_window_stores.map_or(String::new(), |stores| stores.to_string());
                let fields = [&row.result_class, mode.name(), &ends[0], &ends[1], &longest];
                writer.write_record(names.into_iter().map(String::as_str).chain(fields))?;
            }
        }
    }
    writer.flush()
}

/// Prints modes taken apart, one line for each row and step.
pub fn parts(out: &mut impl Write, report: &crate::parts::Report) -> io::Result<()> {
    let mut writer = Writer::from_writer(out);
    let heads = ["benchmark", "result_class", "step", "points", "low", "high", "series_points"];
    writer.write_record(heads)?;
    for row in &report.rows {
        for (step, points) in &row.here.steps {
            let series = row.series.get(step.as_str()).copied();
            let numbers = [Some(points.points), points.low, points.high, series].map(number);
            let names = [&row.here.benchmark, &row.here.result_class, step];
            writer.write_record(names.into_iter().chain(&numbers))?;
        }
    }
    writer.flush()
}

/// Prints what is expected, one line for each row and mode.
pub fn estimate(out: &mut impl Write, report: &crate::estimate::Report) -> io::Result<()> {
    let mut writer = Writer::from_writer(out);
    let heads = ["benchmark", "result_class", "mode", "baseline_ns", "expected_pct"];
    writer.write_record(heads.into_iter().chain(["low_pct", "high_pct", "measured_pct"]))?;
    for row in &report.rows {
        for (mode, expected) in &row.modes {
            let of = expected.prediction;
            let numbers = [row.baseline_ns, of.effect_pct, of.low_pct, of.high_pct];
            let numbers = numbers.map(Some).into_iter().chain([expected.measured_pct]).map(number);
            let names = [&*row.benchmark, &*row.result_class, mode.name()].map(str::to_owned);
            writer.write_record(names.into_iter().chain(numbers))?;
        }
    }
    writer.flush()
}

/// Prints published tables.
pub fn published(out: &mut impl Write, tables: &[Published]) -> io::Result<()> {
    let mut writer = Writer::from_writer(out);
    writer.write_record([
        "table",
        "benchmark",
        "result_class",
        "mode",
        "effect_pct",
        "flag",
        "ns",
    ])?;
    for table in tables {
        match table {
            Published::Effects(effects) => {
                for row in &effects.rows {
                    for (mode, effect) in &row.modes {
                        let (pct, flag) = (effect.effect_pct.to_string(), letter(effect.flag));
                        let names = [&effects.name, &row.benchmark, &row.result_class];
                        let fields = [mode.name(), &pct, &flag, ""];
                        writer.write_record(names.into_iter().map(String::as_str).chain(fields))?;
                    }
                }
            }
            Published::Baselines(baselines) => {
                for row in &baselines.rows {
                    let names = [&baselines.name, &row.benchmark, &row.result_class];
                    let fields = [Mode::Off.name(), "", "", &row.ns_per_loop.to_string()];
                    writer.write_record(names.into_iter().map(String::as_str).chain(fields))?;
                }
            }
        }
    }
    writer.flush()
}

const ROW_HEADS: [&str; 7] =
    ["benchmark", "result_class", "mode", "unit", "baseline", "per_entry_ns", "linux_here"];

const EFFECT_HEADS: [&str; 12] = [
    "effect_pct",
    "ci_low_pct",
    "ci_high_pct",
    "half_width_pct",
    "bca_low_pct",
    "bca_high_pct",
    "extra_ns",
    "p",
    "p_holm",
    "pairs",
    "flag",
    "compat_flag",
];

const PROJECTION_HEADS: [&str; 3] = ["projected_pct", "projected_low_pct", "projected_high_pct"];

const TAIL_HEADS: [&str; 4] =
    ["open_share", "longest_window_stores", "compare_effect_pct", "compare_flag"];

fn line(table: &Table, row: &Row, mode: Mode, cell: &Cell) -> Vec<String> {
    let unit = row.unit.map_or("", |unit| unit.name());
    let mut fields =
        vec![row.benchmark.clone(), row.result_class.clone(), mode.name().into(), unit.into()];
    fields.extend([row.baseline, row.per_entry_ns, row.linux_here].map(number));
    fields.extend(effect(cell.effect.as_ref()));
    let projection = cell.projection.as_ref();
    fields.extend(
        [
            projection.map(|projection| projection.effect_pct),
            projection.map(|projection| projection.low_pct),
            projection.map(|projection| projection.high_pct),
        ]
        .map(number),
    );
    match &cell.counts {
        Some(counts) => {
            fields.extend(counts.named().take(Counts::FIXED).map(|(_, count)| count.to_string()));
        }
        None => fields.extend(vec![String::new(); Counts::FIXED]),
    }
    let exposure = cell.exposure.as_ref();
    fields.push(number(exposure.map(|exposure| exposure.open_share)));
    fields.push(text(exposure.map(|exposure| exposure.longest_window_stores)));
    let compared = compared(table, row, mode);
    fields.extend([
        number(compared.map(|effect| effect.effect_pct)),
        letter(compared.and_then(|effect| effect.flag)),
    ]);
    fields
}

fn effect(effect: Option<&Effect>) -> [String; EFFECT_HEADS.len()] {
    let Some(effect) = effect else { return Default::default() };
    [
        number(Some(effect.effect_pct)),
        number(effect.ci_low_pct),
        number(effect.ci_high_pct),
        number(effect.half_width_pct),
        number(effect.bca_low_pct),
        number(effect.bca_high_pct),
        number(effect.extra_ns),
        number(Some(effect.p)),
        number(Some(effect.p_holm)),
        effect.pairs.to_string(),
        letter(effect.flag),
        letter(effect.compat_flag),
    ]
}

/// What the other table holds for this row and mode.
fn compared<'t>(table: &'t Table, row: &Row, mode: Mode) -> Option<&'t ReferenceEffect> {
    table.compare.as_ref()?.row(&row.benchmark, &row.result_class)?.modes.get(&mode)?.there.as_ref()
}

fn letter(flag: Option<Flag>) -> String {
    text(flag.map(Flag::letter))
}

fn number(value: Option<f64>) -> String {
    text(value)
}

fn text(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}
