//! In the read-only arena, where windows are real to this process: a store to table memory outside of one kills it.
//!
//! The store is made by a child: this very program, told by an environment variable what to do.

mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use kpkeys::Guard;
use kpkeys::context::PageTables;
use support::{Aliased, Keys, MEMORY, NO_CONSTRAINTS, Protection, System, USER, pages};

const SIGSEGV: i32 = 11;
const TASK: &str = "KPKEYS_STRAY_STORE";
/// What the child prints right before its store, so that dying earlier is not taken for the proof.
const ABOUT_TO_STORE: &str = "about to store";

/// Does nothing unless this process is such a child.
#[test]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    match task.split_once(' ').expect("two words") {
        ("keys", how) => store::<Keys>(how),
        (_, how) => store::<Aliased>(how),
    }
}

fn store<S: Protection>(how: &str) {
    let system = System::<S>::new(64);
    let protected = !how.starts_with("off");
    let mut tables = if protected { system.protected() } else { system.kernel() };
    let mut user = system.user();
    user.map_range(&pages(0x1000, 1), MEMORY, USER, NO_CONSTRAINTS).unwrap();
    tables.map_range(&pages(0xffff_d000_0000_0000, 1), MEMORY, USER, NO_CONSTRAINTS).unwrap();
    let views = support::views(&system.arena);
    let root = (user.root_address().0 - system.pool.layout().start.0) / 8;
    let view = if how.contains("alias") { views.alias } else { views.linear };
    let word = view.cast::<u64>().wrapping_add(root);
    // SAFETY: the only window of this CPU; what runs in it writes back.
    let open = || -> Guard<'_, _, PageTables> { unsafe { Guard::enter(system.pool.backend()) } };
    let same = system.read(user.root_address(), 0);
    let guard = how.contains("inside").then(open);
    println!("{ABOUT_TO_STORE}");
    // SAFETY: an aligned word of a view of the arena. Where it cannot be stored to the process ends here, which is what is tested.
    unsafe { word.write_volatile(same) };
    drop(guard);
}

fn run_child(task: &str) -> ExitStatus {
    let program = std::env::current_exe().expect("a test knows its program");
    let output = Command::new(program)
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(TASK, task)
        .output()
        .expect("the program can be started again");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains(ABOUT_TO_STORE), "{task}: the child did not come that far: {printed}");
    output.status
}

#[test]
fn a_stray_store_kills_and_a_store_in_a_window_does_not() {
    for task in ["keys inside linear", "alias off linear", "alias inside alias"] {
        assert!(run_child(task).success(), "{task}");
    }
    for task in [
        "keys outside linear",
        "alias outside linear",
        "alias outside alias",
        "alias inside linear",
    ] {
        assert_eq!(run_child(task).signal(), Some(SIGSEGV), "{task}");
    }
}
