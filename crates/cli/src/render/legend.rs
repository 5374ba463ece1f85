//! The lines beneath a run's table: how to read it, on what it was measured, and what is wrong.

use super::{cells, results};
use kpkeys_stats::{
    flag::{Flag, MARGIN_PCT},
    record::{Machine, Mode},
    table::{AA_GATE, Gate, Table},
};

/// Everything that is said beneath a table with these heads.
pub fn lines(table: &Table, heads: &[String]) -> Vec<String> {
    let has = |name: &str| heads.iter().any(|head| head.starts_with(name));
    let mut lines = vec![effects(table)];
    lines.extend(no_flags(table));
    lines.extend(emulated(table));
    lines.extend(has("linux").then(linux));
    lines.extend(replayed(table));
    lines.extend(recorded(table));
    lines.push(format!("rows: {SIZES}"));
    lines.extend(has("pooled").then(pooled));
    lines.extend(has(results::PROJECTED).then(|| projection(table)));
    lines.extend(comparison(table));
    lines.push(aa_gate(table));
    lines.extend(translated(&table.machine));
    lines.push(machine(&table.machine));
    lines.push(run(table));
    lines.extend((table.on == "host").then(|| ONE_LAYOUT.to_owned()));
    lines.extend(
        table
            .origin
            .as_ref()
            .map(|origin| format!("made: {}, {}", origin.started, origin.program())),
    );
    lines.extend(table.notices.iter().map(|notice| format!("note: {notice}")));
    lines
}

/// What no interval of one program covers.
const ONE_LAYOUT: &str = "layout: one of many. Where the code lies moves effects by points, too; a headline needs three (bench --layouts 3).";

/// What the names of rows say.
pub const SIZES: &str = "p:N is the number of pages; h:0 single pages; h:1 large folios of 2 MiB (fork, munmap) or vmalloc_huge.";

/// What a terminal was too narrow for.
pub fn left_out(heads: &[String], columns: usize) -> Option<String> {
    let names: Vec<_> =
        heads.iter().map(|head| head.lines().collect::<Vec<_>>().join(" ")).collect();
    (!names.is_empty()).then(|| {
        format!("left out in {columns} columns: {}; --format markdown has all.", names.join(", "))
    })
}

/// What is said beneath the counts.
pub fn count_lines() -> Vec<String> {
    vec![
        "counts: events per operation (per loop in the vmalloc rows), averages where loops differ; \
         barriers and stores include the baseline's own."
            .to_owned(),
        "open share: share of the time with a window open; longest window: in entry stores."
            .to_owned(),
    ]
}

fn effects(table: &Table) -> String {
    let what = if is_emulated(table) { "instructions" } else { "time" };
    format!(
        "effects: change of {what} over `off` in percent, mean over {} blocks, + is slower. (R) slower, \
         (I) faster: p < 0.05 corrected for {} comparisons, 95 % interval without 0. (=) the same \
         within ±{MARGIN_PCT:.0} %. ±x: undecided, half width of the 95 % interval.",
        table.blocks, table.comparisons
    )
}

fn no_flags(table: &Table) -> Option<String> {
    if table.can_flag {
        return None;
    }
    let needed = match table.blocks_needed {
        Some(blocks) => format!("{blocks} blocks are needed"),
        None => "no number of blocks is enough for so many".to_owned(),
    };
    Some(format!(
        "no (R) or (I) is possible: {} blocks cannot decide {} comparisons, {needed}. That none is \
         shown means nothing.",
        table.blocks, table.comparisons
    ))
}

fn linux() -> String {
    "linux here: this machine's kernel doing the same operation, in the same run; % of it: the time a \
     mode adds, in percent of that."
        .to_owned()
}

fn replayed(table: &Table) -> Option<String> {
    table.rows.iter().any(|row| ["kernbench", "trace"].contains(&row.benchmark.as_str())).then(|| {
        "kernbench, trace: a recorded command's mappings, faults, forks, execs and exits, carried out again. \
         System time is the recorded one with its memory management replaced by that; user time is the \
         recorded one in every mode; real time follows from both; `linux here` is the recording, on the machine \
         that made it. Not modelled: everything else the kernel \
         and the command did, caches that they share with it, TLB misses, reclaim, which files were mapped."
            .to_owned()
    })
}

fn recorded(table: &Table) -> Option<String> {
    table.rows.iter().any(|row| row.baseline_recorded).then(|| {
        format!(
            "{}: most of this baseline was recorded, kernbench's on another machine; a percentage on it mixes two machines.",
            cells::RECORDED
        )
    })
}

/// Whether the table is of an emulated machine, where instructions stand in the place of times.
fn is_emulated(table: &Table) -> bool {
    table.on.starts_with("qemu")
}

fn emulated(table: &Table) -> Option<String> {
    is_emulated(table).then(|| {
        "emulated: instructions the emulated CPU executed, and events, both counted exactly. Neither is a \
         time: what a CPU takes for them differs from one instruction to the next."
            .to_owned()
    })
}

fn pooled() -> String {
    "pooled: what the series' own rule would flag, which pools samples and so finds more than there \
     is; for comparison only."
        .to_owned()
}

fn projection(table: &Table) -> String {
    let costs = &table.projection_costs;
    format!(
        "projected: not measured; switches and key changes counted here times their cost on {} \
         ({} and {} ns). * on this machine's baseline, where none is published for {}.",
        costs.machine, costs.switch.ns, costs.key_change.ns, costs.machine
    )
}

fn comparison(table: &Table) -> Option<String> {
    let compare = table.compare.as_ref()?;
    let not_run =
        compare.rows.iter().filter(|row| row.modes.values().all(|both| both.here.is_none()));
    let rest = match not_run.count() {
        0 => String::new(),
        rows => format!(" {rows} of its rows were not run here."),
    };
    Some(format!("{}: {}; ? without a flag there.{rest}", compare.name, compare.note))
}

fn aa_gate(table: &Table) -> String {
    let effects = table.rows.iter().filter_map(|row| Some((row, row.effect(Mode::Aa)?)));
    let flagged = effects.clone().filter(|(_, effect)| effect.flag.is_some_and(Flag::is_change));
    let size = |effect: f64| effect.abs();
    let largest = effects.max_by(|a, b| size(a.1.effect_pct).total_cmp(&size(b.1.effect_pct)));
    let largest = largest.map_or_else(String::new, |(row, effect)| {
        let effect = cells::effect(effect);
        format!("; largest difference of the baseline to its twin: {effect}, {}", row.result_class)
    });
    match table.gates.get(AA_GATE) {
        Some(Gate::Fail) => {
            let rows: Vec<_> = flagged.map(|(row, _)| row.result_class.as_str()).collect();
            format!(
                "A/A GATE FAILED, THE TABLE IS VOID: the baseline differs from its own twin in {}. \
                 Something but the modes changed the times; quiet the machine and run again{largest}",
                rows.join("; ")
            )
        }
        Some(Gate::Pass) if table.can_flag => format!("A/A gate: pass{largest}"),
        Some(Gate::Pass) => format!("A/A gate: pass, but too few blocks to fail{largest}"),
        Some(Gate::NotRun) | None => "A/A gate: not run, the baseline has no twin".to_owned(),
    }
}

/// That the times are no CPU's.
fn translated(machine: &Machine) -> Option<String> {
    let how = machine.extra.get("translated")?.as_str()?;
    Some(format!(
        "TRANSLATED: {how}. Times are an emulator's, mean nothing for a CPU and are not to be quoted; counts hold"
    ))
}

/// The machine, in one line.
pub fn machine(machine: &Machine) -> String {
    let detail = |(label, name): (&str, &str)| {
        let value = machine.extra.get(name)?.as_str()?;
        Some(format!(" {label} {value}"))
    };
    let details = [
        ("family", "cpu_family"),
        ("model", "cpu_model"),
        ("stepping", "cpu_stepping"),
        ("part", "cpu_part"),
        ("variant", "cpu_variant"),
        ("revision", "cpu_revision"),
        ("microcode", "microcode"),
        ("governor", "governor"),
        ("emulated by", "emulator"),
    ];
    let details: String = details.into_iter().filter_map(detail).collect();
    let details = if details.is_empty() { details } else { format!(" ({})", details.trim()) };
    let several = if machine.cpus == 1 { "" } else { "s" };
    format!(
        "machine: {}{details}, {} CPU{several}, {}, {}",
        machine.cpu, machine.cpus, machine.arch, machine.os
    )
}

/// How and with what it was run, in one line.
pub fn run(table: &Table) -> String {
    let how = table.machine.extra.get("switch").and_then(|how| how.as_str());
    let how = how.map_or(String::new(), |how| format!(" ({how})"));
    let switch = match table.switch_ns {
        Some(ns) => format!("one switch {ns:.1} ns{how}"),
        None => "switch cost not measured".to_owned(),
    };
    let keys = table.keys.as_ref().map_or(String::new(), |keys| format!(", keys {keys} in fused"));
    format!(
        "run: on {}, backend {}{keys}, {switch}; {} tables; {} blocks, seed {}; {}",
        table.on, table.backend, table.paging, table.blocks, table.seed, table.build
    )
}
