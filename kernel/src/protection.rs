//! Where the protection register meets the rest of the kernel.
//!
//! The register decides whether this CPU may write page tables. It belongs to what runs:
//! an exception starts with the default value and gives the interrupted value back, and a
//! thread takes its value along when it is switched out. These functions are called at
//! exactly those points.
//!
//! The backend is selected by the boot CPU before it takes any interrupt and before any other CPU starts, and
//! never changes again; every CPU makes it ready before its first interrupt. So there is no frame and no thread that
//! was saved under another backend than the one that restores it.

use crate::arch::backend::{self, Choice, Selected, Unusable};
use crate::settled::Settled;
use kpkeys::null::Null;
use kpkeys::{Backend, Saved};

#[unsafe(link_section = ".settled")]
static SELECTED: Settled<Selected> = Settled::new();

/// Selects the backend, on the boot CPU.
///
/// # Errors
///
/// Why this CPU cannot use it.
///
/// # Safety
///
/// Once, before any interrupt, thread or other CPU.
pub unsafe fn select(choice: Choice) -> Result<(), Unusable> {
    // SAFETY: no interrupt is on yet, and every exception entry calls `enter_exception`.
    let selected = unsafe { backend::init(choice) }?;
    SELECTED.settle(|| selected);
    Ok(())
}

/// Makes another CPU ready for the backend the boot CPU selected.
///
/// # Errors
///
/// Why this CPU cannot use it.
///
/// # Safety
///
/// Before this CPU's first interrupt.
pub unsafe fn join() -> Result<(), Unusable> {
    // SAFETY: forwarded.
    unsafe { backend::init(selected().choice()) }.map(drop)
}

/// The backend.
#[inline(always)]
pub fn selected() -> Selected {
    SELECTED.get().copied().unwrap_or(Selected::None(Null::new()))
}

/// Runs `f` in a window, for what is not a page table but carries its key.
#[cfg(target_arch = "x86_64")] // whose interrupt controller is one
#[inline(always)]
pub fn in_window<R>(f: impl FnOnce() -> R) -> R {
    let backend = selected();
    let _open: kpkeys::Guard<'_, _, kpkeys::context::PageTables> = kpkeys::Guard::enter(&backend);
    f()
}

/// Called first in every exception and interrupt, NMIs included. Returns the interrupted
/// code's value, which the frame keeps.
#[inline(always)]
pub fn enter_exception() -> Saved {
    selected().exception_entry()
}

/// Called last before an exception or interrupt returns, with what the frame kept.
#[inline(always)]
pub fn leave_exception(interrupted: Saved) {
    selected().exception_return(interrupted);
}

/// Called on a thread switch, interrupts off: stores the outgoing thread's value and puts the incoming one's in force.
#[inline(always)]
pub fn switch_thread(outgoing: &mut Saved, incoming: &Saved) {
    selected().thread_switch(outgoing, incoming);
}

/// The value a new thread starts with.
pub fn initial() -> Saved {
    selected().initial()
}
