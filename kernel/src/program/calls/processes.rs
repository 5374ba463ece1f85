//! Calls that make, change and end processes and threads.

use super::Arguments;
use super::paths;
use crate::arch::registers::{Extended, set_thread_pointer};
use crate::program::errno::{Errno, Outcome};
use crate::program::load::{self, Request};
use crate::program::memory::UserAddress;
use crate::program::process::{self, ALL_CAPABILITIES, Process, Status};
use crate::program::signals::Action;
use crate::program::task::Task;
use crate::sched;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{
    CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET,
    CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS, CLONE_PARENT_SETTID, CLONE_SETTLS,
    CLONE_SIGHAND, CLONE_THREAD, CLONE_VFORK, CLONE_VM,
};

/// Flags that ask for namespaces, which there are none of.
const NAMESPACES: u32 = CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET;

/// What `clone` is asked for.
struct Making {
    flags: u32,
    stack: u64,
    parent_number: UserAddress,
    child_number: UserAddress,
    thread_pointer: u64,
}

/// `clone`
pub fn clone(call: &mut Arguments<'_>) -> Outcome {
    #[cfg(target_arch = "x86_64")]
    const CHILD_AND_POINTER: (usize, usize) = (3, 4);
    #[cfg(target_arch = "aarch64")]
    const CHILD_AND_POINTER: (usize, usize) = (4, 3);
    let request = Making {
        flags: call.value(0) as u32,
        stack: call.value(1),
        parent_number: call.address(2),
        child_number: call.address(CHILD_AND_POINTER.0),
        thread_pointer: call.value(CHILD_AND_POINTER.1),
    };
    make(call, &request)
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
        flags,
        stack: 0,
        parent_number: nowhere,
        child_number: nowhere,
        thread_pointer: 0,
    };
    make(call, &request)
}

fn make(call: &mut Arguments<'_>, request: &Making) -> Outcome {
    let has = |flag: u32| request.flags & flag != 0;
    if has(CLONE_THREAD) && !(has(CLONE_VM) && has(CLONE_SIGHAND)) || has(NAMESPACES) {
        return Err(Errno::EINVAL);
    }
    if !process::has_room() {
        return Err(Errno::EAGAIN);
    }
    let own = &call.task.process;
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
    let child_process = if has(CLONE_THREAD) {
        own.clone()
    } else {
        let memory = if has(CLONE_VM) { own.memory() } else { Arc::new(own.memory().fork()?) };
        own.child(memory)
    };
    let number = if has(CLONE_THREAD) { process::next_task_number() } else { child_process.number };
    let child = Task::new(number, child_process.clone(), call.task.mask.load(Ordering::Relaxed));
    if has(CLONE_CHILD_CLEARTID) {
        child.cleared_at_end.store(request.child_number.0, Ordering::Relaxed);
    }
    // As Linux, which does not say so either if these cannot be written.
    if has(CLONE_CHILD_SETTID) {
        let _ = child_process.memory().write(request.child_number, &number.to_le_bytes());
    }
    if has(CLONE_PARENT_SETTID) {
        let _ = own.memory().write(request.parent_number, &number.to_le_bytes());
    }
    if let Err(error) = child.start(registers, extended) {
        if !has(CLONE_THREAD) {
            child_process.finish();
            let _ = process::reap(number);
        }
        return Err(error);
    }
    if has(CLONE_VFORK) {
        wait_for_memory(call.task, &child_process);
    }
    Ok(number.into())
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

/// `execve`
pub fn execve(call: &mut Arguments<'_>) -> Outcome {
    let task = call.task;
    let path = paths::text(task, call.address(0))?;
    let request = Request {
        arguments: texts(task, call.address(1))?,
        environment: texts(task, call.address(2))?,
    };
    let here = task.process.place.lock().clone();
    let loaded =
        load::load(task.process.root(), &here, &path, request).map_err(load::Error::errno)?;
    task.become_only()?;
    // Nothing fails from here on.
    task.cleared_at_end.store(0, Ordering::Relaxed);
    *task.alternate_stack.lock() = Default::default();
    {
        let mut identity = task.process.identity.lock();
        (identity.executable, identity.arguments) = (loaded.path, loaded.arguments);
    }
    // Whoever is root has everything again.
    *task.process.capabilities.lock() = ALL_CAPABILITIES;
    for action in task.process.actions.lock().iter_mut() {
        let ignored = action.handler == 1;
        *action = Action { handler: u64::from(ignored), ..Action::DEFAULT };
    }
    task.process.descriptors.lock().close_on_exec();
    task.use_memory(&loaded.memory);
    drop(task.process.replace_memory(Arc::new(loaded.memory)));
    task.process.memory_released.store(true, Ordering::Release);
    sched::events::announce();
    sched::current().change_extended(|extended| *extended = Some(Box::new(Extended::new())));
    *call.registers = loaded.registers;
    Ok(0)
}

/// The texts of a list of pointers that ends with null; none for no list.
fn texts(task: &Task, list: UserAddress) -> Outcome<Vec<Vec<u8>>> {
    const MAX_BYTES: usize = kpkeys_program::stack::MAX_BYTES;
    let memory = task.process.memory();
    let mut texts = Vec::new();
    let mut bytes = 0;
    if list.is_null() {
        return Ok(texts);
    }
    loop {
        let at = UserAddress(memory.read_u64(list.offset(8 * texts.len() as u64))?);
        if at.is_null() {
            return Ok(texts);
        }
        let text = memory.read_text(at)?;
        bytes += text.len() + 9;
        if bytes > MAX_BYTES {
            return Err(Errno::E2BIG);
        }
        texts.push(text);
    }
}

/// `exit`: the thread alone. It leaves when it would go back to its program.
pub fn exit(call: &mut Arguments<'_>) -> Outcome {
    if call.task.process.task_count() == 1 {
        return exit_group(call);
    }
    call.task.leave();
    Ok(0)
}

/// `exit_group`
pub fn exit_group(call: &mut Arguments<'_>) -> Outcome {
    call.task.process.end(Status::exited(call.value(0)));
    Ok(0)
}

/// `set_tid_address`
pub fn set_tid_address(call: &mut Arguments<'_>) -> Outcome {
    call.task.cleared_at_end.store(call.value(0), Ordering::Relaxed);
    Ok(call.task.number().into())
}
