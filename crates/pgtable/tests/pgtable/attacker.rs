//! The attacker: kernel stores to page tables, through the MMU model, with the register as it really is.
//!
//! Every attack is first shown to work with protection off.

use crate::support::{KERNEL, Keys, LARGE, Protection, SMALL, System, USER, configs, pages};
use kpkeys::context::PageTables;
use kpkeys::{Guard, Pkey};
use kpkeys_hosted::HostedFormat;
use kpkeys_hosted::mmu::{Fault, Privilege, Want};
use kpkeys_pgtable::entry::{Aarch64, X86_64};
use kpkeys_pgtable::{Attrs, Level, Machine, Mode, PhysAddr, Root, VirtAddr};

/// A system with one user and one kernel mapping: tables of all four levels in both halves.
fn populated<F: HostedFormat, S: Protection>(
    config: kpkeys_pgtable::Config,
) -> (System<F, S>, Root) {
    let memory = if config.linear == Level::Pud { LARGE } else { SMALL };
    let system = System::<F, S>::boot(config, memory);
    let data = system.data_block(0);
    system.map(system.paging.kernel(), pages(KERNEL, 1), Attrs::KERNEL_DATA, data).unwrap();
    let user = system.new_user_root();
    system.map(&user, pages(USER, 1), Attrs::USER_DATA, data).unwrap();
    (system, user)
}

/// Stores the first word of a table over itself, so that an attack that works does no harm.
fn attack<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    user: &Root,
    table: PhysAddr,
) -> Result<(), Fault> {
    let same = system.read(table, 0);
    system.mmu(Some(user)).store(system.linear(table), same.0)
}

/// The same by the address that the page-table code stores through.
fn attack_as_stored<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    user: &Root,
    table: PhysAddr,
) -> Result<(), Fault> {
    let same = system.read(table, 0);
    let address = system.paging.alias_of(table).unwrap_or(system.linear(table));
    system.mmu(Some(user)).store(address, same.0)
}

/// Each table with its level, and what a store to it through the linear map comes to.
fn attack_all<F: HostedFormat, S: Protection>(
    system: &System<F, S>,
    user: &Root,
) -> Vec<(Level, PhysAddr, Result<(), Fault>)> {
    let mut tables = system.tables(system.paging.kernel());
    tables.extend(system.tables(user));
    tables.into_iter().map(|(level, table)| (level, table, attack(system, user, table))).collect()
}

fn every_table_of_every_level_refuses_a_store_unless_protection_is_off<
    F: HostedFormat,
    S: Protection,
>() {
    for config in configs() {
        let (system, user) = populated::<F, S>(config);
        let attacks = attack_all(&system, &user);
        for level in [Level::Pte, Level::Pmd, Level::Pud, F::ROOT] {
            assert!(attacks.iter().any(|attack| attack.0 == level), "no {level:?} table attacked");
        }
        for (level, table, outcome) in attacks {
            let refused = Err(system.fault(table));
            let expected = if config.mode == Mode::Off { Ok(()) } else { refused };
            assert_eq!(outcome, expected, "{config:?}: {level:?} table at {table:?}");
            // And through the alias, if there is one: at any level, whose leaf is PAN's to refuse.
            let outcome = attack_as_stored(&system, &user, table);
            assert_eq!(outcome.is_ok(), config.mode == Mode::Off, "{config:?}: {outcome:?}");
        }
    }
}

fn inside_a_window_the_store_goes_through_and_after_it_no_more<F: HostedFormat, S: Protection>() {
    for config in configs().filter(|config| config.mode.protects()) {
        let (system, user) = populated::<F, S>(config);
        // SAFETY: the only window of this CPU; what runs in it is an attack that writes back.
        let window: Guard<'_, _, PageTables> = unsafe { Guard::enter(system.machine().backend()) };
        for (level, table, outcome) in attack_all(&system, &user) {
            let what = format!("{config:?}: {level:?} table at {table:?}");
            if system.paging.key_of_protected(table) != Pkey::PAGE_TABLES {
                // This window is not for tables with a key of their own.
                assert_eq!(outcome, Err(system.fault(table)), "{what}");
                continue;
            }
            assert_eq!(attack_as_stored(&system, &user, table), Ok(()), "{what}");
            // The linear map's address opens with the window only if it is the one that tables are stored through.
            assert_eq!(outcome.is_ok(), system.paging.alias_of(table).is_none(), "{what}");
        }
        drop(window);
        for (level, table, outcome) in attack_all(&system, &user) {
            let refused = Err(system.fault(table));
            assert_eq!(outcome, refused, "{config:?}: {level:?} table at {table:?}");
            assert!(attack_as_stored(&system, &user, table).is_err(), "{config:?}: {level:?}");
        }
    }
}

fn data_next_to_tables_stays_writable<F: HostedFormat, S: Protection>() {
    for config in configs() {
        let (system, user) = populated::<F, S>(config);
        let data = system.data_block(0);
        let stored = system.mmu(Some(&user)).store(system.linear(data), 0x1234);
        assert_eq!(stored, Ok(()), "{config:?}");
        assert_eq!(system.read(data, 0).0, 0x1234);
    }
}

fn reading_tables_needs_no_window<F: HostedFormat, S: Protection>() {
    for config in configs() {
        let (system, user) = populated::<F, S>(config);
        for (level, table) in system.tables(&user) {
            let read =
                system.mmu(Some(&user)).access(system.linear(table), Want::Read, Privilege::Kernel);
            assert_eq!(read, Ok(table), "{config:?}: {level:?}");
        }
    }
}

/// What a key's register field allows: read, write, execute.
type Allowed = (u64, [bool; 3]);

/// Intel SDM vol. 3A 5.6.2: access-disable is bit 0 of the field, write-disable bit 1; fetches are not restricted.
const PKRS_TABLE: [Allowed; 4] = [
    (0b00, [true, true, true]),
    (0b01, [false, false, true]),
    (0b10, [true, false, true]),
    (0b11, [false, false, true]),
];

/// Arm ARM, POR_EL1: read is bit 0, execute bit 1, write bit 2.
const POR_TABLE: [Allowed; 9] = [
    (0b000, [false, false, false]),
    (0b001, [true, false, false]),
    (0b010, [false, false, true]),
    (0b011, [true, false, true]),
    (0b100, [false, true, false]),
    (0b101, [true, true, false]),
    (0b110, [false, true, true]),
    (0b111, [true, true, true]),
    // Reserved.
    (0b1111, [false, false, false]),
];

/// Every key, every register field, every access, every leaf permission, in both privileges: against the table.
fn keys_follow_the_manual<F: HostedFormat>(bits: u32, table: &[Allowed]) {
    let config = kpkeys_pgtable::Config { mode: Mode::Off, linear: Level::Pte, pool: false };
    let system = System::<F>::boot(config, SMALL);
    let data = system.data_block(0);
    let user = system.new_user_root();
    system.map(&user, pages(USER, 1), Attrs::USER_DATA, data).unwrap();
    system.map(system.paging.kernel(), pages(KERNEL, 1), Attrs::KERNEL_DATA, data).unwrap();
    let kernel_place = system.place(system.paging.kernel(), KERNEL);
    let user_place = system.place(&user, USER);

    for key in (0..F::KEYS).filter_map(Pkey::new) {
        for (write, execute) in [(false, false), (false, true), (true, false), (true, true)] {
            let attrs = Attrs { write, execute, key, ..Attrs::KERNEL_DATA };
            let leaf = F::leaf(Level::Pte, data, attrs).unwrap();
            system.plant(kernel_place.table, kernel_place.index, leaf);
            let user_leaf = F::leaf(Level::Pte, data, Attrs { user: true, ..attrs }).unwrap();
            system.plant(user_place.table, user_place.index, user_leaf);
            for &(field, by_key) in table {
                // All other keys get the opposite, so that reading another key's field would show.
                let others = !(((1u64 << bits) - 1) << (u32::from(key.number()) * bits));
                for rest in [0, others] {
                    let register = field << (u32::from(key.number()) * bits) | rest;
                    let mut mmu = system.mmu(Some(&user));
                    mmu.cpu.register = register;
                    let by_leaf = [true, write, execute];
                    for (i, want) in
                        [Want::Read, Want::Write, Want::Execute].into_iter().enumerate()
                    {
                        let expected = match (by_leaf[i], by_key[i]) {
                            // Keys are checked first: D8.15.5.1; Intel SDM vol. 3A 4.7.
                            (_, false) => Err(Fault::Key(key)),
                            (false, true) => Err(Fault::Permission(Level::Pte)),
                            (true, true) => Ok(data),
                        };
                        let what = format!("key {key:?} field {field:#b} {want:?} {attrs:?}");
                        assert_eq!(mmu.access(KERNEL, want, Privilege::Kernel), expected, "{what}");
                        // The register binds supervisor pages: user pages follow another one.
                        let expected =
                            by_leaf[i].then_some(data).ok_or(Fault::Permission(Level::Pte));
                        assert_eq!(mmu.access(USER, want, Privilege::User), expected, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_key_field_and_access_follows_the_intel_manual() {
    keys_follow_the_manual::<X86_64>(2, &PKRS_TABLE);
}

#[test]
fn every_key_field_and_access_follows_the_arm_manual() {
    keys_follow_the_manual::<Aarch64>(4, &POR_TABLE);
}

fn what_does_not_translate_says_at_which_level<F: HostedFormat>() {
    let (system, user) = populated::<F, Keys>(kpkeys_pgtable::Config::of(Mode::Batched));
    let mmu = system.mmu(Some(&user));
    let read = |va| mmu.access(va, Want::Read, Privilege::Kernel);
    assert_eq!(read(VirtAddr(1 << F::HALF_BITS)), Err(Fault::NotCanonical));
    assert_eq!(read(VirtAddr(KERNEL.0 + (1 << 39))), Err(Fault::NotPresent(F::ROOT)));
    assert_eq!(read(VirtAddr(KERNEL.0 + (1 << 30))), Err(Fault::NotPresent(Level::Pud)));
    assert_eq!(read(VirtAddr(KERNEL.0 + (1 << 21))), Err(Fault::NotPresent(Level::Pmd)));
    assert_eq!(read(KERNEL.offset(F::PAGE_SIZE)), Err(Fault::NotPresent(Level::Pte)));
    assert_eq!(read(USER), Err(Fault::Permission(Level::Pte)), "SMAP, PAN");
    let by_user = mmu.access(KERNEL, Want::Read, Privilege::User);
    assert_eq!(by_user, Err(Fault::Permission(Level::Pte)));
    let mut no_user = mmu;
    no_user.user_root = None;
    let nowhere = no_user.access(USER, Want::Read, Privilege::User);
    assert_eq!(nowhere, Err(Fault::NotPresent(F::ROOT)));
}

for_both_formats_and_schemes!(
    every_table_of_every_level_refuses_a_store_unless_protection_is_off,
    inside_a_window_the_store_goes_through_and_after_it_no_more,
    data_next_to_tables_stays_writable,
    reading_tables_needs_no_window,
);

mod addresses {
    use super::*;

    for_both_formats!(what_does_not_translate_says_at_which_level);
}
