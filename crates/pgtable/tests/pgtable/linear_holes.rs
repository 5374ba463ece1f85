//! A linear map with holes, as a kernel makes where there is no RAM: nothing in them can be protected, and nobody is told that it was.

use crate::support::victim::Victim;
use crate::support::{LARGE, Protection, SMALL, System, configs, protecting_configs};
use kpkeys::Pkey;
use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::machine::MEMORY_START;
use kpkeys_pgtable::check::Finding;
use kpkeys_pgtable::{Attrs, Config, Entry, Error, Level, PhysAddr};

fn page<F: HostedFormat>(number: usize) -> PhysAddr {
    MEMORY_START.offset(number as u64 * F::PAGE_SIZE)
}

fn memory_of(config: Config) -> usize {
    if config.linear == Level::Pud { LARGE } else { SMALL }
}

/// Pages of a hole, by number: data, and as large as the map's blocks.
fn hole_of<F: HostedFormat>(config: Config) -> (usize, usize) {
    match config.linear {
        Level::Pud => (0, Level::Pud.entry_pages::<F>()),
        _ => (512, 512),
    }
}

fn make_hole<F: HostedFormat, S: Protection>(system: &System<F, S>, first: usize, count: usize) {
    system.paging.leave_out(page::<F>(first), count).expect("no block is cut");
}

fn assert_refused<F: HostedFormat, S: Protection>(system: &System<F, S>, config: Config) {
    let before = system.entries(system.paging.kernel());
    let (first, count) = hole_of::<F>(config);
    let mut ranges = vec![(first, 1), (first + 7, 9), (first, count), (first + count - 1, 2)];
    if first > 0 {
        ranges.push((first - 1, 2));
    }
    for (first, count) in ranges {
        let outside = Err(Error::OutsideLinearMap(page::<F>(first), count));
        for key in [Pkey::PAGE_TABLES, Pkey::DEFAULT, Pkey::new(2).expect("a key")] {
            let set = system.paging.set_memory_pkey(page::<F>(first), count, key);
            assert_eq!(set, outside, "{config:?} {first} {count}");
        }
        assert_eq!(system.paging.record_early_ptps(page::<F>(first), count), outside, "{config:?}");
        assert_eq!(system.paging.memory_pkey(page::<F>(first + count - 1)).is_some(), {
            let (hole, size) = hole_of::<F>(config);
            first + count > hole + size
        });
    }
    assert_eq!(system.entries(system.paging.kernel()), before, "{config:?}");
}

fn what_is_in_a_hole_is_refused_and_no_entry_changed<F: HostedFormat, S: Protection>() {
    for config in configs() {
        let system = System::<F, S>::build(config, memory_of(config));
        let (first, count) = hole_of::<F>(config);
        make_hole(&system, first, count);
        assert_refused(&system, config);
        system.enable_protection().expect("no table is in the hole");
        assert_refused(&system, config);
        system.assert_clean(&[]);
    }
}

/// Tables that were recorded and are mapped no more cannot be protected, which is said before anything is.
fn a_record_in_a_hole_is_refused_before_protection_begins<F: HostedFormat, S: Protection>() {
    for config in protecting_configs() {
        let system = System::<F, S>::build(config, memory_of(config));
        let (first, count) = hole_of::<F>(config);
        system.paging.record_early_ptps(page::<F>(first + 5), 2).expect("it is mapped yet");
        make_hole(&system, first, count);
        let before = system.entries(system.paging.kernel());
        let refused = Err(Error::OutsideLinearMap(page::<F>(first + 5), 2));
        assert_eq!(system.paging.enable_protection(), refused, "{config:?}");
        assert!(!system.paging.is_protected());
        assert_eq!(system.entries(system.paging.kernel()), before, "{config:?}");
    }
}

/// The way that single page-table pages take.
fn a_frame_in_a_hole_becomes_no_table<F: HostedFormat, S: Protection>() {
    for config in protecting_configs().filter(|config| !config.pool) {
        let system = System::<F, S>::boot(config, SMALL);
        // The frame that the next allocation returns.
        let next = system.new_user_root();
        let frame = next.frame();
        system.paging.release_user_root(next);
        let place = system.linear_place(frame);
        system.plant(place.table, place.index, Entry(0));
        let before = system.entries(system.paging.kernel());
        let section = system.paging.section(system.paging.kernel());
        let refused = system.paging.new_user_root(&section).map(|root| root.frame());
        drop(section);
        assert_eq!(refused, Err(Error::OutsideLinearMap(frame, 1)), "{config:?}");
        assert_eq!(system.entries(system.paging.kernel()), before, "{config:?}");
        system.assert_clean(&[]);
    }
}

fn a_leaf_that_is_not_data_of_its_own_frame_is_found<F: HostedFormat, S: Protection>() {
    for config in protecting_configs() {
        let victim = Victim::<F, S>::new(config);
        let place = victim.system.linear_place(victim.data);
        let own = F::frame(place.level, place.entry);
        let other = own.offset(place.level.entry_bytes::<F>());
        let nowhere = PhysAddr(0);
        let wrong = [
            (other, Attrs::KERNEL_DATA),
            (nowhere, Attrs::KERNEL_DATA),
            (own, Attrs { execute: true, ..Attrs::KERNEL_DATA }),
            (own, Attrs { execute: true, ..Attrs::KERNEL_DATA.read_only() }),
            (own, Attrs::USER_DATA),
        ];
        for (frame, attrs) in wrong {
            let entry = F::leaf(place.level, frame, attrs).expect("the format has it");
            let offset = victim.data.0 & (place.level.entry_bytes::<F>() - 1);
            let address = victim.system.linear(PhysAddr(victim.data.0 - offset));
            victim.with_planted(place, entry, |findings| {
                let expected = Finding::WrongLinearLeaf { address, entry };
                assert!(findings.contains(&expected), "{config:?} {attrs:?} {findings:?}");
            });
        }
    }
}

/// Recorded tables that no root leads to are looked for in the linear map all the same.
fn a_recorded_table_that_nothing_maps_is_found<F: HostedFormat, S: Protection>() {
    for config in protecting_configs().filter(|config| config.linear == Level::Pte) {
        let system = System::<F, S>::build(config, SMALL);
        let table = page::<F>(517);
        system.paging.record_early_ptps(table, 1).expect("there is room in the record");
        system.enable_protection().expect("it is mapped");
        system.assert_clean(&[]);
        let place = system.linear_place(table);
        system.plant(place.table, place.index, Entry(0));
        let unmapped = Finding::UnprotectedPtp { frame: table, level: F::ROOT, key: None };
        assert_eq!(system.findings(&[]), [unmapped], "{config:?}");
    }
}

for_both_formats_and_schemes!(
    what_is_in_a_hole_is_refused_and_no_entry_changed,
    a_record_in_a_hole_is_refused_before_protection_begins,
    a_frame_in_a_hole_becomes_no_table,
    a_leaf_that_is_not_data_of_its_own_frame_is_found,
    a_recorded_table_that_nothing_maps_is_found,
);
