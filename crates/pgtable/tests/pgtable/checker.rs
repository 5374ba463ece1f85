//! The checker: silent on clean systems in every configuration, and loud about each planted violation.
//!
//! Violations are planted through the raw view of memory, one at a time, and taken back: after each the system is clean again, so
//! every finding is that violation's.

use crate::support::victim::{Victim, levels};
use crate::support::{KERNEL, Place, Protection, USER, configs, protecting_configs};
use kpkeys::Pkey;
use kpkeys_hosted::HostedFormat;
use kpkeys_pgtable::check::{self, Finding, Scratch};
use kpkeys_pgtable::{Attrs, Config, Entry, Level, Machine, PhysAddr, VirtAddr};

fn clean_systems_are_clean_in_every_configuration<F: HostedFormat>() {
    for config in configs() {
        let victim = Victim::<F>::new(config);
        assert_eq!(victim.findings(), [], "{config:?}");
        // Without the user's root, its tables are pages that carry the key for no reason the checker knows.
        let forgotten = victim.system.findings(&[]).len();
        let expected = if config.mode.protects() { levels::<F>().count() } else { 0 };
        assert_eq!(forgotten, expected, "{config:?}");
    }
}

fn a_table_of_any_level_with_another_key_is_found<F: HostedFormat>() {
    for config in protecting_configs() {
        let victim = Victim::<F>::new(config);
        for level in levels::<F>() {
            let frame = victim.user_table(level);
            let place = victim.system.linear_place(frame);
            for key in [Pkey::DEFAULT, Pkey::new(2).unwrap(), Pkey::new(F::KEYS - 1).unwrap()] {
                victim.with_planted(place, F::with_key(place.entry, key), |findings| {
                    let expected = Finding::UnprotectedPtp { frame, level, key: Some(key) };
                    assert!(findings.contains(&expected), "{config:?} {level:?} {findings:?}");
                });
            }
        }
    }
}

fn a_kernel_table_without_key_is_found<F: HostedFormat>() {
    for config in protecting_configs() {
        let victim = Victim::<F>::new(config);
        for (level, frame) in victim.system.tables(victim.system.paging.kernel()) {
            let place = victim.system.linear_place(frame);
            let opened = F::with_key(place.entry, Pkey::DEFAULT);
            victim.system.plant(place.table, place.index, opened);
            let expected = Finding::UnprotectedPtp { frame, level, key: Some(Pkey::DEFAULT) };
            assert!(victim.findings().contains(&expected), "{config:?} {level:?}");
            victim.system.plant(place.table, place.index, place.entry);
        }
        assert_eq!(victim.findings(), []);
    }
}

fn a_data_page_with_the_key_is_found<F: HostedFormat>() {
    for config in protecting_configs().filter(|config| config.linear == Level::Pte) {
        let victim = Victim::<F>::new(config);
        let place = victim.system.linear_place(victim.data);
        victim.with_planted(place, F::with_key(place.entry, Pkey::PAGE_TABLES), |findings| {
            assert_eq!(findings, [Finding::KeyedData { frame: victim.data }], "{config:?}");
        });
    }
}

fn a_writable_alias_in_either_half_is_found<F: HostedFormat>() {
    for config in protecting_configs().filter(|config| config.linear != Level::Pud) {
        let victim = Victim::<F>::new(config);
        for level in levels::<F>() {
            let frame = victim.user_table(level);
            for (root, address, attrs) in victim.unmapped_pages() {
                let place = victim.empty_slot(Level::Pte, root, address);
                // Clean is no excuse: the first store makes it dirty.
                for attrs in [attrs, Attrs { dirty: false, young: false, ..attrs }] {
                    let alias = F::leaf(Level::Pte, frame, attrs).unwrap();
                    victim.with_planted(place, alias, |findings| {
                        let expected = [Finding::WritableAlias { frame, address }];
                        assert_eq!(findings, expected, "{config:?} {level:?}");
                    });
                }
                // An alias that cannot be written does no harm, and neither does one that carries the key.
                let harmless = [attrs.read_only(), attrs.with_key(Pkey::PAGE_TABLES)];
                for attrs in harmless {
                    let alias = F::leaf(Level::Pte, frame, attrs).unwrap();
                    let is_user_keyed = attrs.user && attrs.write;
                    victim.with_planted(place, alias, |findings| {
                        // User pages do not follow the kernel's register: the key protects nothing there.
                        assert_eq!(!findings.is_empty(), is_user_keyed, "{config:?} {attrs:?}");
                    });
                }
            }
        }
    }
}

fn a_block_alias_is_found_for_each_table_in_it<F: HostedFormat>() {
    for config in protecting_configs() {
        let victim = Victim::<F>::new(config);
        let frame = victim.user_table(Level::Pte);
        let block = PhysAddr(frame.0 & !((1 << 21) - 1));
        let address = VirtAddr(KERNEL.0 + (1 << 21));
        let place = victim.empty_slot(Level::Pmd, victim.system.paging.kernel(), address);
        let alias = F::leaf(Level::Pmd, block, Attrs::KERNEL_DATA).unwrap();
        victim.with_planted(place, alias, |findings| {
            let address = VirtAddr(address.0 + (frame.0 - block.0));
            assert!(findings.contains(&Finding::WritableAlias { frame, address }), "{config:?}");
        });
    }
}

fn a_linear_entry_that_maps_another_frame_is_found<F: HostedFormat>() {
    for config in protecting_configs().filter(|config| config.linear == Level::Pte) {
        let victim = Victim::<F>::new(config);
        let frame = victim.user_table(Level::Pmd);
        let place = victim.system.linear_place(victim.data);
        let swapped = F::leaf(Level::Pte, frame, Attrs::KERNEL_DATA).unwrap();
        victim.with_planted(place, swapped, |findings| {
            let address = victim.system.linear(victim.data);
            let wrong = Finding::WrongLinearLeaf { address, entry: swapped };
            assert_eq!(findings, [wrong, Finding::WritableAlias { frame, address }], "{config:?}");
        });
    }
}

fn an_entry_that_points_outside_memory_is_found_and_not_followed<F: HostedFormat>() {
    for config in configs() {
        let victim = Victim::<F>::new(config);
        let memory = victim.system.machine().memory();
        for outside in [PhysAddr(0), memory.frame(memory.pages), PhysAddr(0xffff_ffff_f000)] {
            let address = VirtAddr(USER.0 + (1 << 21));
            let place = victim.empty_slot(Level::Pmd, &victim.user, address);
            let entry = F::table(outside, true);
            victim.with_planted(place, entry, |findings| {
                assert_eq!(findings, [Finding::StrayTable { address, entry }], "{config:?}");
            });
        }
    }
}

fn a_table_linked_twice_is_found<F: HostedFormat>() {
    for config in configs() {
        let victim = Victim::<F>::new(config);
        let frame = victim.user_table(Level::Pte);
        let address = VirtAddr(USER.0 + (1 << 21));
        let place = victim.empty_slot(Level::Pmd, &victim.user, address);
        victim.with_planted(place, F::table(frame, true), |findings| {
            assert!(findings.contains(&Finding::SharedPtp { frame, address }), "{config:?}");
        });
        // A table linked below itself ends the walk there.
        let frame = victim.user_table(Level::Pmd);
        victim.with_planted(place, F::table(frame, true), |findings| {
            assert!(findings.contains(&Finding::SharedPtp { frame, address }), "{config:?}");
        });
    }
}

fn a_data_page_linked_as_a_table_is_found<F: HostedFormat>() {
    for config in protecting_configs() {
        let victim = Victim::<F>::new(config);
        let fake = victim.data;
        let place = victim.empty_slot(Level::Pmd, &victim.user, VirtAddr(USER.0 + (1 << 21)));
        victim.with_planted(place, F::table(fake, true), |findings| {
            let key = Some(Pkey::DEFAULT);
            let expected = Finding::UnprotectedPtp { frame: fake, level: Level::Pte, key };
            assert!(findings.contains(&expected), "{config:?} {findings:?}");
        });
    }
}

fn a_spare_of_the_pool_is_found_linked_and_found_without_key<F: HostedFormat>() {
    for linear in [Level::Pte, Level::Pmd] {
        let config = Config { mode: kpkeys_pgtable::Mode::Fused, linear, pool: true };
        let victim = Victim::<F>::new(config);
        // The page that the next allocation would return.
        let spare = victim.system.new_user_root();
        let frame = spare.frame();
        victim.system.paging.release_user_root(spare);
        let address = VirtAddr(USER.0 + (1 << 21));
        let place = victim.empty_slot(Level::Pmd, &victim.user, address);
        victim.with_planted(place, F::table(frame, true), |findings| {
            let shared = |finding: &Finding| matches!(finding, Finding::SharedPtp { frame: f, .. } if *f == frame);
            assert!(findings.iter().any(shared), "{config:?} {findings:?}");
        });
        let place = victim.system.linear_place(frame);
        victim.with_planted(place, F::with_key(place.entry, Pkey::DEFAULT), |findings| {
            let expected = Finding::UnprotectedSpare { frame, key: Some(Pkey::DEFAULT) };
            assert!(findings.contains(&expected), "{config:?} {findings:?}");
        });
    }
}

/// Entries of a root that translate for the CPU and belong to nobody: the other half of arm64's roots, and a user root's own idea of
/// the kernel's half on x86-64.
fn an_entry_in_the_wrong_half_of_a_root_is_found<F: HostedFormat>() {
    for config in configs() {
        let victim = Victim::<F>::new(config);
        let table = F::table(victim.user_table(Level::Pmd), true);
        let cases = [(victim.user.frame(), 300), (victim.system.paging.kernel().frame(), 7)];
        for (root, index) in cases {
            let place = Place { table: root, index, level: F::ROOT, entry: Entry::EMPTY };
            assert_eq!(victim.system.read(root, index), Entry::EMPTY);
            victim.with_planted(place, table, |findings| {
                let expected = Finding::ForeignRootEntry { root, index, entry: table };
                assert!(findings.contains(&expected), "{config:?} {findings:?}");
            });
        }
    }
}

/// What an attacker stores follows no convention: whatever lets hardware write counts as writable.
#[test]
fn an_arm64_alias_that_hardware_may_write_is_found_however_it_is_spelled() {
    use kpkeys_pgtable::entry::Aarch64;
    const AP_READ_ONLY: u64 = 1 << 7;
    const DBM: u64 = 1 << 51;
    let config = Config::of(kpkeys_pgtable::Mode::Batched);
    let victim = Victim::<Aarch64>::new(config);
    let frame = victim.user_table(Level::Pte);
    let address = KERNEL.offset_pages::<Aarch64>(9);
    let place = victim.empty_slot(Level::Pte, victim.system.paging.kernel(), address);
    let leaf = <Aarch64 as kpkeys_pgtable::Format>::leaf(Level::Pte, frame, Attrs::KERNEL_DATA);
    let base = leaf.unwrap().0 & !(AP_READ_ONLY | DBM);
    for (bits, writable) in
        [(0, true), (DBM, true), (DBM | AP_READ_ONLY, true), (AP_READ_ONLY, false)]
    {
        victim.with_planted(place, Entry(base | bits), |findings| {
            assert_eq!(!findings.is_empty(), writable, "bits {bits:#x}");
        });
    }
}

fn too_little_scratch_memory_is_refused<F: HostedFormat>() {
    let victim = Victim::<F>::new(Config::of(kpkeys_pgtable::Mode::Batched));
    let words = Scratch::words(&victim.system.machine().memory());
    let mut scratch = vec![0; words - 1];
    let check = |scratch: &mut [u64]| {
        check::check(&victim.system.paging, &[&victim.user], Scratch::new(scratch), |_| ())
    };
    assert_eq!(check(&mut scratch), None);
    scratch.push(u64::MAX);
    let report = check(&mut scratch).expect("it is enough, whatever it holds");
    assert_eq!(report.findings, 0);
    let tables = victim.system.tables(victim.system.paging.kernel()).len();
    assert_eq!(report.ptps, tables + 4, "the kernel's tables, and four of the user's");
}

fn every_finding_names_the_page<F: HostedFormat>() {
    let victim = Victim::<F>::new(Config::of(kpkeys_pgtable::Mode::Batched));
    let frame = victim.user_table(Level::Pte);
    let place = victim.system.linear_place(frame);
    victim.with_planted(place, F::with_key(place.entry, Pkey::DEFAULT), |findings| {
        let text = findings.first().expect("it is found").to_string();
        assert_eq!(text, format!("Pte table at {frame:?} carries key 0"));
    });
}

fn a_table_that_the_linear_map_does_not_map_is_found<F: HostedFormat, S: Protection>() {
    for config in protecting_configs() {
        let victim = Victim::<F, S>::new(config);
        let frame = victim.user_table(Level::Pte);
        let place = victim.system.linear_place(frame);
        victim.with_planted(place, Entry::EMPTY, |findings| {
            let expected = Finding::UnprotectedPtp { frame, level: Level::Pte, key: None };
            assert!(findings.contains(&expected), "{config:?} {findings:?}");
        });
    }
}

mod in_both_schemes {
    use super::a_table_that_the_linear_map_does_not_map_is_found;
    for_both_formats_and_schemes!(a_table_that_the_linear_map_does_not_map_is_found);
}

for_both_formats!(
    clean_systems_are_clean_in_every_configuration,
    a_table_of_any_level_with_another_key_is_found,
    a_kernel_table_without_key_is_found,
    a_data_page_with_the_key_is_found,
    a_writable_alias_in_either_half_is_found,
    a_block_alias_is_found_for_each_table_in_it,
    a_linear_entry_that_maps_another_frame_is_found,
    an_entry_that_points_outside_memory_is_found_and_not_followed,
    a_table_linked_twice_is_found,
    a_data_page_linked_as_a_table_is_found,
    a_spare_of_the_pool_is_found_linked_and_found_without_key,
    an_entry_in_the_wrong_half_of_a_root_is_found,
    too_little_scratch_memory_is_refused,
    every_finding_names_the_page,
);
