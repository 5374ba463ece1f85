//! Waiting for descriptors.

use super::Arguments;
use super::files::file;
use super::time;
use crate::arch;
use crate::program::errno::{Errno, Outcome};
use crate::program::files::open::MAX_DESCRIPTORS;
use crate::program::memory::UserAddress;
use crate::program::task::Task;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;
use linux_raw_sys::general::{POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT};

/// Most descriptors asked about at once.
const MAX: u64 = 1024;

/// What is true of a descriptor, of what was asked and of what always is.
fn state(task: &Task, number: i32, asked: u16) -> u16 {
    let Ok(number) = u64::try_from(number) else { return 0 };
    let Ok(file) = file(task, number) else { return POLLNVAL as u16 };
    let (readable, writable, gone) = file.ready();
    let mut is = 0;
    if readable {
        is |= POLLIN as u16;
    }
    if writable {
        is |= POLLOUT as u16;
    }
    let always = match (gone, writable) {
        (true, true) => POLLERR as u16,
        (true, false) => POLLHUP as u16,
        _ => 0,
    };
    is & asked | always
}

fn wait(task: &Task, at: UserAddress, count: u64, limit: Option<Duration>) -> Outcome {
    if count > MAX {
        return Err(Errno::EINVAL);
    }
    let memory = task.process.memory();
    let mut asked = Vec::new();
    for place in 0..count {
        let word = memory.read_u64(at.offset(8 * place))?;
        asked.push((word as u32 as i32, (word >> 32) as u16));
    }
    let look = || {
        let states: Vec<u16> =
            asked.iter().map(|&(number, events)| state(task, number, events)).collect();
        Ok(states.iter().any(|&state| state != 0).then_some(states))
    };
    let states = match task.wait(limit.map(|limit| arch::time::since_boot() + limit), look) {
        Err(Errno::ETIMEDOUT) => asked.iter().map(|_| 0).collect(),
        // Never made again: the limit would begin anew.
        Err(Errno::RESTART) => return Err(Errno::EINTR),
        other => other?,
    };
    for (place, state) in states.iter().enumerate() {
        memory.write(at.offset(8 * place as u64 + 6), &state.to_le_bytes())?;
    }
    Ok(states.iter().filter(|&&state| state != 0).count() as u64)
}

/// `poll`
#[cfg(target_arch = "x86_64")]
pub fn poll(call: &mut Arguments<'_>) -> Outcome {
    let limit = u64::try_from(call.signed(2)).ok().map(Duration::from_millis);
    wait(call.task, call.address(0), call.value(1), limit)
}

/// `ppoll`
pub fn ppoll(call: &mut Arguments<'_>) -> Outcome {
    let limit = time::optional(call.task, call.address(2))?;
    if !call.address(3).is_null() {
        use_mask(call.task, call.address(3))?;
    }
    wait(call.task, call.address(0), call.value(1), limit)
}

/// Another mask until the call is over; the old one comes back with the next signal, or without one.
fn use_mask(task: &Task, at: UserAddress) -> Outcome<()> {
    let mask = task.process.memory().read_u64(at)?;
    task.saved_mask.lock().get_or_insert(task.mask.load(Ordering::Relaxed));
    task.set_mask(mask);
    Ok(())
}

/// The three sets of `select`: to read, to write, and exceptions, which do not happen here.
fn select_at(task: &Task, count: u64, sets: [UserAddress; 3], limit: Option<Duration>) -> Outcome {
    const ASKED: [u16; 3] = [(POLLIN | POLLHUP) as u16, (POLLOUT | POLLERR) as u16, 0];
    const WORDS: usize = MAX_DESCRIPTORS / 64;
    let memory = task.process.memory();
    let words = (count.min(MAX_DESCRIPTORS as u64) as usize).div_ceil(64);
    let mut asked = [[0_u64; WORDS]; 3];
    for (set, at) in asked.iter_mut().zip(sets).filter(|(_, at)| !at.is_null()) {
        for (place, word) in set[..words].iter_mut().enumerate() {
            *word = memory.read_u64(at.offset(8 * place as u64))?;
        }
    }
    let numbers = 0..count.min(MAX_DESCRIPTORS as u64) as usize;
    let look = || {
        let mut found = [[0_u64; WORDS]; 3];
        let mut count = 0;
        for number in numbers.clone() {
            for (kind, events) in ASKED.iter().enumerate() {
                if asked[kind][number / 64] >> (number % 64) & 1 == 0 {
                    continue;
                }
                let state = state(task, number as i32, *events);
                if state & POLLNVAL as u16 != 0 {
                    return Err(Errno::EBADF);
                }
                if state & events != 0 {
                    found[kind][number / 64] |= 1 << (number % 64);
                    count += 1;
                }
            }
        }
        Ok((count > 0).then_some((found, count)))
    };
    let (found, ready) = match task.wait(limit.map(|limit| arch::time::since_boot() + limit), look)
    {
        Err(Errno::ETIMEDOUT) => ([[0; WORDS]; 3], 0),
        Err(Errno::RESTART) => return Err(Errno::EINTR),
        other => other?,
    };
    for (set, at) in found.iter().zip(sets).filter(|(_, at)| !at.is_null()) {
        for (place, word) in set[..words].iter().enumerate() {
            memory.write(at.offset(8 * place as u64), &word.to_le_bytes())?;
        }
    }
    Ok(ready)
}

/// `select`
#[cfg(target_arch = "x86_64")]
pub fn select(call: &mut Arguments<'_>) -> Outcome {
    let limit = time::optional_micros(call.task, call.address(4))?;
    select_at(call.task, call.value(0), [1, 2, 3].map(|place| call.address(place)), limit)
}

/// `pselect6`
pub fn pselect6(call: &mut Arguments<'_>) -> Outcome {
    let limit = time::optional(call.task, call.address(4))?;
    if !call.address(5).is_null() {
        let mask = UserAddress(call.task.process.memory().read_u64(call.address(5))?);
        if !mask.is_null() {
            use_mask(call.task, mask)?;
        }
    }
    select_at(call.task, call.value(0), [1, 2, 3].map(|place| call.address(place)), limit)
}
