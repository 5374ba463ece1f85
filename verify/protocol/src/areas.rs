//! Two threads that map and unmap by `kpkeys-mm`: what they unmap waits, addresses and frames, for a flush that one of them makes for both.

use std::cell::Cell;
use std::ptr::NonNull;

use kpkeys_mm::frames::{FrameMeta, OwnedFrame};
use kpkeys_mm::{Buddy, FrameTable, Kernel, Layout};
use kpkeys_pgtable::{Mode, PageRange, Paging, VirtAddr};

use crate::frames::{MEMORY, PAGES};
use crate::kernel::config;
use crate::machine::{Model, System};
use crate::world::{self, CPUS, mix};

/// Where kernel mappings are.
const START: VirtAddr = VirtAddr(0xffff_d000_0000_0000);
/// What one table of the last level but one has: less than a machine has, so that what is free is found fast.
const ADDRESSES: usize = 1 << 12;

/// See the module.
pub struct Areas<S: System> {
    kernel: Kernel<Model<S>>,
    /// Where handlers store, a page for each CPU.
    of_handlers: VirtAddr,
    /// The first thread's area.
    area: VirtAddr,
    /// The second thread's mapping, and its frame.
    ram: VirtAddr,
    frame: Cell<Option<OwnedFrame>>,
    /// Dropped after the kernel.
    known: Known,
}

impl<S: System> Areas<S> {
    /// Mappings of both threads, and of handlers.
    ///
    /// # Panics
    ///
    /// If there is no memory for them.
    pub fn start(mode: Mode) -> Self {
        world::with(|world| {
            world.frames.take_all();
            world.mappings_are_new = true;
        });
        let known = Known::new();
        let frames =
            Buddy::new(MEMORY, known.table(), true, CPUS, || world::with(|world| world.cpu));
        frames.add(0..PAGES);
        let vmalloc = PageRange::new(START, ADDRESSES).expect("a range of the kernel's half");
        let kernel = Kernel::new(Model::new(), frames, config(mode), Layout { vmalloc });
        let kernel = kernel.expect("memory is enough for a start");
        kernel.enable_protection().expect("memory is enough for a start");
        let of_handlers = kernel.vmalloc(CPUS).expect("memory");
        let area = kernel.vmalloc(1).expect("memory");
        let frame = kernel.frames().new_frame().expect("memory");
        let ram = kernel.vm_map_ram(&[frame.address()]).expect("memory");
        Areas { kernel, of_handlers, area, ram, frame: Cell::new(Some(frame)), known }
    }

    /// The page tables.
    pub fn paging(&self) -> &Paging<Model<S>, Buddy> {
        self.kernel.paging()
    }

    /// Where handlers store.
    pub fn of_handlers(&self) -> VirtAddr {
        self.of_handlers
    }

    /// Hash of what is known of every frame: some of it is changed without a lock.
    pub fn hash(&self) -> u64 {
        self.known.hash()
    }

    /// What a thread does: it unmaps, and maps anew, and one of them purges in between.
    ///
    /// # Panics
    ///
    /// If something is refused.
    pub fn run(&self, thread: usize) {
        if thread == 0 {
            self.kernel.vfree(self.area).expect("its own area");
            self.kernel.purge_vmalloc();
        } else {
            self.kernel.vm_unmap_ram(self.ram, 1).expect("its own mapping");
            let frame = self.frame.take().expect("its own frame");
            self.kernel.frames().free_frame(frame);
        }
        self.kernel.vmalloc(1).expect("memory");
    }
}

/// What is known of every frame, where it can be looked at.
struct Known(NonNull<[FrameMeta]>);

impl Known {
    fn new() -> Known {
        let table: Box<[FrameMeta]> = (0..PAGES).map(|_| FrameMeta::default()).collect();
        Known(NonNull::from(Box::leak(table)))
    }

    fn table(&self) -> FrameTable {
        // SAFETY: from a box that was leaked, and is dropped after the kernel that has this table.
        FrameTable::Boot(unsafe { self.0.as_ref() })
    }

    fn hash(&self) -> u64 {
        let words = size_of::<FrameMeta>() / size_of::<u64>() * PAGES;
        // SAFETY: as many words, aligned, all of them atomic; what runs stops while this looks.
        let word = |word| unsafe { self.0.cast::<u64>().add(word).read() };
        (0..words).map(word).fold(1, mix)
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        // SAFETY: from a box, and the kernel that used it is dropped.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
