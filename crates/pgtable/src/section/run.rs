//! Stores to runs of a table's entries: each is counted, and the windows they share are those of `each`.

use core::cell::Cell;
use core::panic::Location;

use kpkeys::{Backend, Scheme, Window};

use super::{Marks, Section, Space, TypesWindow};
use crate::addr::{Level, PIECE_ENTRIES};
use crate::entry::{Entry, Format};
use crate::error::Error;
use crate::guarded::Types;
use crate::machine::{Event, Flush, Machine};
use crate::store;
use crate::table::{Slots, Table};

impl<M: Machine> Section<'_, M> {
    /// Stores PTEs to a run that map one frame after the other, the first by `first`.
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
    pub unsafe fn set_consecutive(&self, slots: Slots<'_>, first: Entry) -> Result<(), Error> {
        self.set_leaves(slots, first, move |i| M::Format::behind(first, i))
    }

    /// Stores `leaf(i)` to each PTE of a run: valid leaves that differ from `template` in nothing but the frame.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), for the first that is refused.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn set_leaves(
        &self,
        slots: Slots<'_>,
        template: Entry,
        leaf: impl Fn(usize) -> Entry + Copy,
    ) -> Result<(), Error> {
        let (Some(types), Some(first)) = (self.types(), slots.iter().next()) else {
            self.set_range(slots, leaf);
            return Ok(());
        };
        let by = Location::caller();
        let is_due = move |mark| {
            // Its own copy, as below.
            let types = types.by_value();
            (0..slots.len()).any(|i| !types.has_word(M::Format::frame(Level::Pte, leaf(i)), mark))
        };
        let mark = move |window: &TypesWindow<'_>, mark| {
            let frames = (0..slots.len()).map(|i| M::Format::frame(Level::Pte, leaf(i)));
            self.mark_before(window, types, mark, template, frames);
        };
        let result = self.in_judging_window(is_due, mark, move |window, marks| {
            let mark = marks.word(types);
            let admission = self.admission(types, first, Level::Pte, (mark, template), by);
            let admission = admission.map_err(|error| (0, error))?;
            self.count(Event::EntryStore, slots.len() as u64);
            // Its own copy, which stores to entries cannot change as far as the compiler knows.
            let leaf = leaf;
            let (writable, usual) = (self.writable_slots(slots), admission.usual());
            let stored = store::set_range_until(window, writable, |i| {
                // Computed once: what is judged is what is stored.
                let leaf = leaf(i);
                let frame = M::Format::frame(Level::Pte, leaf);
                let admitted = usual.is(frame) || admission.admits_unusual(marks, frame);
                if admitted { Ok(leaf) } else { Err(frame) }
            });
            stored.map_err(|(done, frame)| {
                store::set_range(window, writable.sub(0, done), |_| Entry::EMPTY);
                (done, self.refused(&admission, frame, slots.slot(done), by))
            })
        });
        if self.space == Space::Kernel {
            self.valid_kernel_entries_stored();
        }
        result.map_err(|(done, error)| {
            if done > 0 {
                self.forget_all();
            }
            error
        })
    }

    /// Flushes everything, since leaves were valid for a moment that are taken back.
    #[cold]
    fn forget_all(&self) {
        self.count(Event::TlbFlush, 1);
        self.machine.flush_tlb(Flush::All);
    }

    /// Stores PTEs of a table, each at its place, where nothing is: all, or none.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), for the first that is refused.
    ///
    /// # Safety
    ///
    /// [As for each](Self#safety).
    #[inline(always)]
    #[track_caller]
    pub unsafe fn set_at(
        &self,
        table: Table<'_, M::Format>,
        entries: &[(usize, Entry)],
    ) -> Result<(), Error> {
        if !self.has_gates() {
            for &(index, entry) in entries {
                // SAFETY: the caller's promise is the one asked for.
                unsafe { self.set(table.slot(index), entry) }?;
            }
            return Ok(());
        }
        let by = Location::caller();
        let entries = &entries[..entries.len().min(PIECE_ENTRIES)];
        let Some(&(first, _)) = entries.first() else { return Ok(()) };
        let types = self.types();
        let leaves = || entries.iter().map(|&(_, entry)| (Level::Pte, entry));
        let is_due = |mark| {
            types.is_some_and(|types| leaves().any(|leaf| self.lacks_mark(types, mark, leaf)))
        };
        let mark = |window: &TypesWindow<'_>, mark| {
            if let Some(types) = types {
                leaves().for_each(|leaf| self.mark_leaf(window, types, mark, leaf));
            }
        };
        let result = self.in_judging_window(is_due, mark, |window, marks| {
            if let Some(types) = types {
                self.check_table(types, table.slot(first), Level::Pte, by)
                    .map_err(|error| (0, error))?;
            }
            let mark = types.map_or(0, |types| marks.word(types));
            for (done, &(index, entry)) in entries.iter().enumerate() {
                let slot = table.slot(index);
                let admitted = types.map_or(Ok(()), |types| {
                    self.admit_leaf(marks, types, mark, (slot, Level::Pte), entry, by)
                });
                if let Err(error) = admitted {
                    for &(index, _) in &entries[..done] {
                        store::clear(window, self.writable(table.slot(index)));
                    }
                    return Err((done, error));
                }
                self.count(Event::EntryStore, 1);
                store::set(window, self.writable(slot), entry);
            }
            Ok(())
        });
        entries.iter().for_each(|&(_, entry)| self.stored_valid(entry));
        result.map_err(|(done, error)| {
            if done > 0 {
                self.forget_all();
            }
            error
        })
    }

    /// Stores `entry(i)` to each PTE of a run: entries of the linear map's or the alias's, or where there are no types.
    #[inline(always)]
    pub(crate) fn set_range(&self, slots: Slots<'_>, mut entry: impl FnMut(usize) -> Entry) {
        if self.runs_in_gate() {
            self.in_window(|window| {
                self.count(Event::EntryStore, slots.len() as u64);
                store::set_range(window, self.writable_slots(slots), entry);
            });
        } else if self.needs_own_window() {
            self.for_each_alone(slots, |window, slot, i| store::set(window, slot, entry(i)));
        } else {
            self.count(Event::EntryStore, slots.len() as u64);
            // SAFETY: no window of its own is needed only if nothing is protected or this section's guard is open.
            let window = unsafe { Window::assume_open() };
            store::set_range(&window, self.writable_slots(slots), entry);
        }
        if self.space == Space::Kernel {
            self.valid_kernel_entries_stored();
        }
    }

    /// Empties each PTE of a run and passes what it was, with the flags hardware has set. (Where windows are gates, before any is emptied.)
    ///
    /// # Safety
    ///
    /// [As for each](Self#safety).
    #[inline(always)]
    #[track_caller]
    pub unsafe fn get_and_clear_range(&self, slots: Slots<'_>, mut was: impl FnMut(usize, Entry)) {
        if self.has_gates() {
            slots.iter().enumerate().for_each(|(i, slot)| was(i, slot.load_relaxed()));
            return self.for_each(slots, |window, slot, _| {
                store::get_and_clear::<M>(window, slot);
            });
        }
        self.for_each(slots, |window, slot, i| was(i, store::get_and_clear::<M>(window, slot)));
    }

    /// Empties each valid PTE of a run and passes what it was. No window is opened if there is none.
    ///
    /// Where windows are gates, entries are passed before any is emptied, with the flags that hardware has set until then; elsewhere
    /// each as it is emptied.
    ///
    /// # Safety
    ///
    /// [As for each](Self#safety).
    #[inline(always)]
    #[track_caller]
    pub unsafe fn get_and_clear_valid(&self, slots: Slots<'_>, mut was: impl FnMut(usize, Entry)) {
        if self.has_gates() {
            for (i, slot) in slots.iter().enumerate() {
                let entry = slot.load_relaxed();
                if M::Format::is_present(entry) {
                    was(i, entry);
                }
            }
            return self.clear_valid(slots);
        }
        self.for_each_valid_by_section(slots, |window, slot, i, entry| {
            was(i, store::clear_from::<M>(window, slot, entry));
        });
    }

    /// Changes each valid PTE of a run, keeping the flags that hardware sets meanwhile. No window is opened if there is none.
    ///
    /// # Safety
    ///
    /// [As for each](Self#safety).
    #[inline(always)]
    #[track_caller]
    pub unsafe fn modify_valid(&self, slots: Slots<'_>, change: impl Fn(Entry) -> Entry) {
        self.for_each_valid(slots, |window, slot, _, entry| {
            store::modify_from::<M>(window, slot, entry, &change);
        });
    }

    /// Takes write permission from each PTE of a run.
    ///
    /// # Safety
    ///
    /// [As for each](Self#safety).
    #[inline(always)]
    #[track_caller]
    pub unsafe fn wrprotect_range(&self, slots: Slots<'_>) {
        // SAFETY: the caller's promise is the one asked for.
        unsafe { self.modify_range(slots, M::Format::write_protected) };
    }

    /// Changes each PTE of a run, keeping the flags that hardware sets meanwhile.
    ///
    /// # Safety
    ///
    /// [As for each](Self#safety).
    #[inline(always)]
    #[track_caller]
    pub unsafe fn modify_range(&self, slots: Slots<'_>, change: impl Fn(Entry) -> Entry) {
        self.for_each(slots, |window, slot, _| {
            store::modify::<M>(window, slot, &change);
        });
    }

    /// Empties valid PTEs of a run and puts each into the same place of another.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if they are in no table in use, or what they are put into is in none. Nothing is stored then.
    #[track_caller]
    pub(crate) fn move_valid(&self, from: Slots<'_>, into: Slots<'_>) -> Result<(), Error> {
        self.in_moving_window(from, into, Location::caller(), |window, marks, marking| {
            let (mut stores, into) = (0, self.writable_slots(into));
            for (from, into) in self.writable_slots(from).iter().zip(into.iter()) {
                let entry = from.load_relaxed();
                if M::Format::is_present(entry) && self.mark_moved(marks, marking, entry) {
                    // First emptied, so that no walker finds a page twice.
                    store::set(window, into, store::clear_from::<M>(window, from, entry));
                    stores += 2;
                }
            }
            stores
        })
    }

    /// Runs `f`, which stores what a run has in another too, or instead, once both are in tables in use. `f` is told where frames get their
    /// marks, and the types if a sweep is under way, so that what the entries map is to be [marked](Self::mark_moved): now, or
    /// when `marks` were made before. It says how many stores it made.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if either is in no table in use. `f` does not run then.
    #[inline(always)]
    pub(super) fn in_moving_window(
        &self,
        from: Slots<'_>,
        into: Slots<'_>,
        by: &'static Location<'static>,
        f: impl FnOnce(&Window<'_>, Marks<'_>, Option<&Types<M::Format>>) -> u64,
    ) -> Result<(), Error> {
        // Noted for the rest of the gate: a sweep that begins later waits for that.
        let sweeps = Cell::new(false);
        let is_due = |_| {
            sweeps.set(self.types().is_some_and(Types::is_sweeping));
            sweeps.get()
        };
        let mark = |window: &TypesWindow<'_>, word| self.mark_before_move(window, from, word);
        self.in_judging_window(is_due, mark, |window, marks| {
            self.check_source(from, by)?;
            self.check_source(into, by)?;
            let marking = self.types().filter(|types| match marks {
                Marks::Here(_) => types.is_sweeping(),
                Marks::Before(_) => sweeps.get(),
            });
            let stores = f(window, marks, marking);
            self.count(Event::EntryStore, stores);
            Ok(())
        })
    }

    /// Holds the table that PTEs are in against its type, if there are types.
    ///
    /// # Errors
    ///
    /// [`Error::Violation`] if it is not in use, or not of the section's space.
    #[inline(always)]
    pub(super) fn check_source(
        &self,
        slots: Slots<'_>,
        by: &'static Location<'static>,
    ) -> Result<(), Error> {
        match (self.types(), slots.iter().next()) {
            (Some(types), Some(first)) => self.check_table(types, first, Level::Pte, by),
            _ => Ok(()),
        }
    }

    /// [`writable`](Self::writable) for a run.
    #[inline(always)]
    pub(super) fn writable_slots<'s>(&self, slots: Slots<'s>) -> Slots<'s> {
        match self.machine.backend().scheme() {
            Scheme::Keys => slots,
            // SAFETY: as for `writable`.
            Scheme::Alias => unsafe { slots.displaced(self.to_alias) },
        }
    }
}
