//! Interrupts from one CPU to another.

use super::apic::{self, Delivery};
use super::exceptions::vector;
use crate::cpu::Cpu;

/// Asks `target` to flush its TLB.
pub fn send_shootdown(target: &Cpu) {
    apic::send(target.arch.apic_id(), Delivery::Fixed(vector::SHOOTDOWN));
}

/// Asks `target` to run what is in its interrupt mailbox.
pub fn send_call(target: &Cpu) {
    apic::send(target.arch.apic_id(), Delivery::Fixed(vector::CALL));
}

/// Sends `target` an NMI, to run what is in its NMI mailbox.
pub fn send_nmi(target: &Cpu) {
    apic::send(target.arch.apic_id(), Delivery::Nmi);
}
