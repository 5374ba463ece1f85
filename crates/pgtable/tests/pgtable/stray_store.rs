//! The oracle of all other tests: in the guarded arena a store to a page table outside a window really kills the process.
//!
//! The store is made by a child: this very program, told by an environment variable what to do.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use kpkeys::context::PageTables;
use kpkeys::{Backend, Guard};
use kpkeys_hosted::{HostedFormat, Setup, boot_guarded, boot_guarded_pan};
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_pgtable::{Config, Format, Level, Machine, Mode, VirtAddr};

const NAME_X86_64: &str = X86_64::NAME;
const SIGSEGV: i32 = 11;
const TASK: &str = "KPKEYS_STRAY_STORE";
/// What the child prints right before its store, so that dying earlier is not taken for the proof.
const ABOUT_TO_STORE: &str = "about to store";

const LEVELS: [Level; 4] = [Level::Pte, Level::Pmd, Level::Pud, Level::Pgd];

/// Does nothing unless this process is such a child.
#[test]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let task: Vec<&str> = task.split(' ').collect();
    let [format, mode, level, place] = task[..] else { panic!("{TASK} has four words") };
    let mode = Mode::from_name(mode).expect("the parent names a mode");
    let level = LEVELS.into_iter().find(|l| format!("{l:?}") == level).expect("and a level");
    match (format, place.strip_prefix("pan-")) {
        (NAME_X86_64, None) => store_over::<X86_64>(mode, level, place),
        (_, None) => store_over::<Aarch64>(mode, level, place),
        (NAME_X86_64, Some(place)) => store_by_pan::<X86_64>(mode, level, place),
        (_, Some(place)) => store_by_pan::<Aarch64>(mode, level, place),
    }
}

/// The same where page tables are behind an alias: to the address they are loaded from, or to the alias.
fn store_by_pan<F: HostedFormat>(mode: Mode, level: Level, place: &str) {
    let config = Config { linear: Level::Pte, pool: false, ..Config::of(mode) };
    let kernel = boot_guarded_pan::<F>(Setup { pages: 1 << 12, cpus: 1, config }).expect("boots");
    let machine = kernel.machine();
    let table = find_table(&kernel, level);
    let (where_to, when) = place.split_once('-').expect("the parent says both");
    let by = if where_to == "alias" { machine.to_alias() } else { 0 };
    // SAFETY: the address is a word of one of the arena's views of tables, which this thread alone uses. Where it cannot be accessed
    // the process ends here, which is what is tested.
    let store = || unsafe {
        let same = table.read_volatile();
        table.wrapping_byte_add(by).write_volatile(same);
    };
    let guard: Option<Guard<'_, _, PageTables>> =
        // SAFETY: the only window of this CPU; what runs in it writes back.
        (when == "inside").then(|| unsafe { Guard::enter(machine.backend()) });
    println!("{ABOUT_TO_STORE}");
    store();
    drop(guard);
}

/// Stores the first word of a table of the linear map over itself, through the address that page tables are stored through.
fn store_over<F: HostedFormat>(mode: Mode, level: Level, place: &str) {
    let config = Config { linear: Level::Pte, pool: false, ..Config::of(mode) };
    let kernel = boot_guarded::<F>(Setup { pages: 1 << 12, cpus: 1, config }).expect("boots");
    let machine = kernel.machine();
    let table = find_table(&kernel, level);
    let guard: Option<Guard<'_, _, PageTables>> =
        // SAFETY: the only window of this CPU; what runs in it writes back.
        (place != "outside").then(|| unsafe { Guard::enter(machine.backend()) });
    let interrupted = (place == "interrupted").then(|| machine.backend().exception_entry());
    println!("{ABOUT_TO_STORE}");
    // SAFETY: the address is a word of the arena's view of tables, which this thread alone uses. Where the view is read-only the
    // process ends here, which is what is tested.
    unsafe { table.write_volatile(table.read_volatile()) };
    if let Some(saved) = interrupted {
        // SAFETY: it is that of the exception above.
        unsafe { machine.backend().exception_return(saved) };
    }
    drop(guard);
}

fn find_table<M: Machine>(kernel: &kpkeys_mm::Kernel<M>, level: Level) -> *mut u64 {
    let (paging, machine) = (kernel.paging(), kernel.machine());
    let va: VirtAddr = machine.memory().linear;
    let frame = LEVELS.iter().rev().find_map(|&above| {
        if above == Level::Pgd && level == Level::Pgd {
            return Some(paging.kernel().frame());
        }
        let entry = paging
            .find_table(paging.kernel(), va, above)?
            .slot(va.index::<M::Format>(above))
            .load();
        (above.below() == Some(level)).then(|| M::Format::frame(above, entry))
    });
    let frame = frame.expect("the linear map of pages has tables of every level");
    machine.table(frame).cast::<u64>().as_ptr()
}

fn run_child(format: &str, mode: Mode, level: Level, place: &str) -> ExitStatus {
    let program = std::env::current_exe().expect("a test knows its program");
    let output = Command::new(program)
        .args(["--exact", "stray_store::child", "--nocapture", "--test-threads=1"])
        .env(TASK, format!("{format} {} {level:?} {place}", mode.name()))
        .output()
        .expect("the program can be started again");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains(ABOUT_TO_STORE), "the child did not come that far: {printed}");
    output.status
}

fn assert_killed(format: &str, mode: Mode, level: Level) {
    let status = run_child(format, mode, level, "outside");
    assert_eq!(status.signal(), Some(SIGSEGV), "{format} {mode:?} {level:?}: {status}");
}

#[test]
fn with_protection_off_a_stray_store_goes_unnoticed() {
    for format in [Aarch64::NAME, NAME_X86_64] {
        for level in LEVELS {
            let status = run_child(format, Mode::Off, level, "outside");
            assert!(status.success(), "{format} {level:?}: {status}");
        }
    }
}

#[test]
fn in_every_protecting_mode_a_stray_store_kills() {
    for format in [Aarch64::NAME, NAME_X86_64] {
        for mode in Mode::ALL.into_iter().filter(|mode| mode.protects()) {
            assert_killed(format, mode, Level::Pte);
        }
    }
}

#[test]
fn a_stray_store_to_a_table_of_any_level_kills() {
    for level in LEVELS {
        assert_killed(Aarch64::NAME, Mode::Batched, level);
    }
}

#[test]
fn the_same_store_inside_a_window_does_no_harm() {
    for format in [Aarch64::NAME, NAME_X86_64] {
        let status = run_child(format, Mode::Batched, Level::Pte, "inside");
        assert!(status.success(), "{format}: {status}");
    }
}

#[test]
fn behind_an_alias_only_the_alias_can_be_stored_to_and_only_inside_a_window() {
    for format in [Aarch64::NAME, NAME_X86_64] {
        for mode in Mode::ALL.into_iter().filter(|mode| mode.protects()) {
            for level in LEVELS {
                let status = |place| run_child(format, mode, level, place);
                let what = format!("{format} {mode:?} {level:?}");
                assert!(status("pan-alias-inside").success(), "{what}");
                for place in ["pan-alias-outside", "pan-linear-outside", "pan-linear-inside"] {
                    assert_eq!(status(place).signal(), Some(SIGSEGV), "{what} {place}");
                }
            }
        }
        let status = run_child(format, Mode::Off, Level::Pte, "pan-linear-outside");
        assert!(status.success(), "{format}: protection off");
    }
}

#[test]
fn an_interrupt_handler_does_not_inherit_the_window_it_interrupted() {
    for format in [Aarch64::NAME, NAME_X86_64] {
        let status = run_child(format, Mode::Batched, Level::Pte, "interrupted");
        assert_eq!(status.signal(), Some(SIGSEGV), "{format}: {status}");
    }
}
