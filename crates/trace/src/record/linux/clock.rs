//! A clock for each task that stands still while the task does not run, so that what it waited is not in
//! a duration. Where the kernel does not report when tasks run, it never stands still.

use std::collections::HashMap;

/// How long tasks have waited, by thread id.
#[derive(Debug, Default)]
pub(super) struct CpuClocks {
    waits: HashMap<u32, Waits>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Waits {
    total_ns: u64,
    /// Since when it has not been running, if it is not.
    since_ns: Option<u64>,
}

impl CpuClocks {
    /// The task's clock at `time_ns`: only differences of one task's mean something.
    pub(super) fn read(&self, tid: u32, time_ns: u64) -> u64 {
        let waits = self.waits.get(&tid).copied().unwrap_or_default();
        waits.since_ns.unwrap_or(time_ns).saturating_sub(waits.total_ns)
    }

    /// The task stopped running.
    pub(super) fn stop(&mut self, tid: u32, time_ns: u64) {
        self.waits.entry(tid).or_default().since_ns.get_or_insert(time_ns);
    }

    /// The task runs again.
    pub(super) fn go_on(&mut self, tid: u32, time_ns: u64) {
        let Some(waits) = self.waits.get_mut(&tid) else { return };
        if let Some(since_ns) = waits.since_ns.take() {
            waits.total_ns += time_ns.saturating_sub(since_ns);
        }
    }

    /// The task is gone; its number may come again.
    pub(super) fn forget(&mut self, tid: u32) {
        self.waits.remove(&tid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_still_while_the_task_waits() {
        let mut clocks = CpuClocks::default();
        assert_eq!(clocks.read(7, 100), 100);
        clocks.stop(7, 150);
        assert_eq!(clocks.read(7, 180), 150);
        clocks.go_on(7, 250);
        assert_eq!(clocks.read(7, 300) - clocks.read(7, 250), 50);
        assert_eq!(clocks.read(7, 300), 200);
        assert_eq!(clocks.read(8, 300), 300, "another task's clock is its own");
    }

    #[test]
    fn a_lost_switch_makes_no_time_negative() {
        let mut clocks = CpuClocks::default();
        clocks.stop(7, 100);
        clocks.stop(7, 200);
        clocks.go_on(7, 50);
        clocks.go_on(7, 60);
        assert_eq!(clocks.read(7, 10), 10);
    }
}
