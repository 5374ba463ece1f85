//! The same calls, behind windows and to the bare crate in memory of its own, come to the same: results, entries, and number of tables.
//!
//! With that, allocations that fail: whatever call fails for want of tables has changed nothing.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use aarch64_paging::MapError;
use aarch64_paging::descriptor::{Descriptor, El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, MemoryRegion, VaRange};
use kpkeys_aarch64_paging::{Error, Tables, Updatable};
use proptest::prelude::*;
use support::{Aliased, Attributes, Bare, Keys, Protection, System, USER, bare, pages};

#[derive(Clone, Debug)]
enum Call {
    Map { page: usize, count: usize, pa: usize, flags: Attributes, constraints: Constraints },
    Unmap { page: usize, count: usize },
    ReadOnly { page: usize, count: usize },
    Compact,
}

const BASE: usize = 0x40_0000_0000;
/// Physical addresses beyond all memory of the machine: nothing is loaded or stored there.
const FAR: usize = 0x80_0000_0000;

/// Places about the edges of blocks of both sizes, and sizes that fill and that cut them.
fn place() -> impl Strategy<Value = (usize, usize)> {
    const EDGES: [usize; 6] = [0, 512, 1024, 512 * 512, 512 * 513, 2 * 512 * 512];
    let page = (prop::sample::select(&EDGES[..]), 0..3usize).prop_map(|(edge, off)| edge + off);
    let count = prop::sample::select(&[1usize, 2, 3, 511, 512, 514, 1024, 512 * 512][..]);
    (page, count)
}

fn call() -> impl Strategy<Value = Call> {
    let flags = [USER, USER | El1Attributes::READ_ONLY, USER - El1Attributes::VALID];
    let pas = [FAR + BASE, FAR + BASE + 4096, 0x10_0000];
    let constraints = prop_oneof![
        4 => Just(Constraints::empty()),
        1 => Just(Constraints::NO_BLOCK_MAPPINGS),
    ];
    let map = (
        place(),
        prop::sample::select(pas.to_vec()),
        prop::sample::select(flags.to_vec()),
        constraints,
    );
    prop_oneof![
        6 => map.prop_map(|((page, count), pa, flags, constraints)| {
            // As the place is, so that blocks are made where they fit; or low, where a block may begin above it.
            let pa = if pa >= FAR { pa + page * 4096 } else { pa };
            let limited = constraints.contains(Constraints::NO_BLOCK_MAPPINGS);
            let count = if limited { count.min(1024) } else { count };
            Call::Map { page, count, pa, flags, constraints }
        }),
        3 => place().prop_map(|(page, count)| Call::Unmap { page, count }),
        2 => place().prop_map(|(page, count)| Call::ReadOnly { page, count }),
        1 => Just(Call::Compact),
    ]
}

fn region(page: usize, count: usize) -> MemoryRegion {
    pages(BASE + page * 4096, count)
}

fn read_only(_: &MemoryRegion, entry: &mut Updatable<'_>) -> Result<(), ()> {
    entry.modify_flags(El1Attributes::READ_ONLY, El1Attributes::empty())
}

fn behind_windows<B: kpkeys::Backend>(
    tables: &mut Tables<'_, B>,
    call: &Call,
) -> Result<(), Error> {
    match *call {
        Call::Map { page, count, pa, flags, constraints } => {
            tables.map_range(&region(page, count), PhysicalAddress(pa), flags, constraints)
        }
        Call::Unmap { page, count } => tables.unmap_range(&region(page, count)),
        Call::ReadOnly { page, count } => tables.modify_range(&region(page, count), &read_only),
        Call::Compact => tables.compact_subtables(),
    }
}

fn to_the_bare_crate(tables: &mut Bare, call: &Call) -> Result<(), MapError> {
    match *call {
        Call::Map { page, count, pa, flags, constraints } => {
            let region = region(page, count);
            // What is not mapped has no address: see the trap of subtracting from it.
            let pa = if flags.contains(El1Attributes::VALID) { pa } else { region.start().0 };
            tables.map_range(&region, PhysicalAddress(pa), flags, constraints)
        }
        Call::Unmap { page, count } => {
            let (region, none) = (region(page, count), El1Attributes::empty());
            tables.map_range(&region, PhysicalAddress(region.start().0), none, Constraints::empty())
        }
        Call::ReadOnly { page, count } => tables.modify_range(&region(page, count), &read_only),
        Call::Compact => {
            tables.compact_subtables();
            Ok(())
        }
    }
}

type Leaf = (usize, usize, usize, PhysicalAddress, Attributes);

/// Everything that a walk over the whole half sees.
fn seen(
    walk: impl FnOnce(&MemoryRegion, &mut dyn FnMut(&MemoryRegion, &Descriptor<Attributes>, usize)),
) -> Vec<Leaf> {
    let mut found = Vec::new();
    walk(&MemoryRegion::new(0, 1 << 48), &mut |region, entry, level| {
        found.push((
            region.start().0,
            region.end().0,
            level,
            entry.output_address(),
            entry.flags(),
        ));
    });
    found
}

fn all_of<B: kpkeys::Backend>(tables: &Tables<'_, B>) -> Vec<Leaf> {
    seen(|half, f| {
        let each = &mut |r: &MemoryRegion, d: &Descriptor<Attributes>, l| {
            f(r, d, l);
            Ok(())
        };
        tables.walk_range(half, each).unwrap();
    })
}

fn all_of_bare(tables: &Bare) -> Vec<Leaf> {
    seen(|half, f| {
        let each = &mut |r: &MemoryRegion, d: &Descriptor<Attributes>, l| {
            f(r, d, l);
            Ok(())
        };
        tables.walk_range(half, each).unwrap();
    })
}

fn twins<S: Protection>(calls: &[Call], live: bool) {
    let system = System::<S>::new(64);
    let _kernel = system.protected();
    let others = 64 - system.pool.free_pages();
    let (mut ours, mut bare) = (system.user(), bare(1, VaRange::Lower));
    if live {
        ours.mark_active();
        bare.mark_active();
    }
    for call in calls {
        let before = (all_of(&ours), system.pool.free_pages());
        let result = behind_windows(&mut ours, call);
        match result {
            Err(Error::OutOfTables { needed, free }) => {
                assert!(needed > free);
                assert_eq!((all_of(&ours), system.pool.free_pages()), before, "{call:?}");
                continue;
            }
            Err(Error::BelowBlock(_)) => {
                assert_eq!((all_of(&ours), system.pool.free_pages()), before, "{call:?}");
                let trap = catch_unwind(AssertUnwindSafe(|| to_the_bare_crate(&mut bare, call)));
                assert!(trap.is_err(), "{call:?}: refused though the bare crate does it");
                break;
            }
            _ => {}
        }
        let expected = to_the_bare_crate(&mut bare, call).map_err(Error::Map);
        assert_eq!(result, expected, "{call:?}");
        assert_eq!(all_of(&ours), all_of_bare(&bare), "{call:?}");
        let used = 64 - system.pool.free_pages() - others;
        assert_eq!(used, bare.translation().tables(), "{call:?}");
    }
    if live {
        ours.mark_inactive();
        bare.mark_inactive();
    }
    drop(ours);
    assert_eq!(64 - system.pool.free_pages(), others, "all given back");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn by_keys(calls in prop::collection::vec(call(), 1..12), live in any::<bool>()) {
        twins::<Keys>(&calls, live);
    }

    #[test]
    fn by_an_alias(calls in prop::collection::vec(call(), 1..12), live in any::<bool>()) {
        twins::<Aliased>(&calls, live);
    }
}
