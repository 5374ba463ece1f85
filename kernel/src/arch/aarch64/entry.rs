//! Entry and return of every exception.
//!
//! The vector table has sixteen entries of 32 instructions (Arm ARM, D1.3.2): synchronous, IRQ, FIQ and SError, each for
//! EL1 on EL0's stack pointer (never used here), EL1 on its own, programs in 64 bits, and programs in 32 bits (which cannot be entered).
//! Each makes room for a [`Frame`] and goes to the common part with its number, which saves everything, calls
//! [`exceptions::dispatch`](super::exceptions::dispatch), and returns by ERET.
//!
//! The hardware masks everything on entry. ELR, SPSR, ESR and FAR are in the frame before anything is unmasked, so
//! exceptions nest freely.
//!
//! There is no second stack to fall back on by itself: a stack that ran out would fault again on its own frame, for ever. So every
//! entry looks whether the stack pointer is in the lowest page of a stack slot, the guard page (`stack`), and leaves for the
//! CPU's overflow stack. It has no register to look with: `sp + x0` and two subtractions hold both values
//! while one is tested.

use super::cpu_state::CpuState;
use crate::cpu::stack::{GUARD_SIZE, SLOT_SIZE};
use core::arch::global_asm;
use core::mem::offset_of;

/// The interrupted state as it lies on the handler's stack, lowest address first.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// General registers.
    pub x: [u64; 31],
    /// The stack pointer of programs.
    pub sp_el0: u64,
    /// Where the code was interrupted.
    pub elr: u64,
    /// Its state.
    pub spsr: u64,
    /// The syndrome: what happened, for synchronous exceptions and errors.
    pub esr: u64,
    /// The address accessed, for aborts.
    pub far: u64,
    /// The number of the vector; see [`Kind`] and [`Origin`].
    pub vector: u64,
    /// The protection register of the interrupted code, where windows may be interrupted; see `interrupted`.
    pub protection: kpkeys::Saved,
}

const FRAME_SIZE: usize = size_of::<Frame>();
const _: () = assert!(FRAME_SIZE.is_multiple_of(16));

/// What kind of exception, by the vector's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Caused by the interrupted instruction.
    Synchronous,
    /// An interrupt.
    Irq,
    /// What stands for the NMI.
    Fiq,
    /// An asynchronous error.
    SError,
}

/// Where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The kernel.
    Kernel,
    /// A program.
    Program,
    /// A state that this kernel never enters.
    Impossible,
}

impl Frame {
    /// Of nothing.
    // SAFETY: every field is a number, or a transparent wrapper of one.
    pub const ZERO: Self = unsafe { core::mem::zeroed() };

    /// What kind of exception it is.
    pub fn kind(&self) -> Kind {
        [Kind::Synchronous, Kind::Irq, Kind::Fiq, Kind::SError][self.vector as usize % 4]
    }

    /// Where it came from.
    pub fn origin(&self) -> Origin {
        match self.vector / 4 {
            1 => Origin::Kernel,
            2 => Origin::Program,
            _ => Origin::Impossible,
        }
    }

    /// The interrupted stack pointer of the kernel, which the frame lies right below.
    pub fn kernel_stack_pointer(&self) -> u64 {
        core::ptr::from_ref(self) as u64 + FRAME_SIZE as u64
    }

    /// The exception class in the syndrome (Arm ARM, ESR_EL1.EC).
    pub fn class(&self) -> u8 {
        (self.esr >> 26) as u8 & 0x3f
    }
}

/// Address of the vector table.
pub fn vectors() -> u64 {
    // SAFETY: defined below; only its address is used.
    unsafe extern "C" {
        static exception_vectors: u8;
    }
    &raw const exception_vectors as u64
}

global_asm!(
    r#"
    // The bits of a stack pointer that are zero in a slot's guard page. Sixteen bytes are taken off before the look, so that the top of a
    // stack, which is where the next slot begins, counts as its own.
    .macro vector number
    .balign 128
    sub   sp, sp, #16
    add   sp, sp, x0
    sub   x0, sp, x0
    tst   x0, #{slot_size} - {guard_size}
    sub   x0, sp, x0
    sub   sp, sp, x0
    b.eq  2f
1:  sub   sp, sp, #{frame_size} - 16
    stp   x0, x1, [sp]
    mov   x1, #\number
    b     exception_common
    // Stacks elsewhere may look like this too. TPIDRRO_EL0 is free, but programs can read it.
2:  msr   tpidrro_el0, x0
    adrp  x0, image_stacks_start
    cmp   sp, x0
    b.lo  3f
    adrp  x0, image_stacks_end
    cmp   sp, x0
    b.lo  stack_overflow
3:  mrs   x0, tpidrro_el0
    msr   tpidrro_el0, xzr
    b     1b
    .endm

    // Fills the frame at the stack pointer, but for X0, X1 and the vector, and makes it the argument of a call that ends backtraces. X1 stays.
    .macro save_frame
    stp   x2, x3, [sp, #16]
    stp   x4, x5, [sp, #32]
    stp   x6, x7, [sp, #48]
    stp   x8, x9, [sp, #64]
    stp   x10, x11, [sp, #80]
    stp   x12, x13, [sp, #96]
    stp   x14, x15, [sp, #112]
    stp   x16, x17, [sp, #128]
    stp   x18, x19, [sp, #144]
    stp   x20, x21, [sp, #160]
    stp   x22, x23, [sp, #176]
    stp   x24, x25, [sp, #192]
    stp   x26, x27, [sp, #208]
    stp   x28, x29, [sp, #224]
    mrs   x2, sp_el0
    stp   x30, x2, [sp, #240]
    mrs   x2, elr_el1
    mrs   x3, spsr_el1
    stp   x2, x3, [sp, #{elr}]
    mrs   x2, esr_el1
    mrs   x3, far_el1
    stp   x2, x3, [sp, #{esr}]
    mov   x0, sp
    mov   x29, xzr
    .endm

    .balign 2048
    .global exception_vectors
exception_vectors:
    .set number, 0
    .rept 16
    vector number
    .set number, number + 1
    .endr

    .balign 128
exception_common:
    str   x1, [sp, #{vector}]
    save_frame
    bl    {dispatch}

    // How to return stays in a register: ordinary memory does not decide it. By the frame on the stack, as it is or closed; or by a CPU's
    // record (`interrupted`).
    msr   daifset, #0xf
    cmp   x0, #{closed}
    mov   x1, sp
    csel  x1, x0, x1, hi
    ldp   x2, x3, [x1, #{elr}]
    b.ne  1f
    orr   x3, x3, #{pan}
1:  msr   elr_el1, x2
    msr   spsr_el1, x3
    ldp   x30, x2, [x1, #240]
    msr   sp_el0, x2
    ldp   x28, x29, [x1, #224]
    ldp   x26, x27, [x1, #208]
    ldp   x24, x25, [x1, #192]
    ldp   x22, x23, [x1, #176]
    ldp   x20, x21, [x1, #160]
    ldp   x18, x19, [x1, #144]
    ldp   x16, x17, [x1, #128]
    ldp   x14, x15, [x1, #112]
    ldp   x12, x13, [x1, #96]
    ldp   x10, x11, [x1, #80]
    ldp   x8, x9, [x1, #64]
    ldp   x6, x7, [x1, #48]
    ldp   x4, x5, [x1, #32]
    ldp   x2, x3, [x1, #16]
    ldp   x0, x1, [x1]
    add   sp, sp, #{frame_size}
    eret

    // No way back. X0 is in TPIDRRO_EL0; the stack pointer that ran out goes along for the message.
stack_overflow:
    mrs   x0, tpidr_el1
    ldr   x0, [x0, #{overflow_stack}]
    sub   x0, x0, #{frame_size}
    str   x1, [x0, #8]
    mov   x1, sp
    mov   sp, x0
    mrs   x0, tpidrro_el0
    str   x0, [sp]
    save_frame
    bl    {overflow}
    udf   #0
"#,
    slot_size = const SLOT_SIZE,
    guard_size = const GUARD_SIZE,
    frame_size = const FRAME_SIZE,
    elr = const offset_of!(Frame, elr),
    esr = const offset_of!(Frame, esr),
    vector = const offset_of!(Frame, vector),
    overflow_stack = const CpuState::OVERFLOW_STACK,
    closed = const crate::protection::interrupted::way::CLOSED,
    pan = const kpkeys::pan::PAN,
    dispatch = sym super::exceptions::dispatch,
    overflow = sym super::exceptions::die_of_stack_overflow,
);
