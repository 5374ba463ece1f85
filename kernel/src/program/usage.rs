//! What threads and processes have used: time in user mode and in the kernel, and faults.

use super::calls::words::Words;
use crate::arch::time;
use crate::lock::IrqLock;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

/// Clock ticks per second, as programs are told (`AT_CLKTCK`).
pub const TICKS_PER_SECOND: u64 = 100;

/// What a thread has used so far, in counts of the CPUs' clock.
#[derive(Default)]
pub struct Taken {
    user: AtomicU64,
    system: AtomicU64,
    faults: AtomicU64,
}

impl Taken {
    /// Adds time.
    pub fn add(&self, user: u64, system: u64) {
        self.user.fetch_add(user, Ordering::Relaxed);
        self.system.fetch_add(system, Ordering::Relaxed);
    }

    /// Adds a page fault that needed no device.
    pub fn add_fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// How much it is.
    pub fn usage(&self) -> Usage {
        let of = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        Usage { user: of(&self.user), system: of(&self.system), faults: of(&self.faults) }
    }

    /// How much it is since this was last asked.
    pub fn take(&self) -> Usage {
        let of = |sum: &AtomicU64| sum.swap(0, Ordering::Relaxed);
        Usage { user: of(&self.user), system: of(&self.system), faults: of(&self.faults) }
    }
}

/// What several have used that are gone.
pub struct Sum(IrqLock<Usage>);

impl Default for Sum {
    fn default() -> Self {
        Self(IrqLock::new(Usage::default()))
    }
}

impl Sum {
    /// Adds what another has used.
    pub fn add(&self, more: Usage) {
        let mut sum = self.0.lock();
        *sum = sum.and(more);
    }

    /// How much it is.
    pub fn usage(&self) -> Usage {
        *self.0.lock()
    }
}

/// What something has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    user: u64,
    system: u64,
    /// Page faults that needed no device: there are no others.
    pub faults: u64,
}

impl Usage {
    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            user: self.user.wrapping_add(other.user),
            system: self.system.wrapping_add(other.system),
            faults: self.faults.wrapping_add(other.faults),
        }
    }

    /// Time in user mode.
    pub fn user(self) -> Duration {
        time::span(self.user)
    }

    /// Time in the kernel.
    pub fn system(self) -> Duration {
        time::span(self.system)
    }

    /// Both in clock ticks.
    pub fn ticks(self) -> [u64; 2] {
        [self.user(), self.system()].map(ticks)
    }

    /// As `struct rusage` has it. Zero is said of what nobody counts.
    pub fn bytes(self) -> Vec<u8> {
        const BYTES: usize = 144;
        /// Fields between the times and the faults: the sizes of memory.
        const SIZES: usize = 4;
        let mut words = Words::default();
        for time in [self.user(), self.system()] {
            words.u64(time.as_secs()).u64(time.subsec_micros().into());
        }
        (0..SIZES).for_each(|_| _ = words.u64(0));
        words.u64(self.faults);
        words.0.resize(BYTES, 0);
        words.0
    }
}

/// A time in clock ticks.
pub fn ticks(time: Duration) -> u64 {
    (time.as_millis() as u64) / (1000 / TICKS_PER_SECOND)
}
