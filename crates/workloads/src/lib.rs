//! The benchmarks of the evaluation and the [attacks](attack), written once for every machine.
//!
//! A [`Row`] is one line of the table: which benchmark, with which parameter, under the name the Linux series printed it by. What it
//! does is in [`vmalloc`] and [`process`]; both are generic over the machine, so hosted runs and reference kernels execute the same
//! code. Time comes from a [`Clock`], the only thing a benchmark wants that a machine does not have.
#![no_std]

extern crate alloc;

pub mod attack;
pub mod process;
mod row;
pub mod vmalloc;

pub use row::{ALL_ROWS, Row, Span, Test};

use kpkeys_mm::{Error, Kernel};
use kpkeys_pgtable::Machine;

/// A monotonic clock.
pub trait Clock {
    /// Nanoseconds since some fixed moment.
    fn now_ns(&self) -> u64;

    /// Called right before the timed span begins: for counters.
    fn begin(&self) {}

    /// Called right after the timed span ended: for counters.
    fn end(&self) {}
}

/// One iteration of a row: how long its timed span took and how many operations were in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Length of the timed span.
    pub ns: u64,
    /// Operations in it: loops of a vmalloc row, 1 for fork and munmap.
    pub operations: u64,
}

/// Times `f`, which does `operations` operations.
fn timed<C: Clock>(
    clock: &C,
    operations: u64,
    f: impl FnOnce() -> Result<(), Error>,
) -> Result<Timing, Error> {
    clock.begin();
    let start = clock.now_ns();
    let result = f();
    let ns = clock.now_ns() - start;
    clock.end();
    result.map(|()| Timing { ns, operations })
}

/// Runs one iteration of a row. `scale` divides the published number of loops; fork and munmap are never scaled.
///
/// # Errors
///
/// Out of memory or addresses.
pub fn run<M: Machine, C: Clock>(
    kernel: &Kernel<M>,
    clock: &C,
    row: &Row,
    scale: u64,
) -> Result<Timing, Error> {
    match row.span {
        Span::Loops { published } => vmalloc::run(kernel, clock, row, (published / scale).max(1)),
        Span::Once => process::run(kernel, clock, row),
    }
}
