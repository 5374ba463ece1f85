//! What is timed: the time that the calling thread had a CPU.
//!
//! Elapsed time would count what other processes did with the CPU meanwhile. Nothing that is timed here sleeps, so without them the
//! two are the same.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CPU time that the calling thread has used, in user mode and in the kernel.
pub fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Both fields are never negative: this clock starts at 0 with the thread.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
