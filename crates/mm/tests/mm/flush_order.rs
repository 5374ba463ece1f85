//! Nothing is freed before every translation of it is flushed: any history, on a machine that models TLBs.

use kpkeys_hosted::HostedFormat;
use kpkeys_mm::frames::OwnedFrame;
use kpkeys_mm::vmalloc::blocks::MAX_SLOTS;
use kpkeys_mm::{AddressSpace, Error, File, FilePages, Kernel, MapFlags, OnFork};
use kpkeys_pgtable::{Config, Mode, PageRange, PhysAddr, VirtAddr};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::heap;
use crate::support::{PAGE_SIZE, assert_every_frame_accounted_for, range};
use crate::watched::{Alias, Keys, Scheme, Watched, boot};

type World<F, S> = &'static Kernel<Watched<F, S>>;
type Space<'k, F, S> = AddressSpace<'k, Watched<F, S>>;

const A: u64 = 0x40_0000_0000;
const B: u64 = A + (1 << 30);

/// Histories for each format, scheme and mode, and their length.
const HISTORIES: u32 = 8;
const OPERATIONS: usize = 40;
const PROCESSES: usize = 3;
const PAGES: usize = 4096;
/// Pages that histories touch, around a place where tables of every level end.
const REGION: usize = 1300;
const START: u64 = (1 << 39) - 600 * PAGE_SIZE;

/// Makes a test of each function for both formats and both ways to protect page tables.
macro_rules! for_formats_and_schemes {
    ($($test:ident),* $(,)?) => {
        for_formats_and_schemes!(@ aarch64_by_keys Aarch64 Keys $($test)*);
        for_formats_and_schemes!(@ aarch64_by_alias Aarch64 Alias $($test)*);
        for_formats_and_schemes!(@ x86_64_by_keys X86_64 Keys $($test)*);
        for_formats_and_schemes!(@ x86_64_by_alias X86_64 Alias $($test)*);
    };
    (@ $module:ident $format:ident $scheme:ident $($test:ident)*) => {
        mod $module {
            $(#[test] fn $test() { super::$test::<kpkeys_pgtable::entry::$format, super::$scheme>(); })*
        }
    };
}

fn in_every_mode<F: HostedFormat, S: Scheme>(pages: usize, test: impl Fn(World<F, S>)) {
    for mode in Mode::ALL {
        test(boot::<F, S>(Config::of(mode), pages));
    }
}

fn new_space<F: HostedFormat, S: Scheme>(kernel: World<F, S>) -> Space<'static, F, S> {
    let space = AddressSpace::new(kernel).expect("memory");
    kernel.machine().watch().enters(space.root().frame());
    space
}

fn end<F: HostedFormat, S: Scheme>(space: Space<'_, F, S>) {
    let kernel = space.kernel();
    kernel.machine().watch().leaves(space.root().frame());
    drop(space);
    kernel.machine().watch().assert_nothing_freed_early("after an exit");
}

/// Touched pages of two mappings, so many that they are flushed and freed in between.
fn two_mappings<F: HostedFormat, S: Scheme>(
    kernel: World<F, S>,
) -> (Space<'static, F, S>, PageRange<F>) {
    let mut space = new_space(kernel);
    for (start, pages) in [(A, 9_488), (B, 1)] {
        space.mmap(range(start, pages), MapFlags::HUGE_DATA).expect("free addresses");
        space.populate(range(start, pages)).expect("memory");
    }
    let both = range(A, ((B - A) / F::PAGE_SIZE) as usize + 1);
    (space, both)
}

/// Pages of an earlier mapping are gathered still when a later one fills the gather.
fn unmapping_two_mappings_flushes_both_before_it_frees<F: HostedFormat, S: Scheme>() {
    in_every_mode::<F, S>(1 << 14, |kernel| {
        let watch = kernel.machine().watch();
        let (mut space, both) = two_mappings(kernel);
        space.munmap(both).expect("inside the user half");
        watch.assert_nothing_freed_early("after munmap");
        end(space);

        let (mut space, both) = two_mappings(kernel);
        space.discard(both);
        watch.assert_nothing_freed_early("after discard");
        end(space);

        end(two_mappings(kernel).0);

        // Over all of it.
        let (mut space, both) = two_mappings(kernel);
        let small = range(0x7000_0000_0000, 1);
        space.mmap(small, MapFlags::DATA).expect("free addresses");
        space.mremap(small, both, false).expect("memory");
        watch.assert_nothing_freed_early("after mremap");
        end(space);
    });
}

/// Sizes of kernel mappings: what waits for a window, slots of a block, addresses of their own.
const KERNEL_SIZES: [usize; 6] = [1, 2, 16, MAX_SLOTS, MAX_SLOTS + 1, 600];

/// Frames of an area are free when it is flushed, not when it is unmapped.
fn vfree_flushes_before_it_frees<F: HostedFormat, S: Scheme>() {
    in_every_mode::<F, S>(PAGES, |kernel| {
        let watch = kernel.machine().watch();
        for allocate in [Kernel::vmalloc, Kernel::vmalloc_huge] {
            for pages in KERNEL_SIZES {
                let areas = [(); 2].map(|()| allocate(kernel, pages).expect("memory"));
                watch.assert_nothing_freed_early("after vmalloc");
                for area in areas {
                    kernel.vfree(area).expect("an area");
                    watch.assert_nothing_freed_early("after vfree");
                }
                // Opens a window, where unmaps wait for one.
                let another = kernel.vmalloc(1).expect("memory");
                watch.assert_nothing_freed_early("after another area");
                kernel.vfree(another).expect("an area");
                kernel.purge_vmalloc();
                watch.assert_nothing_freed_early("after a purge");
            }
        }
    });
}

fn addresses(frames: &[OwnedFrame]) -> Vec<PhysAddr> {
    frames.iter().map(OwnedFrame::address).collect()
}

fn new_frames<F: HostedFormat, S: Scheme>(kernel: World<F, S>, pages: usize) -> Vec<OwnedFrame> {
    (0..pages).map(|_| kernel.frames().new_frame().expect("memory")).collect()
}

/// Whoever gave frames to `vm_map_ram` may give them back as soon as they are unmapped.
fn vm_unmap_ram_flushes_before_its_frames_are_free<F: HostedFormat, S: Scheme>() {
    in_every_mode::<F, S>(PAGES, |kernel| {
        let watch = kernel.machine().watch();
        let free = kernel.frames().free_frames();
        for pages in KERNEL_SIZES {
            let frames = new_frames(kernel, pages);
            let ram = kernel.vm_map_ram(&addresses(&frames)).expect("memory");
            watch.assert_nothing_freed_early("after vm_map_ram");
            kernel.vm_unmap_ram(ram, pages).expect("what was mapped");
            frames.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
            watch.assert_nothing_freed_early("after vm_unmap_ram");
            let another = kernel.vmalloc(1).expect("memory");
            watch.assert_nothing_freed_early("after another area");
            kernel.vfree(another).expect("an area");
            kernel.purge_vmalloc();
            watch.assert_nothing_freed_early("after a purge");
        }
        let tables = free - kernel.frames().free_frames();
        assert!(tables < 32, "{tables} frames are not free again");
    });
}

/// A page of an address space is nobody's to hold: it is flushed when it is unmapped.
fn vm_unmap_ram_flushes_what_it_cannot_hold<F: HostedFormat, S: Scheme>() {
    in_every_mode::<F, S>(PAGES, |kernel| {
        let watch = kernel.machine().watch();
        let mut space = new_space(kernel);
        space.mmap(range(A, 1), MapFlags::DATA).expect("free addresses");
        space.populate(range(A, 1)).expect("memory");
        let (level, _, entry) = kernel.paging().walk(space.root(), VirtAddr(A)).expect("a page");
        let ram = kernel.vm_map_ram(&[F::frame(level, entry)]).expect("memory");
        watch.assert_nothing_freed_early("after vm_map_ram");
        kernel.vm_unmap_ram(ram, 1).expect("what was mapped");
        end(space);
    });
}

/// What a request mapped before it failed was valid for a moment.
fn what_fails_half_way_flushes_before_it_frees<F: HostedFormat, S: Scheme>() {
    in_every_mode::<F, S>(PAGES, |kernel| {
        let watch = kernel.machine().watch();
        // The next area ends in a table that is not there.
        let filler = kernel.vmalloc(512 - 8 - 1).expect("memory");
        let owned = new_frames(kernel, MAX_SLOTS + 512);
        let mut frames = addresses(&owned);
        // Nothing can map the last one.
        frames.push(frames[0].offset(1));
        watch.closely();
        for left in 16..18 {
            let mut taken: Vec<_> =
                std::iter::from_fn(|| kernel.frames().new_frame().ok()).collect();
            taken.drain(..left).for_each(|frame| kernel.frames().free_frame(frame));
            // Of the keyed pool there may be a table.
            let _ = kernel.vmalloc(16).map(|area| kernel.vfree(area));
            watch.assert_nothing_freed_early("after a vmalloc that failed");
            taken.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
        }
        for from in [frames.len() - 3, 0] {
            let result = kernel.vm_map_ram(&frames[from..]);
            assert!(matches!(result, Err(Error::Tables(_))), "{result:?}");
        }
        owned.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
        watch.assert_nothing_freed_early("after a vm_map_ram that failed");
        kernel.vfree(filler).expect("an area");
        kernel.purge_vmalloc();
        watch.assert_nothing_freed_early("after a purge");
    });
}

#[derive(Clone, Copy, Debug)]
enum KernelOperation {
    Vmalloc {
        pages: usize,
        huge: bool,
    },
    MapRam {
        pages: usize,
    },
    /// Gives back one of the live ranges, and, if it is one of `vm_map_ram`, its frames.
    Free {
        which: usize,
    },
    Purge,
}

fn kernel_operation() -> impl Strategy<Value = KernelOperation> {
    let size = || prop_oneof![4 => 1..8_usize, 2 => 1..=80_usize, 1 => 500..=700_usize];
    prop_oneof![
        4 => (size(), any::<bool>()).prop_map(|(pages, huge)| KernelOperation::Vmalloc { pages, huge }),
        4 => size().prop_map(|pages| KernelOperation::MapRam { pages }),
        8 => any::<usize>().prop_map(|which| KernelOperation::Free { which }),
        1 => Just(KernelOperation::Purge),
    ]
}

/// The kernel's mappings of a history: where, how many pages, and the frames if they are the caller's.
type Ranges = Vec<(VirtAddr, usize, Option<Vec<OwnedFrame>>)>;

fn apply_to_kernel<F: HostedFormat, S: Scheme>(
    kernel: World<F, S>,
    live: &mut Ranges,
    operation: KernelOperation,
) {
    match operation {
        KernelOperation::Vmalloc { pages, huge } => {
            let area = if huge { kernel.vmalloc_huge(pages) } else { kernel.vmalloc(pages) };
            live.extend(area.map(|area| (area, pages, None)));
        }
        KernelOperation::MapRam { pages } => {
            let frames: Vec<_> =
                (0..pages).map_while(|_| kernel.frames().new_frame().ok()).collect();
            match kernel.vm_map_ram(&addresses(&frames)) {
                Ok(ram) => live.push((ram, frames.len(), Some(frames))),
                Err(_) => frames.into_iter().for_each(|frame| kernel.frames().free_frame(frame)),
            }
        }
        KernelOperation::Free { .. } if live.is_empty() => {}
        KernelOperation::Free { which } => {
            let (start, pages, frames) = live.swap_remove(which % live.len());
            match frames {
                None => kernel.vfree(start).expect("an area"),
                Some(frames) => {
                    kernel.vm_unmap_ram(start, pages).expect("what was mapped");
                    frames.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
                }
            }
        }
        KernelOperation::Purge => kernel.purge_vmalloc(),
    }
}

/// Any history of kernel mappings, with memory and a heap that are sometimes used up.
fn no_history_of_the_kernel_frees_before_the_flush<F: HostedFormat, S: Scheme>() {
    in_every_mode::<F, S>(PAGES, |kernel| {
        let config = proptest::test_runner::Config {
            cases: HISTORIES,
            failure_persistence: None,
            ..Default::default()
        };
        let granted = prop_oneof![3 => Just(u64::MAX - 1), 1 => 0..4_u64];
        let history = prop::collection::vec((kernel_operation(), granted), OPERATIONS);
        let result = TestRunner::new(config).run(&history, |steps| {
            // With room for all, which the heap is not to refuse.
            let mut live = Ranges::with_capacity(OPERATIONS);
            for (operation, granted) in steps {
                let own_heap = matches!(operation, KernelOperation::Vmalloc { .. });
                let granted = if own_heap { granted } else { u64::MAX - 1 };
                heap::refusing_from(granted, || apply_to_kernel(kernel, &mut live, operation));
                let when = format!("after {operation:?}");
                kernel.machine().watch().assert_nothing_freed_early(&when);
            }
            while !live.is_empty() {
                apply_to_kernel(kernel, &mut live, KernelOperation::Free { which: 0 });
            }
            kernel.machine().watch().assert_nothing_freed_early("after the history");
            Ok(())
        });
        result.unwrap_or_else(|failure| panic!("{:?}: {failure}", kernel.paging().mode()));
        kernel.purge_vmalloc();
        kernel.paging().shrink();
        assert_every_frame_accounted_for(kernel, &[], 0);
    });
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Mmap { first: usize, pages: usize, huge: bool, file: Option<bool> },
    Munmap { first: usize, pages: usize },
    Protect { first: usize, pages: usize, write: bool },
    Populate { first: usize, pages: usize },
    FaultIn { first: usize, pages: usize },
    Fault { page: usize, write: bool },
    Discard { first: usize, pages: usize },
    Move { from: usize, pages: usize, to: usize, new_pages: usize, keeps_old: bool },
    OnFork { first: usize, pages: usize, wipe: bool },
    Fork,
    Exit,
}

/// An operation, the process that asks for it, and how many heap allocations it is granted.
type Step = (usize, Operation, u64);

fn step() -> impl Strategy<Value = Step> {
    let span = || {
        let pages = prop_oneof![3 => 1..40_usize, 1 => 1..=REGION];
        (0..REGION, pages).prop_map(|(first, pages)| (first, pages.min(REGION - first)))
    };
    let operation = prop_oneof![
        3 => (span(), any::<bool>(), any::<Option<bool>>())
            .prop_map(|((first, pages), huge, file)| Operation::Mmap { first, pages, huge, file }),
        2 => span().prop_map(|(first, pages)| Operation::Munmap { first, pages }),
        1 => (span(), any::<bool>()).prop_map(|((first, pages), write)| Operation::Protect { first, pages, write }),
        3 => span().prop_map(|(first, pages)| Operation::Populate { first, pages }),
        2 => span().prop_map(|(first, pages)| Operation::FaultIn { first, pages }),
        4 => (0..REGION, any::<bool>()).prop_map(|(page, write)| Operation::Fault { page, write }),
        1 => span().prop_map(|(first, pages)| Operation::Discard { first, pages }),
        3 => (span(), span(), any::<bool>()).prop_map(|((from, pages), (to, new_pages), keeps_old)| {
            Operation::Move { from, pages, to, new_pages, keeps_old }
        }),
        1 => (span(), any::<bool>()).prop_map(|((first, pages), wipe)| Operation::OnFork { first, pages, wipe }),
        2 => Just(Operation::Fork),
        1 => Just(Operation::Exit),
    ];
    (0..PROCESSES, operation, prop_oneof![2 => Just(u64::MAX - 1), 1 => 0..3_u64])
}

fn region<F: HostedFormat>(first: usize, pages: usize) -> PageRange<F> {
    range(START + first as u64 * PAGE_SIZE, pages)
}

fn apply<F: HostedFormat, S: Scheme>(
    space: &mut Space<'static, F, S>,
    file: &'static File,
    operation: Operation,
) -> Result<Option<Space<'static, F, S>>, Error> {
    match operation {
        Operation::Mmap { first, pages, file: Some(shared), .. } => {
            space.mmap_file(region(first, pages), MapFlags::DATA, FilePages { file, first, shared })
        }
        Operation::Mmap { first, pages, huge, file: None } => {
            let flags = if huge { MapFlags::HUGE_DATA } else { MapFlags::DATA };
            space.mmap(region(first, pages), flags)
        }
        Operation::Munmap { first, pages } => space.munmap(region(first, pages)),
        Operation::Protect { first, pages, write } => space.mprotect(region(first, pages), write),
        Operation::Populate { first, pages } => space.populate(region(first, pages)),
        Operation::FaultIn { first, pages } => space.fault_in(region(first, pages)),
        Operation::Fault { page, write } => space.fault(region::<F>(page, 1).start(), write),
        Operation::Discard { first, pages } => {
            space.discard(region(first, pages));
            Ok(())
        }
        Operation::Move { from, pages, to, new_pages, keeps_old } => {
            space.mremap(region(from, pages), region(to, new_pages), keeps_old)
        }
        Operation::OnFork { first, pages, wipe } => {
            let on_fork = if wipe { OnFork::Wipe } else { OnFork::Skip };
            space.set_on_fork(region(first, pages), on_fork)
        }
        Operation::Fork => return space.fork().map(Some),
        Operation::Exit => Ok(()),
    }
    .map(|()| None)
}

/// Any history, with a heap that is sometimes used up, which is when little is gathered at a time.
fn no_history_frees_before_the_flush<F: HostedFormat, S: Scheme>() {
    in_every_mode::<F, S>(PAGES, |kernel| {
        let file: &'static File = Box::leak(Box::new(kernel.new_file(64, 16).expect("memory")));
        let config = proptest::test_runner::Config {
            cases: HISTORIES,
            failure_persistence: None,
            ..Default::default()
        };
        let history = prop::collection::vec(step(), OPERATIONS);
        let result = TestRunner::new(config).run(&history, |steps| {
            let mut spaces = vec![new_space(kernel)];
            for (process, operation, granted) in steps {
                let process = process % spaces.len();
                if matches!(operation, Operation::Exit) {
                    end(spaces.swap_remove(process));
                    if spaces.is_empty() {
                        spaces.push(new_space(kernel));
                    }
                } else if !matches!(operation, Operation::Fork) || spaces.len() < PROCESSES {
                    let space = &mut spaces[process];
                    let (result, _) =
                        heap::refusing_from(granted, || apply(space, file, operation));
                    let when = format!("after {operation:?}");
                    kernel.machine().watch().assert_nothing_freed_early(&when);
                    if let Ok(Some(child)) = result {
                        kernel.machine().watch().enters(child.root().frame());
                        spaces.push(child);
                    }
                }
            }
            spaces.into_iter().for_each(end);
            Ok(())
        });
        result.unwrap_or_else(|failure| panic!("{:?}: {failure}", kernel.paging().mode()));
        assert!(kernel.machine().watch().flushes() > OPERATIONS);
    });
}

for_formats_and_schemes!(
    unmapping_two_mappings_flushes_both_before_it_frees,
    no_history_frees_before_the_flush,
    vfree_flushes_before_it_frees,
    vm_unmap_ram_flushes_before_its_frames_are_free,
    vm_unmap_ram_flushes_what_it_cannot_hold,
    what_fails_half_way_flushes_before_it_frees,
    no_history_of_the_kernel_frees_before_the_flush,
);
