//! Which CPU is in a gate: what interrupts are to a kernel, which a process has none of.
//!
//! A thread says that it is in a gate by a store to a cache line of its own. That store and what follows are told apart by a [`Fence`], so that one that waits
//! either sees the store or is seen.

use std::hint;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_utils::CachePadded;

use crate::cpu;
use crate::fence::{Fence, HostFence};

/// One flag for each CPU.
#[derive(Debug)]
pub(crate) struct Gates<F = HostFence> {
    inside: Box<[CachePadded<AtomicBool>]>,
    fence: F,
}

impl<F: Fence> Gates<F> {
    pub(crate) fn new(cpus: usize) -> Self {
        let inside = (0..cpus).map(|_| CachePadded::new(AtomicBool::new(false))).collect();
        Gates { inside, fence: F::new() }
    }

    /// Enters a gate. Returns whether this CPU was in none.
    #[inline(always)]
    pub(crate) fn enter(&self) -> bool {
        let inside = self.own();
        let was_inside = inside.load(Ordering::Relaxed);
        inside.store(true, Ordering::Relaxed);
        self.fence.often();
        !was_inside
    }

    /// Leaves it.
    #[inline(always)]
    pub(crate) fn leave(&self) {
        self.own().store(false, Ordering::Release);
    }

    /// Waits until every other CPU has been outside of a gate. False if the host has no means for that.
    pub(crate) fn wait(&self) -> bool {
        if !self.fence.seldom() {
            return self.inside.len() == 1;
        }
        let others = self.inside.iter().enumerate().filter(|(cpu, _)| *cpu != cpu::current());
        for (_, inside) in others {
            while inside.load(Ordering::Acquire) {
                hint::spin_loop();
            }
        }
        true
    }

    /// # Panics
    ///
    /// If this thread plays a CPU that the machine has not.
    #[inline(always)]
    fn own(&self) -> &AtomicBool {
        &self.inside[cpu::current()]
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn waiting_ends_when_the_other_cpu_has_left_its_gate() {
        waits(&Gates::<HostFence>::new(2));
        waits(&Gates::<crate::fence::Full>::new(2));
    }

    fn waits<F: Fence + Sync>(gates: &Gates<F>) {
        let [entered, left] = [const { AtomicBool::new(false) }; 2];
        thread::scope(|scope| {
            scope.spawn(|| {
                cpu::become_cpu(1);
                assert!(gates.enter(), "it was in none");
                assert!(!gates.enter(), "a gate within a gate");
                entered.store(true, Ordering::Release);
                thread::sleep(Duration::from_millis(20));
                left.store(true, Ordering::Release);
                gates.leave();
            });
            while !entered.load(Ordering::Acquire) {
                hint::spin_loop();
            }
            // Its own gate is not waited for.
            gates.enter();
            assert!(gates.wait());
            assert!(left.load(Ordering::Acquire), "the other CPU was in its gate");
        });
    }
}
