//! What README and book show in a few lines, compiled. `tests/snippets.rs` compares.

use kpkeys::Guard;
use kpkeys::context::PageTables;
use kpkeys_pgtable::table::Slot;
use kpkeys_pgtable::{
    Attrs, Config, Entry, Error, Frames, Machine, Mode, PageRange, Paging, PhysAddr, store,
};

/// A kernel's first steps.
///
/// # Errors
///
/// What the library refuses.
pub fn kernel<M: Machine + Clone, F: Frames>(
    my_machine: M,
    my_frames: F,
    range: PageRange<M::Format>,
    frames: &[PhysAddr],
    (slot, entry): (Slot<'_>, Entry),
) -> Result<(), Error> {
    let machine = my_machine.clone();
    // ANCHOR: kernel
    // Once: the machine is yours (where a frame is in the linear map, how TLBs are flushed, which backend), so are the frames.
    let paging = Paging::new(my_machine, my_frames, Config::of(Mode::Fused))?; // builds the linear map
    paging.enable_protection()?; // every page-table page is keyed from here on

    // Range operations open their own window, one for each operation.
    let section = paging.section(paging.kernel());
    paging.map(&section, paging.kernel(), range, Attrs::KERNEL_DATA, |page| frames[page])?;
    drop(section); // closed, barriers merged

    // A single store, by hand. Without the window it does not compile.
    // SAFETY: no other window is open on this CPU, and nothing but the store happens in this one.
    let guard: Guard<'_, _, PageTables> = unsafe { Guard::enter(machine.backend()) };
    store::set(&guard.window(), slot, entry);
    // ANCHOR_END: kernel
    Ok(())
}

/// A mapper that a kernel has, behind windows.
pub mod wrapper {
    use kpkeys::context::PageTables;
    use kpkeys::{Backend, Guard};
    use x86_64::structures::paging::mapper::{MapToError, MapperFlush};
    use x86_64::structures::paging::{
        FrameAllocator, Mapper, OffsetPageTable, Page, PageTableFlags as Flags, PhysFrame as Frame,
        Size4KiB,
    };

    type Flush = MapperFlush<Size4KiB>;
    type Error = MapToError<Size4KiB>;

    /// The mapper, its backend, and frames that carry the key.
    pub struct Wrapper<B, A> {
        mapper: OffsetPageTable<'static>,
        backend: B,
        table_frames: A,
    }

    impl<B: Backend, A: FrameAllocator<Size4KiB>> Wrapper<B, A> {
        /// Maps a page in a window.
        ///
        /// # Errors
        ///
        /// The mapper's.
        ///
        /// # Safety
        ///
        /// The mapper's; interrupts are off, and no window is open.
        // ANCHOR: wrapper
        pub unsafe fn map(
            &mut self,
            page: Page,
            frame: Frame,
            flags: Flags,
        ) -> Result<Flush, Error> {
            // SAFETY: the only guard of this CPU, interrupts are off, and nothing but the
            // mapper's own stores happens in it.
            let guard: Guard<'_, _, PageTables> = unsafe { Guard::enter(&self.backend) };
            // SAFETY: the caller's promise.
            let result = unsafe { self.mapper.map_to(page, frame, flags, &mut self.table_frames) };
            drop(guard); // closed before anything else runs
            result
        }
        // ANCHOR_END: wrapper
    }
}
