//! Records real programs and compares what the traces say with what the kernel says.
//!
//! Every test runs with each method that works here; the perf method needs root or CAP_PERFMON and is
//! skipped, saying so, without it. Recordings reap all children of this process, so they run one at a
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kpkeys_trace::record::{Choice, Options, RecordError, Report, record};
use kpkeys_trace::{
    Damage, Entry, Event, Outcome, SpaceId, SpaceOp, Spaces, Summary, TraceReader,
};

/// One recording at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Recording {
    report: Report,
    bytes: Vec<u8>,
}

impl Recording {
    fn of(choice: Choice, command: &[&str]) -> Result<Self, RecordError> {
        let command = command.iter().map(OsString::from).collect();
        let options = Options { command, choice, ..Options::default() };
        let mut bytes = Vec::new();
        let report = record(&options, &mut bytes)?;
        Ok(Self { report, bytes })
    }

    fn reader(&self) -> TraceReader<&[u8]> {
        TraceReader::new(self.bytes.as_slice(), Damage::Refuse).expect("the header is readable")
    }

    fn entries(&self) -> Vec<Entry> {
        let mut reader = self.reader();
        std::iter::from_fn(|| reader.next_entry().expect("the trace is readable")).collect()
    }

    fn summary(&self) -> Summary {
        Summary::of(&mut self.reader()).expect("the trace is readable")
    }
}

/// Runs `check` with a recording of `command` by each method that is allowed here.
fn with_each_method(command: &[&str], check: impl Fn(&Recording)) {
    let _alone = alone();
    for choice in [Choice::Perf, Choice::Ptrace] {
        match Recording::of(choice, command) {
            Ok(recording) => check(&recording),
            Err(error @ (RecordError::NoPerf { .. } | RecordError::NoPtrace { .. })) => {
                eprintln!("SKIPPED with {choice:?}: {error}");
            }
            Err(error) => panic!("{choice:?}: {error}"),
        }
    }
}

/// The mapped pages of every address space just before it went.
fn mapped_at_end(recording: &Recording) -> BTreeMap<SpaceId, BTreeSet<u64>> {
    let mut spaces = Spaces::new(recording.reader().header());
    let mut mapped: BTreeMap<SpaceId, BTreeSet<u64>> = BTreeMap::new();
    let mut steps = Vec::new();
    for entry in recording.entries() {
        spaces.follow(&entry, &mut steps);
        for step in steps.drain(..) {
            let origin = match step.op {
                SpaceOp::CopyOf(from) => mapped.get(&from).cloned().unwrap_or_default(),
                _ => BTreeSet::new(),
            };
            let pages = mapped.entry(step.space).or_default();
            match step.op {
                SpaceOp::CopyOf(_) => *pages = origin,
                SpaceOp::Map { range, .. } => pages.extend(range.first..range.end()),
                SpaceOp::Unmap(range) => pages.retain(|page| !(range.first..range.end()).contains(page)),
                SpaceOp::Move { from, to, .. } => {
                    pages.retain(|page| !(from.first..from.end()).contains(page));
                    pages.extend(to.first..to.end());
                }
                _ => {}
            }
        }
    }
    mapped
}

/// The mapped pages in a copy of /proc/PID/maps, without the kernel's own vsyscall page.
fn mapped_in(maps: &str) -> BTreeSet<u64> {
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
    maps.lines()
        .filter(|line| !line.contains("[vsyscall]"))
        .flat_map(|line| {
            let range = line.split(' ').next().expect("a range");
            let (start, end) = range.split_once('-').expect("start-end");
            hex(start) >> 12..hex(end) >> 12
        })
        .collect()
}

#[test]
fn the_mappings_are_those_the_kernel_shows() {
    let folder = tempfile::tempdir().expect("a folder");
    let maps = folder.path().join("maps");
    let script = format!("exec dd if=/proc/self/maps bs=64k of={} 2>/dev/null", maps.display());
    with_each_method(&["sh", "-c", &script], |recording| {
        let shown = mapped_in(&fs::read_to_string(&maps).expect("maps were written"));
        let ends = mapped_at_end(recording);
        let (_, last) = ends.last_key_value().expect("an address space");
        let missing: Vec<_> = shown.difference(last).map(|page| format!("{page:x}")).collect();
        let extra: Vec<_> = last.difference(&shown).map(|page| format!("{page:x}")).collect();
        assert!(missing.is_empty() && extra.is_empty(), "missing {missing:?}, too many {extra:?}");
    });
}
