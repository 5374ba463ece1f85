//! Sections: where windows open and close, as the protection mode says.
//!
//! A [`Section`] stands for one operation on page tables (a fork, a map, an unmap). Inside it, [`Section::lazy`] marks
//! lazy-MMU sections: stretches, one table long at most, whose entries need not be visible to the hardware before the end.
//! The four modes differ only in where the window is:
//!
//! | mode | window |
//! |---|---|
//! | `off` | none |
//! | `unbatched` | around each store |
//! | `batched` | around each lazy-MMU section, and around each store outside one |
//! | `fused` | from the first store of the operation to its end, reopened after every [`FUSED_WINDOW_STORES`] stores |
//!
//! That a `fused` window opens no earlier than at the first store keeps the walk to it outside: the window is shorter, and the
//! loads of the walk overlap with what went before, which the barrier of the switch would forbid.
//!
//! # The interrupt rule
//!
//! A section is a value on the stack of the code that opened it. An interrupt handler has no way to reach the section it
//! interrupted, so it cannot take the interrupted code's window for its own: it makes its own section, whose window is a real
//! switch, because exception entry reset the register.
//!
//! # Barriers
//!
//! Where the format needs a barrier to make kernel entries valid, it is issued once when a lazy-MMU section ends (once at the
//! end of the operation in `fused`, since nobody may use a mapping before the operation returned). If a window closes at that
//! very point, the same barrier also makes the closing register write effective, and the write's own barrier is not issued:
//! the window closes no later for it.

use core::cell::Cell;
use core::marker::PhantomData;

use kpkeys::context::PageTables;
use kpkeys::{Backend, Guard, Scheme, Window};

use crate::entry::{Entry, Format};
use crate::machine::{Event, Machine, Probe};
use crate::mode::Mode;
use crate::store;
use crate::table::{Slot, Slots, Table};

/// After how many stores an operation in mode `fused` closes and reopens its window.
pub const FUSED_WINDOW_STORES: usize = 4096;

/// Whose tables a section changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Tables of the kernel's half: valid entries may need a barrier.
    Kernel,
    /// Tables of a user address space.
    User,
    /// The linear map's own tables, whose changes are followed by a TLB flush that contains the barrier.
    Linear,
}

/// What a store at this point does about the window.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NextStore {
    /// Nothing: it is open, or nothing is protected.
    Plain,
    /// Opens that of the operation, to stay open.
    OpensWindow,
    /// Opens one for itself alone.
    InOwnWindow,
}

impl NextStore {
    /// With the window closed.
    fn closed(mode: Mode) -> Self {
        match mode {
            Mode::Off => NextStore::Plain,
            Mode::Unbatched | Mode::Batched => NextStore::InOwnWindow,
            Mode::Fused => NextStore::OpensWindow,
        }
    }

    /// While the operation is paused.
    fn paused(mode: Mode) -> Self {
        if mode.protects() { NextStore::InOwnWindow } else { NextStore::Plain }
    }
}

/// One operation on page tables, on the calling CPU.
pub struct Section<'m, M: Machine> {
    machine: &'m M,
    mode: Mode,
    space: Space,
    /// How far behind an entry its alias is. Zero unless page tables are protected by an alias, and by now.
    to_alias: usize,
    guard: Cell<Option<Guard<'m, M::Backend, PageTables>>>,
    next_store: Cell<NextStore>,
    lazy_depth: Cell<u32>,
    barrier_due: Cell<bool>,
    /// Stores since the window was opened, in mode `fused`.
    window_stores: Cell<usize>,
    this_cpu_only: PhantomData<*mut ()>,
}

impl<'m, M: Machine> Section<'m, M> {
    /// Begins an operation. `to_alias` is zero, or that of the machine if every page-table page has its alias.
    #[inline(always)]
    pub(crate) fn begin(machine: &'m M, mode: Mode, space: Space, to_alias: usize) -> Self {
        Section {
            machine,
            mode,
            space,
            to_alias,
            guard: Cell::new(None),
            next_store: Cell::new(NextStore::closed(mode)),
            lazy_depth: Cell::new(0),
            barrier_due: Cell::new(false),
            window_stores: Cell::new(0),
            this_cpu_only: PhantomData,
        }
    }

    /// Begins a lazy-MMU section, which ends when the returned value is dropped. Only the outermost of nested ones acts.
    #[inline(always)]
    pub fn lazy(&self) -> LazyMmu<'_, 'm, M> {
        // In mode `fused` nothing depends on them.
        if self.mode != Mode::Fused {
            let depth = self.lazy_depth.get();
            self.lazy_depth.set(depth + 1);
            if depth == 0 && self.mode == Mode::Batched {
                self.open();
            }
        }
        LazyMmu { section: self }
    }

    /// Runs `f` with the window closed and pending barriers issued: for work that is long or is not about page tables.
    pub fn paused<R>(&self, f: impl FnOnce() -> R) -> R {
        let was_open = self.close();
        let closed = self.next_store.replace(NextStore::paused(self.mode));
        let result = f();
        self.next_store.set(closed);
        // A lazy-MMU section may have ended meanwhile: nobody would close a window opened for it again. In mode `fused` the next
        // store opens one.
        if was_open && self.mode == Mode::Batched && self.lazy_depth.get() > 0 {
            self.open();
        }
        result
    }

    /// Bounds the window of a `fused` operation: call it before storing `stores` PTEs in a row. Stores above the last level
    /// need no such call: they bound the window themselves.
    #[inline(always)]
    pub fn will_store(&self, stores: usize) {
        if self.mode == Mode::Fused {
            let mut total = self.window_stores.get() + stores;
            if total > FUSED_WINDOW_STORES {
                self.close_full();
                total = stores;
            }
            self.window_stores.set(total);
        }
    }

    /// Stores an entry that points to a table, or a block: one above the last level.
    #[inline(always)]
    pub fn set_upper(&self, slot: Slot<'_>, entry: Entry) {
        self.will_store(1);
        self.store(Event::UpperStore, slot, |window, slot| store::set(window, slot, entry));
        self.stored_valid(entry);
    }

    /// Empties an entry above the last level.
    #[inline(always)]
    pub fn clear_upper(&self, slot: Slot<'_>) {
        self.will_store(1);
        self.store(Event::UpperStore, slot, store::clear);
    }

    /// Stores a PTE.
    #[inline(always)]
    pub fn set(&self, slot: Slot<'_>, entry: Entry) {
        self.store(Event::EntryStore, slot, |window, slot| store::set(window, slot, entry));
        self.stored_valid(entry);
    }

    /// Stores `entry(i)` to each PTE of a run.
    #[inline(always)]
    pub fn set_range(&self, slots: Slots<'_>, mut entry: impl FnMut(usize) -> Entry) {
        if self.needs_own_window() {
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

    /// Empties each PTE of a run and passes what it was, with the flags hardware has set.
    #[inline(always)]
    pub fn get_and_clear_range(&self, slots: Slots<'_>, mut was: impl FnMut(usize, Entry)) {
        self.for_each(slots, |window, slot, i| was(i, store::get_and_clear::<M>(window, slot)));
    }

    /// Empties each valid PTE of a run and passes what it was, with the flags hardware has set. No window is opened if there is none.
    #[inline(always)]
    pub fn get_and_clear_valid(&self, slots: Slots<'_>, mut was: impl FnMut(usize, Entry)) {
        self.for_each_valid(slots, |window, slot, i, entry| {
            was(i, store::clear_from::<M>(window, slot, entry));
        });
    }

    /// Changes each valid PTE of a run, keeping the flags that hardware sets meanwhile. No window is opened if there is none.
    #[inline(always)]
    pub fn modify_valid(&self, slots: Slots<'_>, change: impl Fn(Entry) -> Entry) {
        self.for_each_valid(slots, |window, slot, _, entry| {
            store::modify_from::<M>(window, slot, entry, &change);
        });
    }

    /// Takes write permission from each PTE of a run.
    #[inline(always)]
    pub fn wrprotect_range(&self, slots: Slots<'_>) {
        self.modify_range(slots, M::Format::write_protected);
    }

    /// Changes each PTE of a run, keeping the flags that hardware sets meanwhile.
    #[inline(always)]
    pub fn modify_range(&self, slots: Slots<'_>, change: impl Fn(Entry) -> Entry) {
        self.for_each(slots, |window, slot, _| {
            store::modify::<M>(window, slot, &change);
        });
    }

    /// Replaces a PTE and returns the old one.
    #[inline(always)]
    pub fn establish(&self, slot: Slot<'_>, entry: Entry) -> Entry {
        let old = self.store(Event::EntryStore, slot, |window, slot| {
            store::establish::<M>(window, slot, entry)
        });
        self.stored_valid(entry);
        old
    }

    /// Empties a PTE and returns what it was, with the flags hardware has set.
    #[inline(always)]
    pub fn get_and_clear(&self, slot: Slot<'_>) -> Entry {
        self.store(Event::EntryStore, slot, store::get_and_clear::<M>)
    }

    /// Changes a leaf from `old` to `new` if it still is `old`; returns whether it was.
    #[inline(always)]
    pub fn set_access_flags(&self, slot: Slot<'_>, old: Entry, new: Entry) -> bool {
        self.store(Event::EntryStore, slot, |window, slot| {
            store::set_access_flags::<M>(window, slot, old, new)
        })
    }

    /// Clears the young flag of a leaf and returns whether it was set.
    #[inline(always)]
    pub fn test_and_clear_young(&self, slot: Slot<'_>) -> bool {
        self.store(Event::EntryStore, slot, store::test_and_clear_young::<M>)
    }

    /// Empties a table that nobody else can reach.
    ///
    /// # Safety
    ///
    /// As [`store::zero`].
    #[inline]
    pub(crate) unsafe fn zero(&self, table: Table<'_>) {
        // SAFETY: the caller's promise is the one asked for.
        self.in_window(|window| unsafe { store::zero(window, self.writable_slots(table.all())) });
    }

    /// Fills a table that is not linked.
    #[inline]
    pub(crate) fn fill(&self, table: Table<'_>, entry: impl FnMut(usize) -> Entry) {
        self.will_store(table.all().len());
        self.in_window(|window| {
            self.count(Event::LinearStore, table.all().len() as u64);
            store::set_range(window, self.writable_slots(table.all()), entry);
        });
    }

    /// The machine this section acts on.
    #[inline(always)]
    pub(crate) fn machine(&self) -> &'m M {
        self.machine
    }

    /// One store to each entry of a run, in one window or in a window each.
    #[inline(always)]
    fn for_each(&self, slots: Slots<'_>, mut f: impl FnMut(&Window<'_>, Slot<'_>, usize)) {
        if self.needs_own_window() {
            return self.for_each_alone(slots, f);
        }
        self.count(Event::EntryStore, slots.len() as u64);
        // SAFETY: no window of its own is needed only if nothing is protected or this section's guard is open.
        let window = unsafe { Window::assume_open() };
        for (i, slot) in self.writable_slots(slots).iter().enumerate() {
            f(&window, slot, i);
        }
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
    fn for_each_valid(
        &self,
        slots: Slots<'_>,
        mut f: impl FnMut(&Window<'_>, Slot<'_>, usize, Entry),
    ) {
        let Some(first) = slots.iter().position(is_valid::<M>) else { return };
        let run = slots.sub(first, slots.len() - first);
        if self.needs_own_window() {
            return self.for_each_valid_alone(run, first, f);
        }
        // SAFETY: no window of its own is needed only if nothing is protected or this section's guard is open.
        let window = unsafe { Window::assume_open() };
        let mut stores = 0;
        for (i, slot) in self.writable_slots(run).iter().enumerate() {
            let entry = slot.load_relaxed();
            if M::Format::is_present(entry) {
                f(&window, slot, first + i, entry);
                stores += 1;
            }
        }
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
    fn writable_slots<'s>(&self, slots: Slots<'s>) -> Slots<'s> {
        match self.machine.backend().scheme() {
            Scheme::Keys => slots,
            // SAFETY: as for `writable`.
            Scheme::Alias => unsafe { slots.displaced(self.to_alias) },
        }
    }

    /// Runs `f` in a window: its own, or the one that is open.
    #[inline(always)]
    fn in_window<R>(&self, f: impl FnOnce(&Window<'_>) -> R) -> R {
        if self.needs_own_window() {
            self.in_own_window(f)
        } else {
            // SAFETY: no window of its own is needed only if nothing is protected or this section's guard is open.
            f(&unsafe { Window::assume_open() })
        }
    }

    /// Whether a store at this point must open a window for itself alone; opens that of the operation if it is time to.
    #[inline(always)]
    fn needs_own_window(&self) -> bool {
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
    fn in_own_window<R>(&self, f: impl FnOnce(&Window<'_>) -> R) -> R {
        let guard = self.open_guard();
        let result = f(&guard.window());
        self.close_guard(guard, false);
        result
    }

    /// A valid entry was stored: the kernel's own may need a barrier, now or at the end of the section.
    #[inline(always)]
    fn stored_valid(&self, entry: Entry) {
        if self.space == Space::Kernel && M::Format::is_present(entry) {
            self.valid_kernel_entries_stored();
        }
    }

    #[inline(always)]
    fn valid_kernel_entries_stored(&self) {
        if M::Format::VALID_KERNEL_STORE_NEEDS_BARRIER {
            self.barrier_due.set(true);
            if self.lazy_depth.get() == 0 && self.mode != Mode::Fused {
                self.issue_due_barrier();
            }
        }
    }

    #[inline(always)]
    fn issue_due_barrier(&self) {
        if self.barrier_due.replace(false) {
            self.count(Event::Barrier, 1);
            self.machine.entry_barrier();
        }
    }

    #[inline(always)]
    fn open(&self) {
        // There is none yet: opened only while no window is. Forgotten, so that no code asks.
        core::mem::forget(self.guard.replace(Some(self.open_guard())));
        self.next_store.set(NextStore::Plain);
    }

    /// Closes a window that has had its stores.
    #[cold]
    fn close_full(&self) {
        self.close();
    }

    /// Closes the section's window if it is open, merging its barrier with one that is due. Returns whether it was open.
    #[inline]
    fn close(&self) -> bool {
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
        let guard = Guard::enter(self.machine.backend());
        if guard.switched() {
            self.count_switch();
            self.count(Event::WindowOpened, 1);
        }
        guard
    }

    #[inline(always)]
    fn close_guard(&self, guard: Guard<'m, M::Backend, PageTables>, merge_barrier: bool) {
        self.count_closing(guard.switched(), merge_barrier);
        if merge_barrier {
            self.count(Event::Barrier, 1);
            guard.leave_with(|| self.machine.entry_barrier());
        }
    }

    /// Counts the end of a window while it is still open.
    #[inline(always)]
    fn count_closing(&self, switched: bool, merge_barrier: bool) {
        if switched {
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
    fn count(&self, event: Event, times: u64) {
        let event = match (self.space, event) {
            (Space::Linear, Event::EntryStore | Event::UpperStore) => Event::LinearStore,
            _ => event,
        };
        self.machine.probe().count(event, times);
    }
}

#[inline(always)]
fn is_valid<M: Machine>(slot: Slot<'_>) -> bool {
    M::Format::is_present(slot.load_relaxed())
}

impl<M: Machine> Drop for Section<'_, M> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.barrier_due.get() {
            self.close();
        } else if let Some(guard) = self.guard.get_mut() {
            // It leaves when it is dropped with the section.
            let switched = guard.switched();
            self.count_closing(switched, false);
        }
    }
}

/// A lazy-MMU section, until it is dropped.
#[must_use = "the lazy-MMU section ends as soon as this is dropped"]
pub struct LazyMmu<'s, 'm, M: Machine> {
    section: &'s Section<'m, M>,
}

impl<M: Machine> Drop for LazyMmu<'_, '_, M> {
    #[inline(always)]
    fn drop(&mut self) {
        let section = self.section;
        if section.mode != Mode::Fused {
            let depth = section.lazy_depth.get() - 1;
            section.lazy_depth.set(depth);
            if depth == 0 {
                section.close();
            }
        }
    }
}
