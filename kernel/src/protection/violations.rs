//! Stores that do not fit the types of frames: whether they are refused or audited, which is settled during start, and what is said of them.

use crate::start::settled::Settled;
use core::sync::atomic::{AtomicUsize, Ordering};
use kpkeys_pgtable::guarded::{Violation, Violations};

/// How many are logged; all are counted.
const LOGGED: usize = 8;

#[unsafe(link_section = ".settled")]
static CHOSEN: Settled<Violations> = Settled::new();

static REPORTED: AtomicUsize = AtomicUsize::new(0);

/// Settles what becomes of leaves that are not admitted, before there are types of frames.
pub fn settle(violations: Violations) {
    CHOSEN.settle(|| violations);
    if violations == Violations::Audit {
        log::warn!(
            "violations are audited, not refused: page tables may come to say what protection is to prevent"
        );
    }
}

/// What was settled.
pub fn chosen() -> Violations {
    CHOSEN.get().copied().unwrap_or_default()
}

/// Counts a violation, and logs the first few.
pub fn report(violation: &Violation) {
    let before = REPORTED.fetch_add(1, Ordering::Relaxed);
    if before < LOGGED {
        let outcome = if violation.stored { "audited" } else { "refused" };
        log::warn!("{outcome}: {violation}");
    }
    if before == LOGGED {
        log::warn!("further violations are counted alone");
    }
}

/// How many there were.
pub fn reported() -> usize {
    REPORTED.load(Ordering::Relaxed)
}
