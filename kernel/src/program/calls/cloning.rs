//! Calls that make processes and threads.

use super::Arguments;
use crate::arch::registers::{Extended, set_thread_pointer};
use crate::memory::boot::PAGE_SIZE;
use crate::program::errno::{Errno, Outcome};
use crate::program::memory::{Memory, UserAddress};
use crate::program::process::{self, Inherited, Process};
use crate::program::signals::Signal;
use crate::program::task::Task;
use crate::sched;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_CLEAR_SIGHAND, CLONE_DETACHED, CLONE_FILES,
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER,
    CLONE_NEWUTS, CLONE_PARENT, CLONE_PARENT_SETTID, CLONE_PIDFD, CLONE_SETTLS, CLONE_SIGHAND,
    CLONE_THREAD, CLONE_VFORK, CLONE_VM,
};

/// The bits of `clone`'s flags that are the signal a child ends with. `clone3` has the flag of a namespace in one of them.
const SIGNAL: u64 = 0xff;
/// Flags that ask for what there is not: descriptors of processes, and namespaces.
const NOT_HERE: u64 = (CLONE_PIDFD
    | CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET) as u64;

/// What is asked for.
struct Making {
    flags: u64,
    /// Where the child's stack pointer is; where the parent's is if zero.
    stack: u64,
    parent_number: UserAddress,
    child_number: UserAddress,
    thread_pointer: u64,
}

impl Making {
    /// Whether any of these flags is set.
    fn has(&self, flags: u32) -> bool {
        self.flags & u64::from(flags) != 0
    }
}

/// `clone`
pub fn clone(call: &mut Arguments<'_>) -> Outcome {
    #[cfg(target_arch = "x86_64")]
    const CHILD_AND_POINTER: (usize, usize) = (3, 4);
    #[cfg(target_arch = "aarch64")]
    const CHILD_AND_POINTER: (usize, usize) = (4, 3);
    let request = Making {
        flags: u64::from(call.value(0) as u32) & !SIGNAL,
        stack: call.value(1),
        parent_number: call.address(2),
        child_number: call.address(CHILD_AND_POINTER.0),
        thread_pointer: call.value(CHILD_AND_POINTER.1),
    };
    make(call, &request)
}

/// `clone3`, without descriptors of processes, numbers that the caller chooses, and groups of processes.
pub fn clone3(call: &mut Arguments<'_>) -> Outcome {
    let wanted = Wanted::read(&call.task.process.memory(), call.address(0), call.value(1))?;
    make(call, &wanted.checked()?)
}

/// `fork`
#[cfg(target_arch = "x86_64")]
pub fn fork(call: &mut Arguments<'_>) -> Outcome {
    make_simply(call, 0)
}

/// `vfork`
#[cfg(target_arch = "x86_64")]
pub fn vfork(call: &mut Arguments<'_>) -> Outcome {
    make_simply(call, CLONE_VM | CLONE_VFORK)
}

#[cfg(target_arch = "x86_64")]
fn make_simply(call: &mut Arguments<'_>, flags: u32) -> Outcome {
    let nowhere = UserAddress(0);
    let request = Making {
        flags: flags.into(),
        stack: 0,
        parent_number: nowhere,
        child_number: nowhere,
        thread_pointer: 0,
    };
    make(call, &request)
}

/// `struct clone_args`, word by word.
struct Wanted([u64; Wanted::WORDS]);

impl Wanted {
    const WORDS: usize = 11;
    /// Its first version had so many bytes.
    const LEAST: u64 = 64;
    const FLAGS: usize = 0;
    const CHILD_NUMBER: usize = 2;
    const PARENT_NUMBER: usize = 3;
    const EXIT_SIGNAL: usize = 4;
    const STACK: usize = 5;
    const STACK_SIZE: usize = 6;
    const THREAD_POINTER: usize = 7;
    const CHOSEN_NUMBERS: usize = 8;
    const CHOSEN_NUMBERS_COUNT: usize = 9;

    /// Reads it. Of one that is longer, what is not known here must be zero.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`] for one that is too short, [`Errno::E2BIG`] for one that says what is not known, [`Errno::EFAULT`].
    fn read(memory: &Memory, at: UserAddress, len: u64) -> Outcome<Self> {
        if len > PAGE_SIZE {
            return Err(Errno::E2BIG);
        }
        if len < Self::LEAST {
            return Err(Errno::EINVAL);
        }
        const KNOWN: usize = Wanted::WORDS * 8;
        let mut bytes = alloc::vec![0; (len as usize).max(KNOWN)];
        memory.read(at, &mut bytes[..len as usize])?;
        let (known, more) = bytes.split_at(KNOWN);
        if more.iter().any(|&byte| byte != 0) {
            return Err(Errno::E2BIG);
        }
        let (words, _) = known.as_chunks();
        Ok(Self(core::array::from_fn(|word| u64::from_le_bytes(words[word]))))
    }

    /// What it asks for, if that makes sense and exists here.
    ///
    /// # Errors
    ///
    /// [`Errno::EINVAL`].
    fn checked(&self) -> Outcome<Making> {
        const KNOWN: u64 = u32::MAX as u64 | CLONE_CLEAR_SIGHAND;
        let flags = self.0[Self::FLAGS];
        let has = |wanted: u32| flags & u64::from(wanted) != 0;
        let signal = self.0[Self::EXIT_SIGNAL];
        let (stack, size) = (self.0[Self::STACK], self.0[Self::STACK_SIZE]);
        let is_wrong = flags & !KNOWN != 0
            || flags & SIGNAL != 0
            || has(CLONE_DETACHED)
            || has(CLONE_SIGHAND) && flags & CLONE_CLEAR_SIGHAND != 0
            || has(CLONE_THREAD | CLONE_PARENT) && signal != 0
            || signal > Signal::COUNT as u64
            || self.0[Self::CHOSEN_NUMBERS] | self.0[Self::CHOSEN_NUMBERS_COUNT] != 0
            || (stack == 0) != (size == 0)
            || !UserAddress(stack).holds(size);
        if is_wrong {
            return Err(Errno::EINVAL);
        }
        Ok(Making {
            flags,
            stack: stack + size,
            parent_number: UserAddress(self.0[Self::PARENT_NUMBER]),
            child_number: UserAddress(self.0[Self::CHILD_NUMBER]),
            thread_pointer: self.0[Self::THREAD_POINTER],
        })
    }
}

fn make(call: &mut Arguments<'_>, request: &Making) -> Outcome {
    let has = |flag| request.has(flag);
    if has(CLONE_THREAD) && !has(CLONE_SIGHAND)
        || has(CLONE_SIGHAND) && !has(CLONE_VM)
        || request.flags & NOT_HERE != 0
    {
        return Err(Errno::EINVAL);
    }
    if !process::has_room() {
        return Err(Errno::EAGAIN);
    }
    let mut registers = *call.registers;
    registers.set_result(0);
    if request.stack != 0 {
        registers.set_stack(request.stack);
    }
    let mut extended = sched::current()
        .change_extended(|extended| extended.clone())
        .unwrap_or_else(|| Box::new(Extended::new()));
    if has(CLONE_SETTLS)
        && !set_thread_pointer(&mut registers, &mut extended, request.thread_pointer)
    {
        return Err(Errno::EPERM);
    }
    let process = process_for(call.task, request)?;
    let number = if has(CLONE_THREAD) { process::next_task_number() } else { process.number };
    let child = Task::new(number, process.clone(), call.task.mask.load(Ordering::Relaxed));
    tell_number(call.task, &child, request);
    if let Err(error) = child.start(registers, extended) {
        if !has(CLONE_THREAD) {
            process.finish();
            let _ = process::reap(number);
        }
        return Err(error);
    }
    if has(CLONE_VFORK) {
        wait_for_memory(call.task, &process);
    }
    Ok(number.into())
}

/// The process that a new thread is of: its maker's, or a new one.
fn process_for(maker: &Task, request: &Making) -> Outcome<Arc<Process>> {
    let own = &maker.process;
    if request.has(CLONE_THREAD) {
        return Ok(own.clone());
    }
    let memory = if request.has(CLONE_VM) { own.memory() } else { Arc::new(own.memory().fork()?) };
    let inherited = Inherited {
        shares_descriptors: request.has(CLONE_FILES),
        handlers: request.flags & CLONE_CLEAR_SIGHAND == 0,
    };
    Ok(own.child(memory, inherited))
}

/// Writes a new thread's number where that is wanted. As Linux, which does not say so either if it cannot be written.
fn tell_number(maker: &Task, child: &Task, request: &Making) {
    let number = child.number().to_le_bytes();
    if request.has(CLONE_CHILD_CLEARTID) {
        child.cleared_at_end.store(request.child_number.0, Ordering::Relaxed);
    }
    if request.has(CLONE_CHILD_SETTID) {
        let _ = child.process.memory().write(request.child_number, &number);
    }
    if request.has(CLONE_PARENT_SETTID) {
        let _ = maker.process.memory().write(request.parent_number, &number);
    }
}

/// Until the child of a vfork has let go of our memory. Signals wait, but for our own end.
fn wait_for_memory(task: &Task, child: &Process) {
    loop {
        let moment = sched::events::moment();
        if child.memory_released.load(Ordering::Acquire) || task.process.is_ending() {
            return;
        }
        sched::events::wait(moment, None);
    }
}
