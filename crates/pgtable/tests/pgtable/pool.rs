//! The keyed pool: refilled from fragmented memory, shrunk, run dry, and used by several CPUs at once.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier};

use crate::support::{LARGE, Protection, SMALL, Scarce, System, USER, configs, pages};
use kpkeys::keyed::Keyed;
use kpkeys_hosted::arena::Arena;
use kpkeys_hosted::boot::Counted;
use kpkeys_hosted::register::MockRegister;
use kpkeys_hosted::{Counter, Hosted, HostedFormat, cpu};
use kpkeys_pgtable::check::{self, Scratch};
use kpkeys_pgtable::ptp::REFILL_ORDERS;
use kpkeys_pgtable::{
    Attrs, Config, Error, Event, Flush, Level, Machine, Mode, PageRange, Paging, Root, VirtAddr,
};

/// The pool alone: these tests map frames that they were not given, which types would refuse.
fn pooled(linear: Level) -> Config {
    Config { mode: Mode::FusedLean, linear, pool: true }
}

fn memory_for(linear: Level) -> usize {
    if linear == Level::Pud { LARGE } else { SMALL }
}

const GRANULES: [Level; 3] = [Level::Pte, Level::Pmd, Level::Pud];

/// Links this many PTE tables of a user address space, in one operation.
fn link_tables<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    user: &Root,
    tables: usize,
) -> PageRange<F> {
    let section = system.paging.section(user);
    for i in 0..tables {
        let va = VirtAddr(USER.0 + ((i as u64) << 21));
        system.paging.table_for(&section, user, va, Level::Pte).expect("there is memory");
    }
    pages(USER, tables * 512)
}

/// Boots from memory that has no block larger than an order.
fn boot_fragmented<F: HostedFormat, S: Protection>(linear: Level, order: u8) -> System<F, S> {
    let system = System::<F, S>::build_with(pooled(linear), memory_for(linear), |frames| {
        frames.set_largest_order(order);
    });
    let system = system.expect("builds");
    system.enable_protection().expect("protects");
    system
}

fn a_refill_takes_the_largest_block_there_is<F: HostedFormat, S: Protection>() {
    for linear in GRANULES {
        for order in REFILL_ORDERS {
            let system = boot_fragmented::<F, S>(linear, order);
            let user = system.new_user_root();
            let range = link_tables(&system, &user, 100);
            let allocated = system.paging.frames().blocks();
            assert!(allocated.iter().all(|block| block.1 == order), "{linear:?} {allocated:?}");
            // Pages of a smaller block need more blocks, never more pages than one block too many.
            let needed = system.tables(system.paging.kernel()).len() + system.tables(&user).len();
            assert!(allocated.len() << order <= needed + 40 + (1 << order), "{linear:?} {order}");
            system.assert_clean(&[&user]);
            system.free_user_tables(&user, range);
            system.paging.release_user_root(user);
            system.assert_clean(&[]);
        }
    }
}

fn scattered_blocks_can_be_keyed_at_boot<F: HostedFormat, S: Protection>() {
    // A map of 1 GiB blocks, and the pool's blocks far apart: each may need two splits.
    let system = System::<F, S>::build_with(pooled(Level::Pud), 6 << 18, |frames| {
        frames.set_largest_order(2);
    });
    let system = system.expect("builds");
    let user = system.new_user_root();
    let mut met = BTreeSet::new();
    for table in 0..24 {
        if table % 4 == 0 {
            // Takes the memory beside the pool's last block, so that the next one lies in another GiB.
            system.paging.frames().set_largest_order(10);
            for _ in 0..200 {
                system.data_block(10);
            }
            while !met.insert(system.data_block(2).0 >> 30) {}
            system.paging.frames().set_largest_order(2);
        }
        let section = system.paging.section(&user);
        let va = VirtAddr(USER.0 + (table << 21));
        system.paging.table_for(&section, &user, va, Level::Pte).expect("there is memory");
    }
    let blocks = system.paging.frames().blocks();
    let cut: BTreeSet<u64> =
        blocks.iter().filter(|block| block.1 == 2).map(|block| block.0.0 >> 30).collect();
    assert!(2 * cut.len() > 4, "more splits than the reserve holds: {cut:?}");
    assert_eq!(system.enable_protection(), Ok(()));
    system.assert_clean(&[&user]);
}

fn memory_too_fragmented_for_any_refill_is_an_error<F: HostedFormat, S: Protection>() {
    let system = boot_fragmented::<F, S>(Level::Pmd, 9);
    system.paging.frames().set_largest_order(1);
    let user = system.new_user_root();
    let result = exhaust(&system, &user);
    assert_eq!(result, Error::OutOfMemory);
    system.assert_clean(&[&user]);
    system.paging.frames().set_largest_order(9);
    let section = system.paging.section(&user);
    assert!(system.paging.table_for(&section, &user, VirtAddr(1 << 46), Level::Pte).is_ok());
}

/// Links tables until there is no page left for one.
fn exhaust<F: HostedFormat, S: Protection>(system: &System<F, S>, user: &Root) -> Error {
    for i in 0.. {
        let section = system.paging.section(user);
        let va = VirtAddr(USER.0 + (i << 21));
        if let Err(error) = system.paging.table_for(&section, user, va, Level::Pte) {
            return error;
        }
    }
    unreachable!("memory is finite")
}

fn allocating_from_spares_changes_no_key_and_flushes_nothing<F: HostedFormat, S: Protection>() {
    for linear in GRANULES {
        let system = System::<F, S>::boot(pooled(linear), memory_for(linear));
        let (counts, user) = system.counted(|| {
            let user = system.new_user_root();
            link_tables(&system, &user, 20);
            user
        });
        let of = |event| counts.of(event);
        assert_eq!([of(Event::KeyChange), of(Event::TlbFlush)], [0, 0], "{linear:?}");
        assert_eq!(of(Event::PtpAllocated), 23, "a root, two upper tables, twenty tables");
        assert!(system.protects(user.frame()));
    }
}

fn shrinking_returns_whole_blocks_and_resets_their_keys<F: HostedFormat, S: Protection>() {
    for linear in GRANULES {
        for order in REFILL_ORDERS {
            let system = boot_fragmented::<F, S>(linear, order);
            let user = system.new_user_root();
            let range = link_tables(&system, &user, 1100);
            let blocks: BTreeSet<_> = system.paging.frames().blocks().into_iter().collect();
            assert_eq!(system.free_user_tables(&user, range), 1104);
            system.paging.release_user_root(user);

            let free = system.paging.frames().free_frames();
            let returned = system.paging.shrink();
            assert!(returned >= 512, "{linear:?} {order}: {returned} of more than 1100 free pages");
            assert_eq!(returned % (1 << order), 0, "whole blocks");
            assert_eq!(system.paging.frames().free_frames(), free + returned);
            let kept: BTreeSet<_> = system.paging.frames().blocks().into_iter().collect();
            for &(block, order) in blocks.difference(&kept) {
                for page in 0..1u64 << order {
                    assert!(!system.protects(block.offset(page << 12)), "{linear:?} {block:?}");
                }
            }
            system.assert_clean(&[]);
            // At least 16 spare pages stay, so an address space begins without a refill.
            let (counts, user) = system.counted(|| system.new_user_root());
            assert_eq!(counts.of(Event::KeyChange), 0, "{linear:?} {order}");
            assert_eq!(system.paging.shrink(), 0, "nothing more to give");
            system.paging.release_user_root(user);
        }
    }
}

fn a_block_in_use_is_not_returned<F: HostedFormat, S: Protection>() {
    let system = boot_fragmented::<F, S>(Level::Pmd, 2);
    let (first, second) = (system.new_user_root(), system.new_user_root());
    let range = link_tables(&system, &first, 64);
    link_tables(&system, &second, 3);
    system.free_user_tables(&first, range);
    assert!(system.paging.shrink() > 0);
    // Every page that is still a table is still there and keyed, and can be used on.
    system.assert_clean(&[&first, &second]);
    system.map(&second, pages(USER, 3), Attrs::USER_DATA, system.data_block(0)).unwrap_or_else(
        |e| {
            panic!("the second space goes on: {e}");
        },
    );
    system.assert_clean(&[&first, &second]);
}

/// A page that was unlinked is no spare until it was flushed: an allocation in between never returns it.
fn an_unlinked_page_is_not_used_again_before_its_flush<F: HostedFormat, S: Protection>() {
    for config in configs() {
        let system = System::<F, S>::boot(config, memory_for(config.linear));
        let user = system.new_user_root();
        let range = link_tables(&system, &user, 40);
        let mut unlinked = Vec::new();
        {
            let section = system.paging.section(&user);
            let ceiling = VirtAddr(1 << F::HALF_BITS);
            let free = |ptp| unlinked.push(ptp);
            let paging = &system.paging;

            // SAFETY: nobody else works on these tables.
            unsafe { paging.free_tables(&section, &user, range, VirtAddr(0), ceiling, free) }
                .unwrap();
        }
        let waiting: BTreeSet<_> = unlinked.iter().map(|ptp| ptp.frame()).collect();
        assert_eq!(waiting.len(), 42, "forty tables and two above them");
        let other = system.new_user_root();
        link_tables(&system, &other, 60);
        for (level, table) in system.tables(&other) {
            assert!(!waiting.contains(&table), "{config:?}: {level:?} at {table:?} was reused");
        }
        for &page in &waiting {
            let expected = config.mode.protects();
            assert_eq!(system.protects(page), expected, "{config:?}: still protected");
        }
        system.paging.flush_and_release(Flush::User(user.frame(), range), unlinked);
        system.assert_clean(&[&user, &other]);
    }
}

/// A flush of something else is none of these tables: all is flushed before they are released.
fn a_flush_of_something_else_does_not_release<F: HostedFormat, S: Protection>() {
    for granule in GRANULES {
        let system = System::<F, S>::boot(pooled(granule), memory_for(granule));
        let (user, other) = (system.new_user_root(), system.new_user_root());
        let flushes_for = |flush: &dyn Fn(PageRange<F>) -> Flush<F>| {
            let range = link_tables(&system, &user, 3);
            let mut unlinked = Vec::new();
            let section = system.paging.section(&user);
            let (free, end) = (|ptp| unlinked.push(ptp), VirtAddr(1 << F::HALF_BITS));

            // SAFETY: nobody else works on these tables.
            unsafe { system.paging.free_tables(&section, &user, range, VirtAddr(0), end, free) }
                .unwrap();
            drop(section);
            assert_eq!(unlinked.len(), 5, "three tables and two above them");
            let release = || system.paging.flush_and_release(flush(range), unlinked);
            let (counts, ()) = system.counted(release);
            assert_eq!(counts.of(Event::PtpFreed), 5, "they are released all the same");
            counts.of(Event::TlbFlush)
        };
        let part = |range: PageRange<F>| pages(range.start(), range.pages() - 1);
        assert_eq!(flushes_for(&|range| Flush::User(user.frame(), range)), 1);
        assert_eq!(flushes_for(&|_| Flush::AddressSpace(user.frame())), 1);
        assert_eq!(flushes_for(&|_| Flush::All), 1);
        assert_eq!(flushes_for(&|range| Flush::User(user.frame(), part(range))), 2);
        assert_eq!(flushes_for(&|range| Flush::User(other.frame(), range)), 2);
        assert_eq!(flushes_for(&|_| Flush::AddressSpace(other.frame())), 2);
        assert_eq!(flushes_for(&|_| Flush::AllKernel), 2);
        system.assert_clean(&[&user, &other]);
    }
}

/// In `fused` tables with entries are not freed at all.
fn a_page_taken_again_is_empty<F: HostedFormat, S: Protection>() {
    for config in configs().filter(|config| config.mode != Mode::Fused) {
        let system = System::<F, S>::boot(config, memory_for(config.linear));
        for _ in 0..3 {
            let user = system.new_user_root();
            let data = system.data_block(0);
            let range = pages(USER, 600);
            let section = system.paging.section(&user);
            system.paging.map(&section, &user, range, Attrs::USER_DATA, |_| data).unwrap();
            drop(section);
            let shared: BTreeSet<_> = system.tables(system.paging.kernel()).into_iter().collect();
            let own = system.tables(&user).into_iter().filter(|table| !shared.contains(table));
            let entries = own
                .filter(|(level, _)| *level == Level::Pte)
                .flat_map(|(_, table)| (0..F::ENTRIES).map(move |index| (table, index)))
                .filter(|&(table, index)| !system.read(table, index).is_empty())
                .count();
            assert_eq!(entries, 600, "{config:?}");
            // Tables go with their entries still in them: the next owner must not see those.
            system.free_user_tables(&user, range);
            system.paging.release_user_root(user);
        }
    }
}

/// Several CPUs build and tear down address spaces of their own on one pool.
///
/// Threads, not `loom`: the pool's locks are the `spin` crate's and its memory is the arena, and `loom` sees neither.
fn cpus_share_a_pool<F: HostedFormat>() {
    const CPUS: usize = 4;
    for linear in [Level::Pte, Level::Pmd] {
        let arena = Arc::new(Arena::new(SMALL).expect("the host has memory"));
        let backend = Keyed::new(MockRegister::detect());
        backend.reset();
        let machine: Counted<F> = Hosted::new(arena, backend, Counter::default(), CPUS);
        let frames = Scarce::new(machine.memory());
        let paging = Paging::new(machine, frames, pooled(linear)).expect("builds");
        paging.enable_protection().expect("protects");

        let start = Barrier::new(CPUS);
        std::thread::scope(|scope| {
            for number in 0..CPUS {
                let (paging, start) = (&paging, &start);
                scope.spawn(move || {
                    cpu::become_cpu(number);
                    paging.machine().backend().reset();
                    start.wait();
                    for round in 0..30 {
                        live_and_die(paging, number * 7 + round * 13);
                        if number == 0 && round % 5 == 4 {
                            paging.shrink();
                        }
                    }
                });
            }
        });

        let freed = paging.machine().probe().read().of(Event::PtpFreed);
        assert!(freed > (CPUS * 30 * 4) as u64, "{freed} tables came back");
        let mut scratch = vec![0; Scratch::words(&paging.machine().memory())];
        let report = check::check(&paging, &[], Scratch::new(&mut scratch), |finding| {
            panic!("{linear:?}: {finding}");
        });
        let report = report.expect("the scratch memory is large enough");
        let held: usize = paging.frames().blocks().iter().map(|block| 1 << block.1).sum();
        assert_eq!(report.ptps + report.spare, held, "{linear:?}: no page was lost or used twice");
    }
}

/// One address space, whose entries say whose they are.
fn live_and_die<F: HostedFormat>(paging: &Paging<Counted<F>, Scarce<F>>, seed: usize) {
    let section = paging.section(paging.kernel());
    let user = paging.new_user_root(&section).expect("there is memory");
    drop(section);
    let range = pages(USER.offset_pages::<F>(seed * 300), 100 + seed % 5 * 512);
    let mine = |page: usize| {
        kpkeys_hosted::machine::MEMORY_START.offset(((seed * 31 + page) % SMALL) as u64 * 4096)
    };
    let section = paging.section(&user);
    paging.map(&section, &user, range, Attrs::USER_DATA, mine).expect("there is memory");
    drop(section);
    let mut intact = 0;
    let section = paging.section(&user);
    paging
        .unmap(&section, &user, range, |va, level, entry| {
            let page = ((va.0 - range.start().0) / 4096) as usize;
            intact += usize::from(F::frame(level, entry) == mine(page));
        })
        .expect("no block is cut");
    assert_eq!(intact, range.pages(), "another CPU wrote to these tables");
    let mut unlinked = Vec::new();
    let ceiling = VirtAddr(1 << F::HALF_BITS);

    // SAFETY: nobody else works on these tables.
    unsafe {
        paging.free_tables(&section, &user, range, VirtAddr(0), ceiling, |ptp| unlinked.push(ptp))
    }
    .expect("the tables are empty");
    drop(section);
    paging.flush_and_release(Flush::User(user.frame(), range), unlinked);
    paging.release_user_root(user);
}

for_both_formats_and_schemes!(
    a_refill_takes_the_largest_block_there_is,
    scattered_blocks_can_be_keyed_at_boot,
    memory_too_fragmented_for_any_refill_is_an_error,
    allocating_from_spares_changes_no_key_and_flushes_nothing,
    shrinking_returns_whole_blocks_and_resets_their_keys,
    a_block_in_use_is_not_returned,
    an_unlinked_page_is_not_used_again_before_its_flush,
    a_flush_of_something_else_does_not_release,
    a_page_taken_again_is_empty,
);
/// On a machine of several CPUs.
mod several_cpus {
    use super::*;

    for_both_formats!(cpus_share_a_pool);
}
