//! The attacker: a store where there should be none, and what the CPU says of it.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_rt::{ExceptionHandlers, RegisterStateRef, exception_handlers};
use arm_sysregs::el1::accessors::read_esr_el1;

/// With what instruction.
#[derive(Clone, Copy)]
pub enum Store {
    /// STR.
    Kernel,
    /// STTR: as a program would, or a user copy that was handed this address.
    Unprivileged,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// No fault, and the word is another one now.
    Stored,
    /// A data abort: the address is mapped, and not for this store.
    PermissionFault,
    /// A data abort: the address is not translated for this store.
    TranslationFault,
    /// Something else, with ESR_EL1 (0 for none) and whether the word changed.
    Other(u64, bool),
}

/// ESR_EL1 of the last data abort; 0 if there was none.
static FAULT: AtomicU64 = AtomicU64::new(0);
/// Exception class of a data abort at the same level (ESR_EL1.EC).
const DATA_ABORT: u64 = 0x25;

/// Stores the word that can be read at `word` with a bit flipped, to `address`.
pub fn attack(store: Store, address: usize, word: usize, flip: u64) -> Outcome {
    let word = word as *const u64;
    FAULT.store(0, Ordering::Relaxed);
    // SAFETY: the word is one of a table that the identity map has; if the store goes through it changes a bit that the walker does
    // not look at; if not, the handler below goes on behind it.
    let changed = unsafe {
        let before = word.read_volatile();
        match store {
            Store::Kernel => asm!("str {}, [{}]", in(reg) before ^ flip, in(reg) address),
            Store::Unprivileged => asm!("sttr {}, [{}]", in(reg) before ^ flip, in(reg) address),
        }
        word.read_volatile() != before
    };
    // Data fault status code, less the level (ESR_EL1.ISS, DFSC).
    match (FAULT.load(Ordering::Relaxed), changed) {
        (0, true) => Outcome::Stored,
        (esr, false) if esr & 0x3c == 0x0c => Outcome::PermissionFault,
        (esr, false) if esr & 0x3c == 0x04 => Outcome::TranslationFault,
        (esr, changed) => Outcome::Other(esr, changed),
    }
}

struct Handlers;

exception_handlers!(Handlers);

impl ExceptionHandlers for Handlers {
    extern "C" fn sync_current(mut state: RegisterStateRef<'_>) {
        let esr = read_esr_el1().bits();
        assert!(esr >> 26 & 0x3f == DATA_ABORT, "only attacks fault here");
        FAULT.store(esr, Ordering::Relaxed);
        // SAFETY: the instruction is a store of `attack`, which goes on with the next.
        unsafe { state.get_mut().elr += 4 };
    }
}
