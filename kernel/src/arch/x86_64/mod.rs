//! x86-64: booted by PVH, driven by local APICs.
//!
//! What the rest of the kernel uses: `boot` (the early page tables), `context`, `control`,
//! `cpu_state`, `exit`, `image`, `ipi`, `irq`, `layout`, `probe`, `serial`, `time`, `tlb`.

mod acpi;
mod apic;
pub mod boot;
pub mod context;
pub mod control;
pub mod cpu_state;
mod descriptors;
mod entry;
mod exceptions;
pub mod exit;
pub mod image;
pub mod ipi;
pub mod irq;
pub mod layout;
pub mod probe;
pub mod serial;
mod smp;
pub mod time;
pub mod tlb;

/// One line about a CPU, for the boot log: its id on the bus and its control bits.
pub fn describe_cpu(cpu: &crate::cpu::Cpu) -> alloc::string::String {
    alloc::format!("APIC {}, {}", cpu.arch.apic_id(), control::reported(cpu))
}
