//! A spinlock that keeps interrupts off while it is held.
//!
//! Without that, an interrupt handler that takes the lock its own CPU holds would spin
//! for ever. A CPU that waits for the lock answers TLB shootdowns meanwhile: the holder
//! may itself be waiting for this CPU's answer.

use crate::arch;
use core::ops::{Deref, DerefMut};

/// Interrupts stay off on this CPU while the value lives; dropping it restores what was. Of
/// several, the last made must be dropped first, as Rust's scopes do by themselves.
pub struct IrqsOff {
    were_enabled: bool,
    /// The state belongs to one CPU: the value must not move to another.
    not_send: core::marker::PhantomData<*mut ()>,
}

impl IrqsOff {
    /// Disables interrupts on this CPU.
    pub fn new() -> Self {
        let were_enabled = arch::irq::enabled();
        arch::irq::disable();
        Self { were_enabled, not_send: core::marker::PhantomData }
    }
}

impl Default for IrqsOff {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for IrqsOff {
    fn drop(&mut self) {
        if self.were_enabled {
            arch::irq::enable();
        }
    }
}

/// To be called where a lock is waited for that is held with interrupts on.
///
/// # Panics
///
/// With interrupts off: the holder may be the thread that this interrupted, and then never goes on.
#[track_caller]
pub fn expect_irqs_on() {
    assert!(
        arch::irq::enabled(),
        "waiting with interrupts off for a lock that is held with them on"
    );
}

/// A value behind a spinlock held with interrupts off.
pub struct IrqLock<T>(spin::Mutex<T>);

impl<T> IrqLock<T> {
    /// Wraps `value`.
    pub const fn new(value: T) -> Self {
        Self(spin::Mutex::new(value))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> IrqGuard<'_, T> {
        let irqs_off = IrqsOff::new();
        loop {
            if let Some(guard) = self.0.try_lock() {
                return IrqGuard { guard, _irqs_off: irqs_off };
            }
            arch::tlb::answer_pending();
            core::hint::spin_loop();
        }
    }

    /// Takes the lock if nobody has it.
    pub fn try_lock(&self) -> Option<IrqGuard<'_, T>> {
        let irqs_off = IrqsOff::new();
        self.0.try_lock().map(|guard| IrqGuard { guard, _irqs_off: irqs_off })
    }

    /// Takes the lock from whoever has it.
    ///
    /// # Safety
    ///
    /// The caller must make sure that the former holder does not touch the value again,
    /// or that the value stays sound when both do.
    pub unsafe fn lock_by_force(&self) -> IrqGuard<'_, T> {
        // SAFETY: as the caller promises.
        unsafe { self.0.force_unlock() };
        self.lock()
    }
}

/// The lock is held and interrupts are off. Fields drop in order: first the lock is
/// released, then interrupts come back.
pub struct IrqGuard<'a, T> {
    guard: spin::MutexGuard<'a, T>,
    _irqs_off: IrqsOff,
}

impl<T> Deref for IrqGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for IrqGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}
