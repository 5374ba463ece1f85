//! A slowdown planted on purpose, to try whether a comparison finds it.
//!
//! Only a build with the feature `planted` has it. `KPKEYS_PLANTED_ROW` and `KPKEYS_PLANTED_PERCENT`, when that build is compiled, name a
//! row and by how many percent each of its operations takes longer: the CPU is kept busy inside the timed span, which nothing else of
//! the build differs in.

use std::cell::Cell;
use std::hint;

use kpkeys_workloads::Clock;

const ROW: Option<&str> = option_env!("KPKEYS_PLANTED_ROW");
const PERCENT: Option<&str> = option_env!("KPKEYS_PLANTED_PERCENT");

/// A clock that keeps the CPU busy before it tells the time at the end of a span.
pub struct Slowed<C> {
    clock: C,
    share: f64,
    begun: Cell<Option<u64>>,
}

impl<C: Clock> Slowed<C> {
    /// The clock for a row: slow for the one that was named.
    pub fn of(clock: C, result_class: &str) -> Self {
        let percent = PERCENT.and_then(|percent| percent.parse::<f64>().ok());
        let share = percent.filter(|_| ROW == Some(result_class)).unwrap_or(0.0) / 100.0;
        Slowed { clock, share, begun: Cell::new(None) }
    }
}

impl<C: Clock> Clock for Slowed<C> {
    fn now_ns(&self) -> u64 {
        let Some(begun) = self.begun.take() else {
            let now = self.clock.now_ns();
            self.begun.set(Some(now));
            return now;
        };
        let taken = self.clock.now_ns() - begun;
        let until = begun + taken + (taken as f64 * self.share) as u64;
        loop {
            let now = self.clock.now_ns();
            if now >= until {
                return now;
            }
            hint::spin_loop();
        }
    }

    fn begin(&self) {
        self.begun.set(None);
        self.clock.begin();
    }

    fn end(&self) {
        self.clock.end();
    }
}
