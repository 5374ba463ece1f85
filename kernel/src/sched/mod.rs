//! Preemptive round-robin threads on all CPUs.
//!
//! One queue holds the threads that are ready and not running; each CPU takes the first it
//! may run. A thread runs until it gives up its turn, waits, ends, or a timer tick finds
//! another one ready. Every CPU has an idle thread, never in the queue, that halts.
//!
//! The protocol of a switch: with interrupts off, a thread picks the next one, leaves word in
//! its CPU's state of what is to become of itself, and switches stacks. The *next* thread
//! acts on that word ([`finish_switch`]). So a thread enters the queue, or is freed, only when
//! no CPU uses its stack any more, and no lock is held over a switch.

pub mod accounting;
pub mod events;
mod thread;

pub use thread::{JoinHandle, SpawnError, Thread, spawn};

use crate::arch::root::RootTable;
use crate::cpu::{self, CpuId};
use crate::lock::{IrqLock, IrqsOff};
use crate::{arch, program, protection};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

/// Threads that are ready and not running.
static READY: IrqLock<VecDeque<Arc<Thread>>> = IrqLock::new(VecDeque::new());

/// The scheduler's state for one CPU. The locks are only ever taken by that CPU; they make
/// the state safe to have in a static.
pub struct CpuState {
    current: IrqLock<Option<Arc<Thread>>>,
    idle: IrqLock<Option<Arc<Thread>>>,
    left: IrqLock<Option<(Arc<Thread>, Fate)>>,
}

impl CpuState {
    /// The state of a CPU that runs no thread yet.
    pub const fn new() -> Self {
        Self { current: IrqLock::new(None), idle: IrqLock::new(None), left: IrqLock::new(None) }
    }
}

impl Default for CpuState {
    fn default() -> Self {
        Self::new()
    }
}

/// What is to become of a thread that was switched away from.
enum Fate {
    /// It wants to go on.
    Ready,
    /// It waits for this thread's end.
    Joining(Arc<Thread>),
    /// It waits for an announcement since then, or for that time.
    Waiting(events::Moment, Option<Duration>),
    /// It has ended.
    Ended,
}

/// Makes the running flow of control this CPU's idle thread, and the CPU part of the
/// scheduler. Interrupts are off.
pub fn adopt_idle_thread() {
    let cpu = cpu::this();
    let idle = Thread::idle(cpu.id);
    *cpu.sched.current.lock() = Some(idle.clone());
    *cpu.sched.idle.lock() = Some(idle);
    cpu.set_online();
}

/// The idle thread's life.
pub fn idle() -> ! {
    loop {
        yield_now();
        arch::irq::enable_and_wait();
    }
}

/// The roots of all threads that wait for a CPU.
pub fn waiting_roots() -> Vec<RootTable> {
    READY.lock().iter().map(|thread| thread.root()).collect()
}

/// The running thread.
///
/// # Panics
///
/// Before [`adopt_idle_thread`] has run on this CPU.
pub fn current() -> Arc<Thread> {
    let _irqs_off = IrqsOff::new();
    let current = cpu::this().sched.current.lock().clone();
    current.expect("every CPU runs a thread once it is online")
}

/// The running thread, for a panic's message: `None` when that cannot be told without waiting.
pub fn try_current() -> Option<Arc<Thread>> {
    cpu::this().sched.current.try_lock()?.clone()
}

/// Lets another ready thread run, if there is one.
pub fn yield_now() {
    switch_away(Fate::Ready);
}

/// The timer's tick: the running thread's turn is over. What protection rests on is looked at again meanwhile.
pub fn tick() {
    protection::control::verify();
    accounting::settle();
    events::tick();
    program::alarms::tick();
    program::files::terminal::tick();
    switch_away(Fate::Ready);
}

/// Queues a thread that nobody runs.
fn make_ready(thread: Arc<Thread>) {
    READY.lock().push_back(thread);
}

fn next_for(cpu: CpuId) -> Option<Arc<Thread>> {
    let mut ready = READY.lock();
    let first = ready.iter().position(|thread| thread.may_run_on(cpu))?;
    ready.remove(first)
}

/// Runs another thread and returns when this one's turn comes again, at once when there is no
/// other and this one can go on.
fn switch_away(fate: Fate) {
    let _irqs_off = IrqsOff::new();
    let cpu = cpu::this();
    let next = match (next_for(cpu.id), &fate) {
        (Some(next), _) => next,
        (None, Fate::Ready) => return,
        (None, _) => {
            let idle = cpu.sched.idle.lock().clone();
            idle.expect("every CPU has an idle thread once it runs threads")
        }
    };
    let this = current();
    *cpu.sched.current.lock() = Some(next.clone());
    let (from, to) = (this.stack_pointer.as_ptr(), next.stack_pointer.load(Ordering::Relaxed));
    protection::switch_thread(&mut this.protection.lock(), &mut next.protection.lock());
    arch::root::load(next.root());
    arch::user::set_kernel_stack(next.kernel_stack());
    this.suspend_program();
    next.resume_program();
    accounting::give_to(&this);
    drop(next); // `sched.current` keeps it
    *cpu.sched.left.lock() = Some((this, fate));
    // SAFETY: interrupts are off. `next` was not running: it came from the queue, which only
    // gets threads whose stack is at rest, or is this CPU's idle thread, which only this CPU
    // runs. `from` stays valid because `sched.left`, then the queue or a joined thread, own it.
    unsafe { arch::context::switch(from, to) };
    finish_switch();
}

/// Acts on the word that the thread before left on this CPU.
fn finish_switch() {
    let cpu = cpu::this();
    let left = cpu.sched.left.lock().take();
    let Some((thread, fate)) = left else { return };
    match fate {
        Fate::Ready if thread.is_idle() => {}
        Fate::Ready => make_ready(thread),
        Fate::Joining(target) => target.add_joiner(thread),
        Fate::Waiting(moment, deadline) => events::enqueue(thread, moment, deadline),
        // On the stack of any thread, which may hold any lock that is held with interrupts on: none is waited for.
        Fate::Ended => drop(thread),
    }
}
