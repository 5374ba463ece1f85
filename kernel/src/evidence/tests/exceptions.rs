//! Faults are caught and described, wherever they happen.

use crate::cpu::calls;
use crate::cpu::fault::Cause;
use crate::cpu::stack;
use crate::evidence::probe;
use crate::{cpu, ensure, kernel_test};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

static WORD: AtomicU64 = AtomicU64::new(0);

kernel_test! {
    /// A probe of ordinary memory is an ordinary access.
    fn probes_reach_ordinary_memory() {
        let word = WORD.as_ptr();
        let bytes = 0x1122_3344_5566_7788_u64.to_le_bytes();
        // SAFETY: `WORD` is this test's alone.
        let outcomes = unsafe {
            [
                probe::store_u64(word, 5).map(|()| 0),
                probe::fetch_add_u64(word, 2),
                probe::copy(word.cast(), bytes.as_ptr(), 8).map(|()| 0),
                probe::store_u8(word.cast(), 0x99).map(|()| 0),
                probe::load_u64(word),
            ]
        };
        let expected = [Ok(0), Ok(5), Ok(0), Ok(0), Ok(0x1122_3344_5566_7799)];
        ensure!(outcomes == expected, "got {outcomes:x?}");
    }

    /// Every kind of write to a guard page faults, and the fault names the address.
    fn writes_to_unmapped_memory_fault() {
        let guard = stack::some_guard().cast_mut();
        let byte = 1u8;
        // SAFETY: nothing is mapped there.
        let outcomes = unsafe {
            [
                probe::store_u8(guard, 1),
                probe::store_u64(guard.cast(), 1),
                probe::copy(guard, &raw const byte, 1),
                probe::fetch_add_u64(guard.cast(), 1).map(drop),
            ]
        };
        for outcome in outcomes {
            let found = outcome.map_err(|fault| (fault.cause, fault.address));
            let expected = Err((Cause::NotMapped, guard as u64));
            ensure!(found == expected, "got {found:x?} instead of {expected:x?}");
        }
    }

    /// An address outside the architecture's range is caught too, whether it counts as a page fault (arm64) or not (x86-64).
    fn impossible_addresses_are_caught() {
        let outcome = probe::load_u64(0x4141_0000_0000_0000 as *const u64);
        let cause = outcome.map_err(|fault| fault.cause);
        ensure!(matches!(cause, Err(Cause::Other | Cause::NotMapped)), "got {cause:x?}");
    }

    /// A function runs in a page-fault handler, interrupts off, and may fault there itself.
    fn page_fault_handlers_may_fault() {
        let (ran, faulted) = (AtomicBool::new(false), AtomicBool::new(false));
        probe::run_in_page_fault(&|| {
            ran.store(!crate::arch::irq::enabled(), Ordering::Relaxed);
            let outcome = probe::load_u64(stack::some_guard().cast());
            faulted.store(outcome.is_err(), Ordering::Relaxed);
        });
        let seen = (ran.into_inner(), faulted.into_inner());
        ensure!(seen == (true, true), "(ran with interrupts off, faulted inside) = {seen:?}");
    }

    /// The same in an interrupt handler.
    fn interrupt_handlers_may_fault() {
        let faulted = AtomicBool::new(false);
        calls::run_in_interrupt(cpu::this().id, &|| {
            let outcome = probe::load_u64(stack::some_guard().cast());
            faulted.store(outcome.is_err(), Ordering::Relaxed);
        });
        ensure!(faulted.into_inner(), "the read of a guard page was not refused");
    }
}
