//! Stores to one entry that maps a page: each is counted, and made in the window that the mode has for it.

use core::panic::Location;

use kpkeys::{Backend, Scheme, Window};

use super::{Section, TypesWindow};
use crate::addr::Level;
use crate::entry::Entry;
use crate::error::Error;
use crate::machine::{Event, Machine};
use crate::store;
use crate::table::Slot;

impl<M: Machine> Section<'_, M> {
    /// Stores a PTE.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if the frame that it maps must not be mapped so. Nothing is stored then.
    ///
    /// # Safety
    ///
    /// [As for each](Self#safety).
    #[inline(always)]
    #[track_caller]
    pub unsafe fn set(&self, slot: Slot<'_>, entry: Entry) -> Result<(), Error> {
        self.store_leaf(Event::EntryStore, (slot, Level::Pte), entry, |window, slot| {
            store::set(window, slot, entry);
        })?;
        self.stored_valid(entry);
        Ok(())
    }

    /// [`set`](Self::set) for an entry of the linear map's or the alias's, or where there are no types.
    #[inline(always)]
    pub(crate) fn set_admitted(&self, slot: Slot<'_>, entry: Entry) {
        self.store(Event::EntryStore, slot, |window, slot| store::set(window, slot, entry));
        self.stored_valid(entry);
    }

    /// Replaces a PTE and returns the old one.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    ///
    /// # Safety
    ///
    /// [As for each](Self#safety).
    #[inline(always)]
    #[track_caller]
    pub unsafe fn establish(&self, slot: Slot<'_>, entry: Entry) -> Result<Entry, Error> {
        let old =
            self.store_leaf(Event::EntryStore, (slot, Level::Pte), entry, |window, slot| {
                store::establish::<M>(window, slot, entry)
            })?;
        self.stored_valid(entry);
        Ok(old)
    }

    /// Empties a PTE and returns what it was, with the flags hardware has set. (Nothing, where it is in no table in use, and stays as it is.)
    ///
    /// # Safety
    ///
    /// [As for each](Self#safety).
    #[inline(always)]
    #[track_caller]
    pub unsafe fn get_and_clear(&self, slot: Slot<'_>) -> Entry {
        self.change_leaf(slot, store::get_and_clear::<M>).unwrap_or(Entry::EMPTY)
    }

    /// Changes a leaf from `old` to `new` if it still is `old`; returns whether it was.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    ///
    /// # Safety
    ///
    /// [As for each](Self#safety).
    #[inline(always)]
    #[track_caller]
    pub unsafe fn set_access_flags(
        &self,
        slot: Slot<'_>,
        old: Entry,
        new: Entry,
    ) -> Result<bool, Error> {
        self.store_leaf(Event::EntryStore, (slot, Level::Pte), new, |window, slot| {
            store::set_access_flags::<M>(window, slot, old, new)
        })
    }

    /// Clears the young flag of a leaf and returns whether it was set.
    ///
    /// # Safety
    ///
    /// [As for each](Self#safety).
    #[inline(always)]
    #[track_caller]
    pub unsafe fn test_and_clear_young(&self, slot: Slot<'_>) -> bool {
        self.change_leaf(slot, store::test_and_clear_young::<M>).unwrap_or(false)
    }

    /// One store of a leaf at a level, held against the types in the same window.
    #[inline(always)]
    #[track_caller]
    pub(super) fn store_leaf<'s, R>(
        &self,
        event: Event,
        (slot, level): (Slot<'s>, Level),
        leaf: Entry,
        f: impl FnOnce(&Window<'_>, Slot<'s>) -> R,
    ) -> Result<R, Error> {
        let Some(types) = self.types() else { return Ok(self.store(event, slot, f)) };
        let by = Location::caller();
        let is_due = |mark| self.lacks_mark(types, mark, (level, leaf));
        let mark = |window: &TypesWindow<'_>, mark| {
            self.mark_leaf(window, types, mark, (level, leaf));
        };
        self.in_judging_window(is_due, mark, |window, marks| {
            self.admit(marks, types, (slot, level), leaf, by)?;
            self.count(event, 1);
            Ok(f(window, self.writable(slot)))
        })
    }

    /// One change of a PTE that maps no other frame. Nothing, if it is in no table in use, where there are types.
    #[inline(always)]
    #[track_caller]
    pub(super) fn change_leaf<'s, R>(
        &self,
        slot: Slot<'s>,
        f: impl FnOnce(&Window<'_>, Slot<'s>) -> R,
    ) -> Option<R> {
        let Some(types) = self.types() else { return Some(self.store(Event::EntryStore, slot, f)) };
        let by = Location::caller();
        let result = self.in_window(|window| {
            self.check_table(types, slot, Level::Pte, by).ok()?;
            self.count(Event::EntryStore, 1);
            Some(f(window, self.writable(slot)))
        });
        self.report_noted();
        result
    }

    /// One store. It is counted while its window is open, so that a probe can tell which window it belongs to.
    #[inline(always)]
    fn store<'s, R>(
        &self,
        event: Event,
        slot: Slot<'s>,
        f: impl FnOnce(&Window<'_>, Slot<'s>) -> R,
    ) -> R {
        self.in_window(|window| {
            self.count(event, 1);
            f(window, self.writable(slot))
        })
    }

    /// The entry where it can be written in a window. A backend that works by keys leaves nothing of this.
    #[inline(always)]
    pub(super) fn writable<'s>(&self, slot: Slot<'s>) -> Slot<'s> {
        match self.machine.backend().scheme() {
            Scheme::Keys => slot,
            // SAFETY: `to_alias` is zero or leads to the alias that every page-table page has, and is a multiple of the page
            // size; the result is used in a window.
            Scheme::Alias => unsafe { slot.displaced(self.to_alias) },
        }
    }
}
