//! What the tests of the workloads share: booting a machine that counts, running a row on it, and reading off what it did.

use std::cell::Cell;

use kpkeys_hosted::boot::{Counted, CountedPan, CountedTtbr0};
use kpkeys_hosted::{
    Counter, Counts, HostedFormat, Setup, boot_counted, boot_counted_pan, boot_counted_ttbr0,
};
use kpkeys_mm::Kernel;
use kpkeys_pgtable::check::{Scratch, check};
use kpkeys_pgtable::{Config, Event, Machine, Mode};
use kpkeys_workloads::{ALL_ROWS, Clock, Row, Timing};

/// Frames for 1 GiB of data, the page tables of two processes, and the linear map's own.
pub const PAGES: usize = (1 << 18) + (1 << 15);

/// Makes a test of each generic function for both entry formats.
macro_rules! for_both_formats {
    ($($test:ident),* $(,)?) => {
        mod aarch64 {
            $(#[test] fn $test() { super::$test::<kpkeys_pgtable::entry::Aarch64>(); })*
        }
        mod x86_64 {
            $(#[test] fn $test() { super::$test::<kpkeys_pgtable::entry::X86_64>(); })*
        }
    };
}
pub(crate) use for_both_formats;

/// A machine of one CPU with memory for any row, in the set-up that belongs to a mode.
pub fn kernel<F: HostedFormat>(mode: Mode) -> Kernel<Counted<F>> {
    kernel_of(mode, PAGES)
}

/// The same with this many pages of memory.
pub fn kernel_of<F: HostedFormat>(mode: Mode, pages: usize) -> Kernel<Counted<F>> {
    boot_counted(Setup { pages, cpus: 1, config: Config::of(mode) }).expect("the host has memory")
}

/// The same, with page tables behind an alias.
pub fn kernel_behind_alias<F: HostedFormat>(mode: Mode) -> Kernel<CountedPan<F>> {
    let setup = Setup { pages: PAGES, cpus: 1, config: Config::of(mode) };
    boot_counted_pan(setup).expect("the host has memory")
}

/// The same, with an alias that windows load a root for.
pub fn kernel_with_window_root<F: HostedFormat>(mode: Mode) -> Kernel<CountedTtbr0<F>> {
    let setup = Setup { pages: PAGES, cpus: 1, config: Config::of(mode) };
    boot_counted_ttbr0(setup).expect("the host has memory")
}

/// The row of this name.
pub fn row(result_class: &str) -> &'static Row {
    ALL_ROWS.iter().find(|row| row.result_class == result_class).expect("a row of the table")
}

/// Reads the machine's counter where the timed span begins and ends.
pub struct CountingClock<'k> {
    counter: &'k Counter,
    begin: Cell<Option<Counts>>,
    counted: Cell<Option<Counts>>,
}

impl Clock for CountingClock<'_> {
    fn now_ns(&self) -> u64 {
        0
    }

    fn begin(&self) {
        self.counter.reset_longest();
        self.begin.set(Some(self.counter.read()));
    }

    fn end(&self) {
        let end = self.counter.read();
        self.counted.set(self.begin.get().map(|begin| end.since(&begin)));
    }
}

/// One iteration of a row, and what happened in its timed span.
pub fn run<M: Machine<Probe = Counter>>(
    kernel: &Kernel<M>,
    row: &Row,
    scale: u64,
) -> (Timing, Counts) {
    let clock = CountingClock {
        counter: kernel.machine().probe(),
        begin: Cell::new(None),
        counted: Cell::new(None),
    };
    let timing = kpkeys_workloads::run(kernel, &clock, row, scale).expect("memory for the row");
    (timing, clock.counted.get().expect("a row has a timed span"))
}

/// What happens while `f` runs.
pub fn counted<F: HostedFormat, R>(
    kernel: &Kernel<Counted<F>>,
    f: impl FnOnce() -> R,
) -> (R, Events) {
    let counter = kernel.machine().probe();
    let before = counter.read();
    let result = f();
    (result, Events::of(&counter.read().since(&before)))
}

/// Everything that is counted, to be compared as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Events {
    /// Stores to PTEs.
    pub entry_stores: u64,
    /// Stores to entries above the last level.
    pub upper_stores: u64,
    /// Stores to the linear map's own tables.
    pub linear_stores: u64,
    pub windows: u64,
    pub barriers: u64,
    pub ptps_allocated: u64,
    pub ptps_freed: u64,
    pub key_changes: u64,
    pub tlb_flushes: u64,
}

impl Events {
    /// What a counter counted; every window must have been closed and have cost exactly two register writes.
    pub fn of(counts: &Counts) -> Events {
        let windows = counts.of(Event::WindowOpened);
        assert_eq!(counts.of(Event::WindowClosed), windows, "a window was left open");
        assert_eq!(counts.of(Event::Switch), 2 * windows, "a window is two register writes");
        Events {
            entry_stores: counts.of(Event::EntryStore),
            upper_stores: counts.of(Event::UpperStore),
            linear_stores: counts.of(Event::LinearStore),
            windows,
            barriers: counts.of(Event::Barrier),
            ptps_allocated: counts.of(Event::PtpAllocated),
            ptps_freed: counts.of(Event::PtpFreed),
            key_changes: counts.of(Event::KeyChange),
            tlb_flushes: counts.of(Event::TlbFlush),
        }
    }
}

/// Runs the checker over the kernel's tables, which must be as promised, and accounts for every frame: each is free, is a
/// page-table page, waits in the pool to become one, or is the page of zeroes.
pub fn assert_clean_and_nothing_leaked<M: Machine>(kernel: &Kernel<M>, after: &str) {
    let memory = kernel.machine().memory();
    let mut bits = vec![0; Scratch::words(&memory)];
    let mut findings = Vec::new();
    let report =
        check(kernel.paging(), &[], Scratch::new(&mut bits), |finding| findings.push(finding))
            .expect("scratch memory of the size the checker asks for");
    assert_eq!(findings, [], "after {after}");
    assert_eq!(
        kernel.frames().free_frames() + report.ptps + report.spare + report.state + 1,
        memory.pages,
        "frames are missing after {after}: {report:?}"
    );
}
