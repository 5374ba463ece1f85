//! The per-CPU state of arm64, and how a CPU finds its own: through `TPIDR_EL1`, which only EL1 can write.

use super::register::{mrs, msr};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// What the architecture keeps for each CPU. `TPIDR_EL1` of the CPU points here.
#[repr(C)]
pub struct CpuState {
    /// The CPU's number.
    index: usize,
    /// Top of the stack on which it says that another one ran out; read by the entry code.
    overflow_stack: AtomicU64,
    /// Its affinity, by which firmware and interrupt controller know it.
    mpidr: AtomicU64,
    /// Its bit in the targets of GICv2's interrupts.
    pub gic_v2_target: AtomicU64,
    /// Where the frame of the latest call interrupt keeps the interrupted protection register.
    pub interrupted_register: AtomicPtr<u64>,
    /// NMIs that found no request.
    pub nmis_without_request: AtomicU64,
}

impl CpuState {
    /// Where `overflow_stack` is.
    pub(super) const OVERFLOW_STACK: usize = core::mem::offset_of!(Self, overflow_stack);

    /// The state of CPU `index`, not running yet.
    pub const fn new(index: usize) -> Self {
        Self {
            index,
            overflow_stack: AtomicU64::new(0),
            mpidr: AtomicU64::new(0),
            gic_v2_target: AtomicU64::new(0),
            interrupted_register: AtomicPtr::new(core::ptr::null_mut()),
            nmis_without_request: AtomicU64::new(0),
        }
    }

    /// The affinity.
    pub fn mpidr(&self) -> u64 {
        self.mpidr.load(Ordering::Relaxed)
    }

    /// Stores the affinity, once, before the CPU starts.
    pub fn set_mpidr(&self, mpidr: u64) {
        self.mpidr.store(mpidr, Ordering::Relaxed);
    }

    /// Stores the top of the overflow stack, once, before the CPU takes exceptions.
    pub fn set_overflow_stack(&self, top: usize) {
        self.overflow_stack.store(top as u64, Ordering::Relaxed);
    }

    /// Makes the running CPU this one.
    ///
    /// # Safety
    ///
    /// Once on each CPU, and no two CPUs with the same state.
    pub unsafe fn install(&'static self) {
        // SAFETY: the register is this kernel's own; every read of it expects this pointer.
        unsafe { msr!("tpidr_el1", core::ptr::from_ref(self) as u64) };
    }
}

/// Where this CPU's state is: a register says so.
pub fn own_address() -> u64 {
    mrs!("tpidr_el1")
}

/// The number of the running CPU. [`CpuState::install`] must have run on it.
pub fn current_index() -> usize {
    let state = mrs!("tpidr_el1") as *const CpuState;
    // SAFETY: `install` put a pointer to a static there.
    unsafe { (*state).index }
}
