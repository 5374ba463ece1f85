//! The registers of Linux programs: the general ones, as a system call finds and leaves them, and those that the kernel has no use for.
//!
//! [`enter`] goes to EL0 with every general register given; from there the CPU comes back as for any program
//! ([`user`]).

use super::entry::Frame;
use super::register::{mrs, msr};
use super::user;
use crate::memory::boot::PAGE_SIZE;
use crate::program::errno::Outcome;
use crate::program::memory::{Memory, Pages, Permission, STACK_TOP, Source};
use crate::program::signals::SignalFrame;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::asm;

/// The condition flags: what of SPSR a program may set. The rest is EL0, 64 bits, nothing masked.
pub(super) const USER_FLAGS: u64 = 0xf000_0000;
/// Bytes of the instruction SVC.
const CALL_BYTES: u64 = 4;

/// The general registers.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Registers {
    /// X0 to X30.
    pub x: [u64; 31],
    /// The stack pointer.
    pub sp: u64,
    /// Where it executes.
    pub pc: u64,
    /// The condition flags.
    pub flags: u64,
    /// The thread pointer, `TPIDR_EL0`.
    pub thread_pointer: u64,
}

impl Registers {
    /// What a program starts with.
    pub fn start(instruction: u64, stack: u64) -> Self {
        Self { pc: instruction, sp: stack, ..Self::default() }
    }

    /// As an exception of the running thread found them.
    pub fn of(frame: &Frame) -> Self {
        Self {
            x: frame.x,
            sp: frame.sp_el0,
            pc: frame.elr,
            flags: frame.spsr,
            thread_pointer: mrs!("tpidr_el0"),
        }
    }

    /// Makes an exception of the running thread return with them. What only the kernel may say is left out.
    pub fn put(&self, frame: &mut Frame) {
        (frame.x, frame.sp_el0, frame.elr) = (self.x, self.sp, self.pc);
        frame.spsr = self.flags & USER_FLAGS;
        // SAFETY: the register is the program's, and the kernel's context switch keeps it.
        unsafe { msr!("tpidr_el0", self.thread_pointer) };
    }

    /// The number of the system call, and its arguments.
    pub fn call(&self) -> (u64, [u64; 6]) {
        (self.x[8], core::array::from_fn(|place| self.x[place]))
    }

    /// Nothing: the exception returns behind the instruction.
    pub fn pass_call(&mut self) {}

    /// Makes the system call again whose result has not been set.
    pub fn repeat_call(&mut self, number: u64, first: u64) {
        self.pc -= CALL_BYTES;
        (self.x[8], self.x[0]) = (number, first);
    }

    /// What a system call returns.
    pub fn set_result(&mut self, value: u64) {
        self.x[0] = value;
    }

    /// The register of results.
    pub fn result(&self) -> u64 {
        self.x[0]
    }

    /// The stack pointer.
    pub fn stack(&self) -> u64 {
        self.sp
    }

    /// Sets the stack pointer.
    pub fn set_stack(&mut self, stack: u64) {
        self.sp = stack;
    }

    /// Where it executes.
    pub fn instruction(&self) -> u64 {
        self.pc
    }
}

/// Sets the thread pointer of a thread to be: any number, since it is only the program's.
pub fn set_thread_pointer(registers: &mut Registers, _: &mut Extended, address: u64) -> bool {
    registers.thread_pointer = address;
    true
}

/// The registers that the kernel has no use for: vectors and their control.
#[repr(C, align(16))]
#[derive(Clone)]
pub struct Extended {
    /// As a signal's frame has them: status, control, then V0 to V31.
    words: [u64; 65],
}

impl Extended {
    /// Bytes that a signal's frame keeps of it.
    pub const KEPT: usize = 520;

    /// As a program starts.
    pub fn new() -> Self {
        Self { words: [0; 65] }
    }

    /// Takes the CPU's.
    pub fn save(&mut self) {
        let (status, control): (u64, u64);
        // SAFETY: the area has room for 32 vectors behind its first word, and FP is on (`control`).
        unsafe {
            asm!(
                ".arch_extension fp",
                ".arch_extension simd",
                "stp q0, q1, [{at}]",
                "stp q2, q3, [{at}, #32]",
                "stp q4, q5, [{at}, #64]",
                "stp q6, q7, [{at}, #96]",
                "stp q8, q9, [{at}, #128]",
                "stp q10, q11, [{at}, #160]",
                "stp q12, q13, [{at}, #192]",
                "stp q14, q15, [{at}, #224]",
                "stp q16, q17, [{at}, #256]",
                "stp q18, q19, [{at}, #288]",
                "stp q20, q21, [{at}, #320]",
                "stp q22, q23, [{at}, #352]",
                "stp q24, q25, [{at}, #384]",
                "stp q26, q27, [{at}, #416]",
                "stp q28, q29, [{at}, #448]",
                "stp q30, q31, [{at}, #480]",
                "mrs {status}, fpsr",
                "mrs {control}, fpcr",
                ".arch_extension nosimd",
                ".arch_extension nofp",
                at = in(reg) self.words[1..].as_mut_ptr(),
                status = out(reg) status,
                control = out(reg) control,
                options(nostack, preserves_flags)
            );
        }
        self.words[0] = status & 0xffff_ffff | control << 32;
    }

    /// Puts them into the CPU.
    pub fn load(&self) {
        // SAFETY: as in `save`; the kernel uses none of these registers.
        unsafe {
            asm!(
                ".arch_extension fp",
                ".arch_extension simd",
                "ldp q0, q1, [{at}]",
                "ldp q2, q3, [{at}, #32]",
                "ldp q4, q5, [{at}, #64]",
                "ldp q6, q7, [{at}, #96]",
                "ldp q8, q9, [{at}, #128]",
                "ldp q10, q11, [{at}, #160]",
                "ldp q12, q13, [{at}, #192]",
                "ldp q14, q15, [{at}, #224]",
                "ldp q16, q17, [{at}, #256]",
                "ldp q18, q19, [{at}, #288]",
                "ldp q20, q21, [{at}, #320]",
                "ldp q22, q23, [{at}, #352]",
                "ldp q24, q25, [{at}, #384]",
                "ldp q26, q27, [{at}, #416]",
                "ldp q28, q29, [{at}, #448]",
                "ldp q30, q31, [{at}, #480]",
                "msr fpsr, {status}",
                "msr fpcr, {control}",
                ".arch_extension nosimd",
                ".arch_extension nofp",
                at = in(reg) self.words[1..].as_ptr(),
                status = in(reg) self.words[0] & 0xffff_ffff,
                control = in(reg) self.words[0] >> 32,
                options(nostack, preserves_flags)
            );
        }
    }

    /// What a signal's frame keeps. A handler starts with the same registers.
    pub fn put_aside(&mut self) -> [u8; Self::KEPT] {
        core::array::from_fn(|byte| (self.words[byte / 8] >> (byte % 8 * 8)) as u8)
    }

    /// Takes back what a signal's frame kept.
    pub fn set_kept(&mut self, kept: &[u8; Self::KEPT]) {
        /// What of the control register means something: modes, and the masks of exceptions.
        const CONTROL: u64 = 0x07ff_9f00;
        for (word, bytes) in self.words.iter_mut().zip(kept.chunks_exact(8)) {
            *word = u64::from_le_bytes(core::array::from_fn(|byte| bytes[byte]));
        }
        self.words[0] &= CONTROL << 32 | 0xffff_ffff;
    }
}

/// Runs a program with these registers until [`leave`](super::user::leave), and returns what that was given.
///
/// # Safety
///
/// As [`user::enter`].
pub unsafe fn enter(registers: &Registers, kernel_stack: *mut u64) -> u64 {
    // SAFETY: forwarded.
    unsafe { user::enter_by(registers, kernel_stack) }
}

/// Where the parts of a frame are: as Linux's `struct rt_sigframe` has them.
mod at {
    pub const CONTEXT: usize = 128;
    pub const STACK: usize = CONTEXT + 16;
    pub const MASK: usize = CONTEXT + 40;
    pub const GENERAL: usize = CONTEXT + 184;
    pub const STACK_POINTER: usize = GENERAL + 31 * 8;
    pub const INSTRUCTION: usize = STACK_POINTER + 8;
    pub const FLAGS: usize = INSTRUCTION + 8;
    pub const MORE: usize = CONTEXT + 464;
    /// The vectors come with a head of their own, and a head of nothing ends the list.
    pub const VECTORS: usize = MORE + 8;
    pub const END: usize = MORE + 4096;
}
const VECTORS_HEAD: u64 = 0x0210_4650_8001;

impl Registers {
    /// The bytes to put on the stack before a handler is called, where, and the registers to call it with.
    pub fn for_handler(
        &self,
        frame: &SignalFrame,
        kept: &[u8; Extended::KEPT],
    ) -> (Vec<u8>, u64, Self) {
        let start = frame.top.unwrap_or(self.sp).wrapping_sub(at::END as u64) & !15;
        let mut bytes = alloc::vec![0; at::END];
        bytes[..128].copy_from_slice(&frame.info);
        let mut put =
            |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(at::STACK, frame.stack.0);
        put(at::STACK + 8, frame.stack.1.into());
        put(at::STACK + 16, frame.stack.2);
        put(at::MASK, frame.mask);
        for (place, &value) in self.x.iter().enumerate() {
            put(at::GENERAL + 8 * place, value);
        }
        put(at::STACK_POINTER, self.sp);
        put(at::INSTRUCTION, self.pc);
        put(at::FLAGS, self.flags);
        put(at::MORE, VECTORS_HEAD & 0xffff_ffff | 528 << 32);
        bytes[at::VECTORS..at::VECTORS + kept.len()].copy_from_slice(kept);
        let mut inside = *self;
        inside.x[0] = frame.signal;
        inside.x[1] = start;
        inside.x[2] = start + at::CONTEXT as u64;
        inside.x[30] = if frame.restorer != 0 { frame.restorer } else { TRAMPOLINE };
        (inside.sp, inside.pc) = (start, frame.handler);
        (bytes, start, inside)
    }

    /// What a handler that returns has left on the stack: registers, mask, and the vector registers.
    ///
    /// # Errors
    ///
    /// What `read` says.
    pub fn after_handler<E>(
        &self,
        read: impl Fn(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(Self, u64, [u8; Extended::KEPT]), E> {
        let mut bytes = alloc::vec![0; at::VECTORS + Extended::KEPT];
        read(self.sp, &mut bytes)?;
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|byte| bytes[at + byte]));
        let restored = Self {
            x: core::array::from_fn(|place| word(at::GENERAL + 8 * place)),
            sp: word(at::STACK_POINTER),
            pc: word(at::INSTRUCTION),
            flags: word(at::FLAGS),
            thread_pointer: self.thread_pointer,
        };
        let kept = core::array::from_fn(|byte| bytes[at::VECTORS + byte]);
        Ok((restored, word(at::MASK), kept))
    }
}

/// Where the code is that handlers return to.
const TRAMPOLINE: u64 = STACK_TOP + PAGE_SIZE;

/// Maps the code that handlers return to, which programs do not bring here: `mov x8, #139; svc #0`.
///
/// # Errors
///
/// `ENOMEM`.
pub fn map_trampoline(memory: &Memory) -> Outcome<()> {
    let allows = Permission { any: true, write: false, execute: true };
    let pages = trampoline()?.clone();
    memory.map_at(TRAMPOLINE, PAGE_SIZE, allows, Source::Private(pages, 0)).map(drop)
}

/// Makes what all programs share and nobody gives back, so that it is not missing after the first.
///
/// # Errors
///
/// `ENOMEM`.
pub fn make_shared() -> Outcome<()> {
    trampoline().map(drop)
}

fn trampoline() -> Outcome<&'static Arc<Pages>> {
    static CODE: spin::Once<Arc<Pages>> = spin::Once::new();
    const INSTRUCTIONS: [u32; 2] = [0xd280_1168, 0xd400_0001];
    let code = INSTRUCTIONS.map(u32::to_le_bytes);
    CODE.try_call_once(|| Pages::holding(code.as_flattened()).map(Arc::new))
}

/// What programs are told of the CPU: floating point and vectors. SVE and what else there may be stays off.
pub fn capabilities() -> (u64, u64) {
    const FP: u64 = 1 << 0;
    const VECTORS: u64 = 1 << 1;
    (FP | VECTORS, 0)
}
