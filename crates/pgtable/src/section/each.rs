//! The entries of a run, each with a store, in the windows that the mode has for them: one for all, or one for each.

use core::panic::Location;

use kpkeys::Window;

use super::Section;
use crate::entry::{Entry, Format};
use crate::machine::{Event, Machine};
use crate::table::{Slot, Slots};

impl<M: Machine> Section<'_, M> {
    /// One store to each entry of a run, in one window or in a window each.
    #[inline(always)]
    #[track_caller]
    pub(super) fn for_each(&self, slots: Slots<'_>, f: impl FnMut(&Window<'_>, Slot<'_>, usize)) {
        if self.runs_in_gate() {
            let by = Location::caller();
            self.in_own_window(|window| {
                if self.check_source(slots, by).is_ok() {
                    self.store_each(window, slots, f);
                }
            });
            return self.report_noted();
        }
        if self.needs_own_window() {
            return self.for_each_alone(slots, f);
        }
        // SAFETY: no window of its own is needed only if nothing is protected or this section's guard is open.
        self.store_each(&unsafe { Window::assume_open() }, slots, f);
    }

    /// One store to each entry of a run, in a window that is open.
    #[inline(always)]
    fn store_each(
        &self,
        window: &Window<'_>,
        slots: Slots<'_>,
        mut f: impl FnMut(&Window<'_>, Slot<'_>, usize),
    ) {
        self.count(Event::EntryStore, slots.len() as u64);
        self.in_run.set(true);
        for (i, slot) in self.writable_slots(slots).iter().enumerate() {
            f(window, slot, i);
        }
        self.in_run.set(false);
    }

    /// One store to each entry of a run, in a window each. (Out of line, what `f` captures would be in memory for all modes.)
    #[inline(always)]
    pub(super) fn for_each_alone(
        &self,
        slots: Slots<'_>,
        mut f: impl FnMut(&Window<'_>, Slot<'_>, usize),
    ) {
        for (i, slot) in self.writable_slots(slots).iter().enumerate() {
            self.in_own_window(|window| {
                self.count(Event::EntryStore, 1);
                f(window, slot, i);
            });
        }
    }

    /// [`for_each`](Self::for_each) valid entry of a run, passed as it was loaded. The window opens at the first.
    #[inline(always)]
    #[track_caller]
    pub(super) fn for_each_valid(
        &self,
        slots: Slots<'_>,
        f: impl FnMut(&Window<'_>, Slot<'_>, usize, Entry),
    ) {
        if !self.runs_in_gate() {
            return self.for_each_valid_by_section(slots, f);
        }
        let by = Location::caller();
        if let Some((first, run)) = from_first_valid::<M>(slots) {
            self.in_own_window(|window| {
                if self.check_source(run, by).is_ok() {
                    self.store_valid(window, run, first, f);
                }
            });
            self.report_noted();
        }
    }

    /// The same in the section's own window, or in a window each. (Apart from gates, since what `f` captures is kept in registers only
    /// where there are few copies of it.)
    #[inline(always)]
    pub(super) fn for_each_valid_by_section(
        &self,
        slots: Slots<'_>,
        f: impl FnMut(&Window<'_>, Slot<'_>, usize, Entry),
    ) {
        let Some((first, run)) = from_first_valid::<M>(slots) else { return };
        if self.needs_own_window() {
            return self.for_each_valid_alone(run, first, f);
        }
        // SAFETY: no window of its own is needed only if nothing is protected or this section's guard is open.
        self.store_valid(&unsafe { Window::assume_open() }, run, first, f);
    }

    /// One store to each valid entry of a run, which starts with entry `first`, in a window that is open.
    #[inline(always)]
    fn store_valid(
        &self,
        window: &Window<'_>,
        run: Slots<'_>,
        first: usize,
        mut f: impl FnMut(&Window<'_>, Slot<'_>, usize, Entry),
    ) {
        let mut stores = 0;
        self.in_run.set(true);
        for (i, slot) in self.writable_slots(run).iter().enumerate() {
            let entry = slot.load_relaxed();
            if M::Format::is_present(entry) {
                f(window, slot, first + i, entry);
                stores += 1;
            }
        }
        self.in_run.set(false);
        self.count(Event::EntryStore, stores);
    }

    /// The same with a window for each. The run starts with entry `first`.
    #[cold]
    fn for_each_valid_alone(
        &self,
        run: Slots<'_>,
        first: usize,
        mut f: impl FnMut(&Window<'_>, Slot<'_>, usize, Entry),
    ) {
        for (i, slot) in run.iter().enumerate().filter(|(_, slot)| is_valid::<M>(*slot)) {
            self.in_own_window(|window| {
                self.count(Event::EntryStore, 1);
                let slot = self.writable(slot);
                f(window, slot, first + i, slot.load_relaxed());
            });
        }
    }
}

/// A run from its first valid entry on, and which that is.
#[inline(always)]
pub(super) fn from_first_valid<M: Machine>(slots: Slots<'_>) -> Option<(usize, Slots<'_>)> {
    let first = slots.iter().position(is_valid::<M>)?;
    Some((first, slots.sub(first, slots.len() - first)))
}

#[inline(always)]
fn is_valid<M: Machine>(slot: Slot<'_>) -> bool {
    M::Format::is_present(slot.load_relaxed())
}
