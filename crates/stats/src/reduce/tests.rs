//! What counts, what is left out, and what is said about it.

use super::*;
use crate::fixture::{counts, done, recording, run, sample};

fn of(records: Vec<Record>, blocks: u32) -> Result<Measurements, ReduceError> {
    reduce(&Recording::new(run(blocks), records).unwrap())
}

fn iterations(mode: Mode, block: u32, values: &[f64]) -> Vec<Record> {
    let sample = |(iteration, value): (u32, &f64)| {
        Record::Sample(Sample { iteration, ..sample(mode, block, *value) })
    };
    (0..).zip(values).map(sample).collect()
}

#[test]
fn iterations_reduce_to_their_median() {
    let mut records = iterations(Mode::Off, 0, &[100.0, 900.0, 102.0]);
    records.push(done(Mode::Off, 0));
    records.extend(iterations(Mode::Off, 1, &[100.0, 900.0, 102.0, 104.0]));
    records.push(done(Mode::Off, 1));
    let measurements = of(records, 2).unwrap();
    let off = &measurements.rows[0].modes[&Mode::Off];
    assert_eq!(off.medians().map(|(_, time)| time).collect::<Vec<_>>(), [102.0, 103.0]);
    assert_eq!(off.pooled().len(), 7);
}

#[test]
fn iterations_are_compared_turn_by_turn() {
    // The machine became twice as slow after one turn, while the mode had two turns more than the baseline to come.
    let mut records = iterations(Mode::Off, 0, &[100.0, 200.0, 200.0]);
    records.extend(iterations(Mode::Fused, 0, &[110.0, 220.0, 220.0, 900.0, 900.0]));
    records.extend([done(Mode::Off, 0), done(Mode::Fused, 0)]);
    let ratios = of(records, 1).unwrap().rows[0].log_ratios(Mode::Fused);
    assert!((ratios[0] - 1.1_f64.ln()).abs() < 1e-12 && ratios.len() == 1, "{ratios:?}");
}

#[test]
fn ratios_are_taken_inside_a_block() {
    // Block 1 ran on a machine twice as slow; the ratio is the same.
    let row = &reduce(&recording(&[(Mode::Off, &[100.0, 200.0]), (Mode::Fused, &[110.0, 220.0])]));
    let ratios = row.as_ref().unwrap().rows[0].log_ratios(Mode::Fused);
    assert!(ratios.iter().all(|ratio| (ratio - 1.1_f64.ln()).abs() < 1e-12), "{ratios:?}");
}

#[test]
fn an_unfinished_worker_is_ignored_and_said() {
    let mut records = iterations(Mode::Off, 0, &[100.0]);
    records.push(done(Mode::Off, 0));
    records.extend(iterations(Mode::Fused, 0, &[500.0]));
    let measurements = of(records, 1).unwrap();
    assert!(!measurements.rows[0].modes.contains_key(&Mode::Fused));
    assert_eq!(measurements.notices, [Notice::Unfinished { mode: Mode::Fused, block: 0 }]);
}

#[test]
fn a_worker_that_ran_again_replaces_its_first_attempt() {
    // The first attempt got further than the second one needed to.
    let mut records = iterations(Mode::Off, 0, &[500.0, 500.0, 500.0]);
    records.extend(iterations(Mode::Off, 0, &[100.0, 104.0]));
    records.push(done(Mode::Off, 0));
    let off = &of(records, 1).unwrap().rows[0].modes[&Mode::Off];
    assert_eq!(off.pooled(), [100.0, 104.0]);
}

#[test]
fn a_worker_that_is_missing_altogether_is_said_once() {
    let off = [100.0, 100.0, 100.0];
    let measurements =
        reduce(&recording(&[(Mode::Off, &off), (Mode::Batched, &off[..2])])).unwrap();
    assert_eq!(measurements.rows[0].log_ratios(Mode::Batched).len(), 2);
    assert_eq!(measurements.notices, [Notice::Unfinished { mode: Mode::Batched, block: 2 }]);
    let no_baseline = reduce(&recording(&[(Mode::Off, &off[..2]), (Mode::Batched, &off)])).unwrap();
    assert_eq!(no_baseline.rows[0].log_ratios(Mode::Batched).len(), 2);
    let said: Vec<_> = no_baseline.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "3 blocks were planned, 2 are complete",
            "off did not finish in block 2, which is left out for it"
        ]
    );
}

#[test]
fn a_row_that_a_finished_worker_did_not_time_is_dropped_there_and_said() {
    let other = |mode, block| {
        let result_class = "fork: h:1".to_owned();
        Record::Sample(Sample { result_class, ..sample(mode, block, 100.0) })
    };
    let mut records = Vec::new();
    for (block, mode) in [(0, Mode::Off), (0, Mode::Batched), (1, Mode::Off), (1, Mode::Batched)] {
        records.extend(iterations(mode, block, &[100.0]));
        if (block, mode) != (1, Mode::Batched) {
            records.push(other(mode, block));
        }
        records.push(done(mode, block));
    }
    let measurements = of(records, 2).unwrap();
    assert_eq!(measurements.rows[0].log_ratios(Mode::Batched).len(), 2);
    assert_eq!(measurements.rows[1].log_ratios(Mode::Batched).len(), 1);
    let said: Vec<_> = measurements.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["fork: h:1: no samples of batched in block 1; the block was left out for batched"]
    );
}

#[test]
fn mixed_units_are_refused() {
    let mut records = iterations(Mode::Off, 0, &[100.0]);
    records.push(Record::Sample(Sample { unit: Unit::Cycles, ..sample(Mode::Aa, 0, 1.0) }));
    records.extend([done(Mode::Off, 0), done(Mode::Aa, 0)]);
    let error = of(records, 1).unwrap_err().to_string();
    assert_eq!(error, "fork: h:0: samples in ns and in cycles; expected one unit for a row");
}

#[test]
fn a_run_that_finished_nothing_is_refused() {
    assert_eq!(of(Vec::new(), 1), Err(ReduceError::NothingComplete));
    let unfinished = iterations(Mode::Off, 0, &[100.0]);
    assert_eq!(of(unfinished, 1), Err(ReduceError::NothingComplete));
}

#[test]
fn rows_of_a_benchmark_stand_together_in_the_order_of_their_mention() {
    let row = |benchmark: &str, result_class: &str| {
        let (benchmark, result_class) = (benchmark.to_owned(), result_class.to_owned());
        Record::Sample(Sample { benchmark, result_class, ..sample(Mode::Off, 0, 1.0) })
    };
    let records =
        vec![row("b", "b2"), row("a", "a1"), row("b", "b1"), row("a", "a2"), done(Mode::Off, 0)];
    let rows = of(records, 1).unwrap().rows;
    let names: Vec<&str> = rows.iter().map(|row| row.result_class.as_str()).collect();
    assert_eq!(names, ["b2", "b1", "a1", "a2"]);
}

#[test]
fn the_last_counts_are_used_and_a_row_may_have_nothing_else() {
    let records = vec![counts(Mode::Fused, 4.0), counts(Mode::Fused, 6.0), done(Mode::Off, 0)];
    let row = &of(records, 1).unwrap().rows[0];
    assert_eq!(row.modes[&Mode::Fused].counts.as_ref().unwrap().switches, 6.0);
    assert_eq!((row.unit, row.geometric_mean(Mode::Off)), (None, None));
}
