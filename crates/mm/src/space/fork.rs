//! Fork: a copy of an address space that shares every page, copy-on-write.
//!
//! Mappings that own no page are not walked, as in Linux (`vma_needs_copy`): the child's first access finds a file's pages or
//! zeroes where the parent's did.

use core::num::NonZeroUsize;

use kpkeys_pgtable::range::Share;
use kpkeys_pgtable::table::Slots;
use kpkeys_pgtable::{Entry, Flush, Format, Level, Machine, PageRange, Root};

use super::AddressSpace;
use crate::error::Error;
use crate::frames::Buddy;

impl<'k, M: Machine> AddressSpace<'k, M> {
    /// A copy that shares every page, except where [`set_on_fork`](Self::set_on_fork) said otherwise. Shared pages are write-protected on both sides, until the first write on either copies.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] or [`Error::TooManyReferences`]; nothing is shared then, though pages may be left write-protected.
    pub fn fork(&mut self) -> Result<Self, Error> {
        self.kernel.purging_if_short(|| self.try_fork())
    }

    #[inline(always)]
    fn try_fork(&mut self) -> Result<Self, Error> {
        let mut child = AddressSpace::new(self.kernel)?;
        child.vmas = self.vmas.for_child()?;
        let mut mapped = 0;
        let copied = self.copy_pages(&mut child, &mut mapped);
        child.mapped_pages = mapped;
        // The parent's entries lost write permission, whether or not the copy is complete.
        self.kernel.paging().flush(Flush::AddressSpace(self.root().frame()));
        copied.map(|()| child)
    }

    fn copy_pages(&self, child: &mut Self, mapped: &mut usize) -> Result<(), Error> {
        let withholds = child.vmas.iter().any(|vma| vma.withheld && vma.owns_pages);
        if withholds {
            child.have_other_tables()?;
        }
        let mut owners = child.vmas.iter().filter(|vma| vma.owns_pages);
        owners.try_for_each(|vma| {
            self.share_range(self.root_of(&vma), child.root_of(&vma), vma.range, mapped)
        })
    }

    /// Shares the pages of a range that are in one root's tables with another's, write-protected in both.
    #[inline(always)]
    pub(super) fn share_range(
        &self,
        from: &Root,
        to: &Root,
        range: PageRange<M::Format>,
        mapped: &mut usize,
    ) -> Result<(), Error> {
        let paging = self.kernel.paging();
        let mut shared = 0;
        let mut share = ShareFolios::<M> {
            frames: self.kernel.frames(),
            mapped: &mut shared,
            format: core::marker::PhantomData,
        };
        let copied = paging.copy(&paging.section(to), from, to, range, &mut share);
        *mapped += shared;
        copied
    }
}

/// Takes folio references for copied pages, once for each run of pages of one folio.
struct ShareFolios<'a, M: Machine> {
    frames: &'a Buddy<M::Format>,
    mapped: &'a mut usize,
    format: core::marker::PhantomData<fn() -> M>,
}

impl<M: Machine> Share for ShareFolios<'_, M> {
    type Error = Error;

    #[inline(always)]
    fn share(&mut self, first: Entry, run: Slots<'_>) -> Result<NonZeroUsize, Error> {
        let page = M::Format::frame(Level::Pte, first);
        let folio = self.frames.part_from(page);
        let longest = folio.pages().min(run.len());
        let pages = (1..longest)
            .find(|&i| run.slot(i).load() != M::Format::behind(first, i))
            .unwrap_or(longest);
        self.frames.share_own(folio, pages)?;
        *self.mapped += pages;
        // The page itself is there at least.
        Ok(NonZeroUsize::new(pages).unwrap_or(NonZeroUsize::MIN))
    }
}
