//! The local APIC: end of interrupt, interrupts to other CPUs, the timer.
//!
//! Where the CPU has x2APIC (Intel SDM vol. 3A, 11.12) its registers are model-specific ones, which no store reaches. Elsewhere they are a page
//! of memory (xAPIC; chapter 11), mapped at [`DEVICES`]: whoever can write it can start a CPU in real mode. So the page carries
//! the page tables' key where there are keys, and [`paging::write_device`] writes it.

use super::exceptions::vector;
use super::layout::DEVICES;
use crate::lock::IrqsOff;
use crate::memory::boot::PhysAddr;
use crate::memory::paging;
use crate::start::settled::Settled;
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
/// The first model-specific register of x2APIC; the others follow as they do in memory, 16 bytes for one (SDM, table 11-6).
const X2APIC_MSRS: u32 = 0x800;
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
}

impl fmt::Display for ApicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "the firmware left the local APIC off; turn it on",
        })
    }
}

/// Whether the registers are model-specific ones.
#[unsafe(link_section = ".settled")]
static X2APIC: Settled<bool> = Settled::new();

/// Whether the running CPU has x2APIC: CPUID leaf 1, ECX bit 21. All CPUs of a machine do or none does.
fn is_x2apic() -> bool {
    *X2APIC.settle(|| core::arch::x86_64::__cpuid(1).ecx >> 21 & 1 != 0)
}

/// Where the registers are in memory, if they are there.
///
/// # Errors
///
/// [`ApicError`] when there is no local APIC.
pub fn address() -> Result<Option<PhysAddr>, ApicError> {
    // SAFETY: every 64-bit CPU has this register, and reading it has no effect.
    let base = unsafe { Msr::new(BASE_MSR).read() };
    if base & BASE_ENABLED == 0 {
        return Err(ApicError::Disabled);
    }
    Ok((!is_x2apic()).then_some(PhysAddr(base & BASE_ADDRESS)))
}

/// Turns the running CPU's local APIC on, with its external lines masked.
pub fn enable() {
    if is_x2apic() {
        let mut base = Msr::new(BASE_MSR);
        // SAFETY: the CPU has x2APIC, and the local APIC is enabled (`address` has refused one that is not), from where this
        // mode may be entered (SDM vol. 3A, 11.12.5).
        unsafe { base.write(base.read() | BASE_X2APIC) };
    }
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
    let id = read(Register::Id);
    if is_x2apic() { id } else { id >> 24 }
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
    if is_x2apic() {
        // One register, which no CPU need wait for (SDM vol. 3A, 11.12.9). It orders nothing by itself: what the other CPU is to see must
        // be visible before (11.12.3).
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
        let mut register = msr(Register::CommandLow);
        // SAFETY: as in `write`.
        unsafe { register.write(u64::from(apic_id) << 32 | u64::from(LEVEL_ASSERT | command)) };
        return;
    }
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

/// Where the priority below which interrupts wait is. For attacks.
pub fn task_priority() -> Option<u64> {
    (!is_x2apic()).then_some(DEVICES + Register::TaskPriority as u64)
}

fn msr(register: Register) -> Msr {
    Msr::new(X2APIC_MSRS + (register as u64 / 16) as u32)
}

fn read(register: Register) -> u32 {
    if is_x2apic() {
        // SAFETY: the CPU has these registers; reading them has no side effects.
        return unsafe { msr(register).read() } as u32;
    }
    // SAFETY: the early tables map the registers' page at `DEVICES`, uncached; reads of these
    // registers have no side effects.
    unsafe { ((DEVICES + register as u64) as *const u32).read_volatile() }
}

fn write(register: Register, value: u32) {
    if is_x2apic() {
        // SAFETY: as below.
        return unsafe { msr(register).write(u64::from(value)) };
    }
    // SAFETY: as in `read`; what a write causes is described at each caller, and no register
    // gives the device access to memory.
    unsafe { paging::write_device((DEVICES + register as u64) as *mut u32, value) }
}
