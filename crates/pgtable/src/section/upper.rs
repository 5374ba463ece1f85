//! Stores above the last level, to whole tables, and to what is guarded as they are.

use kpkeys::Window;

use super::{Section, TypesWindow};
use crate::addr::Level;
use crate::entry::Entry;
use crate::error::Error;
use crate::machine::{Event, Machine};
use crate::store;
use crate::table::{Slot, Table};

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
}
