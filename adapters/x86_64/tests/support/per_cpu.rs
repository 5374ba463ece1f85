//! A register for each thread, over one arena: tables can be written while a window is open on some thread. What another thread may do then,
//! only the model says, by that thread's register.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use kpkeys::keyed::{Register, Value};
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::register::{ArenaRegister, Opens};

thread_local! {
    /// The register of the CPU that this thread plays, once it was written.
    static VALUE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// See the module.
pub struct PerCpu<E> {
    arena: ArenaRegister<E>,
    open: Arc<Mutex<usize>>,
}

impl<E> Clone for PerCpu<E> {
    fn clone(&self) -> Self {
        PerCpu { arena: self.arena.clone(), open: self.open.clone() }
    }
}

impl<E: Opens> PerCpu<E> {
    pub fn new(arena: Arc<Arena>) -> Self {
        PerCpu { arena: ArenaRegister::new(arena), open: Arc::default() }
    }
}

// SAFETY: reads return what this thread last wrote; the arena is open as long as a thread is, which a lock sees to; `write` ends in a system
// call, across which the compiler moves no access.
unsafe impl<E: Opens> Register for PerCpu<E> {
    const NEEDS_BARRIER: bool = false;

    fn read(&self) -> u64 {
        VALUE.get().unwrap_or_default()
    }

    fn write(&self, value: Value) {
        let before = VALUE.replace(Some(value.bits())).is_some_and(E::opens);
        let now = E::opens(value.bits());
        let mut open = self.open.lock().expect("nobody panics with it");
        *open = *open + usize::from(now) - usize::from(before);
        if *open == usize::from(now) {
            self.arena.write(value);
        }
    }

    fn synchronize(&self) {}
}
