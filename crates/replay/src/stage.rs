//! What one step of a trace does to an address space.

use kpkeys_mm::{AddressSpace, Error, File, FilePages, Kernel, MapFlags, OnFork};
use kpkeys_pgtable::entry::X86_64;
use kpkeys_pgtable::{Format, Machine, PageRange, VirtAddr};
use kpkeys_trace::{CopyPolicy, FaultFlags, Protection, SpaceOp};
use serde::{Deserialize, Serialize};

/// Pages of the file that stands for all files.
pub const FILE_PAGES: usize = 4096;

/// Addresses are folded to this many bits: user addresses above (arm64 has 48) keep apart from those below in practice, as
/// programs use one end of the range or the other.
const ADDRESS_BITS: u32 = 47;

/// What a replay must know of the machine that was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Pages that a read fault on a file maps.
    pub fault_around_pages: usize,
    /// Faults say whether they were writes.
    pub writes_known: bool,
}

/// What became of the steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Steps carried out.
    pub done: u64,
    /// Steps that the address space refused: the trace lacks what made them possible.
    pub refused: u64,
}

impl Tally {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Tally) -> Tally {
        Tally { done: self.done + other.done, refused: self.refused + other.refused }
    }
}

/// A kernel and a file: what address spaces need to live a recorded life.
pub struct Stage<'k, M: Machine> {
    kernel: &'k Kernel<M>,
    file: &'k File,
    writes_known: bool,
}

impl<M: Machine> Clone for Stage<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Stage<'_, M> {}

impl<'k, M: Machine> Stage<'k, M> {
    /// The file that a trace with this header or setting wants. It is to be given back with [`Kernel::close_file`].
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn file(kernel: &Kernel<M>, setting: impl Into<Setting>) -> Result<File, Error> {
        kernel.new_file(FILE_PAGES, setting.into().fault_around_pages.clamp(1, 512))
    }

    /// A stage for a trace with this header or setting.
    pub fn new(kernel: &'k Kernel<M>, file: &'k File, setting: impl Into<Setting>) -> Self {
        Stage { kernel, file, writes_known: setting.into().writes_known }
    }

    /// An empty address space.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn create(&self) -> Result<AddressSpace<'k, M>, Error> {
        AddressSpace::new(self.kernel)
    }

    /// Carries out a step inside one address space, the `number`th of the trace, and notes whether the space refused it.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], after which a replay means nothing.
    pub fn act(
        &self,
        space: &mut AddressSpace<'k, M>,
        op: &SpaceOp,
        number: usize,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        match self.try_act(space, op, number) {
            Ok(()) => tally.done += 1,
            Err(Error::OutOfMemory) => return Err(Error::OutOfMemory),
            Err(_) => tally.refused += 1,
        }
        Ok(())
    }

    fn try_act(
        &self,
        space: &mut AddressSpace<'k, M>,
        op: &SpaceOp,
        number: usize,
    ) -> Result<(), Error> {
        match *op {
            SpaceOp::Fault { page, flags } => self.fault(space, page, flags),
            SpaceOp::Map { range, protection, flags } => {
                self.map(space, pages(range)?, protection, flags, number)
            }
            SpaceOp::Unmap(range) => space.munmap(pages(range)?),
            SpaceOp::Move { from, to, keeps_old } => {
                space.mremap(pages(from)?, pages(to)?, keeps_old)
            }
            SpaceOp::Protect { range, protection } => {
                space.mprotect(pages(range)?, protection.contains(Protection::WRITE))
            }
            SpaceOp::Discard(range) => {
                space.discard(pages(range)?);
                Ok(())
            }
            SpaceOp::MarkUnused(range) => space.mark_unused(pages(range)?),
            SpaceOp::Populate(range) => space.fault_in(pages(range)?),
            SpaceOp::OnCopy { range, policy } => space.set_on_fork(pages(range)?, on_fork(policy)),
            // Not inside one space; a replayer has done them.
            _ => Ok(()),
        }
    }

    #[inline]
    fn fault(
        &self,
        space: &mut AddressSpace<'k, M>,
        page: u64,
        flags: FaultFlags,
    ) -> Result<(), Error> {
        let va = address(page);
        if self.writes_known {
            return space.fault(va, flags.contains(FaultFlags::WRITE));
        }
        // Most faults where writing is allowed are writes.
        match space.fault(va, true) {
            Err(Error::Forbidden(_)) => space.fault(va, false),
            other => other,
        }
    }

    fn map(
        &self,
        space: &mut AddressSpace<'k, M>,
        range: PageRange<M::Format>,
        protection: Protection,
        flags: kpkeys_trace::MapFlags,
        number: usize,
    ) -> Result<(), Error> {
        use kpkeys_trace::MapFlags as Traced;
        let access = MapFlags {
            write: protection.contains(Protection::WRITE),
            execute: protection.contains(Protection::EXECUTE),
            order: 0,
        };
        space.munmap(range)?;
        let shared = flags.contains(Traced::SHARED);
        if shared || !flags.contains(Traced::ANONYMOUS) {
            space.mmap_file(
                range,
                access,
                FilePages { file: self.file, first: place(number), shared },
            )?;
        } else if flags.contains(Traced::GROWS_DOWN) {
            space.mmap_stack(range, access)?;
        } else {
            space.mmap(range, access)?;
        }
        if flags.contains(Traced::POPULATE) { space.fault_in(range) } else { Ok(()) }
    }
}

/// Where in the file the mapping made by a step begins: such that mappings made apart do not continue each other.
fn place(number: usize) -> usize {
    number.wrapping_mul(1_000_003)
}

fn on_fork(policy: CopyPolicy) -> OnFork {
    match policy {
        CopyPolicy::Copy => OnFork::Copy,
        CopyPolicy::Skip => OnFork::Skip,
        CopyPolicy::Wipe => OnFork::Wipe,
    }
}

/// The address of a recorded page.
#[inline]
pub fn address(page: u64) -> VirtAddr {
    let page_bits = ADDRESS_BITS - X86_64::PAGE_SHIFT;
    VirtAddr((page & ((1 << page_bits) - 1)) * X86_64::PAGE_SIZE)
}

fn pages<F: Format>(range: kpkeys_trace::PageRange) -> Result<PageRange<F>, Error> {
    Ok(PageRange::new(address(range.first), range.count as usize)?)
}
