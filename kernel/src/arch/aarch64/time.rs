//! Time: the generic timer's virtual counter for reading it, its virtual timer for being interrupted by it (Arm ARM, D12).
//!
//! All CPUs see the same counter, whose rate the firmware has put into a register.

use super::register::{mrs, msr, synchronize};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use kpkeys_devicetree::Timer;

/// Timer ticks per second, on every CPU.
pub const TICK_HZ: u32 = 250;

static BOOT_COUNT: AtomicU64 = AtomicU64::new(0);
static INTERRUPT: AtomicU32 = AtomicU32::new(0);

/// Remembers when the kernel was entered.
pub fn start_clock() {
    BOOT_COUNT.store(count(), Ordering::Relaxed);
}

/// The machine has no virtual timer.
#[derive(Debug)]
pub struct NoTimer;

impl core::fmt::Display for NoTimer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the device tree names no interrupt of the virtual timer")
    }
}

/// Remembers which interrupt the timer raises.
///
/// # Errors
///
/// [`NoTimer`].
pub fn set_interrupt(timer: &Timer) -> Result<(), NoTimer> {
    INTERRUPT.store(timer.virtual_.ok_or(NoTimer)?.intid(), Ordering::Relaxed);
    Ok(())
}

/// The interrupt the timer raises.
pub fn interrupt() -> u32 {
    INTERRUPT.load(Ordering::Relaxed)
}

/// Starts the running CPU's ticks.
pub fn start_ticks() {
    const ENABLE: u64 = 1;
    // SAFETY: the timer is this kernel's own; its interrupt has a handler.
    unsafe {
        msr!("cntv_cval_el0", count() + interval());
        msr!("cntv_ctl_el0", ENABLE);
    }
}

/// Arms the timer for the next tick, which lowers its interrupt. Ticks that are due already are left out.
pub fn next_tick() {
    let (due, now) = (mrs!("cntv_cval_el0") + interval(), count());
    // SAFETY: as above.
    unsafe { msr!("cntv_cval_el0", if due > now { due } else { now + interval() }) };
    synchronize();
}

fn interval() -> u64 {
    rate() / u64::from(TICK_HZ)
}

/// Counts per second; never zero.
fn rate() -> u64 {
    mrs!("cntfrq_el0").max(1)
}

/// Time since the kernel was entered.
pub fn since_boot() -> Duration {
    span(count().saturating_sub(BOOT_COUNT.load(Ordering::Relaxed)))
}

/// The clock that everything is measured by, as it counts: the virtual counter. Speculation may read it a few instructions early.
#[inline(always)]
pub fn counter() -> u64 {
    mrs!("cntvct_el0")
}

/// How long so many counts of [`counter`] are.
pub fn span(counts: u64) -> Duration {
    Duration::from_nanos((u128::from(counts) * 1_000_000_000 / u128::from(rate())) as u64)
}

/// The counter; not read early by speculation.
fn count() -> u64 {
    synchronize();
    mrs!("cntvct_el0")
}
