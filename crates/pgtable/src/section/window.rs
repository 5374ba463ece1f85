//! The window of a section: when it opens and closes, which barriers that takes, and what is counted of it.
//!
//! # Tables with a key of their own
//!
//! Where the tables of address spaces have a key of their own ([`Backend::separates_user_tables`]), a gate for them opens that one, and the kernel's tables and
//! the types of frames stay closed in it. What stores to both is one gate with two windows, one behind the other: no window
//! has both keys open. From one to the other is one write of the register.
//!
//! | stores | windows |
//! |---|---|
//! | to entries alone | of the entries' key |
//! | to types alone | of page tables |
//! | to leaves, some of whose frames have no mark yet | of page tables, for the marks; then of the entries' key |
//! | a new table, and its link | of page tables, for its type; then of the entries' key |
//! | unlinking a table | of the entries' key; then of page tables, for its type |
//!
//! Elsewhere each of them is one window.

use kpkeys::context::{PageTables, UserTables};
use kpkeys::{Backend, Context, Guard, Window};

use super::{NextStore, Section, Space};
use crate::addr::Level;
use crate::entry::{Entry, Format};
use crate::guarded::{Kind, Types};
use crate::machine::{Event, Machine, Probe};
use crate::ptp::Class;

/// The proof that what frames are, and what else is guarded as page tables are, may be written now: a [`Window`] of the context of page tables.
#[derive(Clone, Copy)]
pub(crate) struct TypesWindow<'g>(Window<'g>);

impl<'g> TypesWindow<'g> {
    /// The same as a window for entries, of tables that have the key of page tables.
    pub(crate) fn window(&self) -> Window<'g> {
        self.0
    }
}

/// Where the frames that leaves map get their marks.
#[derive(Clone, Copy)]
pub(crate) enum Marks<'g> {
    /// In the window of the leaves.
    Here(TypesWindow<'g>),
    /// In one before it, by this word: types are closed in that of the leaves.
    Before(u32),
}

impl Marks<'_> {
    /// The word of a frame that has its mark, for the length of the gate.
    #[inline(always)]
    pub(crate) fn word<F: Format>(self, types: &Types<F>) -> u32 {
        match self {
            Marks::Here(_) => types.mapped_word(),
            Marks::Before(word) => word,
        }
    }
}

impl<'m, M: Machine> Section<'m, M> {
    /// Whether tables of a level and a kind have a key of their own, so that gates for them open that one alone.
    #[inline(always)]
    pub(crate) fn is_apart(&self, level: Level, kind: Kind) -> bool {
        self.machine.backend().separates_user_tables()
            && self.has_gates()
            && Class::of(level, kind) == Class::User
    }

    /// The same of the tables of PTEs, and of blocks, that this section stores to.
    #[inline(always)]
    fn leaves_are_apart(&self) -> bool {
        self.is_apart(Level::Pte, Kind::of_root(self.space))
    }

    /// Runs `f`, which stores to entries of leaves, in a window: its own, or the one that is open.
    #[inline(always)]
    pub(super) fn in_window<R>(&self, f: impl FnOnce(&Window<'_>) -> R) -> R {
        if self.needs_own_window() {
            self.in_own_window(f)
        } else {
            // SAFETY: no window of its own is needed only if nothing is protected or this section's guard is open.
            f(&unsafe { Window::assume_open() })
        }
    }

    /// [`in_window`](Self::in_window) where a window of its own is needed.
    #[inline(always)]
    pub(super) fn in_own_window<R>(&self, f: impl FnOnce(&Window<'_>) -> R) -> R {
        self.in_own_window_by(|| (self.open_for_leaves(), ()), |_| (), |window, ()| f(window))
    }

    /// Runs `f`, which stores to what has the key of page tables, in a window.
    #[inline(always)]
    pub(super) fn in_types_window<R>(&self, f: impl FnOnce(&TypesWindow<'_>) -> R) -> R {
        self.in_window_by(
            || (self.open_guard().for_any_tables(), ()),
            |_| (),
            |window, ()| f(&TypesWindow(*window)),
        )
    }

    /// [`in_window`](Self::in_window) for leaves that are held against types: what `f` [noted](Self::noted) is reported. `f` is told where frames get their marks: where the leaves
    /// are apart, that is in `mark`, before, if it `is_due`. Both are told the word of a mark, which is one for the length of the gate.
    #[inline(always)]
    pub(super) fn in_judging_window<R>(
        &self,
        is_due: impl FnOnce(u32) -> bool,
        mark: impl FnOnce(&TypesWindow<'_>, u32),
        f: impl FnOnce(&Window<'_>, Marks<'_>) -> R,
    ) -> R {
        // Where there is no choice of keys nothing of the rest is compiled.
        if !self.machine.backend().separates_user_tables() {
            let result = self.in_types_window(|window| f(&window.window(), Marks::Here(*window)));
            self.report_noted();
            return result;
        }
        let open = || {
            if !self.leaves_are_apart() {
                return (self.open_for_leaves(), None);
            }
            let word = self.types().map_or(0, Types::mapped_word);
            if !is_due(word) {
                return (self.open_for_leaves(), Some(word));
            }
            let guard = self.open_guard();
            mark(&TypesWindow(guard.window()), word);
            (self.go_on_with_user_tables(guard), Some(word))
        };
        let result = self.in_window_by(
            open,
            |_| None,
            |window, before| {
                f(window, before.map_or(Marks::Here(TypesWindow(*window)), Marks::Before))
            },
        );
        self.report_noted();
        result
    }

    /// Runs `types`, which stores to types, and then `entries`, which stores to tables that are `apart` or not.
    #[inline(always)]
    pub(super) fn in_types_window_then<A, R>(
        &self,
        apart: bool,
        types: impl Fn(&TypesWindow<'_>) -> A,
        entries: impl FnOnce(&Window<'_>, A) -> R,
    ) -> R {
        if !self.machine.backend().separates_user_tables() {
            return self.in_types_window(|window| {
                let done = types(window);
                entries(&window.window(), done)
            });
        }
        let open = || {
            let guard = self.open_guard();
            let done = types(&TypesWindow(guard.window()));
            let guard =
                if apart { self.go_on_with_user_tables(guard) } else { guard.for_any_tables() };
            (guard, done)
        };
        self.in_window_by(open, &types, entries)
    }

    /// The other way round: unless `entry` refuses, `types` follows.
    #[inline(always)]
    pub(super) fn in_window_then_types<E>(
        &self,
        apart: bool,
        entry: impl FnOnce(&Window<'_>) -> Result<(), E>,
        types: impl FnOnce(&TypesWindow<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !apart {
            return self.in_types_window(|window| {
                entry(&window.window())?;
                types(window)
            });
        }
        self.masked(|| {
            let guard = self.open_user_guard();
            if let Err(refused) = entry(&guard.window()) {
                self.close_guard(guard, false);
                return Err(refused);
            }
            self.count_closing(false);
            // SAFETY: as in `open_guard`.
            let guard = unsafe { guard.go_on_with_page_tables() };
            self.count(Event::WindowOpened, 1);
            let result = types(&TypesWindow(guard.window()));
            self.close_guard(guard, false);
            result
        })
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

    /// Runs `f` in the window that is open, of which `other` says more; or in its own.
    #[inline(always)]
    fn in_window_by<T, R>(
        &self,
        open: impl FnOnce() -> (Guard<'m, M::Backend, UserTables>, T),
        other: impl FnOnce(&TypesWindow<'_>) -> T,
        f: impl FnOnce(&Window<'_>, T) -> R,
    ) -> R {
        if self.needs_own_window() {
            return self.in_own_window_by(open, other, f);
        }
        // SAFETY: no window of its own is needed only if nothing is protected or this section's guard is open.
        let window = unsafe { Window::assume_open() };
        let more = other(&TypesWindow(window));
        f(&window, more)
    }

    /// Runs `f` in a window of its own: a gate, which `open` opens, or another, of which `other` says more.
    #[inline(always)]
    fn in_own_window_by<T, R>(
        &self,
        open: impl FnOnce() -> (Guard<'m, M::Backend, UserTables>, T),
        other: impl FnOnce(&TypesWindow<'_>) -> T,
        f: impl FnOnce(&Window<'_>, T) -> R,
    ) -> R {
        if self.has_gates() {
            return self.masked(|| {
                let (guard, more) = open();
                let result = f(&guard.window(), more);
                self.close_guard(guard, false);
                result
            });
        }
        let guard = self.open_guard();
        let more = other(&TypesWindow(guard.window()));
        let result = f(&guard.window(), more);
        self.close_guard(guard, false);
        result
    }

    /// Opens a gate's window for the section's leaves.
    #[inline(always)]
    fn open_for_leaves(&self) -> Guard<'m, M::Backend, UserTables> {
        if self.leaves_are_apart() {
            self.open_user_guard()
        } else {
            self.open_guard().for_any_tables()
        }
    }

    /// Runs `f`, which is a gate's windows, with interrupts off.
    #[inline(always)]
    fn masked<R>(&self, f: impl FnOnce() -> R) -> R {
        let interrupts_were_on = self.machine.interrupts_off();
        self.machine.probe().gate_begins();
        let result = f();
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
        self.count_opening();
        guard
    }

    /// [`open_guard`](Self::open_guard) for tables with a key of their own.
    #[inline(always)]
    fn open_user_guard(&self) -> Guard<'m, M::Backend, UserTables> {
        // SAFETY: as in `open_guard`.
        let guard = unsafe { Guard::enter_user_tables(self.machine.backend()) };
        self.count_opening();
        self.count(Event::UserWindowOpened, 1);
        guard
    }

    /// Closes a window of page tables and opens one of tables with a key of their own, by one write.
    #[inline(always)]
    fn go_on_with_user_tables(
        &self,
        guard: Guard<'m, M::Backend, PageTables>,
    ) -> Guard<'m, M::Backend, UserTables> {
        self.count_closing(false);
        // SAFETY: as in `open_guard`.
        let guard = unsafe { guard.go_on_with_user_tables() };
        self.count(Event::WindowOpened, 1);
        self.count(Event::UserWindowOpened, 1);
        guard
    }

    /// Counts the beginning of a window.
    #[inline(always)]
    fn count_opening(&self) {
        if self.machine.backend().has_register() {
            self.count_switch();
            self.count(Event::WindowOpened, 1);
        }
    }

    #[inline(always)]
    pub(super) fn close_guard<C: Context>(
        &self,
        guard: Guard<'m, M::Backend, C>,
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
