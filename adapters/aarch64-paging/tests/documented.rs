//! What the wrapped crate's documentation shows, on hardened tables: a block of memory mapped one to one in tables of its own, which a CPU then uses.

#[macro_use]
mod support;

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, MemoryRegion, VaRange};
use kpkeys_aarch64_paging::Tables;
use support::{Protection, System};

const ASID: usize = 1;
const ROOT_LEVEL: usize = 1;
const NORMAL_CACHEABLE: El1Attributes =
    El1Attributes::ATTRIBUTE_INDEX_1.union(El1Attributes::INNER_SHAREABLE);

fn the_crates_own_example_runs<S: Protection>() {
    let system = System::<S>::new(64);
    let kernel = system.protected();
    let mut idmap = Tables::new(&system.pool, ASID, ROOT_LEVEL, VaRange::Lower).unwrap();
    let block = MemoryRegion::new(0x8020_0000, 0x8040_0000);
    let attributes = NORMAL_CACHEABLE
        | El1Attributes::NON_GLOBAL
        | El1Attributes::VALID
        | El1Attributes::ACCESSED;
    idmap
        .map_range(&block, PhysicalAddress(0x8020_0000), attributes, Constraints::empty())
        .unwrap();
    idmap.mark_active();
    let mut found = Vec::new();
    idmap
        .walk_range(&block, &mut |region, entry, level| {
            found.push((region.start().0, entry.output_address().0, level));
            Ok(())
        })
        .unwrap();
    assert_eq!(found, [(0x8020_0000, 0x8020_0000, 2)], "one block of 2 MiB");
    for table in system.tables_of(&idmap) {
        let at = support::linear_address(table, 3);
        assert!(system.mmu(kernel.root_address()).store(at, 0).is_err());
    }
    idmap.mark_inactive();
}

for_both!(the_crates_own_example_runs);
