//! A kernel's memory: frames, page tables and kernel mappings, put together.

use kpkeys_pgtable::{Config, Format, Machine, PageRange, Paging, PhysAddr, VirtAddr};

use crate::error::Error;
use crate::frames::Buddy;
use crate::vmalloc::Vmalloc;

/// Where things are in the kernel's half.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout<E: Format> {
    /// Addresses for `vmalloc` and `vm_map_ram`, aligned to 4 MiB.
    pub vmalloc: PageRange<E>,
}

impl<E: Format> Layout<E> {
    /// 64 GiB for kernel mappings, from 0xffff_c900_0000_0000 up.
    ///
    /// # Panics
    ///
    /// Never: the range is a constant, and a good one.
    pub fn standard() -> Self {
        let vmalloc = PageRange::new(VirtAddr(0xffff_c900_0000_0000), (64 << 30) >> E::PAGE_SHIFT);
        Layout { vmalloc: vmalloc.expect("an aligned range inside the kernel's half") }
    }
}

/// A kernel's memory. One frame of it is the page of zeroes, which every page reads as that was never written.
pub struct Kernel<M: Machine> {
    paging: Paging<M, Buddy<M::Format>>,
    vmalloc: Vmalloc<M::Format>,
    zeroes: PhysAddr,
}

impl<M: Machine> Kernel<M> {
    /// Builds the kernel's tables: the linear map, and the top tables for kernel mappings, so that the root never changes
    /// later. Nothing is protected yet.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], or why the configuration is not possible; [`Error::OtherMemory`] if the frames are of other memory than the machine's.
    pub fn new(
        machine: M,
        frames: Buddy<M::Format>,
        config: Config,
        layout: Layout<M::Format>,
    ) -> Result<Self, Error> {
        if machine.memory() != frames.memory {
            return Err(Error::OtherMemory);
        }
        let cpus = machine.cpus();
        let paging = Paging::new(machine, frames, config)?;
        paging.link_kernel_half(layout.vmalloc)?;
        let zeroes = paging.frames().new_zero_page(paging.machine())?;
        let vmalloc = Vmalloc::new(layout.vmalloc, cpus, paging.machine().memory().pages)?;
        Ok(Kernel { paging, vmalloc, zeroes })
    }

    /// Adds memory that comes once the kernel runs; see [`Paging::add_memory`].
    ///
    /// # Errors
    ///
    /// Why it could not be added. Nothing is added then.
    ///
    /// # Safety
    ///
    /// As [`Paging::add_memory`].
    #[track_caller]
    pub unsafe fn add_memory(&self, start: PhysAddr, pages: usize) -> Result<(), Error> {
        // SAFETY: forwarded.
        unsafe { self.paging.add_memory(start, pages) }?;
        let first = self.machine().memory().frame_number(start);
        // SAFETY: it is memory that nothing uses (caller's promise), and it was no memory before.
        unsafe { self.frames().add(first..first + pages) };
        Ok(())
    }

    /// Turns protection on; see [`Paging::enable_protection`].
    ///
    /// # Errors
    ///
    /// Why some page could not be protected.
    pub fn enable_protection(&self) -> Result<(), Error> {
        Ok(self.paging.enable_protection()?)
    }

    /// The page tables.
    #[inline(always)]
    pub fn paging(&self) -> &Paging<M, Buddy<M::Format>> {
        &self.paging
    }

    /// The machine.
    #[inline(always)]
    pub fn machine(&self) -> &M {
        self.paging.machine()
    }

    /// The frames.
    #[inline(always)]
    pub fn frames(&self) -> &Buddy<M::Format> {
        self.paging.frames()
    }

    /// The page that stands for every page never written.
    #[inline(always)]
    pub(crate) fn zero_page(&self) -> PhysAddr {
        self.zeroes
    }

    /// Kernel mappings.
    #[inline(always)]
    pub(crate) fn areas(&self) -> &Vmalloc<M::Format> {
        &self.vmalloc
    }
}
