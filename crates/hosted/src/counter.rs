//! The counting probe: exact event counts, and for how long windows were open.
//!
//! A machine with this probe is another instance of the same generic code. It is run apart from the timed one, whose probe
//! compiles to nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use kpkeys_pgtable::{Event, Probe};

/// Counts events of all CPUs.
#[derive(Debug)]
pub struct Counter {
    events: [AtomicU64; Event::COUNT],
    /// Stores since the window that is open was opened.
    window_stores: AtomicU64,
    longest_window_stores: AtomicU64,
    open_ns: AtomicU64,
    opened_at_ns: AtomicU64,
    epoch: Instant,
}

/// What a [`Counter`] counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    events: [u64; Event::COUNT],
    /// The most stores that one window covered.
    pub longest_window_stores: u64,
    /// Nanoseconds in which a window was open, counting included.
    pub open_ns: u64,
    /// Nanoseconds since the counter was made.
    pub at_ns: u64,
}

impl Counts {
    /// How many events of a kind.
    pub fn of(&self, event: Event) -> u64 {
        self.events[event as usize]
    }

    /// What happened since an earlier count. The longest window is that of the later one.
    #[must_use]
    pub fn since(&self, earlier: &Counts) -> Counts {
        Counts {
            events: std::array::from_fn(|i| self.events[i] - earlier.events[i]),
            longest_window_stores: self.longest_window_stores,
            open_ns: self.open_ns - earlier.open_ns,
            at_ns: self.at_ns - earlier.at_ns,
        }
    }
}

impl Default for Counter {
    fn default() -> Self {
        Counter {
            events: [const { AtomicU64::new(0) }; Event::COUNT],
            window_stores: AtomicU64::new(0),
            longest_window_stores: AtomicU64::new(0),
            open_ns: AtomicU64::new(0),
            opened_at_ns: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }
}

impl Counter {
    /// The counts so far.
    pub fn read(&self) -> Counts {
        Counts {
            events: std::array::from_fn(|i| self.events[i].load(Ordering::Relaxed)),
            longest_window_stores: self.longest_window_stores.load(Ordering::Relaxed),
            open_ns: self.open_ns.load(Ordering::Relaxed),
            at_ns: self.now_ns(),
        }
    }

    /// Forgets the longest window so far.
    pub fn reset_longest(&self) {
        self.longest_window_stores.store(0, Ordering::Relaxed);
    }

    fn now_ns(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}

impl Probe for Counter {
    fn count(&self, event: Event, times: u64) {
        self.events[event as usize].fetch_add(times, Ordering::Relaxed);
        match event {
            Event::EntryStore | Event::UpperStore | Event::LinearStore => {
                self.window_stores.fetch_add(times, Ordering::Relaxed);
            }
            Event::WindowOpened => {
                self.window_stores.store(0, Ordering::Relaxed);
                self.opened_at_ns.store(self.now_ns(), Ordering::Relaxed);
            }
            Event::WindowClosed => {
                let stores = self.window_stores.load(Ordering::Relaxed);
                self.longest_window_stores.fetch_max(stores, Ordering::Relaxed);
                let open = self.now_ns().saturating_sub(self.opened_at_ns.load(Ordering::Relaxed));
                self.open_ns.fetch_add(open, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}
