//! Calls on signals.

use super::Arguments;
use super::words::Words;
use crate::program::errno::{Errno, Outcome};
use crate::program::process;
use crate::program::signals::{self, Action, AlternateStack, Signal};
use crate::program::task::Task;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK, SIGKILL, SIGSTOP};

const MASK_BYTES: u64 = 8;
/// Least bytes of an alternate stack.
const MIN_STACK: u64 = 2048;

fn signal(number: u64) -> Outcome<Signal> {
    Signal::new(number as u32 as u64).ok_or(Errno::EINVAL)
}

/// `rt_sigaction`. arm64 has no restorer in it, but room for one, as x86-64.
pub fn rt_sigaction(call: &mut Arguments<'_>) -> Outcome {
    let signal = signal(call.value(0))?;
    let (new, old) = (call.address(1), call.address(2));
    if call.value(3) != MASK_BYTES
        || !new.is_null() && [SIGKILL, SIGSTOP].contains(&(signal.number() as u32))
    {
        return Err(Errno::EINVAL);
    }
    let memory = call.task.process.memory();
    let place = signal.number() as usize;
    let new = if new.is_null() {
        None
    } else {
        let word = |number: u64| memory.read_u64(new.offset(8 * number));
        Some(Action { handler: word(0)?, flags: word(1)?, restorer: word(2)?, mask: word(3)? })
    };
    let before = call.task.process.actions.lock()[place];
    if !old.is_null() {
        let mut words = Words::default();
        words.u64(before.handler).u64(before.flags).u64(before.restorer).u64(before.mask);
        memory.write(old, &words.0)?;
    }
    if let Some(new) = new {
        call.task.process.actions.lock()[place] = new;
    }
    Ok(0)
}

/// `rt_sigprocmask`
pub fn rt_sigprocmask(call: &mut Arguments<'_>) -> Outcome {
    let (new, old) = (call.address(1), call.address(2));
    if call.value(3) != MASK_BYTES {
        return Err(Errno::EINVAL);
    }
    let memory = call.task.process.memory();
    let mask = call.task.mask.load(Ordering::Relaxed);
    if !new.is_null() {
        let bits = memory.read_u64(new)?;
        call.task.set_mask(match call.value(0) as u32 {
            SIG_BLOCK => mask | bits,
            SIG_UNBLOCK => mask & !bits,
            SIG_SETMASK => bits,
            _ => return Err(Errno::EINVAL),
        });
    }
    if !old.is_null() {
        memory.write(old, &mask.to_le_bytes())?;
    }
    Ok(0)
}

/// `rt_sigpending`
pub fn rt_sigpending(call: &mut Arguments<'_>) -> Outcome {
    let waiting = call.task.pending() & call.task.mask.load(Ordering::Relaxed);
    call.task.process.memory().write(call.address(0), &waiting.to_le_bytes()).map(|()| 0)
}

/// `rt_sigsuspend`
pub fn rt_sigsuspend(call: &mut Arguments<'_>) -> Outcome {
    let mask = call.task.process.memory().read_u64(call.address(0))?;
    let before = call.task.mask.load(Ordering::Relaxed);
    *call.task.saved_mask.lock() = Some(before);
    call.task.set_mask(mask);
    wait_for_signal(call.task)
}

/// `pause`
#[cfg(target_arch = "x86_64")]
pub fn pause(call: &mut Arguments<'_>) -> Outcome {
    wait_for_signal(call.task)
}

fn wait_for_signal(task: &Task) -> Outcome {
    match task.wait::<u64>(None, || Ok(None)) {
        Err(Errno::RESTART) => Err(Errno::EINTR),
        other => other,
    }
}

/// `rt_sigreturn`
pub fn rt_sigreturn(call: &mut Arguments<'_>) -> Outcome {
    match signals::return_from_handler(call.task, call.registers) {
        // Whatever is in that register, and no error.
        Ok(value) => Ok(value),
        Err(_) => {
            let segv = signal(linux_raw_sys::general::SIGSEGV.into())?;
            call.task.process.end(process::Status::killed(segv));
            Err(Errno::EFAULT)
        }
    }
}

/// `sigaltstack`
pub fn sigaltstack(call: &mut Arguments<'_>) -> Outcome {
    const DISABLE: u32 = 2;
    let (new, old) = (call.address(0), call.address(1));
    let memory = call.task.process.memory();
    let pointer = call.registers.stack();
    let before = *call.task.alternate_stack.lock();
    if !new.is_null() {
        if before.bytes > 0 && before.holds(pointer) {
            return Err(Errno::EPERM);
        }
        let (start, flags, bytes) = (
            memory.read_u64(new)?,
            memory.read_u32(new.offset(8))?,
            memory.read_u64(new.offset(16))?,
        );
        let stack = if flags & DISABLE != 0 {
            AlternateStack::default()
        } else if bytes < MIN_STACK {
            return Err(Errno::ENOMEM);
        } else if start.checked_add(bytes).is_none() {
            return Err(Errno::EINVAL);
        } else {
            AlternateStack { start, bytes }
        };
        *call.task.alternate_stack.lock() = stack;
    }
    if !old.is_null() {
        let mut words = Words::default();
        words.u64(before.start).u32(before.flags(pointer)).u32(0).u64(before.bytes);
        memory.write(old, &words.0)?;
    }
    Ok(0)
}

/// `kill`
pub fn kill(call: &mut Arguments<'_>) -> Outcome {
    let target = call.signed(0);
    let signal = if call.value(1) == 0 { None } else { Some(signal(call.value(1))?) };
    let own_group = i64::from(call.task.process.group.load(Ordering::Relaxed));
    let is_meant = |process: &process::Process| match target {
        0 => i64::from(process.group.load(Ordering::Relaxed)) == own_group,
        -1 => process.number != 1 && process.number != call.task.process.number,
        ..0 => i64::from(process.group.load(Ordering::Relaxed)) == -target,
        _ => i64::from(process.number) == target,
    };
    let meant: alloc::vec::Vec<_> =
        process::all().into_iter().filter(|process| is_meant(process)).collect();
    if meant.is_empty() {
        return Err(Errno::ESRCH);
    }
    if let Some(signal) = signal {
        meant.iter().for_each(|process| process.signal(signal));
    }
    Ok(0)
}

/// `tkill`
pub fn tkill(call: &mut Arguments<'_>) -> Outcome {
    let number = call.value(0) as u32;
    send(call.task.process.number, number, call.value(1))
}

/// `tgkill`
pub fn tgkill(call: &mut Arguments<'_>) -> Outcome {
    send(call.value(0) as u32, call.value(1) as u32, call.value(2))
}

fn send(process: u32, number: u32, what: u64) -> Outcome {
    let task = Task::find(process, number).ok_or(Errno::ESRCH)?;
    if what != 0 {
        task.signal(signal(what)?);
    }
    Ok(0)
}
