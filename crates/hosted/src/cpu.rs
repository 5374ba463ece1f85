//! Threads as CPUs: each has a number.

use std::cell::Cell;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
}

/// The number of the CPU that this thread plays; 0 unless [`become_cpu`] said otherwise.
#[inline(always)]
pub fn current() -> usize {
    CPU.get()
}

/// Makes this thread play a CPU. No two threads that use one machine may play the same.
pub fn become_cpu(number: usize) {
    CPU.set(number);
}
