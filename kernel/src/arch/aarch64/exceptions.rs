//! What the kernel does about each exception and interrupt.

use super::cpu_state::CpuState;
use super::entry::{self, Frame, Kind, Origin};
use super::gic::{self, Interrupt};
use super::register::{mrs, msr, synchronize};
use super::registers::Registers;
use super::{ipi, irq, probe, root, time, tlb, user};
use crate::cpu::calls;
use crate::cpu::fault::Fault;
use crate::cpu::stack;
use crate::cpu::stack::Stack;
use crate::program::memory::Access;
use crate::program::{self, End, Event, Flow, Mistake, Task, task};
use crate::protection::interrupted::{self, way};
use crate::sched::accounting;
use crate::{cpu, protection, sched};
use core::fmt;
use core::sync::atomic::Ordering;
use kpkeys::Backend;
use kpkeys::pan::PAN;

/// Exception classes of the syndrome (Arm ARM, ESR_EL1.EC).
pub mod class {
    /// An instruction that does not exist, or not at this level.
    pub const UNKNOWN: u8 = 0x00;
    /// WFI or WFE at EL0.
    pub const WAIT: u8 = 0x01;
    /// An access to a system register that is trapped.
    pub const SYSTEM_REGISTER: u8 = 0x18;
    /// An instruction fetch of a program was refused.
    pub const PROGRAM_FETCH: u8 = 0x20;
    /// An instruction fetch of the kernel was refused.
    pub const KERNEL_FETCH: u8 = 0x21;
    /// A data access of a program was refused.
    pub const PROGRAM_DATA: u8 = 0x24;
    /// A data access of the kernel was refused.
    pub const KERNEL_DATA: u8 = 0x25;
    /// A program's SVC.
    pub const SYSTEM_CALL: u8 = 0x15;
}

/// The exception level and stack pointer to return to: 0 is EL0.
const SPSR_MODE: u64 = 0xf;
/// FIQs are masked in the interrupted state.
const SPSR_F: u64 = 1 << 6;

/// Gives the running CPU its vector table and its overflow stack. Its number must be known (`cpu_state`).
///
/// # Panics
///
/// When no stacks are left, which the number of slots rules out for CPUs that start before any thread.
pub fn install(state: &'static CpuState) {
    let stack = Stack::take().expect("each CPU's overflow stack comes before any thread's");
    state.set_overflow_stack(stack.top());
    core::mem::forget(stack); // the CPU owns it for ever
    // SAFETY: the table is complete and part of the image.
    unsafe { msr!("vbar_el1", entry::vectors()) };
    synchronize();
}

/// Kinds of exceptions that each have a frame in a CPU's record (`interrupted`): those of [`Kind`].
pub const KINDS: usize = 4;

/// Every exception comes here from the entry code, everything masked. Returns how it is returned from: see
/// [`way`].
///
/// The window that was interrupted is closed before anything else runs, and resumed last, so that a handler never starts inside it.
pub extern "C" fn dispatch(frame: &mut Frame) -> u64 {
    let at = time::counter();
    root::enter_kernel();
    interrupted::enter(frame, interrupted_open);
    if is_from_program(frame) {
        accounting::entered(at);
    }
    handle(frame);
    irq::disable_all();
    let way = interrupted::leave(frame);
    if is_from_program(frame) && frame.spsr & SPSR_MODE == 0 {
        // Only there; on the kernel's own root nothing that EL0 may execute is mapped.
        root::enter_program();
        accounting::leaves();
    }
    match way {
        // Closed by the register, which no return changes; there may be no PAN.
        way::CLOSED if !protection::backend().is_kept_in_spsr() => way::AS_SAVED,
        way => way,
    }
}

/// Which of the kinds a frame is of; none for interrupts, which do not arrive in a gate.
pub fn kind_of(frame: &Frame) -> Option<usize> {
    (frame.kind() != Kind::Irq).then_some(frame.vector as usize % KINDS)
}

/// Whether the exception interrupted a program.
pub fn is_from_program(frame: &Frame) -> bool {
    frame.origin() == Origin::Program
}

/// Whether the exception interrupted an open window. With `pan` the hardware has saved PAN in SPSR, and set it; else the register is as it
/// was. Nothing has changed either since.
pub fn interrupted_open(frame: &Frame) -> bool {
    if protection::backend().is_kept_in_spsr() {
        return frame.origin() == Origin::Kernel && mrs!("spsr_el1") & PAN == 0;
    }
    !protection::backend().is_in::<kpkeys::context::Default>()
}

/// The address to return to and the state, from the registers that the exception has put them in.
pub fn correct(gate: &mut Frame) {
    (gate.elr, gate.spsr) = (mrs!("elr_el1"), mrs!("spsr_el1"));
}

/// If a gate was interrupted by the fault of a probe, it goes on behind it, with what the handler says of the fault.
pub fn go_on_after_probe(gate: &mut Frame, handled: &Frame) {
    if gate.kind() == Kind::Synchronous
        && let Some(behind) = crate::evidence::probe::fixup_for(gate.elr)
    {
        (gate.elr, gate.x[0], gate.x[1]) = (behind, handled.x[0], handled.x[1]);
    }
}

fn handle(frame: &mut Frame) {
    match (frame.kind(), frame.origin()) {
        (Kind::Irq | Kind::Fiq, Origin::Kernel | Origin::Program) => handle_interrupt(frame),
        (Kind::Synchronous, Origin::Program) => handle_program(frame),
        (Kind::Synchronous, Origin::Kernel) => {
            let_nmis_in(frame);
            if !probe::recover(frame) {
                die(frame, name(frame.class()));
            }
        }
        (Kind::SError, Origin::Kernel) if calls::run_error_call() => {}
        (Kind::SError, _) => die(frame, "asynchronous error (SError)"),
        (_, Origin::Impossible) => die(frame, "exception from a state that is never entered"),
    }
}

/// An exception inside the NMI handler must not let the next NMI in.
fn let_nmis_in(frame: &Frame) {
    if frame.spsr & SPSR_F == 0 {
        irq::enable_nmi();
    }
}

/// What is acknowledged decides, not the vector: GICv2 hands out the interrupt with the highest priority, an NMI that came right
/// after the interrupt that was signalled.
fn handle_interrupt(frame: &mut Frame) {
    let Some(interrupt) = gic::acknowledge(frame.kind()) else { return };
    match interrupt.number() {
        ipi::NMI => handle_nmi(interrupt),
        ipi::CALL => {
            gic::end(interrupt);
            let register = kept_register(frame);
            cpu::this().arch.interrupted_register.store(register, Ordering::Relaxed);
            let_nmis_in(frame);
            tlb::answer_pending();
            calls::run_interrupt_call();
        }
        number if number == time::interrupt() => handle_timer(frame, interrupt),
        _ => gic::end(interrupt),
    }
}

/// Where the frame keeps what says whether the interrupted code may write page tables: the register; or PAN, which the hardware keeps in
/// SPSR.
fn kept_register(frame: &mut Frame) -> *mut u64 {
    if protection::selected().is_kept_in_spsr() {
        return &raw mut frame.spsr;
    }
    (&raw mut frame.protection).cast()
}

/// The next tick may preempt, so this one is finished first.
fn handle_timer(frame: &mut Frame, interrupt: Interrupt) {
    cpu::this().ticks.fetch_add(1, Ordering::Relaxed);
    time::next_tick();
    gic::end(interrupt);
    let_nmis_in(frame);
    sched::tick();
    if frame.origin() == Origin::Program
        && let Some(task) = task::current().filter(|task| task.is_wanted())
    {
        handle_task(frame, Event::Interrupt, &task);
    }
}

/// NMIs stay masked until the handler's own return, so there is never one inside another. One without a request is counted
/// and otherwise harmless: two NMIs that arrive while a third is handled become one.
fn handle_nmi(interrupt: Interrupt) {
    gic::end(interrupt);
    if !calls::run_nmi_call() {
        cpu::this().arch.nmis_without_request.fetch_add(1, Ordering::Relaxed);
    }
}

/// A program's system call, page fault or mistake. Interrupts are on while the memory manager works.
fn handle_program(frame: &mut Frame) {
    irq::enable_nmi();
    if let Some(task) = task::current() {
        return handle_task(frame, event_of(frame), &task);
    }
    let mistake = match frame.class() {
        class::SYSTEM_CALL => return end_program(frame, End::Exit(frame.x[0])),
        class::PROGRAM_DATA | class::PROGRAM_FETCH => {
            let (address, code) = (frame.far, frame.esr);
            irq::enable();
            let handled = program::fault(address, probe::is_write(code));
            irq::disable();
            if handled {
                return;
            }
            Mistake::PageFault(Fault { cause: probe::cause(code), address, code })
        }
        class::UNKNOWN | class::WAIT | class::SYSTEM_REGISTER => Mistake::ForbiddenInstruction,
        other => Mistake::Other(name(other)),
    };
    end_program(frame, End::Killed(mistake));
}

/// What a Linux program's exception is.
fn event_of(frame: &Frame) -> Event {
    match frame.class() {
        class::SYSTEM_CALL => Event::Call,
        class::PROGRAM_FETCH => Event::Fault(frame.far, Access::Execute),
        class::PROGRAM_DATA if probe::is_write(frame.esr) => Event::Fault(frame.far, Access::Write),
        class::PROGRAM_DATA => Event::Fault(frame.far, Access::Read),
        class::UNKNOWN | class::WAIT | class::SYSTEM_REGISTER => Event::Illegal,
        0x2c => Event::Arithmetic,
        0x30..=0x3c => Event::Breakpoint,
        _ => Event::BadAddress,
    }
}

/// Does what a Linux program's exception asks for. Interrupts are on meanwhile.
fn handle_task(frame: &mut Frame, event: Event, task: &Task) {
    let mut registers = Registers::of(frame);
    irq::enable();
    let flow = task.handle(&mut registers, event);
    irq::disable();
    registers.put(frame);
    if flow == Flow::Leave {
        let kernel_stack = sched::current().kernel_stack_address();
        // SAFETY: only this thread writes it.
        user::leave(frame, unsafe { *kernel_stack }, 0);
    }
}

fn end_program(frame: &mut Frame, end: End) {
    let kernel_stack = program::end(end);
    user::leave(frame, kernel_stack, 0);
}

/// The entry code found no room for a frame, which lies on the CPU's overflow stack instead.
pub extern "C" fn die_of_stack_overflow(frame: &Frame, stack_pointer: u64) -> ! {
    protection::close();
    debug_assert!(stack::is_guard(stack_pointer));
    panic!("stack overflow: the stack pointer is {stack_pointer:#x}, in a guard page\n{frame}");
}

fn die(frame: &Frame, what: &str) -> ! {
    panic!("{what}\n{frame}");
}

fn name(class: u8) -> &'static str {
    match class {
        class::UNKNOWN => "undefined instruction",
        class::WAIT => "trapped WFI or WFE",
        0x07 => "no FPU",
        0x0e => "illegal execution state",
        class::SYSTEM_CALL => "system call",
        class::SYSTEM_REGISTER => "trapped system register",
        class::PROGRAM_FETCH | class::KERNEL_FETCH => "instruction abort",
        class::PROGRAM_DATA | class::KERNEL_DATA => "data abort",
        0x22 => "unaligned program counter",
        0x26 => "unaligned stack pointer",
        0x30 | 0x31 => "breakpoint",
        0x3c => "BRK instruction",
        _ => "unexpected exception",
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  syndrome {:#x} (class {:#x})", self.esr, self.class())?;
        if matches!(self.class(), class::KERNEL_DATA | class::KERNEL_FETCH) {
            writeln!(f, "  address {:#x}: {:?}", self.far, probe::cause(self.esr))?;
        }
        let (elr, sp) = (self.elr, self.kernel_stack_pointer());
        writeln!(f, "  elr {elr:#018x} sp {sp:#018x} spsr {:#x}", self.spsr)?;
        for (line, registers) in self.x.chunks(3).enumerate() {
            for (column, value) in registers.iter().enumerate() {
                write!(f, "  x{:<2} {value:#018x}", line * 3 + column)?;
            }
            writeln!(f)?;
        }
        write!(f, "  protection register {:x?}", self.protection)
    }
}
