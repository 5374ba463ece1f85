//! From samples to the finished table.

use super::*;
use crate::{
    cost::CostModel,
    fixture::{counts, recording, run, sample},
    record::{Done, Record, Recording, Sample},
};

/// Blocks whose times wander by a percent or so.
fn blocks(count: usize, base: f64) -> Vec<f64> {
    (0..count).map(|block| base * (1.0 + 0.01 * ((block * 5) % 7) as f64)).collect()
}

/// The same blocks, slower by `factor`, with a little noise of their own.
fn slower(blocks: &[f64], factor: f64) -> Vec<f64> {
    let noise = |index: usize| 1.0 + 0.001 * ((index * 3) % 5) as f64 - 0.002;
    blocks.iter().enumerate().map(|(index, time)| time * factor * noise(index)).collect()
}

fn table_of(modes: &[(Mode, &[f64])]) -> Table {
    Table::build(&recording(modes), &CostModel::graviton3([])).unwrap()
}

#[test]
fn a_known_effect_is_found_with_its_time_and_flag() {
    let off = blocks(12, 1000.0);
    let (twin, fused) = (slower(&off, 1.0), slower(&off, 1.05));
    let table = table_of(&[(Mode::Off, &off), (Mode::Aa, &twin), (Mode::Fused, &fused)]);
    let effect = table.rows[0].effect(Mode::Fused).unwrap();
    assert!((effect.effect_pct - 5.0).abs() < 0.1, "{effect:?}");
    assert!(effect.ci_low_pct.unwrap() < 5.0 && effect.ci_high_pct.unwrap() > 5.0, "{effect:?}");
    assert!(effect.bca_low_pct.unwrap() < 5.0 && effect.bca_high_pct.unwrap() > 5.0, "{effect:?}");
    assert!((effect.extra_ns.unwrap() - 0.05 * table.rows[0].baseline.unwrap()).abs() < 1.0);
    assert_eq!((effect.flag, effect.pairs), (Some(Flag::Regression), 12));
    assert_eq!(table.rows[0].effect(Mode::Aa).unwrap().flag, Some(Flag::Same));
    assert_eq!(table.gates[AA_GATE], Gate::Pass);
    assert!(table.can_flag && table.gates_hold());
    assert_eq!((table.blocks, table.comparisons), (12, 1));
}

#[test]
fn a_twin_that_differs_fails_the_gate() {
    let off = blocks(12, 1000.0);
    let twin = slower(&off, 1.03);
    let table = table_of(&[(Mode::Off, &off), (Mode::Aa, &twin)]);
    assert_eq!(table.gates[AA_GATE], Gate::Fail);
    assert!(!table.gates_hold());
}

#[test]
fn four_blocks_flag_nothing_but_by_the_series_rule() {
    let off = blocks(4, 1000.0);
    let unbatched = slower(&off, 3.0);
    let table = table_of(&[(Mode::Off, &off), (Mode::Unbatched, &unbatched)]);
    let effect = table.rows[0].effect(Mode::Unbatched).unwrap();
    assert!(!table.can_flag);
    assert_eq!((effect.flag, effect.compat_flag), (None, Some(Flag::Regression)));
    assert!(effect.half_width_pct.unwrap() > 0.0);
    assert_eq!(table.blocks_needed, Some(11));
    assert_eq!(table.gates[AA_GATE], Gate::NotRun);
}

#[test]
fn one_block_has_an_effect_and_nothing_more() {
    let table = table_of(&[(Mode::Off, &[100.0]), (Mode::Fused, &[102.0])]);
    let effect = table.rows[0].effect(Mode::Fused).unwrap();
    assert!((effect.effect_pct - 2.0).abs() < 1e-9);
    assert_eq!((effect.ci_low_pct, effect.bca_low_pct, effect.half_width_pct), (None, None, None));
    assert_eq!((effect.p, effect.p_holm, effect.flag, effect.compat_flag), (1.0, 1.0, None, None));
}

#[test]
fn no_variance_gives_intervals_of_no_width() {
    let table = table_of(&[(Mode::Off, &[100.0; 12]), (Mode::Fused, &[125.0; 12])]);
    let effect = table.rows[0].effect(Mode::Fused).unwrap();
    assert!(effect.half_width_pct.unwrap() < 1e-9);
    assert_eq!(effect.flag, Some(Flag::Regression));
    let same = table_of(&[(Mode::Off, &[100.0; 12]), (Mode::Fused, &[100.0; 12])]);
    assert_eq!(same.rows[0].effect(Mode::Fused).unwrap().flag, Some(Flag::Same));
}

#[test]
fn linux_is_shown_and_never_compared() {
    let table = table_of(&[(Mode::Off, &[100.0, 100.0]), (Mode::Linux, &[300.0, 300.0])]);
    let row = &table.rows[0];
    assert!((row.linux_here.unwrap() - 300.0).abs() < 1e-9);
    assert!(!row.modes.contains_key(&Mode::Linux));
    assert_eq!(table.comparisons, 0);
}

#[test]
fn a_row_without_a_baseline_keeps_its_place() {
    let table = table_of(&[(Mode::Fused, &[100.0, 101.0])]);
    assert_eq!(table.rows[0].baseline, None);
    assert_eq!(table.rows[0].effect(Mode::Fused), None);
    assert_eq!(table.notices, ["2 blocks were planned, 0 are complete"]);
}

#[test]
fn entries_and_counts_give_time_per_entry_and_projection() {
    let with_entries = Sample { entries: Some(50.0), ..sample(Mode::Off, 0, 1000.0) };
    let records = [
        Record::Sample(with_entries),
        Record::Done(Done { mode: Mode::Off, block: 0 }),
        counts(Mode::Off, 0.0),
        counts(Mode::Batched, 4.0),
    ];
    let recording = Recording::new(run(1), records).unwrap();
    let table = Table::build(&recording, &CostModel::graviton3([])).unwrap();
    let row = &table.rows[0];
    assert!((row.per_entry_ns.unwrap() - 20.0).abs() < 1e-9);
    assert!((row.modes[&Mode::Batched].projection.as_ref().unwrap().effect_pct - 6.4).abs() < 1e-9);
    assert_eq!(row.modes[&Mode::Off].projection, None);
}

#[test]
fn times_in_instructions_have_effects_but_no_nanoseconds() {
    let in_instructions = |mode, value| {
        let unit = Unit::Instructions;
        [
            Record::Sample(Sample { unit, ..sample(mode, 0, value) }),
            Record::Done(Done { mode, block: 0 }),
        ]
    };
    let records = [in_instructions(Mode::Off, 100.0), in_instructions(Mode::Fused, 110.0)].concat();
    let recording = Recording::new(run(1), records).unwrap();
    let table = Table::build(&recording, &CostModel::graviton3([])).unwrap();
    let effect = table.rows[0].effect(Mode::Fused).unwrap();
    assert!((effect.effect_pct - 10.0).abs() < 1e-9);
    assert_eq!((effect.extra_ns, table.rows[0].per_entry_ns), (None, None));
}

#[test]
fn the_correction_is_over_the_whole_table() {
    let off = blocks(12, 1000.0);
    let slow = slower(&off, 1.05);
    let one = table_of(&[(Mode::Off, &off), (Mode::Fused, &slow)]);
    let two = table_of(&[(Mode::Off, &off), (Mode::Fused, &slow), (Mode::Batched, &slow)]);
    let p_holm = |table: &Table| table.rows[0].effect(Mode::Fused).unwrap().p_holm;
    assert_eq!(p_holm(&one), 2.0 / 4096.0);
    assert_eq!(p_holm(&two), 4.0 / 4096.0);
    assert_eq!(two.smallest_p_holm, 4.0 / 4096.0);
}

#[test]
fn the_object_has_the_names_that_scripts_rely_on() {
    let off = blocks(12, 1000.0);
    let slow = slower(&off, 1.05);
    let table = table_of(&[(Mode::Off, &off), (Mode::Aa, &off), (Mode::Batched, &slow)]);
    let json = serde_json::to_value(&table).unwrap();
    for name in ["machine", "on", "backend", "switch_ns", "blocks", "seed", "gates", "rows"] {
        assert!(!json[name].is_null(), "{name}");
    }
    assert_eq!(json["gates"]["aa"], "pass");
    let row = &json["rows"][0];
    assert_eq!((&row["result_class"], &row["unit"]), (&"fork: h:0".into(), &"ns".into()));
    assert!(row["baseline"].is_number() && row.get("per_entry_ns").is_some());
    assert!(row.get("linux_here").is_some_and(serde_json::Value::is_null));
    let batched = &row["modes"]["batched"];
    for name in ["effect_pct", "ci_low_pct", "ci_high_pct", "extra_ns", "p_holm"] {
        assert!(batched[name].is_number(), "{name}");
    }
    assert_eq!((&batched["flag"], &batched["compat_flag"]), (&"R".into(), &"R".into()));
    assert_eq!(row["modes"]["aa"]["flag"], "=");
}

#[test]
fn an_undecided_effect_has_a_flag_of_null() {
    let table = table_of(&[(Mode::Off, &[100.0]), (Mode::Fused, &[102.0])]);
    let json = serde_json::to_value(&table).unwrap();
    let fused = json["rows"][0]["modes"]["fused"].as_object().unwrap();
    assert!(fused["flag"].is_null() && fused.contains_key("compat_flag"));
}

#[test]
fn the_table_survives_json() {
    let off = blocks(12, 1000.0);
    let table = table_of(&[(Mode::Off, &off), (Mode::Aa, &off), (Mode::Batched, &off[..11])]);
    let text = serde_json::to_string(&table).unwrap();
    assert_eq!(
        serde_json::to_string(&serde_json::from_str::<Table>(&text).unwrap()).unwrap(),
        text
    );
}

#[test]
fn the_same_file_gives_the_same_table() {
    let off = blocks(12, 1000.0);
    let slow = slower(&off, 1.02);
    let modes: [(Mode, &[f64]); 2] = [(Mode::Off, &off), (Mode::Batched, &slow)];
    assert_eq!(table_of(&modes), table_of(&modes));
}
