//! GICv2 (IHI 0048). Not by the `arm-gic` crate, whose driver for this version has one group on controllers without the
//! Security Extensions.

use super::{Interrupt, interrupts};
use crate::arch::cpu_state::CpuState;
use crate::arch::ipi;
use arm_gic::InterruptGroup;
use core::sync::atomic::Ordering;

/// Offsets of the distributor's registers (IHI 0048, table 4-1).
mod distributor {
    pub const CONTROL: usize = 0;
    pub const GROUP: usize = 0x80;
    pub const SET_ENABLE: usize = 0x100;
    pub const PRIORITY: usize = 0x400;
    pub const TARGETS: usize = 0x800;
    pub const SEND: usize = 0xf00;
}

/// Offsets of the CPU interface's registers (IHI 0048, table 4-2).
mod cpu_interface {
    pub const CONTROL: usize = 0;
    pub const PRIORITY_MASK: usize = 4;
    pub const ACKNOWLEDGE: usize = 0xc;
    pub const END: usize = 0x10;
}

/// Numbers from here on are no interrupt (IHI 0048, 3.2.5).
const SPECIAL: u32 = 1020;

/// Where the registers are.
pub struct Registers {
    distributor: *mut u8,
    cpu_interface: *mut u8,
}

// SAFETY: the registers each CPU uses after `new` are banked, or (SEND) take effect by a single write.
unsafe impl Send for Registers {}
// SAFETY: as above.
unsafe impl Sync for Registers {}

impl Registers {
    /// Turns both groups on in the distributor.
    ///
    /// # Safety
    ///
    /// The addresses must be those of the controller's registers, mapped as device memory, and be used by nobody else.
    pub unsafe fn new(distributor: *mut u8, cpu_interface: *mut u8) -> Self {
        const BOTH_GROUPS: u32 = 0b11;
        let registers = Self { distributor, cpu_interface };
        registers.write(registers.distributor, distributor::CONTROL, BOTH_GROUPS);
        registers
    }

    /// Turns this kernel's interrupts on, on the running CPU: the NMI in group 0, the rest in group 1.
    pub fn init_cpu(&self, state: &CpuState, timer: u32) {
        /// Both groups; group 0 as FIQ; one acknowledge register for both (AckCtl).
        const CONTROL: u32 = 0b1111;
        let at = self.distributor;
        self.write(at, distributor::GROUP, !(1 << ipi::NMI));
        for (number, priority) in interrupts(timer) {
            let (register, shift) = (number as usize / 4 * 4, number % 4 * 8);
            let others = self.read(at, distributor::PRIORITY + register) & !(0xff << shift);
            let value = others | u32::from(priority) << shift;
            self.write(at, distributor::PRIORITY + register, value);
            self.write(at, distributor::SET_ENABLE, 1 << number);
        }
        // Each byte of the targets of private interrupts is the reading CPU's own bit; zero where there is one CPU.
        let target = (self.read(at, distributor::TARGETS) & 0xff).max(1);
        state.gic_v2_target.store(target.into(), Ordering::Relaxed);
        self.write(self.cpu_interface, cpu_interface::PRIORITY_MASK, 0xff);
        self.write(self.cpu_interface, cpu_interface::CONTROL, CONTROL);
    }

    /// The interrupt with the highest priority, of either group.
    pub fn acknowledge(&self) -> Option<Interrupt> {
        let raw = self.read(self.cpu_interface, cpu_interface::ACKNOWLEDGE);
        let interrupt = Interrupt { raw, group: InterruptGroup::Group1 };
        (interrupt.number() < SPECIAL).then_some(interrupt)
    }

    /// Ends an interrupt of either group.
    pub fn end(&self, interrupt: Interrupt) {
        self.write(self.cpu_interface, cpu_interface::END, interrupt.raw);
    }

    /// Sends one CPU a software-generated interrupt, of the group it is configured in there.
    pub fn send(&self, to: &CpuState, number: u32) {
        /// NSATT: as a group 1 interrupt.
        const GROUP_1: u32 = 1 << 15;
        let target = to.gic_v2_target.load(Ordering::Relaxed) as u32;
        let group = if number == ipi::NMI { 0 } else { GROUP_1 };
        self.write(self.distributor, distributor::SEND, target << 16 | group | number);
    }

    fn read(&self, base: *mut u8, offset: usize) -> u32 {
        // SAFETY: a register of the controller (contract of `new`), and reading each used here has no effect but to acknowledge.
        unsafe { base.add(offset).cast::<u32>().read_volatile() }
    }

    fn write(&self, base: *mut u8, offset: usize, value: u32) {
        // SAFETY: a register of the controller, which gives no device access to memory.
        unsafe { base.add(offset).cast::<u32>().write_volatile(value) }
    }
}
