//! One execution: threads on stacks of their own, which stop at every point and are told how to go on.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};
use kpkeys_pgtable::Error;
use kpkeys_pgtable::guarded::Types;
use spin::Scheduler;

use crate::exception;
use crate::explore::Exploration;
use crate::frames::FrameList;
use crate::kernel::Kernel;
use crate::machine::System;
use crate::world::{self, Command, Kind, Reached, Rule, THREADS, Wait, World, mix};

/// What goes on next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Choice {
    /// The code on this CPU goes on to its next point.
    Go(u8),
    /// This CPU takes an exception.
    Take(u8, Kind),
    /// The code on this CPU goes on, and finds no memory for what it asks for.
    Fail(u8),
    /// This idle CPU goes on with that thread.
    Resume(u8, u8),
}

impl Choice {
    /// The CPU that it is about.
    pub fn cpu(self) -> u8 {
        match self {
            Choice::Go(cpu) | Choice::Take(cpu, _) | Choice::Fail(cpu) | Choice::Resume(cpu, _) => {
                cpu
            }
        }
    }
}

type Handler = Rc<dyn Fn(Kind)>;

thread_local! {
    static HANDLER: RefCell<Option<Handler>> = const { RefCell::new(None) };
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
    /// The frames of the execution before, whose memory is to be emptied.
    static BEFORE: RefCell<Option<FrameList>> = const { RefCell::new(None) };
}

/// Takes an exception in the code that runs now.
pub fn take(kind: Kind) {
    let handler = HANDLER.with_borrow(|handler| handler.clone());
    handler.expect("exceptions arrive while an execution runs")(kind);
}

/// The locks of the code under test, told to the world.
struct Locks;

impl Scheduler for Locks {
    fn taking(&self, _lock: usize) {
        world::point();
    }

    fn wait(&self, lock: usize) {
        let lock = world::with(|world| {
            world.reach(Reached::Contention);
            world.lock(lock)
        });
        world::wait(Wait::Lock(lock));
    }

    fn taken(&self, lock: usize) {
        world::with(|world| {
            let lock = world.lock(lock);
            world.locks[lock].held = true;
        });
    }

    fn given_back(&self, lock: usize) {
        world::with(|world| {
            let lock = world.lock(lock);
            let seen = if world.running { world.own_context().seen ^ world.step } else { 0 };
            let lock = &mut world.locks[lock];
            lock.held = false;
            lock.history = mix(lock.history, seen);
        });
    }
}

/// See the module.
pub struct Execution<S: System> {
    threads: Vec<Option<Coroutine<Command, (), ()>>>,
    /// Made by `Box`, and given back when no thread uses it any more.
    kernel: *mut Kernel<S>,
}

impl<S: System> Execution<S> {
    /// A kernel that has started, its threads at their first point.
    pub fn new(exploration: &Exploration) -> Self {
        let Exploration { scenario, mode, fault, cpus, .. } = *exploration;
        static LOCKS: &dyn Scheduler = &Locks;
        spin::schedule_by(&LOCKS);
        let mut world = World::new(mode, fault, S::CLOSED, cpus);
        world.frames = BEFORE.with_borrow(|before| FrameList::empty(before.as_ref()));
        world::enter(world);
        let kernel = Kernel::<S>::start(scenario, mode).expect("memory is enough for a start");
        let kernel = Box::into_raw(Box::new(kernel));
        // SAFETY: it is given back in `drop`, after the last thread that uses it has been reset.
        let shared: &'static Kernel<S> = unsafe { &*kernel };
        HANDLER.set(Some(Rc::new(move |kind| exception::take(shared, kind))));
        let threads = (0..THREADS).map(|thread| Some(start_thread(shared, thread))).collect();
        world::with(|world| world.running = true);
        Execution { threads, kernel }
    }

    /// Carries out a choice that is possible.
    pub fn step(&mut self, choice: Choice) {
        match choice {
            Choice::Go(cpu) => self.resume(cpu.into(), Command::Go),
            Choice::Fail(cpu) => self.resume(cpu.into(), Command::Fail),
            Choice::Take(cpu, kind) => self.resume(cpu.into(), Command::Take(kind)),
            Choice::Resume(cpu, thread) => {
                // SAFETY: it lives as long as this.
                exception::take_thread(unsafe { &*self.kernel }, cpu.into(), thread.into());
            }
        }
    }

    fn resume(&mut self, cpu: usize, command: Command) {
        let thread = world::with(|world| {
            world.cpu = cpu;
            world.own_cpu().thread.expect("only CPUs that run a thread go on")
        });
        let mut code = self.threads[thread].take().expect("a thread that runs is not done");
        match catch_unwind(AssertUnwindSafe(|| code.resume(command))) {
            Ok(CoroutineResult::Yield(())) => self.threads[thread] = Some(code),
            Ok(CoroutineResult::Return(())) => keep_stack(code),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                let text = text.unwrap_or("?").to_owned();
                world::with(|world| {
                    world.own_cpu().thread = None;
                    world.threads[thread].done = true;
                    world.broken(Rule::Code, format!("thread {thread} panics: {text}"));
                });
            }
        }
    }

    /// What frames are, in modes that check.
    pub fn types(&self) -> Option<&Types<S::Format>> {
        // SAFETY: it lives as long as this.
        unsafe { &*self.kernel }.types()
    }

    /// Hash of what the kernel knows of frames without a lock.
    pub fn hash(&self) -> u64 {
        // SAFETY: it lives as long as this.
        unsafe { &*self.kernel }.hash()
    }

    /// What threads keep of the register while they do not run.
    pub fn saved(&self) -> u64 {
        // SAFETY: it lives as long as this.
        let kernel = unsafe { &*self.kernel };
        let (saved, idle) = (kernel.saved.borrow(), kernel.idle.borrow());
        // SAFETY: a saved state is a word, transparently.
        let words = saved
            .iter()
            .chain(idle.iter())
            .map(|saved| unsafe { core::ptr::from_ref(saved).cast::<u64>().read() });
        words.fold(0, mix)
    }
}

impl<S: System> Drop for Execution<S> {
    fn drop(&mut self) {
        for mut code in self.threads.drain(..).flatten() {
            // SAFETY: nobody goes on in it. What lies on its stack is forgotten: it owns a few small vectors and borrows the kernel.
            unsafe { code.force_reset() };
            keep_stack(code);
        }
        HANDLER.set(None);
        // SAFETY: made by `Box::into_raw`, and no thread uses it any more.
        drop(unsafe { Box::from_raw(self.kernel) });
        BEFORE.set(world::leave().map(|world| world.frames));
    }
}

fn keep_stack(code: Coroutine<Command, (), ()>) {
    STACKS.with_borrow_mut(|stacks| stacks.push(code.into_stack()));
}

fn start_thread<S: System>(
    kernel: &'static Kernel<S>,
    thread: usize,
) -> Coroutine<Command, (), ()> {
    let stack = STACKS.with_borrow_mut(Vec::pop);
    let stack = stack.unwrap_or_else(|| DefaultStack::new(256 << 10).expect("memory for a stack"));
    let mut code = Coroutine::with_stack(stack, move |yielder, _first: Command| {
        world::with(|world| world.threads[thread].yielder = yielder);
        while let Command::Take(kind) = yielder.suspend(()) {
            take(kind);
        }
        let result = kernel.run(thread);
        world::with(|world| {
            if let Err(error) = result
                && !(world.failed && error == Error::OutOfMemory)
            {
                world.broken(Rule::Code, format!("thread {thread} fails: {error}"));
            }
            world.own_thread().done = true;
            // The register is as it is: whether that is closed is a rule.
            world.own_cpu().thread = None;
        });
    });
    let CoroutineResult::Yield(()) = code.resume(Command::Go) else {
        unreachable!("a thread stops before it begins");
    };
    code
}
