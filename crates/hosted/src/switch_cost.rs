//! What a switch, and the barrier of the mock register alone, cost on this host.

use std::io;
use std::time::Instant;

use kpkeys::context::PageTables;
use kpkeys::keyed::Keyed;
use kpkeys::{Backend, Guard};

use crate::machine::HostedFormat;
use crate::parts::Measured;
use crate::register::{MockRegister, context_barrier};

/// Nanoseconds for one switch of the mock: a register write and its barrier. The least of several rounds, since noise only adds.
pub fn switch_ns<F: HostedFormat>() -> f64 {
    let backend: Keyed<MockRegister, F::Encoding> = Keyed::new(MockRegister::detect());
    backend.reset();
    of(&backend)
}

/// The same for a backend.
///
/// # Errors
///
/// Why this host does not have it.
pub fn switch_ns_by<B: Measured>() -> io::Result<f64> {
    Ok(of(&B::ready()?))
}

#[inline(always)]
fn of<B: Backend>(backend: &B) -> f64 {
    const ROUNDS: u32 = 20;
    const WINDOWS: u32 = 20_000;
    let round = || {
        let start = Instant::now();
        for _ in 0..WINDOWS {
            // SAFETY: the only window of this thread, and nothing runs in it.
            let guard: Guard<'_, _, PageTables> = unsafe { Guard::enter(backend) };
            drop(guard);
        }
        start.elapsed().as_nanos() as f64 / f64::from(2 * WINDOWS)
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// Nanoseconds for one change of a page's key, which is a system call to the host; measured likewise, on a page among others of its key.
///
/// # Errors
///
/// Why this host has no keys, or no memory.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub fn key_change_ns() -> io::Result<f64> {
    use kpkeys::Pkey;
    const ROUNDS: u32 = 20;
    const CHANGES: usize = 1_000;
    const PAGES: usize = 512;
    crate::pku::check()?;
    let arena = crate::arena::Arena::keyed(PAGES)?;
    let round = || {
        let start = Instant::now();
        for change in 0..CHANGES {
            let key = if change % 2 == 0 { Pkey::PAGE_TABLES } else { Pkey::DEFAULT };
            arena.set_key(PAGES / 2..PAGES / 2 + 1, key);
        }
        start.elapsed().as_nanos() as f64 / CHANGES as f64
    };
    Ok((0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min))
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
