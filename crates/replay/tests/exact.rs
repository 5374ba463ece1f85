//! After a replay, the pages of each address space are those that the kernel showed for the live process; and traces of all
//! sorts of commands replay.
//!
//! The recorded programs stop (SIGSTOP) where they are to be looked at. While one is stopped, /proc/PID/pagemap is read; then it is
//! killed, so that nothing changes between the look and the exit. Needs the perf method (root or CAP_PERFMON) and python3;
//! skipped, saying so, without.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kpkeys_hosted::boot::Counted;
use kpkeys_hosted::{Setup, boot_counted, cpu};
use kpkeys_mm::{AddressSpace, Kernel};
use kpkeys_pgtable::check::{Scratch, check};
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_pgtable::{Config, Machine as _, Mode, VirtAddr};
use kpkeys_replay::{History, HistoryError, Replayer, Stage, Tally, replay_on, replayer};
use kpkeys_trace::record::{Choice, Options, RecordError, record};
use kpkeys_trace::{Damage, Event, Kinds, Spaces, TraceReader};

type Machine = Counted<Aarch64>;

/// One recording at a time: each reaps all children of this process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A trace of `command`, or `None` where it cannot be recorded with all that the comparison needs.
fn recorded(command: &[&str]) -> Option<Vec<u8>> {
    let command = command.iter().map(OsString::from).collect();
    let options = Options { command, choice: Choice::Perf, until_last: false, compare: false };
    let mut bytes = Vec::new();
    match record(&options, &mut bytes) {
        Ok(report) => {
            assert_eq!(report.trailer.lost, 0);
            Some(bytes)
        }
        Err(error @ RecordError::NoPerf { .. }) => {
            kpkeys_skips::skip!("{error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// What the kernel shows of a process.
#[derive(Debug, Default)]
struct Shown {
    /// Pages of mappings without a file, and those of them that are present.
    anonymous: BTreeSet<u64>,
    anonymous_present: BTreeSet<u64>,
    /// Pages of the first thread's stack.
    stack: BTreeSet<u64>,
    /// The present pages of files.
    of_files: BTreeSet<u64>,
}

fn shown(pid: u32) -> Shown {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the mappings");
    let pagemap = fs::File::open(format!("/proc/{pid}/pagemap")).expect("the page map");
    let present = |page: &u64| {
        let mut entry = [0; 8];
        let read = pagemap.read_at(&mut entry, page * 8).unwrap_or(0);
        read == 8 && u64::from_ne_bytes(entry) >> 63 == 1
    };
    let mut shown = Shown::default();
    for line in maps.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let (start, end) = words[0].split_once('-').expect("start-end");
        let page = |text| u64::from_str_radix(text, 16).expect("hexadecimal") >> 12;
        let pages = page(start)..page(end);
        if words[4] != "0" {
            shown.of_files.extend(pages.filter(present));
        } else if !words.get(5).is_some_and(|name| name.starts_with("[v")) {
            // [vdso] and the like are pages of the kernel's own.
            shown.anonymous.extend(pages.clone());
            if words.get(5) == Some(&"[stack]") {
                shown.stack.extend(pages.clone());
            }
            shown.anonymous_present.extend(pages.filter(present));
        }
    }
    shown
}

/// Whether every thread of a process has stopped.
fn is_stopped(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    tasks.flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
    })
}

/// Looks at every process that announces itself in `folder` and stops, and kills it.
fn look_at_the_stopped(folder: &Path, done: &AtomicBool) -> BTreeMap<u32, Shown> {
    let mut seen = BTreeMap::new();
    while !done.load(Ordering::Relaxed) {
        for entry in fs::read_dir(folder).expect("the folder").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if !seen.contains_key(&pid) && is_stopped(pid) {
                seen.insert(pid, shown(pid));
                let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process");
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    seen
}

/// Records the test program in one of its roles, and what the kernel showed of its processes.
fn program(role: &str) -> Option<(Vec<u8>, BTreeMap<u32, Shown>)> {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        kpkeys_skips::skip!("there is no python3");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program.py");
    let done = AtomicBool::new(false);
    let command = ["python3", script.to_str()?, role, folder.path().to_str()?];
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| look_at_the_stopped(folder.path(), &done));
        let trace = recorded(&command);
        done.store(true, Ordering::Relaxed);
        Some((trace?, looking.join().expect("nothing went wrong")))
    })
}

fn kernel_for(history: &History, mode: Mode, cpus: usize) -> Kernel<Machine> {
    let pages = history.memory_pages();
    boot_counted(Setup { pages, cpus, config: Config::of(mode) }).expect("the host has memory")
}

/// The mapped pages of a replayed address space.
fn replayed(space: &AddressSpace<'_, Machine>) -> BTreeSet<u64> {
    let pages = space.mappings().flat_map(|(range, _)| {
        (0..range.pages()).map(move |page| range.start().offset_pages::<Aarch64>(page))
    });
    let mapped = |va: &VirtAddr| space.kernel().paging().walk(space.root(), *va).is_some();
    pages.filter(mapped).map(|va| va.0 / 4096).collect()
}

/// Replays a trace and passes each process's address space, by process id, as it is when the process exits.
fn replay_to_exits(trace: &[u8], mut at_exit: impl FnMut(u32, &AddressSpace<'_, Machine>)) {
    let history = History::read(trace).expect("a good trace");
    let kernel = kernel_for(&history, Mode::Off, 1);
    let file = Stage::file(&kernel, &history.header).expect("memory");
    let mut replayer = Replayer::new(&kernel, &file, &history.header);
    let mut reader = TraceReader::new(trace, Damage::Refuse).expect("a good trace");
    let mut spaces = Spaces::new(reader.header());
    let (mut pids, mut steps) = (HashMap::new(), Vec::new());
    while let Some(entry) = reader.next_entry().expect("a good trace") {
        match entry.event {
            Event::Start { pid } => drop(pids.insert(entry.task, pid)),
            Event::Fork { child, pid, .. } => drop(pids.insert(child, pid)),
            Event::Exit { .. } => {
                let space = spaces.of_task(entry.task).and_then(|id| replayer.space(id));
                at_exit(pids[&entry.task], space.expect("a process has an address space"));
            }
            _ => {}
        }
        spaces.follow(&entry, &mut steps);
        steps.drain(..).for_each(|step| replayer.step(step.space, &step.op).expect("memory"));
    }
    let Tally { done, refused } = replayer.tally();
    assert!(refused * 1000 <= done, "{refused} of {done} refused");
}

/// Pages without a file are exactly the kernel's. Which pages of files a read maps besides its own depends on what was in the
/// page cache and in what sizes, which a trace does not tell: those agree by and large.
fn assert_exact(role: &str, processes: usize) {
    let _alone = alone();
    let Some((trace, shown)) = program(role) else { return };
    assert_eq!(shown.len(), processes);
    if History::read(&trace).expect("a good trace").header.huge_pages == "always" {
        kpkeys_skips::skip!("this kernel maps huge pages by itself");
        return;
    }
    let mut compared = BTreeSet::new();
    replay_to_exits(&trace, |pid, space| {
        let Some(shown) = shown.get(&pid) else { return };
        let pages = replayed(space);
        assert_eq!(pages.len(), space.mapped_pages());
        let anonymous: BTreeSet<u64> = pages.intersection(&shown.anonymous).copied().collect();
        assert!(shown.anonymous_present.len() > 500);
        let missing: Vec<_> = shown.anonymous_present.difference(&anonymous).collect();
        assert!(missing.is_empty(), "{role}, process {pid}: missing {missing:x?}");
        // Stack randomisation skips up to two pages below the arguments, of which the recorder learns nothing.
        let extra: Vec<_> = anonymous.difference(&shown.anonymous_present).collect();
        let skipped = extra.iter().filter(|page| shown.stack.contains(page)).count();
        assert!(skipped == extra.len() && skipped <= 2, "{role}, process {pid}: extra {extra:x?}");
        let of_files = pages.len() - anonymous.len();
        let missing = shown.of_files.difference(&pages).count();
        eprintln!(
            "{role}, process {pid}: {} pages without a file; of {} of files, {missing} missing, {} besides",
            anonymous.len(),
            shown.of_files.len(),
            of_files + missing - shown.of_files.len()
        );
        assert!(missing * 10 < shown.of_files.len());
        assert!((of_files + missing - shown.of_files.len()) * 10 < shown.of_files.len());
        compared.insert(pid);
    });
    assert_eq!(compared.len(), processes);
}

#[test]
fn programs_that_fork_end_with_the_pages_the_kernel_showed() {
    assert_exact("forks", 1 + 8 + 3);
}

#[test]
fn programs_with_threads_end_with_the_pages_the_kernel_showed() {
    assert_exact("threads", 2);
}

#[test]
fn programs_that_exec_end_with_the_pages_the_kernel_showed() {
    assert_exact("execs", 1);
}

/// Replays in every mode on one thread, and on three, and accounts for every frame.
fn assert_replays(trace: &[u8]) -> History {
    let history = History::read(trace).expect("a good trace");
    for (mode, threads) in Mode::ALL.into_iter().map(|mode| (mode, 1)).chain([(Mode::Batched, 3)]) {
        let kernel = kernel_for(&history, mode, threads);
        let file = Stage::file(&kernel, &history.header).expect("memory");
        let tally = match threads {
            1 => replayer::replay(&kernel, &file, &history),
            _ => replay_on(&kernel, &file, &history, threads, cpu::become_cpu),
        };
        let Tally { done, refused } = tally.expect("memory");
        assert_eq!(done + refused, history.steps().len() as u64, "{mode:?}, {threads} threads");
        // Linux counts an access of the kernel's to an address that is not mapped as a fault, too.
        assert!(refused * 1000 <= done, "{refused} of {done} refused: {mode:?}, {threads} threads");
        kernel.close_file(file);
        let memory = kernel.machine().memory();
        let (mut bits, mut findings) = (vec![0; Scratch::words(&memory)], Vec::new());
        let report =
            check(kernel.paging(), &[], Scratch::new(&mut bits), |finding| findings.push(finding))
                .expect("scratch memory of the right size");
        assert_eq!(findings, []);
        let known = kernel.frames().free_frames() + report.ptps + report.spare + report.state;
        assert_eq!(memory.pages - known, 1, "the page of zeroes alone stays");
    }
    history
}

#[test]
fn a_shell_loop_replays() {
    let _alone = alone();
    let script = "for i in 1 2 3 4 5 6 7 8; do true; (true); /bin/true; done";
    let Some(trace) = recorded(&["sh", "-c", script]) else { return };
    let history = assert_replays(&trace);
    assert!(history.summary.counts.execs >= 9, "{:?}", history.summary.counts);
    assert!(history.summary.counts.forks + history.summary.counts.vforks >= 16);
}

#[test]
fn python_replays() {
    let _alone = alone();
    let Some(trace) = recorded(&["sh", "-c", "python3 -c 'print(sum(range(10)))' || true"]) else {
        return;
    };
    assert_replays(&trace);
}

#[test]
fn a_cargo_build_replays() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("src")).expect("a folder");
    let manifest =
        "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n";
    fs::write(folder.path().join("Cargo.toml"), manifest).expect("a file");
    fs::write(folder.path().join("src/main.rs"), "fn main() { println!(\"{:?}\", vec![1; 9]) }")
        .expect("a file");
    let manifest = folder.path().join("Cargo.toml");
    let target = folder.path().join("target");
    let (manifest, target) = (manifest.to_str().expect("UTF-8"), target.to_str().expect("UTF-8"));
    // Named, since the environment may put it somewhere else.
    let command =
        [env!("CARGO"), "build", "--offline", "--manifest-path", manifest, "--target-dir", target];
    let Some(trace) = recorded(&command) else { return };
    assert!(folder.path().join("target/debug/small").exists(), "the build failed");
    let history = assert_replays(&trace);
    assert!(history.summary.counts.threads > 0);
}

/// Faults are then recorded without their kind, and those of the kernel are missing.
#[test]
fn what_ptrace_recorded_replays() {
    let _alone = alone();
    let command = ["sh", "-c", "/bin/true; (true)"].iter().map(OsString::from).collect();
    let options = Options { command, choice: Choice::Ptrace, until_last: false, compare: false };
    let mut trace = Vec::new();
    match record(&options, &mut trace) {
        Ok(report) if !report.kinds.contains(Kinds::FAULTS) => {
            assert!(matches!(History::read(&trace), Err(HistoryError::NoFaults)));
        }
        Ok(_) => drop(assert_replays(&trace)),
        Err(error @ RecordError::NoPtrace { .. }) => kpkeys_skips::skip!("{error}"),
        Err(error) => panic!("{error}"),
    }
}
