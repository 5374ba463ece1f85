//! The stores of a section: each is counted, and made in the window that the mode has for it.

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
use crate::table::{Slot, Slots, Table};

impl<M: Machine> Section<'_, M> {
    /// Stores an entry that points to a table, or a block: one above the last level, of the linear map, the alias or a root; or of any table where there are no types.
    #[inline(always)]
    pub(crate) fn set_upper(&self, slot: Slot<'_>, entry: Entry) {
        self.store_upper(slot, |window, slot| store::set(window, slot, entry));
        self.stored_valid(entry);
    }

    /// Empties an entry above the last level.
    #[inline(always)]
    pub(crate) fn clear_upper(&self, slot: Slot<'_>) {
        self.store_upper(slot, store::clear);
    }

    /// One store above the last level, to a table that has the key of page tables.
    #[inline(always)]
    fn store_upper<'s>(&self, slot: Slot<'s>, f: impl FnOnce(&Window<'_>, Slot<'s>)) {
        self.will_store(1);
        self.in_types_window(|window| {
            self.count(Event::UpperStore, 1);
            f(&window.window(), self.writable(slot));
        });
    }

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

    /// Stores a block: a leaf above the last level.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    #[track_caller]
    pub(crate) fn set_block(
        &self,
        slot: Slot<'_>,
        level: Level,
        entry: Entry,
    ) -> Result<(), Error> {
        self.will_store(1);
        self.store_leaf(Event::UpperStore, (slot, level), entry, |window, slot| {
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
            let types = *types;
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
        let by = Location::caller();
        let sweep = Cell::new(false);
        let is_due = |_| self.is_sweeping(&sweep);
        let mark = |window: &TypesWindow<'_>, word| self.mark_before_move(window, from, word);
        self.in_judging_window(is_due, mark, |window, marks| {
            self.check_source(from, by)?;
            let marking = self.check_target(into, (marks, sweep.get()), by)?;
            let (mut stores, into) = (0, self.writable_slots(into));
            for (from, into) in self.writable_slots(from).iter().zip(into.iter()) {
                let entry = from.load_relaxed();
                if M::Format::is_present(entry) && self.mark_moved(marks, marking, entry) {
                    // First emptied, so that no walker finds a page twice.
                    store::set(window, into, store::clear_from::<M>(window, from, entry));
                    stores += 2;
                }
            }
            self.count(Event::EntryStore, stores);
            Ok(())
        })
    }

    /// Whether a sweep is under way, and notes it for the rest of the gate: one that begins later waits for that.
    pub(super) fn is_sweeping(&self, noted: &Cell<bool>) -> bool {
        noted.set(self.types().is_some_and(Types::is_sweeping));
        noted.get()
    }

    /// Holds the table of PTEs that entries are to be stored to against its type. Returns the types if a sweep is under way, so that what the
    /// entries map is to be [marked](Self::mark_moved): now, or when `marks` were made before.
    #[inline(always)]
    pub(super) fn check_target(
        &self,
        slots: Slots<'_>,
        (marks, were_due): (Marks<'_>, bool),
        by: &'static Location<'static>,
    ) -> Result<Option<&Types<M::Format>>, Error> {
        self.check_source(slots, by)?;
        Ok(self.types().filter(|types| match marks {
            Marks::Here(_) => types.is_sweeping(),
            Marks::Before(_) => were_due,
        }))
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

    /// Runs `f` in a window, for a store to guarded memory, with how far behind its address that is made. It is no entry, and is not counted as one.
    #[inline]
    pub(crate) fn store_guarded<R>(&self, f: impl FnOnce(&TypesWindow<'_>, usize) -> R) -> R {
        self.in_types_window(|window| f(window, self.to_alias))
    }

    /// Runs `types`, which stores what guarded memory says of a table, and then `entry`, which stores an entry above the last level, in one gate. `apart` says whether
    /// the entry is in a table with a key of its own. `types` is told how far behind its address a word is stored.
    #[inline]
    pub(crate) fn change_upper<A, R>(
        &self,
        apart: bool,
        types: impl Fn(&TypesWindow<'_>, usize) -> A,
        entry: impl FnOnce(&Window<'_>, A) -> R,
    ) -> R {
        self.will_store(1);
        let result = self.in_types_window_then(apart, |window| types(window, self.to_alias), entry);
        self.report_noted();
        result
    }

    /// The other way round: `types` follows, unless `entry` refuses.
    #[inline]
    pub(crate) fn change_upper_first(
        &self,
        apart: bool,
        entry: impl FnOnce(&Window<'_>) -> Result<(), Error>,
        types: impl FnOnce(&TypesWindow<'_>, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.will_store(1);
        let types = |window: &TypesWindow<'_>| types(window, self.to_alias);
        let result = self.in_window_then_types(apart, entry, types);
        self.report_noted();
        result
    }

    /// Runs `change`, which empties an entry that maps a block, in one window.
    pub(crate) fn change_block<R>(&self, change: impl FnOnce(&Window<'_>) -> R) -> R {
        self.will_store(1);
        let result = self.in_window(change);
        self.report_noted();
        result
    }

    /// Replaces an entry above the last level, if it still is `was`, and returns whether. For what runs in [`change_upper`](Self::change_upper).
    #[inline]
    pub(crate) fn replace_upper(
        &self,
        window: &Window<'_>,
        slot: Slot<'_>,
        was: Entry,
        entry: Entry,
    ) -> bool {
        self.count(Event::UpperStore, 1);
        store::replace(window, self.writable(slot), was, entry)
    }

    /// Runs `first`, a store to guarded memory, and, unless that is refused, empties a table in the same gate. `apart` says whether the table has a key of its own.
    ///
    /// # Safety
    ///
    /// As [`store::zero`], once `first` has returned.
    #[inline]
    pub(crate) unsafe fn zero_after<E>(
        &self,
        apart: bool,
        table: Table<'_, M::Format>,
        first: impl Fn(&TypesWindow<'_>, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let zero = |window: &Window<'_>, done: Result<(), E>| {
            done?;
            // SAFETY: the caller's promise is the one asked for.
            unsafe { store::zero(window, self.writable_slots(table.all())) };
            Ok(())
        };
        self.in_types_window_then(apart, |window| first(window, self.to_alias), zero)
    }

    /// Fills a table that is not linked.
    #[inline]
    pub(crate) fn fill(&self, table: Table<'_, M::Format>, entry: impl FnMut(usize) -> Entry) {
        self.will_store(table.all().len());
        self.in_window(|window| {
            self.count(Event::LinearStore, table.all().len() as u64);
            store::set_range(window, self.writable_slots(table.all()), entry);
        });
    }

    /// One store to each entry of a run, in one window or in a window each.
    #[inline(always)]
    #[track_caller]
    fn for_each(&self, slots: Slots<'_>, f: impl FnMut(&Window<'_>, Slot<'_>, usize)) {
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
    fn for_each_alone(&self, slots: Slots<'_>, mut f: impl FnMut(&Window<'_>, Slot<'_>, usize)) {
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
    fn for_each_valid(&self, slots: Slots<'_>, f: impl FnMut(&Window<'_>, Slot<'_>, usize, Entry)) {
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
    fn for_each_valid_by_section(
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

    /// One store of a leaf at a level, held against the types in the same window.
    #[inline(always)]
    #[track_caller]
    fn store_leaf<'s, R>(
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
    fn change_leaf<'s, R>(
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
    fn writable<'s>(&self, slot: Slot<'s>) -> Slot<'s> {
        match self.machine.backend().scheme() {
            Scheme::Keys => slot,
            // SAFETY: `to_alias` is zero or leads to the alias that every page-table page has, and is a multiple of the page
            // size; the result is used in a window.
            Scheme::Alias => unsafe { slot.displaced(self.to_alias) },
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
