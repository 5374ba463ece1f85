//! Time: the TSC for reading it, the local APIC timer for being interrupted by it.
//!
//! Both run at rates the CPU does not tell reliably, so both are measured once against the
//! programmable interval timer, whose rate is fixed on every PC.

use super::apic;
use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use x86_64::instructions::port::Port;

/// Timer ticks per second, on every CPU.
pub const TICK_HZ: u32 = 250;

static BOOT_TSC: AtomicU64 = AtomicU64::new(0);
static TSC_PER_MILLISECOND: AtomicU64 = AtomicU64::new(0);
static TIMER_UNITS_PER_TICK: AtomicU32 = AtomicU32::new(0);

/// Remembers when the kernel was entered.
pub fn start_clock() {
    BOOT_TSC.store(tsc(), Ordering::Relaxed);
}

/// Measures the TSC and the local APIC timer. Takes 10 ms, on the boot CPU.
pub fn calibrate() {
    const MILLISECONDS: u32 = 10;
    let start = tsc();
    let units = apic::measure_timer(|| pit_wait(MILLISECONDS));
    let cycles = tsc() - start;
    let per_tick = u64::from(units) * 1000 / u64::from(MILLISECONDS * TICK_HZ);
    TIMER_UNITS_PER_TICK.store((per_tick as u32).max(1), Ordering::Relaxed);
    TSC_PER_MILLISECOND.store(cycles / u64::from(MILLISECONDS), Ordering::Relaxed);
}

/// Starts the running CPU's ticks.
pub fn start_ticks() {
    apic::start_timer(TIMER_UNITS_PER_TICK.load(Ordering::Relaxed));
}

/// The rate of the TSC in kHz; zero before [`calibrate`].
pub fn tsc_khz() -> u64 {
    TSC_PER_MILLISECOND.load(Ordering::Relaxed)
}

/// Time since the kernel was entered; zero before [`calibrate`].
pub fn since_boot() -> Duration {
    span(tsc().saturating_sub(BOOT_TSC.load(Ordering::Relaxed)))
}

/// The clock that everything is measured by, as it counts: the TSC.
#[inline(always)]
pub fn counter() -> u64 {
    tsc()
}

/// How long so many counts of [`counter`] are; zero before [`calibrate`].
pub fn span(counts: u64) -> Duration {
    match tsc_khz() {
        0 => Duration::ZERO,
        khz => Duration::from_nanos((u128::from(counts) * 1_000_000 / u128::from(khz)) as u64),
    }
}

/// Waits with the CPU busy. Needs [`calibrate`].
pub fn busy_wait(time: Duration) {
    let end = since_boot() + time;
    while since_boot() < end {
        super::irq::relax();
    }
}

#[inline(always)]
fn tsc() -> u64 {
    // SAFETY: every 64-bit CPU has RDTSC, and the kernel leaves CR4.TSD clear.
    unsafe { _rdtsc() }
}

/// Waits on channel 2 of the interval timer (Intel 8254 data sheet, mode 0), which is gated
/// and read through port 0x61 and interrupts nobody.
fn pit_wait(milliseconds: u32) {
    const PIT_HZ: u32 = 1_193_182;
    const CHANNEL_2_MODE_0: u8 = 0b1011_0000;
    const GATE: u8 = 1 << 0;
    const SPEAKER: u8 = 1 << 1;
    const OUTPUT: u8 = 1 << 5;
    let count = PIT_HZ * milliseconds / 1000;
    let (mut control, mut data) = (Port::<u8>::new(0x43), Port::<u8>::new(0x42));
    let mut gate = Port::<u8>::new(0x61);
    // SAFETY: these ports belong to the interval timer, which nothing else uses.
    unsafe {
        let bits = gate.read();
        gate.write(bits & !SPEAKER & !GATE);
        control.write(CHANNEL_2_MODE_0);
        data.write(count as u8);
        data.write((count >> 8) as u8);
        gate.write(bits & !SPEAKER | GATE);
        while gate.read() & OUTPUT == 0 {
            core::hint::spin_loop();
        }
    }
}
