//! What the wrapped crate does that a kernel with several CPUs, or a protected one, cannot want; shown there, and gone here.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kpkeys_hosted::arena::Arena;
use kpkeys_x86_64::{Linear, LinearMap, Protection};
use support::{Bare, DATA, Huge, JUNK, System, device, page, read};
use x86_64::VirtAddr;
use x86_64::structures::paging::mapper::{
    FlagUpdateError, MapToError, MappedPageTable, Mapper, PageTableFrameMapping, TranslateResult,
};
use x86_64::structures::paging::{
    FrameAllocator, PageTable, PageTableFlags, PhysFrame, Size4KiB, Translate,
};

const ADDRESS: u64 = 0xffff_c900_0000_0000;

/// How often a mapping was asked for a table that the root pointed to while there was junk in it.
static LINKED_WITH_JUNK: AtomicUsize = AtomicUsize::new(0);

/// A linear map that looks at what it is asked for.
#[derive(Clone, Copy)]
struct Spy {
    map: LinearMap,
    arena: &'static Arena,
    root: PhysFrame,
}

// SAFETY: as the map's.
unsafe impl PageTableFrameMapping for Spy {
    fn frame_to_pointer(&self, frame: PhysFrame) -> *mut PageTable {
        let linked = read(self.arena, self.root, (ADDRESS >> 39) as usize & 511);
        let is_linked = linked & 1 != 0 && support::frame_of(linked) == frame;
        if is_linked && read(self.arena, frame, 9) == JUNK {
            LINKED_WITH_JUNK.fetch_add(1, Ordering::Relaxed);
        }
        self.map.frame_to_pointer(frame)
    }
}

// SAFETY: as the map's.
unsafe impl Linear for Spy {
    fn address(&self, frame: PhysFrame) -> Option<VirtAddr> {
        self.map.address(frame)
    }
}

#[test]
fn a_table_is_empty_before_it_is_linked() {
    let mut bare = Bare::new::<Size4KiB>();
    let arena: &'static Arena = Box::leak(Box::new(bare.arena.clone()));
    let spy = Spy { map: support::data_map(arena), arena, root: bare.root };
    // SAFETY: the root of a model's tables, which nobody else uses meanwhile.
    let mut mapper = unsafe { MappedPageTable::new(&mut *spy.frame_to_pointer(bare.root), spy) };
    // SAFETY: a model's tables.
    unsafe { mapper.map_to(page::<Size4KiB>(ADDRESS), device(0), DATA, &mut bare.frames) }
        .unwrap()
        .ignore();
    assert_eq!(LINKED_WITH_JUNK.swap(0, Ordering::Relaxed), 1, "the bare crate");

    let Bare { arena, root, mut frames } = Bare::new::<Size4KiB>();
    let machine = support::machine(&arena);
    let arena: &'static Arena = Box::leak(Box::new(Arc::clone(&arena)));
    let spy = Spy { map: support::linear_map(arena), arena, root };
    // SAFETY: the root of a model's tables, with a right map.
    let protection = unsafe { Protection::adopt(machine, spy, root, &mut frames) }.unwrap();
    // SAFETY: the only mapper.
    let mut mapper = unsafe { protection.tables(root) };
    // SAFETY: a model's tables.
    unsafe { mapper.map_to(page::<Size4KiB>(ADDRESS), device(0), DATA, &mut frames) }
        .unwrap()
        .ignore();
    assert_eq!(LINKED_WITH_JUNK.load(Ordering::Relaxed), 0);
}

/// The bare crate panics half-way, which here would be with the window open.
#[test]
fn tables_are_present_and_no_blocks_whatever_the_flags_say() {
    let system = System::new::<Size4KiB>();
    let mut mapper = system.mapper();
    let mut frames = system.frames.borrow_mut();
    for (number, parents) in
        [PageTableFlags::empty(), DATA | PageTableFlags::HUGE_PAGE].into_iter().enumerate()
    {
        let at = page::<Size4KiB>(ADDRESS + ((number as u64) << 39));
        let flags = DATA | PageTableFlags::HUGE_PAGE;
        // SAFETY: a model's tables.
        unsafe { mapper.map_to_with_table_flags(at, device(1), flags, parents, &mut *frames) }
            .unwrap()
            .ignore();
        assert_eq!(mapper.translate_page(at).unwrap(), device(1));
    }
}

#[test]
#[should_panic(expected = "HUGE_PAGE")]
fn the_bare_crate_panics_there() {
    let mut bare = Bare::new::<Size4KiB>();
    let (root, arena) = (bare.root, bare.arena.clone());
    let at = page::<Size4KiB>(ADDRESS);
    let parents = DATA | PageTableFlags::HUGE_PAGE;
    // SAFETY: a model's tables.
    let _ = unsafe {
        support::mapper(&arena, root).map_to_with_table_flags(
            at,
            device(1),
            DATA,
            parents,
            &mut bare.frames,
        )
    };
}

/// Flags of the bare crate include the key, so that changing some drops it.
#[test]
fn changing_the_flags_of_a_tables_page_keeps_its_key() {
    let system = System::new::<Size4KiB>();
    let mut mapper = system.mapper();
    let at = page::<Size4KiB>(support::OFFSET + system.root().start_address().as_u64());
    let flags = DATA | PageTableFlags::GLOBAL;
    // SAFETY: a model's tables.
    unsafe { mapper.update_flags(at, flags) }.unwrap().ignore();
    assert!(system.protection.protects(system.root()));
    let TranslateResult::Mapped { flags: now, .. } = mapper.translate(at.start_address()) else {
        panic!("the root is mapped");
    };
    assert!(now.contains(flags));
}

/// The bare crate turns the entry for a table into a block, which maps the table itself.
#[test]
fn a_table_is_not_turned_into_a_block() {
    let system = System::new::<Size4KiB>();
    let mut mapper = system.mapper();
    let linear = page::<Huge>(support::OFFSET + 0x1_0000_0000);
    // SAFETY: a model's tables.
    let refused = unsafe { mapper.update_flags(linear, DATA) };
    assert!(matches!(refused, Err(FlagUpdateError::PageNotMapped)));

    let mut bare = Bare::new::<Size4KiB>();
    // SAFETY: a model's tables.
    unsafe { bare.mapper().update_flags(linear, DATA) }.unwrap().ignore();
}

#[test]
fn an_allocation_that_fails_leaves_tables_alone_and_loses_no_frame() {
    for there in 0..3 {
        let system = System::new::<Size4KiB>();
        let mut mapper = system.mapper();
        let mut frames = system.frames.borrow_mut();
        let before = support::contents(&system.arena, system.root());
        let at = page::<Size4KiB>(ADDRESS);
        frames.left = there;
        // SAFETY: a model's tables, here and below.
        let failed = unsafe { mapper.map_to(at, device(1), DATA, &mut *frames) };
        assert!(matches!(failed, Err(MapToError::FrameAllocationFailed)), "{there}");
        assert_eq!(support::contents(&system.arena, system.root()), before, "{there}");
        assert_eq!(system.protection.reserved(), there, "what there was is in stock");
        // SAFETY: it does not run.
        let batch =
            unsafe { mapper.batch::<_, bool>(4, &mut *frames, |_| panic!("{there}: it runs")) };
        assert!(batch.is_err());
        assert_eq!(system.protection.reserved(), there);
        frames.left = 3 - there;
        // SAFETY: as above.
        unsafe { mapper.map_to(at, device(1), DATA, &mut *frames) }.unwrap().ignore();
        assert_eq!((frames.left, system.protection.reserved()), (0, 0), "{there}");
    }
}

/// In a batch, where frames run out half-way.
#[test]
fn a_batch_without_enough_frames_says_so_and_goes_on() {
    let system = System::new::<Size4KiB>();
    let mut mapper = system.mapper();
    let mut frames = system.frames.borrow_mut();
    let [near, far] = [ADDRESS, ADDRESS + (1 << 30)].map(page::<Size4KiB>);
    // SAFETY: a model's tables, and calls of the batch alone.
    let results = unsafe {
        mapper.batch(3, &mut *frames, |batch| {
            [near, far].map(|at| batch.map_to(at, device(1), DATA).map(|flush| flush.ignore()))
        })
    };
    let [first, second] = results.unwrap();
    assert!(first.is_ok());
    assert!(matches!(second, Err(MapToError::FrameAllocationFailed)));
    assert_eq!(
        mapper.translate_addr(near.start_address()),
        Some(device::<Size4KiB>(1).start_address())
    );
}

/// A frame from elsewhere has nothing to put a key on.
#[test]
fn a_frame_outside_of_the_linear_map_becomes_no_table() {
    struct Elsewhere;
    // SAFETY: nobody uses the frame, which is none of memory's.
    unsafe impl FrameAllocator<Size4KiB> for Elsewhere {
        fn allocate_frame(&mut self) -> Option<PhysFrame> {
            Some(device(7))
        }
    }
    let system = System::new::<Size4KiB>();
    let mut mapper = system.mapper();
    // SAFETY: a model's tables.
    let failed =
        unsafe { mapper.map_to(page::<Size4KiB>(ADDRESS), device(1), DATA, &mut Elsewhere) };
    assert!(matches!(failed, Err(MapToError::FrameAllocationFailed)));
}
