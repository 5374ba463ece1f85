//! Records real programs and compares what the traces say with what the kernel says.
//!
//! Every test runs with each method that works here; the perf method needs root or CAP_PERFMON and is
//! skipped, saying so, without it. Recordings reap all children of this process, so they run one at a
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kpkeys_trace::record::{Choice, Options, RecordError, Report, record};
use kpkeys_trace::{
    Damage, Entry, Event, FaultFlags, GapCause, Kinds, Method, Outcome, PageRange, SpaceId,
    SpaceOp, Spaces, Summary, TraceReader,
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
        Self::with(choice, false, command)
    }

    fn with(choice: Choice, until_last: bool, command: &[&str]) -> Result<Self, RecordError> {
        let command = command.iter().map(OsString::from).collect();
        let options = Options { command, choice, until_last, compare: false };
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
    with_each_method_until(false, command, check);
}

/// The same, until the command or, with `until_last`, its last descendant has ended.
fn with_each_method_until(until_last: bool, command: &[&str], check: impl Fn(&Recording)) {
    let _alone = alone();
    for choice in [Choice::Perf, Choice::Ptrace] {
        match Recording::with(choice, until_last, command) {
            Ok(recording) => check(&recording),
            Err(error @ (RecordError::NoPerf { .. } | RecordError::NoPtrace { .. })) => {
                kpkeys_skips::skip!("with {choice:?}: {error}");
            }
            Err(error) => panic!("{choice:?}: {error}"),
        }
    }
}

/// Runs this test program as the recorded command: only the test `name`, which then is the program.
fn with_each_method_on_self(name: &str, folder: &Path, check: impl Fn(&Recording)) {
    let program = std::env::current_exe().expect("this program");
    let role = format!("{ROLE}={}", folder.display());
    let program = program.to_str().expect("a readable path");
    let command = ["env", &role, program, "--exact", name, "--test-threads=1"];
    with_each_method(&command, check);
}

/// Where a recorded test program leaves what it knows, when this is one.
const ROLE: &str = "KPKEYS_TRACE_RECORDED_IN";

fn recorded_in() -> Option<PathBuf> {
    std::env::var_os(ROLE).map(PathBuf::from)
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
                SpaceOp::Unmap(range) => {
                    pages.retain(|page| !(range.first..range.end()).contains(page))
                }
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

/// Pages the recorded program touches, and writes to.
const TOUCHED: u64 = 600;
const WRITTEN: u64 = 400;

/// Maps memory, writes to some of its pages, reads others, and says where.
fn touch_pages(folder: &Path) {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    let size = TOUCHED as usize * 4096;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice; every access below lies inside it, and
    // nothing refers to it after the munmap.
    unsafe {
        let memory = mmap_anonymous(std::ptr::null_mut(), size, access, MapFlags::PRIVATE);
        let memory = memory.expect("memory");
        madvise(memory, size, Advice::LinuxNoHugepage).expect("small pages");
        for page in 0..TOUCHED as usize {
            let byte = memory.cast::<u8>().add(page * 4096);
            if page < WRITTEN as usize {
                byte.write_volatile(1)
            } else {
                byte.read_volatile();
            }
        }
        fs::write(folder.join("where"), (memory as usize).to_string()).expect("a note");
        munmap(memory, size).expect("unmapped");
    }
}

#[test]
fn every_page_touched_is_one_fault() {
    if let Some(folder) = recorded_in() {
        return touch_pages(&folder);
    }
    let folder = tempfile::tempdir().expect("a folder");
    with_each_method_on_self("every_page_touched_is_one_fault", folder.path(), |recording| {
        if !recording.report.kinds.contains(Kinds::FAULTS) {
            kpkeys_skips::skip!("faults may not be recorded here");
            return;
        }
        let address = fs::read_to_string(folder.path().join("where")).expect("a note");
        let first = address.parse::<u64>().expect("an address") >> 12;
        let range = PageRange { first, count: TOUCHED };
        let entries = recording.entries();
        let mapped = |entry: &Entry| matches!(entry.event, Event::Mmap { range: found, .. } if found == range);
        let unmapped = |entry: &Entry| entry.event == Event::Munmap { range };
        let begin = entries.iter().position(mapped).expect("the mmap is there");
        let end = entries.iter().position(unmapped).expect("the munmap is there");
        let faults: Vec<_> = entries[begin..end]
            .iter()
            .filter_map(|entry| match entry.event {
                Event::Fault { page, flags } if (first..range.end()).contains(&page) => {
                    Some((page, flags))
                }
                _ => None,
            })
            .collect();
        let pages: Vec<_> = faults.iter().map(|&(page, _)| page).collect();
        assert_eq!(pages, (first..range.end()).collect::<Vec<_>>());
        if recording.report.kinds.contains(Kinds::FAULT_WRITES) {
            let writes = faults.iter().filter(|(_, flags)| flags.contains(FaultFlags::WRITE));
            assert!(writes.map(|&(page, _)| page).eq(first..first + WRITTEN));
        }
    });
}

/// The pages of anonymous private mappings, and those of them that are present now, from /proc: what
/// the kernel knows.
fn anonymous_pages() -> (BTreeSet<u64>, BTreeSet<u64>) {
    use std::os::unix::fs::FileExt;
    let pagemap = fs::File::open("/proc/self/pagemap").expect("the page map");
    let maps = fs::read_to_string("/proc/self/maps").expect("the mappings");
    let anonymous = |line: &&str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let kernels_own = ["[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"];
        words[4] == "0" && !words.get(5).is_some_and(|name| kernels_own.contains(name))
    };
    let present = |page: &u64| {
        let mut entry = [0; 8];
        let read = pagemap.read_at(&mut entry, page * 8).unwrap_or(0);
        read == 8 && u64::from_ne_bytes(entry) >> 63 == 1
    };
    let anonymous: Vec<_> = maps.lines().filter(anonymous).collect();
    let mapped = mapped_in(&anonymous.join("\n"));
    let present = mapped.iter().copied().filter(present).collect();
    (mapped, present)
}

/// Length of a mapping that only says: until here.
const MARK: u64 = 54_321;

fn mark_the_moment() {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let size = MARK as usize * 4096;
    // SAFETY: a new mapping at an address of the kernel's choice that nobody accesses.
    let mark = unsafe {
        mmap_anonymous(std::ptr::null_mut(), size, ProtFlags::empty(), MapFlags::PRIVATE)
    };
    mark.expect("addresses");
}

/// Drops some of the pages it touched, moves others, and says what is present in the end.
fn leave_pages(folder: &Path) {
    let _kept: Vec<_> = (1..40).map(|size| vec![size as u8; size * 5000]).collect();
    let mut growing = Vec::new();
    (0..2_000_000u32).for_each(|number| growing.push(number));
    drop(
        (0..8)
            .map(|_| std::thread::spawn(|| vec![1u8; 300_000]))
            .map(|thread| thread.join())
            .collect::<Vec<_>>(),
    );
    let (mapped, present) = anonymous_pages();
    mark_the_moment();
    for (name, pages) in [("mapped", mapped), ("present", present)] {
        let lines: Vec<_> = pages.iter().map(u64::to_string).collect();
        fs::write(folder.join(name), lines.join("\n")).expect("a note");
    }
    // No tear-down: what is there stays until the exit.
    Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status().expect("killed");
}

/// The pages that are present by what the trace says, in the address space that made the mark, then.
fn present_at_mark(recording: &Recording) -> BTreeSet<u64> {
    let mut spaces = Spaces::new(recording.reader().header());
    let mut present: BTreeMap<SpaceId, BTreeSet<u64>> = BTreeMap::new();
    let mut steps = Vec::new();
    for entry in recording.entries() {
        spaces.follow(&entry, &mut steps);
        for step in steps.drain(..) {
            let pages = present.entry(step.space).or_default();
            let mut drop_pages = |range: PageRange| -> Vec<u64> {
                let dropped: Vec<_> = pages.range(range.first..range.end()).copied().collect();
                dropped.iter().for_each(|page| {
                    pages.remove(page);
                });
                dropped
            };
            match step.op {
                SpaceOp::Map { range, .. } | SpaceOp::Unmap(range) | SpaceOp::Discard(range) => {
                    drop_pages(range);
                }
                SpaceOp::Move { from, to, .. } => {
                    let moved = drop_pages(from);
                    let kept = moved.into_iter().map(|page| page - from.first + to.first);
                    pages.extend(kept.filter(|page| *page < to.end()));
                }
                SpaceOp::Populate(range) => pages.extend(range.first..range.end()),
                SpaceOp::Fault { page, .. } => {
                    pages.insert(page);
                }
                _ => {}
            }
            if matches!(step.op, SpaceOp::Map { range, .. } if range.count == MARK) {
                return present.remove(&step.space).unwrap_or_default();
            }
        }
    }
    panic!("the mark is missing")
}

#[test]
fn the_pages_present_are_those_the_kernel_shows() {
    if let Some(folder) = recorded_in() {
        return leave_pages(&folder);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let name = "the_pages_present_are_those_the_kernel_shows";
    with_each_method_on_self(name, folder.path(), |recording| {
        if !recording.report.kinds.contains(Kinds::FAULTS | Kinds::KERNEL_FAULTS) {
            kpkeys_skips::skip!("not all faults are recorded here");
            return;
        }
        let header = recording.reader().header().clone();
        if header.huge_pages == "always" {
            kpkeys_skips::skip!("this kernel maps huge pages by itself");
            return;
        }
        let noted = |name: &str| -> BTreeSet<u64> {
            let pages = fs::read_to_string(folder.path().join(name)).expect("a note");
            pages.lines().map(|line| line.parse().expect("a page")).collect()
        };
        let (mapped, shown) = (noted("mapped"), noted("present"));
        let present = present_at_mark(recording);
        let missing: Vec<_> = shown.difference(&present).map(|page| format!("{page:x}")).collect();
        assert!(shown.len() > 2000, "{} pages", shown.len());
        assert!(missing.is_empty(), "missing of {}: {missing:?}", shown.len());
        // The program touched a few more while it looked.
        let later = present.intersection(&mapped).filter(|page| !shown.contains(page)).count();
        eprintln!("{} pages, and {later} later", shown.len());
        assert!(later < 32, "{later} pages too many");
    });
}

#[test]
fn threads_share_their_address_space() {
    if recorded_in().is_some() {
        let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(|| vec![1u8; 100_000])).collect();
        return threads.into_iter().for_each(|thread| drop(thread.join()));
    }
    let folder = tempfile::tempdir().expect("a folder");
    with_each_method_on_self("threads_share_their_address_space", folder.path(), |recording| {
        let counts = recording.summary().counts;
        // The test harness may run a test in a thread of its own.
        assert!((8..=9).contains(&counts.threads), "{counts:?}");
        assert_eq!(counts.processes, 1);
        assert_eq!(counts.exits, 1 + counts.threads);
        // `env` has one space, the program another.
        assert_eq!(mapped_at_end(recording).len() as u64, 1 + counts.execs);
    });
}

#[test]
fn a_thread_may_exec() {
    use std::os::unix::process::CommandExt;
    if recorded_in().is_some() {
        let thread = std::thread::spawn(|| Command::new("true").exec());
        drop(thread.join());
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    with_each_method_on_self("a_thread_may_exec", folder.path(), |recording| {
        let summary = recording.summary();
        assert_eq!(recording.report.trailer.outcome, Outcome::Exited(0));
        assert_eq!((summary.counts.execs, summary.counts.processes), (3, 1));
        // The last program runs in the task that called execve, which is not the first.
        let entries = recording.entries();
        let exec = entries.iter().rfind(|entry| matches!(entry.event, Event::Exec { .. }));
        assert_ne!(exec.map(|entry| entry.task.0), Some(0));
    });
}

/// What `strace -c -f` counts: successful calls by name.
fn strace_counts(command: &[&str]) -> Option<BTreeMap<String, u64>> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("counts");
    let run = Command::new("strace").args(["-c", "-f", "-o"]).arg(&file).args(command).status();
    if !run.is_ok_and(|status| status.success()) {
        return None;
    }
    // Columns: share, seconds, time of a call, calls, errors if any, name.
    let count = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let calls: u64 = words.get(3)?.parse().ok()?;
        let errors = if words.len() > 5 { words[4].parse().ok()? } else { 0 };
        Some((words.last()?.to_string(), calls - errors))
    };
    let table = fs::read_to_string(file).ok()?;
    Some(table.lines().filter(|line| !line.ends_with("total")).filter_map(count).collect())
}

#[test]
fn calls_agree_with_strace() {
    let command = ["sh", "-c", "for i in 1 2 3; do /bin/true; done; (:); (:)"];
    let Some(expected) = strace_counts(&command) else {
        kpkeys_skips::skip!("strace is not here, or may not trace");
        return;
    };
    let expected =
        |names: &[&str]| -> u64 { names.iter().filter_map(|&name| expected.get(name)).sum() };
    with_each_method(&command, |recording| {
        let counts = recording.summary().counts;
        assert_eq!(counts.mmaps, expected(&["mmap"]));
        assert_eq!(counts.munmaps, expected(&["munmap"]));
        assert_eq!(counts.mprotects, expected(&["mprotect"]));
        assert_eq!(counts.brks, expected(&["brk"]));
        assert_eq!(counts.execs, expected(&["execve"]));
        let forks = expected(&["fork", "vfork", "clone", "clone3"]);
        assert_eq!((counts.forks + counts.vforks, forks), (5, 5));
    });
}

#[test]
fn a_storm_of_processes_is_recorded_whole() {
    let script = "i=0; while [ $i -lt 300 ]; do /bin/true | /bin/true; i=$((i+1)); done";
    with_each_method(&["sh", "-c", script], |recording| {
        let summary = recording.summary();
        assert_eq!(summary.lost, 0);
        assert_eq!(summary.counts.processes, 601);
        assert_eq!(summary.counts.execs, 601);
        assert_eq!(summary.counts.exits, 601);
        assert!(summary.peak_spaces <= 4, "a pipe of two, and their shell");
    });
}

#[test]
fn faults_agree_with_the_kernel_s_accounting() {
    with_each_method(&["sh", "-c", "for i in 1 2 3 4 5; do /bin/true; done"], |recording| {
        if !recording.report.kinds.contains(Kinds::ACCOUNTING | Kinds::KERNEL_FAULTS) {
            kpkeys_skips::skip!("no accounting here");
            return;
        }
        let summary = recording.summary();
        let costs = &summary.costs;
        let accounted =
            costs.minor_faults.zip(costs.major_faults).map(|(minor, major)| minor + major);
        let (accounted, faults) = accounted.zip(summary.counts.faults).expect("both recorded");
        // The kernel also counts pages that it fetched itself without a fault: one or two an exec.
        let fetched = accounted.checked_sub(faults).expect("no fault is invented");
        assert!(fetched <= 2 * summary.counts.execs, "{fetched} of {accounted} are missing");
    });
}

#[test]
fn the_end_of_the_command_is_told() {
    with_each_method(&["sh", "-c", "exit 3"], |recording| {
        assert_eq!(recording.report.trailer.outcome, Outcome::Exited(3));
    });
    with_each_method(&["sh", "-c", "kill -SEGV $$"], |recording| {
        assert_eq!(recording.report.trailer.outcome, Outcome::Signalled(11));
        let is_exit = |entry: &&Entry| matches!(entry.event, Event::Exit { .. });
        let entries = recording.entries();
        let last = entries.iter().rfind(is_exit).expect("an exit");
        if recording.report.kinds.contains(Kinds::ACCOUNTING) {
            assert!(
                matches!(last.event, Event::Exit { status: Some(status) } if status & 0x7f == 11)
            );
        }
    });
}

#[test]
fn a_command_that_cannot_start_is_an_error() {
    let _alone = alone();
    for choice in [Choice::Auto, Choice::Ptrace] {
        for name in ["kpkeys-no-such-command", "/no/such/file"] {
            let error = Recording::of(choice, &[name]).err().expect("no such command");
            if matches!(error, RecordError::NoPtrace { .. }) {
                kpkeys_skips::skip!("with {choice:?}: {error}");
                continue;
            }
            assert!(matches!(&error, RecordError::NotFound(found) if found == name), "{error}");
            assert_eq!(error.exit_code(), 127);
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a readable path");
    let error = Recording::of(Choice::Auto, &[path]).err().expect("a folder is no command");
    assert_eq!(error.exit_code(), 126);
}

/// A shell that ends at once and leaves a process that lives on and then execs twice more.
const DAEMON: [&str; 3] = ["sh", "-c", "(sleep 0.3; /bin/true) & exit 0"];

#[test]
fn what_outlives_its_parent_can_be_recorded_to_its_end() {
    with_each_method_until(true, &DAEMON, |recording| {
        let summary = recording.summary();
        assert_eq!((summary.counts.execs, summary.counts.exits), (3, summary.counts.processes));
        assert!(summary.span_ns >= 300_000_000);
        assert!(recording.report.trailer.recorded.real_ns < 250_000_000, "the shell's own time");
        assert!(recording.report.trailer.gaps.is_empty());
    });
}

#[test]
fn a_recording_ends_with_the_command() {
    with_each_method(&DAEMON, |recording| {
        let summary = recording.summary();
        assert!(summary.span_ns < 290_000_000, "{} ns", summary.span_ns);
        assert!(summary.counts.exits < summary.counts.processes);
        let [gap] = recording.report.trailer.gaps.as_slice() else { panic!("one gap") };
        assert_eq!(gap.cause, GapCause::Survived);
        assert_eq!(gap.count, gap.names.len() as u64);
    });
}

/// Makes a process that may not be traced; it exits with 3 if it can map memory.
fn make_untraceable() -> i32 {
    let flags = libc::CLONE_UNTRACED | libc::SIGCHLD;
    // SAFETY: like a fork: the child has a copy of the memory and the calling thread alone. It makes two
    // system calls, the second of which ends it.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if child == 0 {
        // SAFETY: a new mapping at an address of the kernel's choice, and the end of the process.
        unsafe {
            let (access, kind) = (libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let mapped = libc::mmap(std::ptr::null_mut(), 4096, access, kind, -1, 0);
            libc::_exit(if mapped == libc::MAP_FAILED { 4 } else { 3 });
        }
    }
    let mut status = 0;
    // SAFETY: `status` is a place for the status.
    unsafe { libc::waitpid(child as libc::pid_t, &raw mut status, libc::__WALL) };
    libc::WEXITSTATUS(status)
}

#[test]
fn a_process_that_may_not_be_traced_runs_unharmed() {
    if recorded_in().is_some() {
        assert_eq!(make_untraceable(), 3);
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let name = "a_process_that_may_not_be_traced_runs_unharmed";
    with_each_method_on_self(name, folder.path(), |recording| {
        assert_eq!(recording.report.trailer.outcome, Outcome::Exited(0));
        let gaps = &recording.report.trailer.gaps;
        let processes = recording.summary().counts.processes;
        match recording.report.method {
            Method::Perf => assert_eq!((gaps.len(), processes), (0, 2), "perf sees it"),
            _ => {
                assert_eq!((gaps[0].cause, gaps[0].count), (GapCause::Untraceable, 1));
                assert_eq!(processes, 1);
            }
        }
    });
}

/// Eight threads that wait for each other in every call and fault.
fn contend() {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    let work = || {
        let size = 64 * 4096;
        for _ in 0..300 {
            // SAFETY: a new mapping at an address of the kernel's choice; every access lies inside it, and
            // nothing refers to it after the munmap.
            unsafe {
                let access = ProtFlags::READ | ProtFlags::WRITE;
                let memory = mmap_anonymous(std::ptr::null_mut(), size, access, MapFlags::PRIVATE);
                let memory = memory.expect("memory");
                (0..64).for_each(|page| memory.cast::<u8>().add(page * 4096).write_volatile(1));
                munmap(memory, size).expect("unmapped");
            }
        }
    };
    std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(work))));
}

#[test]
fn waiting_is_not_a_cost() {
    if recorded_in().is_some() {
        return contend();
    }
    let folder = tempfile::tempdir().expect("a folder");
    with_each_method_on_self("waiting_is_not_a_cost", folder.path(), |recording| {
        let costs = recording.summary().costs;
        let kinds = recording.report.kinds;
        if !kinds.contains(Kinds::DURATIONS) {
            assert_eq!((costs.call_ns, costs.fault_ns), (None, None));
            return;
        }
        assert!(kinds.contains(Kinds::CPU_DURATIONS));
        let measured = [costs.fault_ns, costs.slow_fault_ns, costs.call_ns].map(Option::unwrap);
        let measured: u64 = measured.iter().sum();
        let Some(cpu_ns) = costs.cpu_ns else {
            return kpkeys_skips::skip!("no accounting of CPU time here");
        };
        assert!(measured > 0 && measured <= cpu_ns, "{measured} ns of {cpu_ns} ns");
    });
}
