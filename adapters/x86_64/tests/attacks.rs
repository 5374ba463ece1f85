//! Stray stores to tables: they work before the tables are adopted, and fault after.

mod support;

use kpkeys::Pkey;
use kpkeys_hosted::mmu::Fault;
use support::{Bare, DATA, Huge, System, device, page, tables};
use x86_64::structures::paging::mapper::{CleanUp, Mapper};
use x86_64::structures::paging::{FrameAllocator, Size4KiB};

const BLOCKED: Result<(), Fault> = Err(Fault::Key(Pkey::PAGE_TABLES));
const ADDRESS: u64 = 0xffff_c900_0000_0000;

fn a_store_to_any_table_works_before_and_faults_after(mut bare: Bare) {
    bare.map(page::<Size4KiB>(ADDRESS), device(0), DATA).unwrap();
    let before = tables(&bare.arena, bare.root);
    assert!((1..=4).all(|level| before.iter().any(|table| table.0 == level)));
    for &(level, table) in &before {
        assert_eq!(bare.attack(table, 3), Ok(()), "level {level}, {table:?}");
    }

    let system = bare.adopt().map_err(|(error, _)| error).unwrap();
    let after = tables(&system.arena, system.root());
    for (level, table) in after {
        assert_eq!(system.attack(table, 3), BLOCKED, "level {level}, {table:?}");
        assert!(system.protection.protects(table));
    }
    for (_, table) in before {
        assert_eq!(system.attack(table, 511), BLOCKED, "adoption frees nothing");
    }
    let data = system.frames.borrow_mut().allocate_frame().unwrap();
    assert_eq!(system.attack(data, 0), Ok(()), "data beside it stays writable");
}

#[test]
fn a_store_to_any_table_works_before_and_faults_after_in_a_linear_map_of_pages() {
    a_store_to_any_table_works_before_and_faults_after(Bare::new::<Size4KiB>());
}

/// Each block with a table in it is split.
#[test]
fn a_store_to_any_table_works_before_and_faults_after_in_a_linear_map_of_blocks() {
    a_store_to_any_table_works_before_and_faults_after(Bare::new::<Huge>());
}

#[test]
fn a_table_made_later_is_protected_from_the_start_and_data_again_once_it_is_freed() {
    let system = System::new::<Huge>();
    let mut mapper = system.mapper();
    let mut frames = system.frames.borrow_mut();
    let old = tables(&system.arena, system.root());
    // SAFETY: a model's tables.
    unsafe { mapper.map_to(page::<Size4KiB>(ADDRESS), device(1), DATA, &mut *frames) }
        .unwrap()
        .ignore();
    let new: Vec<_> = tables(&system.arena, system.root())
        .into_iter()
        .filter(|table| !old.contains(table))
        .map(|(_, table)| table)
        .collect();
    assert_eq!(new.len(), 3);
    assert!(new.iter().all(|&table| system.attack(table, 0) == BLOCKED));

    mapper.unmap(page::<Size4KiB>(ADDRESS)).unwrap().1.ignore();
    // SAFETY: tables are used once.
    unsafe { mapper.clean_up(&mut *frames) };
    assert_eq!(frames.given_back.len(), 3);
    assert!(new.iter().all(|table| frames.given_back.contains(table)));
    assert!(new.iter().all(|&table| system.attack(table, 0) == Ok(())));
}

#[test]
fn roots_of_address_spaces_are_protected_and_see_the_kernel() {
    let system = System::new::<Size4KiB>();
    let mut frames = system.frames.borrow_mut();
    let root = system.protection.new_root(&mut *frames).unwrap();
    assert_eq!(system.attack(root, 0), BLOCKED);
    for index in 0..512 {
        let kernels = support::read(&system.arena, system.root(), index);
        let expected = if index < 256 { 0 } else { kernels };
        assert_eq!(support::read(&system.arena, root, index), expected, "{index}");
    }
    // SAFETY: from `new_root`, and the only mapper.
    let mut mapper = unsafe { system.protection.tables(root) };
    // SAFETY: a model's tables.
    unsafe { mapper.map_to(page::<Size4KiB>(0x1000), device(1), DATA, &mut *frames) }
        .unwrap()
        .ignore();
    assert!(tables(&system.arena, root).iter().all(|table| system.attack(table.1, 9) == BLOCKED));
    mapper.unmap(page::<Size4KiB>(0x1000)).unwrap().1.ignore();
    let lower = x86_64::structures::paging::Page::range_inclusive(page(0), page(0x7fff_ffff_f000));
    // SAFETY: tables are used once, those of the upper half are left alone.
    unsafe { mapper.clean_up_addr_range(lower, &mut *frames) };
    // SAFETY: nobody uses the root.
    unsafe { system.protection.release_root(root, &mut *frames) };
    assert_eq!(frames.given_back.len(), 4);
    assert_eq!(system.attack(root, 0), Ok(()));
}

#[test]
fn frames_in_stock_are_protected() {
    let system = System::new::<Size4KiB>();
    let mut frames = system.frames.borrow_mut();
    system.protection.reserve(40, &mut *frames).unwrap();
    assert_eq!(system.protection.reserved(), 40);
    let first = tables(&system.arena, system.root()).len() as u64;
    assert!((first..first + 40).all(|number| system.attack(support::frame(number), 0) == BLOCKED));
}

/// The wrapped crate's code, and whatever else runs in the closure, is inside the window: there, nothing is promised.
#[test]
fn inside_a_batch_a_stray_store_goes_through_and_after_it_no_more() {
    let system = System::new::<Size4KiB>();
    let mut frames = system.frames.borrow_mut();
    let attack = || system.attack(system.root(), 3);
    // SAFETY: an attack on a model, that stores what is there.
    let inside = unsafe { system.mapper().batch(0, &mut *frames, |_| attack()) };
    assert_eq!(inside, Ok(Ok(())));
    assert_eq!(system.attack(system.root(), 3), BLOCKED);
}
