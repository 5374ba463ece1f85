//! Calls on scheduling: every thread is scheduled alike, on every CPU.

use super::Arguments;
use crate::program::errno::{Errno, Outcome};
use crate::{cpu, sched};

/// `sched_yield`
pub fn sched_yield(_: &mut Arguments<'_>) -> Outcome {
    sched::yield_now();
    Ok(0)
}

/// `sched_getaffinity`
pub fn sched_getaffinity(call: &mut Arguments<'_>) -> Outcome {
    const BYTES: u64 = 8;
    if call.value(1) < BYTES {
        return Err(Errno::EINVAL);
    }
    let mask: u64 = online();
    call.task.process.memory().write(call.address(2), &mask.to_le_bytes())?;
    Ok(BYTES)
}

/// `sched_setaffinity`: to CPUs that there are. Threads run on the others all the same.
pub fn sched_setaffinity(call: &mut Arguments<'_>) -> Outcome {
    let mut mask = [0; 8];
    let len = call.value(1).min(mask.len() as u64) as usize;
    call.task.process.memory().read(call.address(2), &mut mask[..len])?;
    if u64::from_le_bytes(mask) & online() == 0 { Err(Errno::EINVAL) } else { Ok(0) }
}

fn online() -> u64 {
    (1 << cpu::online().count()) - 1
}

/// `sched_getscheduler`: the ordinary way.
pub fn sched_getscheduler(_: &mut Arguments<'_>) -> Outcome {
    Ok(0)
}

/// `sched_setscheduler`: to the ordinary way.
pub fn sched_setscheduler(call: &mut Arguments<'_>) -> Outcome {
    if call.value(1) as u32 == 0 { Ok(0) } else { Err(Errno::EPERM) }
}

/// `sched_getparam`: no priority.
pub fn sched_getparam(call: &mut Arguments<'_>) -> Outcome {
    call.task.process.memory().write(call.address(1), &[0; 4]).map(|()| 0)
}

/// `sched_get_priority_max` and `sched_get_priority_min`: of the ordinary way there are none, and no other.
pub fn sched_get_priority(call: &mut Arguments<'_>) -> Outcome {
    if call.value(0) as u32 == 0 { Ok(0) } else { Err(Errno::EINVAL) }
}

/// `getpriority`: nobody is nicer than others. The call says 20 less that.
pub fn getpriority(_: &mut Arguments<'_>) -> Outcome {
    Ok(20)
}

/// `setpriority`: only to that.
pub fn setpriority(call: &mut Arguments<'_>) -> Outcome {
    if call.signed(2) == 0 { Ok(0) } else { Err(Errno::EPERM) }
}
