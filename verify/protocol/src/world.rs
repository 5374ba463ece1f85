//! What there is besides code: CPUs with a register and a TLB each, threads, locks, frames, and the memory that tables are in.
//!
//! One execution has one world, which the host's thread that runs it owns. The code under test reaches it through the hooks of [`machine`](crate::machine)
//! and of the locks. Each hook is a [`point`]: the thread stops there, and the explorer says who goes on.

use std::cell::RefCell;

use corosensei::Yielder;
use kpkeys_pgtable::Mode;

use crate::fault::Fault;
use crate::frames::FrameList;
use crate::tlb::Tlbs;

/// How many threads there are: each begins on a CPU of its own, and further CPUs begin idle.
pub const THREADS: usize = 2;

/// What a stopped thread is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Go on to the next point.
    Go,
    /// Take this exception, here.
    Take(Kind),
    /// Go on, and find no memory for what is asked for here.
    Fail,
}

/// An exception.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A device's interrupt: its handler stores an entry by an operation of its own.
    Device,
    /// A timer's: its handler gives the CPU to another thread.
    Timer,
    /// What cannot be masked.
    Nmi,
}

/// What was broken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rule {
    /// The register is open exactly while its own window's code runs.
    Register,
    /// No table is reachable writable while it is linked.
    Table,
    /// Nothing is freed or used anew that a TLB still maps.
    Frame,
    /// What an entry or a TLB maps is marked as mapped, where frames have types.
    Type,
    /// Somebody can always go on until all are done.
    Progress,
    /// No operation fails or panics.
    Code,
}

/// A rule that was broken, and by what.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// How.
    pub what: String,
}

/// Why a thread cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Wait {
    /// For the lock with this number.
    Lock(usize),
    /// For this CPU to take an interrupt, by which a TLB is flushed.
    Flush(usize),
}

/// Something that an exploration is to reach: without it a rule that holds says little.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Reached {
    /// An exception arrived while a window was open.
    ExceptionInWindow = 1 << 0,
    /// What cannot be masked arrived while a window was open.
    NmiInWindow = 1 << 1,
    /// A thread was switched away from with its window open.
    SwitchInWindow = 1 << 2,
    /// A thread went on on another CPU.
    Migration = 1 << 3,
    /// A lock was waited for.
    Contention = 1 << 4,
    /// A flush waited for a CPU with interrupts off.
    FlushWaited = 1 << 5,
    /// All threads were done.
    Done = 1 << 6,
    /// A frame that was asked for was not to be had.
    OutOfMemory = 1 << 7,
}

/// A CPU.
pub struct Cpu {
    /// The protection register.
    pub register: u64,
    /// Whether interrupts are on.
    pub interrupts: bool,
    /// The thread that runs here; none is the CPU's idle thread.
    pub thread: Option<usize>,
    /// The record of a gate that was interrupted: of which frame it is, and what the CPU saved.
    pub record: Option<(u64, u64)>,
}

/// What runs on a thread's stack: the thread itself, or a handler above it.
pub struct Context {
    /// `None` for the thread itself.
    pub kind: Option<Kind>,
    /// Whether its own code opened a window and has not closed it.
    pub window: bool,
    /// What it waits for.
    pub wait: Option<Wait>,
    /// Whether it stands where it asks for memory.
    pub allocates: bool,
    /// Hash of all that it has seen.
    pub seen: u64,
}

/// A thread.
pub struct Thread {
    /// How its code stops, once it has started.
    pub yielder: *const Yielder<Command, ()>,
    /// The thread's own context, and those of its handlers.
    pub contexts: Vec<Context>,
    /// The CPU it ran on last.
    pub cpu: usize,
    /// Whether it is done.
    pub done: bool,
}

/// A lock, by the address that it has in this execution.
pub struct Lock {
    address: usize,
    /// Whether somebody holds it.
    pub held: bool,
    /// Hash of all that its holders had seen.
    pub history: u64,
}

/// See the module.
pub struct World {
    /// How tables are protected.
    pub mode: Mode,
    /// What is planted.
    pub fault: Option<Fault>,
    /// Whether exploration has begun.
    pub running: bool,
    /// Whether entry code runs, which nothing but hardware stops.
    pub in_entry_code: bool,
    /// The CPU whose turn it is.
    pub cpu: usize,
    /// All of them.
    pub cpus: Vec<Cpu>,
    /// All of them.
    pub threads: Vec<Thread>,
    /// All that were taken so far, in the order of their first use.
    pub locks: Vec<Lock>,
    /// Memory.
    pub frames: FrameList,
    /// What TLBs may hold, while it matters.
    pub tlbs: Option<Tlbs>,
    /// The kernel's root.
    pub kernel_root: u64,
    /// Roots of address spaces that are in use.
    pub user_roots: Vec<u64>,
    /// Whether a thread is in a lazy section, as the fourth version of the Linux series kept it: for a fault.
    pub lazy: bool,
    /// Whether nobody moves a page, or maps one twice: a frame that is mapped has been free since it was mapped elsewhere.
    pub mappings_are_new: bool,
    /// Whether a frame was asked for in vain, so that an operation may fail.
    pub failed: bool,
    /// Hash of what the step that goes on began with.
    pub step: u64,
    /// The first rule that was broken.
    pub violation: Option<Violation>,
    /// Set of [`Reached`].
    pub reached: u32,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Makes this the world of the host's thread.
pub fn enter(world: World) {
    WORLD.with_borrow_mut(|own| *own = Some(world));
}

/// Takes the world of the host's thread away.
pub fn leave() -> Option<World> {
    WORLD.with_borrow_mut(Option::take)
}

/// The world. It must not be asked for within itself.
pub fn with<R>(f: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with_borrow_mut(|own| f(own.as_mut().expect("an execution enters its world first")))
}

/// A point: the thread that is here stops until it is told to go on, and takes the exceptions that arrive.
pub fn point() {
    if with(|world| !world.running || world.in_entry_code) {
        return;
    }
    while let Command::Take(kind) = stop() {
        crate::threads::take(kind);
    }
}

/// Stops the thread that runs now.
pub fn stop() -> Command {
    let yielder = with(|world| world.own_thread().yielder);
    // SAFETY: the thread whose code this is runs on the stack that the yielder belongs to, which lives as long as its code.
    unsafe { (*yielder).suspend(()) }
}

/// A point, and then all others while `what` is in the way.
pub fn wait(what: Wait) {
    with(|world| world.own_context().wait = Some(what));
    point();
    with(|world| world.own_context().wait = None);
}

/// A point where memory is asked for. Whether there is to be none.
pub fn asks_in_vain() -> bool {
    if with(|world| !world.running || world.in_entry_code) {
        return false;
    }
    with(|world| world.own_context().allocates = true);
    let fails = loop {
        match stop() {
            Command::Take(kind) => crate::threads::take(kind),
            command => break command == Command::Fail,
        }
    };
    with(|world| {
        world.own_context().allocates = false;
        if fails {
            world.failed = true;
            world.reach(Reached::OutOfMemory);
        }
    });
    fails
}

/// Mixes a word into a hash.
pub const fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl World {
    /// As many CPUs, closed by `closed`, the first of them running a thread each.
    pub fn new(mode: Mode, fault: Option<Fault>, closed: u64, cpus: usize) -> World {
        let cpu = |cpu| Cpu {
            register: closed,
            interrupts: true,
            thread: (cpu < THREADS).then_some(cpu),
            record: None,
        };
        let thread = |cpu| Thread {
            yielder: core::ptr::null(),
            contexts: vec![Context {
                kind: None,
                window: false,
                wait: None,
                allocates: false,
                seen: cpu as u64,
            }],
            cpu,
            done: false,
        };
        World {
            mode,
            fault,
            running: false,
            in_entry_code: false,
            cpu: 0,
            cpus: (0..cpus).map(cpu).collect(),
            threads: (0..THREADS).map(thread).collect(),
            locks: Vec::new(),
            frames: FrameList::default(),
            tlbs: None,
            kernel_root: 0,
            user_roots: Vec::new(),
            lazy: false,
            mappings_are_new: false,
            failed: false,
            step: 0,
            violation: None,
            reached: 0,
        }
    }

    /// The CPU whose turn it is.
    pub fn own_cpu(&mut self) -> &mut Cpu {
        &mut self.cpus[self.cpu]
    }

    /// The thread that runs on it.
    pub fn own_thread(&mut self) -> &mut Thread {
        let thread = self.cpus[self.cpu].thread.expect("code runs in threads");
        &mut self.threads[thread]
    }

    /// What of that thread runs.
    pub fn own_context(&mut self) -> &mut Context {
        self.own_thread().contexts.last_mut().expect("a thread has a context of its own")
    }

    /// What the code of a thread waits for in vain.
    pub fn waits(&self, thread: usize) -> Option<Wait> {
        let wait = self.threads[thread].contexts.last().and_then(|context| context.wait);
        wait.filter(|&wait| !self.is_over(wait))
    }

    /// Whether windows are gates.
    pub fn has_gates(&self) -> bool {
        self.running && self.mode == Mode::Fused
    }

    /// Whether this is planted.
    pub fn has(&self, fault: Fault) -> bool {
        self.running && self.fault == Some(fault)
    }

    /// Notes that something was reached.
    pub fn reach(&mut self, what: Reached) {
        self.reached |= what as u32;
    }

    /// Notes that a rule was broken, unless one was before.
    pub fn broken(&mut self, rule: Rule, what: impl Into<String>) {
        self.violation.get_or_insert(Violation { rule, what: what.into() });
    }

    /// Whether what was waited for has come.
    fn is_over(&self, wait: Wait) -> bool {
        match wait {
            Wait::Lock(lock) => !self.locks[lock].held,
            Wait::Flush(cpu) => self.cpus[cpu].interrupts,
        }
    }

    /// The number of a lock.
    pub fn lock(&mut self, address: usize) -> usize {
        self.locks.iter().position(|lock| lock.address == address).unwrap_or_else(|| {
            self.locks.push(Lock { address, held: false, history: 0 });
            self.locks.len() - 1
        })
    }
}
