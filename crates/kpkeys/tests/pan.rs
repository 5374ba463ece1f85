//! What the PAN backend does to PSTATE.PAN, write by write, beside hardware that saves and sets it on exceptions.

#![cfg(feature = "pan")]

mod fake;

use fake::Done::Write;
use fake::Fake;
use kpkeys::pan::{PAN, Pan};
use kpkeys::{Access, Backend, Guard, Pkey, Saved, Scheme, context};
use proptest::prelude::*;

type Flag = Fake<false>;

const CLOSED: u64 = PAN;
const OPEN: u64 = 0;

fn pan(value: u64) -> (Flag, Pan<Flag>) {
    let flag = Flag::new(value);
    (flag.clone(), Pan::new(flag))
}

fn open(backend: &Pan<Flag>) -> Guard<'_, Pan<Flag>, context::PageTables> {
    // SAFETY: the flag is a field of this test, and there are no page tables.
    unsafe { Guard::enter(backend) }
}

/// Switches threads.
fn switch(backend: &Pan<Flag>, previous: &mut Saved, next: &mut Saved) {
    // SAFETY: as before.
    unsafe { backend.thread_switch(previous, next) }
}

/// The part of an exception's return that is software's.
fn leave_exception(backend: &Pan<Flag>, saved: Saved) {
    // SAFETY: as before.
    unsafe { backend.exception_return(saved) }
}

/// Takes an exception to EL1 as hardware does with SCTLR_EL1.SPAN clear, and returns what is in SPSR_EL1.
fn take_exception(flag: &Flag) -> u64 {
    flag.hardware_sets(CLOSED)
}

/// ERET.
fn exception_return(flag: &Flag, spsr: u64) {
    flag.hardware_sets(spsr & PAN);
}

#[test]
fn a_window_is_two_writes_and_no_barrier() {
    let (flag, backend) = pan(CLOSED);
    assert_eq!(backend.scheme(), Scheme::Alias);
    assert!(!backend.write_needs_barrier());
    let window = open(&backend);
    assert_eq!(backend.access(Pkey::PAGE_TABLES), Some(Access::ReadWrite));
    drop(window);
    assert_eq!(backend.access(Pkey::PAGE_TABLES), Some(Access::ReadOnly));
    assert_eq!(flag.done(), [Write(OPEN), Write(CLOSED)]);
}

#[test]
fn the_default_context_inside_a_window_closes_it_for_a_while() {
    let (flag, backend) = pan(CLOSED);
    let mut window = open(&backend);
    // SAFETY: the flag is a field of this test, and there are no page tables.
    let closed = unsafe { window.within::<context::Default>() };
    assert_eq!(flag.value(), CLOSED);
    drop(closed);
    assert_eq!(flag.value(), OPEN);
    drop(window);
    assert_eq!(flag.value(), CLOSED);
}

/// An attacker who could choose what was there before gains nothing: that is not what comes back.
#[test]
fn closing_sets_pan_whatever_it_was_before() {
    for before in [OPEN, CLOSED] {
        let (flag, backend) = pan(CLOSED);
        let window = open(&backend);
        flag.hardware_sets(before);
        drop(window);
        assert_eq!(flag.value(), CLOSED);
    }
}

#[test]
fn leaving_before_a_barrier_closes_at_once() {
    let (flag, backend) = pan(CLOSED);
    open(&backend).leave_with(|| assert_eq!(flag.value(), CLOSED));
    assert_eq!(flag.done(), [Write(OPEN), Write(CLOSED)]);
}

#[test]
fn exceptions_cost_no_instruction_and_suspend_the_window() {
    let (flag, backend) = pan(CLOSED);
    let window = open(&backend);
    flag.done();

    let spsr = take_exception(&flag);
    let saved = backend.exception_entry();
    assert_eq!(backend.access(Pkey::PAGE_TABLES), Some(Access::ReadOnly));
    assert_eq!(flag.done(), [], "hardware did it");
    let handler = open(&backend);
    assert_eq!(flag.done(), [Write(OPEN)], "a handler's window is a real switch");
    // A fault inside the handler's window.
    let inner = take_exception(&flag);
    assert_eq!(flag.value(), CLOSED);
    exception_return(&flag, inner);
    assert_eq!(flag.value(), OPEN);
    drop(handler);
    flag.done();
    leave_exception(&backend, saved);
    assert_eq!(flag.done(), [], "ERET does it");
    exception_return(&flag, spsr);

    assert_eq!(flag.value(), OPEN, "the interrupted window goes on");
    drop(window);
    assert_eq!(flag.value(), CLOSED);
}

#[test]
fn a_thread_preempted_in_a_window_gets_it_back_by_its_own_return() {
    let (flag, backend) = pan(CLOSED);
    let (mut first, mut second) = (backend.initial(), backend.initial());
    let window = open(&backend);
    flag.done();
    // The timer interrupts the first thread, and its handler switches.
    let spsr = take_exception(&flag);
    switch(&backend, &mut first, &mut second);
    assert_eq!(flag.value(), CLOSED, "the second thread has no window");
    // The second thread is interrupted in its turn.
    let other = take_exception(&flag);
    switch(&backend, &mut second, &mut first);
    assert_eq!(flag.done(), [], "both switches were between closed states");
    exception_return(&flag, spsr);
    assert_eq!(flag.value(), OPEN);
    drop(window);
    assert_eq!(other, CLOSED);
}

#[test]
fn a_thread_that_gives_the_cpu_away_in_a_window_takes_it_along() {
    let (flag, backend) = pan(CLOSED);
    let (mut first, mut second) = (backend.initial(), backend.initial());
    let window = open(&backend);
    flag.done();
    switch(&backend, &mut first, &mut second);
    assert_eq!(flag.done(), [Write(CLOSED)], "the second thread has no window");
    switch(&backend, &mut second, &mut first);
    assert_eq!(flag.done(), [Write(OPEN)]);
    drop(window);
    assert_eq!(flag.value(), CLOSED);
}

#[test]
fn a_new_thread_is_closed_and_so_is_one_made_of_zeroes() {
    let (flag, backend) = pan(OPEN);
    let mut previous = backend.initial();
    // `exception_entry` returns what means nothing: closed, whatever the CPU is in.
    for mut closed in [backend.initial(), backend.exception_entry()] {
        flag.hardware_sets(OPEN);
        switch(&backend, &mut previous, &mut closed);
        assert_eq!(flag.value(), CLOSED);
    }
    switch(&backend, &mut backend.initial(), &mut previous);
    assert_eq!(flag.value(), OPEN, "what was open is open again");
}

#[test]
fn reset_closes_whatever_there_was() {
    for value in [OPEN, CLOSED] {
        let (flag, backend) = pan(value);
        backend.reset();
        assert_eq!(flag.value(), CLOSED);
        assert_eq!(backend.access(Pkey::DEFAULT), Some(Access::ReadWrite));
        assert_eq!(backend.access(Pkey::WRITE_RARELY), None, "one class alone");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Open,
    Close,
    Exception,
    /// Leaves the newest guard or returns from the newest exception of the running thread, whichever is newer.
    Undo,
    SwitchTo(usize),
}

const THREADS: usize = 3;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => Just(Step::Open),
        1 => Just(Step::Close),
        1 => Just(Step::Exception),
        2 => Just(Step::Undo),
        1 => (0..THREADS).prop_map(Step::SwitchTo),
    ];
    prop::collection::vec(step, 0..60)
}

/// Enters the context that is open, or the other.
fn write(backend: &Pan<Flag>, open: bool) {
    // SAFETY: the flag is a field of this test, and there are no page tables.
    unsafe {
        if open {
            backend.enter::<context::PageTables>()
        } else {
            backend.enter::<context::Default>()
        }
    }
}

enum Newest {
    Guard(bool),
    Exception { spsr: u64, saved: Saved, before: bool },
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Whatever threads, windows and exceptions do, a CPU is open exactly where the model says; switches write only a difference; and
    /// when all is undone, every thread is closed.
    #[test]
    fn histories_hold(steps in steps()) {
        let (flag, backend) = pan(CLOSED);
        let mut saved: [_; THREADS] = std::array::from_fn(|_| backend.initial());
        let mut model = [false; THREADS];
        let mut undo: [Vec<Newest>; THREADS] = std::array::from_fn(|_| Vec::new());
        let mut running = 0;
        // At the end each thread in turn undoes all it has open.
        let end = (0..THREADS).flat_map(|thread| std::iter::once(Step::SwitchTo(thread)).chain([Step::Undo; 60]));
        for step in steps.into_iter().chain(end) {
            let before = model[running];
            let mut by_hardware = false;
            match step {
                Step::Open => {
                    undo[running].push(Newest::Guard(before));
                    write(&backend, true);
                    model[running] = true;
                }
                Step::Close => {
                    undo[running].push(Newest::Guard(before));
                    write(&backend, false);
                    model[running] = false;
                }
                Step::Exception => {
                    by_hardware = true;
                    let spsr = take_exception(&flag);
                    let saved = backend.exception_entry();
                    undo[running].push(Newest::Exception { spsr, saved, before });
                    model[running] = false;
                }
                Step::Undo => match undo[running].pop() {
                    Some(Newest::Guard(was)) => {
                        write(&backend, was);
                        model[running] = was;
                    }
                    Some(Newest::Exception { spsr, saved, before }) => {
                        by_hardware = true;
                        leave_exception(&backend, saved);
                        exception_return(&flag, spsr);
                        model[running] = before;
                    }
                    None => {}
                },
                Step::SwitchTo(next) if next != running => {
                    let [outgoing, incoming] = saved.get_disjoint_mut([running, next]).unwrap();
                    switch(&backend, outgoing, incoming);
                    running = next;
                }
                Step::SwitchTo(_) => {}
            }
            prop_assert_eq!(flag.value() == OPEN, model[running], "after {:?}", step);
            let writes = flag.done().iter().filter(|done| matches!(done, Write(_))).count();
            if matches!(step, Step::SwitchTo(_) | Step::Exception) {
                let expected = usize::from(!by_hardware && before != model[running]);
                prop_assert_eq!(writes, expected, "writes of {:?}", step);
            }
        }
        prop_assert_eq!(model, [false; THREADS]);
    }
}
