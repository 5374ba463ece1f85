//! Starting the other CPUs, one after the other: INIT, then start-up IPIs that lead through
//! the 16-bit trampoline (Intel SDM vol. 3A, 8.4.4 "MP Initialization Example").

use super::boot::entry;
use super::boot::entry::TRAMPOLINE_ADDRESS;
use super::{apic, control, descriptors, layout, time};
use crate::cpu::{self, CpuId};
use crate::memory::boot::{PAGE_SIZE, PhysAddr};
use crate::start::image;
use crate::start::smp::{PATIENCE, StartError, comes_online, prepare_stack};
use crate::{protection, sched};
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

/// Number of the CPU being started; read by the boot assembly.
pub static STARTING_CPU: AtomicU32 = AtomicU32::new(0);

/// Starts every CPU in `apic_ids` but the running one, as CPU 1, 2 and so on, and wipes the
/// boot tables and the trampoline.
///
/// # Errors
///
/// [`StartError`] names the first CPU that did not start.
///
/// # Safety
///
/// Once, on the boot CPU, with the early tables in use and the trampoline's page not free.
pub unsafe fn start_others(apic_ids: &[u8]) -> Result<(), StartError> {
    let this = apic::id();
    cpu::this().arch.set_apic_id(this);
    // SAFETY: the page at this address is RAM that boot memory does not give out.
    unsafe { entry::copy_trampoline(layout::linear(PhysAddr(TRAMPOLINE_ADDRESS))) };
    let others = apic_ids.iter().map(|&id| u32::from(id)).filter(|&id| id != this);
    for (index, apic_id) in others.enumerate() {
        start(CpuId(index + 1), apic_id)?;
    }
    // SAFETY: every CPU that was started has loaded the early tables before it came online, and no other will be started.
    unsafe {
        entry::wipe_trampoline(layout::linear(PhysAddr(TRAMPOLINE_ADDRESS)));
        image::retire_boot_tables();
    }
    Ok(())
}

fn start(id: CpuId, apic_id: u32) -> Result<(), StartError> {
    let Some(cpu) = cpu::get(id) else { return Err(StartError::Silent(id)) };
    cpu.arch.set_apic_id(apic_id);
    prepare_stack(id)?;
    STARTING_CPU.store(id.0 as u32, Ordering::Release);

    apic::send(apic_id, apic::Delivery::Init);
    time::busy_wait(Duration::from_millis(10));
    let start_up = apic::Delivery::StartUp((TRAMPOLINE_ADDRESS / PAGE_SIZE) as u8);
    apic::send(apic_id, start_up);
    if comes_online(cpu, Duration::from_millis(100)) {
        return Ok(());
    }
    apic::send(apic_id, start_up); // the second is ignored by a CPU that has started
    if comes_online(cpu, PATIENCE) { Ok(()) } else { Err(StartError::Silent(id)) }
}

/// A started CPU's first Rust code, called by the boot assembly on the CPU's own stack.
pub extern "C" fn other_cpu(index: u32) -> ! {
    let cpu = cpu::get(CpuId(index as usize)).expect("`start` checked the number");
    // SAFETY: this CPU is the only one that was given this number.
    unsafe { cpu.arch.install() };
    descriptors::install();
    if let Err(missing) = control::enable_required() {
        panic!("CPU {}: {missing}", cpu.id);
    }
    // SAFETY: interrupts have been off since this CPU started.
    if let Err(unusable) = unsafe { protection::join() } {
        panic!("CPU {}: {unusable}", cpu.id);
    }
    protection::control::report();
    apic::enable();
    time::start_ticks();
    sched::adopt_idle_thread();
    sched::idle()
}
