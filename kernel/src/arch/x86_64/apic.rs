//! The local APIC: end of interrupt, interrupts to other CPUs, the timer.
//!
//! Driven through its registers in memory (xAPIC; Intel SDM vol. 3A, chapter 11), which
//! every PC has and QEMU emulates in all versions; the page is mapped at
//! [`DEVICES`].

use super::exceptions::vector;
use super::layout::DEVICES;
use crate::lock::IrqsOff;
use crate::memory::PhysAddr;
use core::fmt;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

/// Register offsets: Intel SDM vol. 3A, table 11-1.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Register {
    Id = 0x20,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    SpuriousVector = 0xf0,
    CommandLow = 0x300,
    CommandHigh = 0x310,
    TimerEntry = 0x320,
    Line0Entry = 0x350,
    Line1Entry = 0x360,
    TimerInitial = 0x380,
    TimerCurrent = 0x390,
    TimerDivide = 0x3e0,
}

const BASE_MSR: u32 = 0x1b;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const SOFTWARE_ENABLED: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
const DIVIDE_BY_16: u32 = 0b0011;
const DELIVERY_PENDING: u32 = 1 << 12;
const LEVEL_ASSERT: u32 = 1 << 14;

/// Why the local APIC cannot be used.
#[derive(Debug)]
pub enum ApicError {
    /// The firmware switched it off.
    Disabled,
    /// The firmware switched to x2APIC mode, which has no registers in memory.
    X2Apic,
}

impl fmt::Display for ApicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "the firmware left the local APIC off; turn it on",
            Self::X2Apic => {
                "the firmware turned x2APIC mode on; turn it off (QEMU: `-cpu max,-x2apic`)"
            }
        })
    }
}

/// Where the registers are in memory.
///
/// # Errors
///
/// [`ApicError`] when they are not there.
pub fn address() -> Result<PhysAddr, ApicError> {
    // SAFETY: every 64-bit CPU has this register, and reading it has no effect.
    let base = unsafe { Msr::new(BASE_MSR).read() };
    if base & BASE_ENABLED == 0 {
        return Err(ApicError::Disabled);
    }
    if base & BASE_X2APIC != 0 {
        return Err(ApicError::X2Apic);
    }
    Ok(PhysAddr(base & BASE_ADDRESS))
}

/// Turns the running CPU's local APIC on, with its external lines masked.
pub fn enable() {
    write(Register::TaskPriority, 0);
    write(Register::Line0Entry, MASKED);
    write(Register::Line1Entry, MASKED);
    write(Register::SpuriousVector, SOFTWARE_ENABLED | u32::from(vector::SPURIOUS));
}

/// Masks every line of the two 8259 interrupt controllers: all interrupts of this kernel
/// come from local APICs.
pub fn mask_legacy_controllers() {
    for data_port in [0x21, 0xa1] {
        // SAFETY: the data ports of the 8259s, where a plain write sets the mask.
        unsafe { Port::<u8>::new(data_port).write(0xff) };
    }
}

/// The running CPU's id.
pub fn id() -> u32 {
    read(Register::Id) >> 24
}

/// Tells the local APIC that the handler is done with the highest-priority interrupt.
pub fn end_of_interrupt() {
    write(Register::EndOfInterrupt, 0);
}

/// Kinds of interrupt one CPU sends another.
#[derive(Clone, Copy, Debug)]
pub enum Delivery {
    /// An interrupt with this vector.
    Fixed(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// Reset, and wait for a start-up.
    Init,
    /// Start in 16-bit mode at this page number.
    StartUp(u8),
}

/// Sends an interrupt and waits until the local APIC has sent it off.
pub fn send(apic_id: u32, delivery: Delivery) {
    let command = match delivery {
        Delivery::Fixed(vector) => u32::from(vector),
        Delivery::Nmi => 0b100 << 8,
        Delivery::Init => 0b101 << 8,
        Delivery::StartUp(page) => 0b110 << 8 | u32::from(page),
    };
    // Two registers make one command: an interrupt handler that sends one must not get in
    // between.
    let _irqs_off = IrqsOff::new();
    write(Register::CommandHigh, apic_id << 24);
    write(Register::CommandLow, LEVEL_ASSERT | command);
    while read(Register::CommandLow) & DELIVERY_PENDING != 0 {
        core::hint::spin_loop();
    }
}

/// Starts the running CPU's timer, `count` units from tick to tick.
pub fn start_timer(count: u32) {
    write(Register::TimerDivide, DIVIDE_BY_16);
    write(Register::TimerEntry, PERIODIC | u32::from(vector::TIMER));
    write(Register::TimerInitial, count);
}

/// How many timer units pass while `wait` runs.
pub fn measure_timer(wait: impl FnOnce()) -> u32 {
    write(Register::TimerDivide, DIVIDE_BY_16);
    write(Register::TimerEntry, MASKED);
    write(Register::TimerInitial, u32::MAX);
    wait();
    let left = read(Register::TimerCurrent);
    write(Register::TimerInitial, 0);
    u32::MAX - left
}

fn read(register: Register) -> u32 {
    // SAFETY: the early tables map the registers' page at `DEVICES`, uncached; reads of these
    // registers have no side effects.
    unsafe { ((DEVICES + register as u64) as *const u32).read_volatile() }
}

fn write(register: Register, value: u32) {
    // SAFETY: as in `read`; what a write causes is described at each caller, and no register
    // gives the device access to memory.
    unsafe { ((DEVICES + register as u64) as *mut u32).write_volatile(value) }
}
