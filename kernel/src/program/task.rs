//! Threads of processes, and what they do about exceptions.
//!
//! A thread of a process is a thread of the kernel that enters its program and comes back with each exception, on its own stack. What it does
//! then, it does with interrupts on, as any thread; right before it goes back it looks for signals.

use super::errno::{Errno, Outcome};
use super::memory::{Access, Memory, UserAddress};
use super::process::{Process, Status};
use super::signals::{self, AlternateStack, Info, Signal, error_value};
use super::usage::Taken;
use super::{calls, process};
use crate::arch;
use crate::arch::registers::{Extended, Registers};
use crate::arch::root::RootTable;
use crate::lock::IrqsOff;
use crate::sched::{self, accounting, events};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use linux_raw_sys::general::{SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGSEGV, SIGSTOP, SIGTRAP};
use spin::Mutex;

/// A thread of a process.
pub struct Task {
    number: AtomicU32,
    /// Its process.
    pub process: Arc<Process>,
    /// Signals that wait until they are let through.
    pub mask: AtomicU64,
    /// The mask to go back to after a call that had one of its own.
    pub saved_mask: Mutex<Option<u64>>,
    /// Signals for this thread.
    pending: AtomicU64,
    info: Mutex<Option<Info>>,
    /// The word that is cleared at its end, and whose waiters are woken.
    pub cleared_at_end: AtomicU64,
    /// Where its robust list begins.
    pub robust_list: AtomicU64,
    /// It ends, and its process does not.
    leaving: AtomicBool,
    /// Its alternate stack.
    pub alternate_stack: Mutex<AlternateStack>,
    /// What it has used, as far as its CPU has told.
    pub taken: Taken,
}

/// What brought a thread into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A system call.
    Call,
    /// An access that needs the memory manager: where, and what for.
    Fault(u64, Access),
    /// An instruction that does not exist, or is the kernel's.
    Illegal,
    /// A division that has no result.
    Arithmetic,
    /// A breakpoint.
    Breakpoint,
    /// An address that no program may have.
    BadAddress,
    /// An interrupt, which is done.
    Interrupt,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The program goes on.
    Continue,
    /// It ends: the thread leaves it.
    Leave,
}

/// The thread that runs, if it runs a Linux program.
pub fn current() -> Option<Arc<Task>> {
    sched::current().task().cloned()
}

impl Task {
    /// A thread.
    pub fn new(number: u32, process: Arc<Process>, mask: u64) -> Arc<Self> {
        let task = Arc::new(Self {
            number: AtomicU32::new(number),
            process,
            mask: AtomicU64::new(mask),
            saved_mask: Mutex::new(None),
            pending: AtomicU64::new(0),
            info: Mutex::new(None),
            cleared_at_end: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            alternate_stack: Mutex::default(),
            taken: Taken::default(),
        });
        task.process.add_task(task.clone());
        task
    }

    /// Its number; its process's, for the first.
    pub fn number(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }

    /// It runs another program, which begins with one thread: the others end, and it takes the number of the first.
    ///
    /// # Errors
    ///
    /// [`Errno::EAGAIN`] if it is to end itself: its process, or for a thread that was faster with the same.
    pub fn become_only(&self) -> Outcome<()> {
        self.process.each_task(|other| {
            if !core::ptr::eq(self, Arc::as_ptr(other)) && !self.is_leaving() {
                other.leave();
            }
        });
        events::announce();
        loop {
            let moment = events::moment();
            if self.is_leaving() {
                return Err(Errno::EAGAIN);
            }
            if self.process.task_count() == 1 {
                break;
            }
            events::wait(moment, None);
        }
        self.number.store(self.process.number, Ordering::Relaxed);
        Ok(())
    }

    /// Starts it in its program.
    ///
    /// # Errors
    ///
    /// [`Errno::EAGAIN`] if no more threads can be.
    pub fn start(self: &Arc<Self>, registers: Registers, extended: Box<Extended>) -> Outcome<()> {
        let task = self.clone();
        let thread = sched::spawn("program", None, move || task.live(registers, extended));
        thread.map(drop).map_err(|_| {
            self.process.remove_task(self.number());
            Errno::EAGAIN
        })
    }

    fn live(self: Arc<Self>, registers: Registers, extended: Box<Extended>) {
        let thread = sched::current();
        self.use_memory(&self.process.memory());
        thread.become_task(self.clone(), extended);
        if !self.process.is_ending() {
            let _irqs_off = IrqsOff::new();
            // SAFETY: interrupts are off, and the address space is loaded; `use_memory` keeps it until the thread leaves it.
            unsafe { arch::registers::enter(&registers, thread.kernel_stack_address()) };
        }
        self.finish();
    }

    /// Makes the running thread, which is this one, run on this memory's tables.
    pub fn use_memory(&self, memory: &Memory) {
        // SAFETY: the root lives as long as the memory, which the process keeps until it has other memory, which this is called for before
        // that is dropped, or until its last thread has left (`finish`).
        unsafe { sched::current().set_root(memory.root()) };
    }

    /// It has left its program for ever.
    fn finish(&self) {
        calls::robust::release(self);
        let word = UserAddress(self.cleared_at_end.load(Ordering::Relaxed));
        if !word.is_null() {
            let memory = self.process.memory();
            // A program that gave a bad address gets no wake-up.
            if memory.write(word, &0_u32.to_le_bytes()).is_ok() {
                calls::futex::wake(&memory, word, 1);
            }
        }
        // SAFETY: the kernel's own root lives for ever.
        unsafe { sched::current().set_root(RootTable::KERNEL) };
        if self.process.remove_task(self.number()) {
            if let Ok(nothing) = Memory::nothing() {
                drop(self.process.replace_memory(nothing));
            }
            // Giving that back was its work too.
            accounting::settle();
            self.process.past_threads.add(self.taken.take());
            self.process.finish();
        }
        events::announce();
    }

    /// Does what an exception of its program asks for. Interrupts are on.
    pub fn handle(&self, registers: &mut Registers, event: Event) -> Flow {
        let mut interrupted = None;
        match event {
            Event::Call => interrupted = self.call(registers),
            Event::Fault(address, access) => self.fault(address, access),
            Event::Illegal => self.force(SIGILL, 1, registers.instruction()),
            Event::Arithmetic => self.force(SIGFPE, 1, registers.instruction()),
            Event::Breakpoint => self.force(SIGTRAP, 1, registers.instruction()),
            Event::BadAddress => self.force(SIGSEGV, 0x80, 0),
            Event::Interrupt => {}
        }
        signals::deliver(self, registers, interrupted)
    }

    /// It does not go back to its program.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether it is to leave its program.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) || self.process.is_ending()
    }

    /// Whether there is anything to do before it goes back to its program. Interrupts may be off.
    pub fn is_wanted(&self) -> bool {
        self.is_leaving() || self.deliverable() != 0
    }

    fn call(&self, registers: &mut Registers) -> signals::Interrupted {
        let (number, arguments) = registers.call();
        registers.pass_call();
        match calls::run(self, registers, number, arguments) {
            Ok(value) => registers.set_result(value),
            Err(Errno::RESTART) => return Some((number, arguments[0])),
            Err(error) => registers.set_result(error_value(error)),
        }
        None
    }

    fn fault(&self, address: u64, access: Access) {
        const NOT_MAPPED: i32 = 1;
        const FORBIDDEN: i32 = 2;
        const NO_PAGE: i32 = 2;
        use kpkeys_mm::Error;
        match self.process.memory().fault(address, access) {
            Ok(()) => self.taken.add_fault(),
            Err(Error::NotMapped(_)) => self.force(SIGSEGV, NOT_MAPPED, address),
            Err(Error::Forbidden(_)) => self.force(SIGSEGV, FORBIDDEN, address),
            Err(Error::BehindEnd(_)) => self.force(SIGBUS, NO_PAGE, address),
            Err(Error::OutOfMemory) => {
                let (number, name) =
                    (self.process.number, self.process.identity.lock().executable.clone());
                log::warn!("out of memory: process {number} ({name}) is killed");
                self.process.end(Status(SIGKILL));
            }
            Err(error) => {
                log::error!("page fault at {address:#x}: {error}");
                self.force(SIGBUS, FORBIDDEN, address);
            }
        }
    }

    /// Sends this thread a signal for what it did; one that it blocks or ignores ends it.
    fn force(&self, signal: u32, code: i32, address: u64) {
        let Some(signal) = Signal::new(signal.into()) else { return };
        let blocked = self.mask.load(Ordering::Relaxed) & signal.bit() != 0;
        if blocked || self.process.actions.lock()[signal.number() as usize].handler <= 1 {
            self.process.end(Status::killed(signal));
            return;
        }
        *self.info.lock() = Some(Info::fault(signal, code, address));
        self.pending.fetch_or(signal.bit(), Ordering::AcqRel);
    }

    /// Sends this thread a signal.
    pub fn signal(&self, signal: Signal) {
        if !self.process.actions.lock()[signal.number() as usize].ignores(signal) {
            self.pending.fetch_or(signal.bit(), Ordering::AcqRel);
            events::announce();
        }
    }

    /// Sets what is blocked: never what cannot be.
    pub fn set_mask(&self, mask: u64) {
        const NEVER: u64 = 1 << (SIGKILL - 1) | 1 << (SIGSTOP - 1);
        self.mask.store(mask & !NEVER, Ordering::Relaxed);
    }

    /// Signals that are sent and not acted on yet.
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Acquire) | self.process.pending.load(Ordering::Acquire)
    }

    fn deliverable(&self) -> u64 {
        self.pending() & !self.mask.load(Ordering::Relaxed)
    }

    /// The next signal to act on.
    pub fn take_signal(&self) -> Option<(Signal, Info)> {
        loop {
            let deliverable = self.deliverable();
            let signal = Signal::new(u64::from(deliverable.trailing_zeros()) + 1)?;
            if self.pending.fetch_and(!signal.bit(), Ordering::AcqRel) & signal.bit() != 0 {
                let info = self.info.lock().take().unwrap_or(Info::of(signal));
                return Some((signal, info));
            }
            // Another thread may have been faster.
            if self.process.pending.fetch_and(!signal.bit(), Ordering::AcqRel) & signal.bit() != 0 {
                let info = self.process.infos.lock().remove(&signal.number());
                return Some((signal, info.unwrap_or(Info::of(signal))));
            }
        }
    }

    /// Waits until `look` finds something.
    ///
    /// # Errors
    ///
    /// What `look` says; [`Errno::RESTART`] if a signal came; [`Errno::ETIMEDOUT`] if `deadline`, a time since boot, did.
    pub fn wait<T>(
        &self,
        deadline: Option<Duration>,
        mut look: impl FnMut() -> Outcome<Option<T>>,
    ) -> Outcome<T> {
        loop {
            let moment = events::moment();
            if let Some(found) = look()? {
                return Ok(found);
            }
            if self.is_wanted() {
                return Err(Errno::RESTART);
            }
            if deadline.is_some_and(|deadline| deadline <= arch::time::since_boot()) {
                return Err(Errno::ETIMEDOUT);
            }
            events::wait(moment, deadline);
        }
    }

    /// The thread with a number, in a process.
    pub fn find(process: u32, number: u32) -> Option<Arc<Self>> {
        let mut found = None;
        process::find(process)?.each_task(|task| {
            if task.number() == number {
                found = Some(task.clone());
            }
        });
        found
    }
}
