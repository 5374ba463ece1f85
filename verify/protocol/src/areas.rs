//! Two threads that map and unmap by `kpkeys-mm`: what they unmap waits, addresses and frames, for one flush.

use std::cell::Cell;
use std::mem::{ManuallyDrop, forget};
use std::ptr::NonNull;

use kpkeys_mm::frames::{FrameMeta, OwnedFrame};
use kpkeys_mm::{AddressSpace, Buddy, FrameTable, Kernel, Layout, MapFlags};
use kpkeys_pgtable::{Mode, PageRange, Paging, VirtAddr};

use crate::frames::{PAGES, memory};
use crate::kernel::config;
use crate::machine::{Model, System};
use crate::scenario::Scenario;
use crate::world::{self, mix};

/// Where kernel mappings are.
const START: VirtAddr = VirtAddr(0xffff_d000_0000_0000);
/// Less than a machine has, so that what is free is found fast.
const ADDRESSES: usize = 1 << 12;
/// Where a program has two mappings of a page, with one between them.
const OF_PROGRAM: VirtAddr = VirtAddr(0x4000_0000);
const SPAN: usize = 3;

/// See the module.
pub struct Areas<S: System> {
    scenario: Scenario,
    /// From a box.
    kernel: NonNull<Kernel<Model<S>>>,
    /// Where handlers store, a page for each CPU.
    of_handlers: VirtAddr,
    /// The first thread's area.
    area: VirtAddr,
    /// The second thread's mapping, and its frame.
    ram: VirtAddr,
    frame: Cell<Option<OwnedFrame>>,
    /// The first thread's program.
    space: Cell<Option<AddressSpace<'static, Model<S>>>>,
    /// Dropped after the kernel.
    known: Known,
}

impl<S: System> Areas<S> {
    /// Mappings of both threads, and of handlers.
    ///
    /// # Panics
    ///
    /// If there is no memory for them.
    pub fn start(scenario: Scenario, mode: Mode) -> Self {
        let cpus = world::with(|world| {
            world.frames.take_all();
            world.mappings_are_new = true;
            world.cpus.len()
        });
        let known = Known::new();
        let cpu = || world::with(|world| world.cpu);
        let frames = Buddy::new(memory(), known.table(), true, cpus, cpu);
        // SAFETY: all of this memory is free, and nobody else has it.
        unsafe { frames.add(0..PAGES) };
        let vmalloc = PageRange::new(START, ADDRESSES).expect("a range of the kernel's half");
        let kernel = Kernel::new(Model::new(), frames, config(mode), Layout { vmalloc });
        let kernel: &'static _ = Box::leak(Box::new(kernel.expect("memory is enough for a start")));
        kernel.enable_protection().expect("memory is enough for a start");
        let of_handlers = kernel.vmalloc(cpus).expect("memory");
        let area = kernel.vmalloc(1).expect("memory");
        let frame = kernel.frames().new_frame().expect("memory");
        let ram = kernel.vm_map_ram(&[frame.address()]).expect("memory");
        let space = (scenario == Scenario::Gather).then(|| program(kernel));
        let (frame, space) = (Cell::new(Some(frame)), Cell::new(space));
        Areas { scenario, kernel: kernel.into(), of_handlers, area, ram, frame, space, known }
    }

    /// The page tables.
    pub fn paging(&self) -> &Paging<Model<S>, Buddy<S::Format>> {
        self.kernel().paging()
    }

    /// Where handlers store.
    pub fn of_handlers(&self) -> VirtAddr {
        self.of_handlers
    }

    /// Hash of what is known of every frame: some of it is changed without a lock.
    pub fn hash(&self) -> u64 {
        self.known.hash()
    }

    /// What a thread does: it unmaps, and maps anew what is free then.
    ///
    /// # Panics
    ///
    /// If something is refused.
    pub fn run(&self, thread: usize) {
        let kernel = self.kernel();
        match (self.scenario, thread) {
            (Scenario::Gather, 0) => {
                // It does not end: that is another scenario's.
                let space = self.space.take().expect("its own program");
                let mut space = ManuallyDrop::new(space);
                let all = PageRange::new(OF_PROGRAM, SPAN).expect("a range of programs");
                space.munmap(all).expect("its own mappings");
            }
            (Scenario::Gather, _) => (),
            (_, 0) => {
                kernel.vfree(self.area).expect("its own area");
                kernel.purge_vmalloc();
            }
            _ => {
                kernel.vm_unmap_ram(self.ram, 1).expect("its own mapping");
                let frame = self.frame.take().expect("its own frame");
                kernel.frames().free_frame(frame);
            }
        }
        // As much as was freed: the same addresses, and all frames, those freed first as well.
        let pages = if self.scenario == Scenario::Gather { 2 } else { 1 };
        kernel.vmalloc(pages).expect("memory");
    }

    fn kernel(&self) -> &Kernel<Model<S>> {
        // SAFETY: from a box that lives as long as this.
        unsafe { self.kernel.as_ref() }
    }
}

/// A program with two mappings, which it has written to.
fn program<S: System>(kernel: &'static Kernel<Model<S>>) -> AddressSpace<'static, Model<S>> {
    let mut space = AddressSpace::new(kernel).expect("memory");
    world::with(|world| world.user_roots.push(space.root().frame().0));
    for start in [OF_PROGRAM, OF_PROGRAM.offset_pages::<S::Format>(SPAN - 1)] {
        let page = PageRange::new(start, 1).expect("a page of programs");
        space.mmap(page, MapFlags::DATA).expect("memory");
        space.populate(page).expect("memory");
    }
    space
}

impl<S: System> Drop for Areas<S> {
    fn drop(&mut self) {
        // What is dropped would unmap.
        forget(self.space.take());
        // SAFETY: from a box, and no thread uses it any more.
        drop(unsafe { Box::from_raw(self.kernel.as_ptr()) });
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
