//! Kernel mappings on a heap that refuses, at every point: what is asked for is refused and nothing is changed, and giving back never
//! asks the heap.

use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::boot::Counted;
use kpkeys_mm::frames::OwnedFrame;
use kpkeys_mm::{Error, Kernel};
use kpkeys_pgtable::{Machine, PhysAddr, VirtAddr};

use crate::heap::refusing_from;
use crate::support::{assert_every_frame_accounted_for, for_both_formats, on_every_machine};

const PAGES: usize = 8192;
/// More allocations than any of these operations makes.
const ENOUGH: u64 = 32;

/// Runs `operation` on a heap that grants 0, 1, 2... allocations until none is refused. Every failure leaves `data` frames in use.
/// Returns how many allocations it made, and what it returned.
fn until_none_is_refused<F: HostedFormat>(
    kernel: &Kernel<Counted<F>>,
    data: usize,
    operation: impl Fn() -> Result<VirtAddr, Error>,
) -> (u64, VirtAddr) {
    for granted in 0..ENOUGH {
        let (result, refused) = refusing_from(granted, &operation);
        if !refused {
            return (granted, result.expect("frames and addresses"));
        }
        assert_eq!(result, Err(Error::OutOfMemory), "{granted} allocations");
        // What waited for a window is cleared, or waits still.
        kernel.purge_vmalloc();
        assert_every_frame_accounted_for(kernel, &[], data);
    }
    panic!("more than {ENOUGH} allocations");
}

/// On a heap that grants nothing, and is not even asked.
fn without_heap<R>(operation: impl FnOnce() -> R) -> R {
    let (result, refused) = refusing_from(0, operation);
    assert!(!refused, "the heap was asked");
    result
}

fn areas_fail_cleanly<F: HostedFormat>() {
    type Allocate<F> = fn(&Kernel<Counted<F>>) -> Result<VirtAddr, Error>;
    let kinds: [(Allocate<F>, usize); 7] = [
        (|kernel| kernel.vmalloc(1), 1),
        (|kernel| kernel.vmalloc(3), 3),
        (|kernel| kernel.vmalloc(40), 40),
        (|kernel| kernel.vmalloc_aligned(1, 4 << 20), 1),
        (|kernel| kernel.vmalloc_aligned(5, 128 * F::PAGE_SIZE), 5),
        (|kernel| kernel.vmalloc_huge(37), 37),
        (|kernel| kernel.vmalloc_huge(1100), 1100),
    ];
    for (allocate, pages) in kinds {
        on_every_machine::<F>(PAGES, |kernel, mode| {
            let (needed, area) = until_none_is_refused(kernel, 0, || allocate(kernel));
            assert!(needed >= 1, "a first area takes some heap, {mode:?}");
            assert_every_frame_accounted_for(kernel, &[], pages);
            kernel.touch(area.offset_pages::<F>(pages - 1)).unwrap();
            without_heap(|| kernel.vfree(area)).unwrap();
            // With an unmap that may wait for the window of an operation that fails.
            let (_, area) = until_none_is_refused(kernel, 0, || allocate(kernel));
            without_heap(|| kernel.vfree(area)).unwrap();
            without_heap(|| kernel.purge_vmalloc());
        });
    }
}

fn vm_map_ram_fails_cleanly<F: HostedFormat>() {
    for pages in [1, 2, 64, 65, 600] {
        on_every_machine::<F>(PAGES, |kernel, _| {
            let owned: Vec<_> = (0..pages).map(|_| kernel.frames().new_frame().unwrap()).collect();
            let frames: Vec<_> = owned.iter().map(OwnedFrame::address).collect();
            for _ in 0..20 {
                let map = || kernel.vm_map_ram(&frames);
                let (_, ram) = until_none_is_refused(kernel, pages, map);
                kernel.touch(ram.offset_pages::<F>(pages - 1)).unwrap();
                without_heap(|| kernel.vm_unmap_ram(ram, pages)).unwrap();
            }
            without_heap(|| kernel.purge_vmalloc());
            owned.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
        });
    }
}

/// More than may wait for a window, freed in an order in which no two of them are neighbours.
fn giving_back_never_asks_the_heap<F: HostedFormat>() {
    on_every_machine::<F>(PAGES, |kernel, _| {
        let owned = kernel.frames().new_frame().unwrap();
        let frames: [PhysAddr; 1] = [owned.address()];
        let areas: Vec<_> = (0..1500).map(|i| kernel.vmalloc(1 + i % 2).unwrap()).collect();
        let ram: Vec<_> = (0..100).map(|_| kernel.vm_map_ram(&frames).unwrap()).collect();
        without_heap(|| {
            for first in 0..3 {
                areas.iter().skip(first).step_by(3).for_each(|&area| {
                    let _ = kernel.vfree(area);
                });
                ram.iter().skip(first).step_by(3).for_each(|&ram| {
                    let _ = kernel.vm_unmap_ram(ram, 1);
                });
            }
            kernel.purge_vmalloc();
        });
        for &area in &areas {
            assert_eq!(kernel.vfree(area), Err(Error::NotMapped(area)), "it was freed");
        }
        kernel.frames().free_frame(owned);
    });
}

/// 16 GiB of pages, where there are 32 MiB: refused before anything is reserved for them.
fn a_size_that_memory_does_not_have_is_refused_first<F: HostedFormat>() {
    on_every_machine::<F>(PAGES, |kernel, _| {
        for pages in [PAGES + 1, 4 << 20] {
            for allocate in [Kernel::vmalloc, Kernel::vmalloc_huge] {
                let result = without_heap(|| allocate(kernel, pages));
                assert_eq!(result, Err(Error::OutOfMemory));
            }
            let aligned = without_heap(|| kernel.vmalloc_aligned(pages, 2 << 20));
            assert_eq!(aligned, Err(Error::OutOfMemory));
        }
        let all = 64 << 18;
        let result = without_heap(|| kernel.vmalloc(all));
        assert_eq!(result, Err(Error::OutOfAddresses(all + 1)));
    });
}

/// Writing to areas reaches areas alone: a table, through the linear map, is none.
fn what_is_no_area_is_not_written<F: HostedFormat>() {
    on_every_machine::<F>(PAGES, |kernel, mode| {
        let root = kernel.paging().kernel().frame();
        let linear = kernel.machine().memory().linear_address(root);
        let before = kernel.paging().walk(kernel.paging().kernel(), linear).map(|found| found.2);
        for result in [kernel.touch(linear), kernel.zero_pages(linear, 1)] {
            assert_eq!(result, Err(Error::NotMapped(linear)), "{mode:?}");
        }
        let after = kernel.paging().walk(kernel.paging().kernel(), linear).map(|found| found.2);
        assert_eq!((before, before.is_some()), (after, true), "{mode:?}");
    });
}

for_both_formats!(
    what_is_no_area_is_not_written,
    areas_fail_cleanly,
    vm_map_ram_fails_cleanly,
    giving_back_never_asks_the_heap,
    a_size_that_memory_does_not_have_is_refused_first,
);
