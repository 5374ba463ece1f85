//! Requests that cannot be met are refused with an error that says why, and change nothing.

use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::boot::Guarded;
use kpkeys_mm::{AddressSpace, Error, Kernel, MapFlags};
use kpkeys_pgtable::addr::RangeError;
use kpkeys_pgtable::{Machine, Mode, PageRange, VirtAddr};

use crate::support::{
    PAGE_SIZE, assert_every_frame_accounted_for, for_both_formats, guarded, range,
};

const PAGES: usize = 4096;
const START: u64 = 0x40_0000_0000;
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;
/// The last page of all: the range's end is no address.
const LAST_PAGE: u64 = !0xfff;

/// Everything that a refused request must leave alone.
fn state<F: HostedFormat>(
    space: &AddressSpace<'_, Guarded<F>>,
) -> impl PartialEq + std::fmt::Debug + use<F> {
    let kernel = space.kernel();
    let entries: Vec<_> = (0..2048)
        .map(|page| {
            kernel.paging().walk(space.root(), VirtAddr(START - (4 << 20)).offset_pages::<F>(page))
        })
        .map(|found| found.map(|(level, _, entry)| (level, entry)))
        .collect();
    let mappings: Vec<_> =
        space.mappings().map(|(range, flags)| (range.start(), range.pages(), flags)).collect();
    (entries, mappings, space.mapped_pages(), kernel.frames().free_frames())
}

/// In every mode: a process with eight pages, a gap, and eight read-only pages, all touched where they can be.
fn with_process<F: HostedFormat>(test: impl Fn(&mut AddressSpace<'_, Guarded<F>>)) {
    for mode in Mode::ALL {
        let kernel = guarded::<F>(mode, PAGES);
        let mut space = AddressSpace::new(&kernel).unwrap();
        space.mmap(range(START, 8), MapFlags::DATA).unwrap();
        space
            .mmap(range(START + 16 * F::PAGE_SIZE, 8), MapFlags { write: false, ..MapFlags::DATA })
            .unwrap();
        space.populate(range(START, 8)).unwrap();
        let before = state::<F>(&space);
        test(&mut space);
        assert_eq!(state::<F>(&space), before, "{mode:?}");
        drop(space);
        assert_every_frame_accounted_for(&kernel, &[], 0);
    }
}

fn overlapping_mappings_are_refused<F: HostedFormat>() {
    with_process::<F>(|space| {
        for (first, pages) in [(0, 8), (7, 1), (7, 4), (8, 9), (0, 32), (23, 1)] {
            let range = range(START + first * F::PAGE_SIZE, pages);
            assert_eq!(
                space.mmap(range, MapFlags::DATA),
                Err(Error::Occupied(range.start(), range.pages()))
            );
        }
        let before = range(START - F::PAGE_SIZE, 2);
        assert_eq!(
            space.mmap(before, MapFlags::DATA),
            Err(Error::Occupied(before.start(), before.pages()))
        );
    });
}

fn the_kernel_half_is_refused<F: HostedFormat>() {
    with_process::<F>(|space| {
        for kernel in [range(KERNEL_HALF, 4), range(LAST_PAGE, 1), range(KERNEL_HALF, 1 << 35)] {
            assert_eq!(
                space.mmap(kernel, MapFlags::DATA),
                Err(Error::Occupied(kernel.start(), kernel.pages()))
            );
            assert_eq!(space.munmap(kernel), Err(Error::Occupied(kernel.start(), kernel.pages())));
            assert_eq!(space.mprotect(kernel, false), Err(Error::NotMapped(kernel.start())));
            assert_eq!(space.populate(kernel), Err(Error::NotMapped(kernel.start())));
            assert_eq!(space.fault(kernel.start(), true), Err(Error::NotMapped(kernel.start())));
            space.discard(kernel);
        }
    });
}

fn orders_that_do_not_exist_are_refused<F: HostedFormat>() {
    with_process::<F>(|space| {
        for order in [1, 8, 10, 255] {
            let flags = MapFlags { order, ..MapFlags::DATA };
            assert_eq!(space.mmap(range(START + (1 << 30), 8), flags), Err(Error::BadOrder(order)));
        }
    });
}

fn mprotect_over_a_gap_is_refused<F: HostedFormat>() {
    with_process::<F>(|space| {
        let gap = VirtAddr(START).offset_pages::<F>(8);
        assert_eq!(space.mprotect(range(START, 9), false), Err(Error::NotMapped(gap)));
        assert_eq!(
            space.mprotect(range(START + 4 * F::PAGE_SIZE, 16), false),
            Err(Error::NotMapped(gap))
        );
        assert_eq!(
            space.mprotect(range(START - F::PAGE_SIZE, 4), false),
            Err(Error::NotMapped(VirtAddr(START - F::PAGE_SIZE)))
        );
    });
}

fn faults_and_stores_where_nothing_allows_them_are_refused<F: HostedFormat>() {
    with_process::<F>(|space| {
        let gap = VirtAddr(START).offset_pages::<F>(8);
        let read_only = VirtAddr(START).offset_pages::<F>(16);
        assert_eq!(space.fault(gap, false), Err(Error::NotMapped(gap)));
        assert_eq!(
            space.fault(VirtAddr(0x8000_0000_0000), false),
            Err(Error::NotMapped(VirtAddr(0x8000_0000_0000)))
        );
        assert_eq!(space.fault(read_only, true), Err(Error::Forbidden(read_only)));
        assert_eq!(space.populate(range(read_only.0, 8)), Err(Error::Forbidden(read_only)));
        assert_eq!(space.populate(range(START, 9)), Err(Error::NotMapped(gap)));
    });
}

/// Ranges that are none do not reach the memory manager at all: there is no `PageRange` of them.
/// Of any format with addresses of 48 bits.
type Range = PageRange<kpkeys_pgtable::entry::X86_64>;

#[test]
fn ranges_that_are_none_cannot_be_made() {
    assert_eq!(Range::new(VirtAddr(START + 8), 1), Err(RangeError::Unaligned(VirtAddr(START + 8))));
    assert_eq!(Range::new(VirtAddr(START), 0), Err(RangeError::Empty(VirtAddr(START))));
    let across = VirtAddr((1 << 47) - PAGE_SIZE);
    assert_eq!(Range::new(across, 2), Err(RangeError::NotCanonical(across, 2)));
}

/// Kernel mappings: a live area of three pages, and three pages mapped by `vm_map_ram`.
fn with_areas<F: HostedFormat>(test: impl Fn(&Kernel<Guarded<F>>, VirtAddr, VirtAddr)) {
    for mode in Mode::ALL {
        let kernel = guarded::<F>(mode, PAGES);
        let area = kernel.vmalloc(3).unwrap();
        let owned: Vec<_> = (0..3).map(|_| kernel.frames().new_frame().unwrap()).collect();
        let frames: Vec<_> = owned.iter().map(|frame| frame.address()).collect();
        let ram = kernel.vm_map_ram(&frames).unwrap();
        let mapped = || {
            let pages =
                (0..3).flat_map(|page| [area.offset_pages::<F>(page), ram.offset_pages::<F>(page)]);
            pages
                .map(|va| {
                    kernel.paging().walk(kernel.paging().kernel(), va).map(|(_, _, entry)| entry)
                })
                .collect::<Vec<_>>()
        };
        let (free, entries) = (kernel.frames().free_frames(), mapped());
        assert!(entries.iter().all(Option::is_some));
        test(&kernel, area, ram);
        assert_eq!((kernel.frames().free_frames(), mapped()), (free, entries), "{mode:?}");
        kernel.vfree(area).unwrap();
        kernel.vm_unmap_ram(ram, 3).unwrap();
        kernel.purge_vmalloc();
        owned.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
        assert_every_frame_accounted_for(&kernel, &[], 0);
    }
}

fn vfree_of_what_is_no_area_is_refused<F: HostedFormat>() {
    with_areas::<F>(|kernel, area, ram| {
        let linear = kernel.machine().memory().linear;
        for va in [
            VirtAddr(0),
            area.offset_pages::<F>(1),
            area.offset(8),
            area.offset_pages::<F>(4),
            ram,
            linear,
        ] {
            assert_eq!(kernel.vfree(va), Err(Error::NotMapped(va)));
        }
        let freed = kernel.vmalloc(2).unwrap();
        kernel.vfree(freed).unwrap();
        assert_eq!(kernel.vfree(freed), Err(Error::NotMapped(freed)), "a second time");
        kernel.purge_vmalloc();
        assert_eq!(kernel.vfree(freed), Err(Error::NotMapped(freed)), "after the purge");
    });
}

fn vm_unmap_ram_of_what_it_did_not_map_is_refused<F: HostedFormat>() {
    with_areas::<F>(|kernel, area, ram| {
        let linear = kernel.machine().memory().linear;
        for (va, pages) in [
            (ram, 1),
            (ram, 2),
            (ram, 4),
            (ram.offset_pages::<F>(1), 2),
            (ram.offset_pages::<F>(3), 1),
            (area, 3),
            (area, 100),
            (linear, 1),
            (linear, 100),
            (VirtAddr(START), 1),
        ] {
            assert_eq!(kernel.vm_unmap_ram(va, pages), Err(Error::NotMapped(va)), "{va:?} {pages}");
        }
        let empty = Error::from(RangeError::Empty(ram));
        assert_eq!(kernel.vm_unmap_ram(ram, 0), Err(empty));
        let unaligned = ram.offset(1);
        assert_eq!(kernel.vm_unmap_ram(unaligned, 1), Err(RangeError::Unaligned(unaligned).into()));
    });
}

/// In mode `fused` the first unmap may still wait for its window when the second is asked for.
fn vm_unmap_ram_twice_is_refused<F: HostedFormat>() {
    with_areas::<F>(|kernel, _, _| {
        let frame = kernel.frames().new_frame().unwrap();
        // Once from a block, once from addresses of its own.
        for pages in [1, 65] {
            let mapped = kernel.vm_map_ram(&vec![frame.address(); pages]).unwrap();
            kernel.vm_unmap_ram(mapped, pages).unwrap();
            assert_eq!(kernel.vm_unmap_ram(mapped, pages), Err(Error::NotMapped(mapped)));
            kernel.purge_vmalloc();
            assert_eq!(kernel.vm_unmap_ram(mapped, pages), Err(Error::NotMapped(mapped)));
        }
        kernel.frames().free_frame(frame);
    });
}

fn sizes_and_alignments_that_cannot_be_met_are_refused<F: HostedFormat>() {
    with_areas::<F>(|kernel, _, _| {
        let empty = Error::from(RangeError::Empty(VirtAddr(0)));
        assert_eq!(kernel.vmalloc(0), Err(empty));
        assert_eq!(kernel.vmalloc_huge(0), Err(empty));
        assert_eq!(kernel.vm_map_ram(&[]), Err(empty));
        assert_eq!(
            kernel.vmalloc(usize::MAX),
            Err(RangeError::NotCanonical(VirtAddr(0), usize::MAX).into())
        );
        assert_eq!(kernel.vmalloc(1 << 30), Err(Error::OutOfAddresses((1 << 30) + 1)));
        assert_eq!(kernel.vmalloc(PAGES), Err(Error::OutOfMemory));
        for align in [1 << 47, 1 << 63, u64::MAX] {
            assert!(
                matches!(kernel.vmalloc_aligned(1, align), Err(Error::OutOfAddresses(_))),
                "{align:#x}"
            );
        }
    });
}

/// The addresses of a failed `vm_map_ram` are not lost: the block is used up and comes back.
fn frames_that_cannot_be_mapped_are_refused<F: HostedFormat>() {
    use kpkeys_pgtable::PhysAddr;
    with_areas::<F>(|kernel, _, _| {
        let frame = kernel.frames().new_frame().unwrap();
        for bad in [frame.address().offset(1), PhysAddr(1 << 50)] {
            let result = kernel.vm_map_ram(&[frame.address(), bad]);
            assert!(
                matches!(result, Err(Error::Tables(kpkeys_pgtable::Error::NotMappable(_)))),
                "{result:?}"
            );
        }
        kernel.frames().free_frame(frame);
        // It was mapped for a moment, so it waits for a flush.
        kernel.purge_vmalloc();
    });
}

for_both_formats!(
    overlapping_mappings_are_refused,
    the_kernel_half_is_refused,
    orders_that_do_not_exist_are_refused,
    mprotect_over_a_gap_is_refused,
    faults_and_stores_where_nothing_allows_them_are_refused,
    vfree_of_what_is_no_area_is_refused,
    vm_unmap_ram_of_what_it_did_not_map_is_refused,
    vm_unmap_ram_twice_is_refused,
    sizes_and_alignments_that_cannot_be_met_are_refused,
    frames_that_cannot_be_mapped_are_refused,
);
