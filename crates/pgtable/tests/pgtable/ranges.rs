//! Map, unmap, protect, copy and freeing tables at their edges, in every configuration, on the guarded arena.
//!
//! An operation that is refused leaves translations as they were; where nothing was linked for it, every entry is as it was.

use std::marker::PhantomData;
use std::num::NonZeroUsize;

use crate::support::{KERNEL, LARGE, Protection, SMALL, System, USER, configs, pages};
use kpkeys::Pkey;
use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::addr::RangeError;
use kpkeys_pgtable::range::{Share, WriteProtect};
use kpkeys_pgtable::table::Slots;
use kpkeys_pgtable::{
    Attrs, Config, Entry, Error, Level, Mode, PageRange, PhysAddr, Root, VirtAddr,
};

const FRAME: PhysAddr = PhysAddr(0x1_0020_0000);
const BLOCK: usize = 512;

/// A system with an empty user address space, in one configuration of each mode.
fn in_every_mode<F: HostedFormat, S: Protection>(test: impl Fn(&System<F, S>, &Root)) {
    for mode in Mode::ALL {
        let system = System::<F, S>::boot(Config::of(mode), SMALL);
        let user = system.new_user_root();
        test(&system, &user);
        system.assert_clean(&[&user]);
    }
}

/// What an address translates to: frame and attributes.
fn translation<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    root: &Root,
    va: VirtAddr,
) -> Option<(PhysAddr, Attrs)> {
    let (level, _, entry) = system.paging.walk(root, va)?;
    let offset = va.0 & (level.entry_bytes::<F>() - 1);
    Some((F::frame(level, entry).offset(offset), F::attrs(entry)))
}

fn frame_of<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    root: &Root,
    va: VirtAddr,
) -> Option<PhysAddr> {
    translation(system, root, va).map(|(frame, _)| frame)
}

/// Every page of a range is mapped to consecutive frames, and the pages around it are not mapped.
fn assert_mapped<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    root: &Root,
    range: PageRange<F>,
    attrs: Attrs,
) {
    for i in 0..range.pages() {
        let va = range.start().offset_pages::<F>(i);
        let expected = Some((FRAME.offset(i as u64 * F::PAGE_SIZE), attrs));
        assert_eq!(translation(system, root, va), expected, "{va:?}");
    }
    for around in [range.start().0.wrapping_sub(F::PAGE_SIZE), range.end().0] {
        assert_eq!(frame_of(system, root, VirtAddr(around)), None, "{around:#x}");
    }
}

fn a_mapping_across_tables_of_every_level_is_what_was_asked_for<F: HostedFormat, S: Protection>() {
    in_every_mode::<F, S>(|system, user| {
        // Ends of a PTE table, of a PMD table, and of a PUD table.
        for end in [USER.0 + (1 << 21), USER.0 + (1 << 30), (USER.0 >> 39 << 39) + (1 << 39)] {
            let range = pages(VirtAddr(end - 3 * F::PAGE_SIZE), 7);
            system.map(user, range, Attrs::USER_DATA, FRAME).unwrap();
            assert_mapped(system, user, range, Attrs::USER_DATA);
            assert_eq!(system.unmap(user, range), Ok(7));
            assert_eq!(frame_of(system, user, range.start()), None);
        }
    });
}

fn the_last_page_of_the_kernel_half_can_be_mapped_and_freed<F: HostedFormat, S: Protection>() {
    in_every_mode::<F, S>(|system, _| {
        let kernel = system.paging.kernel();
        let last = pages(VirtAddr(u64::MAX - 2 * F::PAGE_SIZE + 1), 2);
        assert_eq!(last.end(), VirtAddr(0));
        system.map(kernel, last, Attrs::KERNEL_DATA, FRAME).unwrap();
        for i in 0..2 {
            let frame = frame_of(system, kernel, last.start().offset_pages::<F>(i));
            assert_eq!(frame, Some(FRAME.offset(i as u64 * F::PAGE_SIZE)));
        }
        let section = system.paging.section(kernel);
        system.paging.protect(&section, kernel, last, WriteProtect).unwrap();
        drop(section);
        assert_eq!(system.unmap(kernel, last), Ok(2));
        let tables = system.tables(kernel).len();
        let mut unlinked = Vec::new();
        {
            let section = system.paging.section(kernel);
            // All that the root's last entry leads to, and what the PUD table's does.
            let [whole, part] = [39, 30].map(|bits| VirtAddr(u64::MAX << bits));
            let mut free = |ptp| unlinked.push(ptp);
            let paging = &system.paging;
            // SAFETY: nobody else works on these tables.
            let [stays, goes] = [whole, part].map(|floor| unsafe {
                paging.free_tables(&section, kernel, last, floor, VirtAddr(0), &mut free)
            });
            assert_eq!((stays, goes), (Err(Error::TablesStay(whole)), Ok(())));
        }
        assert_eq!(
            unlinked.len(),
            2,
            "PTE and PMD table; other roots have copies of the root's entry"
        );
        system.paging.flush_and_release(kpkeys_pgtable::Flush::Kernel(last), unlinked);
        assert_eq!(system.tables(kernel).len(), tables - 2);
    });
}

fn an_overlapping_mapping_is_refused_and_changes_no_translation<F: HostedFormat, S: Protection>() {
    in_every_mode::<F, S>(|system, user| {
        let taken = VirtAddr(USER.0 + (1 << 21) + 5 * F::PAGE_SIZE);
        let other = PhysAddr(FRAME.0 + (1 << 20));
        system.map(user, pages(taken, 1), Attrs::USER_DATA, other).unwrap();
        // The overlap is in the second table: the first has been filled by then, and must be emptied again.
        let range = pages(USER, 2 * BLOCK);
        let refused = system.map(user, range, Attrs::USER_DATA, FRAME);
        assert_eq!(refused, Err(Error::AlreadyMapped(taken)));
        for i in 0..range.pages() {
            let va = USER.offset_pages::<F>(i);
            let expected = (va == taken).then_some(other);
            assert_eq!(frame_of(system, user, va), expected, "{va:?}");
        }
        // Where the tables are there already, not one entry differs.
        let before = system.entries(user);
        let refused = system.map(user, range, Attrs::USER_DATA, FRAME);
        assert_eq!(refused, Err(Error::AlreadyMapped(taken)));
        assert_eq!(system.entries(user), before);
    });
}

fn a_mapping_over_a_block_is_refused<F: HostedFormat, S: Protection>() {
    in_every_mode::<F, S>(|system, user| {
        let block = pages(VirtAddr(USER.0 + (1 << 21)), BLOCK);
        map_contiguous(system, user, block, FRAME).unwrap();
        assert_eq!(system.place(user, block.start()).level, Level::Pmd, "it is a block");
        let before = system.entries(user);

        let inside = pages(block.start().offset_pages::<F>(3), 1);
        let refused = system.map(user, inside, Attrs::USER_DATA, FRAME);
        assert_eq!(refused, Err(Error::MappedByBlock(inside.start())));
        let again = map_contiguous(system, user, block, FRAME);
        assert_eq!(again, Err(Error::AlreadyMapped(block.start())));
        assert_eq!(system.entries(user), before);

        let across = pages(USER, 2 * BLOCK);
        let refused = system.map(user, across, Attrs::USER_DATA, FRAME);
        assert_eq!(refused, Err(Error::MappedByBlock(block.start())));
        assert_eq!(frame_of(system, user, USER), None, "the first table is empty again");
        assert_eq!(frame_of(system, user, block.start()), Some(FRAME));
    });
}

fn map_contiguous<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    root: &Root,
    range: PageRange<F>,
    frame: PhysAddr,
) -> Result<(), Error> {
    let section = system.paging.section(root);
    system.paging.map_contiguous(&section, root, range, Attrs::USER_DATA, frame)
}

fn contiguous_frames_get_the_largest_leaves_that_fit<F: HostedFormat, S: Protection>() {
    in_every_mode::<F, S>(|system, user| {
        // 20 pages to the block boundary, one block, 20 pages after it.
        let start = VirtAddr(USER.0 + (1 << 21) - 20 * F::PAGE_SIZE);
        let range = pages(start, 20 + BLOCK + 20);
        let frame = PhysAddr(FRAME.0 - 20 * F::PAGE_SIZE);
        map_contiguous(system, user, range, frame).unwrap();
        for i in 0..range.pages() {
            let va = start.offset_pages::<F>(i);
            assert_eq!(frame_of(system, user, va), Some(frame.offset(i as u64 * F::PAGE_SIZE)));
            let level = if (20..20 + BLOCK).contains(&i) { Level::Pmd } else { Level::Pte };
            assert_eq!(system.place(user, va).level, level, "page {i}");
        }
        // 4 single pages, then a run of 16: only where the format marks runs do the entries differ by more than the frame.
        let flags = |i| system.place(user, start.offset_pages::<F>(i)).entry.0 & !0xffff_ffff_f000;
        assert_eq!(flags(3) != flags(4), F::HAS_CONT);
        assert_eq!(flags(4), flags(19));
        assert_eq!(system.unmap(user, range), Ok(41), "40 pages and a block");
    });
}

fn a_physical_offset_that_misfits_blocks_is_mapped_by_pages<F: HostedFormat, S: Protection>() {
    in_every_mode::<F, S>(|system, user| {
        let frame = FRAME.offset(F::PAGE_SIZE);
        map_contiguous(system, user, pages(USER, BLOCK), frame).unwrap();
        assert_eq!(system.place(user, USER).level, Level::Pte);
        assert_eq!(
            frame_of(system, user, USER.offset_pages::<F>(511)),
            Some(frame.offset(511 << 12))
        );
        assert_eq!(system.unmap(user, pages(USER, BLOCK)), Ok(BLOCK));
    });
}

fn a_block_cut_by_unmap_or_protect_is_refused_and_nothing_changes<
    F: HostedFormat,
    S: Protection,
>() {
    in_every_mode::<F, S>(|system, user| {
        let range = pages(USER, 3 * BLOCK);
        map_contiguous(system, user, range, FRAME).unwrap();
        let before = system.entries(user);
        let cuts = [(0, 1), (0, BLOCK - 1), (1, 3 * BLOCK - 1), (0, 2 * BLOCK + 1), (BLOCK / 2, 1)];
        for (first, count) in cuts {
            let cut = pages(USER.offset_pages::<F>(first), count);
            let refused = system.unmap(user, cut);
            assert!(matches!(refused, Err(Error::MappedByBlock(_))), "{first} {count} {refused:?}");
            let section = system.paging.section(user);
            let refused = system.paging.protect(&section, user, cut, WriteProtect);
            assert!(matches!(refused, Err(Error::MappedByBlock(_))), "{first} {count} {refused:?}");
        }
        assert_eq!(system.entries(user), before);
        // Whole blocks go.
        let middle = pages(USER.offset_pages::<F>(BLOCK), BLOCK);
        assert_eq!(system.unmap(user, middle), Ok(1));
        assert_eq!(frame_of(system, user, middle.start()), None);
        assert!(
            frame_of(system, user, USER).is_some()
                && frame_of(system, user, middle.end()).is_some()
        );
    });
}

fn a_contiguous_run_cut_by_unmap_or_protect_is_refused_and_nothing_changes<
    F: HostedFormat,
    S: Protection,
>() {
    in_every_mode::<F, S>(|system, user| {
        map_contiguous(system, user, pages(USER, 3 * F::CONT_PAGES), FRAME).unwrap();
        let before = system.entries(user);
        for (first, count) in
            [(0, 1), (1, 2 * F::CONT_PAGES - 1), (F::CONT_PAGES, F::CONT_PAGES + 1)]
        {
            let cut = pages(USER.offset_pages::<F>(first), count);
            let section = system.paging.section(user);
            let protected = system.paging.protect(&section, user, cut, WriteProtect);
            drop(section);
            let cuts = |result: Result<_, Error>| matches!(result, Err(Error::MappedByBlock(_)));
            if F::HAS_CONT {
                assert!(
                    cuts(protected) && cuts(system.unmap(user, cut).map(drop)),
                    "{first} {count}"
                );
                assert_eq!(system.entries(user), before);
            } else {
                assert_eq!(protected, Ok(()));
            }
        }
        // Whole runs go.
        let middle = pages(USER.offset_pages::<F>(F::CONT_PAGES), F::CONT_PAGES);
        assert_eq!(system.unmap(user, middle), Ok(F::CONT_PAGES));
    });
}

fn unmapping_passes_each_entry_with_its_address_and_skips_holes<F: HostedFormat, S: Protection>() {
    in_every_mode::<F, S>(|system, user| {
        let odd = |i: usize| i % 2 == 1;
        for i in (0..BLOCK + 8).filter(|&i| odd(i)) {
            let frame = FRAME.offset(i as u64 * F::PAGE_SIZE);
            system.map(user, pages(USER.offset_pages::<F>(i), 1), Attrs::USER_DATA, frame).unwrap();
        }
        let mut was = Vec::new();
        {
            let section = system.paging.section(user);
            let range = pages(USER, 4 * BLOCK);
            system
                .paging
                .unmap(&section, user, range, |va, level, entry| {
                    was.push((va, level, F::frame(level, entry)));
                })
                .unwrap();
        }
        let expected: Vec<_> = (0..BLOCK + 8)
            .filter(|&i| odd(i))
            .map(|i| (USER.offset_pages::<F>(i), Level::Pte, FRAME.offset(i as u64 * F::PAGE_SIZE)))
            .collect();
        assert_eq!(was, expected);
        assert_eq!(system.unmap(user, pages(USER, 4 * BLOCK)), Ok(0), "nothing is left");
    });
}

fn protecting_changes_valid_entries_alone<F: HostedFormat, S: Protection>() {
    in_every_mode::<F, S>(|system, user| {
        system.map(user, pages(USER, 10), Attrs::USER_DATA, FRAME).unwrap();
        assert_eq!(system.unmap(user, pages(USER.offset_pages::<F>(4), 2)), Ok(2));
        let section = system.paging.section(user);
        let inner = pages(USER.offset_pages::<F>(2), 6);
        system.paging.protect(&section, user, inner, WriteProtect).unwrap();
        drop(section);
        let writable: Vec<Option<bool>> = (0..10)
            .map(|i| {
                translation(system, user, USER.offset_pages::<F>(i)).map(|(_, attrs)| attrs.write)
            })
            .collect();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(writable, [yes, yes, no, no, None, None, no, no, yes, yes]);
    });
}

fn frames_and_keys_that_do_not_exist_are_refused<F: HostedFormat, S: Protection>() {
    in_every_mode::<F, S>(|system, user| {
        // Links the table, so that later comparisons can be exact.
        system.map(user, pages(USER.offset_pages::<F>(20), 1), Attrs::USER_DATA, FRAME).unwrap();
        let before = system.entries(user);
        for bad in [PhysAddr(FRAME.0 + 1), PhysAddr(1 << 48), PhysAddr(u64::MAX)] {
            let section = system.paging.section(user);
            let frame = |i: usize| if i == 3 { bad } else { FRAME };
            let refused =
                system.paging.map(&section, user, pages(USER, 5), Attrs::USER_DATA, frame);
            assert!(matches!(refused, Err(Error::NotMappable(_))), "{bad:?} {refused:?}");
        }
        if let Some(key) = Pkey::new(F::KEYS) {
            let attrs = Attrs::USER_DATA.with_key(key);
            let refused = system.map(user, pages(USER, 1), attrs, FRAME);
            assert_eq!(refused, Err(Error::KeyOutOfRange(key)));
        }
        assert_eq!(system.entries(user), before);
    });
}

fn ranges_that_are_none_cannot_be_made<F: HostedFormat, S: Protection>() {
    let unaligned = VirtAddr(USER.0 + 8);
    assert_eq!(PageRange::<F>::new(unaligned, 1), Err(RangeError::Unaligned(unaligned)));
    assert_eq!(PageRange::<F>::new(USER, 0), Err(RangeError::Empty(USER)));
    let last = VirtAddr((1 << F::HALF_BITS) - F::PAGE_SIZE);
    assert_eq!(PageRange::<F>::new(last, 2), Err(RangeError::NotCanonical(last, 2)));
    assert_eq!(Error::from(RangeError::Empty(USER)), Error::Range(RangeError::Empty(USER)));
}

/// Shares every page, one by one or in runs, and writes down which.
struct Sharing<F> {
    format: PhantomData<F>,
    longest: usize,
    taken: Vec<Entry>,
    fail_at: usize,
}

impl<F: HostedFormat> Share for Sharing<F> {
    type Error = Error;

    fn share(&mut self, first: Entry, run: Slots<'_>) -> Result<NonZeroUsize, Error> {
        if self.taken.len() >= self.fail_at {
            return Err(Error::OutOfMemory);
        }
        let consecutive = |&i: &usize| run.slot(i).load() == F::behind(first, i);
        let pages = (0..run.len().min(self.longest)).take_while(consecutive).count();
        self.taken.extend((0..pages).map(|i| run.slot(i).load()));
        Ok(NonZeroUsize::new(pages).expect("the first is consecutive to itself"))
    }
}

fn copy<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    from: &Root,
    to: &Root,
    range: PageRange<F>,
    share: &mut Sharing<F>,
) -> Result<(), Error> {
    let section = system.paging.section(to);
    system.paging.copy(&section, from, to, range, share)
}

fn a_copy_shares_every_page_write_protected_on_both_sides<F: HostedFormat, S: Protection>() {
    for longest in [1, 16, usize::MAX] {
        in_every_mode::<F, S>(|system, parent| {
            let child = system.new_user_root();
            let range = pages(VirtAddr(USER.0 + (1 << 21) - 4 * F::PAGE_SIZE), 40);
            system.map(parent, range, Attrs::USER_DATA, FRAME).unwrap();
            assert_eq!(system.unmap(parent, pages(range.start().offset_pages::<F>(10), 3)), Ok(3));
            let mut share = Sharing {
                format: PhantomData::<F>,
                longest,
                taken: Vec::new(),
                fail_at: usize::MAX,
            };
            copy(system, parent, &child, range, &mut share).unwrap();
            assert_eq!(share.taken.len(), 37, "a reference for each page, and none for holes");
            for i in 0..40 {
                let va = range.start().offset_pages::<F>(i);
                let frame = (!(10..13).contains(&i)).then(|| FRAME.offset(i as u64 * F::PAGE_SIZE));
                let shared = frame.map(|frame| (frame, Attrs { write: false, ..Attrs::USER_DATA }));
                let old = frame
                    .map(|frame| (frame, Attrs { write: false, young: false, ..Attrs::USER_DATA }));
                assert_eq!(translation(system, parent, va), shared, "parent, page {i}");
                assert_eq!(translation(system, &child, va), old, "child, page {i}");
            }
            system.assert_clean(&[parent, &child]);
            system.end_user(child, range);
        });
    }
}

/// The attributes of a page among others: cache lines of one kind, then of all.
fn attrs_of_page(i: usize) -> Option<Attrs> {
    let kind = if i < 21 { 0 } else { i % 6 };
    match kind {
        0 => Some(Attrs::USER_DATA),
        1 => Some(Attrs { dirty: false, ..Attrs::USER_DATA }),
        2 => Some(Attrs { young: false, ..Attrs::USER_DATA }),
        3 => Some(Attrs { execute: true, ..Attrs::USER_DATA.read_only() }),
        4 => Some(Attrs { write: false, ..Attrs::USER_DATA }),
        _ => None,
    }
}

fn neighbours_of_all_kinds_are_copied_and_unmapped_each_as_it_is<F: HostedFormat, S: Protection>() {
    in_every_mode::<F, S>(|system, parent| {
        let child = system.new_user_root();
        let range = pages(USER.offset_pages::<F>(3), 93);
        let expected = |root: &Root, change: fn(Attrs) -> Attrs| {
            for i in 0..range.pages() {
                let frame = FRAME.offset(i as u64 * F::PAGE_SIZE);
                let expected = attrs_of_page(i).map(|attrs| (frame, change(attrs)));
                let va = range.start().offset_pages::<F>(i);
                assert_eq!(translation(system, root, va), expected, "page {i}");
            }
        };
        for i in 0..range.pages() {
            if let Some(attrs) = attrs_of_page(i) {
                let page = pages(range.start().offset_pages::<F>(i), 1);
                system.map(parent, page, attrs, FRAME.offset(i as u64 * F::PAGE_SIZE)).unwrap();
            }
        }
        expected(parent, |attrs| attrs);
        let mut share = Sharing {
            format: PhantomData::<F>,
            longest: usize::MAX,
            taken: Vec::new(),
            fail_at: usize::MAX,
        };
        copy(system, parent, &child, range, &mut share).unwrap();
        expected(parent, |attrs| Attrs { write: false, ..attrs });
        expected(&child, |attrs| Attrs { write: false, young: false, ..attrs });
        let mapped = (0..range.pages()).filter_map(attrs_of_page).count();
        for root in [parent, &child] {
            assert_eq!(system.unmap(root, range), Ok(mapped));
            assert_eq!(system.unmap(root, range), Ok(0));
        }
        system.end_user(child, range);
    });
}

fn a_copy_that_is_stopped_leaves_what_was_not_shared_alone<F: HostedFormat, S: Protection>() {
    in_every_mode::<F, S>(|system, parent| {
        let child = system.new_user_root();
        let range = pages(USER, 20);
        system.map(parent, range, Attrs::USER_DATA, FRAME).unwrap();
        let mut share =
            Sharing { format: PhantomData::<F>, longest: 4, taken: Vec::new(), fail_at: 8 };
        assert_eq!(copy(system, parent, &child, range, &mut share), Err(Error::OutOfMemory));
        for i in 0..20 {
            let va = USER.offset_pages::<F>(i);
            let shared = i < 8;
            let (_, attrs) = translation(system, parent, va).expect("the parent keeps its pages");
            assert_eq!(attrs.write, !shared, "page {i}");
            assert_eq!(frame_of(system, &child, va).is_some(), shared, "page {i}");
        }
        system.end_user(child, range);
    });
}

fn tables_are_freed_only_between_floor_and_ceiling<F: HostedFormat, S: Protection>() {
    in_every_mode::<F, S>(|system, user| {
        // Of the root alone, or with the kernel's half.
        let empty = system.tables(user).len();
        let tables = |count: usize| assert_eq!(system.tables(user).len(), empty + count);
        let range = pages(VirtAddr(USER.0 + (1 << 21)), BLOCK);
        let free = |floor: u64, ceiling: u64| {
            let mut unlinked = Vec::new();
            {
                let section = system.paging.section(user);
                let (floor, ceiling) = (VirtAddr(floor), VirtAddr(ceiling));

                // SAFETY: nobody else works on these tables.
                unsafe {
                    system.paging.free_tables(&section, user, range, floor, ceiling, |ptp| {
                        unlinked.push(ptp)
                    })
                }
                .unwrap();
            }
            let freed = unlinked.len();
            system
                .paging
                .flush_and_release(kpkeys_pgtable::Flush::User(user.frame(), range), unlinked);
            freed
        };
        system.map(user, range, Attrs::USER_DATA, FRAME).unwrap();
        assert_eq!(system.unmap(user, range), Ok(BLOCK));
        tables(3);
        let (first, end) = (range.start().0, range.end().0);
        // A neighbour that begins or ends inside the table keeps it.
        assert_eq!(free(first + F::PAGE_SIZE, end), 0);
        assert_eq!(free(first, end - F::PAGE_SIZE), 0);
        tables(3);
        // Neighbours right beside it keep the tables above.
        assert_eq!(free(first, end), 1);
        tables(2);
        assert_eq!(free(USER.0, USER.0 + (1 << 30)), 1);
        tables(1);
        assert_eq!(free(0, 1 << F::HALF_BITS), 1);
        tables(0);
        assert_eq!(free(0, 1 << F::HALF_BITS), 0, "nothing is left to free");
    });
}

fn an_ended_address_space_gives_every_page_back<F: HostedFormat, S: Protection>() {
    for config in configs() {
        let memory = if config.linear == Level::Pud { LARGE } else { SMALL };
        let system = System::<F, S>::boot(config, memory);
        let cycle = || {
            let user = system.new_user_root();
            let range = pages(VirtAddr(USER.0 + (1 << 30) - 8 * F::PAGE_SIZE), 600);
            system.map(&user, range, Attrs::USER_DATA, FRAME).unwrap();
            system.end_user(user, range);
        };
        cycle();
        let (frames, kernel) =
            (system.paging.frames().free_frames(), system.entries(system.paging.kernel()));
        for _ in 0..3 {
            cycle();
        }
        assert_eq!(system.paging.frames().free_frames(), frames, "{config:?}");
        assert_eq!(system.entries(system.paging.kernel()), kernel, "{config:?}: keys are reset");
        system.assert_clean(&[]);
    }
}

fn kernel_mappings_are_shared_by_all_roots<F: HostedFormat, S: Protection>() {
    in_every_mode::<F, S>(|system, earlier| {
        system.paging.link_kernel_half(pages(KERNEL, 1)).unwrap();
        let user = system.new_user_root();
        let data = system.data_block(0);
        system.map(system.paging.kernel(), pages(KERNEL, 1), Attrs::KERNEL_DATA, data).unwrap();
        // x86-64 has one root for both halves, arm64 one for each.
        let through_user = frame_of(system, &user, KERNEL);
        assert_eq!(through_user.is_some(), F::USER_ROOT_HAS_KERNEL_HALF);
        system.assert_clean(&[&user, earlier]);
        system.paging.release_user_root(user);
    });
}

for_both_formats_and_schemes!(
    ranges_that_are_none_cannot_be_made,
    a_mapping_across_tables_of_every_level_is_what_was_asked_for,
    the_last_page_of_the_kernel_half_can_be_mapped_and_freed,
    an_overlapping_mapping_is_refused_and_changes_no_translation,
    a_mapping_over_a_block_is_refused,
    contiguous_frames_get_the_largest_leaves_that_fit,
    a_physical_offset_that_misfits_blocks_is_mapped_by_pages,
    a_block_cut_by_unmap_or_protect_is_refused_and_nothing_changes,
    a_contiguous_run_cut_by_unmap_or_protect_is_refused_and_nothing_changes,
    unmapping_passes_each_entry_with_its_address_and_skips_holes,
    protecting_changes_valid_entries_alone,
    frames_and_keys_that_do_not_exist_are_refused,
    a_copy_shares_every_page_write_protected_on_both_sides,
    neighbours_of_all_kinds_are_copied_and_unmapped_each_as_it_is,
    a_copy_that_is_stopped_leaves_what_was_not_shared_alone,
    tables_are_freed_only_between_floor_and_ceiling,
    an_ended_address_space_gives_every_page_back,
    kernel_mappings_are_shared_by_all_roots,
);
