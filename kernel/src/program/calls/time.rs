//! Calls on time. Clocks that tell the date go on from [`clock::at_boot`]; all others count from boot.

use super::words::Words;
use super::{Arguments, usage};
use crate::arch;
use crate::program::alarms::{self, Alarm};
use crate::program::clock;
use crate::program::errno::{Errno, Outcome};
use crate::program::memory::UserAddress;
use crate::program::task::Task;
use core::time::Duration;
use linux_raw_sys::general::{CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_TAI, ITIMER_REAL};

/// A span of seconds and nanoseconds; none for null.
///
/// # Errors
///
/// [`Errno::EFAULT`]; [`Errno::EINVAL`] if it is none.
pub fn optional(task: &Task, at: UserAddress) -> Outcome<Option<Duration>> {
    span(task, at, 1)
}

/// A span of seconds and microseconds; none for null.
///
/// # Errors
///
/// As [`optional`].
pub fn optional_micros(task: &Task, at: UserAddress) -> Outcome<Option<Duration>> {
    span(task, at, 1000)
}

fn span(task: &Task, at: UserAddress, unit_ns: u64) -> Outcome<Option<Duration>> {
    const SECOND_NS: u64 = 1_000_000_000;
    if at.is_null() {
        return Ok(None);
    }
    let memory = task.process.memory();
    let (seconds, part) = (memory.read_u64(at)?, memory.read_u64(at.offset(8))?);
    if seconds > i64::MAX as u64 || part >= SECOND_NS / unit_ns {
        return Err(Errno::EINVAL);
    }
    // A hundred years are as good as for ever, and can be added to.
    Ok(Some(Duration::new(seconds.min(u64::from(u32::MAX)), (part * unit_ns) as u32)))
}

fn tell(task: &Task, to: UserAddress, time: Duration) -> Outcome {
    let mut words = Words::default();
    words.u64(time.as_secs()).u64(time.subsec_nanos().into());
    task.process.memory().write(to, &words.0).map(|()| 0)
}

fn sleep_until(task: &Task, deadline: Duration, rest: UserAddress) -> Outcome {
    match task.wait::<u64>(Some(deadline), || Ok(None)) {
        Err(Errno::ETIMEDOUT) => Ok(0),
        Err(Errno::RESTART) => {
            if !rest.is_null() {
                tell(task, rest, deadline.saturating_sub(arch::time::since_boot()))?;
            }
            Err(Errno::EINTR)
        }
        other => other,
    }
}

/// `nanosleep`
pub fn nanosleep(call: &mut Arguments<'_>) -> Outcome {
    let span = optional(call.task, call.address(0))?.ok_or(Errno::EFAULT)?;
    sleep_until(call.task, arch::time::since_boot() + span, call.address(1))
}

/// `clock_nanosleep`, but for clocks that count a thread's or process's time.
pub fn clock_nanosleep(call: &mut Arguments<'_>) -> Outcome {
    const ABSOLUTE: u64 = 1;
    if usage::clock(call.task, call.value(0))?.is_some() {
        return Err(Errno::EOPNOTSUPP);
    }
    let span = optional(call.task, call.address(2))?.ok_or(Errno::EFAULT)?;
    if call.value(1) & ABSOLUTE != 0 {
        let start = if tells_date(call.value(0)) { clock::at_boot() } else { Duration::ZERO };
        return sleep_until(call.task, span.saturating_sub(start), UserAddress(0));
    }
    sleep_until(call.task, arch::time::since_boot() + span, call.address(3))
}

/// `clock_gettime`
pub fn clock_gettime(call: &mut Arguments<'_>) -> Outcome {
    let number = call.value(0);
    let now = match usage::clock(call.task, number)? {
        Some(taken) => taken,
        None if !exists(number) => return Err(Errno::EINVAL),
        None if tells_date(number) => clock::date(),
        None => arch::time::since_boot(),
    };
    tell(call.task, call.address(1), now)
}

/// Whether there is a clock that counts no thread's or process's time, with this number.
fn exists(number: u64) -> bool {
    const CLOCKS: u32 = 12;
    (number as u32) < CLOCKS
}

fn tells_date(number: u64) -> bool {
    [CLOCK_REALTIME, CLOCK_REALTIME_COARSE, CLOCK_TAI].contains(&(number as u32))
}

/// `clock_getres`
pub fn clock_getres(call: &mut Arguments<'_>) -> Outcome {
    if usage::clock(call.task, call.value(0))?.is_none() && !exists(call.value(0)) {
        return Err(Errno::EINVAL);
    }
    if call.address(1).is_null() {
        return Ok(0);
    }
    tell(call.task, call.address(1), Duration::from_nanos(1))
}

/// `gettimeofday`
pub fn gettimeofday(call: &mut Arguments<'_>) -> Outcome {
    let now = clock::date();
    let mut words = Words::default();
    words.u64(now.as_secs()).u64(now.subsec_micros().into());
    if !call.address(0).is_null() {
        call.task.process.memory().write(call.address(0), &words.0)?;
    }
    Ok(0)
}

/// `time`
#[cfg(target_arch = "x86_64")]
pub fn time(call: &mut Arguments<'_>) -> Outcome {
    let now = clock::date().as_secs();
    if !call.address(0).is_null() {
        call.task.process.memory().write(call.address(0), &now.to_le_bytes())?;
    }
    Ok(now)
}

/// What is left of an alarm, and its interval.
fn told(alarm: Alarm) -> (Duration, Duration) {
    let left = |at: Duration| at.saturating_sub(arch::time::since_boot());
    // Zero would say that there is none.
    (alarm.at.map_or(Duration::ZERO, |at| left(at).max(Duration::from_micros(1))), alarm.interval)
}

fn tell_alarm(task: &Task, to: UserAddress, alarm: Alarm) -> Outcome {
    let (left, interval) = told(alarm);
    let mut words = Words::default();
    for span in [interval, left] {
        words.u64(span.as_secs()).u64(span.subsec_micros().into());
    }
    if to.is_null() {
        return Ok(0);
    }
    task.process.memory().write(to, &words.0).map(|()| 0)
}

/// An alarm after a time; none for zero.
fn alarm_after(span: Duration, interval: Duration) -> Alarm {
    Alarm { at: (!span.is_zero()).then(|| arch::time::since_boot() + span), interval }
}

/// `setitimer`: of the three kinds, that of real time.
pub fn setitimer(call: &mut Arguments<'_>) -> Outcome {
    let (new, process) = (call.address(1), &call.task.process);
    if call.value(0) as u32 != ITIMER_REAL {
        return Err(Errno::EINVAL);
    }
    let interval = optional_micros(call.task, new)?.unwrap_or_default();
    let span = if new.is_null() { None } else { optional_micros(call.task, new.offset(16))? };
    let before = alarms::set(process, alarm_after(span.unwrap_or_default(), interval));
    tell_alarm(call.task, call.address(2), before)
}

/// `getitimer`
pub fn getitimer(call: &mut Arguments<'_>) -> Outcome {
    let alarm = *call.task.process.alarm.lock();
    let is_real = call.value(0) as u32 == ITIMER_REAL;
    tell_alarm(call.task, call.address(1), if is_real { alarm } else { Alarm::default() })
}

/// `alarm`
#[cfg(target_arch = "x86_64")]
pub fn alarm(call: &mut Arguments<'_>) -> Outcome {
    let span = Duration::from_secs(u64::from(call.value(0) as u32));
    let before = alarms::set(&call.task.process, alarm_after(span, Duration::ZERO));
    Ok(told(before).0.as_micros().div_ceil(1_000_000) as u64)
}
