//! Mappings of more kinds than anonymous private ones: files, stacks, the page of zeroes; and what moves, joins and survives forks.

use kpkeys_hosted::boot::Guarded;
use kpkeys_hosted::{Counts, HostedFormat};
use kpkeys_mm::{AddressSpace, Error, File, FilePages, Kernel, MapFlags, OnFork};
use kpkeys_pgtable::{Event, Level, Machine, Mode, PageRange, PhysAddr, VirtAddr};

use crate::support::{
    PAGE_SIZE, assert_clean, assert_every_frame_accounted_for, for_both_formats, guarded, range,
};

const PAGES: usize = 4096;
/// Aligned to 2 MiB, and so that tables end 8 pages after `NEAR_END`.
const START: u64 = 0x40_0000_0000;
const NEAR_END: u64 = START + 504 * PAGE_SIZE;
const ELSEWHERE: u64 = 0x50_0000_3000;
/// Pages around a fault that a file's read fault maps.
const AROUND: usize = 16;
const READ_ONLY: MapFlags = MapFlags { write: false, ..MapFlags::DATA };

type Space<'k, F> = AddressSpace<'k, Guarded<F>>;

/// In every mode: a kernel and a file of 64 pages. Every frame is accounted for in the end.
fn in_every_mode<F: HostedFormat>(test: impl Fn(&Kernel<Guarded<F>>, &File, Mode)) {
    for mode in Mode::ALL {
        let kernel = guarded::<F>(mode, PAGES);
        let file = kernel.new_file(64, AROUND).unwrap();
        test(&kernel, &file, mode);
        kernel.close_file(file);
        assert_every_frame_accounted_for(&kernel, &[], 0);
    }
}

fn at(start: u64, page: usize) -> VirtAddr {
    VirtAddr(start).offset(page as u64 * PAGE_SIZE)
}

/// Where a page is, and whether it may be written.
fn entry<F: HostedFormat>(space: &Space<'_, F>, va: VirtAddr) -> Option<(PhysAddr, bool)> {
    let (level, _, entry) = space.kernel().paging().walk(space.root(), va)?;
    Some((F::frame(level, entry), F::is_writable(entry)))
}

fn frame<F: HostedFormat>(space: &Space<'_, F>, va: VirtAddr) -> PhysAddr {
    entry(space, va).expect("a page that is mapped").0
}

/// The pages from `start` that are mapped, of `pages`.
fn mapped<F: HostedFormat>(space: &Space<'_, F>, start: u64, pages: usize) -> Vec<usize> {
    (0..pages).filter(|&page| entry(space, at(start, page)).is_some()).collect()
}

fn counted<F: HostedFormat>(kernel: &Kernel<Guarded<F>>, f: impl FnOnce()) -> Counts {
    let before = kernel.machine().probe().read();
    f();
    kernel.machine().probe().read().since(&before)
}

fn ranges<F: HostedFormat>(space: &Space<'_, F>) -> Vec<(u64, usize)> {
    space.mappings().map(|(range, _)| (range.start().0, range.pages())).collect()
}

fn write<F: HostedFormat>(space: &Space<'_, F>, va: VirtAddr, value: u64) {
    let (frame, writable) = entry(space, va).expect("a page that is mapped");
    assert!(writable, "{va:?}");
    space.kernel().frames().will_write(frame);
    // SAFETY: a frame of data that is mapped, of which there are no references.
    unsafe { space.kernel().machine().data(frame).cast::<u64>().write(value) }
}

fn read<F: HostedFormat>(space: &Space<'_, F>, va: VirtAddr) -> u64 {
    // SAFETY: as in `write`.
    unsafe { space.kernel().machine().data(frame(space, va)).cast::<u64>().read() }
}

fn reading_a_file_maps_the_pages_around<F: HostedFormat>() {
    in_every_mode::<F>(|kernel, file, _| {
        let mut space = AddressSpace::new(kernel).unwrap();
        let private = |first| FilePages { file, first, shared: false };
        space.mmap_file(range(START + 5 * F::PAGE_SIZE, 30), MapFlags::DATA, private(7)).unwrap();
        let counts = counted(kernel, || space.fault(at(START, 17), false).unwrap());
        // Of the sixteen aligned to sixteen.
        assert_eq!(mapped(&space, START, 48), (16..32).collect::<Vec<_>>());
        assert_eq!((counts.of(Event::EntryStore), space.mapped_pages()), (16, 16));
        // Not before the mapping begins.
        space.fault(at(START, 6), false).unwrap();
        assert_eq!(mapped(&space, START, 48), (5..32).collect::<Vec<_>>());
        // Not behind its end, and over pages that are there already.
        space.fault(at(START, 33), true).unwrap();
        space.fault(at(START, 34), false).unwrap();
        assert_eq!(mapped(&space, START, 48), (5..35).collect::<Vec<_>>());
        assert_eq!(entry(&space, at(START, 6)).map(|(_, writable)| writable), Some(false));

        // The same pages of the file are the same frames for everybody.
        let mut other = AddressSpace::new(kernel).unwrap();
        other.mmap_file(range(ELSEWHERE, 4), READ_ONLY, private(9)).unwrap();
        other.fault(VirtAddr(ELSEWHERE), false).unwrap();
        assert_eq!(frame(&other, at(ELSEWHERE, 0)), frame(&space, at(START, 5 + 2)));
        assert_eq!(
            other.fault(VirtAddr(ELSEWHERE), true),
            Err(Error::Forbidden(VirtAddr(ELSEWHERE)))
        );
        assert_clean(kernel, &[&space, &other]);
    });
}

fn writing_a_file_privately_copies_the_page<F: HostedFormat>() {
    in_every_mode::<F>(|kernel, file, _| {
        let mut shared = AddressSpace::new(kernel).unwrap();
        let pages = |shared| FilePages { file, first: 0, shared };
        shared.mmap_file(range(START, 8), MapFlags::DATA, pages(true)).unwrap();
        let counts = counted(kernel, || shared.fault(at(START, 1), true).unwrap());
        assert_eq!((counts.of(Event::EntryStore), shared.mapped_pages()), (1, 1));
        write(&shared, at(START, 1), 11);

        let mut private = AddressSpace::new(kernel).unwrap();
        private.mmap_file(range(START, 8), MapFlags::DATA, pages(false)).unwrap();
        // Before it was read, and after.
        private.fault(at(START, 1), true).unwrap();
        private.fault(at(START, 2), false).unwrap();
        private.fault(at(START, 2), true).unwrap();
        assert_eq!(read(&private, at(START, 1)), 11, "a copy of what is in the file now");
        write(&private, at(START, 1), 12);
        write(&private, at(START, 2), 13);

        shared.fault(at(START, 2), false).unwrap();
        assert_eq!((read(&shared, at(START, 1)), read(&shared, at(START, 2))), (11, 0));
        // Written where it is.
        shared.fault(at(START, 2), true).unwrap();
        write(&shared, at(START, 2), 14);
        private.fault(at(START, 3), false).unwrap();
        assert_eq!(frame(&private, at(START, 3)), frame(&shared, at(START, 3)));
        assert_eq!(read(&private, at(START, 2)), 13);
    });
}

fn a_fork_does_not_copy_what_is_found_again<F: HostedFormat>() {
    in_every_mode::<F>(|kernel, file, _| {
        let mut parent = AddressSpace::new(kernel).unwrap();
        let private = FilePages { file, first: 0, shared: false };
        parent.mmap_file(range(START, 8), MapFlags::DATA, private).unwrap();
        parent.mmap(range(ELSEWHERE, 8), MapFlags::DATA).unwrap();
        parent.fault(VirtAddr(START), false).unwrap();
        parent.fault(VirtAddr(ELSEWHERE), false).unwrap();
        let mut child = None;
        let counts = counted(kernel, || child = parent.fork().ok());
        assert_eq!(
            (counts.of(Event::EntryStore), child.map(|child| child.mapped_pages())),
            (0, Some(0))
        );

        parent.fault(VirtAddr(START), true).unwrap();
        parent.fault(VirtAddr(ELSEWHERE), true).unwrap();
        let child = parent.fork().unwrap();
        assert_eq!(child.mapped_pages(), 9);
        for va in [VirtAddr(START), at(START, 7), VirtAddr(ELSEWHERE)] {
            assert_eq!(entry(&child, va), Some((frame(&parent, va), false)));
        }
        assert_clean(kernel, &[&parent, &child]);
    });
}

fn what_was_never_written_is_one_page_of_zeroes<F: HostedFormat>() {
    in_every_mode::<F>(|kernel, _, _| {
        let mut space = AddressSpace::new(kernel).unwrap();
        space.mmap(range(START, 4), MapFlags::DATA).unwrap();
        space.fault(at(START, 0), false).unwrap();
        space.fault(at(START, 1), false).unwrap();
        assert_eq!(frame(&space, at(START, 0)), frame(&space, at(START, 1)));
        space.fault(at(START, 0), true).unwrap();
        write(&space, at(START, 0), 7);
        assert_eq!(read(&space, at(START, 1)), 0);
        assert_eq!((mapped(&space, START, 4), space.mapped_pages()), (vec![0, 1], 2));
    });
}

fn forks_skip_and_wipe_what_they_are_told_to<F: HostedFormat>() {
    in_every_mode::<F>(|kernel, _, _| {
        let mut parent = AddressSpace::new(kernel).unwrap();
        parent.mmap(range(START, 12), MapFlags::DATA).unwrap();
        parent.populate(range(START, 12)).unwrap();
        parent.set_on_fork(range(at(START, 2).0, 2), OnFork::Skip).unwrap();
        parent.set_on_fork(range(at(START, 6).0, 2), OnFork::Wipe).unwrap();
        let gap = range(at(START, 11).0, 2);
        assert_eq!(parent.set_on_fork(gap, OnFork::Skip), Err(Error::NotMapped(at(START, 12))));
        let mut child = parent.fork().unwrap();
        assert_eq!(mapped(&child, START, 12), [0, 1, 4, 5, 8, 9, 10, 11]);
        assert_eq!(child.fault(at(START, 3), true), Err(Error::NotMapped(at(START, 3))));
        child.fault(at(START, 7), true).unwrap();
        assert_eq!(read(&child, at(START, 7)), 0);
        assert_eq!(mapped(&parent, START, 12).len(), 12);

        parent.set_on_fork(range(START, 12), OnFork::Copy).unwrap();
        assert_eq!(ranges(&parent), [(START, 12)]);
        assert_eq!(mapped(&parent.fork().unwrap(), START, 12).len(), 12);
    });
}

fn a_stack_grows_down_to_what_is_touched<F: HostedFormat>() {
    in_every_mode::<F>(|kernel, _, _| {
        let mut space = AddressSpace::new(kernel).unwrap();
        space.mmap_stack(range(at(START, 1000).0, 4), MapFlags::DATA).unwrap();
        space.fault(VirtAddr(at(START, 990).0 + 8), true).unwrap();
        assert_eq!(ranges(&space), [(at(START, 990).0, 14)]);
        assert_eq!(space.mapped_pages(), 1);
        // Others keep a distance of 256 pages, and it from them.
        space.mmap(range(at(START, 600).0, 1), MapFlags::DATA).unwrap();
        assert_eq!(space.fault(at(START, 856), true), Err(Error::NotMapped(at(START, 856))));
        space.fault(at(START, 857), true).unwrap();
        assert_eq!(space.fault(at(START, 300), true), Err(Error::NotMapped(at(START, 300))));
        assert_eq!(space.mapped_pages(), 2);
    });
}

fn mappings_of_one_kind_join<F: HostedFormat>() {
    in_every_mode::<F>(|kernel, file, _| {
        let mut space = AddressSpace::new(kernel).unwrap();
        for (first, flags) in
            [(0, MapFlags::DATA), (8, MapFlags::DATA), (4, MapFlags::DATA), (12, READ_ONLY)]
        {
            space.mmap(range(at(START, first).0, 4), flags).unwrap();
        }
        assert_eq!(ranges(&space), [(START, 12), (at(START, 12).0, 4)]);
        space.mprotect(range(at(START, 12).0, 4), true).unwrap();
        assert_eq!(ranges(&space), [(START, 16)]);
        space.mprotect(range(at(START, 6).0, 2), false).unwrap();
        space.mprotect(range(at(START, 8).0, 2), false).unwrap();
        assert_eq!(ranges(&space), [(START, 6), (at(START, 6).0, 4), (at(START, 10).0, 6)]);
        space.mprotect(range(at(START, 6).0, 4), true).unwrap();
        assert_eq!(ranges(&space), [(START, 16)]);

        // Pages of a file only where they follow each other in the file.
        let pages = |first| FilePages { file, first, shared: false };
        space.mmap_file(range(ELSEWHERE, 4), READ_ONLY, pages(0)).unwrap();
        space.mmap_file(range(at(ELSEWHERE, 4).0, 4), READ_ONLY, pages(4)).unwrap();
        space.mmap_file(range(at(ELSEWHERE, 8).0, 4), READ_ONLY, pages(4)).unwrap();
        assert_eq!(ranges(&space)[1..], [(ELSEWHERE, 8), (at(ELSEWHERE, 8).0, 4)]);
        space.munmap(range(at(ELSEWHERE, 2).0, 1)).unwrap();
        space.fault(at(ELSEWHERE, 3), false).unwrap();
        space.fault(at(ELSEWHERE, 8), false).unwrap();
        assert_eq!(frame(&space, at(ELSEWHERE, 4)), frame(&space, at(ELSEWHERE, 8)));
    });
}

/// A process with 24 pages whose numbers are written in them, around the end of a table, and one that is missing.
fn with_numbered_pages<F: HostedFormat>(kernel: &Kernel<Guarded<F>>) -> Space<'_, F> {
    let mut space = AddressSpace::new(kernel).unwrap();
    space.mmap(range(NEAR_END, 24), MapFlags::DATA).unwrap();
    space.populate(range(NEAR_END, 24)).unwrap();
    space.discard(range(at(NEAR_END, 5).0, 1));
    for page in (0..24).filter(|&page| page != 5) {
        write(&space, at(NEAR_END, page), page as u64);
    }
    space
}

fn numbers<F: HostedFormat>(space: &Space<'_, F>, start: u64, pages: usize) -> Vec<u64> {
    mapped(space, start, pages).into_iter().map(|page| read(space, at(start, page))).collect()
}

fn a_mapping_moves_with_its_pages<F: HostedFormat>() {
    in_every_mode::<F>(|kernel, _, mode| {
        let mut space = with_numbered_pages(kernel);
        space.mmap(range(at(ELSEWHERE, 2).0, 1), READ_ONLY).unwrap();
        let (from, to) = (range(NEAR_END, 24), range(ELSEWHERE, 32));
        let counts = counted(kernel, || space.mremap(from, to, false).unwrap());
        assert_eq!(ranges(&space), [(ELSEWHERE, 32)]);
        let all: Vec<u64> = (0..24).filter(|&page| page != 5).collect();
        assert_eq!((numbers(&space, ELSEWHERE, 32), space.mapped_pages()), (all.clone(), 23));
        assert_eq!(mapped(&space, NEAR_END, 24), []);
        // Each page is cleared and set.
        assert_eq!(counts.of(Event::EntryStore), 2 * 23);
        // A window for each of the two tables that are left, another when the old place is unmapped; and for each upper store, and
        // the protection and the zeroing of each new table.
        let (windows, upper) = (counts.of(Event::WindowOpened), counts.of(Event::UpperStore));
        let expected = match mode {
            Mode::Off => 0..=0,
            Mode::Unbatched => 2 * 23 + upper..=2 * 23 + 3 * upper,
            // And one where the page that was there before might have had an entry.
            Mode::Batched => 5 + upper..=5 + 3 * upper,
            // The tables are linked, entries move, and the old place is unmapped; what was there had no entry to clear.
            Mode::FusedLean => 3..=3,
            // The same, with a gate for each table's work: a new one is emptied and linked, its entries move and are unmapped.
            Mode::Fused => 3..=4 + 2 * upper,
        };
        assert!(expected.contains(&windows), "{windows} windows, {upper} upper stores, {mode:?}");
        assert_clean(kernel, &[&space]);

        // Back, without the end.
        space.mremap(to, range(NEAR_END, 10), false).unwrap();
        assert_eq!(numbers(&space, NEAR_END, 24), all[..9]);
        assert_eq!((ranges(&space), space.mapped_pages()), (vec![(NEAR_END, 10)], 9));
    });
}

fn a_mapping_can_stay_without_its_pages<F: HostedFormat>() {
    in_every_mode::<F>(|kernel, _, _| {
        let mut space = with_numbered_pages(kernel);
        space.mremap(range(at(NEAR_END, 4).0, 4), range(ELSEWHERE, 4), true).unwrap();
        assert_eq!(numbers(&space, ELSEWHERE, 4), [4, 6, 7]);
        assert_eq!(mapped(&space, NEAR_END, 10), [0, 1, 2, 3, 8, 9]);
        space.fault(at(NEAR_END, 4), true).unwrap();
        assert_eq!(read(&space, at(NEAR_END, 4)), 0);
        assert_eq!(read(&space, at(ELSEWHERE, 0)), 4);
    });
}

fn a_mapping_grows_and_shrinks_in_place<F: HostedFormat>() {
    in_every_mode::<F>(|kernel, _, _| {
        let mut space = with_numbered_pages(kernel);
        let all = |pages| range(NEAR_END, pages);
        space.mremap(all(24), all(40), false).unwrap();
        assert_eq!((ranges(&space), space.mapped_pages()), (vec![(NEAR_END, 40)], 23));
        space.mremap(all(40), all(3), false).unwrap();
        assert_eq!((ranges(&space), space.mapped_pages()), (vec![(NEAR_END, 3)], 3));
        space.mmap(range(at(NEAR_END, 5).0, 1), READ_ONLY).unwrap();
        let more = range::<F>(at(NEAR_END, 3).0, 5);
        assert_eq!(
            space.mremap(all(3), all(8), false),
            Err(Error::Occupied(more.start(), more.pages()))
        );
    });
}

fn impossible_moves_change_nothing<F: HostedFormat>() {
    in_every_mode::<F>(|kernel, _, _| {
        let mut space = with_numbered_pages(kernel);
        let from = range(NEAR_END, 24);
        let before = (ranges(&space), numbers(&space, NEAR_END, 24));
        let refused: [(PageRange<F>, PageRange<F>, Error); 4] = [
            (range(ELSEWHERE, 1), from, Error::NotMapped(VirtAddr(ELSEWHERE))),
            (range(NEAR_END, 25), range(ELSEWHERE, 25), Error::NotMapped(at(NEAR_END, 24))),
            (from, range(at(NEAR_END, 3).0, 24), Error::Occupied(at(NEAR_END, 3), 24)),
            (
                from,
                range(0xffff_8000_0000_0000, 1),
                Error::Occupied(VirtAddr(0xffff_8000_0000_0000), 1),
            ),
        ];
        for (from, to, error) in refused {
            assert_eq!(space.mremap(from, to, false), Err(error));
            assert_eq!((ranges(&space), numbers(&space, NEAR_END, 24)), before);
        }
    });
}

fn a_move_without_memory_leaves_the_pages_where_they_are<F: HostedFormat>() {
    in_every_mode::<F>(|kernel, _, _| {
        let mut space = with_numbered_pages(kernel);
        let before = (ranges(&space), numbers(&space, NEAR_END, 24));
        let mut taken: Vec<_> = std::iter::from_fn(|| kernel.frames().new_frame().ok()).collect();
        let roots: Vec<_> = std::iter::from_fn(|| AddressSpace::new(kernel).ok()).collect();
        let mut failures = 0;
        // Two PTE tables and the upper ones: with a frame more each time, until it succeeds.
        while let Err(error) =
            space.mremap(range(NEAR_END, 24), range(START + (7 << 39), 24), false)
        {
            assert_eq!(error, Error::OutOfMemory);
            assert_eq!((ranges(&space), numbers(&space, NEAR_END, 24)), before);
            failures += 1;
            taken.pop().into_iter().for_each(|frame| kernel.frames().free_frame(frame));
        }
        assert!(failures >= 3, "{failures}");
        assert_eq!(numbers(&space, START + (7 << 39), 24), before.1);
        taken.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
        drop(roots);
        kernel.paging().shrink();
        assert_every_frame_accounted_for(kernel, &[&space], 23 + 64);
    });
}

fn unused_pages_stay_until_they_are_taken<F: HostedFormat>() {
    in_every_mode::<F>(|kernel, _, _| {
        let mut space = with_numbered_pages(kernel);
        let young = |space: &Space<'_, F>, page| {
            let found = kernel.paging().walk(space.root(), at(NEAR_END, page));
            found.is_some_and(|(level, _, entry)| level == Level::Pte && F::is_young(entry))
        };
        assert!(young(&space, 0) && young(&space, 23));
        let counts = counted(kernel, || space.mark_unused(range(NEAR_END, 12)).unwrap());
        assert_eq!(counts.of(Event::EntryStore), 11);
        assert!(!young(&space, 0) && young(&space, 23));
        assert_eq!(numbers(&space, NEAR_END, 24).len(), 23);
    });
}

for_both_formats!(
    reading_a_file_maps_the_pages_around,
    writing_a_file_privately_copies_the_page,
    a_fork_does_not_copy_what_is_found_again,
    what_was_never_written_is_one_page_of_zeroes,
    forks_skip_and_wipe_what_they_are_told_to,
    a_stack_grows_down_to_what_is_touched,
    mappings_of_one_kind_join,
    a_mapping_moves_with_its_pages,
    a_mapping_can_stay_without_its_pages,
    a_mapping_grows_and_shrinks_in_place,
    impossible_moves_change_nothing,
    a_move_without_memory_leaves_the_pages_where_they_are,
    unused_pages_stay_until_they_are_taken,
);
