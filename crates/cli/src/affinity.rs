//! Keeping a thread, and the processes it starts, to one CPU.
//!
//! macOS has no call for it: there threads run where the system puts them.

/// CPUs this process may use; none where the system does not say.
pub fn allowed() -> Vec<usize> {
    system::allowed()
}

/// Keeps the calling thread, and the processes it will start, to a CPU. Without the right to, or the means, they run anywhere.
pub fn keep_to(cpu: usize) {
    system::keep_to(cpu);
}

#[cfg(target_os = "linux")]
mod system {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    pub fn allowed() -> Vec<usize> {
        match sched_getaffinity(None) {
            Ok(allowed) => (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect(),
            Err(_) => Vec::new(),
        }
    }

    pub fn keep_to(cpu: usize) {
        if cpu < CpuSet::MAX_CPU {
            let mut one = CpuSet::new();
            one.set(cpu);
            let _ = sched_setaffinity(None, &one);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub fn allowed() -> Vec<usize> {
        Vec::new()
    }

    pub fn keep_to(_: usize) {}
}
