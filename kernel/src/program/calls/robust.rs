//! Robust lists: a thread that ends while it holds locks says so in them, and wakes whoever waits.
//!
//! The list lies in the program's memory, and nothing in it is believed: each word is reached as any other of the program's, what cannot be
//! ends the walk, and so do more entries than there may be.

use super::{Arguments, futex};
use crate::program::errno::{Errno, Outcome};
use crate::program::memory::{Memory, UserAddress};
use crate::program::task::Task;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{FUTEX_OWNER_DIED, FUTEX_TID_MASK, FUTEX_WAITERS, ROBUST_LIST_LIMIT};

/// Bytes of a list's head: the first entry, where an entry's lock is, and the entry that is being added or taken out.
pub const HEAD: u64 = 24;
/// The bit of a pointer that says that the lock is one with inheritance of priorities.
const INHERITS: u64 = 1;

/// `set_robust_list`
pub fn set_robust_list(call: &mut Arguments<'_>) -> Outcome {
    if call.value(1) != HEAD {
        return Err(Errno::EINVAL);
    }
    call.task.robust_list.store(call.value(0), Ordering::Relaxed);
    Ok(0)
}

/// `get_robust_list`, of threads of one's own process.
pub fn get_robust_list(call: &mut Arguments<'_>) -> Outcome {
    let list = match call.value(0) as u32 {
        0 => call.task.robust_list.load(Ordering::Relaxed),
        number => {
            let thread = Task::find(call.task.process.number, number).ok_or(Errno::ESRCH)?;
            thread.robust_list.load(Ordering::Relaxed)
        }
    };
    let memory = call.task.process.memory();
    memory.write(call.address(2), &HEAD.to_le_bytes())?;
    memory.write(call.address(1), &list.to_le_bytes()).map(|()| 0)
}

/// A thread ends, or runs another program: its list is gone through, once.
pub fn release(task: &Task) {
    let head = UserAddress(task.robust_list.swap(0, Ordering::Relaxed));
    if !head.is_null() {
        let walk = Walk { memory: task.process.memory(), number: task.number() };
        // What cannot be read is the program's mistake, and ends it.
        let _ = walk.all(head);
    }
}

struct Walk {
    memory: Arc<Memory>,
    /// Of the thread that ends, as its locks have it.
    number: u32,
}

/// An entry: where it is, and whether its lock inherits priorities.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry(u64);

impl Entry {
    fn address(self) -> UserAddress {
        UserAddress(self.0 & !INHERITS)
    }

    fn inherits(self) -> bool {
        self.0 & INHERITS != 0
    }
}

impl Walk {
    fn entry(&self, at: UserAddress) -> Outcome<Entry> {
        self.memory.read_u64(at).map(Entry)
    }

    fn all(&self, head: UserAddress) -> Outcome<()> {
        let mut entry = self.entry(head)?;
        let to_lock = self.memory.read_u64(head.offset(8))?;
        let pending = self.entry(head.offset(16))?;
        for _ in 0..ROBUST_LIST_LIMIT {
            if entry.address() == head {
                break;
            }
            // The lock may be freed as soon as it is told.
            let next = self.entry(entry.address());
            if entry.address() != pending.address() {
                self.tell(entry, to_lock, false)?;
            }
            entry = next?;
        }
        if !pending.address().is_null() {
            self.tell(pending, to_lock, true)?;
        }
        Ok(())
    }

    /// Says in an entry's lock that its owner has died, if that is the thread, and wakes one who waits.
    fn tell(&self, entry: Entry, to_lock: u64, is_pending: bool) -> Outcome<()> {
        let lock = entry.address().offset(to_lock);
        let wake = || _ = futex::wake(&self.memory, lock, 1);
        let mut value = self.memory.load_word(lock)?;
        loop {
            let owner = value & FUTEX_TID_MASK;
            // It was let go, and whoever should have been woken was not.
            if is_pending && !entry.inherits() && owner == 0 {
                wake();
            }
            if owner != self.number {
                return Ok(());
            }
            let died = value & FUTEX_WAITERS | FUTEX_OWNER_DIED;
            match self.memory.exchange_word(lock, value, died)? {
                Ok(_) => break,
                Err(changed) => value = changed,
            }
        }
        if !entry.inherits() && value & FUTEX_WAITERS != 0 {
            wake();
        }
        Ok(())
    }
}
