//! Roots: the kernel's, and those of address spaces.

use core::panic::Location;
use core::sync::atomic::{AtomicU32, Ordering};

use spin::Mutex;

use super::Paging;
use crate::addr::{Level, PageRange, PhysAddr, VirtAddr};
use crate::entry::{Format, own_half, root_address};
use crate::error::Error;
use crate::guarded::Kind;
use crate::machine::{Flush, Frames, Machine};
use crate::ptp::FlushedPtp;
use crate::section::{Section, Space};
use crate::table::Table;

/// How many kernels' tables were made: each has a number, by which roots of one are told from roots of another.
static TABLES: AtomicU32 = AtomicU32::new(0);

/// The number of the next.
pub(super) fn next_number() -> u32 {
    TABLES.fetch_add(1, Ordering::Relaxed)
}

/// The root table of an address space.
#[derive(Debug)]
pub struct Root {
    pub(super) frame: PhysAddr,
    /// The number of the tables that it is a root of.
    of: u32,
    pub(super) space: Space,
    /// Serialises the linking of tables; entries of linked tables need no lock here.
    pub(super) link: Mutex<()>,
}

impl Root {
    pub(super) fn new(frame: PhysAddr, of: u32, space: Space) -> Root {
        Root { frame, of, space, link: Mutex::new(()) }
    }

    /// Whether the root translates this address: it is canonical, and in the root's half.
    #[inline(always)]
    pub(crate) fn is_for<F: Format>(&self, va: VirtAddr) -> bool {
        let in_kernels = matches!(self.space, Space::Kernel | Space::Linear);
        va.is_canonical::<F>() && va.is_kernel() == in_kernels
    }

    /// What the root register is loaded with.
    pub fn frame(&self) -> PhysAddr {
        self.frame
    }

    /// Where that is kept. For attacks.
    pub fn frame_address(&self) -> VirtAddr {
        VirtAddr(core::ptr::from_ref(&self.frame).addr() as u64)
    }

    /// Whose tables these are.
    pub fn space(&self) -> Space {
        self.space
    }
}

impl<M: Machine, F: Frames> Paging<M, F> {
    /// The kernel's root.
    pub fn kernel(&self) -> &Root {
        &self.kernel
    }

    /// Begins an operation on the tables of an address space, on the calling CPU.
    #[inline(always)]
    pub fn section(&self, root: &Root) -> Section<'_, M> {
        self.ground.section(root.space)
    }

    /// Whether a root is one of these tables'.
    #[inline(always)]
    pub(crate) fn has(&self, root: &Root) -> bool {
        root.of == self.kernel.of
    }

    /// Whether a section has begun on these tables.
    #[inline(always)]
    pub(crate) fn has_begun(&self, section: &Section<'_, M>) -> bool {
        core::ptr::eq(section.machine(), self.machine())
    }

    /// Makes the root of a new user address space. Where user roots hold the kernel's half (x86-64), that is copied, but for an alias: kernel
    /// entries of the root must not change from then on, so link all tables below them first with
    /// [`link_kernel_half`](Self::link_kernel_half).
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`]; [`Error::Foreign`] for a section of other tables.
    pub fn new_user_root(&self, section: &Section<'_, M>) -> Result<Root, Error> {
        if !self.has_begun(section) {
            return Err(Error::Foreign(VirtAddr(0)));
        }
        self.check_kernel_root()?;
        let page = self.allocate(section, M::Format::ROOT, Kind::of_root(Space::User))?;
        if M::Format::USER_ROOT_HAS_KERNEL_HALF {
            self.copy_kernel_half(section, page.table(self.machine()));
        }
        Ok(Root::new(section.found_root(page, Space::User)?, self.kernel.of, Space::User))
    }

    /// Makes a second root for the kernel's half, without the alias: what programs run on where that half has a root register of its own and the
    /// CPU does not keep them out of it (arm64 without E0PD). Once, during start: a second call returns the first one's. Kernel entries of the root must not change from then on, as for
    /// [`new_user_root`](Self::new_user_root).
    ///
    /// # Errors
    ///
    /// [`Error::AliasMisplaced`] if its root entries are not its own, [`Error::OutOfMemory`].
    pub fn make_programs_kernel_root(&self) -> Result<&Root, Error> {
        if self.alias().is_some_and(|alias| !alias.has_own_root_entries()) {
            return Err(Error::AliasMisplaced(self.machine().alias()));
        }
        if let Some(made) = self.programs_kernel.get() {
            return Ok(made);
        }
        let section = self.section(&self.kernel);
        let page = self.allocate(&section, M::Format::ROOT, Kind::of_root(Space::Kernel))?;
        self.copy_kernel_half(&section, page.table(self.machine()));
        let root = section.found_root(page, Space::Kernel)?;
        let root = Root::new(root, self.kernel.of, Space::Kernel);
        Ok(self.programs_kernel.call_once(|| root))
    }

    /// That root, if it was made.
    pub fn programs_kernel_root(&self) -> Option<&Root> {
        self.programs_kernel.get()
    }

    /// The root of an alias that is translated in windows alone, if it is that: what opening a window loads, and nothing else may.
    pub fn window_root(&self) -> Option<&Root> {
        self.window.as_ref()
    }

    /// The root that translates the alias, if there is one.
    pub fn alias_root(&self) -> &Root {
        self.window.as_ref().unwrap_or(&self.kernel)
    }

    /// Copies the kernel's half to a new root, but for the alias.
    fn copy_kernel_half(&self, section: &Section<'_, M>, to: Table<'_, M::Format>) {
        let kernel = self.table(self.kernel.frame);
        for i in own_half::<M::Format>(true).filter(|&i| self.is_for_every_root(i)) {
            let entry = kernel.slot(i).load();
            if !entry.is_empty() {
                section.set_upper(to.slot(i), entry);
            }
        }
    }

    /// Whether an entry of the kernel's root may be in an address space's: those of the alias may not, which is user memory to programs.
    pub(crate) fn is_for_every_root(&self, index: usize) -> bool {
        let first = VirtAddr(root_address::<M::Format>(index, true));
        self.alias().is_none_or(|alias| !alias.owns_root_entry_of(first))
    }

    /// Whether the kernel's root, of which every address space has a part on some machines, is one by its type.
    #[track_caller]
    fn check_kernel_root(&self) -> Result<(), Error> {
        let Some(types) = self.types() else { return Ok(()) };
        let (section, slot) = (self.section(&self.kernel), self.root_table(&self.kernel).slot(0));
        section
            .check_table(types, slot, M::Format::ROOT, Location::caller())
            .inspect_err(|_| section.report())
    }

    /// Ends a user address space whose tables are all unlinked: flushes it from every TLB and releases its root.
    ///
    /// A frame that is no root in use, by its type, is left alone, and so is a root of other tables.
    pub fn release_user_root(&self, root: Root) {
        if !self.has(&root) {
            return;
        }
        let retired = self.section(&root).retire_root(root.frame, root.space);
        self.flush(Flush::AddressSpace(root.frame));
        if retired.is_ok() {
            self.release(FlushedPtp::of_root(root.frame));
        }
    }

    /// Links a table below each root entry that translates part of a kernel range, so that root entries never change later.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn link_kernel_half(&self, range: PageRange<M::Format>) -> Result<(), Error> {
        let section = self.section(&self.kernel);
        for piece in range.by_table(Level::Pud) {
            self.table_for(&section, &self.kernel, piece.start(), Level::Pud)?;
        }
        Ok(())
    }
}
