//! Leaving the machine: by semihosting, which tells the emulator a status, or by PSCI, which cannot.
//!
//! QEMU with `-semihosting-config enable=on,target=native` ends with the status of `SYS_EXIT` (Arm semihosting
//! specification, "SYS_EXIT"). The statuses are those of x86-64: 33 for `Success`, 35 for `Failed`, 37 for
//! `Panicked`, 39 for `Refused`. Without semihosting the call is an undefined instruction; then the firmware is asked to switch the
//! machine off.

use super::{irq, psci};
use crate::exit::Exit;
use core::arch::asm;

/// The status the emulator ends with.
pub const fn status(why: Exit) -> u64 {
    (why as u64) << 1 | 1
}

/// Ends the emulator; on a machine without semihosting, turns interrupts off and returns.
pub fn end_emulator(why: Exit) {
    const SYS_EXIT: u64 = 0x18;
    const APPLICATION_EXIT: u64 = 0x2_0026;
    irq::disable();
    let block = [APPLICATION_EXIT, status(why)];
    // SAFETY: the call reads the block and does not return; where there is no semihosting it faults, which the exception table turns
    // into going on behind it.
    unsafe {
        asm!(
            "1: hlt #0xf000",
            "2:",
            ".pushsection .exception_table, \"a\"",
            ".quad 1b, 2b",
            ".popsection",
            inout("x0") SYS_EXIT => _,
            inout("x1") &raw const block => _,
            options(nostack),
        );
    }
}

/// Has the firmware restart the machine, or switch it off if it cannot.
pub fn restart() {
    psci::system_reset();
}

/// Has the firmware switch the machine off. Returns where there is none that could.
pub fn switch_off() {
    psci::system_off();
}
