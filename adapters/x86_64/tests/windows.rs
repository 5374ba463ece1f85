//! What a call costs in windows and flushes. That nothing is stored outside of windows the arena sees to, where such a store is SIGSEGV.

mod support;

use support::{DATA, Giant, Huge, System, device, page};
use x86_64::VirtAddr;
use x86_64::structures::paging::mapper::{CleanUp, Mapper};
use x86_64::structures::paging::{FrameAllocator, Page, PageTableFlags, Size4KiB, Translate};

const ADDRESS: u64 = 0xffff_c900_0000_0000;

#[test]
fn a_call_that_changes_tables_opens_one_window_and_one_that_reads_none() {
    let system = System::new::<Size4KiB>();
    let mut frames = system.frames.borrow_mut();
    let mut mapper = system.mapper();
    let at = |number: u64| page::<Size4KiB>(ADDRESS + number * 4096);
    // SAFETY: here and below, a model's tables.
    unsafe { mapper.map_to(at(0), device(0), DATA, &mut *frames) }.unwrap().ignore();

    let (cost, mapped) = system.counted(|| {
        // SAFETY: as above.
        unsafe { mapper.map_to(at(1), device(1), DATA, &mut *frames) }.map(|f| f.ignore())
    });
    assert!(mapped.is_ok());
    assert_eq!(cost, (1, 0), "map_to");
    let (cost, _) = system.counted(|| {
        // SAFETY: as above.
        unsafe { mapper.update_flags(at(1), PageTableFlags::PRESENT) }.map(|f| f.ignore())
    });
    assert_eq!(cost, (1, 0), "update_flags");
    // SAFETY: as above.
    let set = || unsafe { Mapper::<Size4KiB>::set_flags_p4_entry(&mut mapper, at(1), DATA) };
    let (cost, set) = system.counted(set);
    set.unwrap().ignore();
    assert_eq!(cost, (1, 0), "set_flags_p4_entry");
    let (cost, _) = system.counted(|| mapper.unmap(at(1)).map(|(_, flush)| flush.ignore()));
    assert_eq!(cost, (1, 0), "unmap");
    let (cost, _) = system.counted(|| mapper.unmap(at(1)).map(|(_, flush)| flush.ignore()));
    assert_eq!(cost, (1, 0), "unmap of what is not mapped");
    let (cost, found) = system.counted(|| mapper.translate_addr(VirtAddr::new(ADDRESS)));
    assert_eq!((cost, found), ((0, 0), Some(device::<Size4KiB>(0).start_address())));
    let (cost, found) = system.counted(|| mapper.translate_page(at(0)).unwrap());
    assert_eq!((cost, found), ((0, 0), device(0)));
}

#[test]
fn new_tables_cost_one_flush_together_and_none_from_stock() {
    let system = System::new::<Size4KiB>();
    let mut frames = system.frames.borrow_mut();
    let mut mapper = system.mapper();
    let mut map = |address, frames: &mut support::Frames| {
        system.counted(|| {
            // SAFETY: a model's tables.
            unsafe { mapper.map_to(page::<Size4KiB>(address), device(0), DATA, frames) }
                .unwrap()
                .ignore();
        })
    };
    // A key each for three tables, one to put them in a list, one for the call.
    assert_eq!(map(ADDRESS, &mut frames).0, (5, 1));
    system.protection.reserve(3, &mut *frames).unwrap();
    let left = frames.left;
    // One to take them out of stock, one for the call.
    assert_eq!(map(ADDRESS + (1 << 39), &mut frames).0, (2, 0));
    assert_eq!((frames.left, system.protection.reserved()), (left, 0));
}

#[test]
fn a_batch_is_one_window() {
    let system = System::new::<Size4KiB>();
    let mut frames = system.frames.borrow_mut();
    let mut mapper = system.mapper();
    let start = page::<Size4KiB>(ADDRESS);
    // Across the end of a table of the last level.
    let range = Page::range(start + 300, start + 300 + 1000);
    let tables = mapper.tables_for(range);
    assert_eq!(tables, 2 + 3, "P3, P2 and three P1");
    system.protection.reserve(tables, &mut *frames).unwrap();
    // SAFETY: a model's tables, and calls of the batch alone; here and below.
    let (cost, mapped) = system.counted(|| unsafe {
        mapper.batch(tables, &mut *frames, |batch| {
            range.enumerate().try_for_each(|(i, page)| {
                batch.map_to(page, device(i as u64), DATA).map(|flush| flush.ignore())
            })
        })
    });
    mapped.unwrap().unwrap();
    assert_eq!(cost, (2, 0), "one to take tables out of stock, one for a thousand pages");
    // SAFETY: as above.
    let (cost, unmapped) = system.counted(|| unsafe {
        mapper.batch(0, &mut *frames, |batch| {
            range.filter(|&page| batch.unmap(page).map(|u| u.1.ignore()).is_ok()).count()
        })
    });
    assert_eq!((cost, unmapped), ((1, 0), Ok(1000)));
    assert_eq!(mapper.tables_for(range), 0, "tables stay");
}

#[test]
fn how_many_tables_a_range_lacks_is_exact() {
    let system = System::new::<Size4KiB>();
    let mapper = system.mapper();
    let small = |pages: u64| Page::range(page::<Size4KiB>(ADDRESS), page(ADDRESS + pages * 4096));
    assert_eq!([0, 1, 512, 513].map(|pages| mapper.tables_for(small(pages))), [0, 3, 3, 4]);
    let huge = Page::range(page::<Huge>(ADDRESS), page(ADDRESS + (513 << 21)));
    assert_eq!(mapper.tables_for(huge), 3, "P3 and two P2");
    let giant = Page::range(page::<Giant>(ADDRESS), page(ADDRESS + (513 << 30)));
    assert_eq!(mapper.tables_for(giant), 2);
    assert_eq!(
        mapper.tables_for(Page::range(
            page::<Size4KiB>(support::OFFSET + 0x1_0000_0000),
            page(support::OFFSET + 0x1_0010_0000)
        )),
        0
    );
}

#[test]
fn freeing_tables_costs_two_flushes_for_sixteen() {
    let system = System::new::<Size4KiB>();
    let mut frames = system.frames.borrow_mut();
    let mut mapper = system.mapper();
    let at = |number: u64| page::<Size4KiB>(ADDRESS + (number << 21));
    for number in 0..30 {
        // SAFETY: a model's tables.
        unsafe { mapper.map_to(at(number), device(0), DATA, &mut *frames) }.unwrap().ignore();
        mapper.unmap(at(number)).unwrap().1.ignore();
    }
    // SAFETY: tables are used once.
    let ((windows, flushes), ()) = system.counted(|| unsafe { mapper.clean_up(&mut *frames) });
    assert_eq!(frames.given_back.len(), 32);
    // One for the call and one for each key; before the first key is taken, and after each sixteen.
    assert_eq!((windows, flushes), (1 + 32, 1 + 2));
    let _ = frames.allocate_frame();
}
