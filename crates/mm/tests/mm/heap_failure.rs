//! The heap runs out at every allocation of every operation on address spaces: each is refused with an error and leaves everything as it
//! was, or does without. No frame is lost.

use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::boot::Counted;
use kpkeys_mm::{AddressSpace, Error, File, FilePages, Kernel, MapFlags, OnFork};
use kpkeys_pgtable::{Mode, PageRange, PhysAddr, VirtAddr};

use crate::heap::refusing_from;
use crate::support::{
    PAGE_SIZE, assert_clean, assert_every_frame_accounted_for, for_both_formats, of_cpus, range,
};

const PAGES: usize = 4096;
const FILE_PAGES: usize = 8;
/// Where tables of all levels end, 32 pages further on.
const START: u64 = (1 << 39) - 32 * PAGE_SIZE;
/// A stack, and the page just below it.
const STACK: u64 = 0x7f00_0000_0000;

type Space<'k, F> = AddressSpace<'k, Counted<F>>;
type Operation<F> = for<'k> fn(&mut Space<'k, F>, &'k File) -> Result<(), Error>;

fn at(page: usize) -> u64 {
    START + page as u64 * PAGE_SIZE
}

/// A process with mappings of all kinds, some of them in use.
fn a_process<'k, F: HostedFormat>(kernel: &'k Kernel<Counted<F>>, file: &'k File) -> Space<'k, F> {
    let mut space = AddressSpace::new(kernel).expect("memory");
    space.mmap(range(at(0), 64), MapFlags::DATA).expect("free addresses");
    space.populate(range(at(4), 48)).expect("memory");
    let private = FilePages { file, first: 0, shared: false };
    space.mmap_file(range(at(100), FILE_PAGES), MapFlags::DATA, private).expect("free addresses");
    space.fault(VirtAddr(at(101)), false).expect("memory");
    space.mmap_stack(range(STACK, 4), MapFlags::DATA).expect("free addresses");
    space.fault(VirtAddr(STACK), true).expect("memory");
    space
}

/// Every mapping, and every page: where it is and whether it may be written.
#[derive(PartialEq, Debug)]
struct State<F: HostedFormat> {
    mappings: Vec<(PageRange<F>, MapFlags)>,
    pages: Vec<(VirtAddr, PhysAddr, bool)>,
    mapped_pages: usize,
}

fn state<F: HostedFormat>(space: &Space<'_, F>) -> State<F> {
    let mappings: Vec<_> = space.mappings().collect();
    let addresses = mappings.iter().flat_map(|(range, _)| {
        (0..range.pages()).map(|page| range.start().offset_pages::<F>(page))
    });
    let pages = addresses.filter_map(|va| {
        let (level, _, entry) = space.kernel().paging().walk(space.root(), va)?;
        Some((va, F::frame(level, entry), F::is_writable(entry)))
    });
    State { pages: pages.collect(), mapped_pages: space.mapped_pages(), mappings }
}

/// Runs an operation on a process made anew for each attempt, with no allocation granted, with one, and so on, until it has all it wants.
fn fails_cleanly<F: HostedFormat>(what: &str, may_be_refused: bool, operation: Operation<F>) {
    for mode in Mode::ALL {
        let kernel = of_cpus::<F>(mode, PAGES, 1);
        let file = kernel.new_file(FILE_PAGES, 4).expect("memory");
        let mut refusals = 0;
        for granted in 0.. {
            let mut space = a_process(&kernel, &file);
            let before = state(&space);
            let (result, refused) = refusing_from(granted, || operation(&mut space, &file));
            let which = format!("{what}, {granted} allocations granted, {mode:?}");
            // It may have done without.
            if let Err(error) = result {
                assert_eq!(error, Error::OutOfMemory, "{which}");
                assert!(refused, "{which}: refused for nothing");
                assert_eq!(state(&space), before, "{which}");
                refusals += 1;
            }
            assert_clean(&kernel, &[&space]);
            drop(space);
            kernel.paging().shrink();
            assert_every_frame_accounted_for(&kernel, &[], FILE_PAGES);
            if !refused {
                break;
            }
        }
        assert_eq!(refusals > 0, may_be_refused, "{what} {mode:?}");
        kernel.close_file(file);
    }
}

fn mapping_is_refused<F: HostedFormat>() {
    fails_cleanly::<F>("mmap", true, |space, _| space.mmap(range(at(70), 4), MapFlags::HUGE_DATA));
    fails_cleanly::<F>("mmap_stack", true, |space, _| {
        space.mmap_stack(range(at(70), 4), MapFlags::DATA)
    });
    fails_cleanly::<F>("mmap_file", true, |space, file| {
        space.mmap_file(
            range(at(70), 4),
            MapFlags::DATA,
            FilePages { file, first: 3, shared: true },
        )
    });
}

fn cutting_a_mapping_is_refused<F: HostedFormat>() {
    fails_cleanly::<F>("munmap", true, |space, _| space.munmap(range(at(20), 20)));
    fails_cleanly::<F>("mprotect", true, |space, _| space.mprotect(range(at(20), 20), false));
    fails_cleanly::<F>("set_on_fork", true, |space, _| {
        space.set_on_fork(range(at(20), 20), OnFork::Wipe)
    });
    fails_cleanly::<F>("shrinking", true, |space, _| {
        space.mremap(range(at(8), 20), range(at(8), 4), false)
    });
}

fn moving_a_mapping_is_refused<F: HostedFormat>() {
    let free = |keeps_old| -> Operation<F> {
        if keeps_old {
            |space, _| space.mremap(range(at(8), 20), range(at(300), 30), true)
        } else {
            |space, _| space.mremap(range(at(8), 20), range(at(300), 10), false)
        }
    };
    fails_cleanly::<F>("moving", true, free(false));
    fails_cleanly::<F>("moving, keeping the old", true, free(true));
    // Over part of its own mapping, and part of a file's.
    fails_cleanly::<F>("moving over others", true, |space, _| {
        space.mremap(range(at(8), 20), range(at(40), 66), false)
    });
}

fn forking_is_refused<F: HostedFormat>() {
    for mode in Mode::ALL {
        let kernel = of_cpus::<F>(mode, PAGES, 1);
        let file = kernel.new_file(FILE_PAGES, 4).expect("memory");
        let mut granted = 0;
        loop {
            let mut space = a_process(&kernel, &file);
            let before = state(&space);
            let (child, refused) = refusing_from(granted, || space.fork());
            match child {
                Ok(child) => {
                    assert!(!refused && granted > 2, "{granted} {mode:?}");
                    assert_eq!(child.mappings().count(), before.mappings.len());
                    break;
                }
                Err(error) => assert_eq!((error, refused), (Error::OutOfMemory, true)),
            }
            // Write permission may be lost, as the next write finds out.
            let frames = |state: State<F>| -> Vec<_> {
                state.pages.into_iter().map(|(va, frame, _)| (va, frame)).collect()
            };
            assert_eq!(frames(state(&space)), frames(before), "{granted} {mode:?}");
            drop(space);
            assert_every_frame_accounted_for(&kernel, &[], FILE_PAGES);
            granted += 1;
        }
        assert_every_frame_accounted_for(&kernel, &[], FILE_PAGES);
        kernel.close_file(file);
    }
}

/// What makes memory free, and what a program does by touching its memory, needs no heap.
fn what_must_not_fail_does_not<F: HostedFormat>() {
    fails_cleanly::<F>("munmap of whole mappings", false, |space, _| {
        space.munmap(range(at(0), 200))
    });
    fails_cleanly::<F>("discard", false, |space, _| {
        space.discard(range(at(0), 200));
        Ok(())
    });
    fails_cleanly::<F>("mark_unused", false, |space, _| space.mark_unused(range(at(0), 64)));
    fails_cleanly::<F>("growing", false, |space, _| {
        space.mremap(range(at(100), FILE_PAGES), range(at(100), 90), false)
    });
    fails_cleanly::<F>("populate", false, |space, _| space.populate(range(at(0), 64)));
    fails_cleanly::<F>("fault_in", false, |space, _| space.fault_in(range(at(100), FILE_PAGES)));
    fails_cleanly::<F>("a write", false, |space, _| space.fault(VirtAddr(at(60)), true));
    fails_cleanly::<F>("a growing stack", false, |space, _| {
        space.fault(VirtAddr(STACK - 9 * F::PAGE_SIZE), true)
    });
}

/// A process ends without heap, however many mappings, pages and tables it has.
fn ending_needs_no_heap<F: HostedFormat>() {
    for mode in Mode::ALL {
        let kernel = of_cpus::<F>(mode, PAGES, 1);
        let mut space = AddressSpace::new(&kernel).expect("memory");
        for spot in 0..40 {
            let pages = range(0x40_0000_0000 + (spot << 31), 3 + spot as usize);
            space.mmap(pages, MapFlags::DATA).expect("free addresses");
            space.populate(pages).expect("memory");
        }
        let (_, refused) = refusing_from(0, || drop(space));
        assert!(refused, "it asked for room to gather more at a time");
        kernel.paging().shrink();
        assert_every_frame_accounted_for(&kernel, &[], 0);
    }
}

fn a_new_file_is_refused<F: HostedFormat>() {
    let kernel = of_cpus::<F>(Mode::Fused, PAGES, 1);
    for pages in [usize::MAX, usize::MAX / 8, 1 << 50, PAGES + 1] {
        assert_eq!(kernel.new_file(pages, 1).err(), Some(Error::OutOfMemory), "{pages}");
    }
    let (refused, _) = refusing_from(0, || kernel.new_file(4, 1).err());
    assert_eq!(refused, Some(Error::OutOfMemory));
    assert_every_frame_accounted_for(&kernel, &[], 0);
}

/// Each operation looks at a handful of the mappings there are, not at all of them.
fn a_hundred_thousand_mappings_are_no_burden<F: HostedFormat>() {
    const MAPPINGS: usize = 100_000;
    let kernel = of_cpus::<F>(Mode::Fused, PAGES, 1);
    let mut space = AddressSpace::new(&kernel).expect("memory");
    // Every second page, in an order that is neither up nor down.
    let place = |i: usize| range(at(2 * (i * 60_013 % MAPPINGS)), 1);
    for i in 0..MAPPINGS {
        space.mmap(place(i), MapFlags::DATA).expect("free addresses");
    }
    assert_eq!(space.mappings().count(), MAPPINGS);
    assert!(space.mappings().is_sorted_by_key(|(range, _)| range.start()));
    // One more between each two joins three to one.
    for i in 0..MAPPINGS - 1 {
        let between = range(at(2 * i + 1), 1);
        space.mmap(between, MapFlags::DATA).expect("free addresses");
    }
    assert_eq!(space.mappings().count(), 1);
    for i in 1..MAPPINGS {
        space.munmap(place(i)).expect("memory");
    }
    drop(space);
    assert_every_frame_accounted_for(&kernel, &[], 0);
}

for_both_formats!(
    mapping_is_refused,
    cutting_a_mapping_is_refused,
    moving_a_mapping_is_refused,
    forking_is_refused,
    what_must_not_fail_does_not,
    ending_needs_no_heap,
    a_new_file_is_refused,
    a_hundred_thousand_mappings_are_no_burden,
);
