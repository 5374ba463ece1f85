//! Writing to what is mapped, as the kernel's code would: through the address where the machine translates it, through the frames
//! behind it where it does not.

use core::ptr::NonNull;

use kpkeys_pgtable::{Format, Level, Machine, VirtAddr};

use crate::error::Error;
use crate::kernel::Kernel;

impl<M: Machine> Kernel<M> {
    /// Stores a byte at the start of a mapping made by [`vmalloc`](Self::vmalloc) or [`vm_map_ram`](Self::vm_map_ram).
    ///
    /// # Errors
    ///
    /// [`Error::NotMapped`].
    #[inline]
    pub fn touch(&self, va: VirtAddr) -> Result<(), Error> {
        let byte = self.page_behind(va)?;
        // SAFETY: the byte lies in a page that a kernel mapping owns, which belongs to the holder of the address, and is
        // writable.
        unsafe { byte.write_volatile(1) };
        Ok(())
    }

    /// Fills pages of a mapping with zeroes.
    ///
    /// # Errors
    ///
    /// [`Error::NotMapped`] with the first page that is not mapped; those before it are zeroes.
    pub fn zero_pages(&self, start: VirtAddr, pages: usize) -> Result<(), Error> {
        (0..pages).try_for_each(|page| {
            let page = self.page_behind(start.offset_pages::<M::Format>(page))?;
            // SAFETY: as in `touch`, for the whole page.
            unsafe { page.write_bytes(0, M::Format::PAGE_SIZE as usize) };
            Ok(())
        })
    }

    /// Where this process or kernel can write the page at a kernel address.
    #[inline]
    fn page_behind(&self, va: VirtAddr) -> Result<NonNull<u8>, Error> {
        if !self.areas().covers(va) {
            return Err(Error::NotMapped(va));
        }
        if let Some(direct) = self.machine().direct(va) {
            return Ok(direct);
        }
        match self.paging().walk(self.paging().kernel(), va) {
            Some((Level::Pte, _, entry)) => {
                Ok(self.machine().data(M::Format::frame(Level::Pte, entry)))
            }
            Some((level, _, entry)) => {
                let offset = va.0 & (level.entry_bytes::<M::Format>() - 1);
                Ok(self.machine().data(M::Format::frame(level, entry).offset(offset)))
            }
            None => Err(Error::NotMapped(va)),
        }
    }
}
