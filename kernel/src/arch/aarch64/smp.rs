//! Starting the other CPUs, one after the other, by PSCI's `CPU_ON` (DEN 0022, 5.6).

use super::boot::entry;
use super::{control, exceptions, gic, psci, root, time};
use crate::cpu::{self, CpuId};
use crate::start::image;
use crate::start::smp::{PATIENCE, comes_online, prepare_stack};
use crate::{protection, sched};
use core::fmt;
use kpkeys_devicetree::{Cpu, EnableMethod};

/// A CPU that did not start.
#[derive(Debug)]
pub enum StartError {
    /// As on all architectures.
    Common(crate::start::smp::StartError),
    /// The firmware refuses, and says why.
    Refused(CpuId, smccc::psci::Error),
    /// The device tree names another way to start it than PSCI.
    OtherMethod(CpuId),
}

impl From<crate::start::smp::StartError> for StartError {
    fn from(error: crate::start::smp::StartError) -> Self {
        Self::Common(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Common(error) => error.fmt(f),
            Self::Refused(id, error) => {
                write!(f, "the firmware does not start CPU {id}: {error}")
            }
            Self::OtherMethod(id) => {
                write!(f, "CPU {id} is not started by PSCI, and this kernel knows no other way")
            }
        }
    }
}

/// Starts every CPU but the running one, as CPU 1, 2 and so on, and wipes the
/// boot tables.
///
/// # Errors
///
/// [`StartError`] names the first CPU that did not start.
///
/// # Safety
///
/// Once, on the boot CPU, with the early tables in use.
pub unsafe fn start_others(cpus: &[Cpu]) -> Result<(), StartError> {
    let this = control::mpidr();
    let others = cpus.iter().filter(|cpu| cpu.mpidr.get() != this);
    for (index, other) in others.enumerate() {
        start(CpuId(index + 1), other)?;
    }
    // SAFETY: every CPU that was started has moved to the early tables before it came online.
    unsafe { image::retire_boot_tables() };
    Ok(())
}

fn start(id: CpuId, described: &Cpu) -> Result<(), StartError> {
    let cpu = cpu::get(id).ok_or(crate::start::smp::StartError::Silent(id))?;
    if described.enable_method != EnableMethod::Psci {
        return Err(StartError::OtherMethod(id));
    }
    cpu.arch.set_mpidr(described.mpidr.get());
    prepare_stack(id)?;
    let entry = image::phys(entry::other_cpus_entry()).0;
    psci::cpu_on(described.mpidr.get(), entry, id.0 as u64)
        .map_err(|error| StartError::Refused(id, error))?;
    if comes_online(cpu, PATIENCE) {
        Ok(())
    } else {
        Err(crate::start::smp::StartError::Silent(id).into())
    }
}

/// A started CPU's first Rust code, called by the boot assembly on the CPU's own stack, on the boot tables.
pub extern "C" fn other_cpu(index: usize) -> ! {
    let cpu = cpu::get(CpuId(index)).expect("`start` checked the number");
    // SAFETY: this CPU is the only one that was given this number; the boot CPU has built the early tables, and nothing here uses
    // one-to-one addresses.
    unsafe {
        cpu.arch.install();
        root::enter_early_tables();
    }
    exceptions::install(&cpu.arch);
    if let Err(missing) = control::enable_required() {
        panic!("CPU {}: {missing}", cpu.id);
    }
    // SAFETY: interrupts have been off since this CPU started.
    if let Err(unusable) = unsafe { protection::join() } {
        panic!("CPU {}: {unusable}", cpu.id);
    }
    protection::control::report();
    if let Err(error) = gic::init_cpu(&cpu.arch) {
        panic!("CPU {}: {error}", cpu.id);
    }
    time::start_ticks();
    sched::adopt_idle_thread();
    super::irq::enable_nmi();
    sched::idle()
}
