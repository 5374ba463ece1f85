//! What nobody may use (`PROT_NONE`): its pages are kept in tables of their own, at the same addresses, whose root is never loaded.
//!
//! No entry format has a way to say "there, but for nobody" that hardware, keys and the types of frames all agree on: a page without the
//! user's bit is the kernel's then. Tables that no CPU walks need no such way, and everything that handles tables handles these.

use kpkeys_pgtable::{Flush, Machine, PageRange, Root, VirtAddr};

use super::AddressSpace;
use super::gather::Gather;
use super::vma::Vma;
use crate::error::Error;

impl<'k, M: Machine> AddressSpace<'k, M> {
    /// Lets nobody use a range, and keeps what is in it.
    ///
    /// # Errors
    ///
    /// As [`mprotect`](Self::mprotect). If memory ran out on the way, everything can be used as before.
    pub fn withhold(&mut self, range: PageRange<M::Format>) -> Result<(), Error> {
        self.change_withheld(range, true)
    }

    /// Lets a range be used again, for what its mappings allow.
    ///
    /// # Errors
    ///
    /// As [`mprotect`](Self::mprotect). If memory ran out on the way, what was withheld still is.
    pub fn permit_again(&mut self, range: PageRange<M::Format>) -> Result<(), Error> {
        self.change_withheld(range, false)
    }

    fn change_withheld(
        &mut self,
        range: PageRange<M::Format>,
        withheld: bool,
    ) -> Result<(), Error> {
        self.vmas.covered(range)?;
        self.vmas.split_at_ends_of(range)?;
        let changed = self.change_pages(range, withheld);
        if changed.is_ok() {
            self.vmas.change_in(range, |vma| vma.withheld = withheld);
        }
        self.vmas.join_in(range);
        changed
    }

    /// Moves the pages of the mappings that change: first all are shared by the other tables, and then taken from those they are in.
    fn change_pages(&mut self, range: PageRange<M::Format>, withhold: bool) -> Result<(), Error> {
        // Pages that no mapping owns are found again where they were found first.
        let owns_any = self.changing(range, withhold).any(|vma| vma.owns_pages);
        if owns_any {
            self.have_other_tables()?;
            self.kernel.purging_if_short(|| self.share_with_other_tables(range, withhold))?;
        }
        self.unmap_changing(range, withhold, !withhold);
        Ok(())
    }

    /// Makes sure of a root for what is withheld.
    pub(super) fn have_other_tables(&mut self) -> Result<(), Error> {
        if self.withheld.is_none() {
            let paging = self.kernel.paging();
            let root = self
                .kernel
                .purging_if_short(|| Ok(paging.new_user_root(&paging.section(paging.kernel()))?))?;
            self.withheld = Some(root);
        }
        Ok(())
    }

    fn share_with_other_tables(
        &mut self,
        range: PageRange<M::Format>,
        withhold: bool,
    ) -> Result<(), Error> {
        let Some(withheld) = &self.withheld else { return Ok(()) };
        let (from, to) = if withhold { (self.root(), withheld) } else { (withheld, self.root()) };
        let mut mapped = 0;
        let copied = self
            .changing(range, withhold)
            .filter(|vma| vma.owns_pages)
            .try_for_each(|vma| self.share_range(from, to, vma.range, &mut mapped));
        self.mapped_pages += mapped;
        if copied.is_err() {
            // As if nothing had been shared, but that entries lost write permission; whoever tries again begins anew.
            self.unmap_changing(range, withhold, withhold);
            self.kernel.paging().flush(Flush::AddressSpace(self.root().frame()));
        }
        copied
    }

    /// The mappings inside a range that was split at which are to be withheld, or to be so no more.
    fn changing(
        &self,
        range: PageRange<M::Format>,
        withhold: bool,
    ) -> impl Iterator<Item = Vma<'k, M::Format>> {
        self.vmas.touching(range).filter(move |vma| vma.withheld != withhold)
    }

    /// Unmaps the pages of the mappings that change from one of the tables. Tables stay.
    fn unmap_changing(&mut self, range: PageRange<M::Format>, withhold: bool, from_withheld: bool) {
        let root = if from_withheld { self.withheld.as_ref() } else { Some(self.root()) };
        let Some(root) = root else { return };
        let mut gather = Gather::new(self.kernel, root);
        {
            let section = self.kernel.paging().section(root);
            for vma in self.changing(range, withhold) {
                self.clear(&section, root, vma.range, &mut gather);
            }
        }
        gather.free();
        let unmapped = gather.total_pages();
        self.mapped_pages -= unmapped;
    }

    /// The root of the tables that a mapping's pages are in.
    pub(super) fn root_of(&self, vma: &Vma<'_, M::Format>) -> &Root {
        self.withheld.as_ref().filter(|_| vma.withheld).unwrap_or(self.root())
    }

    /// The space's root, and that of what is withheld if there is one, for checkers.
    pub fn roots(&self) -> impl Iterator<Item = &Root> {
        core::iter::once(self.root()).chain(&self.withheld)
    }

    /// Whether an address is mapped and withheld.
    pub fn is_withheld(&self, va: VirtAddr) -> bool {
        self.vmas.find(va).is_some_and(|vma| vma.withheld)
    }
}
