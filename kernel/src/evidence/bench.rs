//! The benchmarks of `kpkeys-workloads`, run in this kernel on its own page tables.
//!
//! A row is run once unrecorded, so that frames, tables and caches are as in a kernel that has run for a while, then as often as asked for,
//! each time a record. Counting needs another instance of the memory manager, with a probe: a boot that counts does nothing else.

use crate::arch::time;
use crate::cpu;
use crate::evidence::counter::{Counter, Counts};
use crate::evidence::report::{Record, emit};
use crate::memory::paging::Bare;
use crate::sched;
use alloc::string::{String, ToString};
use core::cell::Cell;
use kpkeys_mm::Kernel;
use kpkeys_pgtable::section::GATE_STORES;
use kpkeys_pgtable::{Event, Machine, Mode, Probe};
use kpkeys_workloads::{ALL_ROWS, Clock, Row};

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which rows, as indices of [`ALL_ROWS`].
    pub rows: alloc::vec::Vec<usize>,
    /// What the published number of loops is divided by.
    pub scale: u64,
    /// Recorded iterations of each row.
    pub iterations: u32,
    /// Count events instead of timing.
    pub count: bool,
}

impl Request {
    fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.rows.iter().filter_map(|&index| ALL_ROWS.get(index).copied())
    }
}

/// Times the rows.
///
/// # Errors
///
/// What a row failed with.
pub fn time<P: Probe + 'static>(
    kernel: &'static Kernel<Bare<P>>,
    request: Request,
) -> Result<(), String> {
    on_one_cpu(move || {
        for row in request.rows() {
            run(kernel, &Stopwatch, &row, request.scale)?;
            for iteration in 0..request.iterations {
                let timing = run(kernel, &Stopwatch, &row, request.scale)?;
                let (ns, operations) = (timing.ns, timing.operations);
                emit(&Record::Sample { row: row.result_class, iteration, ns, operations });
            }
        }
        Ok(())
    })
}

/// Counts the events of the rows.
///
/// # Errors
///
/// What a row failed with.
pub fn count(kernel: &'static Kernel<Bare<Counter>>, request: Request) -> Result<(), String> {
    on_one_cpu(move || {
        for row in request.rows() {
            let clock = CountingClock::new(kernel.machine().probe());
            run(kernel, &clock, &row, request.scale)?;
            let operations = run(kernel, &clock, &row, request.scale)?.operations;
            let longest = clock.longest_window.get();
            if kernel.paging().mode() == Mode::Fused && longest > GATE_STORES as u64 {
                return Err(alloc::format!(
                    "row `{}`: {longest} stores in a gate",
                    row.result_class
                ));
            }
            emit(&Record::Counts {
                row: row.result_class,
                operations,
                events: clock.counted.get(),
                longest_window_stores: clock.longest_window.get(),
                longest_gate_ns: clock.longest_gate.get(),
            });
        }
        Ok(())
    })
}

/// Runs `f` in a thread that stays where it is, as the hosted benchmarks do.
fn on_one_cpu(f: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    let thread = sched::spawn("bench", Some(cpu::this().id), f);
    thread.map_err(|error| error.to_string())?.join()
}

fn run<M: Machine>(
    kernel: &Kernel<M>,
    clock: &impl Clock,
    row: &Row,
    scale: u64,
) -> Result<kpkeys_workloads::Timing, String> {
    kpkeys_workloads::run(kernel, clock, row, scale)
        .map_err(|error| alloc::format!("row `{}`: {error}", row.result_class))
}

/// A clock that only tells the time.
struct Stopwatch;

impl Clock for Stopwatch {
    fn now_ns(&self) -> u64 {
        time::since_boot().as_nanos() as u64
    }
}

/// A clock that also reads the counter at both ends of the timed span.
struct CountingClock<'c> {
    counter: &'c Counter,
    begun: Cell<Counts>,
    counted: Cell<Counts>,
    longest_window: Cell<u64>,
    longest_gate: Cell<u64>,
}

impl<'c> CountingClock<'c> {
    fn new(counter: &'c Counter) -> Self {
        let nothing = [0; Event::COUNT];
        Self {
            counter,
            begun: nothing.into(),
            counted: nothing.into(),
            longest_window: Cell::new(0),
            longest_gate: Cell::new(0),
        }
    }
}

impl Clock for CountingClock<'_> {
    fn now_ns(&self) -> u64 {
        Stopwatch.now_ns()
    }

    fn begin(&self) {
        self.counter.take_longest_window();
        self.counter.take_longest_gate();
        self.begun.set(self.counter.read());
    }

    fn end(&self) {
        let (now, begun) = (self.counter.read(), self.begun.get());
        self.counted.set(core::array::from_fn(|event| now[event] - begun[event]));
        self.longest_window.set(self.counter.take_longest_window());
        self.longest_gate.set(self.counter.take_longest_gate());
    }
}
