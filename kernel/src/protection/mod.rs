//! Where the protection register meets the rest of the kernel.
//!
//! The register decides whether this CPU may write page tables. It belongs to what runs: what an exception does about it is in
//! [`interrupted`], what a thread switch does here.
//!
//! The backend is selected by the boot CPU before it takes any interrupt and before any other CPU starts, and
//! never changes again; every CPU makes it ready before its first interrupt. So there is no frame and no thread that
//! was saved under another backend than the one that restores it. Which one it is, and whether windows are gates, is written before
//! protection is on, and read-only from then on.

pub mod control;
pub mod guarded;
pub mod interrupted;
pub mod keys;
pub mod selected;
pub mod violations;

use crate::arch::backend::{self, Choice, Selected, Unusable};
use crate::lock::IrqsOff;
use crate::start::settled::Settled;
use core::sync::atomic::{AtomicBool, Ordering};
use kpkeys::context::{Default, PageTables};
use kpkeys::null::Null;
use kpkeys::{Backend, Guard, Saved, Scheme};
use kpkeys_pgtable::Mode;

#[unsafe(link_section = ".settled")]
static SELECTED: Settled<Selected> = Settled::new();

#[unsafe(link_section = ".settled")]
static MODE: Settled<Mode> = Settled::new();

/// What stands for a backend before one is selected.
static NONE_YET: Selected = Selected::None(Null::new());

/// Settles what depends on the protection mode, before any window is opened.
pub fn settle(mode: Mode) {
    MODE.settle(|| mode);
}

/// Whether windows are gates: exceptions and thread switches restore none from ordinary memory.
#[inline(always)]
pub fn has_gates() -> bool {
    MODE.get() == Some(&Mode::Fused)
}

/// Whether page tables are stored through an alias: from [`now_protected`] on. Until then no program runs.
#[unsafe(link_section = ".settled")]
static HAS_ALIAS: AtomicBool = AtomicBool::new(false);

/// Whether page tables are stored through an alias, which programs must not reach.
#[inline(always)]
pub fn has_alias() -> bool {
    HAS_ALIAS.load(Ordering::Relaxed)
}

/// Remembers that protection is on. Nothing but a window can say so.
pub fn now_protected() {
    if backend().scheme() == Scheme::Alias {
        let alias = interrupted::alias_of_settled(HAS_ALIAS.as_ptr());
        let _irqs_off = IrqsOff::new();
        // SAFETY: no window is open on this CPU, interrupts are off, and what is written is this module's.
        unsafe {
            let open: Guard<'_, _, PageTables> = Guard::enter(backend());
            alias.write_volatile(true);
            drop(open);
        }
    }
}

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
    // SAFETY: no interrupt is on yet, and every exception entry calls `interrupted::enter`.
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
    *backend()
}

/// The backend, where it lies: in memory that is read-only.
#[inline(always)]
pub fn backend() -> &'static Selected {
    SELECTED.get().unwrap_or(&NONE_YET)
}

/// Runs `f` in a window, for what is not a page table but carries its key. Inside of one, which the register says, in that one.
#[inline(always)]
pub fn in_window<R>(f: impl FnOnce() -> R) -> R {
    if backend().is_in::<PageTables>() {
        return f();
    }
    if keys::are_separate() && !backend().is_in::<Default>() {
        return in_window_of_user_tables(f);
    }
    let _irqs_off = IrqsOff::new();
    // SAFETY: no window is open on this CPU, and none is opened within; interrupts are off.
    let _open: Guard<'_, _, PageTables> = unsafe { Guard::enter(backend()) };
    f()
}

/// The same inside of a window for tables with a key of their own, which is open again afterwards.
#[cold]
#[inline(never)]
fn in_window_of_user_tables<R>(f: impl FnOnce() -> R) -> R {
    let _irqs_off = IrqsOff::new();
    // SAFETY: the window that is open is left and entered again; interrupts are off meanwhile.
    unsafe { backend().enter::<PageTables>() };
    let result = f();
    // SAFETY: as above.
    unsafe { backend().enter_user_tables() };
    result
}

/// Closes this CPU, by a constant, and returns whether it was open. For ways that do not come back: the window is not resumed.
pub fn close() -> bool {
    let was_open = !backend().is_in::<Default>();
    // SAFETY: nothing of the kernel needs a window that it has not opened itself.
    unsafe { backend().enter::<Default>() };
    was_open
}

/// Called on a thread switch, interrupts off. Where windows are gates, none is open then, and the next thread starts closed; elsewhere the
/// outgoing thread's value is stored and the incoming one's put in force.
#[inline(always)]
pub fn switch_thread(outgoing: &mut Saved, incoming: &mut Saved) {
    if has_gates() {
        close();
        return;
    }
    // SAFETY: the scheduler passes the states of the threads that it switches between.
    unsafe { backend().thread_switch(outgoing, incoming) };
}

/// The value a new thread starts with.
pub fn initial() -> Saved {
    selected().initial()
}
