//! Allocation failure at every allocation there is: an error value, nothing mapped, tables consistent, nothing lost.

use crate::support::{Keys, LARGE, Protection, SMALL, System, USER, configs, pages};
use kpkeys::Pkey;
use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::{Attrs, Config, Error, Event, Level, PhysAddr, Root, VirtAddr};

const FRAME: PhysAddr = PhysAddr(0x1_0020_0000);

/// Small blocks only, so that a pool comes back for more often.
fn boot<F: HostedFormat, S: Protection>(config: Config) -> System<F, S> {
    let memory = if config.linear == Level::Pud { LARGE } else { SMALL };
    boot_with(config, memory)
}

fn boot_with<F: HostedFormat, S: Protection>(config: Config, memory: usize) -> System<F, S> {
    let system =
        System::<F, S>::build_with(config, memory, |frames| frames.set_largest_order(2)).unwrap();
    system.enable_protection().unwrap();
    system
}

/// A range that needs two tables at each level below the root.
fn range<F: HostedFormat>() -> kpkeys_pgtable::PageRange<F> {
    let end = Level::Pud.table_bytes::<F>();
    pages(VirtAddr((USER.0 & !(end - 1)) + end - 8 * F::PAGE_SIZE), 16)
}

/// Runs an operation that must fail for every number of allocations that is too small for it, until it succeeds.
fn fails_at_every_allocation<F: HostedFormat, S: Protection, R>(
    system: &System<F, S>,
    mut operation: impl FnMut() -> Result<R, Error>,
    mut check_failed: impl FnMut(),
) -> R {
    for allowed in 0..100 {
        system.paging.frames().fail_after(allowed);
        let result = operation();
        let refused = system.paging.frames().recover();
        match result {
            Ok(value) => {
                assert!(allowed > 0 || refused == 0, "it needs no memory");
                return value;
            }
            Err(error) => {
                assert_eq!(error, Error::OutOfMemory);
                assert!(refused > 0, "an error that no refusal explains");
                check_failed();
            }
        }
    }
    panic!("it never succeeds")
}

fn nothing_is_mapped<F: HostedFormat, S: Protection>(system: &System<F, S>, user: &Root) {
    for i in 0..range::<F>().pages() {
        assert!(
            system.paging.walk(user, range::<F>().start().offset_pages::<F>(i)).is_none(),
            "page {i}"
        );
    }
    system.assert_clean(&[user]);
}

fn a_failed_map_maps_nothing_and_can_be_repeated<F: HostedFormat, S: Protection>() {
    for config in configs() {
        let system = boot::<F, S>(config);
        let mut users = Vec::new();
        // Several times, so that a pool runs out at different points.
        for _ in 0..6 {
            let user = system.new_user_root();
            fails_at_every_allocation(
                &system,
                || system.map(&user, range(), Attrs::USER_DATA, FRAME),
                || {
                    for i in 0..range::<F>().pages() {
                        let va = range::<F>().start().offset_pages::<F>(i);
                        assert!(system.paging.walk(&user, va).is_none(), "{config:?}: page {i}");
                    }
                },
            );
            users.push(user);
        }
        system.assert_clean(&users.iter().collect::<Vec<_>>());
        for user in users {
            system.end_user(user, range());
        }
        system.assert_clean(&[]);
    }
}

fn a_map_that_never_succeeds_leaves_no_page_behind<F: HostedFormat, S: Protection>() {
    for config in configs() {
        let system = boot::<F, S>(config);
        let free = system.paging.frames().free_frames();
        let ptps = || {
            let counts = system.counts();
            counts.of(Event::PtpAllocated) - counts.of(Event::PtpFreed)
        };
        let (before, spare) = (ptps(), config.pool);
        for allowed in 0..4 {
            let user = system.new_user_root();
            system.paging.frames().fail_after(allowed);
            let result = system.map(&user, range(), Attrs::USER_DATA, FRAME);
            system.paging.frames().recover();
            assert!(spare || result == Err(Error::OutOfMemory), "{config:?} {allowed}");
            if result.is_err() {
                nothing_is_mapped(&system, &user);
            }
            system.end_user(user, range());
        }
        if !config.pool {
            assert_eq!(system.paging.frames().free_frames(), free, "{config:?}");
            assert_eq!(ptps(), before, "{config:?}");
        }
        system.assert_clean(&[]);
    }
}

fn a_root_that_cannot_be_made_is_an_error<F: HostedFormat, S: Protection>() {
    for config in configs() {
        let system = boot::<F, S>(config);
        let mut roots = Vec::new();
        for _ in 0..40 {
            let root = fails_at_every_allocation(
                &system,
                || {
                    let section = system.paging.section(system.paging.kernel());
                    system.paging.new_user_root(&section)
                },
                || (),
            );
            roots.push(root);
        }
        system.assert_clean(&roots.iter().collect::<Vec<_>>());
    }
}

fn a_key_that_cannot_be_set_leaves_all_keys<F: HostedFormat>() {
    for linear in [Level::Pte, Level::Pmd, Level::Pud] {
        let config = Config { mode: kpkeys_pgtable::Mode::Fused, linear, pool: true };
        let memory = if linear == Level::Pte { SMALL } else { LARGE };
        let system = boot_with::<F, Keys>(config, memory);
        let key = Pkey::new(2).unwrap();
        // Cuts a block of 2 MiB at each end, again and again elsewhere, until the pool is dry.
        let mut refused = 0;
        system.paging.frames().fail_after(0);
        let cuts = if linear == Level::Pte { 6 } else { 60 };
        for block in 0..cuts as u64 {
            let start = FRAME.offset((block << 21) / 2 + (1 << 20) - (4 << 12));
            let keys = || (0..8).map(|i| system.paging.memory_pkey(start.offset(i << 12)));
            let before = system.entries(system.paging.kernel());
            match system.paging.set_memory_pkey(start, 8, key) {
                Ok(()) => assert!(keys().all(|found| found == Some(key))),
                Err(error) => {
                    refused += 1;
                    assert_eq!(error, Error::OutOfMemory);
                    assert_eq!(system.entries(system.paging.kernel()), before, "{linear:?}");
                }
            }
        }
        // A map of pages is never split, so it needs nothing; of the others, the pool ran dry.
        assert_eq!(refused > 0, linear != Level::Pte, "{linear:?}: {refused}");
        system.paging.frames().recover();
        assert_eq!(system.paging.set_memory_pkey(FRAME, 8, key), Ok(()), "{linear:?}");
        system.assert_clean(&[]);
    }
}

fn too_little_memory_for_the_linear_map_is_an_error<F: HostedFormat, S: Protection>() {
    for config in configs() {
        for allowed in 0..3 {
            let built =
                System::<F, S>::build_with(config, SMALL, |frames| frames.fail_after(allowed));
            // A pool lives on its first block.
            if !config.pool || allowed == 0 {
                assert_eq!(built.map(|_| ()), Err(Error::OutOfMemory), "{config:?} {allowed}");
            }
        }
    }
}

for_both_formats_and_schemes!(
    a_failed_map_maps_nothing_and_can_be_repeated,
    a_map_that_never_succeeds_leaves_no_page_behind,
    a_root_that_cannot_be_made_is_an_error,
    too_little_memory_for_the_linear_map_is_an_error,
);

mod keys {
    use super::*;

    for_both_formats!(a_key_that_cannot_be_set_leaves_all_keys);
}
