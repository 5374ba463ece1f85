//! Exact output for one small run, in every format.
//!
//! The run is synthetic: times are a base times the factor of the mode, with a fixed wobble from
//! block to block. The expected output is in `tests/`, one file a case; after a wanted change of
//! the output, `KPKEYS_BLESS=1 cargo test -p kpkeys-cli` writes it anew, to be read before it is
//! committed.

use super::*;
use crate::reference;
use kpkeys_stats::record::{
    Counts, CountsRecord, Done, Exposure, FORMAT, Machine, Mode, Record, Recording, Run, Sample,
    Unit,
};
use std::{collections::BTreeMap, env, fs, path::PathBuf};

/// The columns of the synthetic run.
const MODES: [Mode; 6] =
    [Mode::Off, Mode::Aa, Mode::Unbatched, Mode::Batched, Mode::Fused, Mode::Linux];

/// A row of the synthetic run: base time, and the factor of each of [`MODES`].
struct Given {
    benchmark: &'static str,
    result_class: &'static str,
    base_ns: f64,
    factors: [f64; 6],
    windows: [f64; 5],
}

const ROWS: [Given; 3] = [
    Given {
        benchmark: "fork",
        result_class: "fork: h:0",
        base_ns: 11.2e6,
        factors: [1.0, 1.0, 2.9, 1.03, 1.004, 1.05],
        windows: [0.0, 0.0, 524_802.0, 1_026.0, 9.0],
    },
    Given {
        benchmark: "vmalloc",
        result_class: "fix_size_alloc_test: p:1, h:0",
        base_ns: 240.0,
        factors: [1.0, 1.0, 1.16, 1.12, 1.06, 0.0],
        windows: [0.0, 0.0, 2.0, 2.0, 2.0],
    },
    Given {
        benchmark: "vmalloc",
        result_class: "random_size_alloc_test: p:1, h:0",
        base_ns: 3.1e3,
        factors: [1.0, 1.0, 1.78, 1.0, 0.98, 0.0],
        windows: [0.0, 0.0, 100.97, 2.0, 2.0],
    },
];

fn run(blocks: u32) -> Run {
    Run {
        format: FORMAT,
        machine: Machine {
            cpu: "Example CPU 9000".into(),
            cpus: 2,
            arch: "x86_64".into(),
            os: "Linux 6.18".into(),
            extra: serde_json::Map::new(),
        },
        on: "host".into(),
        backend: "mock".into(),
        paging: "aarch64".into(),
        switch_ns: Some(10.1),
        seed: 1,
        blocks,
        quick: blocks < 12,
        build: "kpkeys 0.1.0 release".into(),
        keys: None,
        origin: None,
    }
}

/// A wobble of less than half a percent either way, different for every block, mode and row.
fn wobble(block: u32, mode: usize, row: usize) -> f64 {
    let step = (block * block * 7 + (block + 3) * mode as u32 * 5 + row as u32 * 3) % 11;
    1.0 + 0.0009 * (f64::from(step) - 5.0)
}

fn recording(blocks: u32, modes: &[Mode]) -> Recording {
    let mut records = Vec::new();
    for block in 0..blocks {
        for mode in modes {
            records.extend(samples(block, *mode));
            records.push(Record::Done(Done { mode: *mode, block }));
        }
    }
    records.extend(modes.iter().flat_map(|mode| counts(*mode)));
    Recording::new(run(blocks), records).unwrap()
}

fn samples(block: u32, mode: Mode) -> Vec<Record> {
    let column = MODES.iter().position(|known| *known == mode).unwrap();
    let timed = ROWS.iter().enumerate().filter(|(_, given)| given.factors[column] > 0.0);
    timed
        .flat_map(|(row, given)| {
            (0..3_u32).map(move |iteration| {
                let noise = wobble(block, column, row) * (1.0 + 0.0005 * f64::from(iteration));
                Record::Sample(Sample {
                    mode,
                    block,
                    iteration,
                    benchmark: given.benchmark.into(),
                    result_class: given.result_class.into(),
                    unit: Unit::Ns,
                    value: given.base_ns * given.factors[column] * noise,
                    entries: (row == 0).then_some(262_144.0),
                })
            })
        })
        .collect()
}

fn counts(mode: Mode) -> Vec<Record> {
    let Some(column) = MODES[..5].iter().position(|known| *known == mode) else {
        return Vec::new();
    };
    let record = |given: &Given| {
        let windows = given.windows[column];
        let counts = Counts {
            switches: 2.0 * windows,
            barriers: 2.0 * windows + 1.0,
            windows,
            entry_stores: 2.0,
            extra: BTreeMap::from([("rare_events".to_owned(), 0.000_036)]),
            ..Counts::default()
        };
        let exposure = Exposure { open_share: 0.125, longest_window_stores: 1024 };
        Record::Counts(CountsRecord {
            mode,
            benchmark: given.benchmark.into(),
            result_class: given.result_class.into(),
            counts,
            exposure: Mode::PROTECTING.contains(&mode).then_some(exposure),
        })
    };
    ROWS.iter().map(record).collect()
}

fn table(blocks: u32) -> Table {
    Table::build(&recording(blocks, &MODES), &reference::graviton3()).unwrap()
}

fn compared(blocks: u32) -> Table {
    table(blocks).compared_with(&reference::find_effects("v5-amended").unwrap())
}

fn print(table: &Table, format: Format, counts: bool) -> String {
    let mut out = Vec::new();
    write_results(&mut out, table, format, counts, Screen::FULL).unwrap();
    String::from_utf8(out).unwrap()
}

/// Compares with the file of that name in `render/tests/`, or writes it when asked to.
fn assert_golden(name: &str, found: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/render/tests").join(name);
    if env::var_os("KPKEYS_BLESS").is_some() {
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "differs from {}; found:\n{found}", path.display());
}

fn widest_line(text: &str) -> usize {
    let of_the_grid = text.lines().take_while(|line| !line.starts_with("effects:"));
    of_the_grid.map(|line| line.chars().count()).max().unwrap_or(0)
}

#[test]
fn a_full_run_on_a_terminal() {
    let text = print(&table(12), Format::Table, true);
    assert_golden("full.txt", &text);
    assert!(widest_line(&text) <= 140);
}

#[test]
fn a_run_beside_the_published_table_on_a_terminal() {
    let text = print(&compared(12), Format::Table, false);
    assert_golden("compared.txt", &text);
    assert!(widest_line(&text) <= 140);
    assert!(widest_line(&print(&compared(4), Format::Table, false)) <= 140, "nor with half widths");
}

/// The whole run with its counts, on a terminal of that width.
fn on_a_terminal(table: &Table, columns: usize) -> String {
    let mut out = Vec::new();
    let screen = Screen { columns: Some(columns), colour: false };
    write_results(&mut out, table, Format::Table, true, screen).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_run_fits_80_columns_and_says_what_it_left_out() {
    let text = on_a_terminal(&table(12), 80);
    assert_golden("narrow.txt", &text);
    for table in [table(12), table(4), compared(12)] {
        let text = on_a_terminal(&table, 80);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("left out in 80 columns: "), "{text}");
        for mode in ["unbatched", "batched", "fused"] {
            assert!(text.contains(mode), "{mode} is never left out");
        }
    }
    assert_eq!(on_a_terminal(&table(12), 140), print(&table(12), Format::Table, true));
}

#[test]
fn a_recorded_baseline_is_marked() {
    let mut table = table(12);
    table.rows[0].baseline_recorded = true;
    let text = print(&table, Format::Table, false);
    assert!(text.contains("11.2 ms†") && text.contains("†: most of this baseline"), "{text}");
}

#[test]
fn a_quick_run_says_that_it_cannot_flag() {
    let text = print(&table(4), Format::Table, false);
    assert_golden("quick.txt", &text);
    assert!(text.contains("no (R) or (I) is possible"));
}

#[test]
fn markdown() {
    assert_golden("compared.md", &print(&compared(12), Format::Markdown, true));
}

#[test]
fn csv_has_a_field_for_every_head() {
    let text = print(&compared(12), Format::Csv, false);
    assert_golden("compared.csv", &text);
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let lines: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(lines.len(), 3 * 5, "three rows in five modes");
}

#[test]
fn json_is_the_table() {
    let table = compared(12);
    let read: Table = serde_json::from_str(&print(&table, Format::Json, false)).unwrap();
    assert_eq!(read.rows.len(), 3);
    assert_eq!(read.rows[0].modes.keys().count(), 5);
    assert_eq!(
        read.rows[0].effect(Mode::Batched).unwrap().flag,
        table.rows[0].effect(Mode::Batched).unwrap().flag
    );
}

#[test]
fn a_failed_gate_voids_the_table_loudly() {
    let records = recording(12, &MODES).records().to_vec();
    let slower_twin = records.into_iter().map(|record| match record {
        Record::Sample(sample) if sample.mode == Mode::Aa && sample.benchmark == "fork" => {
            Record::Sample(Sample { value: sample.value * 1.05, ..sample })
        }
        other => other,
    });
    let recording = Recording::new(run(12), slower_twin).unwrap();
    let table = Table::build(&recording, &reference::graviton3()).unwrap();
    assert!(!table.gates_hold());
    let text = print(&table, Format::Table, false);
    assert!(text.contains("A/A GATE FAILED, THE TABLE IS VOID"), "{text}");
    assert!(text.contains("differs from its own twin in fork: h:0."), "{text}");
}

#[test]
fn a_run_without_some_modes_has_no_columns_for_them() {
    let recording = recording(12, &[Mode::Off, Mode::Batched]);
    let table = Table::build(&recording, &reference::graviton3()).unwrap();
    let text = print(&table, Format::Table, false);
    let heads: Vec<&str> = text.lines().take(2).collect();
    assert!(heads.iter().any(|head| head.contains("batched")), "{text}");
    assert!(!heads.iter().any(|head| head.contains("fused") || head.contains("linux")), "{text}");
    assert!(text.contains("A/A gate: not run"), "{text}");
}

#[test]
fn emulated_instructions_are_no_times() {
    let emulated = Run { on: "qemu-x86_64".into(), switch_ns: None, ..run(12) };
    let records = recording(12, &MODES).records().to_vec();
    let recording = Recording::new(emulated, records).unwrap();
    let table = Table::build(&recording, &reference::graviton3()).unwrap();
    let text = print(&table, Format::Table, false);
    assert!(text.contains("effects: change of instructions"), "{text}");
    assert!(text.contains("switch cost not measured"), "{text}");
}

#[test]
fn a_translated_program_says_that_its_times_mean_nothing() {
    let mut translated = run(12);
    let how = "this program is for aarch64, and the kernel runs on x86_64";
    translated.machine.extra.insert("translated".into(), how.into());
    let records = recording(12, &MODES).records().to_vec();
    let table =
        Table::build(&Recording::new(translated, records).unwrap(), &reference::graviton3())
            .unwrap();
    let text = print(&table, Format::Markdown, false);
    assert!(text.contains(&format!("TRANSLATED: {how}. Times are an emulator's")), "{text}");
    assert!(!print(&self::table(12), Format::Markdown, false).contains("TRANSLATED"));
}

#[test]
fn an_earlier_run_stands_beside_a_run_with_its_intervals() {
    let earlier = kpkeys_stats::compare::Reference::of_table("last week", &table(4));
    let text = print(&table(12).compared_with(&earlier), Format::Table, false);
    assert!(text.contains("last week"), "{text}");
    assert!(text.contains("+2.88 ±0.53"), "{text}");
}

#[test]
fn the_published_tables_in_every_format() {
    let all: Vec<_> = reference::published().collect();
    let print = |format| {
        let mut out = Vec::new();
        write_published(&mut out, &all, format, Screen::FULL).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert_golden("published.txt", &print(Format::Table));
    assert_golden("published.md", &print(Format::Markdown));
    assert_golden("published.csv", &print(Format::Csv));
    let object: serde_json::Value = serde_json::from_str(&print(Format::Json)).unwrap();
    assert_eq!(object["tables"][0]["name"], "v5-amended");
    assert_eq!(object["tables"][2]["rows"][9]["ns_per_loop"], 162.4);
}
