//! The time that programs take, in user mode and in the kernel, told apart.
//!
//! Each CPU has a [`Meter`]. It is read where a program enters the kernel ([`entered`]), where it goes back ([`leaves`]) and where another
//! thread is switched to, and what has passed since the reading before is added to one of two sums. The running thread gets the sums when
//! it is switched away from, at each tick, and when somebody asks ([`settle`]). So what another CPU's thread has taken is known up to its
//! last tick.
//!
//! The clock is read to a register before anything else of a handler, and again after everything else; sums are kept behind the reset of
//! the protection register, as everything in memory (`docs/decisions/0091-time-is-told-apart-at-entries.md`). What the entry code in
//! assembly executes outside of the two counts as the program's. Interrupts are off in all of it, and a meter is its CPU's alone.

use crate::arch::time::counter;
use crate::cpu;
use crate::lock::IrqsOff;
use core::sync::atomic::{AtomicU64, Ordering};

use super::Thread;

/// What a CPU has measured and not given to a thread yet, in counts of its clock.
pub struct Meter {
    /// The latest reading.
    since: AtomicU64,
    user: AtomicU64,
    system: AtomicU64,
}

impl Meter {
    /// One that has measured nothing.
    pub const fn new() -> Self {
        Self { since: AtomicU64::new(0), user: AtomicU64::new(0), system: AtomicU64::new(0) }
    }

    /// Adds what has passed until a reading to a sum.
    #[inline(always)]
    fn add(&self, now: u64, sum: &AtomicU64) {
        let passed = now.wrapping_sub(self.since.load(Ordering::Relaxed));
        sum.store(sum.load(Ordering::Relaxed).wrapping_add(passed), Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
    }

    /// The sums, which begin again.
    fn take(&self) -> (u64, u64) {
        let of = |sum: &AtomicU64| {
            let value = sum.load(Ordering::Relaxed);
            sum.store(0, Ordering::Relaxed);
            value
        };
        (of(&self.user), of(&self.system))
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

/// A program has entered the kernel on this CPU, when the clock said `at`.
#[inline(always)]
pub fn entered(at: u64) {
    let meter = &cpu::this().meter;
    meter.add(at, &meter.user);
}

/// A program is about to go on, on this CPU.
#[inline(always)]
pub fn leaves() {
    let meter = &cpu::this().meter;
    meter.add(counter(), &meter.system);
}

/// The running thread gets what this CPU has measured.
pub fn settle() {
    let _irqs_off = IrqsOff::new();
    give_to(&super::current());
}

/// The running thread gets what its CPU has measured. Interrupts are off. What a thread took that runs no program nobody asks for.
pub(super) fn give_to(running: &Thread) {
    let meter = &cpu::this().meter;
    meter.add(counter(), &meter.system);
    let (user, system) = meter.take();
    if let Some(task) = running.task() {
        task.taken.add(user, system);
    }
}
