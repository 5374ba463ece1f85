//! The control bits protection rests on: which a CPU must have, and what each has reported about itself.
//!
//! What the bits are, and how they are read and set, is the architecture's: `arch::*::control`.

use crate::arch::control::{Features, active};
use crate::cpu::{self, Cpu, CpuId};
use core::fmt;
use core::sync::atomic::Ordering;

/// A required feature that this CPU does not have.
#[derive(Debug)]
pub struct Missing(pub Features);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this CPU lacks {}; choose another model, for instance `-cpu max`", self.0)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, _)) in self.iter_names().enumerate() {
            let separator = if place == 0 { "" } else { " " };
            write!(f, "{separator}{name}")?;
        }
        Ok(())
    }
}

/// The first online CPU that has not reported all required bits, and what it has reported.
pub fn first_without_required() -> Option<(CpuId, Features)> {
    cpu::online()
        .map(|cpu| (cpu.id, reported(cpu)))
        .find(|(_, has)| !has.contains(Features::REQUIRED))
}

/// What `cpu` last reported about itself.
pub fn reported(cpu: &Cpu) -> Features {
    Features::from_bits_truncate(cpu.control.load(Ordering::Acquire))
}

/// Stops the machine if a control bit that protection rests on is not set any more on the running CPU. What is required is a
/// constant, so that no memory decides it.
///
/// # Panics
///
/// Names the bits.
pub fn verify() {
    let missing = Features::REQUIRED - active();
    assert!(missing.is_empty(), "control bits were cleared: {missing}");
    if let Err(unusable) = crate::protection::selected().verify_control() {
        panic!("protection was switched off: {unusable}");
    }
}

/// Reads the running CPU's bits back and stores them where the other CPUs can compare.
pub fn report() -> Features {
    let features = active();
    cpu::this().control.store(features.bits(), Ordering::Release);
    features
}
