//! Random histories of guards, exceptions and thread switches, against a model of a few lines.
//!
//! Properties, for both encodings and any register value to start from: the register always holds what the model says; keys that
//! no context of the history manages keep their bits throughout; a write happens only where the value changes; and when every
//! guard is left and every exception returned from, each thread has the value it started with.

mod fake;

use fake::{Done, Fake};
use kpkeys::encoding::{Encoding, Pkrs, Por};
use kpkeys::keyed::{Entered, Keyed};
use kpkeys::{Access, AccessMap, Backend, Context, Pkey, Saved, context};
use proptest::prelude::*;

/// Keys 0 and 1 as in `Default`, key 2 without any access.
struct Hidden;

impl Context for Hidden {
    const ACCESS: AccessMap = AccessMap::PROTECTED.with(Pkey::WRITE_RARELY, Access::NoAccess);
}

/// An encoding, spelled a second time by hand.
trait ByHand: Encoding {
    /// Every bit of the register that a key uses.
    const USED: u64;
    /// The fields of keys 0 and 1, and of key 2.
    const MANAGED: u64;
    const KEY_2: u64;
    const DEFAULT: u64;
    const PAGE_TABLES: u64;
    const HIDDEN: u64;
}

impl ByHand for Pkrs {
    const USED: u64 = 0xffff_ffff;
    const MANAGED: u64 = 0b11_1111;
    const KEY_2: u64 = 0b11_0000;
    const DEFAULT: u64 = 0b10_1000;
    const PAGE_TABLES: u64 = 0b10_0000;
    const HIDDEN: u64 = 0b01_1000;
}

impl ByHand for Por {
    const USED: u64 = 0x7777_7777;
    const MANAGED: u64 = 0xfff;
    const KEY_2: u64 = 0xf00;
    const DEFAULT: u64 = 0x117;
    const PAGE_TABLES: u64 = 0x157;
    const HIDDEN: u64 = 0x017;
}

#[derive(Clone, Copy, Debug)]
enum Step {
    EnterDefault,
    EnterPageTables,
    EnterHidden,
    ExceptionEntry,
    /// Leaves the newest guard or returns from the newest exception of the running thread, whichever is newer.
    Undo,
    /// As `Undo`, where a guard is left before a barrier that is due anyway.
    UndoBeforeBarrier,
    SwitchTo(usize),
}

const THREADS: usize = 3;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::EnterDefault),
        Just(Step::EnterPageTables),
        Just(Step::EnterHidden),
        Just(Step::ExceptionEntry),
        Just(Step::Undo),
        Just(Step::UndoBeforeBarrier),
        (0..THREADS).prop_map(Step::SwitchTo),
    ];
    prop::collection::vec(step, 0..60)
}

/// What a thread must undo, and the value that comes back when it does.
enum Open {
    Guard(Entered, u64),
    Exception(Saved, u64),
}

struct History<E: ByHand> {
    register: Fake<true>,
    backend: Keyed<Fake<true>, E>,
    running: usize,
    saved: [Saved; THREADS],
    open: [Vec<Open>; THREADS],
    /// What the model says each thread's register holds.
    model: [u64; THREADS],
}

impl<E: ByHand> History<E> {
    fn new(start: u64) -> Self {
        let (register, backend) = Fake::with_backend(start);
        backend.reset();
        register.done();
        let value = register.value();
        let saved = [backend.initial(); THREADS];
        let open = std::array::from_fn(|_| Vec::new());
        History { register, backend, running: 0, saved, open, model: [value; THREADS] }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::EnterDefault => self.enter::<context::Default>(E::MANAGED, E::DEFAULT),
            Step::EnterPageTables => self.enter::<context::PageTables>(E::MANAGED, E::PAGE_TABLES),
            Step::EnterHidden => self.enter::<Hidden>(E::MANAGED | E::KEY_2, E::HIDDEN),
            Step::ExceptionEntry => {
                let before = self.model[self.running];
                let saved = self.backend.exception_entry();
                self.model[self.running] = before & !E::MANAGED | E::DEFAULT;
                self.open[self.running].push(Open::Exception(saved, before));
            }
            Step::Undo => self.undo(|backend, entered| backend.leave(entered)),
            Step::UndoBeforeBarrier => {
                self.undo(|backend, entered| backend.leave_before_barrier(entered))
            }
            Step::SwitchTo(next) => self.switch_to(next),
        }
    }

    fn enter<C: Context>(&mut self, managed: u64, set: u64) {
        let before = self.model[self.running];
        let entered = self.backend.enter::<C>();
        self.model[self.running] = before & !managed | set;
        let switched = Keyed::<Fake<true>, E>::switched(entered);
        assert_eq!(switched, self.model[self.running] != before, "says whether it switched");
        self.open[self.running].push(Open::Guard(entered, before));
    }

    fn undo(&mut self, leave: impl FnOnce(&Keyed<Fake<true>, E>, Entered)) {
        self.model[self.running] = match self.open[self.running].pop() {
            Some(Open::Guard(entered, before)) => {
                leave(&self.backend, entered);
                before
            }
            Some(Open::Exception(saved, before)) => {
                self.backend.exception_return(saved);
                before
            }
            None => return,
        };
    }

    fn switch_to(&mut self, next: usize) {
        let next_saved = self.saved[next];
        if next != self.running {
            self.backend.thread_switch(&mut self.saved[self.running], &next_saved);
            self.running = next;
        }
    }
}

fn history_holds<E: ByHand>(start: u64, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut history = History::<E>::new(start);
    let unmanaged = E::USED & !E::MANAGED & !E::KEY_2;
    let at_start = history.register.value();
    prop_assert_eq!(at_start & unmanaged, start & unmanaged);
    for &step in steps {
        let before = history.register.value();
        history.step(step);
        let after = history.register.value();
        prop_assert_eq!(after, history.model[history.running], "after {:?}", step);
        prop_assert_eq!(after & unmanaged, start & unmanaged, "after {:?}", step);
        prop_assert_eq!(after & !E::USED, 0, "reserved bits after {:?}", step);
        let done = history.register.done();
        let writes = done.iter().filter(|done| matches!(done, Done::Write(_))).count();
        prop_assert_eq!(writes, usize::from(after != before), "writes of {:?}", step);
        prop_assert!(done.len() <= 2 * writes, "no barrier without a write");
    }
    for thread in 0..THREADS {
        history.switch_to(thread);
        while !history.open[thread].is_empty() {
            history.step(Step::Undo);
        }
        prop_assert_eq!(history.register.value(), at_start, "thread {}", thread);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn pkrs_histories_hold(start: u64, steps in steps()) {
        history_holds::<Pkrs>(start, &steps)?;
    }

    #[test]
    fn por_histories_hold(start: u64, steps in steps()) {
        history_holds::<Por>(start, &steps)?;
    }
}
