//! `futex`: waiting for a word of memory to change.
//!
//! Who waits stands in one list, by memory and address. The word is looked at while the list is locked, so a wake-up between the
//! look and the wait is not lost. In memory that processes share by a mapping, a word is the same for all of them.

use super::{Arguments, time};
use crate::arch;
use crate::program::clock;
use crate::program::errno::{Errno, Outcome};
use crate::program::memory::{Memory, UserAddress};
use crate::sched::events;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use linux_raw_sys::general::{
    FUTEX_CLOCK_REALTIME, FUTEX_CMP_REQUEUE, FUTEX_PRIVATE_FLAG, FUTEX_REQUEUE, FUTEX_WAIT,
    FUTEX_WAIT_BITSET, FUTEX_WAKE, FUTEX_WAKE_BITSET,
};
use spin::Mutex;

struct Waiter {
    word: Word,
    mask: u32,
    woken: Arc<AtomicBool>,
}

static WAITING: Mutex<Vec<Waiter>> = Mutex::new(Vec::new());

/// A word, whoever asks: the memory it is in, and where.
type Word = (usize, u64);

/// Wakes up to `most` who wait for a word; how many it were.
pub fn wake(memory: &Arc<Memory>, at: UserAddress, most: u64) -> u64 {
    wake_masked(memory, at, most, u32::MAX)
}

fn wake_masked(memory: &Arc<Memory>, at: UserAddress, most: u64, mask: u32) -> u64 {
    let word = memory.identity_of(at);
    let mut woken = 0;
    WAITING.lock().retain(|waiter| {
        let is_meant = waiter.word == word && waiter.mask & mask != 0;
        if !is_meant || woken >= most {
            return true;
        }
        waiter.woken.store(true, Ordering::Release);
        woken += 1;
        false
    });
    if woken > 0 {
        events::announce();
    }
    woken
}

fn wait(call: &Arguments<'_>, expected: u32, mask: u32, deadline: Option<Duration>) -> Outcome {
    let (memory, at) = (call.task.process.memory(), call.address(0));
    let word = memory.identity_of(at);
    let woken = Arc::new(AtomicBool::new(false));
    {
        let mut waiting = WAITING.lock();
        if memory.load_word(at)? != expected {
            return Err(Errno::EAGAIN);
        }
        waiting.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        waiting.push(Waiter { word, mask, woken: woken.clone() });
    }
    let result = call.task.wait(deadline, || Ok(woken.load(Ordering::Acquire).then_some(0)));
    if result.is_err() {
        WAITING.lock().retain(|waiter| !Arc::ptr_eq(&waiter.woken, &woken));
        if woken.load(Ordering::Acquire) {
            return Ok(0);
        }
    }
    result
}

fn requeue(call: &Arguments<'_>, compares: bool) -> Outcome {
    let (memory, at, to) = (call.task.process.memory(), call.address(0), call.address(4));
    if compares && memory.load_word(at)? != call.value(5) as u32 {
        return Err(Errno::EAGAIN);
    }
    let (word, to) = (memory.identity_of(at), memory.identity_of(to));
    let woken = wake(&memory, at, call.value(2));
    let mut moved = 0;
    for waiter in WAITING.lock().iter_mut() {
        if waiter.word == word && moved < call.value(3) {
            waiter.word = to;
            moved += 1;
        }
    }
    Ok(woken + moved)
}

/// `futex`
pub fn futex(call: &mut Arguments<'_>) -> Outcome {
    let operation = call.value(1) as u32 & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
    let value = call.value(2) as u32;
    match operation {
        FUTEX_WAIT => {
            let limit = time::optional(call.task, call.address(3))?;
            wait(call, value, u32::MAX, limit.map(|limit| arch::time::since_boot() + limit))
        }
        FUTEX_WAIT_BITSET => {
            let is_date = call.value(1) as u32 & FUTEX_CLOCK_REALTIME != 0;
            let start = if is_date { clock::at_boot() } else { Duration::ZERO };
            let limit = time::optional(call.task, call.address(3))?;
            let limit = limit.map(|limit| limit.saturating_sub(start));
            wait(call, value, call.value(5) as u32, limit)
        }
        FUTEX_WAKE => Ok(wake(&call.task.process.memory(), call.address(0), value.into())),
        FUTEX_WAKE_BITSET => Ok(wake_masked(
            &call.task.process.memory(),
            call.address(0),
            value.into(),
            call.value(5) as u32,
        )),
        FUTEX_REQUEUE => requeue(call, false),
        FUTEX_CMP_REQUEUE => requeue(call, true),
        _ => Err(Errno::ENOSYS),
    }
}
