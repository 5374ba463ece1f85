//! The attacker: a store where there should be none, and what the CPU says of it.

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_rt::{ExceptionHandlers, RegisterStateRef, exception_handlers};
use arm_sysregs::el1::accessors::read_esr_el1;

/// ESR_EL1 of the last data abort; 0 if there was none.
static ABORT: AtomicU64 = AtomicU64::new(0);
/// Exception class of a data abort at the same level (ESR_EL1.EC).
const DATA_ABORT: u64 = 0x25;

/// What came of it: ESR_EL1 of the data abort or 0, and whether the word is another one now.
pub struct Outcome(u64, bool);

/// Stores the word that can be read at `word` with a bit flipped, to `address`: by STR, or as a user copy would that was handed this
/// address, by STTR.
pub fn attack(unprivileged: bool, address: usize, word: *const u64, flip: u64) -> Outcome {
    ABORT.store(0, Ordering::Relaxed);
    // SAFETY: the word is one of a table that the identity map has; if the store goes through it changes a bit that the walker does
    // not look at; if not, the handler below goes on behind it.
    let changed = unsafe {
        let before = word.read_volatile();
        match unprivileged {
            false => asm!("str {}, [{}]", in(reg) before ^ flip, in(reg) address),
            true => asm!("sttr {}, [{}]", in(reg) before ^ flip, in(reg) address),
        }
        word.read_volatile() != before
    };
    Outcome(ABORT.load(Ordering::Relaxed), changed)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Data fault status code, less the level (ESR_EL1.ISS, DFSC).
        f.write_str(match (self.0, self.0 & 0x3c, self.1) {
            (0, _, true) => "stored",
            (_, 0x0c, false) => "data abort, permission fault",
            (_, 0x04, false) => "data abort, translation fault",
            _ => "neither stored nor refused",
        })
    }
}

exception_handlers!(Handlers);

struct Handlers;

impl ExceptionHandlers for Handlers {
    extern "C" fn sync_current(mut state: RegisterStateRef<'_>) {
        let esr = read_esr_el1().bits();
        assert!(esr >> 26 & 0x3f == DATA_ABORT, "only attacks fault here");
        ABORT.store(esr, Ordering::Relaxed);
        // SAFETY: the instruction is a store of `attack`, which goes on with the next.
        unsafe { state.get_mut().elr += 4 };
    }
}
