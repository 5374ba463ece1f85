//! System calls.
//!
//! [`table::CALLS`] has each call with the kinds of its arguments. [`run`] looks a call up, refuses pointers that cannot be a program's,
//! by these kinds and before the call itself sees them, and makes it. What passes is still only an address: the calls reach it by
//! [`Memory`](super::memory::Memory)'s copies, which look at every page.

pub mod attributes;
pub mod cloning;
pub mod control;
pub mod files;
pub mod futex;
pub mod identity;
pub mod locks;
pub mod memory;
pub mod names;
pub mod opening;
pub mod paths;
pub mod pipes;
pub mod poll;
pub mod processes;
pub mod robust;
pub mod scheduling;
pub mod signals;
pub mod status;
pub mod table;
pub mod time;
pub mod usage;
pub mod users;
pub mod waiting;
pub mod words;

use super::errno::{Errno, Outcome};
use super::memory::UserAddress;
use super::task::Task;
use crate::arch::registers::Registers;
use crate::lock::IrqLock;
use crate::memory::heap;
use alloc::collections::BTreeSet;
use table::{Call, Kind};

/// What a call is given.
pub struct Arguments<'a> {
    /// The thread that makes it.
    pub task: &'a Task,
    /// Its registers, behind the call.
    pub registers: &'a mut Registers,
    values: [u64; 6],
}

impl Arguments<'_> {
    /// An argument as a number.
    pub fn value(&self, place: usize) -> u64 {
        self.values[place]
    }

    /// An argument as an address.
    pub fn address(&self, place: usize) -> UserAddress {
        UserAddress(self.values[place])
    }

    /// A small number with a sign.
    pub fn signed(&self, place: usize) -> i64 {
        (self.values[place] as i32).into()
    }
}

/// Numbers of calls that were asked for and do not exist.
static UNKNOWN: IrqLock<BTreeSet<u64>> = IrqLock::new(BTreeSet::new());

/// Makes a system call.
///
/// # Errors
///
/// What programs are told; [`Errno::RESTART`] if a signal came first.
pub fn run(task: &Task, registers: &mut Registers, number: u64, values: [u64; 6]) -> Outcome {
    let Some(call) = table::find(number) else {
        if UNKNOWN.lock().insert(number) {
            log::warn!("system call {number} does not exist here: ENOSYS");
        }
        return Err(Errno::ENOSYS);
    };
    check(call, &values)?;
    if call.keeps && heap::is_short() {
        return Err(Errno::ENOMEM);
    }
    (call.run)(&mut Arguments { task, registers, values })
}

/// Refuses pointers that reach out of the program's half.
///
/// # Errors
///
/// [`Errno::EFAULT`].
pub fn check(call: &Call, values: &[u64; 6]) -> Outcome<()> {
    for (kind, &value) in call.arguments.iter().zip(values) {
        let bytes = match *kind {
            Kind::Value => continue,
            Kind::Text => 1,
            Kind::Bytes(bytes) => bytes,
            // A count with more bits than any memory has is cut off by the call itself.
            Kind::Counted(size, place) => size.saturating_mul(values[place]),
        };
        if value != 0 && !UserAddress(value).holds(bytes) {
            return Err(Errno::EFAULT);
        }
    }
    Ok(())
}
