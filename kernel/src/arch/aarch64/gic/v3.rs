//! GICv3 and later (IHI 0069), by the `arm-gic` crate.

use super::super::entry::Kind;
use super::super::register::synchronize;
use super::{GicError, Interrupt, interrupts};
use crate::arch::cpu_state::CpuState;
use crate::arch::ipi;
use arm_gic::gicv3::registers::{Gicd, GicrSgi};
use arm_gic::gicv3::{
    GicCpuInterface, GicDistributor, GicRedistributor, GicRedistributorIterator, Group,
    SecureIntGroup, SgiTarget, SgiTargetGroup,
};
use arm_gic::{IntId, InterruptGroup, UniqueMmioPointer};
use arrayvec::ArrayVec;
use core::ptr::NonNull;
use kpkeys_devicetree::MAX_REDISTRIBUTOR_REGIONS;

/// Where the redistributors are.
pub struct Registers {
    redistributors: ArrayVec<*mut u8, MAX_REDISTRIBUTOR_REGIONS>,
}

// SAFETY: each CPU uses its own redistributor alone.
unsafe impl Send for Registers {}
// SAFETY: as above.
unsafe impl Sync for Registers {}

impl Registers {
    /// Turns both groups on in the distributor.
    ///
    /// # Errors
    ///
    /// [`GicError::TwoSecurityStates`].
    ///
    /// # Safety
    ///
    /// The addresses must be those of the controller's registers, mapped as device memory, and be used by nobody else.
    pub unsafe fn new(
        distributor: *mut u8,
        redistributors: ArrayVec<*mut u8, MAX_REDISTRIBUTOR_REGIONS>,
    ) -> Result<Self, GicError> {
        const DISABLE_SECURITY: u32 = 1 << 6;
        // SAFETY: the control register is the first; reading it has no effect.
        let control = unsafe { distributor.cast::<u32>().read_volatile() };
        if control & DISABLE_SECURITY == 0 {
            return Err(GicError::TwoSecurityStates);
        }
        // SAFETY: the registers are mapped, and this is the only driver (caller's promise).
        let registers = unsafe { UniqueMmioPointer::new(non_null(distributor.cast::<Gicd>())) };
        let mut distributor = GicDistributor::new(registers);
        distributor.configure_default_settings();
        distributor.enable_group0(true);
        Ok(Self { redistributors })
    }

    /// Turns this kernel's interrupts on, on the running CPU: the NMI in group 0, the rest in group 1.
    ///
    /// # Errors
    ///
    /// The redistributor is missing or refuses.
    pub fn init_cpu(&self, state: &CpuState, timer: u32) -> Result<(), GicError> {
        let mut own = self.redistributor(state.mpidr())?;
        // Awake already if the firmware, or a former boot stage, did it.
        let _ = own.mark_core_awake();
        own.configure_default_settings();
        for (number, priority) in interrupts(timer) {
            let interrupt = id(number);
            own.set_interrupt_priority(interrupt, priority)?;
            if number == ipi::NMI {
                own.set_group(interrupt, Group::Secure(SecureIntGroup::Group0))?;
            }
            own.enable_interrupt(interrupt, true)?;
        }
        GicCpuInterface::enable_system_register_el1();
        synchronize();
        GicCpuInterface::set_priority_mask(0xff);
        GicCpuInterface::enable_group0(true);
        GicCpuInterface::enable_group1(true);
        synchronize();
        Ok(())
    }

    /// GICR_PENDBASER of the first redistributor (IHI 0069, 12.11.25).
    pub fn pending_table_register(&self) -> Option<*mut u8> {
        const PENDING_TABLE: usize = 0x78;
        self.redistributors.first().map(|first| first.wrapping_add(PENDING_TABLE))
    }

    fn redistributor(&self, mpidr: u64) -> Result<GicRedistributor<'static>, GicError> {
        for region in &self.redistributors {
            // SAFETY: the region is one of redistributors, mapped as far as there are CPUs (contract of `new`), and each is used by its own
            // CPU alone once found.
            let mut all =
                unsafe { GicRedistributorIterator::new(non_null(region.cast::<GicrSgi>())) }?;
            if let Some(own) = all.find(|one| one.typer().core_mpidr() == mpidr) {
                return Ok(own);
            }
        }
        Err(GicError::NoRedistributor(mpidr))
    }
}

fn non_null<T>(pointer: *mut T) -> NonNull<T> {
    NonNull::new(pointer).expect("devices are mapped in the kernel's half")
}

fn id(number: u32) -> IntId {
    if number < 16 { IntId::sgi(number) } else { IntId::ppi(number - 16) }
}

/// Takes the interrupt that was signalled.
pub fn acknowledge(kind: Kind) -> Option<Interrupt> {
    let group = if kind == Kind::Fiq { InterruptGroup::Group0 } else { InterruptGroup::Group1 };
    let id = GicCpuInterface::get_and_acknowledge_interrupt(group)?;
    Some(Interrupt { raw: id.raw_value(), group })
}

/// Ends an interrupt.
pub fn end(interrupt: Interrupt) {
    GicCpuInterface::end_interrupt(id(interrupt.raw), interrupt.group);
}

/// Sends one CPU a software-generated interrupt.
pub fn send(to: &CpuState, number: u32) {
    let [affinity0, affinity1, affinity2, _, affinity3, ..] = to.mpidr().to_le_bytes();
    // The list has sixteen CPUs, from affinity 0 up: QEMU's clusters are no larger.
    let target = SgiTarget::List { affinity3, affinity2, affinity1, target_list: 1 << affinity0 };
    let group =
        if number == ipi::NMI { SgiTargetGroup::Group0 } else { SgiTargetGroup::CurrentGroup1 };
    let sent = GicCpuInterface::send_sgi(IntId::sgi(number), target, group);
    debug_assert!(sent.is_ok());
}
