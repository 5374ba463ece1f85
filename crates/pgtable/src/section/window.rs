//! The window of a section: when it opens and closes, which barriers that takes, and what is counted of it.

use kpkeys::context::PageTables;
use kpkeys::{Backend, Guard, Window};

use super::{NextStore, Section, Space};
use crate::entry::{Entry, Format};
use crate::machine::{Event, Machine, Probe};

impl<'m, M: Machine> Section<'m, M> {
    /// Runs `f` in a window: its own, or the one that is open.
    #[inline(always)]
    pub(super) fn in_window<R>(&self, f: impl FnOnce(&Window<'_>) -> R) -> R {
        if self.needs_own_window() {
            self.in_own_window(f)
        } else {
            // SAFETY: no window of its own is needed only if nothing is protected or this section's guard is open.
            f(&unsafe { Window::assume_open() })
        }
    }

    /// [`in_window`](Self::in_window) for stores that are held against types: what `f` [noted](Self::noted) is reported.
    #[inline(always)]
    pub(super) fn in_judging_window<R>(&self, f: impl FnOnce(&Window<'_>) -> R) -> R {
        let result = self.in_window(f);
        self.report_noted();
        result
    }

    /// Reports what was noted, if anything was.
    #[inline(always)]
    pub(super) fn report_noted(&self) {
        if self.noted.any() {
            self.report();
        }
    }

    /// Reports what was noted, with the window closed.
    #[cold]
    #[inline(never)]
    pub(crate) fn report(&self) {
        if let Some(violation) = self.noted.take() {
            self.paused(|| self.machine.report(&violation));
        }
    }

    /// Whether a store at this point must open a window for itself; opens that of the operation if it is time to.
    #[inline(always)]
    pub(super) fn needs_own_window(&self) -> bool {
        // One predictable branch where nothing is protected or the window is open.
        if self.next_store.get() == NextStore::Plain {
            return false;
        }
        if self.next_store.get() == NextStore::OpensWindow {
            self.open();
            return false;
        }
        true
    }

    #[inline(always)]
    pub(super) fn in_own_window<R>(&self, f: impl FnOnce(&Window<'_>) -> R) -> R {
        if self.has_gates() {
            return self.in_gate(f);
        }
        let guard = self.open_guard();
        let result = f(&guard.window());
        self.close_guard(guard, false);
        result
    }

    /// Runs `f`, which stores and does nothing else, in a gate.
    #[inline(always)]
    fn in_gate<R>(&self, f: impl FnOnce(&Window<'_>) -> R) -> R {
        let interrupts_were_on = self.machine.interrupts_off();
        self.machine.probe().gate_begins();
        let guard = self.open_guard();
        let result = f(&guard.window());
        self.close_guard(guard, false);
        self.machine.probe().gate_ends();
        if interrupts_were_on {
            self.machine.interrupts_on();
        }
        result
    }

    /// Whether a run of stores has a window of its own, as a whole.
    #[inline(always)]
    pub(super) fn runs_in_gate(&self) -> bool {
        self.next_store.get() == NextStore::InGate
    }

    /// A valid entry was stored: the kernel's own may need a barrier, now or at the end of the section.
    #[inline(always)]
    pub(crate) fn stored_valid(&self, entry: Entry) {
        if self.space == Space::Kernel && M::Format::is_present(entry) {
            self.valid_kernel_entries_stored();
        }
    }

    #[inline(always)]
    pub(super) fn valid_kernel_entries_stored(&self) {
        if M::Format::VALID_KERNEL_STORE_NEEDS_BARRIER {
            self.barrier_due.set(true);
            if self.lazy_depth.get() == 0 && !self.mode.fuses() {
                self.issue_due_barrier();
            }
        }
    }

    #[inline(always)]
    pub(super) fn issue_due_barrier(&self) {
        if self.barrier_due.replace(false) {
            self.count(Event::Barrier, 1);
            self.machine.entry_barrier();
        }
    }

    #[inline(always)]
    pub(super) fn open(&self) {
        if self.machine.has_gates() {
            // Whatever this section says: a store is refused rather than a window kept open.
            return;
        }
        // There is none yet: opened only while no window is. Forgotten, so that no code asks.
        core::mem::forget(self.guard.replace(Some(self.open_guard())));
        self.next_store.set(NextStore::Plain);
    }

    /// Closes a window that has had its stores.
    #[cold]
    pub(super) fn close_full(&self) {
        self.close();
    }

    /// Closes the section's window if it is open, merging its barrier with one that is due. Returns whether it was open.
    #[inline]
    pub(super) fn close(&self) -> bool {
        let Some(guard) = self.guard.take() else {
            self.issue_due_barrier();
            return false;
        };
        self.next_store.set(NextStore::closed(self.mode));
        self.window_stores.set(0);
        let merge = self.barrier_due.replace(false);
        self.close_guard(guard, merge);
        true
    }

    #[inline(always)]
    fn open_guard(&self) -> Guard<'m, M::Backend, PageTables> {
        // SAFETY: a section opens no guard while it has one, and code that runs in its window uses no other (`Section`'s
        // documentation). What runs in it is this crate's stores, and functions of the caller as far as the mode lets them. In gates
        // interrupts are off.
        let guard = unsafe { Guard::enter(self.machine.backend()) };
        if self.machine.backend().has_register() {
            self.count_switch();
            self.count(Event::WindowOpened, 1);
        }
        guard
    }

    #[inline(always)]
    pub(super) fn close_guard(
        &self,
        guard: Guard<'m, M::Backend, PageTables>,
        merge_barrier: bool,
    ) {
        self.count_closing(merge_barrier);
        if merge_barrier {
            self.count(Event::Barrier, 1);
            guard.leave_with(|| self.machine.entry_barrier());
        }
    }

    /// Counts the end of a window while it is still open.
    #[inline(always)]
    fn count_closing(&self, merge_barrier: bool) {
        if self.machine.backend().has_register() {
            self.count(Event::WindowClosed, 1);
            if merge_barrier {
                self.count(Event::Switch, 1);
            } else {
                self.count_switch();
            }
        }
    }

    #[inline(always)]
    fn count_switch(&self) {
        self.count(Event::Switch, 1);
        self.count(Event::Barrier, u64::from(self.machine.backend().write_needs_barrier()));
    }

    #[inline(always)]
    pub(super) fn count(&self, event: Event, times: u64) {
        let event = match (self.space, event) {
            (Space::Linear | Space::Alias, Event::EntryStore | Event::UpperStore) => {
                Event::LinearStore
            }
            _ => event,
        };
        self.machine.probe().count(event, times);
    }
}
