//! Files whose pages come with their first touch, and that grow and shrink while they are mapped; and what is withheld of such mappings.

use kpkeys_hosted::HostedFormat;
use kpkeys_mm::{AddressSpace, Error, FilePages, MapFlags};
use kpkeys_pgtable::{Mode, VirtAddr};

use crate::support::{
    PAGE_SIZE, assert_clean, assert_every_frame_accounted_for, for_both_formats, guarded, range,
};

const PAGES: usize = 4096;
const START: u64 = 0x40_0000_0000;
const ELSEWHERE: u64 = 0x50_0000_0000;

fn at(start: u64, page: usize) -> VirtAddr {
    VirtAddr(start).offset(page as u64 * PAGE_SIZE)
}

fn pages_come_when_they_are_touched<F: HostedFormat>() {
    for mode in Mode::ALL {
        let kernel = guarded::<F>(mode, PAGES);
        let file = kernel.new_sparse_file(40, 16).expect("memory");
        let free = kernel.frames().free_frames();
        let mut space = AddressSpace::new(&kernel).expect("memory");
        let shared = FilePages { file: &file, first: 0, shared: true };
        space.mmap_file(range(START, 64), MapFlags::DATA, shared).expect("room");
        assert!((0..40).all(|page| file.frame(page).is_none()));
        space.fault(at(START, 3), true).expect("a page");
        // What is around is not there yet, so that it is not mapped either.
        space.fault(at(START, 20), false).expect("a page");
        assert_eq!(space.mapped_pages(), 2);
        assert!(free > kernel.frames().free_frames());
        // Whoever maps the same finds the same.
        let mut other = AddressSpace::new(&kernel).expect("memory");
        other.mmap_file(range(ELSEWHERE, 8), MapFlags::DATA, shared).expect("room");
        other.fault(at(ELSEWHERE, 3), false).expect("a page");
        let found = |space: &AddressSpace<'_, _>, va| {
            kernel.paging().walk(space.root(), va).map(|(level, _, entry)| F::frame(level, entry))
        };
        assert_eq!(found(&space, at(START, 3)), file.frame(3));
        assert_eq!(found(&other, at(ELSEWHERE, 3)), file.frame(3));
        // Behind the end there is nothing until there is.
        assert_eq!(space.fault(at(START, 40), false), Err(Error::BehindEnd(40)));
        file.extend(2000).expect("heap");
        assert_eq!(space.fault(at(START, 40), false), Ok(()));
        file.shorten(2);
        assert_eq!(space.fault(at(START, 41), true), Err(Error::BehindEnd(41)));
        assert_clean(&kernel, &[&space, &other]);
        drop((space, other));
        let mut file = file;
        kernel.truncate_file(&mut file, 0);
        assert!((0..64).all(|page| file.frame(page).is_none()));
        kernel.close_file(file);
        assert_every_frame_accounted_for(&kernel, &[], 0);
    }
}

fn what_is_withheld_of_a_file_is_found_again<F: HostedFormat>() {
    for mode in Mode::ALL {
        let kernel = guarded::<F>(mode, PAGES);
        let file = kernel.new_sparse_file(8, 16).expect("memory");
        let mut space = AddressSpace::new(&kernel).expect("memory");
        let (shared, private) =
            ([true, false]).map(|shared| FilePages { file: &file, first: 0, shared }).into();
        space.mmap_file(range(START, 8), MapFlags::DATA, shared).expect("room");
        space.mmap_file(range(ELSEWHERE, 8), MapFlags::DATA, private).expect("room");
        for start in [START, ELSEWHERE] {
            space.fault(at(start, 1), true).expect("a page");
            space.fault(at(start, 2), false).expect("a page");
        }
        let frame = |space: &AddressSpace<'_, _>, va| {
            kernel.paging().walk(space.root(), va).map(|(level, _, entry)| F::frame(level, entry))
        };
        let own = frame(&space, at(ELSEWHERE, 1)).expect("a copy");
        space.withhold(range(START, 8)).expect("memory");
        space.withhold(range(ELSEWHERE, 8)).expect("memory");
        for va in [at(START, 1), at(ELSEWHERE, 1), at(ELSEWHERE, 2)] {
            assert_eq!(frame(&space, va), None);
            assert_eq!(space.fault(va, false), Err(Error::Forbidden(va)));
        }
        // A child has the same, and nobody else may use it there either.
        let mut child = space.fork().expect("memory");
        assert_eq!(child.fault(at(ELSEWHERE, 1), true), Err(Error::Forbidden(at(ELSEWHERE, 1))));
        child.permit_again(range(ELSEWHERE, 8)).expect("memory");
        assert_eq!(frame(&child, at(ELSEWHERE, 1)), Some(own));
        assert_clean(&kernel, &[&space, &child]);
        // It moves and stays withheld.
        let to = ELSEWHERE + (64 << 20);
        space.mremap(range(ELSEWHERE, 8), range(to, 8), false).expect("room");
        assert_eq!(space.fault(at(to, 1), false), Err(Error::Forbidden(at(to, 1))));
        space.permit_again(range(to, 8)).expect("memory");
        assert_eq!(frame(&space, at(to, 1)), Some(own));
        drop(child);
        // The only one left writes where it is.
        space.fault(at(to, 1), true).expect("a page");
        assert_eq!(frame(&space, at(to, 1)), Some(own));
        assert_clean(&kernel, &[&space]);
        drop(space);
        kernel.close_file(file);
        assert_every_frame_accounted_for(&kernel, &[], 0);
    }
}

fn withholding_without_memory_changes_nothing<F: HostedFormat>() {
    for mode in Mode::ALL {
        let kernel = guarded::<F>(mode, 512);
        let mut space = AddressSpace::new(&kernel).expect("memory");
        let all = range(START, 4);
        space.mmap(all, MapFlags::DATA).expect("room");
        space.populate(all).expect("memory");
        let mut hog = Vec::new();
        while let Ok(frame) = kernel.frames().new_frame() {
            hog.push(frame);
        }
        // Pools of page-table pages may hold enough; then there was memory.
        let withheld = space.withhold(all);
        let kept = if withheld.is_ok() { Err(Error::Forbidden(at(START, 0))) } else { Ok(()) };
        assert_eq!(space.fault(at(START, 0), true), kept, "{withheld:?}");
        assert_clean(&kernel, &[&space]);
        hog.into_iter().for_each(|frame| kernel.frames().free_frame(frame));
        space.withhold(all).expect("memory");
        space.permit_again(all).expect("memory");
        assert_eq!(space.mapped_pages(), 4);
        assert_eq!(space.fault(VirtAddr(START + 3 * F::PAGE_SIZE), true), Ok(()));
        drop(space);
        kernel.purge_vmalloc();
        assert_every_frame_accounted_for(&kernel, &[], 0);
    }
}

for_both_formats!(
    pages_come_when_they_are_touched,
    what_is_withheld_of_a_file_is_found_again,
    withholding_without_memory_changes_nothing,
);
