//! Sections: where windows open and close, as the protection mode says.
//!
//! | module | concept |
//! |---|---|
//! | `leaf` | stores to one entry that maps a page, counted, in the window that is due |
//! | `run` | stores to runs of a table's entries, likewise |
//! | `each` | how the stores of a run share windows |
//! | `upper` | stores above the last level, to whole tables, and to guarded state |
//! | `lines` | emptying and copying runs in a gate, eight entries at a time |
//! | `window` | opening and closing it, and the barriers |
//!
//! A [`Section`] stands for one operation on page tables (a fork, a map, an unmap). Inside it, [`Section::lazy`] marks
//! lazy-MMU sections: stretches, one table long at most, whose entries need not be visible to the hardware before the end.
//! The modes differ only in where the window is:
//!
//! | mode | window |
//! |---|---|
//! | `off` | none |
//! | `unbatched` | around each store |
//! | `batched` | around each lazy-MMU section, and around each store outside one |
//! | `fused-lean` | from the first store of the operation to its end, reopened after every [`FUSED_WINDOW_STORES`] stores |
//! | `fused` | a *gate* around each call that stores: one table's work, at most [`GATE_STORES`] stores |
//!
//! That the window of an operation opens no earlier than at the first store keeps the walk to it outside: the window is shorter, and the
//! loads of the walk overlap with what went before, which the barrier of the switch would forbid.
//!
//! # Gates
//!
//! A gate is opened and closed in the same function, by constants: no value in memory says that one is open, and none decides whether it
//! closes. Interrupts are off meanwhile ([`Machine::interrupts_off`]), so that no exception or thread switch saves an open window.
//!
//! *Gather outside, commit inside*: what allocates, waits for a lock, counts references or calls back runs before the gate opens. What
//! is committed is computed anew from the tables, which are protected, or from the caller's values. The one function of the caller that
//! runs inside is that of [`modify_valid`](Section::modify_valid), from an entry to an entry, since walkers may change the entry
//! meanwhile; it must use no section.
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

mod each;
mod leaf;
mod lines;
mod run;
mod upper;
mod window;

use core::cell::Cell;
use core::marker::PhantomData;

pub(crate) use window::{Marks, TypesWindow};

use kpkeys::Guard;
use kpkeys::context::PageTables;

use crate::addr::PIECE_ENTRIES;
use crate::guarded::Noted;
use crate::machine::Machine;
use crate::mode::Mode;

/// After how many stores an operation in mode `fused-lean` closes and reopens its window.
pub const FUSED_WINDOW_STORES: usize = 4096;

/// How many stores to tables a gate holds at most: one table's work. A copy makes two for each of 512 entries, since it changes both sides;
/// that of a new table empties it (512). Where frames have types, one to each frame's word comes to a leaf that is mapped anew, or is copied
/// while a sweep is under way.
pub const GATE_STORES: usize = 2 * PIECE_ENTRIES;

/// How many instructions a gate keeps interrupts off for at most, on the reference kernel's machines: QEMU counts them in a test, with those of
/// the counting itself. The longest is that of a fork, which copies a table: 13,505 on x86-64 with PKS, 14,078 on arm64 with PAN, for 1,024 stores.
pub const GATE_INSTRUCTIONS: usize = 32 * PIECE_ENTRIES;

/// Whose tables a section changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Tables of the kernel's half: valid entries may need a barrier.
    Kernel,
    /// Tables of a user address space.
    User,
    /// The linear map's own tables, whose changes are followed by a TLB flush that contains the barrier.
    Linear,
    /// The tables of an alias that has a root of its own; see [`mod@crate::alias`].
    Alias,
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
    /// Opens one for itself, or for the run of stores that it belongs to.
    InGate,
}

impl NextStore {
    /// With the window closed.
    fn closed(mode: Mode) -> Self {
        match mode {
            Mode::Off => NextStore::Plain,
            Mode::Unbatched | Mode::Batched => NextStore::InOwnWindow,
            Mode::FusedLean => NextStore::OpensWindow,
            Mode::Fused => NextStore::InGate,
        }
    }

    /// While the operation is paused.
    fn paused(mode: Mode) -> Self {
        match mode {
            Mode::FusedLean => NextStore::InOwnWindow,
            _ => NextStore::closed(mode),
        }
    }
}

/// One operation on page tables, on the calling CPU.
///
/// # Safety
///
/// What stores to a [slot](crate::table::Slot) is `unsafe`, and asks for the same each time: the slot is in a table that is in use below a root of the section's space, and stays so meanwhile. A slot
/// is a place in memory, which may be another's table by the time that it is stored to. (In mode `fused` a gate asks for it too, and refuses.) Whoever has a range
/// and no slot needs none of these: see [`Paging`](crate::Paging).
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
    /// Stores since the window was opened, in mode `fused-lean`.
    window_stores: Cell<usize>,
    /// What was refused or audited in a window, to be reported once that is closed.
    noted: Noted,
    /// Whether the caller's function is called for each entry of a run in the section's window, which must be open when it returns.
    in_run: Cell<bool>,
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
            noted: Noted::default(),
            in_run: Cell::new(false),
            this_cpu_only: PhantomData,
        }
    }

    /// Begins a lazy-MMU section, which ends when the returned value is dropped. Only the outermost of nested ones acts.
    #[inline(always)]
    pub fn lazy(&self) -> LazyMmu<'_, 'm, M> {
        // In modes that fuse nothing depends on them.
        if !self.mode.fuses() {
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
        // A lazy-MMU section may have ended meanwhile: nobody would close a window opened for it again. In mode `fused-lean` the next
        // store opens one, unless this is in the middle of a run.
        let is_lazy = self.mode == Mode::Batched && self.lazy_depth.get() > 0;
        if was_open && (is_lazy || self.in_run.get()) {
            self.open();
        }
        result
    }

    /// Whether windows are gates: then whoever has more to do than to store does it first.
    #[inline(always)]
    pub fn has_gates(&self) -> bool {
        self.mode == Mode::Fused || self.machine.has_gates()
    }

    /// Bounds the window of a `fused-lean` operation: call it before storing `stores` PTEs in a row. Stores above the last level
    /// need no such call: they bound the window themselves.
    #[inline(always)]
    pub fn will_store(&self, stores: usize) {
        if self.mode == Mode::FusedLean {
            let mut total = self.window_stores.get() + stores;
            if total > FUSED_WINDOW_STORES {
                self.close_full();
                total = stores;
            }
            self.window_stores.set(total);
        }
    }

    /// Whose tables are changed.
    #[inline(always)]
    pub(crate) fn space(&self) -> Space {
        self.space
    }

    /// How far behind an entry its alias is that it is stored through; zero if that is none.
    #[inline(always)]
    pub(crate) fn to_alias(&self) -> usize {
        self.to_alias
    }

    /// Where it is noted in a window what is to be reported.
    #[inline(always)]
    pub(crate) fn noted(&self) -> &Noted {
        &self.noted
    }

    /// The machine this section acts on.
    #[inline(always)]
    pub(crate) fn machine(&self) -> &'m M {
        self.machine
    }
}

impl<M: Machine> Drop for Section<'_, M> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.barrier_due.get() {
            self.close();
        } else if let Some(guard) = self.guard.take() {
            self.close_guard(guard, false);
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
        if !section.mode.fuses() {
            let depth = section.lazy_depth.get() - 1;
            section.lazy_depth.set(depth);
            if depth == 0 {
                section.close();
            }
        }
    }
}
