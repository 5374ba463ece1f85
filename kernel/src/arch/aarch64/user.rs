//! EL0: entering it, and coming back.
//!
//! [`enter`] remembers its stack pointer and returns to EL0. From there the CPU comes back by exceptions alone, on the stack
//! pointer it left with, since EL1 has its own: the frame lies right below what `enter` left.
//! To end a program, the handler turns its frame into a return to `enter`'s caller ([`leave`]).
//!
//! The one system call is `svc #0`: it ends the program with the value in X0. Programs have no FPU.

use super::entry::Frame;
use super::registers::{Registers, USER_FLAGS};
use super::{backend, irq, root};
use crate::memory::boot::PAGE_SIZE;
use crate::sched::accounting;
use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;
use kpkeys::pan::PAN;

/// What a program starts with.
pub struct Start {
    /// Its first instruction.
    pub instruction: u64,
    /// Its stack pointer.
    pub stack: u64,
    /// What it finds in X0, X1 and X2.
    pub arguments: [u64; 3],
}

/// Nothing: the stack for exceptions of a thread's program is the thread's own.
pub fn set_kernel_stack(_: u64) {}

/// Runs a program until [`leave`], and returns what that was given.
///
/// # Safety
///
/// Interrupts must be off; they are on in the program and off again afterwards. The running thread must have an address space loaded whose
/// user half is the program's. `kernel_stack` must point to where the thread keeps the stack for its exceptions.
pub unsafe fn enter(start: &Start, kernel_stack: *mut u64) -> u64 {
    let mut registers = Registers::start(start.instruction, start.stack);
    registers.x[..3].copy_from_slice(&start.arguments);
    // SAFETY: forwarded.
    unsafe { enter_by(&registers, kernel_stack) }
}

/// The same with every register given.
///
/// # Safety
///
/// As [`enter`].
pub(super) unsafe fn enter_by(registers: &Registers, kernel_stack: *mut u64) -> u64 {
    irq::disable_all();
    root::enter_program();
    accounting::leaves();
    // SAFETY: forwarded.
    unsafe { enter_user(registers, kernel_stack) }
}

/// Ends the program that `frame` interrupted: its `enter` returns `result`.
pub fn leave(frame: &mut Frame, kernel_stack: u64, result: u64) {
    /// EL1 on its own stack pointer, interrupts off.
    const KERNEL: u64 = 0b0101 | 1 << 7;
    debug_assert_eq!(frame.kernel_stack_pointer(), kernel_stack);
    frame.elr = back_from_user as *const () as u64;
    // The bit is no bit of a CPU's that has no PAN.
    frame.spsr = if backend::lacks_pan() { KERNEL } else { KERNEL | PAN };
    frame.x[0] = result;
}

/// The bytes of a program in the assembly below, between its two symbols.
macro_rules! program {
    ($start:ident, $end:ident) => {{
        // SAFETY: defined by the assembly below; only the addresses are used.
        unsafe extern "C" {
            static $start: u8;
            static $end: u8;
        }
        let start = &raw const $start;
        let len = &raw const $end as usize - start as usize;
        // SAFETY: the symbols bracket the program.
        unsafe { core::slice::from_raw_parts(start, len) }
    }};
}

/// A program that fills memory: stores X2 to X1 pages from X0, then ends with the sum of what it reads back.
pub fn fill_program() -> &'static [u8] {
    program!(user_fill_start, user_fill_end)
}

/// Programs of instructions that are the kernel's alone: MSR to the masks, and to the protection registers (the mock's and
/// `POR_EL1`) with the value that allows everything.
pub fn forbidden_programs() -> [&'static [u8]; 3] {
    [
        program!(user_unmask_start, user_unmask_end),
        program!(user_open_mock_start, user_open_mock_end),
        program!(user_open_overlay_start, user_open_overlay_end),
    ]
}

/// A program that takes away what the kernel finds its per-CPU state by, as far as programs can, and ends with 9: it writes its
/// thread pointer.
pub fn spoiling_program() -> &'static [u8] {
    program!(user_spoil_start, user_spoil_end)
}

/// Makes code that was written as data visible to instruction fetches of all CPUs (Arm ARM, B2.4.4): out of the data caches, then
/// forgotten by the instruction caches.
pub fn publish_code(at: *const u8, len: usize) {
    const LINE: usize = 16; // no cache has shorter ones
    for offset in (0..len).step_by(LINE) {
        // SAFETY: cleaning a line changes no memory as any CPU sees it.
        unsafe {
            core::arch::asm!("dc cvau, {}", in(reg) at.wrapping_add(offset), options(nostack, preserves_flags));
        }
    }
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "dsb ish",
            "ic ialluis",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}

/// Everything is masked from when ELR and SPSR are written; what SPSR has besides the condition flags is EL0 with interrupts on. No register keeps a value of the
/// kernel's. What is pushed first here is popped by [`back_from_user`].
#[unsafe(naked)]
unsafe extern "C" fn enter_user(registers: &Registers, kernel_stack: *mut u64) -> u64 {
    naked_asm!(
        "stp x19, x20, [sp, #-96]!",
        "stp x21, x22, [sp, #16]",
        "stp x23, x24, [sp, #32]",
        "stp x25, x26, [sp, #48]",
        "stp x27, x28, [sp, #64]",
        "stp x29, x30, [sp, #80]",
        "mov x9, sp",
        "str x9, [x1]",
        "msr daifset, #0xf",
        "ldp x9, x10, [x0, #{sp}]",
        "msr sp_el0, x9",
        "msr elr_el1, x10",
        "ldp x9, x10, [x0, #{flags}]",
        "and x9, x9, #{user_flags}",
        "msr spsr_el1, x9",
        "msr tpidr_el0, x10",
        "ldp x2, x3, [x0, #16]",
        "ldp x4, x5, [x0, #32]",
        "ldp x6, x7, [x0, #48]",
        "ldp x8, x9, [x0, #64]",
        "ldp x10, x11, [x0, #80]",
        "ldp x12, x13, [x0, #96]",
        "ldp x14, x15, [x0, #112]",
        "ldp x16, x17, [x0, #128]",
        "ldp x18, x19, [x0, #144]",
        "ldp x20, x21, [x0, #160]",
        "ldp x22, x23, [x0, #176]",
        "ldp x24, x25, [x0, #192]",
        "ldp x26, x27, [x0, #208]",
        "ldp x28, x29, [x0, #224]",
        "ldr x30, [x0, #240]",
        "ldp x0, x1, [x0]",
        "eret",
        sp = const offset_of!(Registers, sp),
        flags = const offset_of!(Registers, flags),
        user_flags = const USER_FLAGS,
    )
}

/// Where [`leave`] sends the CPU: the end of [`enter_user`], with the result in X0.
#[unsafe(naked)]
extern "C" fn back_from_user() {
    naked_asm!(
        "ldp x29, x30, [sp, #80]",
        "ldp x27, x28, [sp, #64]",
        "ldp x25, x26, [sp, #48]",
        "ldp x23, x24, [sp, #32]",
        "ldp x21, x22, [sp, #16]",
        "ldp x19, x20, [sp], #96",
        "ret",
    )
}

global_asm!(
    r#"
    .pushsection .rodata
    .balign 4
user_fill_start:
    mov   x3, x1
    mov   x4, x0
1:  str   x2, [x4]
    add   x4, x4, #{page}
    subs  x3, x3, #1
    b.ne  1b
    mov   x3, x1
    mov   x5, xzr
2:  ldr   x6, [x0]
    add   x5, x5, x6
    add   x0, x0, #{page}
    subs  x3, x3, #1
    b.ne  2b
    mov   x0, x5
    svc   #0
user_fill_end:

user_unmask_start:
    msr   daifclr, #0xf
    svc   #0
user_unmask_end:

user_open_mock_start:
    mov   w0, #0x77777777
    msr   contextidr_el1, x0
    svc   #0
user_open_mock_end:

user_open_overlay_start:
    mov   w0, #0x77777777
    msr   S3_0_C10_C2_4, x0
    svc   #0
user_open_overlay_end:

    // Ends with 9.
user_spoil_start:
    msr   tpidr_el0, xzr
    mov   x0, #9
    svc   #0
user_spoil_end:
    .popsection
"#,
    page = const PAGE_SIZE,
);
