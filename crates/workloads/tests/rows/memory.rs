//! Memory that rows need from the host: a gibibyte mapped must not be a gibibyte resident.

use std::process::Command;

use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::Mode;
use kpkeys_pgtable::entry::Aarch64;

use crate::support::{kernel, row, run};

/// What a row of 1 GiB may make resident: tables, metadata of frames, and this process itself.
const MOST_KIB: usize = 64 << 10;

/// Each mode in a process of its own, since the peak is a process's.
#[test]
fn rows_of_one_gibibyte_stay_below_a_tenth_of_it() {
    let this = std::env::current_exe().expect("the test's own path");
    for mode in Mode::ALL {
        let output = Command::new(&this)
            .args(["--exact", "memory::process_rows_alone", "--ignored", "--nocapture"])
            .env(MODE, mode.name())
            .output()
            .expect("the test can be started again");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{mode:?}: {said}");
    }
}

const MODE: &str = "KPKEYS_TEST_MODE";

/// The other half of the test above.
#[test]
#[ignore = "started by rows_of_one_gibibyte_stay_below_a_tenth_of_it, alone in a process"]
fn process_rows_alone() {
    let mode =
        std::env::var(MODE).ok().and_then(|name| Mode::from_name(&name)).unwrap_or(Mode::Batched);
    run_process_rows::<Aarch64>(mode);
    let peak = peak_resident_kib();
    assert!(peak < MOST_KIB, "{peak} KiB were resident");
}

fn run_process_rows<F: HostedFormat>(mode: Mode) {
    let kernel = kernel::<F>(mode);
    for name in ["fork: h:0", "fork: h:1", "munmap: h:0", "munmap: h:1"] {
        run(&kernel, row(name), 1);
    }
}

fn peak_resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has /proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line for the peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
}
