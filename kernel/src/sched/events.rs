//! Waiting for something to happen.
//!
//! There is one queue for all of it: the end of a child, bytes in a pipe, a key, a signal. Whoever changes something that may be waited for
//! calls [`announce`]; everybody who waits looks again at what for. A look that comes too early costs a moment; none comes too
//! late: a waiter takes the [`Moment`] before it looks, and does not wait if there was an announcement since.

use super::{Fate, Thread, make_ready, switch_away};
use crate::arch;
use crate::lock::IrqLock;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

struct Events {
    /// How many announcements there were.
    announced: u64,
    waiting: Vec<Arc<Thread>>,
    /// When the first of them wants to look in any case.
    deadline: Option<Duration>,
}

static EVENTS: IrqLock<Events> =
    IrqLock::new(Events { announced: 0, waiting: Vec::new(), deadline: None });

/// A point in time, between announcements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u64);

/// Now.
pub fn moment() -> Moment {
    Moment(EVENTS.lock().announced)
}

/// Waits for an announcement since `moment`, or until `deadline`, a time since boot.
pub fn wait(moment: Moment, deadline: Option<Duration>) {
    switch_away(Fate::Waiting(moment, deadline));
}

/// Everybody who waits looks again.
pub fn announce() {
    announce_in(&mut EVENTS.lock());
}

/// The timer's tick: wakes everybody if a deadline has passed.
pub fn tick() {
    let now = arch::time::since_boot();
    let mut events = EVENTS.lock();
    if events.deadline.is_some_and(|deadline| deadline <= now) {
        announce_in(&mut events);
    }
}

fn announce_in(events: &mut Events) {
    events.announced += 1;
    events.deadline = None;
    events.waiting.drain(..).for_each(make_ready);
}

/// A thread that was switched away from waits.
pub(super) fn enqueue(thread: Arc<Thread>, moment: Moment, deadline: Option<Duration>) {
    let mut events = EVENTS.lock();
    if events.announced != moment.0 {
        make_ready(thread);
        return;
    }
    events.deadline = match (events.deadline, deadline) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    events.waiting.push(thread);
}
