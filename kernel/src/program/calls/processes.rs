//! Calls that change and end processes and threads.

use super::{Arguments, paths, robust};
use crate::arch::registers::Extended;
use crate::program::errno::{Errno, Outcome};
use crate::program::load::{self, Request};
use crate::program::memory::UserAddress;
use crate::program::process::{ALL_CAPABILITIES, Identity, Status};
use crate::program::signals::Action;
use crate::program::task::Task;
use crate::sched;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

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
        load::load(&task.process.root(), &here, &path, request).map_err(load::Error::errno)?;
    task.become_only()?;
    // Nothing fails from here on.
    robust::release(task);
    task.cleared_at_end.store(0, Ordering::Relaxed);
    *task.alternate_stack.lock() = Default::default();
    *task.process.identity.lock() = Identity::new(&path, loaded.path, loaded.arguments);
    // Whoever is root has everything again.
    *task.process.capabilities.lock() = ALL_CAPABILITIES;
    task.process.actions.lock().iter_mut().for_each(Action::forget_handler);
    task.process.own_descriptors().lock().close_on_exec();
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
