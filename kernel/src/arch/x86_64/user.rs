//! Ring 3: entering it, and coming back.
//!
//! [`enter`] remembers its stack pointer and returns to user mode. From there the CPU comes back by interrupts and
//! exceptions alone; entry code moves to the thread's stack, right below what `enter` left ([`set_kernel_stack`]).
//! To end a program, the handler turns its frame into a return to `enter`'s caller ([`leave`]).
//!
//! The one system call is `int 0x80`: it ends the program with the value in RDI. Programs have no FPU, and no GS base of their
//! own: entry code puts the kernel's back, whatever a program did to it.

use super::descriptors::{KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_DATA};
use super::entry::Frame;
use super::exceptions;
use crate::protection;
use crate::sched::accounting;
use core::arch::{global_asm, naked_asm};
use core::sync::atomic::Ordering;

/// The vector of the system call.
pub const SYSTEM_CALL: u8 = 0x80;

/// Tells the running CPU a thread's stack for exceptions of its program. Interrupts are off.
pub fn set_kernel_stack(top: u64) {
    crate::cpu::this().arch.kernel_stack().store(top, Ordering::Relaxed);
}

/// What a program starts with.
pub struct Start {
    /// Its first instruction.
    pub instruction: u64,
    /// Its stack pointer.
    pub stack: u64,
    /// What it finds in RDI, RSI and RDX.
    pub arguments: [u64; 3],
}

/// Runs a program until [`leave`], and returns what that was given.
///
/// # Safety
///
/// Interrupts must be off; they are on in the program and off again afterwards. The running thread must have an address space loaded whose
/// user half is the program's. `kernel_stack` must point to where the thread keeps the stack for its exceptions.
pub unsafe fn enter(start: &Start, kernel_stack: *mut u64) -> u64 {
    const INTERRUPTS_ON: u64 = 1 << 9 | 1 << 1; // and the bit that is always set
    let [rdi, rsi, rdx] = start.arguments;
    let frame = Frame {
        vector: u64::from(SYSTEM_CALL),
        rip: start.instruction,
        cs: u64::from(USER_CODE),
        rflags: INTERRUPTS_ON,
        rsp: start.stack,
        ss: u64::from(USER_DATA),
        rdi,
        rsi,
        rdx,
        ..Frame::ZERO
    };
    // SAFETY: the caller's promise.
    unsafe { enter_by(&frame, kernel_stack) }
}

/// Runs a program from a frame until [`leave`], and returns what that was given.
///
/// # Safety
///
/// As [`enter`]; the frame must be one of a program.
pub(super) unsafe fn enter_by(frame: &Frame, kernel_stack: *mut u64) -> u64 {
    let on_this_cpu = crate::cpu::this().arch.kernel_stack().as_ptr();
    accounting::leaves();
    let by = match protection::has_alias() {
        true => exceptions::way_back(frame),
        false => &raw const *frame as u64,
    };
    // SAFETY: interrupts are off, so the CPU stays this thread's until the program runs; the frame is one of a program.
    unsafe { enter_user(by, kernel_stack, on_this_cpu) }
}

/// Ends the program that `frame` interrupted: its `enter` returns `result`.
pub fn leave(frame: &mut Frame, kernel_stack: u64, result: u64) {
    const INTERRUPTS_OFF: u64 = 1 << 1; // the bit that is always set
    frame.rip = back_from_user as *const () as u64;
    frame.cs = u64::from(KERNEL_CODE);
    frame.ss = u64::from(KERNEL_DATA);
    frame.rflags = INTERRUPTS_OFF;
    frame.rsp = kernel_stack;
    frame.rax = result;
}

/// The bytes of a program that fills memory: stores RDX to RSI pages from RDI, then ends with the sum of what it reads back.
pub fn fill_program() -> &'static [u8] {
    let start = &raw const user_fill_start;
    let len = &raw const user_fill_end as usize - start as usize;
    // SAFETY: the symbols bracket the program below.
    unsafe { core::slice::from_raw_parts(start, len) }
}

/// Programs of instructions that are the kernel's alone: HLT, and WRMSR to the protection register with the value that allows everything.
pub fn forbidden_programs() -> [&'static [u8]; 2] {
    // mov ecx, 0x6e1; xor eax, eax; xor edx, edx; wrmsr
    const OPEN_REGISTER: &[u8] = &[0xb9, 0xe1, 0x06, 0, 0, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30];
    [&[0xf4], OPEN_REGISTER]
}

/// A program that takes away what the kernel finds its per-CPU state by, as far as programs can, and ends with 9.
pub fn spoiling_program() -> &'static [u8] {
    // xor eax, eax; mov gs, eax; mov edi, 9; int 0x80
    &[0x31, 0xc0, 0x8e, 0xe8, 0xbf, 9, 0, 0, 0, 0xcd, 0x80]
}

/// Makes code that was written as data visible to instruction fetches: it is, on this architecture.
pub fn publish_code(_: *const u8, _: usize) {}

// SAFETY: defined by the assembly below; only the addresses are used.
unsafe extern "C" {
    static user_fill_start: u8;
    static user_fill_end: u8;
}

/// Returns by a frame, after what [`back_from_user`] takes up again.
#[unsafe(naked)]
unsafe extern "C" fn enter_user(frame: u64, kernel_stack: *mut u64, on_this_cpu: *mut u64) -> u64 {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rsi], rsp",
        "mov [rdx], rsp",
        "jmp return_by_frame",
    )
}

/// Where [`leave`] sends the CPU: the end of [`enter_user`], with the result in RAX.
#[unsafe(naked)]
extern "C" fn back_from_user() {
    naked_asm!("pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp", "ret")
}

global_asm!(
    r#"
    .pushsection .rodata
user_fill_start:
    mov rcx, rsi
    mov r8, rdi
1:  mov [r8], rdx
    add r8, 4096
    dec rcx
    jnz 1b
    mov rcx, rsi
    xor eax, eax
2:  add rax, [rdi]
    add rdi, 4096
    dec rcx
    jnz 2b
    mov rdi, rax
    int 0x80
user_fill_end:
    .popsection
"#
);
