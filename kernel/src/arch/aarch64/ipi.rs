//! Interrupts from one CPU to another: software-generated interrupts.

use super::gic;
use crate::cpu::Cpu;

/// Run the function in the mailbox.
pub const CALL: u32 = 1;
/// The same, as an NMI.
pub const NMI: u32 = 2;

/// Asks `target` to run what is in its interrupt mailbox.
pub fn send_call(target: &Cpu) {
    gic::send(&target.arch, CALL);
}

/// Sends `target` an NMI, to run what is in its NMI mailbox.
pub fn send_nmi(target: &Cpu) {
    gic::send(&target.arch, NMI);
}
