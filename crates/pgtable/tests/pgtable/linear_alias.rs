//! Protection by an alias: what happens to the two mappings of a page when it becomes a table and when it is data again, what that
//! costs, and what is refused.

use std::collections::BTreeMap;

use crate::support::{Aliased, LARGE, SMALL, USER, configs, pages, protecting_configs};
use kpkeys::Pkey;
use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::machine::{ALIAS_START, MEMORY_START};
use kpkeys_pgtable::{
    Attrs, Config, Entry, Error, Event, Flush, Level, Machine, Mode, PhysAddr, VirtAddr,
};

type System<F> = crate::support::System<F, Aliased>;

const EVENTS: [Event; 8] = [
    Event::PtpAllocated,
    Event::PtpFreed,
    Event::KeyChange,
    Event::TlbFlush,
    Event::LinearStore,
    Event::WindowOpened,
    Event::Switch,
    Event::Barrier,
];

fn page<F: HostedFormat>(number: usize) -> PhysAddr {
    MEMORY_START.offset(number as u64 * F::PAGE_SIZE)
}

fn memory_of(config: Config) -> usize {
    if config.linear == Level::Pud { LARGE } else { SMALL }
}

/// Both mappings of every frame: its leaf in the linear map and, if it has one, that of its alias.
fn mappings<F: HostedFormat>(system: &System<F>, frames: usize) -> BTreeMap<PhysAddr, [Entry; 2]> {
    let leaf = |va| {
        let found = system.paging.walk(system.paging.kernel(), va);
        found.map_or(Entry::EMPTY, |(_, _, entry)| entry)
    };
    let both = |frame| [leaf(system.linear(frame)), leaf(system.paging.alias_of(frame).unwrap())];
    (0..frames).map(page::<F>).map(|frame| (frame, both(frame))).collect()
}

fn a_table_is_read_only_and_has_an_alias_as_long_as_it_is_one<F: HostedFormat>() {
    for mode in [Mode::Unbatched, Mode::Batched] {
        let system = System::<F>::boot(Config::of(mode), SMALL);
        let before = mappings(&system, SMALL);
        let user = system.new_user_root();
        let [linear, alias] = mappings(&system, SMALL)[&user.frame()];
        assert_eq!(F::attrs(linear), Attrs { write: false, ..Attrs::KERNEL_DATA });
        assert_eq!(alias, F::alias(Level::Pte, user.frame()).unwrap());
        let expected = ALIAS_START.offset(user.frame().0 - MEMORY_START.0);
        assert_eq!(system.paging.alias_of(user.frame()), Some(expected));
        system.paging.release_user_root(user);
        assert_eq!(mappings(&system, SMALL), before, "{mode:?}: both as they were");
    }
}

/// By key, protecting and taking it back are a store and a flush each (see `linear_keys`). Here the alias is one more store each
/// time, and has to be flushed where it goes.
fn a_page_allocated_singly_costs_two_changes_of_two_stores<F: HostedFormat>() {
    for (mode, windows) in [(Mode::Unbatched, 2), (Mode::Batched, 1)] {
        let system = System::<F>::boot(Config::of(mode), SMALL);
        // A root on x86-64 is given the linear map's entry, which has a window of its own, and not the alias's.
        let copied = u64::from(F::USER_ROOT_HAS_KERNEL_HALF);
        let (counts, user) = system.counted(|| system.new_user_root());
        // And it is zeroed in one.
        let opened = windows + 1 + copied;
        let of = EVENTS.map(|event| counts.of(event));
        assert_eq!(of, [1, 0, 1, 1, 2, opened, 2 * opened, 0], "{mode:?}");
        let (counts, ()) = system.counted(|| system.paging.release_user_root(user));
        let of = EVENTS.map(|event| counts.of(event));
        assert_eq!(
            of,
            [0, 1, 1, 3, 2, windows, 2 * windows, 0],
            "{mode:?}: one flush is the space's"
        );
    }
}

fn a_block_of_the_pool_costs_one_change_of_two_stores<F: HostedFormat>() {
    let system = System::<F>::boot(Config::of(Mode::Fused), SMALL);
    let blocks = |system: &System<F>| system.paging.frames().blocks().len();
    let user = system.new_user_root();
    let (mut linked, first) = (0, blocks(&system));
    let mut link = || {
        linked += 1;
        let section = system.paging.section(&user);
        let va = VirtAddr(USER.0 + (linked << 21));
        system.paging.table_for(&section, &user, va, Level::Pte).map(|_| ())
    };
    while blocks(&system) == first {
        let (counts, result) = system.counted(&mut link);
        assert_eq!(result, Ok(()));
        if blocks(&system) == first {
            assert_eq!([Event::KeyChange, Event::TlbFlush].map(|e| counts.of(e)), [0, 0]);
            continue;
        }
        // The pool's own flush of old mappings, and one for the linear map.
        let events = [Event::KeyChange, Event::TlbFlush, Event::LinearStore];
        assert_eq!(events.map(|event| counts.of(event)), [1, 2, 2]);
    }
    let block = system.paging.frames().blocks()[first].0;
    let alias = system.place(system.paging.kernel(), system.paging.alias_of(block).unwrap());
    assert_eq!(alias.level, Level::Pmd, "a block has a block for its alias");
    assert_eq!(Some(alias.entry), F::alias(Level::Pmd, block));
    assert_eq!(system.linear_place(block).level, Level::Pmd, "and its linear mapping stays one");

    system.end_user(user, pages(USER, (linked as usize + 1) * 512));
    let (counts, returned) = system.counted(|| system.paging.shrink());
    assert_eq!(returned, 512);
    let events = [Event::KeyChange, Event::TlbFlush, Event::LinearStore];
    assert_eq!(events.map(|event| counts.of(event)), [1, 2, 2], "both addresses are flushed");
    system.assert_clean(&[]);
}

/// Small blocks of the pool share the table of their 2 MiB, which stays; large ones that come later need none.
fn small_blocks_share_a_table_of_the_alias_and_large_ones_need_none<F: HostedFormat>() {
    for linear in [Level::Pte, Level::Pmd, Level::Pud] {
        let config = Config { mode: Mode::Fused, linear, pool: true };
        let memory = memory_of(config);
        let system = System::<F>::build_with(config, memory, |f| f.set_largest_order(2)).unwrap();
        system.enable_protection().unwrap();
        let user = system.new_user_root();
        let range = pages(USER, 900 * 512);
        link(&system, &user, 900);
        system.assert_clean(&[&user]);
        system.end_user(user, range);
        assert!(system.paging.shrink() > 0);
        system.assert_clean(&[]);
        system.paging.frames().set_largest_order(9);
        let user = system.new_user_root();
        link(&system, &user, 1200);
        system.assert_clean(&[&user]);
        system.end_user(user, pages(USER, 1200 * 512));
        system.paging.shrink();
        system.assert_clean(&[]);
    }
}

fn link<F: HostedFormat>(system: &System<F>, user: &kpkeys_pgtable::Root, tables: u64) {
    let section = system.paging.section(user);
    for table in 0..tables {
        let va = VirtAddr(USER.0 + (table << 21));
        system.paging.table_for(&section, user, va, Level::Pte).expect("there is memory");
    }
}

/// The memory that the alias costs: a table for each 2 MiB of memory without a pool, one for each GiB with it, and one or two above.
fn the_alias_costs_the_tables_it_says<F: HostedFormat>() {
    for config in protecting_configs() {
        let memory = memory_of(config);
        let with = System::<F>::build(config, memory);
        let without = crate::support::System::<F>::build(config, memory);
        let tables = |kernel: Vec<(Level, PhysAddr)>| kernel.len();
        let more = tables(with.tables(with.paging.kernel()))
            - tables(without.tables(without.paging.kernel()));
        let expected = 1 + memory.div_ceil(1 << 18) + if config.pool { 0 } else { memory / 512 };
        assert_eq!(more, expected, "{config:?}");
    }
}

/// Everything made before protection is on is writable in the linear map and has no alias; then it is the other way round.
fn early_tables_change_over_when_protection_is_turned_on<F: HostedFormat>() {
    for config in protecting_configs() {
        let system = System::<F>::build(config, memory_of(config));
        let early = system.new_user_root();
        let freed = system.new_user_root();
        system.map(&early, pages(USER, 3), Attrs::USER_DATA, page::<F>(0)).unwrap();
        system.paging.release_user_root(freed);
        // Across the end of 2 MiB, so that it is protected in two parts.
        let foreign = system.data_block(9).offset(510 * F::PAGE_SIZE);
        system.paging.record_early_ptps(foreign, 2).unwrap();
        let behind = system.data_block(2);
        system.paging.record_early_ptps(behind, 4).unwrap();
        // All of 2 MiB: a block with the pool, all entries of a table without.
        let whole = system.data_block(9);
        system.paging.record_early_ptps(whole, 512).unwrap();
        let all = || {
            let own =
                system.tables(system.paging.kernel()).into_iter().chain(system.tables(&early));
            let foreign =
                [foreign, foreign.offset(F::PAGE_SIZE), behind, behind.offset(3 * F::PAGE_SIZE)];
            own.map(|(_, table)| table).chain(foreign).collect::<Vec<_>>()
        };
        assert!(all().into_iter().all(|table| !system.protects(table)), "{config:?}");
        system.enable_protection().unwrap();
        assert!(all().into_iter().all(|table| system.protects(table)), "{config:?}");
        assert_eq!(system.findings(&[&early]), [], "{config:?}");
        // And goes on.
        system.map(&early, pages(USER.offset(1 << 30), 3), Attrs::USER_DATA, page::<F>(0)).unwrap();
        system.assert_clean(&[&early]);
    }
}

fn a_freed_table_keeps_its_protection_until_it_is_flushed<F: HostedFormat>() {
    for config in protecting_configs().filter(|config| !config.pool) {
        let system = System::<F>::boot(config, SMALL);
        let user = system.new_user_root();
        link(&system, &user, 1);
        let mut unlinked = Vec::new();
        let section = system.paging.section(&user);
        let (range, end) = (pages(USER, 512), VirtAddr(1 << F::HALF_BITS));

        // SAFETY: nobody else works on these tables.
        unsafe {
            system
                .paging
                .free_tables(&section, &user, range, VirtAddr(0), end, |ptp| unlinked.push(ptp))
        }
        .unwrap();
        drop(section);
        let frames: Vec<_> = unlinked.iter().map(|ptp| ptp.frame()).collect();
        assert!(frames.iter().all(|&frame| system.protects(frame)), "{config:?}");
        system.paging.flush_and_release(Flush::User(user.frame(), range), unlinked);
        assert!(frames.iter().all(|&frame| !system.protects(frame)), "{config:?}");
    }
}

fn there_are_no_keys_to_set<F: HostedFormat>() {
    for config in protecting_configs() {
        let system = System::<F>::boot(config, memory_of(config));
        let before = system.entries(system.paging.kernel());
        for key in [Pkey::PAGE_TABLES, Pkey::WRITE_RARELY] {
            assert_eq!(
                system.paging.set_memory_pkey(page::<F>(0), 1, key),
                Err(Error::NoKeys(key))
            );
        }
        let outside = page::<F>(memory_of(config));
        let refused = system.paging.set_memory_pkey(outside, 1, Pkey::DEFAULT);
        assert_eq!(refused, Err(Error::OutsideLinearMap(outside, 1)));
        assert_eq!(system.entries(system.paging.kernel()), before, "{config:?}");
        // The one key that there is may be set, which splits a block as ever, and changes no permission.
        system.paging.set_memory_pkey(page::<F>(0), 1, Pkey::DEFAULT).unwrap();
        assert_eq!(system.linear_place(page::<F>(0)).level, Level::Pte);
        assert!(!system.protects(page::<F>(0)));
        system.assert_clean(&[]);
    }
}

fn mode_off_makes_no_alias<F: HostedFormat>() {
    for config in configs().filter(|config| !config.mode.protects()) {
        let system = System::<F>::boot(config, memory_of(config));
        assert_eq!(system.paging.alias_of(page::<F>(0)), None);
        let range = pages::<F>(ALIAS_START, 1);
        assert!(system.paging.walk(system.paging.kernel(), range.start()).is_none());
        assert_eq!(system.count_of(Event::KeyChange), 0);
    }
}

/// A machine whose alias is anywhere.
mod misplaced {
    use std::ptr::NonNull;

    use kpkeys::pan::Pan;
    use kpkeys_hosted::boot::CountedPan;
    use kpkeys_hosted::machine::LINEAR_START;
    use kpkeys_hosted::register::PanRegister;
    use kpkeys_hosted::{Counter, Hosted, arena::Arena};
    use kpkeys_pgtable::entry::{Aarch64, X86_64};
    use kpkeys_pgtable::{Memory, Paging};

    use super::*;
    use crate::support::Scarce;

    struct Elsewhere<F: HostedFormat>(CountedPan<F>, Option<VirtAddr>);

    // SAFETY: everything but the place of the alias is the inner machine's, which answers for it. The alias is never used: no test
    // comes as far as protection.
    unsafe impl<F: HostedFormat> Machine for Elsewhere<F> {
        type Format = F;
        type Backend = Pan<PanRegister>;
        type Probe = Counter;

        fn backend(&self) -> &Self::Backend {
            self.0.backend()
        }
        fn probe(&self) -> &Counter {
            self.0.probe()
        }
        fn memory(&self) -> Memory<F> {
            self.0.memory()
        }
        fn table(&self, frame: PhysAddr) -> NonNull<u8> {
            self.0.table(frame)
        }
        fn data(&self, frame: PhysAddr) -> NonNull<u8> {
            self.0.data(frame)
        }
        fn alias(&self) -> Option<VirtAddr> {
            self.1
        }
        fn anchor(&self) -> &kpkeys_pgtable::guarded::Anchor<F> {
            self.0.anchor()
        }
        fn entry_barrier(&self) {
            self.0.entry_barrier();
        }
        fn flush_tlb(&self, flush: Flush<F>) {
            self.0.flush_tlb(flush);
        }
        fn cpu(&self) -> usize {
            0
        }
        fn cpus(&self) -> usize {
            1
        }
    }

    fn build<F: HostedFormat>(alias: Option<VirtAddr>, mode: Mode) -> Result<(), Error> {
        let arena = std::sync::Arc::new(Arena::new(SMALL).expect("the host has memory"));
        let machine =
            Elsewhere::<F>(Hosted::new(arena, Pan::new(PanRegister), Counter::default(), 1), alias);
        let frames = Scarce::new(machine.memory());
        Paging::new(machine, frames, Config::of(mode)).map(|_| ())
    }

    fn is_refused_where_it_cannot_be<F: HostedFormat>() {
        for mode in Mode::ALL.into_iter().filter(|mode| mode.protects()) {
            assert_eq!(build::<F>(None, mode), Err(Error::AliasMisplaced(None)));
            let bad = [
                LINEAR_START,
                VirtAddr(0x4000_0000),
                VirtAddr(ALIAS_START.0 + (1 << 21)),
                VirtAddr(0x1234_0000_0000_0000),
                VirtAddr(!0xfff),
            ];
            for start in bad {
                let refused = Err(Error::AliasMisplaced(Some(start)));
                assert_eq!(build::<F>(Some(start), mode), refused, "{start:?}");
            }
            assert_eq!(build::<F>(Some(ALIAS_START), mode), Ok(()));
        }
        assert_eq!(
            build::<F>(None, Mode::Off),
            Ok(()),
            "nothing is protected, so nothing is needed"
        );
    }

    #[test]
    fn an_alias_that_cannot_be_is_refused() {
        is_refused_where_it_cannot_be::<Aarch64>();
        is_refused_where_it_cannot_be::<X86_64>();
    }

    /// Programs' roots on x86-64 have a copy of the kernel's half without the alias, which must have root entries of its own for that.
    #[test]
    fn an_alias_that_shares_a_root_entry_is_refused_where_roots_are_copied() {
        let (mode, gib) = (Mode::Fused, Level::Pud.entry_bytes::<X86_64>());
        for start in [ALIAS_START.offset(gib), LINEAR_START.offset(64 * gib)] {
            assert_eq!(build::<X86_64>(Some(start), mode), Err(Error::AliasMisplaced(Some(start))));
            assert_eq!(build::<Aarch64>(Some(start), mode), Ok(()));
        }
    }
}

for_both_formats!(
    a_table_is_read_only_and_has_an_alias_as_long_as_it_is_one,
    a_page_allocated_singly_costs_two_changes_of_two_stores,
    a_block_of_the_pool_costs_one_change_of_two_stores,
    small_blocks_share_a_table_of_the_alias_and_large_ones_need_none,
    the_alias_costs_the_tables_it_says,
    early_tables_change_over_when_protection_is_turned_on,
    a_freed_table_keeps_its_protection_until_it_is_flushed,
    there_are_no_keys_to_set,
    mode_off_makes_no_alias,
);
