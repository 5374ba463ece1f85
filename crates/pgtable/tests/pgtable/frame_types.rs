//! The types of frames: what an attacker makes the page-table code believe is held against them, and refused.
//!
//! Each attack is shown to work where nothing is checked.

use crate::support::{KERNEL, Keys, Protection, SMALL, System, USER, by, configs, pages};
use kpkeys::Pkey;
use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::guarded::{FrameType, Kind, Use};
use kpkeys_pgtable::range::WriteProtect;
use kpkeys_pgtable::table::{Slot, Slots};
use kpkeys_pgtable::{
    Attrs, Config, Entry, Error, Flush, Level, Machine, Mode, PageRange, PhysAddr, Root, Section,
    VirtAddr,
};

/// Configurations that check.
fn checking() -> impl Iterator<Item = Config> {
    configs().filter(|config| config.mode.checks() && config.linear != Level::Pud)
}

/// The same without checks.
fn lean(config: Config) -> Config {
    Config { mode: Mode::FusedLean, ..config }
}

/// A system with a user and a kernel mapping.
fn populated<F: HostedFormat, S: Protection>(config: Config) -> (System<F, S>, Root, PhysAddr) {
    let system = System::<F, S>::boot(config, SMALL);
    let data = system.data_block(2);
    system.map(system.paging.kernel(), pages(KERNEL, 1), Attrs::KERNEL_DATA, data).unwrap();
    let user = system.new_user_root();
    system.map(&user, pages(USER, 1), Attrs::USER_DATA, data).unwrap();
    (system, user, data)
}

/// Every frame that is not data, with what it is.
fn typed<F: HostedFormat, S: Protection>(system: &System<F, S>) -> Vec<(PhysAddr, FrameType)> {
    let types = system.paging.types().expect("a mode that checks");
    let memory = system.machine().memory();
    (0..memory.pages)
        .map(|number| (memory.frame(number), types.of(memory.frame(number))))
        .filter(|(_, is)| !is.is_data())
        .collect()
}

fn every_table_has_the_type_of_its_level_and_kind<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let (system, user, _) = populated::<F, S>(config);
        let types = system.paging.types().expect("a mode that checks");
        for (level, table) in system.tables(&user).into_iter().filter(|&(_, table)| {
            !system.tables(system.paging.kernel()).iter().any(|&(_, kernel)| kernel == table)
        }) {
            assert_eq!(types.of(table), FrameType::Table { level, kind: Kind::User, linked: true });
        }
        for (level, table) in system.tables(system.paging.kernel()) {
            let FrameType::Table { level: says, kind, linked } = types.of(table) else {
                panic!("{table:?} is {}", types.of(table));
            };
            assert_eq!((says, linked), (level, true));
            assert_ne!(kind, Kind::User);
        }
        assert!(types.is_root(user.frame(), Kind::User));
        assert!(!types.is_root(user.frame(), Kind::Kernel));
        assert!(!types.is_root(user.frame().offset(8), Kind::User), "no such alignment");
        assert!(!types.is_root(system.paging.kernel().frame(), Kind::User));
        system.assert_clean(&[&user]);
        let root = user.frame();
        system.end_user(user, pages(USER, 1));
        assert!(!types.is_root(root, Kind::User), "it may not be loaded any more");
        system.assert_clean(&[]);
    }
}

/// A frame number that was data once, in a file's pages or a list of a program's: now it is a table's.
fn what_is_no_data_is_mapped_nowhere<F: HostedFormat, S: Protection>() {
    let uses = [(USER, Attrs::USER_DATA), (KERNEL, Attrs::KERNEL_DATA)];
    for config in checking() {
        let (system, user, _) = populated::<F, S>(config);
        // One of each type.
        let mut each = typed(&system);
        each.sort_by_key(|(_, is)| format!("{is}"));
        each.dedup_by_key(|(_, is)| *is);
        for (frame, is) in each {
            for (start, attrs) in uses {
                let root = if attrs.user { &user } else { system.paging.kernel() };
                let range = pages(start.offset(F::PAGE_SIZE), 1);
                let before = system.entries(root);
                let Err(Error::Violation(violation)) = system.map(root, range, attrs, frame) else {
                    panic!("{frame:?}, {is}, was mapped");
                };
                assert_eq!((violation.frame, violation.is), (frame, is));
                let (user, memory) = (attrs.user, attrs.memory);
                let wanted = Use::Leaf { user, write: true, execute: false, memory };
                assert_eq!(violation.wanted, wanted);
                assert!(violation.entry.is_some());
                assert!(violation.by.file().ends_with("support/mod.rs"), "{violation}");
                assert_eq!(system.entries(root), before, "nothing was stored");
            }
        }
        // What is checked nowhere is mapped.
        let (system, user, _) = populated::<F, S>(lean(config));
        let table = user.frame();
        system.map(&user, pages(USER.offset(F::PAGE_SIZE), 1), Attrs::USER_DATA, table).unwrap();
    }
}

fn nothing_is_writable_and_executable<F: HostedFormat, S: Protection>() {
    let both = Attrs { execute: true, ..Attrs::KERNEL_DATA };
    for config in checking() {
        let (system, _, data) = populated::<F, S>(config);
        let (kernel, range) = (system.paging.kernel(), pages(KERNEL.offset(F::PAGE_SIZE), 1));
        for attrs in [both, both.read_only()] {
            let refused = system.map(kernel, range, attrs, data);
            assert!(matches!(refused, Err(Error::Violation(_))), "data: {refused:?}");
        }
        // By a change of what is mapped, too.
        let section = system.paging.section(kernel);
        let to_both = |_| F::leaf(Level::Pte, data, both).expect("mappable");
        let refused = system.paging.protect(&section, kernel, pages(KERNEL, 1), by(to_both));
        assert!(matches!(refused, Err(Error::Violation(_))), "{refused:?}");
    }
}

/// A link of the frame allocator's free list leads to a table that is in use.
fn a_table_in_use_is_not_handed_out_again<F: HostedFormat, S: Protection>() {
    for config in checking().filter(|config| !config.pool) {
        let forge = |config| {
            let (system, user, _) = populated::<F, S>(config);
            let table = system.place(&user, USER).table;
            system.paging.frames().forge(table);
            let section = system.paging.section(system.paging.kernel());
            let root = system.paging.new_user_root(&section).map(|root| root.frame());
            drop(section);
            let left = system.place(&user, USER).entry;
            (system, user, table, root, left)
        };
        let (_, _, table, root, left) = forge(lean(config));
        assert_eq!(root, Ok(table), "a root, and still a table of PTEs");
        assert!(left.is_empty(), "which lost its entries");
        let (system, user, table, root, left) = forge(config);
        let Err(Error::Violation(violation)) = root else { panic!("{root:?}") };
        let is = FrameType::Table { level: Level::Pte, kind: Kind::User, linked: true };
        assert_eq!((violation.frame, violation.is), (table, is));
        assert!(!left.is_empty());
        system.assert_clean(&[&user]);
    }
}

/// The same by the block, where there is a pool.
fn a_block_with_a_table_in_use_is_not_the_pools<F: HostedFormat, S: Protection>() {
    for config in checking().filter(|config| config.pool) {
        let (system, user, _) = populated::<F, S>(config);
        let before = typed(&system);
        let block =
            PhysAddr(system.paging.kernel().frame().0 & !(Level::Pmd.entry_bytes::<F>() - 1));
        system.paging.frames().forge(block);
        let section = system.paging.section(system.paging.kernel());
        let mut roots = Vec::new();
        let refused = loop {
            match system.paging.new_user_root(&section) {
                Ok(root) => roots.push(root),
                Err(error) => break error,
            }
        };
        drop(section);
        assert!(matches!(refused, Error::Violation(_)), "{refused:?}");
        roots.into_iter().for_each(|root| system.paging.release_user_root(root));
        let spare = |typed: &[(PhysAddr, FrameType)]| typed.len();
        assert_eq!(spare(&typed(&system)), spare(&before), "nothing of it was taken");
        system.assert_clean(&[&user]);
    }
}

/// One write: a CPU is said to have a spare page more than it has.
fn a_spare_page_that_is_in_use_is_refused<F: HostedFormat, S: Protection>() {
    for config in checking().filter(|config| config.pool) {
        let again = |config| {
            let (system, _user, _) = populated::<F, S>(config);
            let in_use = system.new_user_root();
            let mark = Entry(0xabc000);
            system.plant(in_use.frame(), 7, mark);
            let (count, at) = system.paging.spares_of_this_cpu().expect("there is a pool");
            let at = std::ptr::with_exposed_provenance_mut::<usize>(at.0 as usize);
            // SAFETY: the word is a count in memory that lives as long as the machine, which this thread alone uses.
            unsafe { at.write_volatile(count + 1) };
            let section = system.paging.section(system.paging.kernel());
            let again = system.paging.new_user_root(&section).map(|root| root.frame());
            (in_use.frame(), again, system.read(in_use.frame(), 7) == mark)
        };
        let (in_use, twice, is_kept) = again(lean(config));
        assert_eq!((twice, is_kept), (Ok(in_use), false));
        let (in_use, twice, is_kept) = again(config);
        let Err(Error::Violation(violation)) = twice else { panic!("{twice:?}") };
        assert_eq!(violation.frame, in_use);
        assert!(is_kept, "it is refused before it is emptied");
    }
}

fn tables_of_the_linear_map_and_tables_in_use_are_not_freed<F: HostedFormat, S: Protection>() {
    for config in configs().filter(|config| config.linear != Level::Pud) {
        let (system, user, _) = populated::<F, S>(config);
        let free = |root: &Root, start: VirtAddr, floor, ceiling| {
            let section = system.paging.section(root);
            let mut unlinked = Vec::new();
            let range = pages(start, 1);
            let free = |ptp| unlinked.push(ptp);
            let paging = &system.paging;
            // SAFETY: nobody else works on these tables.
            let result = unsafe { paging.free_tables(&section, root, range, floor, ceiling, free) };
            (result, unlinked)
        };
        let linear = system.machine().memory().linear;
        let kernel = system.paging.kernel();
        let before = system.entries(kernel);
        let (refused, unlinked) = free(kernel, linear, VirtAddr(1 << 63), VirtAddr(0));
        assert!(matches!(refused, Err(Error::OwnMap(_))), "{config:?}: {refused:?}");
        assert!(unlinked.is_empty());
        assert_eq!(system.entries(kernel), before);
        if config.mode.checks() {
            let (refused, unlinked) = free(&user, USER, VirtAddr(0), VirtAddr(1 << F::HALF_BITS));
            assert!(matches!(refused, Err(Error::TableInUse(_))), "{config:?}: {refused:?}");
            assert!(unlinked.is_empty());
            assert!(!system.place(&user, USER).entry.is_empty());
        }
    }
}

fn a_live_root_keeps_its_protection<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let (system, user, data) = populated::<F, S>(config);
        for frame in [user.frame(), system.paging.kernel().frame()] {
            let refused = system.paging.set_memory_pkey(frame, 1, Pkey::DEFAULT);
            assert_eq!(refused, Err(Error::Protected(frame)));
            assert!(system.protects(frame));
        }
        system.paging.set_memory_pkey(data, 1, Pkey::DEFAULT).unwrap();
    }
}

fn a_root_maps_into_its_own_half_alone<F: HostedFormat, S: Protection>() {
    for config in configs().filter(|config| config.linear != Level::Pud) {
        let (system, user, data) = populated::<F, S>(config);
        let kernel = system.paging.kernel();
        let before = system.entries(kernel);
        for (root, start) in [(&user, KERNEL), (kernel, USER)] {
            let range = pages(start.offset(F::PAGE_SIZE), 1);
            let refused = system.map(root, range, Attrs::KERNEL_DATA, data);
            assert_eq!(refused, Err(Error::WrongHalf(range.start())), "{config:?}");
        }
        assert_eq!(system.entries(kernel), before);
    }
}

/// A range in ordinary memory, of which an attacker has written where it starts.
fn forged<F: HostedFormat>(start: u64) -> PageRange<F> {
    // SAFETY: an address and a number of pages, two words.
    let mut words = unsafe { core::mem::transmute_copy::<PageRange<F>, [u64; 2]>(&pages(USER, 1)) };
    let place = words.iter().position(|word| *word == USER.0);
    words[place.expect("one of them is where it starts")] = start;
    // SAFETY: as an attacker changes it. What it is used for must be sound all the same.
    unsafe { core::mem::transmute_copy::<[u64; 2], PageRange<F>>(&words) }
}

/// What of the kernel's tables is not as it was after a program's range, forged to start there, was mapped, unmapped and protected.
fn changed_by_forged_range<F: HostedFormat, S: Protection>(config: Config, start: u64) -> usize {
    let (system, user, data) = populated::<F, S>(config);
    let kernel = system.paging.kernel();
    let (before, of_root) = (system.entries(kernel), root_entries(&system, &user));
    let range = forged(start);
    let mapped = system.map(&user, range, Attrs::USER_DATA, data);
    assert!(mapped.is_err(), "{config:?} {start:#x}");
    let section = system.paging.section(&user);
    let _ = system.paging.unmap(&section, &user, range, |_, _, _| ());
    let _ = system.paging.protect(&section, &user, range, WriteProtect);
    drop(section);
    assert_eq!(root_entries(&system, &user), of_root, "{config:?} {start:#x}");
    let after = system.entries(kernel);
    before.iter().filter(|(place, entry)| after.get(place) != Some(entry)).count()
}

/// A program's range that was made one of the other half, or of neither: whatever is done with it, the kernel's entries stay as they are, and the root has none of
/// its own there.
fn a_forged_range_reaches_nothing_of_the_other_half<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let linear = System::<F, S>::boot(config, SMALL).machine().memory().linear.0;
        let of_neither = [KERNEL.0, linear].map(|start| start & !(0xffff << 48) | 0xd << 56);
        for start in [KERNEL.0, linear].into_iter().chain(of_neither) {
            let changed = changed_by_forged_range::<F, S>(config, start);
            assert_eq!(changed, 0, "{config:?} {start:#x}");
        }
    }
}

/// What sections of a program's root do with a slot of the kernel's: nothing.
fn a_section_changes_nothing_of_another_space<F: HostedFormat, S: Protection>() {
    type Change<M> = fn(&Section<'_, M>, Slot<'_>, Slots<'_>);
    let changes: [Change<_>; 6] = [
        |section, slot, _| _ = unsafe { section.get_and_clear(slot) },
        |section, slot, _| _ = unsafe { section.test_and_clear_young(slot) },
        |section, _, slots| unsafe { section.get_and_clear_range(slots, |_, _| ()) },
        |section, _, slots| unsafe { section.get_and_clear_valid(slots, |_, _| ()) },
        |section, _, slots| unsafe { section.wrprotect_range(slots) },
        |section, _, slots| unsafe { section.modify_valid(slots, F::write_protected) },
    ];
    for config in checking() {
        for change in changes {
            let changes = |config| {
                let (system, user, _) = populated::<F, S>(config);
                let (paging, kernel) = (&system.paging, system.paging.kernel());
                let table = paging.find_table(kernel, KERNEL, Level::Pte).expect("linked");
                let index = KERNEL.index::<F>(Level::Pte);
                let (slot, before) = (table.slot(index), table.slot(index).load());
                change(&paging.section(&user), slot, table.slots(index, 1));
                slot.load() != before
            };
            assert!(changes(lean(config)), "{config:?}");
            assert!(!changes(config), "{config:?}");
        }
    }
}

fn root_entries<F: HostedFormat, S: Protection>(system: &System<F, S>, root: &Root) -> Vec<Entry> {
    (0..F::ENTRIES).map(|index| system.read(root.frame(), index)).collect()
}

/// What is believed is as far from a stray store as a table is.
fn types_can_be_read_and_not_written<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let (system, user, _) = populated::<F, S>(config);
        let guarded: Vec<_> =
            typed(&system).into_iter().filter(|(_, is)| *is == FrameType::Guarded).collect();
        assert!(guarded.len() > 1, "a directory, and words");
        for (frame, _) in guarded {
            let same = system.read(frame, 0);
            let stored = system.mmu(Some(&user)).store(system.linear(frame), same.0);
            assert_eq!(stored, Err(system.fault(frame)), "{config:?}");
        }
    }
}

fn the_checker_says_what_is_no_table_by_its_type<F: HostedFormat, S: Protection>() {
    use kpkeys_pgtable::check::Finding;
    for config in checking() {
        let (system, user, _) = populated::<F, S>(config);
        let table = system.place(&user, USER).table;
        let types = system.paging.types().expect("a mode that checks");
        let says = types.of(table);
        // Past the page-table code: the entry that links it is gone, and with it what was found.
        let above = system.paging.find_table(&user, USER, Level::Pmd).expect("linked");
        let index = USER.index::<F>(Level::Pmd);
        let place = system.tables(&user).into_iter().find(|&(level, frame)| {
            level == Level::Pmd && system.read(frame, index) == above.slot(index).load()
        });
        let (_, above) = place.expect("a table links it");
        let entry = system.read(above, index);
        let spare = system.new_user_root();
        let other = F::table(spare.frame(), true);
        system.plant(above, index, other);
        let findings = system.findings(&[&user]);
        let frame = spare.frame();
        let is = Some(FrameType::Table { level: Level::Pte, kind: Kind::User, linked: true });
        let expected = Finding::WrongType { frame, says: types.of(frame), is };
        assert!(findings.contains(&expected), "{findings:?}");
        system.plant(above, index, entry);
        assert_eq!(types.of(table), says);
        system.paging.release_user_root(spare);
        system.assert_clean(&[&user]);
    }
}

fn a_table_goes_back_once_flushed_and_is_a_table_again<F: HostedFormat, S: Protection>() {
    for config in checking() {
        let (system, user, _) = populated::<F, S>(config);
        let types = system.paging.types().expect("a mode that checks");
        let table = system.place(&user, USER).table;
        system.unmap(&user, pages(USER, 1)).unwrap();
        let mut unlinked = Vec::new();
        {
            let section = system.paging.section(&user);
            let end = VirtAddr(1 << F::HALF_BITS);
            let free = |ptp| unlinked.push(ptp);
            let range = pages(USER, 1);

            // SAFETY: nobody else works on these tables.
            unsafe { system.paging.free_tables(&section, &user, range, VirtAddr(0), end, free) }
                .unwrap();
        }
        let spare = match system.paging.separates_user_tables() {
            true => FrameType::SpareUser,
            false => FrameType::Spare,
        };
        assert_eq!(types.of(table), spare);
        assert!(system.protects(table));
        system.paging.flush_and_release(Flush::User(user.frame(), pages(USER, 1)), unlinked);
        let expected = if config.pool { spare } else { FrameType::Data };
        assert_eq!(types.of(table), expected);
        system.assert_clean(&[&user]);
    }
}

#[test]
fn without_checks_there_are_no_types() {
    for config in configs().filter(|config| !config.mode.checks()) {
        let system = System::<kpkeys_pgtable::entry::X86_64, Keys>::build(
            Config { linear: Level::Pte, ..config },
            SMALL,
        );
        assert!(system.paging.types().is_none(), "{config:?}");
    }
}

for_both_formats_and_schemes!(
    every_table_has_the_type_of_its_level_and_kind,
    what_is_no_data_is_mapped_nowhere,
    nothing_is_writable_and_executable,
    a_table_in_use_is_not_handed_out_again,
    a_block_with_a_table_in_use_is_not_the_pools,
    a_spare_page_that_is_in_use_is_refused,
    tables_of_the_linear_map_and_tables_in_use_are_not_freed,
    a_live_root_keeps_its_protection,
    a_root_maps_into_its_own_half_alone,
    a_forged_range_reaches_nothing_of_the_other_half,
    a_section_changes_nothing_of_another_space,
    types_can_be_read_and_not_written,
    the_checker_says_what_is_no_table_by_its_type,
    a_table_goes_back_once_flushed_and_is_a_table_again,
);
