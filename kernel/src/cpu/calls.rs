//! Running a function on a CPU inside an interrupt, an NMI or an asynchronous error, and waiting for it.
//!
//! Each CPU has one mailbox for each of the three. The sender claims the mailbox, puts the
//! function in, sends the interrupt and waits until the receiver has run it; so a mailbox
//! holds one function at a time.

use crate::arch;
use crate::cpu::{self, Cpu, CpuId};
use crate::lock::IrqsOff;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use core::time::Duration;

/// How long one waits for an interrupt that cannot come, to see that it does not.
pub const PATIENCE: Duration = Duration::from_millis(2);

/// Where a CPU finds the function to run.
pub struct Mailbox(AtomicPtr<Request<'static>>);

struct Request<'a> {
    function: &'a (dyn Fn() + Sync),
    done: AtomicBool,
}

impl Mailbox {
    /// An empty mailbox.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(core::ptr::null_mut()))
    }

    /// Puts `function` in, calls `notify`, and waits until it has run.
    fn deliver(&self, function: &(dyn Fn() + Sync), notify: impl FnOnce()) {
        let request = Request { function, done: AtomicBool::new(false) };
        self.put(&request);
        notify();
        while !request.done.load(Ordering::Acquire) {
            arch::irq::relax();
        }
    }

    /// Puts `function` in, calls `notify`, and waits for a while until it has run; else takes it back. Returns whether it ran. For the CPU
    /// that takes from this mailbox.
    fn offer(&self, function: &(dyn Fn() + Sync), notify: impl FnOnce()) -> bool {
        let request = Request { function, done: AtomicBool::new(false) };
        self.put(&request);
        notify();
        let end = arch::time::since_boot() + PATIENCE;
        while !request.done.load(Ordering::Acquire) {
            arch::irq::relax();
            // Only this CPU could be running the function, and it is here.
            if !arch::irq::enabled() && arch::time::since_boot() > end {
                self.0.store(core::ptr::null_mut(), Ordering::Release);
                return false;
            }
        }
        true
    }

    /// Puts a request in, once there is none. The caller does not return before the receiver is done with it, or it is taken back, so
    /// the lifetime that the receiver sees may be stretched.
    fn put(&self, request: &Request<'_>) {
        let pointer = core::ptr::from_ref(request).cast::<Request<'static>>().cast_mut();
        let empty = core::ptr::null_mut();
        while self.0.compare_exchange(empty, pointer, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            arch::irq::relax();
        }
    }

    /// Runs the function inside and empties the mailbox. False when there is none.
    fn run(&self) -> bool {
        let pointer = self.0.load(Ordering::Acquire);
        if pointer.is_null() {
            return false;
        }
        // SAFETY: a request in the mailbox stays valid until `done` is set, which only happens
        // below, and only this CPU takes from its own mailbox.
        let request = unsafe { &*pointer };
        (request.function)();
        self.0.store(core::ptr::null_mut(), Ordering::Release);
        request.done.store(true, Ordering::Release);
        true
    }
}

impl Default for Mailbox {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs `function` on CPU `target` in an interrupt handler, also when that is the running
/// CPU, and waits for it.
///
/// # Panics
///
/// When the CPU is not online, or interrupts are off: the caller could wait for itself, or
/// for a CPU that waits for this one.
pub fn run_in_interrupt(target: CpuId, function: &(dyn Fn() + Sync)) {
    assert!(arch::irq::enabled(), "run_in_interrupt needs interrupts on");
    let cpu = online(target);
    cpu.interrupt_call.deliver(function, || arch::ipi::send_call(cpu));
}

/// Runs `function` in an interrupt handler on this CPU, and waits for it. With interrupts off that cannot be: after a while, in which the
/// interrupt is pending, the function is taken back. Returns whether it ran.
pub fn offer_to_interrupt(function: &(dyn Fn() + Sync)) -> bool {
    let cpu = cpu::this();
    cpu.interrupt_call.offer(function, || arch::ipi::send_call(cpu))
}

/// Runs `function` on another CPU in an interrupt handler, and waits for it, interrupts on or off: no two CPUs may do that to each other.
///
/// # Panics
///
/// When the CPU is not online, or is this one.
pub fn run_on_other_cpu(target: CpuId, function: &(dyn Fn() + Sync)) {
    let cpu = online(target);
    assert!(cpu.id != cpu::this().id, "CPU {target} is this one");
    cpu.interrupt_call.deliver(function, || arch::ipi::send_call(cpu));
}

/// Runs `function` on CPU `target` in an NMI handler, also when that is the running CPU or
/// it has interrupts off, and waits for it. The function must not log or take locks.
///
/// # Panics
///
/// When the CPU is not online.
pub fn run_in_nmi(target: CpuId, function: &(dyn Fn() + Sync)) {
    let cpu = online(target);
    cpu.nmi_call.deliver(function, || arch::ipi::send_nmi(cpu));
}

/// Runs `function` on this CPU in the handler of an asynchronous error, and waits for it. The function must not log or take locks.
///
/// # Panics
///
/// When there is no way to raise an error (`arch::error::can_be_raised`).
pub fn run_in_error(function: &(dyn Fn() + Sync)) {
    assert!(arch::error::can_be_raised(), "asynchronous errors cannot be raised on this machine");
    // The mailbox must be that of the CPU that takes the error; masking interrupts does not mask it.
    let _irqs_off = IrqsOff::new();
    cpu::this().error_call.deliver(function, arch::error::raise);
}

fn online(target: CpuId) -> &'static Cpu {
    match cpu::get(target) {
        Some(cpu) if cpu.is_online() => cpu,
        _ => panic!("CPU {target} is not online"),
    }
}

/// The interrupt handler's part. An interrupt with an empty mailbox does nothing.
pub fn run_interrupt_call() {
    cpu::this().interrupt_call.run();
}

/// The NMI handler's part; false when nobody in the kernel sent the NMI.
pub fn run_nmi_call() -> bool {
    cpu::this().nmi_call.run()
}

/// The error handler's part; false when nobody in the kernel raised the error.
pub fn run_error_call() -> bool {
    cpu::this().error_call.run()
}
