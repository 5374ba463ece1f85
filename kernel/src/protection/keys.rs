//! Which keys page tables carry, which is settled during start.

use crate::arch::backend::Choice;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use kpkeys_pgtable::{Keys, Mode};

/// Whether the tables of address spaces have a key of their own. Written by [`settle`] alone, on the early tables; read-only from then on.
#[unsafe(link_section = ".settled")]
static SEPARATE: AtomicBool = AtomicBool::new(false);

/// Why page tables cannot have the keys that were asked for.
#[derive(Debug)]
pub enum Refused {
    /// Another mode than `fused` was asked for.
    Mode(Mode),
    /// The backend has none to spare.
    Backend(Choice),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode(mode) => write!(
                f,
                "keys=separate is for mode fused, whose types of frames say which key a page-table page has; this is mode {}",
                mode.name()
            ),
            Self::Backend(backend) => write!(
                f,
                "keys=separate needs a backend with keys to spare; backend {} has one class of protected pages",
                backend.name()
            ),
        }
    }
}

/// Settles which keys page tables carry, before any window is opened.
///
/// # Errors
///
/// [`Refused`]: then it is one key.
pub fn settle(keys: Keys, mode: Mode, backend: Choice) -> Result<(), Refused> {
    if keys == Keys::One {
        return Ok(());
    }
    if mode != Mode::Fused {
        return Err(Refused::Mode(mode));
    }
    if !backend.has_spare_keys() {
        return Err(Refused::Backend(backend));
    }
    SEPARATE.store(true, Ordering::Relaxed);
    Ok(())
}

/// Whether the tables of address spaces have a key of their own.
#[inline(always)]
pub fn are_separate() -> bool {
    SEPARATE.load(Ordering::Relaxed)
}

/// What was settled.
pub fn chosen() -> Keys {
    if are_separate() { Keys::Separate } else { Keys::One }
}
