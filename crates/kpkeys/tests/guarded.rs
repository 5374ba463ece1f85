//! Values that are written in windows of their own: what the register sees of it, and what stays closed.

mod fake;

use std::ptr::NonNull;

use fake::Done::Write;
use fake::Fake;
use kpkeys::encoding::Pkrs;
use kpkeys::guarded::{Guarded, Key, Writing};
use kpkeys::keyed::Keyed;
use kpkeys::{Access, Context, Guard, Pkey, context};

const DEFAULT: u64 = 0b1010_1000;
/// Key 2 may be written, key 1 may not.
const WRITING: u64 = 0b1000_1000;
const PAGE_TABLES: u64 = 0b1010_0000;

struct Credentials;

impl Key for Credentials {
    const PKEY: Pkey = Pkey::WRITE_RARELY;
}

type Backend = Keyed<Fake<false>, Pkrs>;

fn cpu() -> (Fake<false>, Backend) {
    Fake::with_backend(DEFAULT)
}

fn guarded(backend: &Backend, value: u64) -> Guarded<u64, Credentials> {
    // SAFETY: a place that is used for nothing else and never given back.
    unsafe { Guarded::new(NonNull::from(Box::leak(Box::new(0))), backend, value) }
}

#[test]
fn a_store_is_a_window_and_a_load_is_none() {
    let (register, backend) = cpu();
    let mut user = guarded(&backend, 65534);
    assert_eq!(register.done(), [Write(WRITING), Write(DEFAULT)], "placed");
    assert_eq!(*user, 65534);
    assert_eq!(register.done(), []);
    user.set(&backend, 1000);
    assert_eq!(register.done(), [Write(WRITING), Write(DEFAULT)], "set");
    assert_eq!(*user, 1000);
}

#[test]
fn several_stores_share_a_window() {
    let (register, backend) = cpu();
    let (mut user, mut group) = (guarded(&backend, 1), guarded(&backend, 2));
    register.done();
    // SAFETY: the only guard, and stores alone in it.
    let window: Guard<'_, _, Writing<Credentials>> = unsafe { Guard::enter(&backend) };
    user.store(&window, 3);
    group.store(&window, 4);
    drop(window);
    assert_eq!((*user, *group), (3, 4));
    assert_eq!(register.done(), [Write(WRITING), Write(DEFAULT)]);
}

#[test]
fn within_a_window_for_page_tables_it_goes_back_to_that() {
    let (register, backend) = cpu();
    let mut user = guarded(&backend, 1);
    register.done();
    // SAFETY: the only guard; there are no page tables.
    let mut tables: Guard<'_, _, context::PageTables> = unsafe { Guard::enter(&backend) };
    // SAFETY: the store alone.
    let inner = unsafe { tables.within::<Writing<Credentials>>() };
    user.store(&inner, 7);
    drop(inner);
    drop(tables);
    let expected = [PAGE_TABLES, WRITING, PAGE_TABLES, DEFAULT].map(Write);
    assert_eq!(register.done(), expected);
}

#[test]
fn a_window_for_data_opens_no_page_table() {
    let access = <Writing<Credentials> as Context>::ACCESS;
    assert_eq!(access.get(Pkey::PAGE_TABLES), Some(Access::ReadOnly));
    assert_eq!(access.get(Pkey::WRITE_RARELY), Some(Access::ReadWrite));
}
