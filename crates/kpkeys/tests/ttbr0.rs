//! What the TTBR0 backend does to the register, write by write: windows load the window root, everything else the closed one.

#![cfg(feature = "ttbr0")]

mod fake;

use fake::Done::{Barrier, Write};
use fake::Fake;
use kpkeys::ttbr0::Ttbr0;
use kpkeys::{Access, Backend, Guard, Pkey, Saved, Scheme, context};

type Root = Fake<true>;

const CLOSED: u64 = 0;
const WINDOW: u64 = 1;

fn ttbr0() -> (Root, Ttbr0<Root>) {
    let root = Root::new(CLOSED);
    (root.clone(), Ttbr0::new(root))
}

fn open(backend: &Ttbr0<Root>) -> Guard<'_, Ttbr0<Root>, context::PageTables> {
    // SAFETY: the register is a field of this test, and there are no page tables.
    unsafe { Guard::enter(backend) }
}

fn switch(backend: &Ttbr0<Root>, previous: &mut Saved, next: &mut Saved) {
    // SAFETY: as before.
    unsafe { backend.thread_switch(previous, next) }
}

#[test]
fn a_window_is_two_writes_and_two_barriers() {
    let (root, backend) = ttbr0();
    assert_eq!(backend.scheme(), Scheme::Alias);
    assert!(backend.has_window_root() && backend.write_needs_barrier());
    assert!(!backend.windows_are_cheap());
    let window = open(&backend);
    assert_eq!(backend.access(Pkey::PAGE_TABLES), Some(Access::ReadWrite));
    drop(window);
    assert_eq!(backend.access(Pkey::PAGE_TABLES), Some(Access::ReadOnly));
    assert_eq!(root.done(), [Write(WINDOW), Barrier, Write(CLOSED), Barrier]);
}

#[test]
fn a_barrier_that_follows_anyway_is_not_issued_twice() {
    let (root, backend) = ttbr0();
    open(&backend).leave_with(|| assert_eq!(root.value(), CLOSED));
    assert_eq!(root.done(), [Write(WINDOW), Barrier, Write(CLOSED)]);
}

/// An attacker who could choose what was there before gains nothing: that is not what comes back.
#[test]
fn closing_loads_the_closed_root_whatever_was_loaded() {
    for before in [CLOSED, WINDOW] {
        let (root, backend) = ttbr0();
        let window = open(&backend);
        root.hardware_sets(before);
        drop(window);
        assert_eq!(root.value(), CLOSED);
    }
}

/// The CPU keeps the register over an exception. So the entry closes, and the return opens what was open.
#[test]
fn exceptions_close_and_reopen() {
    let (root, backend) = ttbr0();
    let window = open(&backend);
    root.done();
    let saved = backend.exception_entry();
    assert_eq!(root.done(), [Write(CLOSED), Barrier]);
    let nested = backend.exception_entry();
    assert_eq!(root.done(), [], "nothing to close");
    // SAFETY: these are the exceptions above, the inner one first.
    unsafe { backend.exception_return(nested) };
    assert_eq!(root.done(), [], "nothing to open");
    // SAFETY: as before.
    unsafe { backend.exception_return(saved) };
    assert_eq!(root.done(), [Write(WINDOW)], "the return is the barrier");
    drop(window);
    assert_eq!(root.value(), CLOSED);
}

#[test]
fn a_thread_takes_its_window_along() {
    let (root, backend) = ttbr0();
    let (mut first, mut second) = (backend.initial(), backend.initial());
    let window = open(&backend);
    switch(&backend, &mut first, &mut second);
    assert_eq!(root.value(), CLOSED);
    root.done();
    let (mut third, mut fourth) = (backend.initial(), backend.initial());
    switch(&backend, &mut third, &mut fourth);
    assert_eq!(root.done(), [], "from closed to closed");
    switch(&backend, &mut second, &mut first);
    assert_eq!(root.value(), WINDOW);
    assert_eq!(first, backend.initial(), "it is restored once");
    drop(window);
}
