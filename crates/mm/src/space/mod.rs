//! User address spaces: anonymous private mappings, faults, fork with copy-on-write, unmap.
//!
//! An [`AddressSpace`] is changed by one caller at a time (`&mut`), which is what the page tables below ask for. Dropping it is
//! the address-space half of a process's exit.

mod fault;
mod fork;
mod unmap;
mod vma;

use kpkeys_pgtable::{Machine, PageRange, Root, VirtAddr};

use crate::error::Error;
use crate::frames::HUGE_ORDER;
use crate::kernel::Kernel;
use vma::{Vma, Vmas};

pub use vma::MapFlags;

/// First address behind the user half.
const USER_END: u64 = 1 << 47;

/// A user address space.
pub struct AddressSpace<'k, M: Machine> {
    kernel: &'k Kernel<M>,
    /// Taken only when the space is dropped.
    root: Option<Root>,
    vmas: Vmas,
    mapped_pages: usize,
}

impl<'k, M: Machine> AddressSpace<'k, M> {
    /// An empty address space.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new(kernel: &'k Kernel<M>) -> Result<Self, Error> {
        let section = kernel.paging().section(kernel.paging().kernel());
        let root = kernel.paging().new_user_root(&section)?;
        drop(section);
        Ok(AddressSpace { kernel, root: Some(root), vmas: Vmas::default(), mapped_pages: 0 })
    }

    /// Makes an anonymous private mapping. No page is mapped yet.
    ///
    /// # Errors
    ///
    /// [`Error::Occupied`] if the range overlaps a mapping or leaves the user half; [`Error::BadOrder`] if the flags ask for
    /// folios of another order than 0 and 9.
    pub fn mmap(&mut self, range: PageRange, flags: MapFlags) -> Result<(), Error> {
        if flags.order != 0 && flags.order != HUGE_ORDER {
            return Err(Error::BadOrder(flags.order));
        }
        if range.end().0 > USER_END || range.end().0 == 0 || self.vmas.overlaps(range) {
            return Err(Error::Occupied(range));
        }
        self.vmas.insert(Vma { range, flags });
        Ok(())
    }

    /// Changes whether the pages of a range may be written. Write permission is taken from entries at once, and given to them
    /// by the next write fault.
    ///
    /// # Errors
    ///
    /// [`Error::NotMapped`] with the first address of the range that no mapping covers; nothing is changed then.
    pub fn mprotect(&mut self, range: PageRange, write: bool) -> Result<(), Error> {
        self.vmas.covered(range)?;
        self.vmas.split_at_ends_of(range);
        let mut revoked = false;
        for vma in self.vmas.inside_mut(range) {
            revoked |= vma.flags.write && !write;
            vma.flags.write = write;
        }
        if revoked {
            self.write_protect(range)?;
        }
        Ok(())
    }

    /// How many pages are mapped.
    pub fn mapped_pages(&self) -> usize {
        self.mapped_pages
    }

    /// The root of its tables.
    ///
    /// # Panics
    ///
    /// Never: the root is there until the space is dropped.
    pub fn root(&self) -> &Root {
        self.root.as_ref().expect("an address space has its root until it is dropped")
    }

    /// The kernel it lives in.
    pub fn kernel(&self) -> &'k Kernel<M> {
        self.kernel
    }

    /// The mappings, in order: range and flags.
    pub fn mappings(&self) -> impl Iterator<Item = (PageRange, MapFlags)> + '_ {
        self.vmas.iter().map(|vma| (vma.range, vma.flags))
    }

    fn write_protect(&self, range: PageRange) -> Result<(), Error> {
        use kpkeys_pgtable::{Flush, Format};
        let paging = self.kernel.paging();
        {
            let section = paging.section(self.root());
            paging.protect(&section, self.root(), range, M::Format::write_protected)?;
        }
        paging.flush(Flush::User(self.root().frame(), range));
        Ok(())
    }
}

impl<M: Machine> Drop for AddressSpace<'_, M> {
    fn drop(&mut self) {
        let all: alloc::vec::Vec<PageRange> = self.vmas.iter().map(|vma| vma.range).collect();
        self.unmap_pages(&all, VirtAddr(0), VirtAddr(USER_END));
        if let Some(root) = self.root.take() {
            self.kernel.paging().release_user_root(root);
        }
    }
}
