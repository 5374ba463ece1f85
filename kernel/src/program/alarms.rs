//! Alarms of processes (`setitimer`, `alarm`): SIGALRM when a time is over, and again after each interval.

use super::process::{self, Process};
use super::signals::Signal;
use crate::arch;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use linux_raw_sys::general::SIGALRM;

/// An alarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarm {
    /// When it rings, in time since boot; never if none.
    pub at: Option<Duration>,
    /// After how long it rings again; not again if zero.
    pub interval: Duration,
}

/// When the first of all rings, in nanoseconds since boot.
static NEXT_NS: AtomicU64 = AtomicU64::new(u64::MAX);

/// Sets a process's alarm; returns what it was.
pub fn set(process: &Process, alarm: Alarm) -> Alarm {
    let before = core::mem::replace(&mut *process.alarm.lock(), alarm);
    if let Some(at) = alarm.at {
        NEXT_NS.fetch_min(at.as_nanos() as u64, Ordering::Relaxed);
    }
    before
}

/// The timer's tick.
pub fn tick() {
    let now = arch::time::since_boot();
    if NEXT_NS.load(Ordering::Relaxed) > now.as_nanos() as u64 {
        return;
    }
    // Whoever sets one meanwhile makes it earlier again.
    NEXT_NS.store(u64::MAX, Ordering::Relaxed);
    process::each(|process| {
        let next = ring(process, now);
        NEXT_NS.fetch_min(next.map_or(u64::MAX, |at| at.as_nanos() as u64), Ordering::Relaxed);
    });
}

/// Rings a process's alarm if it is time; when it rings next.
fn ring(process: &Process, now: Duration) -> Option<Duration> {
    let next = {
        let mut alarm = process.alarm.lock();
        if alarm.at? > now {
            return alarm.at;
        }
        alarm.at = (!alarm.interval.is_zero()).then(|| now + alarm.interval);
        alarm.at
    };
    if let Some(signal) = Signal::new(SIGALRM.into()) {
        process.signal(signal);
    }
    next
}
