//! x86-64: booted by PVH, driven by local APICs.
//!
//! What the rest of the kernel uses: `backend`, `boot`, `context`, `control`,
//! `cpu_state`, `error`, `exit`, `ipi`, `irq`, `layout`, `probe`, `registers`, `root`, `serial`, `time`, `tlb`, `user`.

mod acpi;
mod apic;
pub mod backend;
pub mod boot;
pub mod context;
pub mod control;
pub mod cpu_state;
mod descriptors;
pub mod entry;
pub mod error;
pub mod exceptions;
pub mod exit;
pub mod ipi;
pub mod irq;
pub mod layout;
pub mod probe;
pub mod registers;
pub mod root;
pub mod serial;
mod smp;
mod tests;
pub mod time;
pub mod tlb;
pub mod user;
mod vectors;

use crate::memory::boot::{PhysAddr, PhysRange};
use kpkeys_pgtable::{Entry, VirtAddr};
use kpkeys_workloads::attack::Platform;

/// The format of this architecture's page tables.
#[cfg(not(feature = "la57"))]
pub type Format = kpkeys_pgtable::entry::X86_64;
/// The format of this kernel's page tables.
#[cfg(feature = "la57")]
pub type Format = kpkeys_pgtable::entry::X86_64La57;

/// The address of something of the kernel's. (The `x86_64` crate makes its own of 48 bits alone.)
fn pointer(address: u64) -> ::x86_64::VirtAddr {
    debug_assert!(VirtAddr(address).is_canonical::<Format>());
    // SAFETY: what the kernel has a pointer to is translated, so that the address is one that this CPU takes.
    unsafe { ::x86_64::VirtAddr::new_unsafe(address) }
}

/// Nothing: page-table stores are ordered with the walks of the CPU that makes them (Intel SDM vol. 3A, 4.10.4.3), and
/// other CPUs fault once more at worst.
pub fn entry_barrier() {}

/// A leaf entry as the early tables have it: as any other.
pub fn early_leaf(entry: Entry) -> Entry {
    entry
}

/// The device pages that the kernel's tables map from [`layout::DEVICES`] up.
pub fn devices() -> impl Iterator<Item = PhysAddr> {
    // Boot read the same register and refused a machine without a local APIC.
    apic::address().ok().flatten().into_iter()
}

/// Whether this kernel's own driver writes them, by `write_device`: they can be closed outside of windows then.
pub const DEVICES_ARE_WRITTEN_IN_WINDOWS: bool = true;

/// Whether a page of devices, by its number, is written during start alone.
pub fn is_device_settled(_: usize) -> bool {
    false
}

/// Memory that nothing uses once the CPUs are up, and that page tables that are protected must not map.
pub fn only_for_start() -> Option<PhysRange> {
    Some(boot::ONLY_FOR_START)
}

/// Where a structure is that could be turned against page tables. For attacks.
pub fn platform(platform: Platform) -> Option<VirtAddr> {
    /// The gate of NMIs, and the part of a task state that names their stack.
    const NMI_GATE: u64 = 2 * 16;
    const STACKS: u64 = 0x20;
    let (exceptions, task) = descriptors::addresses();
    Some(match platform {
        Platform::ExceptionTable => VirtAddr(exceptions + NMI_GATE),
        Platform::TaskState => VirtAddr((task & !7) + STACKS),
        Platform::InterruptController => VirtAddr(apic::task_priority()?),
        Platform::FlushAnswer => VirtAddr(crate::cpu::rounds::answer_address()),
        Platform::StartCode => VirtAddr(layout::linear(boot::TRAMPOLINE) as u64),
    })
}

/// Where the frame of the call interrupt being handled keeps the interrupted protection register. For attacks.
pub fn interrupted_register() -> *mut u64 {
    crate::cpu::this().arch.interrupted_register.load(core::sync::atomic::Ordering::Relaxed)
}

/// One line about a CPU, for the boot log: its id on the bus and its control bits.
pub fn describe_cpu(cpu: &crate::cpu::Cpu) -> alloc::string::String {
    alloc::format!("APIC {}, {}", cpu.arch.apic_id(), crate::protection::control::reported(cpu))
}
