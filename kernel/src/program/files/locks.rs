//! Locks on parts of files (`fcntl`): held by processes, and given up with the file.

use crate::program::errno::{Errno, Outcome};
use crate::sched::events;
use alloc::vec::Vec;
use spin::Mutex;

/// A lock, or the wish for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The file's number.
    pub file: u64,
    /// The process's.
    pub process: u32,
    /// Its first byte.
    pub start: u64,
    /// The one behind its last.
    pub end: u64,
    /// Nobody else may have one there; otherwise nobody may have such a one.
    pub excludes: bool,
}

impl Lock {
    fn overlaps(&self, other: &Self) -> bool {
        self.file == other.file && self.start < other.end && other.start < self.end
    }

    fn conflicts(&self, other: &Self) -> bool {
        self.process != other.process && self.overlaps(other) && (self.excludes || other.excludes)
    }

    /// What is left of it without a part.
    fn without(self, part: &Self) -> impl Iterator<Item = Self> {
        let below = Self { end: part.start.min(self.end), ..self };
        let above = Self { start: part.end.max(self.start), ..self };
        [below, above].into_iter().filter(|rest| rest.start < rest.end)
    }
}

static LOCKS: Mutex<Vec<Lock>> = Mutex::new(Vec::new());

/// The first lock in the way of another.
pub fn conflicting(wanted: &Lock) -> Option<Lock> {
    LOCKS.lock().iter().find(|lock| lock.conflicts(wanted)).copied()
}

/// Takes a lock, in place of what the process has there.
///
/// # Errors
///
/// [`Errno::EAGAIN`] if another is in the way, [`Errno::ENOMEM`].
pub fn take(wanted: Lock) -> Outcome<()> {
    let mut locks = LOCKS.lock();
    if locks.iter().any(|lock| lock.conflicts(&wanted)) {
        return Err(Errno::EAGAIN);
    }
    remove(&mut locks, &wanted)?;
    locks.push(wanted);
    drop(locks);
    events::announce();
    Ok(())
}

/// Gives up what a process has of a part.
///
/// # Errors
///
/// [`Errno::ENOMEM`].
pub fn release(part: &Lock) -> Outcome<()> {
    remove(&mut LOCKS.lock(), part)?;
    events::announce();
    Ok(())
}

fn remove(locks: &mut Vec<Lock>, part: &Lock) -> Outcome<()> {
    // Each may become two, and there may be one more.
    let new = locks.len() + 1;
    locks.try_reserve(new).map_err(|_| Errno::ENOMEM)?;
    let mut place = 0;
    while let Some(&lock) = locks.get(place) {
        if lock.process == part.process && lock.overlaps(part) {
            locks.swap_remove(place);
            // What is left does not overlap, and is passed over.
            locks.extend(lock.without(part));
        } else {
            place += 1;
        }
    }
    Ok(())
}

/// A process has closed a file: it gives up what it has of it.
pub fn release_file(process: u32, file: u64) {
    release_where(|lock| (lock.process, lock.file) == (process, file));
}

/// A process has ended.
pub fn release_all(process: u32) {
    release_where(|lock| lock.process == process);
}

fn release_where(is_meant: impl Fn(&Lock) -> bool) {
    let mut locks = LOCKS.lock();
    let before = locks.len();
    locks.retain(|lock| !is_meant(lock));
    let any = locks.len() < before;
    drop(locks);
    if any {
        events::announce();
    }
}
