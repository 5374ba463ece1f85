//! User address spaces: mappings, faults, fork with copy-on-write, unmap, mremap.
//!
//! An [`AddressSpace`] is changed by one caller at a time (`&mut`), which is what the page tables below ask for. Dropping it is
//! the address-space half of a process's exit.

mod fault;
mod file;
mod file_slots;
mod fork;
mod gather;
mod remap;
mod unmap;
mod vma;
mod vmas;
mod withheld;

use kpkeys_pgtable::range::{Change, Executable, Unused, WriteProtect};
use kpkeys_pgtable::{Flush, Format, Machine, PageRange, Root, VirtAddr};

use crate::error::Error;
use crate::frames::HUGE_ORDER;
use crate::kernel::Kernel;
use vma::{Backing, Vma};
use vmas::Vmas;

pub use file::{File, FilePages};
pub use vma::{MapFlags, OnFork};

/// A user address space.
pub struct AddressSpace<'k, M: Machine> {
    kernel: &'k Kernel<M>,
    /// Taken only when the space is dropped.
    root: Option<Root>,
    /// The root of tables that are never loaded, for what is [withheld](Self::withhold).
    withheld: Option<Root>,
    vmas: Vmas<'k, M::Format>,
    mapped_pages: usize,
}

impl<'k, M: Machine> AddressSpace<'k, M> {
    /// First address behind the user half.
    const USER_END: u64 = 1 << M::Format::HALF_BITS;

    /// An empty address space.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new(kernel: &'k Kernel<M>) -> Result<Self, Error> {
        kernel.purging_if_short(|| Self::try_new(kernel))
    }

    fn try_new(kernel: &'k Kernel<M>) -> Result<Self, Error> {
        let section = kernel.paging().section(kernel.paging().kernel());
        let root = kernel.paging().new_user_root(&section)?;
        drop(section);
        let (root, vmas) = (Some(root), Vmas::default());
        Ok(AddressSpace { kernel, root, withheld: None, vmas, mapped_pages: 0 })
    }

    /// Makes an anonymous private mapping. No page is mapped yet.
    ///
    /// # Errors
    ///
    /// [`Error::Occupied`] if the range overlaps a mapping or leaves the user half; [`Error::BadOrder`] if the flags ask for
    /// folios of another order than 0 and 9; [`Error::OutOfMemory`].
    pub fn mmap(&mut self, range: PageRange<M::Format>, flags: MapFlags) -> Result<(), Error> {
        self.map(range, flags, Backing::Anonymous)
    }

    /// Makes a stack: an anonymous private mapping that grows downwards when the page below it is touched.
    ///
    /// # Errors
    ///
    /// As [`mmap`](Self::mmap).
    pub fn mmap_stack(
        &mut self,
        range: PageRange<M::Format>,
        flags: MapFlags,
    ) -> Result<(), Error> {
        self.map(range, flags, Backing::Stack)
    }

    /// Maps pages of a file. Its pages have order 0, whatever `flags` says.
    ///
    /// # Errors
    ///
    /// As [`mmap`](Self::mmap).
    pub fn mmap_file(
        &mut self,
        range: PageRange<M::Format>,
        flags: MapFlags,
        file: FilePages<'k>,
    ) -> Result<(), Error> {
        self.map(range, MapFlags { order: 0, ..flags }, Backing::File(file))
    }

    fn map(
        &mut self,
        range: PageRange<M::Format>,
        flags: MapFlags,
        backing: Backing<'k>,
    ) -> Result<(), Error> {
        if flags.order != 0 && flags.order != HUGE_ORDER {
            return Err(Error::BadOrder(flags.order));
        }
        if range.end().0 > Self::USER_END || range.end().0 == 0 || self.vmas.overlaps(range) {
            return Err(Error::Occupied(range.start(), range.pages()));
        }
        self.vmas.make_room()?;
        self.vmas.add(Vma::new(range, flags, backing));
        Ok(())
    }

    /// Changes whether the pages of a range may be written. Write permission is taken from entries at once, and given to them
    /// by the next write fault.
    ///
    /// # Errors
    ///
    /// [`Error::NotMapped`] with the first address of the range that no mapping covers, [`Error::OutOfMemory`] if a mapping had to be cut
    /// in two; nothing is changed then.
    pub fn mprotect(&mut self, range: PageRange<M::Format>, write: bool) -> Result<(), Error> {
        self.vmas.covered(range)?;
        self.vmas.split_at_ends_of(range)?;
        let mut revoked = false;
        self.vmas.change_in(range, |vma| {
            revoked |= vma.flags.write && !write;
            vma.flags.write = write;
        });
        self.vmas.join_in(range);
        if revoked {
            self.change_entries(range, WriteProtect)?;
        }
        Ok(())
    }

    /// Changes whether the pages of a range may be executed, at once.
    ///
    /// # Errors
    ///
    /// As [`mprotect`](Self::mprotect).
    pub fn set_executable(
        &mut self,
        range: PageRange<M::Format>,
        execute: bool,
    ) -> Result<(), Error> {
        self.vmas.covered(range)?;
        self.vmas.split_at_ends_of(range)?;
        self.vmas.change_in(range, |vma| vma.flags.execute = execute);
        self.vmas.join_in(range);
        self.change_entries(range, Executable(execute))
    }

    /// Says what forks do with the mappings of a range from now on.
    ///
    /// # Errors
    ///
    /// As [`mprotect`](Self::mprotect).
    pub fn set_on_fork(
        &mut self,
        range: PageRange<M::Format>,
        on_fork: OnFork,
    ) -> Result<(), Error> {
        self.vmas.covered(range)?;
        self.vmas.split_at_ends_of(range)?;
        self.vmas.change_in(range, |vma| vma.on_fork = on_fork);
        self.vmas.join_in(range);
        Ok(())
    }

    /// Marks the pages of a range as not in use, so that they may be taken back; they stay mapped until somebody does
    /// (`MADV_FREE`).
    ///
    /// # Errors
    ///
    /// [`Error::Tables`], never for a range of the user half.
    pub fn mark_unused(&mut self, range: PageRange<M::Format>) -> Result<(), Error> {
        self.vmas.parts_in(range).try_for_each(|part| self.change_entries(part, Unused))
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
    pub fn mappings(
        &self,
    ) -> impl DoubleEndedIterator<Item = (PageRange<M::Format>, MapFlags)> + '_ {
        self.vmas.iter().map(|vma| (vma.range, vma.flags))
    }

    /// The mapping that holds an address: its range, what it allows, and the file it shows.
    pub fn mapping_at(
        &self,
        va: VirtAddr,
    ) -> Option<(PageRange<M::Format>, MapFlags, Option<FilePages<'k>>)> {
        let vma = self.vmas.find(va)?;
        let file = match vma.backing {
            Backing::File(file) => Some(file),
            _ => None,
        };
        Some((vma.range, vma.flags, file))
    }

    /// Whether nothing is mapped in a range.
    pub fn is_free(&self, range: PageRange<M::Format>) -> bool {
        !self.vmas.overlaps(range)
    }

    /// Whether all of a range is mapped.
    pub fn is_mapped(&self, range: PageRange<M::Format>) -> bool {
        self.vmas.covered(range).is_ok()
    }

    /// Whether any mapping in a range shows a file.
    pub fn shows_files(&self, range: PageRange<M::Format>) -> bool {
        self.vmas.touching(range).any(|vma| matches!(vma.backing, Backing::File(_)))
    }

    /// The files that mappings show, one for each mapping of one.
    pub fn files(&self) -> impl Iterator<Item = &'k File> + '_ {
        self.vmas.iter().filter_map(|vma| match vma.backing {
            Backing::File(file) => Some(file.file),
            _ => None,
        })
    }

    fn change_entries(
        &self,
        range: PageRange<M::Format>,
        change: impl Change + Copy,
    ) -> Result<(), Error> {
        let paging = self.kernel.paging();
        for root in self.roots() {
            paging.protect(&paging.section(root), root, range, change)?;
        }
        paging.flush(Flush::User(self.root().frame(), range));
        Ok(())
    }
}

impl<M: Machine> Drop for AddressSpace<'_, M> {
    fn drop(&mut self) {
        if let Some(all) = vma::part(VirtAddr(0), VirtAddr(Self::USER_END)) {
            self.unmap_pages(all, VirtAddr(0), VirtAddr(Self::USER_END));
        }
        for root in self.root.take().into_iter().chain(self.withheld.take()) {
            self.kernel.paging().release_user_root(root);
        }
    }
}
