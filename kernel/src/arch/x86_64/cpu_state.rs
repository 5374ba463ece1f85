//! The per-CPU state of x86-64, and how a CPU finds its own: through the GS base.

use core::arch::asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use x86_64::registers::model_specific::{GsBase, KernelGsBase};

/// What the architecture keeps for each CPU. The GS base of the CPU points here.
#[repr(C)]
pub struct CpuState {
    /// The CPU's number, read through GS as the first field.
    index: usize,
    /// Where the running thread keeps its stack for exceptions of its program. Entry code reads it through GS.
    kernel_stack: AtomicU64,
    /// Its local APIC id, the address of IPIs.
    apic_id: AtomicU32,
    /// Whether the CPU is in its NMI handler.
    pub in_nmi: AtomicBool,
    /// Where the frame of the latest call interrupt keeps the interrupted protection register.
    pub interrupted_register: AtomicPtr<u64>,
    /// NMIs that found no request.
    pub nmis_without_request: AtomicU64,
}

impl CpuState {
    /// The state of CPU `index`, not running yet.
    pub const fn new(index: usize) -> Self {
        Self {
            index,
            kernel_stack: AtomicU64::new(0),
            apic_id: AtomicU32::new(0),
            in_nmi: AtomicBool::new(false),
            interrupted_register: AtomicPtr::new(core::ptr::null_mut()),
            nmis_without_request: AtomicU64::new(0),
        }
    }

    /// The local APIC id.
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    /// Stores the local APIC id, once, before the CPU starts.
    pub fn set_apic_id(&self, id: u32) {
        self.apic_id.store(id, Ordering::Relaxed);
    }

    /// Where in this structure the stack for exceptions of programs is, for entry code.
    pub const KERNEL_STACK: usize = offset_of!(CpuState, kernel_stack);

    /// The stack for exceptions of programs. Interrupts are off where it is set, and only this CPU does.
    pub fn kernel_stack(&self) -> &AtomicU64 {
        &self.kernel_stack
    }

    /// Makes the running CPU this one.
    ///
    /// # Safety
    ///
    /// Once on each CPU, and no two CPUs with the same state.
    pub unsafe fn install(&'static self) {
        let own = super::pointer(core::ptr::from_ref(self).addr() as u64);
        GsBase::write(own);
        // SWAPGS is never executed: the second register keeps the value, for `restore`.
        KernelGsBase::write(own);
    }
}

/// Puts the kernel's GS base back, after a program may have changed it. Doing it twice does no harm.
pub fn restore() {
    GsBase::write(KernelGsBase::read());
}

/// Where this CPU's state is: a register says so, which programs cannot write.
pub fn own_address() -> u64 {
    KernelGsBase::read().as_u64()
}

/// The number of the running CPU. [`CpuState::install`] must have run on it.
pub fn current_index() -> usize {
    let index;
    // SAFETY: GS points to this CPU's `CpuState`, whose first field is the index.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) index, options(nostack, preserves_flags, readonly));
    }
    index
}
