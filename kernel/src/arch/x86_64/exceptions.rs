//! What the kernel does about each exception and interrupt.

use super::descriptors::{KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_DATA};
use super::entry::{DOUBLE_FAULT, Frame, MACHINE_CHECK, NMI, PAGE_FAULT, WITHOUT_IRET};
use super::registers::{self, Registers};
use super::user::{self, SYSTEM_CALL};
use super::{apic, probe, root, time, tlb};
use crate::cpu::calls;
use crate::cpu::fault::Fault;
use crate::cpu::stack;
use crate::program::memory::{Access, UserAddress};
use crate::program::{self, End, Event, Flow, Mistake, Task, task};
use crate::protection::interrupted::{self, way};
use crate::sched::accounting;
use crate::{cpu, protection, sched};
use core::fmt;
use core::sync::atomic::Ordering;
use kpkeys::smap::AC;
use kpkeys::{Backend, Scheme};

/// Vectors of interrupts. The high nibble is the priority (Intel SDM vol. 3A, 11.8.3.1):
/// a shootdown must get through whatever else is pending.
pub mod vector {
    /// The local APIC's timer.
    pub const TIMER: u8 = 0x20;
    /// Run the function in this CPU's mailbox.
    pub const CALL: u8 = 0xe0;
    /// Flush the TLB and acknowledge.
    pub const SHOOTDOWN: u8 = 0xf0;
    /// The local APIC's word for "it was nothing after all".
    pub const SPURIOUS: u8 = 0xff;
}

/// Kinds of exceptions that each have a frame in a CPU's record (`interrupted`).
pub const KINDS: usize = 3;

/// Every exception and interrupt comes here from the entry code, interrupts off, with the RFLAGS that were interrupted, unless it is an
/// interrupt. Returns how it is returned from: one of the [`way`]s, or [`WITHOUT_IRET`].
///
/// The window that was interrupted is closed before anything else runs, and resumed last, so that a handler never starts inside it.
pub extern "C" fn dispatch(frame: &mut Frame, rflags: u64) -> u64 {
    let at = time::counter();
    if has_own_stack(frame.vector as u8) {
        // It may have interrupted the entry of another exception, before that put the GS base back.
        super::cpu_state::restore();
    }
    let on_programs_root = root::enter_kernel();
    // What has AC set on a program's root reaches that program's memory: no gate.
    interrupted::enter(frame, |frame| !on_programs_root && interrupted_open(frame, rflags));
    if on_programs_root && !frame.is_from_user() {
        interrupted::note_root(frame);
    }
    if frame.is_from_user() {
        accounting::entered(at);
    }
    handle(frame);
    let is_inside_nmi = cpu::this().arch.in_nmi.load(Ordering::Relaxed);
    let way = match interrupted::leave(frame) {
        way::AS_SAVED | way::CLOSED if is_inside_nmi => WITHOUT_IRET,
        way::AS_SAVED | way::CLOSED if protection::has_alias() => way_back(frame),
        // Closed by the register, which no return changes.
        way::CLOSED => way::AS_SAVED,
        way => way,
    };
    // Not if the program has ended.
    if frame.is_from_user() {
        accounting::leaves();
    }
    way
}

/// How an exception is returned from where programs run on roots of their own: from here on on that of what was interrupted. And, in
/// gates, by a copy of the frame that nobody can write, since IRETQ restores AC: it is clear there for the kernel, and where it
/// is not the kernel is not what is returned to. (Elsewhere it comes back as it was saved: a window may have been interrupted.)
pub fn way_back(frame: &Frame) -> u64 {
    let by = match protection::has_gates() {
        true => interrupted::leave_by_copy(frame, close),
        false => frame,
    };
    if by.is_from_user() || interrupted::take_noted_root(frame) {
        root::enter_program();
    }
    core::ptr::from_ref(by) as u64
}

/// Makes a frame one that opens no window, whatever it was.
fn close(frame: &mut Frame) {
    /// The system's flags that a program must not have: IOPL, NT, VM.
    const SYSTEM: u64 = 3 << 12 | 1 << 14 | 1 << 17;
    frame.rflags &= !SYSTEM;
    if frame.is_from_user() {
        (frame.cs, frame.ss) = (u64::from(USER_CODE), u64::from(USER_DATA));
    } else {
        (frame.cs, frame.ss) = (u64::from(KERNEL_CODE), u64::from(KERNEL_DATA));
        frame.rflags &= !AC;
    }
}

/// Which of the kinds a frame is of; none for interrupts, which do not arrive in a gate.
pub fn kind_of(frame: &Frame) -> Option<usize> {
    const FIRST_INTERRUPT: u64 = 32;
    match frame.vector {
        vector if vector == u64::from(NMI) => Some(0),
        vector if vector == u64::from(MACHINE_CHECK) => Some(1),
        FIRST_INTERRUPT.. => None,
        _ => Some(2),
    }
}

/// Whether the exception interrupted a program.
pub fn is_from_program(frame: &Frame) -> bool {
    frame.is_from_user()
}

/// Whether the exception interrupted an open window. With keys the register is as it was; AC the entry code has cleared, and kept in a register
/// what it was. It is a program's own.
fn interrupted_open(frame: &Frame, rflags: u64) -> bool {
    match protection::backend().scheme() {
        Scheme::Keys => !protection::backend().is_in::<kpkeys::context::Default>(),
        Scheme::Alias => !frame.is_from_user() && rflags & AC != 0,
    }
}

/// The flag that opens the gate again, which was pushed to memory.
pub fn correct(gate: &mut Frame) {
    if protection::backend().scheme() == Scheme::Alias {
        gate.rflags |= AC;
    }
}

/// If a gate was interrupted by the fault of a probe, it goes on behind it, with what the handler says of the fault.
pub fn go_on_after_probe(gate: &mut Frame, handled: &Frame) {
    if gate.vector == u64::from(PAGE_FAULT)
        && let Some(behind) = crate::evidence::probe::fixup_for(gate.rip)
    {
        (gate.rip, gate.rax, gate.rdx) = (behind, handled.rax, handled.rdx);
    }
}

/// Whether the exception can arrive at any instruction of the kernel, the first of an entry included.
fn has_own_stack(vector: u8) -> bool {
    matches!(vector, NMI | DOUBLE_FAULT | MACHINE_CHECK)
}

fn handle(frame: &mut Frame) {
    match frame.vector as u8 {
        NMI => handle_nmi(frame),
        DOUBLE_FAULT => die_of_double_fault(frame),
        MACHINE_CHECK if calls::run_error_call() => {}
        MACHINE_CHECK => die(frame, "machine check"),
        vector::TIMER => {
            handle_timer();
            let task = if frame.is_from_user() { task::current() } else { None };
            if let Some(task) = task.filter(|task| task.is_wanted()) {
                handle_task(frame, vector::TIMER, &task);
            }
        }
        vector::CALL => {
            apic::end_of_interrupt();
            let register = kept_register(frame);
            cpu::this().arch.interrupted_register.store(register, Ordering::Relaxed);
            calls::run_interrupt_call();
        }
        vector::SHOOTDOWN => {
            tlb::answer_pending();
            apic::end_of_interrupt();
        }
        vector::SPURIOUS => {} // needs no end of interrupt: Intel SDM vol. 3A, 11.9
        exception if frame.is_from_user() => handle_program(frame, exception),
        _ if probe::recover(frame) => {}
        exception => die(frame, name(exception)),
    }
}

/// Where the frame keeps what says whether the interrupted code may write page tables: the register; or AC, in RFLAGS.
fn kept_register(frame: &mut Frame) -> *mut u64 {
    match protection::backend().scheme() {
        Scheme::Keys => (&raw mut frame.protection).cast(),
        Scheme::Alias => &raw mut frame.rflags,
    }
}

/// A program's system call, page fault or mistake. Interrupts are on while the memory manager works.
fn handle_program(frame: &mut Frame, exception: u8) {
    const WRITE: u64 = 1 << 1;
    const INVALID_OPCODE: u8 = 6;
    const GENERAL_PROTECTION: u8 = 13;
    if let Some(task) = task::current() {
        return handle_task(frame, exception, &task);
    }
    let mistake = match exception {
        SYSTEM_CALL => return end_program(frame, End::Exit(frame.rdi)),
        PAGE_FAULT => {
            let (address, code) = (frame.fault_address, frame.error_code);
            super::irq::enable();
            let handled = program::fault(address, code & WRITE != 0);
            super::irq::disable();
            if handled {
                return;
            }
            Mistake::PageFault(Fault { cause: probe::cause(code), address, code })
        }
        INVALID_OPCODE | GENERAL_PROTECTION => Mistake::ForbiddenInstruction,
        _ => Mistake::Other(name(exception)),
    };
    end_program(frame, End::Killed(mistake));
}

/// The same for a Linux program.
fn handle_task(frame: &mut Frame, exception: u8, task: &Task) {
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    let access = match frame.error_code {
        code if code & FETCH != 0 => Access::Execute,
        code if code & WRITE != 0 => Access::Write,
        _ => Access::Read,
    };
    let mut registers = Registers::of(frame);
    let event = match exception {
        0 | 16 | 19 => Event::Arithmetic,
        1 | 3 => Event::Breakpoint,
        6 => Event::Illegal,
        PAGE_FAULT => Event::Fault(frame.fault_address, access),
        vector::TIMER => Event::Interrupt,
        _ => Event::BadAddress,
    };
    super::irq::enable();
    let event = if event == Event::Illegal && is_system_call(task, registers.rip) {
        Event::Call
    } else {
        event
    };
    let flow = task.handle(&mut registers, event);
    super::irq::disable();
    registers.put(frame);
    if flow == Flow::Leave {
        let kernel_stack = sched::current().kernel_stack_address();
        // SAFETY: only this thread writes it.
        user::leave(frame, unsafe { *kernel_stack }, 0);
    }
}

/// Whether the instruction is SYSCALL, which is undefined here: see `registers`.
fn is_system_call(task: &Task, at: u64) -> bool {
    let mut instruction = [0; registers::SYSTEM_CALL.len()];
    let read = task.process.memory().read(UserAddress(at), &mut instruction);
    read.is_ok() && instruction == registers::SYSTEM_CALL
}

fn end_program(frame: &mut Frame, end: End) {
    let kernel_stack = program::end(end);
    user::leave(frame, kernel_stack, 0);
}

/// The next tick may preempt, so this one is finished first.
fn handle_timer() {
    cpu::this().ticks.fetch_add(1, Ordering::Relaxed);
    apic::end_of_interrupt();
    sched::tick();
}

/// NMIs stay blocked until the handler's own IRETQ, so there is never one inside another
/// (`entry`). One without a request is counted and otherwise harmless: two NMIs that arrive
/// while a third is handled become one.
fn handle_nmi(frame: &Frame) {
    let state = &cpu::this().arch;
    state.in_nmi.store(true, Ordering::Relaxed);
    if !calls::run_nmi_call() {
        state.nmis_without_request.fetch_add(1, Ordering::Relaxed);
    }
    restore_fault_address(frame);
    state.in_nmi.store(false, Ordering::Relaxed);
}

/// The interrupted code may be a page fault's entry that has not yet read CR2.
fn restore_fault_address(frame: &Frame) {
    // SAFETY: CR2 has no effect on the CPU; it is only read by page-fault entry.
    unsafe {
        core::arch::asm!("mov cr2, {}", in(reg) frame.fault_address, options(nomem, nostack, preserves_flags));
    }
}

/// CR2 still holds the address of the fault that could not be delivered; a guard page there
/// means that the stack ran out (Intel SDM vol. 3A, 6.15 "Interrupt 8").
fn die_of_double_fault(frame: &Frame) -> ! {
    if stack::is_guard(frame.fault_address) {
        die(frame, "stack overflow (double fault on a stack's guard page)")
    }
    die(frame, "double fault")
}

fn die(frame: &Frame, what: &str) -> ! {
    panic!("{what}\n{frame}");
}

fn name(vector: u8) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound exceeded",
        6 => "invalid opcode",
        7 => "no FPU",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection fault",
        PAGE_FAULT => "page fault",
        16 => "x87 error",
        17 => "alignment check",
        19 => "SIMD exception",
        20 => "virtualisation exception",
        21 => "control protection exception",
        _ => "unexpected interrupt",
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  vector {} error code {:#x}", self.vector, self.error_code)?;
        match self.vector as u8 {
            PAGE_FAULT => {
                let cause = probe::cause(self.error_code);
                writeln!(f, "  address {:#x}: {cause:?}", self.fault_address)?;
            }
            DOUBLE_FAULT => writeln!(f, "  last fault address {:#x}", self.fault_address)?,
            _ => {}
        }
        writeln!(f, "  rip {:#018x} rsp {:#018x} rflags {:#x}", self.rip, self.rsp, self.rflags)?;
        writeln!(f, "  rax {:#018x} rbx {:#018x} rcx {:#018x}", self.rax, self.rbx, self.rcx)?;
        writeln!(f, "  rdx {:#018x} rsi {:#018x} rdi {:#018x}", self.rdx, self.rsi, self.rdi)?;
        writeln!(f, "  rbp {:#018x} r8  {:#018x} r9  {:#018x}", self.rbp, self.r8, self.r9)?;
        writeln!(f, "  r10 {:#018x} r11 {:#018x} r12 {:#018x}", self.r10, self.r11, self.r12)?;
        writeln!(f, "  r13 {:#018x} r14 {:#018x} r15 {:#018x}", self.r13, self.r14, self.r15)?;
        write!(f, "  protection register {:x?}", self.protection)
    }
}
