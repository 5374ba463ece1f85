//! arm64: booted as a Linux Image with a device tree, driven by a GIC and the generic timer.
//!
//! What the rest of the kernel uses: `backend`, `boot`, `context`, `control`,
//! `cpu_state`, `error`, `exit`, `ipi`, `irq`, `layout`, `probe`, `registers`, `root`, `serial`, `time`, `tlb`, `user`.

mod asid;
pub mod backend;
pub mod boot;
pub mod context;
pub mod control;
pub mod cpu_state;
mod devices;
pub mod entry;
pub mod error;
pub mod exceptions;
pub mod exit;
mod gic;
mod granule;
mod indirection;
pub mod ipi;
pub mod irq;
pub mod layout;
pub mod probe;
mod psci;
mod register;
pub mod registers;
pub mod root;
pub mod serial;
mod smp;
mod tests;
pub mod time;
pub mod tlb;
pub mod user;

use crate::memory::boot::{PhysAddr, PhysRange};
use core::arch::asm;
use kpkeys_pgtable::{Entry, VirtAddr};
use kpkeys_workloads::attack::Platform;

pub use granule::Format;

/// Makes stored entries visible to table walks, and this CPU's next instructions see what they map (Arm ARM, K11.5.3): without it the
/// first use of a new kernel mapping may fault, and the kernel takes no such fault twice.
pub fn entry_barrier() {
    // SAFETY: barriers have no effect but to order.
    unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
}

/// A leaf entry as the early tables have it: not global (see `root`).
pub fn early_leaf(entry: Entry) -> Entry {
    const NOT_GLOBAL: u64 = 1 << 11;
    Entry(entry.0 | NOT_GLOBAL)
}

/// The device pages that the kernel's tables map from [`layout::DEVICES`] up.
pub fn devices() -> impl Iterator<Item = PhysAddr> {
    devices::pages()
}

/// The interrupt controller's driver is a library's, which knows of no windows.
pub const DEVICES_ARE_WRITTEN_IN_WINDOWS: bool = false;

/// Memory that nothing uses once the CPUs are up: none, since they start wherever PSCI is told to.
pub fn only_for_start() -> Option<PhysRange> {
    None
}

/// Whether a page of devices, by its number, is written during start alone.
pub fn is_device_settled(page: usize) -> bool {
    devices::is_settled(page)
}

/// Where a structure is that could be turned against page tables. There is no exception table and no task state: the vectors are code. For attacks.
pub fn platform(platform: Platform) -> Option<VirtAddr> {
    match platform {
        Platform::InterruptController => {
            gic::pending_table_register().map(|register| VirtAddr(register as u64))
        }
        Platform::FlushAnswer => Some(VirtAddr(crate::cpu::rounds::answer_address())),
        Platform::ExceptionTable | Platform::TaskState | Platform::StartCode => None,
    }
}

/// Where the frame of the call interrupt being handled keeps the interrupted protection register. For attacks.
pub fn interrupted_register() -> *mut u64 {
    crate::cpu::this().arch.interrupted_register.load(core::sync::atomic::Ordering::Relaxed)
}

/// One line about a CPU, for the boot log: its affinity and its control bits.
pub fn describe_cpu(cpu: &crate::cpu::Cpu) -> alloc::string::String {
    alloc::format!("MPIDR {:#x}, {}", cpu.arch.mpidr(), crate::protection::control::reported(cpu))
}
