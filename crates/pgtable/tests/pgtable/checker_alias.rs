//! The checker where page tables are protected by an alias: silent on clean systems, and loud about each planted violation.
//!
//! Violations are planted through the raw view of memory, one at a time, and taken back, as in `checker`.

use crate::support::victim::{self, levels};
use crate::support::{Aliased, configs, protecting_configs};
use kpkeys::Pkey;
use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::machine::ALIAS_START;
use kpkeys_pgtable::check::Finding;
use kpkeys_pgtable::{Attrs, Config, Entry, Level, Machine, Mode};

type Victim<F> = victim::Victim<F, Aliased>;

/// Set-ups in which the alias of a table is an entry of its own, not part of a block's.
fn of_pages() -> impl Iterator<Item = Config> {
    protecting_configs().filter(|config| !config.pool)
}

fn clean_systems_are_clean_in_every_configuration<F: HostedFormat>() {
    for config in configs() {
        let victim = Victim::<F>::new(config);
        // Without the user's root, its tables are pages with an alias for no reason the checker knows.
        let forgotten = victim.system.findings(&[]);
        let expected = if config.mode.protects() { levels::<F>().count() } else { 0 };
        assert_eq!(forgotten.len(), expected, "{config:?}");
        let aliased = |finding: &Finding| matches!(finding, Finding::AliasedData { .. });
        assert!(forgotten.iter().all(aliased), "{config:?} {forgotten:?}");
    }
}

fn a_table_that_is_writable_in_the_linear_map_is_found<F: HostedFormat>() {
    for config in protecting_configs() {
        let victim = Victim::<F>::new(config);
        let kernel = victim.system.tables(victim.system.paging.kernel());
        let tables = levels::<F>().map(|level| (level, victim.user_table(level)));
        for (level, frame) in tables.into_iter().chain(kernel) {
            let place = victim.system.linear_place(frame);
            // A key does not make up for it: it binds nothing.
            for key in [Pkey::DEFAULT, Pkey::PAGE_TABLES] {
                let entry = F::with_key(F::writable(place.entry), key);
                victim.system.plant(place.table, place.index, entry);
                let expected = Finding::WritablePtp { frame, level };
                assert!(victim.findings().contains(&expected), "{config:?} {level:?} {key:?}");
                victim.system.plant(place.table, place.index, place.entry);
            }
        }
        assert_eq!(victim.findings(), []);
    }
}

fn a_table_without_its_alias_is_found<F: HostedFormat>() {
    for config in protecting_configs() {
        let victim = Victim::<F>::new(config);
        for level in levels::<F>() {
            let frame = victim.user_table(level);
            let address = victim.system.paging.alias_of(frame).unwrap();
            victim.with_planted(victim.alias_place(frame), Entry::EMPTY, |findings| {
                let expected = Finding::WrongAlias { frame, address, entry: Entry::EMPTY };
                assert!(findings.contains(&expected), "{config:?} {level:?} {findings:?}");
            });
        }
    }
}

/// Every bit that decides who may do what with the alias.
fn an_alias_with_other_permissions_is_found<F: HostedFormat>() {
    for config in protecting_configs() {
        let victim = Victim::<F>::new(config);
        for level in levels::<F>() {
            let frame = victim.user_table(level);
            let place = victim.alias_place(frame);
            let address = victim.system.paging.alias_of(frame).unwrap();
            let start = F::frame(place.level, place.entry);
            let user = Attrs::USER_DATA;
            let wrong = [
                // Open to the kernel at any time: the one that matters most.
                Attrs::KERNEL_DATA,
                user.read_only(),
                Attrs { execute: true, ..user },
                user.with_key(Pkey::PAGE_TABLES),
            ];
            // All of it right, but global: bit 8 (G), or bit 11 (nG).
            let global = match F::USER_ROOT_HAS_KERNEL_HALF {
                true => Entry(place.entry.0 | 1 << 8),
                false => Entry(place.entry.0 & !(1 << 11)),
            };
            let wrong = wrong.map(|attrs| F::leaf(place.level, start, attrs).unwrap());
            for entry in wrong.into_iter().chain([global]) {
                victim.with_planted(place, entry, |findings| {
                    let expected = Finding::WrongAlias { frame, address, entry };
                    assert!(findings.contains(&expected), "{config:?} {findings:?}");
                });
            }
        }
    }
}

/// To a program the alias is memory of its own: its root must not lead there.
fn a_programs_root_leads_to_no_alias_and_one_that_does_is_found<F: HostedFormat>() {
    for config in protecting_configs() {
        let victim = Victim::<F>::new(config);
        let root = victim.user_table(F::ROOT);
        let index = ALIAS_START.index::<F>(F::ROOT);
        let kernel = victim.system.read(victim.system.paging.kernel().frame(), index);
        let own = victim.system.read(root, index);
        assert!(!kernel.is_empty() && own.is_empty(), "{config:?}");
        victim.system.plant(root, index, kernel);
        let expected = Finding::ForeignRootEntry { root, index, entry: kernel };
        assert!(victim.findings().contains(&expected), "{config:?}");
        victim.system.plant(root, index, own);
    }
}

fn an_alias_of_another_page_is_found_at_both<F: HostedFormat>() {
    for config in of_pages() {
        let victim = Victim::<F>::new(config);
        let (frame, other) = (victim.user_table(Level::Pte), victim.user_table(Level::Pmd));
        let place = victim.alias_place(frame);
        let address = victim.system.paging.alias_of(frame).unwrap();
        // To another table: stores to the one would change the other.
        let entry = F::alias(Level::Pte, other).unwrap();
        victim.with_planted(place, entry, |findings| {
            let wrong = Finding::WrongAlias { frame, address, entry };
            let second = Finding::WritableAlias { frame: other, address };
            assert_eq!(findings.len(), 2, "{findings:?}");
            assert!(findings.contains(&wrong) && findings.contains(&second), "{findings:?}");
        });
        // To data.
        let entry = F::alias(Level::Pte, victim.data).unwrap();
        victim.with_planted(place, entry, |findings| {
            assert_eq!(findings, [Finding::WrongAlias { frame, address, entry }]);
        });
    }
}

fn data_with_an_alias_is_found_whatever_it_allows<F: HostedFormat>() {
    for config in of_pages() {
        let victim = Victim::<F>::new(config);
        let frame = victim.data;
        let place = victim.alias_place(frame);
        assert!(place.entry.is_empty() && place.level == Level::Pte, "{place:?}");
        let address = victim.system.paging.alias_of(frame).unwrap();
        let entries = [
            F::alias(Level::Pte, frame),
            F::leaf(Level::Pte, frame, Attrs::USER_DATA.read_only()),
            F::leaf(Level::Pte, frame, Attrs::KERNEL_DATA),
        ];
        for entry in entries {
            victim.with_planted(place, entry.unwrap(), |findings| {
                assert_eq!(findings, [Finding::AliasedData { frame, address }], "{config:?}");
            });
        }
    }
}

/// Over memory that the pool has nothing of, a whole block.
fn a_block_of_data_with_an_alias_is_found_page_by_page<F: HostedFormat>() {
    let config = Config::of(Mode::Fused);
    let victim = Victim::<F>::new(config);
    let frame = victim.system.machine().memory().start;
    let place = victim.alias_place(frame);
    assert!(place.entry.is_empty() && place.level == Level::Pmd, "{place:?}");
    victim.with_planted(place, F::alias(Level::Pmd, frame).unwrap(), |findings| {
        assert_eq!(findings.len(), 512);
        for page in 0..512 {
            let bytes = page * F::PAGE_SIZE;
            let (frame, address) = (frame.offset(bytes), ALIAS_START.offset(bytes));
            assert!(findings.contains(&Finding::AliasedData { frame, address }), "page {page}");
        }
    });
}

fn any_other_writable_mapping_of_a_table_is_found<F: HostedFormat>() {
    for config in protecting_configs() {
        let victim = Victim::<F>::new(config);
        for level in levels::<F>() {
            let frame = victim.user_table(level);
            for (root, address, attrs) in victim.unmapped_pages() {
                let place = victim.empty_slot(Level::Pte, root, address);
                // Without keys, a key excuses nothing. And neither do the alias's own permissions, elsewhere.
                let elsewhere = [
                    F::leaf(Level::Pte, frame, attrs),
                    F::leaf(Level::Pte, frame, attrs.with_key(Pkey::PAGE_TABLES)),
                    F::alias(Level::Pte, frame),
                ];
                for entry in elsewhere {
                    victim.with_planted(place, entry.unwrap(), |findings| {
                        let expected = [Finding::WritableAlias { frame, address }];
                        assert_eq!(findings, expected, "{config:?} {level:?}");
                    });
                }
                let harmless = F::leaf(Level::Pte, frame, attrs.read_only()).unwrap();
                victim.with_planted(place, harmless, |findings| assert_eq!(findings, []));
            }
        }
    }
}

fn a_spare_of_the_pool_must_be_protected_too<F: HostedFormat>() {
    for linear in [Level::Pte, Level::Pmd] {
        let victim = Victim::<F>::new(Config { mode: Mode::Fused, linear, pool: true });
        let spare = victim.system.new_user_root();
        let frame = spare.frame();
        victim.system.paging.release_user_root(spare);
        let place = victim.system.linear_place(frame);
        victim.with_planted(place, F::writable(place.entry), |findings| {
            assert!(findings.contains(&Finding::WritableSpare { frame }), "{findings:?}");
        });
        let address = victim.system.paging.alias_of(frame).unwrap();
        victim.with_planted(victim.alias_place(frame), Entry::EMPTY, |findings| {
            let expected = Finding::WrongAlias { frame, address, entry: Entry::EMPTY };
            assert!(findings.contains(&expected), "{findings:?}");
        });
    }
}

fn every_finding_names_the_page<F: HostedFormat>() {
    let victim = Victim::<F>::new(Config::of(Mode::Batched));
    let frame = victim.user_table(Level::Pte);
    let place = victim.system.linear_place(frame);
    victim.with_planted(place, F::writable(place.entry), |findings| {
        let text = findings.first().expect("it is found").to_string();
        assert_eq!(text, format!("Pte table at {frame:?} is writable in the linear map"));
    });
    victim.with_planted(victim.alias_place(frame), Entry::EMPTY, |findings| {
        let text = findings.first().expect("it is found").to_string();
        let address = victim.system.paging.alias_of(frame).unwrap();
        let start = format!("page-table page {frame:?} has entry 0x0000000000000000");
        assert_eq!(text, format!("{start} for its alias at {address:?}"));
    });
}

for_both_formats!(
    clean_systems_are_clean_in_every_configuration,
    a_table_that_is_writable_in_the_linear_map_is_found,
    a_table_without_its_alias_is_found,
    an_alias_with_other_permissions_is_found,
    a_programs_root_leads_to_no_alias_and_one_that_does_is_found,
    an_alias_of_another_page_is_found_at_both,
    data_with_an_alias_is_found_whatever_it_allows,
    a_block_of_data_with_an_alias_is_found_page_by_page,
    any_other_writable_mapping_of_a_table_is_found,
    a_spare_of_the_pool_must_be_protected_too,
    every_finding_names_the_page,
);
