//! Calls that ask what threads and processes have used, and the clocks that count it.

use super::Arguments;
use super::words::Words;
use crate::arch;
use crate::program::errno::{Errno, Outcome};
use crate::program::process;
use crate::program::task::Task;
use crate::program::usage::{Usage, ticks};
use crate::sched::accounting;
use core::time::Duration;
use linux_raw_sys::general::{
    CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, RUSAGE_CHILDREN, RUSAGE_SELF, RUSAGE_THREAD,
};

/// `getrusage`
pub fn getrusage(call: &mut Arguments<'_>) -> Outcome {
    /// As programs have it.
    const CHILDREN: i64 = RUSAGE_CHILDREN as i64;
    const SELF: i64 = RUSAGE_SELF as i64;
    const THREAD: i64 = RUSAGE_THREAD as i64;
    accounting::settle();
    let usage = match call.signed(0) {
        SELF => call.task.process.usage(),
        CHILDREN => call.task.process.past_children.usage(),
        THREAD => call.task.taken.usage(),
        _ => return Err(Errno::EINVAL),
    };
    call.task.process.memory().write(call.address(1), &usage.bytes()).map(|()| 0)
}

/// `times`
pub fn times(call: &mut Arguments<'_>) -> Outcome {
    if !call.address(0).is_null() {
        accounting::settle();
        let process = &call.task.process;
        let mut words = Words::default();
        for ticks in
            [process.usage(), process.past_children.usage()].map(Usage::ticks).as_flattened()
        {
            words.u64(*ticks);
        }
        process.memory().write(call.address(0), &words.0)?;
    }
    Ok(ticks(arch::time::since_boot()))
}

/// What a clock counts.
#[derive(Clone, Copy)]
enum Counts {
    User,
    Both,
}

/// What a clock says that counts the time of a thread or process; none for other clocks.
///
/// # Errors
///
/// [`Errno::EINVAL`] if what it counts the time of is not there.
pub fn clock(task: &Task, number: u64) -> Outcome<Option<Duration>> {
    let number = number as u32;
    let usage = match number {
        CLOCK_PROCESS_CPUTIME_ID => (settled(|| task.process.usage()), Counts::Both),
        CLOCK_THREAD_CPUTIME_ID => (settled(|| task.taken.usage()), Counts::Both),
        _ if number as i32 >= 0 => return Ok(None),
        _ => named_clock(task, number)?,
    };
    Ok(Some(match usage {
        (usage, Counts::User) => usage.user(),
        (usage, Counts::Both) => usage.user() + usage.system(),
    }))
}

fn settled(usage: impl FnOnce() -> Usage) -> Usage {
    accounting::settle();
    usage()
}

/// The clock of a process or thread that is named by its number, as Linux's headers put these together: the number's complement, a bit for
/// threads, and two for what is counted.
fn named_clock(task: &Task, number: u32) -> Outcome<(Usage, Counts)> {
    const OF_THREAD: u32 = 1 << 2;
    let named = !((number as i32) >> 3) as u32;
    let counts = match number & 3 {
        1 => Counts::User,
        0 | 2 => Counts::Both,
        _ => return Err(Errno::EINVAL),
    };
    let own = &task.process;
    accounting::settle();
    let usage = match (number & OF_THREAD != 0, named) {
        (true, 0) => task.taken.usage(),
        (true, named) => Task::find(own.number, named).ok_or(Errno::EINVAL)?.taken.usage(),
        (false, 0) => own.usage(),
        (false, named) => process::find(named).ok_or(Errno::EINVAL)?.usage(),
    };
    Ok((usage, counts))
}
