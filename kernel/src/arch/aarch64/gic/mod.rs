//! The interrupt controller: acknowledging, ending, and interrupts between CPUs.
//!
//! The kernel uses three interrupts, all private to a CPU: the timer's and two software-generated ones (`ipi`). Two groups
//! tell them apart for the CPU: group 1 is signalled as IRQ, group 0 as FIQ, which interrupts a kernel that has IRQs masked. That
//! makes FIQ the nearest there is to an NMI. It needs a controller with one security state (no firmware at EL3), where both groups
//! are the kernel's; that is what QEMU's `virt` board has.

mod v2;
mod v3;

use super::cpu_state::CpuState;
use super::entry::Kind;
use super::{devices, ipi, time};
use core::fmt;
use kpkeys_devicetree::Gic;

/// Priorities; a smaller number wins. NMIs must get through whatever is being handled.
const PRIORITY: u8 = 0x80;
const NMI_PRIORITY: u8 = 0x20;

/// Why the interrupt controller cannot be used.
#[derive(Debug)]
pub enum GicError {
    /// Group 0 belongs to firmware.
    TwoSecurityStates,
    /// Redistributors lie at a distance that the architecture does not give.
    Stride(u64),
    /// No redistributor says that it is this CPU's.
    NoRedistributor(u64),
    /// The driver refuses.
    Driver(arm_gic::gicv3::GicError),
}

impl From<arm_gic::gicv3::GicError> for GicError {
    fn from(error: arm_gic::gicv3::GicError) -> Self {
        Self::Driver(error)
    }
}

impl fmt::Display for GicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoSecurityStates => f.write_str(
                "the interrupt controller has two security states, so that FIQs are not the kernel's; start the machine without secure firmware",
            ),
            Self::Stride(stride) => {
                write!(f, "redistributors {stride:#x} bytes apart are not supported")
            }
            Self::NoRedistributor(mpidr) => {
                write!(f, "no redistributor is that of the CPU with affinity {mpidr:#x}")
            }
            Self::Driver(error) => write!(f, "the interrupt controller: {error}"),
        }
    }
}

/// Which controller there is.
enum Driver {
    V2(v2::Registers),
    V3(v3::Registers),
}

static DRIVER: spin::Once<Driver> = spin::Once::new();

/// Sets the distributor up, on the boot CPU, once the devices are mapped.
///
/// # Errors
///
/// [`GicError`].
pub fn init(gic: &Gic) -> Result<(), GicError> {
    let at = |region: &kpkeys_devicetree::Region| {
        devices::address(region.base()).expect("boot registered every region of the controller")
    };
    let driver = match gic {
        Gic::V2 { distributor, cpu_interface } => {
            // SAFETY: the regions are the controller's, mapped as device memory, and this is the only driver.
            Driver::V2(unsafe { v2::Registers::new(at(distributor), at(cpu_interface)) })
        }
        Gic::V3 { redistributor_stride: Some(stride), .. } => {
            return Err(GicError::Stride(*stride));
        }
        Gic::V3 { distributor, redistributors, .. } => {
            let redistributors = redistributors.iter().map(at).collect();
            // SAFETY: as above.
            Driver::V3(unsafe { v3::Registers::new(at(distributor), redistributors) }?)
        }
    };
    DRIVER.call_once(|| driver);
    Ok(())
}

/// Sets the running CPU's part up, whose interrupts are masked.
///
/// # Errors
///
/// [`GicError`].
pub fn init_cpu(state: &CpuState) -> Result<(), GicError> {
    match driver() {
        Driver::V2(registers) => registers.init_cpu(state, time::interrupt()),
        Driver::V3(registers) => registers.init_cpu(state, time::interrupt())?,
    }
    Ok(())
}

/// Whether CPUs use system registers to take, end and send interrupts, so that nothing in memory is written for it once they run.
pub fn has_system_registers() -> bool {
    matches!(driver(), Driver::V3(_))
}

/// The register that names memory which the controller itself writes: which interrupts are pending. For attacks.
pub fn pending_table_register() -> Option<*mut u8> {
    match driver() {
        Driver::V2(_) => None,
        Driver::V3(registers) => registers.pending_table_register(),
    }
}

/// Which version it is, for the boot log.
pub fn name() -> &'static str {
    match driver() {
        Driver::V2(_) => "GICv2",
        Driver::V3(_) => "GICv3",
    }
}

fn driver() -> &'static Driver {
    DRIVER.get().expect("`init` runs before any interrupt")
}

/// An interrupt that was acknowledged and must be ended.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt {
    /// As the controller gave it, which is how it wants it back.
    raw: u32,
    group: arm_gic::InterruptGroup,
}

impl Interrupt {
    /// Its number.
    pub fn number(self) -> u32 {
        self.raw & 0x3ff // the rest names the sender (GICv2)
    }
}

/// Takes the interrupt that was signalled; `None` if it was nothing after all.
pub fn acknowledge(kind: Kind) -> Option<Interrupt> {
    match driver() {
        Driver::V2(registers) => registers.acknowledge(),
        Driver::V3(_) => v3::acknowledge(kind),
    }
}

/// Tells the controller that the interrupt has been dealt with.
pub fn end(interrupt: Interrupt) {
    match driver() {
        Driver::V2(registers) => registers.end(interrupt),
        Driver::V3(_) => v3::end(interrupt),
    }
}

/// Sends a CPU one of the interrupts of `ipi`. What the sender stored before is visible to the handler.
pub fn send(to: &CpuState, number: u32) {
    // SAFETY: the barrier has no effect but to order: a software-generated interrupt is no memory access (IHI 0069, 12.2).
    unsafe { core::arch::asm!("dsb ishst", options(nostack, preserves_flags)) };
    match driver() {
        Driver::V2(registers) => registers.send(to, number),
        Driver::V3(_) => v3::send(to, number),
    }
}

/// The interrupts of this kernel, and the priority of each.
fn interrupts(timer: u32) -> [(u32, u8); 3] {
    [(ipi::CALL, PRIORITY), (ipi::NMI, NMI_PRIORITY), (timer, PRIORITY)]
}
