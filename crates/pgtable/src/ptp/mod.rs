//! Page-table pages: where they come from, and the tokens that mark the stations of their life.
//!
//! ```text
//!   allocate ──> Ptp ──link──> (in a table) ──unlink──> UnlinkedPtp ──flush──> FlushedPtp ──release──> allocator
//!             keyed, zeroed                          the TLB may still            key may be reset,
//!                                                    hold a path through it       frame may be reused
//! ```
//!
//! Each token is made in one place and consumed by the next step, so a page cannot skip the flush, be freed twice, or be used
//! after it was freed.

mod class;
mod early;
mod per_page;
mod pool;

pub(crate) use class::Class;
pub use early::EarlyPtps;
pub use per_page::PerPage;
pub(crate) use pool::UserPool;
pub use pool::{Pool, REFILL_ORDERS};

use crate::addr::{Level, PageRange, PhysAddr};
use crate::entry::Format;
use crate::error::Error;
use crate::ground::Ground;
use crate::guarded::Kind;
use crate::machine::{Flush, Frames, Machine};
use crate::paging::Root;
use crate::section::{Section, Space};
use crate::table::Table;

/// A page-table page that is zeroed, carries its key where protection is on, and is not linked anywhere.
#[must_use = "an unlinked page-table page is lost unless it is linked or released"]
#[derive(Debug)]
pub struct Ptp(PhysAddr);

/// A page-table page that was taken out of a table. TLBs may still hold paths through it, so that it knows where it was reached.
#[must_use = "a page-table page is lost unless it is flushed and released"]
#[derive(Debug)]
pub struct UnlinkedPtp<E: Format> {
    frame: PhysAddr,
    root: PhysAddr,
    space: Space,
    reached: PageRange<E>,
}

/// A page-table page that no table and no TLB refers to.
#[must_use = "a page-table page is lost unless it is released"]
#[derive(Debug)]
pub struct FlushedPtp(PhysAddr);

impl Ptp {
    pub(crate) fn new(frame: PhysAddr) -> Ptp {
        Ptp(frame)
    }

    /// Its frame.
    pub fn frame(&self) -> PhysAddr {
        self.0
    }

    /// Its entries.
    pub(crate) fn table<'m, M: Machine>(&self, machine: &'m M) -> Table<'m, M::Format> {
        // SAFETY: a `Ptp` is made only from frames that an allocator turned into page-table pages.
        unsafe { Table::at(machine, self.0) }
    }

    /// The page is about to be linked: its frame, for the entry that will point to it.
    pub(crate) fn link(self) -> PhysAddr {
        self.0
    }

    /// The page was never linked, so no TLB knows it.
    pub(crate) fn never_linked(self) -> FlushedPtp {
        FlushedPtp(self.0)
    }
}

impl<E: Format> UnlinkedPtp<E> {
    /// The caller has just emptied the only entry that pointed to `frame`, and looked for what translates `reached` below `root`.
    pub(crate) fn new(frame: PhysAddr, root: &Root, reached: PageRange<E>) -> Self {
        UnlinkedPtp { frame, root: root.frame(), space: root.space(), reached }
    }

    /// Whether no TLB holds a path through it once this was flushed.
    pub(crate) fn is_forgotten_by(&self, flush: Flush<E>) -> bool {
        let is_user = self.space == Space::User;
        match flush {
            Flush::All => true,
            Flush::AllKernel => !is_user,
            Flush::Kernel(range) => !is_user && range.covers(self.reached),
            Flush::AddressSpace(root) => is_user && root == self.root,
            Flush::User(root, range) => is_user && root == self.root && range.covers(self.reached),
        }
    }

    /// Every TLB was just flushed for it.
    pub(crate) fn flushed(self) -> FlushedPtp {
        FlushedPtp(self.frame)
    }

    /// Its frame.
    pub fn frame(&self) -> PhysAddr {
        self.frame
    }
}

impl FlushedPtp {
    /// A root that was retired, and whose address space was flushed.
    pub(crate) fn of_root(frame: PhysAddr) -> FlushedPtp {
        FlushedPtp(frame)
    }

    pub(crate) fn frame(&self) -> PhysAddr {
        self.0
    }

    pub(crate) fn into_frame(self) -> PhysAddr {
        self.0
    }
}

/// Where page-table pages come from and go back to.
pub trait PtpAllocator<M: Machine, F: Frames> {
    /// A page-table page for a table of this level and kind, zeroed and keyed. `section` is the operation that needs it, whose window it may use.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], or why the key could not be set; nothing is allocated then. [`Error::Violation`] if what was to be handed out
    /// is no spare page; that is left alone from then on.
    fn allocate(
        &self,
        ground: &Ground<M, F>,
        section: &Section<'_, M>,
        level: Level,
        kind: Kind,
    ) -> Result<Ptp, Error>;

    /// Takes a page-table page back and, where the allocator says so, resets its key.
    fn release(&self, ground: &Ground<M, F>, ptp: FlushedPtp);

    /// Gives every page-table page its alias. Before that, and until protection is on, they are stored through the linear map.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] for tables of the alias. Some pages may have theirs.
    fn map_aliases(&self, ground: &Ground<M, F>) -> Result<(), Error>;

    /// Protects every page-table page handed out so far, and from now on each new one.
    ///
    /// # Errors
    ///
    /// Why a page could not be protected. Others may be left so too: protection must not be claimed.
    fn enable_protection(&self, ground: &Ground<M, F>) -> Result<(), Error>;

    /// Passes each page that is ready to become a page-table page and carries the key already.
    fn for_each_keyed_spare(&self, machine: &M, f: &mut dyn FnMut(PhysAddr));

    /// Pages that hold no tables but what the allocator must remember.
    fn state_pages(&self, machine: &M) -> usize;
}
