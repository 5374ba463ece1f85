//! Reading what was written, and refusing what was not written by us.

use super::*;
use crate::{
    fixture::{counts, done, run, sample},
    notice::Notice,
};
use std::fs;

fn lines(records: &[Record]) -> String {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, &run(1)).unwrap();
    for record in records {
        writer.write(record).unwrap();
    }
    String::from_utf8(out).unwrap()
}

fn good_file() -> String {
    lines(&[
        Record::Sample(sample(Mode::Off, 0, 100.0)),
        counts(Mode::Off, 0.0),
        done(Mode::Off, 0),
        Record::Sample(sample(Mode::Batched, 0, 103.0)),
        done(Mode::Batched, 0),
    ])
}

fn error_of(text: &str) -> String {
    Recording::read_from(text.as_bytes(), "s.jsonl").unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read_back() {
    let file = good_file();
    let recording = Recording::read_from(file.as_bytes(), "s.jsonl").unwrap();
    assert_eq!(recording.run(), &run(1));
    assert_eq!(recording.records().len(), 5);
    assert_eq!(lines(recording.records()), file);
    let finished: Vec<Done> = recording.done().iter().copied().collect();
    let done = |mode| Done { mode, block: 0 };
    assert_eq!(finished, [done(Mode::Off), done(Mode::Batched)]);
    assert!(recording.notices().is_empty());
}

#[test]
fn every_line_is_tagged_by_kind() {
    let kinds: Vec<String> = good_file()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["kind"].as_str().unwrap().into())
        .collect();
    assert_eq!(kinds, ["run", "sample", "counts", "done", "sample", "done"]);
}

#[test]
fn further_counters_lie_beside_the_fixed_ones() {
    let mut record = CountsRecord {
        mode: Mode::Fused,
        benchmark: "b".into(),
        result_class: "r".into(),
        counts: Counts { windows: 2.0, ..Counts::default() },
        exposure: None,
    };
    record.counts.extra.insert("checks".into(), 3.5);
    let json = serde_json::to_value(Record::Counts(record.clone())).unwrap();
    assert_eq!((&json["counts"]["windows"], &json["counts"]["checks"]), (&2.0.into(), &3.5.into()));
    assert_eq!(serde_json::from_value::<Record>(json).unwrap(), Record::Counts(record.clone()));
    let named: Vec<_> = record.counts.named().collect();
    assert_eq!(named.len(), Counts::FIXED + 1);
    assert_eq!(named[Counts::FIXED], ("checks", 3.5));
}

#[test]
fn a_file_cut_anywhere_is_read_up_to_its_last_whole_line() {
    let file = good_file();
    let header = file.find('\n').unwrap();
    for cut in header..file.len() {
        let recording = Recording::read_from(&file.as_bytes()[..cut], "s.jsonl").unwrap();
        let whole = file[..cut].matches('\n').count();
        // A record whose line end alone is missing is whole.
        let unended = usize::from(file[cut..].starts_with('\n'));
        let records = whole + unended - 1;
        assert_eq!(recording.records().len(), records, "cut at {cut}");
        let torn = unended == 0 && !file[..cut].ends_with('\n');
        assert_eq!(recording.notices().len(), usize::from(torn), "cut at {cut}");
    }
}

#[test]
fn a_torn_line_is_named() {
    let file = good_file();
    let recording = Recording::read_from(&file.as_bytes()[..file.len() - 4], "s.jsonl").unwrap();
    assert_eq!(recording.notices(), [Notice::TornLine { line: 6 }]);
}

#[test]
fn an_empty_or_headless_file_is_refused() {
    let empty = "s.jsonl:1: the file holds no complete line; expected a `run` record first";
    assert_eq!(error_of(""), empty);
    assert_eq!(error_of("{\"kind\":\"ru"), empty);
    let headless = good_file().split_once('\n').unwrap().1.to_owned();
    assert!(error_of(&headless).starts_with("s.jsonl:1: found a record before the header"));
    let path = std::path::Path::new("/nonexistent/samples.jsonl");
    let missing = Recording::read(path).unwrap_err().to_string();
    assert!(missing.starts_with("/nonexistent/samples.jsonl:0: cannot read"), "{missing}");
}

#[test]
fn bad_lines_are_named_with_what_was_expected() {
    let with = |line: &str| error_of(&format!("{}{line}\n{}", lines(&[]), "{}\n"));
    let cases = [
        ("hello", "s.jsonl:2: malformed record: expected value at line 1 column 1"),
        ("", "s.jsonl:2: malformed record: EOF while parsing"),
        (r#"{"kind":"sampel"}"#, "s.jsonl:2: malformed record: unknown variant `sampel`"),
        (r#"{"kind":"done","mode":"off"}"#, "s.jsonl:2: malformed record: missing field `block`"),
        (r#"{"kind":"done","mode":"fast","block":0}"#, "unknown variant `fast`"),
        (r#"{"kind":"done","mode":"off","block":-1}"#, "invalid value: integer `-1`"),
    ];
    for (line, expected) in cases {
        let message = with(line);
        assert!(message.contains(expected), "{line}: {message}");
        assert!(
            message
                .ends_with("expected one JSON object of kind run, sample, counts, done or noise")
        );
    }
}

#[test]
fn a_second_header_and_another_version_are_refused() {
    let header = lines(&[]);
    assert!(error_of(&header.repeat(2)).starts_with("s.jsonl:2: a second `run` record"));
    let newer = header.replace("\"format\":2", "\"format\":3");
    assert_eq!(
        error_of(&newer),
        "s.jsonl:1: format version 3; expected 1 or 2: use the program that wrote the file"
    );
}

#[test]
fn samples_after_done_are_refused() {
    let late = format!("{}{}", good_file(), lines_without_header(sample(Mode::Off, 0, 1.0)));
    assert_eq!(
        error_of(&late),
        "s.jsonl:7: a sample of mode off in block 0 after its `done` record; expected none"
    );
}

fn lines_without_header(sample: Sample) -> String {
    lines(&[Record::Sample(sample)]).split_once('\n').unwrap().1.to_owned()
}

#[test]
fn numbers_that_no_measurement_has_are_refused_by_name() {
    for value in [0.0, -5.0, f64::NAN, f64::INFINITY] {
        let record = Record::Sample(sample(Mode::Off, 0, value));
        let error = record.check().unwrap_err();
        assert_eq!((error.field.as_str(), error.expected), ("value", POSITIVE));
        let in_memory = Recording::new(run(1), [record.clone()]).unwrap_err();
        assert!(matches!(in_memory, Problem::Value(_)), "{in_memory}");
        let mut written = Vec::new();
        let mut writer = Writer::new(&mut written, &run(1)).unwrap();
        let length = lines(&[]).len();
        assert!(matches!(writer.write(&record), Err(WriteError::Value(_))));
        assert_eq!(written.len(), length, "nothing of the bad record is written");
    }
    let text = lines(&[Record::Sample(sample(Mode::Off, 0, 7.0))]).replace("7.0", "-7.0");
    assert_eq!(error_of(&text), "s.jsonl:2: value is -7; expected a finite number above 0");
}

#[test]
fn negative_counts_and_impossible_shares_are_refused_by_name() {
    let error = counts(Mode::Off, -1.0).check().unwrap_err().to_string();
    assert_eq!(error, "counts.switches is -1; expected a finite number of at least 0");
    let Record::Counts(mut record) = counts(Mode::Off, 0.0) else { panic!("counts") };
    record.exposure = Some(Exposure { open_share: 1.5, longest_window_stores: 0 });
    let error = Record::Counts(record).check().unwrap_err().to_string();
    assert_eq!(error, "exposure.open_share is 1.5; expected a share between 0 and 1");
}

/// A file of a run in two modes that says what made it: one whole block.
fn file_with_origin() -> String {
    let origin = Origin {
        commit: None,
        build_hash: "abc".into(),
        inputs: [].into(),
        started: "2026-01-02T03:04:05Z".into(),
        rows: vec!["fork: h:0".into()],
        modes: vec![Mode::Off, Mode::Batched],
        session: None,
    };
    let header =
        serde_json::to_string(&Record::Run(Box::new(Run { origin: Some(origin), ..run(2) })));
    let records = good_file();
    let (_, records) = records.split_once('\n').unwrap();
    format!("{}\n{records}", header.unwrap())
}

#[test]
fn what_was_recorded_before_there_was_integrity_is_read_as_lean() {
    let new = lines(&[
        Record::Sample(sample(Mode::Fused, 0, 100.0)),
        counts(Mode::Fused, 0.0),
        done(Mode::Fused, 0),
    ]);
    let old = new.replace("\"format\":2", "\"format\":1");
    assert_ne!(new, old);
    let modes = |file: &str| {
        let recording = Recording::read_from(file.as_bytes(), "s.jsonl").unwrap();
        recording.records().iter().map(|record| record_mode(record).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(modes(&new), [Mode::Fused; 3]);
    assert_eq!(modes(&old), [Mode::FusedLean; 3]);
}

fn record_mode(record: &Record) -> Option<Mode> {
    match record {
        Record::Run(_) | Record::Noise(_) => None,
        Record::Sample(sample) => Some(sample.mode),
        Record::Counts(record) => Some(record.mode),
        Record::Done(done) => Some(done.mode),
    }
}

#[test]
fn a_killed_run_is_continued_behind_its_last_whole_block() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.jsonl");
    let file = file_with_origin();
    let next = lines(&[
        Record::Sample(sample(Mode::Off, 1, 100.0)),
        Record::Sample(sample(Mode::Batched, 1, 103.0)),
        done(Mode::Off, 1),
        done(Mode::Batched, 1),
    ]);
    let (_, next) = next.split_once('\n').unwrap();
    // Wherever it is killed, even between what two modes of one block have to say.
    for killed_at in 0..next.len() - 1 {
        fs::write(&path, format!("{file}{}", &next[..killed_at])).unwrap();
        let (recording, mut writer) = Writer::resume(&path).unwrap();
        assert_eq!(recording.records().len(), 5, "killed at {killed_at}");
        assert_eq!(fs::read_to_string(&path).unwrap(), file, "killed at {killed_at}");
        writer.write(&Record::Sample(sample(Mode::Off, 1, 101.0))).unwrap();
        assert_eq!(Recording::read(&path).unwrap().records().len(), 6);
    }
    // Killed between the last record and its line end.
    fs::write(&path, format!("{file}{}", next.trim_end())).unwrap();
    let (recording, mut writer) = Writer::resume(&path).unwrap();
    assert_eq!(recording.records().len(), 9);
    writer.write(&counts(Mode::Off, 0.0)).unwrap();
    assert_eq!(Recording::read(&path).unwrap().records().len(), 10);
}

#[test]
fn a_sample_that_is_there_twice_is_refused_by_name() {
    let text = file_with_origin();
    let (header, records) = text.split_once('\n').unwrap();
    let first = records.lines().next().unwrap();
    let error = error_of(&format!("{header}\n{first}\n{records}"));
    assert_eq!(
        error,
        "s.jsonl:3: fork: h:0, mode off: a second sample of iteration 0 in block 0; expected each once"
    );
    // An older version left what a killed worker had measured beside the second attempt: still read.
    let text = good_file();
    let (header, records) = text.split_once('\n').unwrap();
    let first = records.lines().next().unwrap();
    let older = format!("{header}\n{first}\n{records}");
    assert_eq!(Recording::read_from(older.as_bytes(), "s.jsonl").unwrap().records().len(), 6);
}

#[test]
fn a_file_that_is_not_ours_is_neither_overwritten_nor_continued() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    fs::write(&path, "my notes\n").unwrap();
    assert!(matches!(Writer::create(&path, &run(1)), Err(WriteError::Io(_))));
    assert!(matches!(Writer::resume(&path), Err(WriteError::Read(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "my notes\n");
}
