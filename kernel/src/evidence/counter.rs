//! The counting probe: exact event counts of a kernel that is built to count instead of being timed.

use crate::arch::time;
use core::sync::atomic::{AtomicU64, Ordering};
use kpkeys_pgtable::{Event, Probe};

/// Counts events of all CPUs.
pub struct Counter {
    events: [AtomicU64; Event::COUNT],
    /// Stores since the window that is open was opened. Means something while one CPU at a time changes tables.
    window_stores: AtomicU64,
    longest_window_stores: AtomicU64,
    /// When the gate that is under way began, and how long the longest kept interrupts off, in nanoseconds; likewise.
    gate_began: AtomicU64,
    longest_gate_ns: AtomicU64,
}

/// Counts, in the order of [`Event`].
pub type Counts = [u64; Event::COUNT];

impl Default for Counter {
    fn default() -> Self {
        Self {
            events: [const { AtomicU64::new(0) }; Event::COUNT],
            window_stores: AtomicU64::new(0),
            longest_window_stores: AtomicU64::new(0),
            gate_began: AtomicU64::new(0),
            longest_gate_ns: AtomicU64::new(0),
        }
    }
}

impl Counter {
    /// The counts so far.
    pub fn read(&self) -> Counts {
        core::array::from_fn(|event| self.events[event].load(Ordering::Relaxed))
    }

    /// The most stores that one window covered since the last call, and forgets it.
    pub fn take_longest_window(&self) -> u64 {
        self.longest_window_stores.swap(0, Ordering::Relaxed)
    }

    /// How long the longest gate since the last call kept interrupts off, in nanoseconds of the machine's clock, and forgets it. (By
    /// QEMU's clock of instructions that is how many it took, this counting included.)
    pub fn take_longest_gate(&self) -> u64 {
        self.longest_gate_ns.swap(0, Ordering::Relaxed)
    }
}

impl Probe for Counter {
    fn count(&self, event: Event, times: u64) {
        self.events[event as usize].fetch_add(times, Ordering::Relaxed);
        match event {
            Event::EntryStore | Event::UpperStore | Event::LinearStore => {
                self.window_stores.fetch_add(times, Ordering::Relaxed);
            }
            Event::WindowOpened => self.window_stores.store(0, Ordering::Relaxed),
            Event::WindowClosed => {
                let stores = self.window_stores.load(Ordering::Relaxed);
                self.longest_window_stores.fetch_max(stores, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    fn gate_begins(&self) {
        self.gate_began.store(now_ns(), Ordering::Relaxed);
    }

    fn gate_ends(&self) {
        let ns = now_ns().saturating_sub(self.gate_began.load(Ordering::Relaxed));
        self.longest_gate_ns.fetch_max(ns, Ordering::Relaxed);
    }
}

fn now_ns() -> u64 {
    time::since_boot().as_nanos() as u64
}
