//! Who a process is, what the machine is, and what limits there are.

use super::Arguments;
use super::words::Words;
use crate::memory::boot::PAGE_SIZE;
use crate::program::errno::{Errno, Outcome};
use crate::program::files::open::MAX_DESCRIPTORS;
use crate::program::files::proc::memory_pages;
use crate::program::memory::UserAddress;
use crate::program::process::{self, MAX_TASKS, Process};
use crate::program::random;
#[cfg(target_arch = "x86_64")]
use crate::sched;
use crate::{arch, cpu};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_STACK};

/// The interface that programs find.
pub const SYSTEM: &str = "Linux";
/// Its version: that whose calls are meant. Not a version of this kernel.
pub const RELEASE: &str = "6.1.0-kpkeys";

/// `getpid`
pub fn getpid(call: &mut Arguments<'_>) -> Outcome {
    Ok(call.task.process.number.into())
}

/// `getppid`
pub fn getppid(call: &mut Arguments<'_>) -> Outcome {
    Ok(call.task.process.parent.load(Ordering::Relaxed).into())
}

/// `gettid`
pub fn gettid(call: &mut Arguments<'_>) -> Outcome {
    Ok(call.task.number().into())
}

/// A process by its number; the caller's for 0.
fn named(call: &Arguments<'_>, place: usize) -> Outcome<Arc<Process>> {
    match call.value(place) as u32 {
        0 => Ok(call.task.process.clone()),
        number => process::find(number).ok_or(Errno::ESRCH),
    }
}

/// `getpgid`
pub fn getpgid(call: &mut Arguments<'_>) -> Outcome {
    Ok(named(call, 0)?.group.load(Ordering::Relaxed).into())
}

/// `getpgrp`
#[cfg(target_arch = "x86_64")]
pub fn getpgrp(call: &mut Arguments<'_>) -> Outcome {
    Ok(call.task.process.group.load(Ordering::Relaxed).into())
}

/// `setpgid`
pub fn setpgid(call: &mut Arguments<'_>) -> Outcome {
    let process = named(call, 0)?;
    let group = match call.value(1) as u32 {
        0 => process.number,
        group => group,
    };
    process.group.store(group, Ordering::Relaxed);
    Ok(0)
}

/// `getsid`
pub fn getsid(call: &mut Arguments<'_>) -> Outcome {
    Ok(named(call, 0)?.session.load(Ordering::Relaxed).into())
}

/// `setsid`
pub fn setsid(call: &mut Arguments<'_>) -> Outcome {
    let own = &call.task.process;
    if own.group.load(Ordering::Relaxed) == own.number {
        return Err(Errno::EPERM);
    }
    own.group.store(own.number, Ordering::Relaxed);
    own.session.store(own.number, Ordering::Relaxed);
    Ok(own.number.into())
}

/// `uname`
pub fn uname(call: &mut Arguments<'_>) -> Outcome {
    const FIELD: usize = 65;
    let machine = if cfg!(target_arch = "x86_64") { "x86_64" } else { "aarch64" };
    let mut bytes = Vec::new();
    for (place, text) in
        [SYSTEM, "kpkeys", RELEASE, "reference kernel", machine, "(none)"].iter().enumerate()
    {
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize((place + 1) * FIELD, 0);
    }
    call.task.process.memory().write(call.address(0), &bytes).map(|()| 0)
}

/// `sysinfo`
pub fn sysinfo(call: &mut Arguments<'_>) -> Outcome {
    let (free, all) = memory_pages();
    let mut words = Words::default();
    words.u64(arch::time::since_boot().as_secs()).u64(0).u64(0).u64(0);
    words.u64(all * PAGE_SIZE).u64(free * PAGE_SIZE).u64(0).u64(0).u64(0).u64(0);
    words.u32(process::all().len() as u32).u32(0).u64(0).u64(0).u32(1).u32(0);
    call.task.process.memory().write(call.address(0), &words.0).map(|()| 0)
}

/// `prlimit64`: limits are what they are.
pub fn prlimit64(call: &mut Arguments<'_>) -> Outcome {
    limits(call, call.value(1), call.address(2), call.address(3))
}

/// `getrlimit`
#[cfg(target_arch = "x86_64")]
pub fn getrlimit(call: &mut Arguments<'_>) -> Outcome {
    limits(call, call.value(0), UserAddress(0), call.address(1))
}

/// `setrlimit`
#[cfg(target_arch = "x86_64")]
pub fn setrlimit(call: &mut Arguments<'_>) -> Outcome {
    limits(call, call.value(0), call.address(1), UserAddress(0))
}

fn limits(call: &Arguments<'_>, which: u64, new: UserAddress, old: UserAddress) -> Outcome {
    const STACK: u64 = 8 << 20;
    let limit = match which as u32 {
        RLIMIT_NOFILE => MAX_DESCRIPTORS as u64,
        RLIMIT_NPROC => MAX_TASKS as u64,
        RLIMIT_STACK => STACK,
        0..=15 => u64::MAX,
        _ => return Err(Errno::EINVAL),
    };
    let memory = call.task.process.memory();
    if !new.is_null() && memory.read_u64(new)? > limit {
        return Err(Errno::EPERM);
    }
    if !old.is_null() {
        let mut words = Words::default();
        words.u64(limit).u64(limit);
        memory.write(old, &words.0)?;
    }
    Ok(0)
}

/// `personality`: Linux's own.
pub fn personality(call: &mut Arguments<'_>) -> Outcome {
    const ASKS: u32 = u32::MAX;
    if matches!(call.value(0) as u32, 0 | ASKS) { Ok(0) } else { Err(Errno::EINVAL) }
}

/// `prctl`: names of threads, which nobody sees.
pub fn prctl(call: &mut Arguments<'_>) -> Outcome {
    const SET_NAME: u64 = 15;
    if call.value(0) == SET_NAME { Ok(0) } else { Err(Errno::EINVAL) }
}

/// `getrandom`
pub fn getrandom(call: &mut Arguments<'_>) -> Outcome {
    const MOST: u64 = 256;
    let mut bytes = [0; MOST as usize];
    let len = call.value(1).min(MOST);
    random::fill(&mut bytes[..len as usize]);
    call.task.process.memory().write(call.address(0), &bytes[..len as usize])?;
    Ok(len)
}

/// `getcpu`
pub fn getcpu(call: &mut Arguments<'_>) -> Outcome {
    let memory = call.task.process.memory();
    let number = cpu::this().id.0 as u32;
    for (at, value) in [(call.address(0), number), (call.address(1), 0)] {
        if !at.is_null() {
            memory.write(at, &value.to_le_bytes())?;
        }
    }
    Ok(0)
}

/// `arch_prctl`: where FS points to. GS is the kernel's.
#[cfg(target_arch = "x86_64")]
pub fn arch_prctl(call: &mut Arguments<'_>) -> Outcome {
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    let change = |value| {
        sched::current().change_extended(|extended| {
            extended.as_mut().is_some_and(|extended| extended.set_thread_pointer(value))
        })
    };
    match call.value(0) {
        SET_FS if change(call.value(1)) => Ok(0),
        SET_FS => Err(Errno::EPERM),
        GET_FS => {
            let value = sched::current().change_extended(|extended| {
                extended.as_ref().map_or(0, |extended| extended.thread_pointer())
            });
            call.task.process.memory().write(call.address(1), &value.to_le_bytes()).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}
