//! What a switch of the mock register, and its barrier alone, cost on this host.

use std::time::Instant;

use kpkeys::Guard;
use kpkeys::context::PageTables;
use kpkeys::keyed::Keyed;

use crate::machine::HostedFormat;
use crate::register::{MockRegister, context_barrier};

/// Nanoseconds for one switch: a register write and its barrier. The least of several rounds, since noise only adds.
pub fn switch_ns<F: HostedFormat>() -> f64 {
    const ROUNDS: u32 = 20;
    const WINDOWS: u32 = 20_000;
    let backend: Keyed<MockRegister, F::Encoding> = Keyed::new(MockRegister::detect());
    backend.reset();
    let round = || {
        let start = Instant::now();
        for _ in 0..WINDOWS {
            // SAFETY: the register protects nothing, and nothing runs in the window.
            let guard: Guard<'_, _, PageTables> = unsafe { Guard::enter(&backend) };
            drop(guard);
        }
        start.elapsed().as_nanos() as f64 / f64::from(2 * WINDOWS)
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// Nanoseconds for the barrier of a switch alone, measured likewise.
pub fn barrier_ns() -> f64 {
    const ROUNDS: u32 = 20;
    const BARRIERS: u32 = 20_000;
    let round = || {
        let start = Instant::now();
        (0..BARRIERS).for_each(|_| context_barrier());
        start.elapsed().as_nanos() as f64 / f64::from(BARRIERS)
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}
