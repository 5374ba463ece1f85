//! Random histories of guards, exceptions and thread switches, against a model of a few lines.
//!
//! Properties, for both encodings and any register value to start from: the register always holds what the model says; keys that
//! no context of the history manages keep their bits throughout; exceptions and switches write only a difference; and when every
//! guard is left and every exception returned from, each thread has the value it started with.

mod fake;

use fake::{Done, Fake};
use kpkeys::encoding::{Encoding, Pkrs, Por};
use kpkeys::keyed::Keyed;
use kpkeys::{Access, AccessMap, Backend, Context, Pkey, Saved, context};
use proptest::prelude::*;

/// Keys 0, 1 and 3 as in `Default`, key 2 without any access.
struct Hidden;

impl Context for Hidden {
    const ACCESS: AccessMap = AccessMap::PROTECTED.with(Pkey::WRITE_RARELY, Access::NoAccess);
}

/// An encoding, spelled a second time by hand.
trait ByHand: Encoding {
    /// Every bit of the register that a key uses.
    const USED: u64;
    /// The fields of keys 0 to 3, and of key 2.
    const MANAGED: u64;
    const KEY_2: u64;
    const DEFAULT: u64;
    const PAGE_TABLES: u64;
    const HIDDEN: u64;
}

impl ByHand for Pkrs {
    const USED: u64 = 0xffff_ffff;
    const MANAGED: u64 = 0b1111_1111;
    const KEY_2: u64 = 0b11_0000;
    const DEFAULT: u64 = 0b1010_1000;
    const PAGE_TABLES: u64 = 0b1010_0000;
    const HIDDEN: u64 = 0b1001_1000;
}

impl ByHand for Por {
    const USED: u64 = 0x7777_7777;
    const MANAGED: u64 = 0xffff;
    const KEY_2: u64 = 0xf00;
    const DEFAULT: u64 = 0x1117;
    const PAGE_TABLES: u64 = 0x1157;
    const HIDDEN: u64 = 0x1017;
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

/// A context, by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Name {
    Default,
    PageTables,
    Hidden,
}

/// What a thread must undo: a guard, and the context outside it; or an exception, and the context it interrupted.
enum Open {
    Guard(Name),
    Exception(Saved, Name),
}

struct History<E: ByHand> {
    register: Fake<true>,
    backend: Keyed<Fake<true>, E>,
    running: usize,
    saved: [Saved; THREADS],
    open: [Vec<Open>; THREADS],
    /// The context that the model says each thread is in.
    model: [Name; THREADS],
}

impl<E: ByHand> History<E> {
    fn new(start: u64) -> Self {
        let (register, backend) = Fake::with_backend(start);
        backend.reset();
        register.done();
        let saved = std::array::from_fn(|_| backend.initial());
        let open = std::array::from_fn(|_| Vec::new());
        History { register, backend, running: 0, saved, open, model: [Name::Default; THREADS] }
    }

    /// What the model says of the managed keys now.
    fn managed(&self) -> u64 {
        match self.model[self.running] {
            Name::Default => E::DEFAULT,
            Name::PageTables => E::PAGE_TABLES,
            Name::Hidden => E::HIDDEN,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::EnterDefault => self.enter(Name::Default),
            Step::EnterPageTables => self.enter(Name::PageTables),
            Step::EnterHidden => self.enter(Name::Hidden),
            Step::ExceptionEntry => {
                let saved = self.backend.exception_entry();
                let interrupted = std::mem::replace(&mut self.model[self.running], Name::Default);
                self.open[self.running].push(Open::Exception(saved, interrupted));
            }
            Step::Undo => self.undo(false),
            Step::UndoBeforeBarrier => self.undo(true),
            Step::SwitchTo(next) => self.switch_to(next),
        }
    }

    fn enter(&mut self, context: Name) {
        let outside = std::mem::replace(&mut self.model[self.running], context);
        self.open[self.running].push(Open::Guard(outside));
        self.write(context, false);
    }

    fn write(&self, context: Name, before_barrier: bool) {
        let backend = &self.backend;
        // SAFETY: the register is a field of this test, and there are no page tables.
        unsafe {
            match (context, before_barrier) {
                (Name::Default, false) => backend.enter::<context::Default>(),
                (Name::PageTables, false) => backend.enter::<context::PageTables>(),
                (Name::Hidden, false) => backend.enter::<Hidden>(),
                (Name::Default, true) => backend.enter_before_barrier::<context::Default>(),
                (Name::PageTables, true) => backend.enter_before_barrier::<context::PageTables>(),
                (Name::Hidden, true) => backend.enter_before_barrier::<Hidden>(),
            }
        }
    }

    fn undo(&mut self, before_barrier: bool) {
        self.model[self.running] = match self.open[self.running].pop() {
            Some(Open::Guard(outside)) => {
                self.write(outside, before_barrier);
                outside
            }
            Some(Open::Exception(saved, interrupted)) => {
                // SAFETY: as for `write`.
                unsafe { self.backend.exception_return(saved) };
                interrupted
            }
            None => return,
        };
    }

    fn switch_to(&mut self, next: usize) {
        if let Ok([previous, next_saved]) = self.saved.get_disjoint_mut([self.running, next]) {
            // SAFETY: as for `write`.
            unsafe { self.backend.thread_switch(previous, next_saved) };
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
        prop_assert_eq!(after & E::MANAGED, history.managed(), "after {:?}", step);
        prop_assert_eq!(after & unmanaged, start & unmanaged, "after {:?}", step);
        prop_assert_eq!(after & !E::USED, 0, "reserved bits after {:?}", step);
        let done = history.register.done();
        let writes = done.iter().filter(|done| matches!(done, Done::Write(_))).count();
        if matches!(step, Step::ExceptionEntry | Step::SwitchTo(_)) {
            prop_assert_eq!(writes, usize::from(after != before), "writes of {:?}", step);
        }
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
