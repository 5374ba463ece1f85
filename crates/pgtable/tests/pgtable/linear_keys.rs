//! Keys on the linear map: made of pages, of 2 MiB blocks and of 1 GiB blocks, which are split where a range cuts them.

use std::collections::BTreeMap;

use crate::support::{LARGE, SMALL, System, USER, pages, protecting_configs};
use kpkeys::Pkey;
use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::machine::MEMORY_START;
use kpkeys_pgtable::{Attrs, Config, Entry, Error, Event, Level, Mode, PhysAddr};

const KEY: u8 = 2;

fn key() -> Pkey {
    Pkey::new(KEY).expect("both formats have key 2")
}

fn page<F: HostedFormat>(number: usize) -> PhysAddr {
    MEMORY_START.offset(number as u64 * F::PAGE_SIZE)
}

fn pooled(linear: Level) -> Config {
    Config { mode: Mode::Fused, linear, pool: true }
}

/// What the linear map says of every frame: level, frame it really maps, attributes.
fn linear_map<F: HostedFormat>(system: &System<F>, frames: usize) -> Vec<(PhysAddr, Attrs)> {
    (0..frames)
        .map(|number| {
            let va = system.linear(page::<F>(number));
            let (level, _, entry) =
                system.paging.walk(system.paging.kernel(), va).expect("all memory is mapped");
            let offset = va.0 & (level.entry_bytes::<F>() - 1);
            (F::frame(level, entry).offset(offset), F::attrs(entry))
        })
        .collect()
}

/// Changes a range's key, then holds every frame's translation and key against what they were.
fn change_only<F: HostedFormat>(system: &System<F>, memory: usize, first: usize, count: usize) {
    let mut expected = linear_map(system, memory);
    system.paging.set_memory_pkey(page::<F>(first), count, key()).unwrap();
    for (_, attrs) in &mut expected[first..first + count] {
        *attrs = attrs.with_key(key());
    }
    let found = linear_map(system, memory);
    // Tables that the change itself needed come from the pool, whose pages carry their key already.
    for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found, expected, "page {number} after {count} pages at {first}");
    }
}

fn a_range_in_a_map_of_pages_or_small_blocks_changes_alone<F: HostedFormat>() {
    for linear in [Level::Pte, Level::Pmd] {
        // Inside a block, at its start, at its end, across its end, more than one block, whole blocks.
        for (first, count) in
            [(3, 1), (0, 7), (505, 7), (510, 4), (1, 1023), (100, 1000), (512, 1024)]
        {
            let system = System::<F>::boot(pooled(linear), SMALL);
            change_only(&system, SMALL, first, count);
            system.assert_clean(&[]);
        }
    }
}

fn a_range_in_a_map_of_large_blocks_changes_alone<F: HostedFormat>() {
    let gib = 1 << 18;
    for (first, count) in [(5, 1), (512, 512), (gib - 3, 6), (100, 70_000)] {
        let system = System::<F>::boot(pooled(Level::Pud), LARGE);
        change_only(&system, LARGE, first, count);
        system.assert_clean(&[]);
    }
}

fn a_block_is_split_only_where_a_range_cuts_it<F: HostedFormat>() {
    let system = System::<F>::boot(pooled(Level::Pmd), SMALL);
    let level = |number| system.linear_place(page::<F>(number)).level;
    // From the middle of the first block to the middle of the third: the second stays a block.
    system.paging.set_memory_pkey(page::<F>(100), 1124, key()).unwrap();
    assert_eq!(
        [level(0), level(512), level(1024), level(1536)],
        [Level::Pte, Level::Pmd, Level::Pte, Level::Pmd]
    );
    assert_eq!(system.paging.memory_pkey(page::<F>(512)), Some(key()));

    let system = System::<F>::boot(pooled(Level::Pud), LARGE);
    let level = |number| system.linear_place(page::<F>(number)).level;
    system.paging.set_memory_pkey(page::<F>(100), 1000, key()).unwrap();
    let levels = [level(0), level(512), level(1024), level(1536)];
    assert_eq!(levels, [Level::Pte, Level::Pmd, Level::Pte, Level::Pmd]);
}

fn whole_blocks_change_with_one_store_and_one_flush<F: HostedFormat>() {
    for (linear, frames, pages) in [(Level::Pmd, SMALL, 512), (Level::Pud, LARGE, 1 << 18)] {
        let system = System::<F>::boot(pooled(linear), frames);
        // The pool took its block from the top, so the first block is data.
        assert_eq!(system.paging.memory_pkey(page::<F>(0)), Some(Pkey::DEFAULT));
        let (counts, result) =
            system.counted(|| system.paging.set_memory_pkey(page::<F>(0), pages, key()));
        assert_eq!(result, Ok(()));
        let of = [Event::LinearStore, Event::KeyChange, Event::TlbFlush].map(|e| counts.of(e));
        assert_eq!(of, [1, 1, 1], "{linear:?}");
    }
}

fn keys_can_be_set_and_reset_any_number_of_times<F: HostedFormat>() {
    let system = System::<F>::boot(pooled(Level::Pmd), SMALL);
    for round in 0..200 {
        let (first, count) = (round * 37 % 1500, 1 + round * 61 % 400);
        system.paging.set_memory_pkey(page::<F>(first), count, key()).unwrap();
        assert_eq!(system.paging.memory_pkey(page::<F>(first + count - 1)), Some(key()));
        system.paging.set_memory_pkey(page::<F>(first), count, Pkey::DEFAULT).unwrap();
    }
    assert!(linear_map(&system, 2048).iter().all(|(_, attrs)| *attrs == Attrs::KERNEL_DATA));
    system.assert_clean(&[]);
}

fn bad_requests_are_refused_and_change_no_entry<F: HostedFormat>() {
    for config in protecting_configs() {
        let frames = if config.linear == Level::Pud { LARGE } else { SMALL };
        let system = System::<F>::boot(config, frames);
        let before = system.entries(system.paging.kernel());
        let set = |pa, pages, key| system.paging.set_memory_pkey(pa, pages, key);
        let outside = |pa, pages| Err(Error::OutsideLinearMap(pa, pages));

        let unaligned = PhysAddr(MEMORY_START.0 + 8);
        assert_eq!(set(unaligned, 1, key()), outside(unaligned, 1));
        let below = PhysAddr(MEMORY_START.0 - F::PAGE_SIZE);
        assert_eq!(set(below, 2, key()), outside(below, 2));
        assert_eq!(set(page::<F>(frames), 1, key()), outside(page::<F>(frames), 1));
        assert_eq!(set(page::<F>(frames - 1), 2, key()), outside(page::<F>(frames - 1), 2));
        assert_eq!(set(page::<F>(1), usize::MAX, key()), outside(page::<F>(1), usize::MAX));
        assert_eq!(set(PhysAddr(!0xfff), 1, key()), outside(PhysAddr(!0xfff), 1));
        assert!(matches!(set(page::<F>(1), 0, key()), Err(Error::Range(_))));
        if let Some(lacking) = Pkey::new(F::KEYS) {
            assert_eq!(set(page::<F>(1), 1, lacking), Err(Error::KeyOutOfRange(lacking)));
        }
        assert_eq!(system.entries(system.paging.kernel()), before, "{config:?}");
        assert_eq!(system.paging.memory_pkey(page::<F>(frames)), None);
    }
}

/// Bad input is refused before anything is done for it: even a pool that has nothing to spare takes no block.
fn a_bad_request_takes_nothing_from_a_pool_without_spares<F: HostedFormat>() {
    let system = System::<F>::build_with(pooled(Level::Pmd), SMALL, |frames| {
        frames.set_largest_order(2);
    });
    let system = system.expect("builds from blocks of four pages");
    system.paging.enable_protection().expect("protects");
    let user = system.new_user_root();
    // Use up what is spare.
    let mut va = USER;
    while system.paging.frames().blocks().len() < 12 {
        let section = system.paging.section(&user);
        system.paging.table_for(&section, &user, va, Level::Pte).unwrap();
        va = va.offset(1 << 21);
        drop(section);
        let (before, blocks) =
            (system.entries(system.paging.kernel()), system.paging.frames().blocks().len());
        let outside = page::<F>(SMALL);
        let refused = system.paging.set_memory_pkey(outside, 1, key());
        assert_eq!(refused, Err(Error::OutsideLinearMap(outside, 1)));
        assert_eq!(system.paging.frames().blocks().len(), blocks);
        assert_eq!(system.entries(system.paging.kernel()), before);
    }
}

fn blocks_without_a_pool_are_refused<F: HostedFormat>() {
    for linear in [Level::Pmd, Level::Pud] {
        for mode in Mode::ALL.into_iter().filter(|mode| mode.protects()) {
            let config = Config { mode, linear, pool: false };
            let refused = System::<F>::build_with(config, SMALL, |_| ()).map(|_| ());
            assert_eq!(refused, Err(Error::NeedsPageMappedLinearMap), "{config:?}");
        }
    }
}

/// Tables made before protection is on are found and keyed, and so are those that the library did not make.
fn early_tables_are_keyed_when_protection_is_turned_on<F: HostedFormat>() {
    for config in protecting_configs() {
        let frames = if config.linear == Level::Pud { LARGE } else { SMALL };
        let system = System::<F>::build(config, frames);
        let early = system.new_user_root();
        let freed = system.new_user_root();
        system.map(&early, pages(USER, 3), Attrs::USER_DATA, page::<F>(0)).unwrap();
        system.paging.release_user_root(freed);
        let static_tables = system.data_block(2);
        system.paging.record_early_ptps(static_tables, 4).unwrap();
        let outside = page::<F>(frames);
        let refused = system.paging.record_early_ptps(outside, 1);
        assert_eq!(refused, Err(Error::OutsideLinearMap(outside, 1)));

        assert!(!system.paging.is_protected());
        for (_, table) in system.tables(system.paging.kernel()) {
            assert_eq!(system.paging.memory_pkey(table), Some(Pkey::DEFAULT), "{config:?}");
        }
        system.paging.enable_protection().unwrap();
        assert!(system.paging.is_protected());
        let tables = system.tables(system.paging.kernel());
        for (level, table) in tables.into_iter().chain(system.tables(&early)) {
            let found = system.paging.memory_pkey(table);
            assert_eq!(found, Some(Pkey::PAGE_TABLES), "{config:?}: {level:?} at {table:?}");
        }
        for i in 0..4 {
            let table = static_tables.offset(i * F::PAGE_SIZE);
            assert_eq!(system.paging.memory_pkey(table), Some(Pkey::PAGE_TABLES), "{config:?}");
        }
        // The checker knows the recorded pages, though nothing links them.
        assert_eq!(system.findings(&[&early]), [], "{config:?}");
    }
}

fn mode_off_sets_no_key<F: HostedFormat>() {
    for linear in [Level::Pte, Level::Pmd] {
        for pool in [false, true] {
            let system = System::<F>::boot(Config { mode: Mode::Off, linear, pool }, SMALL);
            let user = system.new_user_root();
            system.map(&user, pages(USER, 3), Attrs::USER_DATA, page::<F>(0)).unwrap();
            assert!(linear_map(&system, SMALL).iter().all(|(_, attrs)| attrs.key == Pkey::DEFAULT));
            assert_eq!(system.count_of(Event::KeyChange), 0);
            assert_eq!(system.count_of(Event::Switch), 0);
        }
    }
}

/// What single-page allocation costs, as in the series: one store and one flush to set the key, the same to reset it.
fn a_page_allocated_singly_costs_a_key_change_each_way<F: HostedFormat>() {
    let system = System::<F>::boot(Config::of(Mode::Batched), SMALL);
    let keys = |system: &System<F>| -> BTreeMap<PhysAddr, Entry> {
        (0..SMALL).map(|i| (page::<F>(i), system.linear_place(page::<F>(i)).entry)).collect()
    };
    let before = keys(&system);
    let events = [
        Event::PtpAllocated,
        Event::PtpFreed,
        Event::KeyChange,
        Event::TlbFlush,
        Event::LinearStore,
    ];
    let (counts, user) = system.counted(|| system.new_user_root());
    assert_eq!(events.map(|event| counts.of(event)), [1, 0, 1, 1, 1]);
    assert_eq!(system.paging.memory_pkey(user.frame()), Some(Pkey::PAGE_TABLES));
    let (counts, ()) = system.counted(|| system.paging.release_user_root(user));
    assert_eq!(
        events.map(|event| counts.of(event)),
        [0, 1, 1, 2, 1],
        "one flush is the address space's"
    );
    assert_eq!(keys(&system), before);
}

for_both_formats!(
    a_range_in_a_map_of_pages_or_small_blocks_changes_alone,
    a_range_in_a_map_of_large_blocks_changes_alone,
    a_block_is_split_only_where_a_range_cuts_it,
    whole_blocks_change_with_one_store_and_one_flush,
    keys_can_be_set_and_reset_any_number_of_times,
    bad_requests_are_refused_and_change_no_entry,
    a_bad_request_takes_nothing_from_a_pool_without_spares,
    blocks_without_a_pool_are_refused,
    early_tables_are_keyed_when_protection_is_turned_on,
    mode_off_sets_no_key,
    a_page_allocated_singly_costs_a_key_change_each_way,
);
