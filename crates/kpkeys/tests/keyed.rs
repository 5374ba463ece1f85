//! What `Keyed` does to its register, write by write and barrier by barrier.
//!
//! Values are spelled out by hand. In `POR_EL1`, `0x117` is the default context (key 0 read-write-execute, keys 1 and 2 read-only) and
//! `0x157` allows key 1 to be written; in `IA32_PKRS` they are `0b10_1000` and `0b10_0000`.

mod fake;

use fake::Done::{Barrier, Write};
use fake::Fake;
use kpkeys::encoding::{Encoding, Pkrs, Por};
use kpkeys::keyed::Keyed;
use kpkeys::{Access, AccessMap, Backend, Context, Guard, Pkey, context};

const POR_DEFAULT: u64 = 0x117;
const POR_PAGE_TABLES: u64 = 0x157;
const PKRS_DEFAULT: u64 = 0b10_1000;
const PKRS_PAGE_TABLES: u64 = 0b10_0000;

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

fn open<R: kpkeys::keyed::Register, E: Encoding>(
    backend: &Keyed<R, E>,
) -> Guard<'_, Keyed<R, E>, context::PageTables> {
    Guard::enter(backend)
}

#[test]
fn a_guard_is_one_write_and_one_barrier_on_each_side() {
    let (register, backend) = por(POR_DEFAULT);
    let guard = open(&backend);
    assert_eq!(register.done(), [Write(POR_PAGE_TABLES), Barrier]);
    assert!(guard.switched());
    drop(guard);
    assert_eq!(register.done(), [Write(POR_DEFAULT), Barrier]);
}

#[test]
fn a_register_that_needs_no_barrier_gets_none() {
    let (register, backend) = pkrs(PKRS_DEFAULT);
    drop(open(&backend));
    backend.reset();
    let saved = backend.exception_entry();
    backend.exception_return(saved);
    assert_eq!(
        register.done(),
        [Write(PKRS_PAGE_TABLES), Write(PKRS_DEFAULT), Write(PKRS_DEFAULT)]
    );
}

#[test]
fn entering_the_current_context_writes_nothing_and_issues_no_barrier() {
    let (register, backend) = por(POR_DEFAULT);
    let same: Guard<'_, _, context::Default> = Guard::enter(&backend);
    assert!(!same.switched());
    drop(same);
    assert_eq!(register.done(), []);

    let outer = open(&backend);
    register.done();
    let inner = open(&backend);
    assert!(!inner.switched());
    drop(inner);
    assert_eq!(register.done(), [], "only the outermost of nested guards acts");
    assert_eq!(register.value(), POR_PAGE_TABLES, "the outer guard's context goes on");
    drop(outer);
    assert_eq!(register.value(), POR_DEFAULT);
}

#[test]
fn guards_of_different_contexts_nest() {
    let (register, backend) = por(0x0117);
    let page_tables = open(&backend);
    let credentials: Guard<'_, _, Credentials> = Guard::enter(&backend);
    let page_tables_again = open(&backend);
    drop(page_tables_again);
    drop(credentials);
    drop(page_tables);
    // A context says what every managed key allows: inside the credentials', page tables are closed.
    let values = [0x0157, 0x0517, 0x0157, 0x0517, 0x0157, 0x0117];
    let expected: Vec<_> = values.into_iter().flat_map(|value| [Write(value), Barrier]).collect();
    assert_eq!(register.done(), expected);
}

#[test]
fn leaving_is_decided_by_what_entering_returned_and_by_nothing_else() {
    let (register, backend) = por(POR_DEFAULT);
    // The register is reset under an open guard: leaving still writes the state that entering recorded.
    let guard = open(&backend);
    backend.reset();
    register.done();
    drop(guard);
    assert_eq!(register.done(), [Write(POR_DEFAULT), Barrier]);

    // A guard that switched nothing writes nothing, even where the register changed since.
    let same: Guard<'_, _, context::Default> = Guard::enter(&backend);
    let other = backend.enter::<context::PageTables>();
    register.done();
    drop(same);
    assert_eq!(register.done(), []);
    backend.leave(other);
}

#[test]
fn a_guard_of_the_same_context_dropped_out_of_order_closes_rather_than_opens() {
    let (register, backend) = por(POR_DEFAULT);
    let (outer, inner) = (open(&backend), open(&backend));
    drop(outer);
    assert_eq!(register.value(), POR_DEFAULT);
    drop(inner);
    assert_eq!(register.value(), POR_DEFAULT);
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
fn leaving_with_a_barrier_runs_it_even_if_nothing_was_switched() {
    let (register, backend) = por(POR_DEFAULT);
    let _outer = open(&backend);
    let inner = open(&backend);
    register.done();
    let mut issued = false;
    inner.leave_with(|| issued = true);
    assert!(issued);
    assert_eq!(register.done(), []);
}

#[test]
fn an_exception_inside_a_window_starts_protected_and_resumes_the_window() {
    let (register, backend) = por(POR_DEFAULT);
    let window = open(&backend);
    register.done();

    let saved = backend.exception_entry();
    assert_eq!(register.done(), [Write(POR_DEFAULT), Barrier]);
    let handler = open(&backend);
    assert!(handler.switched(), "a handler's window is a real switch");
    drop(handler);
    register.done();
    backend.exception_return(saved);
    assert_eq!(register.done(), [Write(POR_PAGE_TABLES)], "the exception return synchronises");

    drop(window);
    assert_eq!(register.value(), POR_DEFAULT);
}

#[test]
fn an_exception_outside_windows_costs_no_write() {
    let (register, backend) = por(POR_DEFAULT);
    let saved = backend.exception_entry();
    backend.exception_return(saved);
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
    backend.exception_return(second);
    assert_eq!(register.value(), POR_PAGE_TABLES);
    drop(handler);
    assert_eq!(register.value(), POR_DEFAULT);
    backend.exception_return(first);
    assert_eq!(register.value(), POR_PAGE_TABLES);
    drop(window);
    assert_eq!(register.value(), POR_DEFAULT);
}

#[test]
fn exception_return_restores_even_where_a_handler_left_another_context() {
    let (register, backend) = por(POR_DEFAULT);
    let saved = backend.exception_entry();
    let _never_left = backend.enter::<context::PageTables>();
    backend.exception_return(saved);
    assert_eq!(register.value(), POR_DEFAULT);
}

#[test]
fn a_thread_switch_carries_the_register_and_writes_only_a_difference() {
    let (register, backend) = por(POR_DEFAULT);
    let (mut first, mut second) = (backend.initial(), backend.initial());
    assert_eq!(register.done(), [], "making a thread's state writes nothing");

    backend.thread_switch(&mut first, &second);
    assert_eq!(register.done(), [], "both threads are in the default context");

    // The second thread is preempted inside a window.
    let entered = backend.enter::<context::PageTables>();
    register.done();
    backend.thread_switch(&mut second, &first);
    assert_eq!(register.done(), [Write(POR_DEFAULT), Barrier]);
    backend.thread_switch(&mut first, &second);
    assert_eq!(register.done(), [Write(POR_PAGE_TABLES), Barrier]);
    backend.leave(entered);
    assert_eq!(register.value(), POR_DEFAULT);
}

#[test]
fn reset_brings_any_register_into_the_default_context() {
    // As after power-on: everything open on x86-64, reserved bits set by something older.
    for before in [0, PKRS_DEFAULT, 0b0100, u64::MAX] {
        let (register, backend) = pkrs(before);
        backend.reset();
        assert_eq!(register.value() & 0b11_1111, PKRS_DEFAULT, "from {before:#x}");
        assert_eq!(register.value() >> 32, 0, "the upper half is reserved: #GP if set");
    }
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
