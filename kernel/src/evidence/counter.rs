//! The counting probe: exact event counts of a kernel that is built to count instead of being timed.

use core::sync::atomic::{AtomicU64, Ordering};
use kpkeys_pgtable::{Event, Probe};

/// Counts events of all CPUs.
pub struct Counter {
    events: [AtomicU64; Event::COUNT],
    /// Stores since the window that is open was opened. Means something while one CPU at a time changes tables.
    window_stores: AtomicU64,
    longest_window_stores: AtomicU64,
}

/// Counts, in the order of [`Event`].
pub type Counts = [u64; Event::COUNT];

impl Default for Counter {
    fn default() -> Self {
        Self {
            events: [const { AtomicU64::new(0) }; Event::COUNT],
            window_stores: AtomicU64::new(0),
            longest_window_stores: AtomicU64::new(0),
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
}
