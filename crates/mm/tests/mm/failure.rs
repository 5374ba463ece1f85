//! Allocation failure at every allocation point: with no frame left, with one, with two, and so on until the operation succeeds.
//! Each failure must leave tables as promised, mappings and contents as they were, and no frame lost.

use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::boot::Counted;
use kpkeys_mm::frames::OwnedFrame;
use kpkeys_mm::{AddressSpace, Error, Kernel, MapFlags};
use kpkeys_pgtable::{Machine, Mode, PhysAddr, VirtAddr};

use crate::support::{
    assert_clean, assert_every_frame_accounted_for, for_both_formats, on_every_machine, range,
};

const PAGES: usize = 4096;
/// Mappings in three PTE tables, two PMD tables and two PUD tables.
const SPOTS: [u64; 3] = [0x40_0000_0000, 0x40_0020_0000, 0x7000_0000_0000];
/// More frames than any operation here needs.
const ENOUGH: usize = 64;

/// All frames but a few, taken away, and all spare pages of the pool with them.
struct Scarcity<'k, M: Machine> {
    kernel: &'k Kernel<M>,
    frames: Vec<OwnedFrame>,
    /// Each has a page-table page for its root, which is all it is for.
    roots: Vec<AddressSpace<'k, M>>,
}

impl<'k, M: Machine> Scarcity<'k, M> {
    /// Leaves exactly `left` frames free, contiguous ones, so that the pool can make blocks of them.
    fn leaving(kernel: &'k Kernel<M>, left: usize) -> Self {
        let mut frames: Vec<_> = std::iter::from_fn(|| kernel.frames().new_frame().ok()).collect();
        let roots = std::iter::from_fn(|| AddressSpace::new(kernel).ok()).collect();
        frames.sort_by_key(OwnedFrame::address);
        assert_eq!(kernel.frames().free_frames(), 0);
        for frame in frames.split_off(frames.len() - left) {
            kernel.frames().free_frame(frame);
        }
        assert_eq!(kernel.frames().free_frames(), left);
        Scarcity { kernel, frames, roots }
    }
}

impl<M: Machine> Drop for Scarcity<'_, M> {
    fn drop(&mut self) {
        self.roots.clear();
        self.frames.drain(..).for_each(|frame| self.kernel.frames().free_frame(frame));
    }
}

/// Runs `operation` with 0, 1, 2... frames left until it succeeds, which is how many frames it needs.
fn until_it_succeeds<M: Machine, R>(
    kernel: &Kernel<M>,
    mut operation: impl FnMut() -> Result<R, Error>,
    mut after_failure: impl FnMut(usize),
) -> (usize, R) {
    for left in 0..ENOUGH {
        let scarcity = Scarcity::leaving(kernel, left);
        let result = operation();
        drop(scarcity);
        // The pool gives back the blocks it made of the frames that were left.
        kernel.paging().shrink();
        match result {
            Ok(result) => return (left, result),
            Err(error) => assert_eq!(error, Error::OutOfMemory, "{left} frames left"),
        }
        after_failure(left);
    }
    panic!("{ENOUGH} frames are not enough");
}

/// An operation that takes `frames` frames must have failed with every smaller number of them. The pool takes page-table pages in
/// blocks, and keeps a few of them, so there it takes some more.
fn assert_needed(mode: Mode, needed: usize, frames: usize) {
    let most = if mode.fuses() { 2 * frames + 8 } else { frames };
    assert!(
        (frames..=most).contains(&needed),
        "{needed} frames were needed in place of {frames}, {mode:?}"
    );
}

fn a_process<F: HostedFormat>(kernel: &Kernel<Counted<F>>) -> AddressSpace<'_, Counted<F>> {
    let mut space = AddressSpace::new(kernel).unwrap();
    for spot in SPOTS {
        space.mmap(range(spot, 4), MapFlags::DATA).unwrap();
        space.populate(range(spot, 3)).unwrap();
    }
    space
}

/// Every page of a process: whether it is there, where, and whether it may be written.
fn pages<F: HostedFormat>(space: &AddressSpace<'_, Counted<F>>) -> Vec<Option<(PhysAddr, bool)>> {
    let kernel = space.kernel();
    let all = SPOTS
        .iter()
        .flat_map(|&spot| (0..4).map(move |page| VirtAddr(spot).offset_pages::<F>(page)));
    all.map(|va| {
        let (level, _, entry) = kernel.paging().walk(space.root(), va)?;
        Some((F::frame(level, entry), F::is_writable(entry)))
    })
    .collect()
}

fn a_new_address_space_fails_cleanly<F: HostedFormat>() {
    on_every_machine::<F>(PAGES, |kernel, mode| {
        let (needed, space) = until_it_succeeds(
            kernel,
            || AddressSpace::new(kernel),
            |_| assert_every_frame_accounted_for(kernel, &[], 0),
        );
        assert_needed(mode, needed, 1);
        drop(space);
    });
}

fn fork_fails_cleanly<F: HostedFormat>() {
    on_every_machine::<F>(PAGES, |kernel, mode| {
        let parent = std::cell::RefCell::new(a_process(kernel));
        let before = pages(&parent.borrow());
        let (needed, child) = until_it_succeeds(
            kernel,
            || parent.borrow_mut().fork(),
            |left| {
                let parent = parent.borrow();
                assert_every_frame_accounted_for(kernel, &[&parent], 9);
                // Frames are where they were. Write permission may be lost, as the next write fault finds out.
                let frames = |pages: &[Option<(PhysAddr, bool)>]| {
                    pages.iter().map(|page| page.map(|(frame, _)| frame)).collect::<Vec<_>>()
                };
                assert_eq!(frames(&pages(&parent)), frames(&before), "{left} frames left");
                for (frame, _) in before.iter().flatten() {
                    assert_eq!(
                        kernel.frames().folio_counts(*frame),
                        (1, 1),
                        "nothing stays shared"
                    );
                }
            },
        );
        // The root, two PUD tables, two PMD tables, three PTE tables.
        assert_needed(mode, needed, 8);
        assert_eq!((child.mapped_pages(), parent.borrow().mapped_pages()), (9, 9));
        assert_every_frame_accounted_for(kernel, &[&parent.borrow(), &child], 9);
    });
}

fn populate_fails_cleanly<F: HostedFormat>() {
    on_every_machine::<F>(PAGES, |kernel, mode| {
        let space = std::cell::RefCell::new(AddressSpace::new(kernel).unwrap());
        for spot in SPOTS {
            space.borrow_mut().mmap(range(spot, 2), MapFlags::DATA).unwrap();
        }
        let populate =
            || SPOTS.iter().try_for_each(|&spot| space.borrow_mut().populate(range(spot, 2)));
        let (needed, ()) = until_it_succeeds(kernel, populate, |_| {
            let mut space = space.borrow_mut();
            assert_every_frame_accounted_for(kernel, &[&space], space.mapped_pages());
            // From the start, so that every allocation fails once.
            SPOTS.iter().for_each(|&spot| space.munmap(range(spot, 2)).unwrap());
            SPOTS.iter().for_each(|&spot| space.mmap(range(spot, 2), MapFlags::DATA).unwrap());
            assert_eq!(space.mapped_pages(), 0);
            // The root is all that is left of its tables.
            assert_every_frame_accounted_for(kernel, &[&space], 0);
        });
        assert_needed(mode, needed, 7 + 6);
        assert_every_frame_accounted_for(kernel, &[&space.borrow()], 6);
    });
}

fn faults_fail_cleanly<F: HostedFormat>() {
    on_every_machine::<F>(PAGES, |kernel, mode| {
        let mut parent = a_process(kernel);
        let child = std::cell::RefCell::new(parent.fork().unwrap());
        let shared = VirtAddr(SPOTS[0]);
        let before = pages(&child.borrow());
        // A write to a shared page needs a frame for the copy.
        let (needed, ()) = until_it_succeeds(
            kernel,
            || child.borrow_mut().fault(shared, true),
            |_| {
                assert_eq!(pages(&child.borrow()), before);
                assert_every_frame_accounted_for(kernel, &[&parent, &child.borrow()], 9);
            },
        );
        assert_eq!(needed, 1, "{mode:?}");
        // The first touch of a page whose tables are there needs one for the page.
        let untouched = shared.offset_pages::<F>(3);
        let before = pages(&child.borrow());
        let (needed, ()) = until_it_succeeds(
            kernel,
            || child.borrow_mut().fault(untouched, true),
            |_| assert_eq!(pages(&child.borrow()), before),
        );
        assert_eq!(needed, 1, "{mode:?}");
        assert_every_frame_accounted_for(kernel, &[&parent, &child.borrow()], 9 + 2);
    });
}

/// A folio of 2 MiB that is not to be had is made up for by single pages.
fn a_huge_fault_falls_back_to_pages<F: HostedFormat>() {
    on_every_machine::<F>(PAGES, |kernel, _| {
        let mut space = AddressSpace::new(kernel).unwrap();
        space.mmap(range(SPOTS[0], 512), MapFlags::HUGE_DATA).unwrap();
        // The pool may take 16 for itself.
        let scarcity = Scarcity::leaving(kernel, 40);
        space.fault(VirtAddr(SPOTS[0] + F::PAGE_SIZE), true).unwrap();
        assert_eq!(space.mapped_pages(), 1);
        drop(scarcity);
        assert_every_frame_accounted_for(kernel, &[&space], 1);
    });
}

fn vmalloc_fails_cleanly<F: HostedFormat>() {
    type Allocate<F> = fn(&Kernel<Counted<F>>) -> Result<VirtAddr, Error>;
    let kinds: [(Allocate<F>, usize); 6] = [
        (|kernel| kernel.vmalloc(1), 1),
        (|kernel| kernel.vmalloc(7), 7),
        (|kernel| kernel.vmalloc(40), 40),
        (|kernel| kernel.vmalloc_aligned(5, 128 * F::PAGE_SIZE), 5),
        (|kernel| kernel.vmalloc_huge(16), 16),
        (|kernel| kernel.vmalloc_huge(37), 37),
    ];
    for (allocate, pages) in kinds {
        on_every_machine::<F>(PAGES, |kernel, mode| {
            let before = assert_clean(kernel, &[]).ptps;
            let (needed, area) = until_it_succeeds(
                kernel,
                || allocate(kernel),
                |_| assert_every_frame_accounted_for(kernel, &[], 0),
            );
            // Tables linked by an earlier failure stay; those of the kernel are never freed.
            let linked = assert_clean(kernel, &[]).ptps - before;
            // A PMD and a PTE table; and what blocks of the linear map were split into, to key small blocks of the pool.
            assert!(linked == 2 || mode.fuses() && linked > 2, "{linked} {mode:?}");
            // With the PMD table alone to be had it was linked, and served the next attempt; so the tables cost one frame or two.
            let tables = needed - pages;
            assert!(
                if mode.fuses() { tables <= 12 } else { (1..=2).contains(&tables) },
                "{tables} {mode:?}"
            );
            assert_every_frame_accounted_for(kernel, &[], pages);
            kernel.touch(area.offset_pages::<F>(pages - 1)).unwrap();
            kernel.vfree(area).unwrap();
        });
    }
}

/// An area across 2 MiB whose second table is not to be had must be unmapped from the first.
fn vmalloc_across_tables_fails_cleanly<F: HostedFormat>() {
    on_every_machine::<F>(PAGES, |kernel, mode| {
        // The next area starts 8 pages below 2 MiB.
        let filler = kernel.vmalloc(512 - 8 - 1).unwrap();
        let (needed, area) = until_it_succeeds(
            kernel,
            || kernel.vmalloc(16),
            |left| {
                assert_every_frame_accounted_for(kernel, &[], 503);
                assert!(
                    kernel
                        .paging()
                        .walk(kernel.paging().kernel(), filler.offset_pages::<F>(504))
                        .is_none(),
                    "{left} frames left"
                );
                // The failed area's addresses wait for the purge.
                kernel.purge_vmalloc();
            },
        );
        assert_eq!(area, filler.offset_pages::<F>(504));
        assert_needed(mode, needed, 16 + 1);
        kernel.vfree(area).unwrap();
        kernel.vfree(filler).unwrap();
    });
}

fn vm_map_ram_fails_cleanly<F: HostedFormat>() {
    for pages in [1, 64, 65] {
        on_every_machine::<F>(PAGES, |kernel, mode| {
            let owned: Vec<_> = (0..pages).map(|_| kernel.frames().new_frame().unwrap()).collect();
            let frames: Vec<_> = owned.iter().map(OwnedFrame::address).collect();
            let (needed, mapped) = until_it_succeeds(
                kernel,
                || kernel.vm_map_ram(&frames),
                |_| assert_every_frame_accounted_for(kernel, &[], pages),
            );
            // It failed with one frame left: a PMD table was linked, and the PTE table was not to be had.
            assert_needed(mode, needed, 2);
            kernel.vm_unmap_ram(mapped, pages).unwrap();
            kernel.purge_vmalloc();
            owned.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
        });
    }
}

/// In mode `fused` freed areas wait for a window with their frames. Memory must not run out for them.
fn areas_that_wait_for_a_window_are_no_reason_to_fail<F: HostedFormat>() {
    on_every_machine::<F>(PAGES, |kernel, mode| {
        let area = kernel.vmalloc(32).unwrap();
        let scarcity = Scarcity::leaving(kernel, 0);
        kernel.vfree(area).unwrap();
        let again = kernel.vmalloc(32);
        drop(scarcity);
        kernel.vfree(again.unwrap_or_else(|error| panic!("{mode:?}: {error}"))).unwrap();
    });
}

/// Frames of freed areas wait for a flush. No other request must fail for them.
fn frames_that_wait_for_a_flush_are_no_reason_to_fail<F: HostedFormat>() {
    type Request<F> =
        fn(&Kernel<Counted<F>>, &mut AddressSpace<'_, Counted<F>>) -> Result<(), Error>;
    let requests: [Request<F>; 6] = [
        |_, space| space.fault(VirtAddr(SPOTS[0]).offset_pages::<F>(3), true),
        |_, space| space.populate(range(SPOTS[1], 4)),
        |_, space| space.fork().map(drop),
        |kernel, _| AddressSpace::new(kernel).map(drop),
        |kernel, _| kernel.new_file(1, 1).map(|file| kernel.close_file(file)),
        |kernel, _| kernel.vmalloc_huge(32).and_then(|area| kernel.vfree(area)),
    ];
    for request in requests {
        on_every_machine::<F>(PAGES, |kernel, mode| {
            let mut space = a_process(kernel);
            let area = kernel.vmalloc(64).unwrap();
            let scarcity = Scarcity::leaving(kernel, 0);
            kernel.vfree(area).unwrap();
            let result = request(kernel, &mut space);
            drop(scarcity);
            assert_eq!(result, Ok(()), "{mode:?}");
            drop(space);
            kernel.paging().shrink();
        });
    }
}

for_both_formats!(
    a_new_address_space_fails_cleanly,
    fork_fails_cleanly,
    populate_fails_cleanly,
    faults_fail_cleanly,
    a_huge_fault_falls_back_to_pages,
    vmalloc_fails_cleanly,
    vmalloc_across_tables_fails_cleanly,
    vm_map_ram_fails_cleanly,
    areas_that_wait_for_a_window_are_no_reason_to_fail,
    frames_that_wait_for_a_flush_are_no_reason_to_fail,
);
