//! Small recordings for the tests of this crate.

use crate::record::{
    Counts, CountsRecord, Done, FORMAT, Machine, Mode, Record, Recording, Run, Sample, Unit,
};

/// A header for that many blocks.
pub(crate) fn run(blocks: u32) -> Run {
    Run {
        format: FORMAT,
        machine: Machine {
            cpu: "example".into(),
            cpus: 2,
            arch: "x86_64".into(),
            os: "Linux".into(),
            extra: serde_json::Map::from_iter([("governor".to_owned(), "performance".into())]),
        },
        on: "host".into(),
        backend: "mock".into(),
        keys: None,
        paging: "aarch64".into(),
        switch_ns: Some(10.1),
        seed: 1,
        blocks,
        quick: false,
        build: "test".into(),
        origin: None,
    }
}

/// One sample of the row `fork: h:0`, iteration 0.
pub(crate) fn sample(mode: Mode, block: u32, value: f64) -> Sample {
    Sample {
        mode,
        block,
        iteration: 0,
        benchmark: "fork".into(),
        result_class: "fork: h:0".into(),
        unit: Unit::Ns,
        value,
        entries: None,
    }
}

/// The record that a worker finished.
pub(crate) fn done(mode: Mode, block: u32) -> Record {
    Record::Done(Done { mode, block })
}

/// Counts of the row `fork: h:0`.
pub(crate) fn counts(mode: Mode, switches: f64) -> Record {
    Record::Counts(CountsRecord {
        mode,
        benchmark: "fork".into(),
        result_class: "fork: h:0".into(),
        counts: Counts { switches, ..Counts::default() },
        exposure: None,
    })
}

/// A recording in which each mode has one sample in each block: the block's value in the slice.
pub(crate) fn recording(modes: &[(Mode, &[f64])]) -> Recording {
    let blocks = modes.iter().map(|(_, values)| values.len()).max().unwrap_or(0) as u32;
    let mut records = Vec::new();
    for (mode, values) in modes {
        for (block, value) in (0..).zip(*values) {
            records.push(Record::Sample(sample(*mode, block, *value)));
            records.push(done(*mode, block));
        }
    }
    Recording::new(run(blocks), records).expect("the values given are good ones")
}
