//! `page_table_multiarch`.

use std::cell::RefCell;
use std::sync::OnceLock;

use kpkeys_page_table_multiarch::{Cursor, HardenedPageTable, Kernel};
use kpkeys_x86_64::{LinearMap, Protection};
use memory_addr::{PhysAddr, VirtAddr};
use page_table_multiarch::x86_64::X64PageTable;
use page_table_multiarch::{MappingFlags, PageSize, PagingHandler};
use x86_64::structures::paging::FrameAllocator;

use crate::Who;
use crate::machine::{Calls, Memory, NoRegister, RUN, TARGET, calls, run_of};

const DATA: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

thread_local! {
    static MEMORY: RefCell<Option<Memory>> = const { RefCell::new(None) };
}
static PROTECTION: OnceLock<Protection<NoRegister, LinearMap>> = OnceLock::new();

struct OurKernel;
struct Handler;

impl PagingHandler for Handler {
    fn alloc_frames(_: usize, _: usize) -> Option<PhysAddr> {
        let frame = MEMORY.with_borrow_mut(|memory| memory.as_mut()?.frames.allocate_frame())?;
        Some(PhysAddr::from_usize(frame.start_address().as_u64() as usize))
    }

    fn dealloc_frames(_: PhysAddr, _: usize) {}

    fn phys_to_virt(frame: PhysAddr) -> VirtAddr {
        VirtAddr::from_usize(frame.as_usize())
    }
}

impl Kernel for OurKernel {
    type Machine = NoRegister;
    type Linear = LinearMap;
    type Handler = Handler;

    fn protection() -> Option<&'static Protection<NoRegister, LinearMap>> {
        PROTECTION.get()
    }
}

fn page(at: usize) -> VirtAddr {
    VirtAddr::from_usize(at)
}

fn target() -> PhysAddr {
    PhysAddr::from_usize(TARGET)
}

/// The three calls, which have the same names through a cursor and through the adapter.
macro_rules! calls {
    ($of:ty, $($to:tt)+) => {
        impl Calls for $of {
            fn map(&mut self, at: usize) {
                self.0$($to)+.map(page(at), target(), PageSize::Size4K, DATA).expect("mapped");
            }

            fn change(&mut self, at: usize) {
                self.0$($to)+.protect(page(at), MappingFlags::READ).expect("changed");
            }

            fn unmap(&mut self, at: usize) {
                self.0$($to)+.unmap(page(at)).expect("unmapped");
            }
        }
    };
}

struct Bare(X64PageTable<Handler>);
struct Hardened(HardenedPageTable<OurKernel>);
struct Batched<'a, 'c>(&'a mut Cursor<'c, OurKernel>);

calls!(Bare, .cursor());
calls!(Hardened, .by_ref());
calls!(Batched<'_, '_>, .by_ref());

trait ByRef {
    fn by_ref(&mut self) -> &mut Self {
        self
    }
}

impl<T> ByRef for T {}

pub fn run(who: Who, pages: usize) {
    let mut memory = Memory::new();
    if who != Who::Bare {
        assert!(PROTECTION.set(memory.protect()).is_ok(), "protected once");
    }
    MEMORY.set(Some(memory));
    if who == Who::Bare {
        let tables = X64PageTable::<Handler>::try_new().expect("memory");
        return calls(&mut Bare(tables), pages);
    }
    let mut tables = HardenedPageTable::<OurKernel>::try_new().expect("memory");
    if who == Who::Hardened {
        return calls(&mut Hardened(tables), pages);
    }
    for first in (0..pages).step_by(RUN) {
        // SAFETY: calls of the cursor alone.
        let done = unsafe { tables.change(4, |cursor| run_of(&mut Batched(cursor), first)) };
        done.expect("there are frames for tables");
    }
}
