//! What `Keyed` does to its register, write by write and barrier by barrier.
//!
//! Values are spelled out by hand. In `POR_EL1`, `0x1117` is the default context (key 0 read-write-execute, keys 1 to 3 read-only),
//! `0x1157` allows key 1 to be written and `0x5117` key 3; in `IA32_PKRS` they are `0b1010_1000`, `0b1010_0000` and `0b0010_1000`.

mod fake;

use fake::Done::{Barrier, Write};
use fake::Fake;
use kpkeys::encoding::{Encoding, Pkrs, Por};
use kpkeys::keyed::{self, Keyed};
use kpkeys::{Access, AccessMap, Backend, Context, Guard, Pkey, Scheme, context};

const POR_DEFAULT: u64 = 0x1117;
const POR_PAGE_TABLES: u64 = 0x1157;
const POR_USER_TABLES: u64 = 0x5117;
const PKRS_DEFAULT: u64 = 0b1010_1000;
const PKRS_PAGE_TABLES: u64 = 0b1010_0000;
const PKRS_USER_TABLES: u64 = 0b0010_1000;

/// A context of a user of the crate: key 2 may be written, page tables may not.
struct Credentials;

impl Context for Credentials {
    const ACCESS: AccessMap = AccessMap::PROTECTED.with(Pkey::WRITE_RARELY, Access::ReadWrite);
}

fn por(value: u64) -> (Fake<true>, Keyed<Fake<true>, Por>) {
    Fake::with_backend(value)
}

fn pkrs(value: u64) -> (Fake<false>, Keyed<Fake<false>, Pkrs>) {
    Fake::with_backend(value)
}

fn open<R: keyed::Register, E: Encoding>(
    backend: &Keyed<R, E>,
) -> Guard<'_, Keyed<R, E>, context::PageTables> {
    enter(backend)
}

/// Enters a context.
fn enter<R: keyed::Register, E: Encoding, C: Context>(
    backend: &Keyed<R, E>,
) -> Guard<'_, Keyed<R, E>, C> {
    // SAFETY: the register is a field of this test, and there are no page tables.
    unsafe { Guard::enter(backend) }
}

/// Returns from an exception.
fn leave_exception<R: keyed::Register, E: Encoding>(backend: &Keyed<R, E>, saved: kpkeys::Saved) {
    // SAFETY: as before.
    unsafe { backend.exception_return(saved) }
}

/// Switches threads.
fn switch<R: keyed::Register, E: Encoding>(
    backend: &Keyed<R, E>,
    previous: &mut kpkeys::Saved,
    next: &mut kpkeys::Saved,
) {
    // SAFETY: as before.
    unsafe { backend.thread_switch(previous, next) }
}

#[test]
fn a_guard_is_one_write_and_one_barrier_on_each_side() {
    let (register, backend) = por(POR_DEFAULT);
    let guard = open(&backend);
    assert_eq!(register.done(), [Write(POR_PAGE_TABLES), Barrier]);
    drop(guard);
    assert_eq!(register.done(), [Write(POR_DEFAULT), Barrier]);
}

#[test]
fn a_register_that_needs_no_barrier_gets_none() {
    let (register, backend) = pkrs(PKRS_DEFAULT);
    drop(open(&backend));
    backend.reset();
    let saved = backend.exception_entry();
    leave_exception(&backend, saved);
    assert_eq!(
        register.done(),
        [Write(PKRS_PAGE_TABLES), Write(PKRS_DEFAULT), Write(PKRS_DEFAULT)]
    );
}

#[test]
fn a_guard_within_another_goes_back_to_it() {
    let (register, backend) = por(0x1117);
    let mut page_tables = open(&backend);
    // SAFETY: the register is a field of this test, and there are no page tables.
    let mut credentials = unsafe { page_tables.within::<Credentials>() };
    // SAFETY: as before.
    let page_tables_again = unsafe { credentials.within::<context::PageTables>() };
    drop(page_tables_again);
    drop(credentials);
    drop(page_tables);
    // A context says what every managed key allows: inside the credentials', page tables are closed.
    let values = [0x1157, 0x1517, 0x1157, 0x1517, 0x1157, 0x1117];
    let expected: Vec<_> = values.into_iter().flat_map(|value| [Write(value), Barrier]).collect();
    assert_eq!(register.done(), expected);
}

fn separate<R: keyed::Register, E: Encoding>(keyed: Keyed<R, E>) -> Keyed<R, E, keyed::Separate> {
    assert!(!keyed.separates_user_tables(), "one key, unless asked for");
    let separate = keyed.with_separate_keys();
    assert!(separate.separates_user_tables());
    separate
}

#[test]
fn a_window_for_tables_of_address_spaces_opens_their_key_alone() {
    let (register, backend) = pkrs(PKRS_DEFAULT);
    let backend = separate(backend);
    // SAFETY: the register is a field of this test, and there are no page tables.
    let guard = unsafe { Guard::enter_user_tables(&backend) };
    assert_eq!(backend.access(Pkey::USER_TABLES), Some(Access::ReadWrite));
    assert_eq!(backend.access(Pkey::PAGE_TABLES), Some(Access::ReadOnly));
    drop(guard);
    assert_eq!(register.done(), [Write(PKRS_USER_TABLES), Write(PKRS_DEFAULT)]);
}

/// At no moment both are open.
#[test]
fn going_on_with_other_tables_is_one_write() {
    let (register, backend) = por(POR_DEFAULT);
    let backend = separate(backend);
    // SAFETY: the register is a field of this test, and there are no page tables.
    let guard: Guard<'_, _, context::PageTables> = unsafe { Guard::enter(&backend) };
    // SAFETY: as before.
    let guard = unsafe { guard.go_on_with_user_tables() };
    // SAFETY: as before.
    let guard = unsafe { guard.go_on_with_page_tables() };
    drop(guard);
    let values = [POR_PAGE_TABLES, POR_USER_TABLES, POR_PAGE_TABLES, POR_DEFAULT];
    let expected: Vec<_> = values.into_iter().flat_map(|value| [Write(value), Barrier]).collect();
    assert_eq!(register.done(), expected);
}

#[test]
fn an_exception_inside_a_window_for_user_tables_starts_protected() {
    let (register, backend) = pkrs(PKRS_DEFAULT);
    let backend = separate(backend);
    // SAFETY: the register is a field of this test, and there are no page tables.
    let guard = unsafe { Guard::enter_user_tables(&backend) };
    let saved = backend.exception_entry();
    assert_eq!(register.value(), PKRS_DEFAULT);
    assert!(backend.is_in::<context::Default>());
    // SAFETY: as before.
    unsafe { backend.exception_return(saved) };
    assert_eq!(register.value(), PKRS_USER_TABLES);
    drop(guard);
    assert_eq!(register.value(), PKRS_DEFAULT);
}

/// An attacker who could choose what was there before gains nothing: that is not what comes back.
#[test]
fn closing_writes_a_constant_whatever_the_register_held_before() {
    let (register, backend) = por(POR_DEFAULT);
    for before in [POR_PAGE_TABLES, 0x777, 0, POR_DEFAULT] {
        let guard = open(&backend);
        register.hardware_sets(before);
        drop(guard);
        assert_eq!(register.value(), POR_DEFAULT, "from {before:#x}");
        let guard = open(&backend);
        register.hardware_sets(before);
        guard.leave_with(|| ());
        assert_eq!(register.value(), POR_DEFAULT, "from {before:#x}, before a barrier");
    }
    assert_eq!(size_of_val(&open(&backend)), size_of::<&()>(), "no value is kept");
}

#[test]
fn leaving_keeps_what_the_register_says_of_keys_that_nobody_manages() {
    let (register, backend) = por(0x0444_1117);
    let guard = open(&backend);
    assert_eq!(register.value(), 0x0444_1157);
    drop(guard);
    assert_eq!(register.value(), 0x0444_1117);
}

#[test]
fn the_register_says_which_context_it_is_in() {
    let (_, backend) = por(POR_DEFAULT);
    let contexts = || (backend.is_in::<context::Default>(), backend.is_in::<context::PageTables>());
    assert_eq!(contexts(), (true, false));
    let guard = open(&backend);
    assert_eq!(contexts(), (false, true));
    drop(guard);
    assert_eq!(contexts(), (true, false));
}

#[test]
fn leaving_with_a_barrier_writes_first_and_adds_none() {
    let (register, backend) = por(POR_DEFAULT);
    let guard = open(&backend);
    register.done();
    guard.leave_with(|| assert_eq!(register.done(), [Write(POR_DEFAULT)]));
    assert_eq!(register.done(), [], "the caller's barrier is the only one");
}

#[test]
fn an_exception_inside_a_window_starts_protected_and_resumes_the_window() {
    let (register, backend) = por(POR_DEFAULT);
    let window = open(&backend);
    register.done();

    let saved = backend.exception_entry();
    assert_eq!(register.done(), [Write(POR_DEFAULT), Barrier]);
    let handler = open(&backend);
    assert_eq!(
        register.done(),
        [Write(POR_PAGE_TABLES), Barrier],
        "a handler's window is a real switch"
    );
    drop(handler);
    register.done();
    leave_exception(&backend, saved);
    assert_eq!(register.done(), [Write(POR_PAGE_TABLES)], "the exception return synchronises");

    drop(window);
    assert_eq!(register.value(), POR_DEFAULT);
}

#[test]
fn an_exception_outside_windows_costs_no_write() {
    let (register, backend) = por(POR_DEFAULT);
    let saved = backend.exception_entry();
    leave_exception(&backend, saved);
    assert_eq!(register.done(), []);
}

#[test]
fn exceptions_nest() {
    let (register, backend) = por(POR_DEFAULT);
    let window = open(&backend);
    let first = backend.exception_entry();
    let handler = open(&backend);
    let second = backend.exception_entry();
    assert_eq!(register.value(), POR_DEFAULT);
    leave_exception(&backend, second);
    assert_eq!(register.value(), POR_PAGE_TABLES);
    drop(handler);
    assert_eq!(register.value(), POR_DEFAULT);
    leave_exception(&backend, first);
    assert_eq!(register.value(), POR_PAGE_TABLES);
    drop(window);
    assert_eq!(register.value(), POR_DEFAULT);
}

#[test]
fn exception_return_restores_even_where_a_handler_left_another_context() {
    let (register, backend) = por(POR_DEFAULT);
    let saved = backend.exception_entry();
    core::mem::forget(open(&backend));
    leave_exception(&backend, saved);
    assert_eq!(register.value(), POR_DEFAULT);
}

#[test]
fn a_thread_switch_carries_the_register_and_writes_only_a_difference() {
    let (register, backend) = por(POR_DEFAULT);
    let (mut first, mut second) = (backend.initial(), backend.initial());
    assert_eq!(register.done(), [], "making a thread's state writes nothing");

    switch(&backend, &mut first, &mut second);
    assert_eq!(register.done(), [], "both threads are in the default context");

    // The second thread is preempted inside a window.
    let window = open(&backend);
    register.done();
    switch(&backend, &mut second, &mut first);
    assert_eq!(register.done(), [Write(POR_DEFAULT), Barrier]);
    switch(&backend, &mut first, &mut second);
    assert_eq!(register.done(), [Write(POR_PAGE_TABLES), Barrier]);
    drop(window);
    assert_eq!(register.value(), POR_DEFAULT);
}

#[test]
fn reset_brings_any_register_into_the_default_context() {
    // As after power-on: everything open on x86-64, reserved bits set by something older.
    for before in [0, PKRS_DEFAULT, 0b0100, u64::MAX] {
        let (register, backend) = pkrs(before);
        backend.reset();
        assert_eq!(register.value() & 0xff, PKRS_DEFAULT, "from {before:#x}");
        assert_eq!(register.value() >> 32, 0, "the upper half is reserved: #GP if set");
    }
}

#[test]
fn what_is_counted_of_a_backend_by_keys_is_what_its_register_needs() {
    let (_, x86) = pkrs(PKRS_DEFAULT);
    let (_, arm) = por(POR_DEFAULT);
    assert_eq!((x86.write_needs_barrier(), arm.write_needs_barrier()), (false, true));
    assert!(x86.has_register() && x86.sets_keys() && !x86.windows_are_cheap());
    assert_eq!(x86.scheme(), Scheme::Keys);
}

#[test]
fn read_only_is_not_access_disabled() {
    let (_, x86) = pkrs(PKRS_DEFAULT);
    let (_, arm) = por(POR_DEFAULT);
    assert_eq!(x86.access(Pkey::PAGE_TABLES), Some(Access::ReadOnly));
    assert_eq!(arm.access(Pkey::PAGE_TABLES), Some(Access::ReadOnly));
    assert_eq!(x86.access(Pkey::DEFAULT), Some(Access::ReadWrite));
    assert_eq!(arm.access(Pkey::DEFAULT), Some(Access::ReadWrite));
    assert_eq!(arm.access(Pkey::new(8).unwrap()), None, "POR_EL1 has eight keys");
}
