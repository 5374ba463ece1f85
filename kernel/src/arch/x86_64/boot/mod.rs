//! From the boot loader to the kernel proper, on the boot CPU.
//!
//! `entry` (assembly) reaches 64-bit mode on the boot tables; [`boot_cpu`] finds out what
//! machine this is, builds the early tables from that, and moves to them and to a stack with
//! a guard page. Whatever the machine lacks stops the boot with a reason.

pub mod entry;
mod pvh;

use super::backend::Choice;
use super::{acpi, apic, context, control, descriptors, time};
use crate::cpu::stack::{self, Stack};
use crate::lock::IrqLock;
use crate::memory::boot::{BootMemory, PhysRange};
use crate::start::boot_info::BootInfo;
use crate::start::early_tables;
use crate::start::image;
use crate::{console, cpu, exit, protection};
use core::sync::atomic::Ordering;
use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

/// The first 1 MiB belongs to the firmware, and to the trampoline.
const LOW_MEMORY: PhysRange = PhysRange::new(0, 1 << 20);
/// What the final tables do not map where page tables are protected: whoever can write below 1 MiB can have another CPU run it, by a start-up
/// IPI, in real mode, where there is no paging. In whole blocks of the linear map.
pub const ONLY_FOR_START: PhysRange =
    LOW_MEMORY.rounded_out(kpkeys_pgtable::Level::Pmd.entry_bytes::<crate::arch::Format>());

/// Where the other CPUs start.
pub const TRAMPOLINE: kpkeys_pgtable::PhysAddr =
    kpkeys_pgtable::PhysAddr(entry::TRAMPOLINE_ADDRESS);

/// What [`boot_cpu`] found, on its way to [`on_final_stack`].
static FOUND: IrqLock<Option<(BootInfo, acpi::Topology)>> = IrqLock::new(None);

/// The kernel's first Rust code. `start_info` is what the boot loader passed in EBX.
pub extern "C" fn boot_cpu(start_info: u32) -> ! {
    time::start_clock();
    let boot_cpu = cpu::get(cpu::CpuId(0)).expect("CPU 0 always exists");
    // SAFETY: the first thing on the first CPU; the console comes right after.
    unsafe {
        boot_cpu.arch.install();
        console::init();
    }
    log::info!("kpkeys kernel {} on x86_64", env!("CARGO_PKG_VERSION"));
    descriptors::install();
    if let Err(missing) = control::enable_required() {
        exit::refuse(format_args!("{missing}"));
    }
    // SAFETY: called by the entry code with the loader's pointer, on the boot tables.
    let mut found = unsafe { discover(start_info) };
    // SAFETY: `discover` left out of free memory whatever is in use.
    unsafe { move_to_early_tables(&mut found.0.memory) };
    *FOUND.lock() = Some(found);

    let Some(stack) = Stack::take() else { exit::refuse(format_args!("no stack is left")) };
    let top = stack.top();
    core::mem::forget(stack); // CPU 0's idle thread has it for ever
    // SAFETY: the stack is fresh, and nothing refers to the boot stack any more.
    unsafe { context::call_on_stack(top, on_final_stack) }
}

extern "C" fn on_final_stack() -> ! {
    let found = FOUND.lock().take();
    let (info, topology) = found.expect("`boot_cpu` stored it");
    crate::kernel_main(info, |backend, memory_is_ready| {
        start_machine(&topology, backend, memory_is_ready);
    })
}

/// # Safety
///
/// `start_info` must be the loader's pointer, and the boot tables in use.
unsafe fn discover(start_info: u32) -> (BootInfo, acpi::Topology) {
    // SAFETY: forwarded.
    let info = match unsafe { pvh::BootInformation::read(start_info) } {
        Ok(info) => info,
        Err(error) => exit::refuse(format_args!("{error}")),
    };
    // SAFETY: forwarded.
    let topology = match unsafe { acpi::cpus(info.rsdp()) } {
        Ok(topology) => topology,
        Err(error) => exit::refuse(format_args!("{error}")),
    };
    stack::make_for(topology.apic_ids.len());
    let mut memory = BootMemory::new(info.ram());
    for used in [ONLY_FOR_START, image::frames()] {
        memory.reserve(used);
    }
    let command_line = info.command_line().unwrap_or_else(|| {
        exit::refuse(format_args!("the command line is not valid UTF-8"));
    });
    match BootInfo::new(memory, command_line, info.module()) {
        Ok(info) => (info, topology),
        Err(error) => exit::refuse(format_args!("{error}")),
    }
}

/// # Safety
///
/// Free boot memory must be unused, and the boot tables in use.
unsafe fn move_to_early_tables(memory: &mut BootMemory) {
    let local_apic = match apic::address() {
        Ok(address) => address,
        Err(error) => exit::refuse(format_args!("{error}")),
    };
    // SAFETY: forwarded.
    if let Err(error) = unsafe { early_tables::build(memory, local_apic.into_iter()) } {
        exit::refuse(format_args!("{error}"));
    }
    let root = PhysAddr::new(early_tables::ROOT.load(Ordering::Acquire));
    // SAFETY: the early tables map the image where the boot tables do, so execution goes on;
    // the boot stack is part of it. One-to-one addresses are not used from here on.
    unsafe {
        Cr3::write(PhysFrame::containing_address(root), Cr3Flags::empty());
        console::open_screen();
    }
}

/// The backend, interrupts, time and the other CPUs, in this order.
fn start_machine(topology: &acpi::Topology, backend: Choice, _: crate::memory::heap::Ready) {
    // SAFETY: once, on the boot CPU, interrupts off, no thread and no other CPU yet.
    if let Err(unusable) = unsafe { protection::select(backend) } {
        exit::refuse(format_args!("{unusable}"));
    }
    apic::mask_legacy_controllers();
    apic::enable();
    time::calibrate();
    protection::control::report();
    crate::sched::adopt_idle_thread();
    crate::start::smp::start_machine(topology.apic_ids.len(), topology.left_out, || {
        // SAFETY: once, on the boot CPU, with the early tables in use; low memory is reserved.
        unsafe { super::smp::start_others(&topology.apic_ids) }
    });
}
