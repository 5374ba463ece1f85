//! Threads: making, ending and waiting for them.

use super::{Fate, finish_switch, make_ready, switch_away};
use crate::arch::registers::Extended;
use crate::arch::root::RootTable;
use crate::cpu::stack::Stack;
use crate::cpu::{self, CpuId};
use crate::lock::{IrqLock, IrqsOff};
use crate::program::{Running, Task};
use crate::{arch, protection};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use kpkeys::Saved;

/// A kernel thread.
pub struct Thread {
    name: String,
    /// The one CPU it may run on; `None` for any.
    bound_to: Option<CpuId>,
    is_idle: bool,
    /// Its stack pointer while it does not run.
    pub(super) stack_pointer: AtomicUsize,
    /// Its protection register while it does not run. Only the switch that suspends or resumes it takes the lock.
    pub(super) protection: IrqLock<Saved>,
    /// Physical address of the root table it runs on; 0 stands for the kernel's own.
    root: AtomicU64,
    /// The stack for exceptions of the program it runs, if it runs one.
    kernel_stack: AtomicU64,
    /// The program it runs.
    running: AtomicPtr<Running>,
    /// The registers of its program that the kernel has no use for, while it does not run. Only the switch that suspends or resumes it, and the thread
    /// itself, take the lock.
    extended: IrqLock<Option<Box<Extended>>>,
    /// The Linux program that it is a thread of.
    task: spin::Once<Arc<Task>>,
    /// `None` for idle threads, which use the stack their CPU started on.
    stack: Option<Stack>,
    start: IrqLock<Option<Box<dyn FnOnce() + Send>>>,
    ended: AtomicBool,
    joiner: IrqLock<Option<Arc<Thread>>>,
}

/// Why a thread could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// All stacks are in use; wait for threads to end.
    NoStack,
    /// It would be bound to a CPU that does not run.
    CpuOffline(CpuId),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStack => f.write_str("all thread stacks are in use; let some threads end"),
            Self::CpuOffline(id) => write!(f, "CPU {id} is not online"),
        }
    }
}

impl Thread {
    fn new(name: String, bound_to: Option<CpuId>, stack: Option<Stack>) -> Self {
        Self {
            name,
            bound_to,
            is_idle: stack.is_none(),
            stack_pointer: AtomicUsize::new(0),
            protection: IrqLock::new(protection::initial()),
            root: AtomicU64::new(0),
            kernel_stack: AtomicU64::new(0),
            running: AtomicPtr::new(core::ptr::null_mut()),
            extended: IrqLock::new(None),
            task: spin::Once::new(),
            stack,
            start: IrqLock::new(None),
            ended: AtomicBool::new(false),
            joiner: IrqLock::new(None),
        }
    }

    /// The idle thread of `cpu`, which is the flow of control that calls this.
    pub(super) fn idle(cpu: CpuId) -> Arc<Self> {
        Arc::new(Self::new("idle".to_string(), Some(cpu), None))
    }

    /// The name given to [`spawn`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The root table it runs on.
    pub fn root(&self) -> RootTable {
        RootTable(self.root.load(Ordering::Relaxed))
    }

    /// Makes the thread run on this root table whenever it runs, and from now on if it is the running one.
    ///
    /// # Safety
    ///
    /// The table must hold the kernel's half and outlive its use: until another root is set.
    pub unsafe fn set_root(&self, root: RootTable) {
        let _irqs_off = IrqsOff::new();
        self.root.store(root.0, Ordering::Relaxed);
        arch::root::load(super::current().root());
    }

    /// The stack for exceptions of its program.
    pub(super) fn kernel_stack(&self) -> u64 {
        self.kernel_stack.load(Ordering::Relaxed)
    }

    /// Where that is kept.
    pub fn kernel_stack_address(&self) -> *mut u64 {
        self.kernel_stack.as_ptr()
    }

    /// The program it runs; null if none.
    pub fn running(&self) -> *mut Running {
        self.running.load(Ordering::Relaxed)
    }

    /// Remembers the program it runs.
    pub fn set_running(&self, running: *mut Running) {
        self.running.store(running, Ordering::Relaxed);
    }

    /// The Linux program that it is a thread of.
    pub fn task(&self) -> Option<&Arc<Task>> {
        self.task.get()
    }

    /// Makes the running thread one of a Linux program, with these registers besides the general ones.
    pub fn become_task(&self, task: Arc<Task>, extended: Box<Extended>) {
        self.task.call_once(|| task);
        self.change_extended(|registers| *registers = Some(extended));
    }

    /// Changes the registers besides the general ones of the running thread's program.
    pub fn change_extended<R>(&self, change: impl FnOnce(&mut Option<Box<Extended>>) -> R) -> R {
        let mut extended = self.extended.lock();
        if let Some(registers) = extended.as_mut() {
            registers.save();
        }
        let result = change(&mut extended);
        if let Some(registers) = extended.as_ref() {
            registers.load();
        }
        result
    }

    /// Takes the program's registers out of the CPU. Interrupts are off.
    pub(super) fn suspend_program(&self) {
        if let Some(registers) = self.extended.lock().as_mut() {
            registers.save();
        }
    }

    /// Puts the program's registers into the CPU. Interrupts are off.
    pub(super) fn resume_program(&self) {
        if let Some(registers) = self.extended.lock().as_ref() {
            registers.load();
        }
    }

    /// Where its root table's address is kept. For attacks.
    pub fn root_address(&self) -> *mut u64 {
        self.root.as_ptr()
    }

    /// Where its protection register is kept while it does not run. For attacks.
    pub fn protection_address(&self) -> *mut u64 {
        (&raw mut *self.protection.lock()).cast()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.is_idle
    }

    pub(super) fn may_run_on(&self, cpu: CpuId) -> bool {
        self.bound_to.is_none_or(|bound_to| bound_to == cpu)
    }

    /// Wakes `joiner`, which does not run, when this thread ends; at once if it has.
    pub(super) fn add_joiner(&self, joiner: Arc<Self>) {
        let mut slot = self.joiner.lock();
        if self.ended.load(Ordering::Acquire) {
            make_ready(joiner);
        } else {
            *slot = Some(joiner);
        }
    }

    fn end(&self) {
        let mut slot = self.joiner.lock();
        self.ended.store(true, Ordering::Release);
        if let Some(joiner) = slot.take() {
            make_ready(joiner);
        }
    }
}

/// The right to wait for a thread and take its result.
pub struct JoinHandle<T> {
    thread: Arc<Thread>,
    result: Arc<IrqLock<Option<T>>>,
}

impl<T> JoinHandle<T> {
    /// The thread.
    pub fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Waits for the thread's end and returns its result.
    ///
    /// # Panics
    ///
    /// Never: a thread stores its result before it ends.
    pub fn join(self) -> T {
        while !self.thread.ended.load(Ordering::Acquire) {
            switch_away(Fate::Joining(self.thread.clone()));
        }
        let result = self.result.lock().take();
        result.expect("a thread stores its result before it ends")
    }
}

/// Starts a thread that runs `function`, on the CPU `bound_to` or on any.
///
/// # Errors
///
/// [`SpawnError::NoStack`] when too many threads run; [`SpawnError::CpuOffline`] when
/// `bound_to` does not.
pub fn spawn<T: Send + 'static>(
    name: &str,
    bound_to: Option<CpuId>,
    function: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, SpawnError> {
    if let Some(id) = bound_to
        && !cpu::get(id).is_some_and(cpu::Cpu::is_online)
    {
        return Err(SpawnError::CpuOffline(id));
    }
    let stack = Stack::take().ok_or(SpawnError::NoStack)?;
    let top = stack.top();
    let result = Arc::new(IrqLock::new(None));
    let thread = Arc::new(Thread::new(name.to_string(), bound_to, Some(stack)));
    let result_of_thread = result.clone();
    *thread.start.lock() = Some(Box::new(move || {
        let value = function();
        *result_of_thread.lock() = Some(value);
    }));
    // SAFETY: the stack was just taken, and the thread does not run before `make_ready`.
    let stack_pointer = unsafe { arch::context::prepare(top, first_steps) };
    thread.stack_pointer.store(stack_pointer, Ordering::Relaxed);
    make_ready(thread.clone());
    Ok(JoinHandle { thread, result })
}

/// Where every thread begins, interrupts off, and ends.
extern "C" fn first_steps() -> ! {
    finish_switch();
    arch::irq::enable();
    run_current();
    switch_away(Fate::Ended);
    unreachable!("a thread that ended was switched to");
}

/// A function of its own, so that nothing is left to drop when the thread's stack goes.
fn run_current() {
    let thread = super::current();
    let start = thread.start.lock().take();
    if let Some(function) = start {
        function();
    }
    thread.end();
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, stack) = (&self.name, &self.stack);
        f.debug_struct("Thread").field("name", name).field("stack", stack).finish_non_exhaustive()
    }
}
