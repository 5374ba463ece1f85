//! The registers of Linux programs: the general ones, as a system call finds and leaves them, and those that the kernel has no use for.
//!
//! [`enter`] goes to ring 3 with every general register given; from there the CPU comes back as for any program
//! ([`user`]).
//!
//! There is no `SYSCALL` entry: the instruction is left off (EFER.SCE), so it is an undefined one, and the exception's entry, which
//! arrives on a stack of the kernel's with interrupts off and nothing of the program's in use, is the only way in.

use super::descriptors::{USER_CODE, USER_DATA};
use super::entry::Frame;
use super::user;
use super::vectors::Vectors;
use crate::program::signals::SignalFrame;

/// Flags that programs may have set: arithmetic, direction, trap, alignment check, identification.
const USER_FLAGS: u64 = 0x24_0dd5;
/// The flag that is always set, and interrupts on.
const FIXED_FLAGS: u64 = 0x202;
/// First address behind those of programs.
const USER_END: u64 = 1 << 47;
/// The instruction SYSCALL.
pub const SYSTEM_CALL: [u8; 2] = [0x0f, 0x05];

/// The general registers.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub rip: u64,
    pub rflags: u64,
    pub rsp: u64,
}

macro_rules! general {
    ($do:ident) => {
        $do!(
            r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax, rip, rflags,
            rsp
        )
    };
}

impl Registers {
    /// What a program starts with.
    pub fn start(instruction: u64, stack: u64) -> Self {
        Self { rip: instruction, rsp: stack, rflags: FIXED_FLAGS, ..Self::default() }
    }

    /// As an exception found them.
    pub fn of(frame: &Frame) -> Self {
        macro_rules! copy {
            ($($name:ident),*) => { Self { $($name: frame.$name),* } };
        }
        general!(copy)
    }

    /// Makes an exception return with them. What only the kernel may say is left out.
    pub fn put(&self, frame: &mut Frame) {
        macro_rules! copy {
            ($($name:ident),*) => { $(frame.$name = self.$name;)* };
        }
        general!(copy);
        // IRETQ would fault in the kernel on an address that is none.
        frame.rip = if self.rip < USER_END { self.rip } else { 0 };
        frame.rflags = self.rflags & USER_FLAGS | FIXED_FLAGS;
        frame.cs = u64::from(USER_CODE);
        frame.ss = u64::from(USER_DATA);
    }

    /// The number of the system call, and its arguments.
    pub fn call(&self) -> (u64, [u64; 6]) {
        (self.rax, [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9])
    }

    /// Behind the system call's instruction, with what that leaves in registers (Intel SDM vol. 2B, "SYSCALL").
    pub fn pass_call(&mut self) {
        self.rip += SYSTEM_CALL.len() as u64;
        self.rcx = self.rip;
        self.r11 = self.rflags;
    }

    /// Makes the system call again whose result has not been set.
    pub fn repeat_call(&mut self, number: u64, _: u64) {
        self.rip -= SYSTEM_CALL.len() as u64;
        self.rax = number;
    }

    /// What a system call returns.
    pub fn set_result(&mut self, value: u64) {
        self.rax = value;
    }

    /// The stack pointer.
    pub fn stack(&self) -> u64 {
        self.rsp
    }

    /// Sets the stack pointer.
    pub fn set_stack(&mut self, stack: u64) {
        self.rsp = stack;
    }

    /// Where it executes.
    pub fn instruction(&self) -> u64 {
        self.rip
    }
}

/// The registers that the kernel has no use for.
#[derive(Clone)]
pub struct Extended {
    vectors: Vectors,
    /// Where FS points to: the thread pointer.
    thread_pointer: u64,
}

impl Extended {
    /// Bytes that a signal's frame keeps of it.
    pub const KEPT: usize = Vectors::KEPT;

    /// As a program starts.
    pub fn new() -> Self {
        Self { vectors: Vectors::new(), thread_pointer: 0 }
    }

    /// Takes the CPU's. The thread pointer is not read: what a program sets by itself, by a selector, is not kept.
    pub fn save(&mut self) {
        self.vectors.save();
    }

    /// Puts them into the CPU.
    pub fn load(&self) {
        self.vectors.load();
        x86_64::registers::model_specific::FsBase::write(x86_64::VirtAddr::new_truncate(
            self.thread_pointer,
        ));
    }

    /// What a signal's frame keeps. A handler starts with the registers of a new program, but for the thread pointer.
    pub fn put_aside(&mut self) -> [u8; Self::KEPT] {
        core::mem::replace(&mut self.vectors, Vectors::new()).kept()
    }

    /// Takes back what a signal's frame kept. Bits that may not be set are cleared.
    pub fn set_kept(&mut self, kept: &[u8; Self::KEPT]) {
        self.vectors.set_kept(kept);
    }

    /// Sets the thread pointer; false if it is none that a program may have.
    pub fn set_thread_pointer(&mut self, address: u64) -> bool {
        let good = address < 1 << 47;
        if good {
            self.thread_pointer = address;
        }
        good
    }

    /// The thread pointer.
    pub fn thread_pointer(&self) -> u64 {
        self.thread_pointer
    }
}

/// Sets the thread pointer of a thread to be; false if it is none that a program may have.
pub fn set_thread_pointer(_: &mut Registers, extended: &mut Extended, address: u64) -> bool {
    extended.set_thread_pointer(address)
}

/// Runs a program with these registers until [`leave`](super::user::leave), and returns what that was given.
///
/// # Safety
///
/// As [`user::enter`].
pub unsafe fn enter(registers: &Registers, kernel_stack: *mut u64) -> u64 {
    let mut frame = Frame { vector: u64::from(user::SYSTEM_CALL), ..Frame::ZERO };
    registers.put(&mut frame);
    // SAFETY: the caller's promise; `put` makes it a frame of a program.
    unsafe { user::enter_by(&frame, kernel_stack) }
}

/// Bytes below the stack pointer that belong to the program (System V ABI, AMD64 supplement, 3.2.2).
const RED_ZONE: u64 = 128;
/// Where the parts of a frame are: as Linux's `struct rt_sigframe` has them.
mod at {
    pub const CONTEXT: usize = 8;
    pub const STACK: usize = CONTEXT + 16;
    pub const GENERAL: usize = CONTEXT + 40;
    pub const MASK: usize = GENERAL + 256;
    pub const INFO: usize = MASK + 8;
    pub const END: usize = INFO + 128;
    /// Of the registers' words: the segments, and the pointer to the vector registers.
    pub const SEGMENTS: usize = 18;
    pub const VECTOR: usize = 23;
}

/// In the flags of the context: whether more than FXSAVE's bytes are there is said by the mark in them (`UC_FP_XSTATE`).
const VECTORS_ARE_MARKED: u64 = 1;

macro_rules! context {
    ($do:ident) => {
        $do!(
            r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip,
            rflags
        )
    };
}

impl Registers {
    /// The bytes to put on the stack before a handler is called, where, and the registers to call it with.
    pub fn for_handler(
        &self,
        frame: &SignalFrame,
        kept: &[u8; Extended::KEPT],
    ) -> (alloc::vec::Vec<u8>, u64, Self) {
        let top = frame.top.unwrap_or(self.rsp.wrapping_sub(RED_ZONE));
        let vector = top.wrapping_sub(Extended::KEPT as u64) & !63;
        // As behind a call: the stack pointer is 8 off a multiple of 16.
        let start = (vector.wrapping_sub(at::END as u64) & !15).wrapping_sub(8);
        let mut bytes = alloc::vec![0; (vector.wrapping_sub(start)) as usize + Extended::KEPT];
        let mut put =
            |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(0, frame.restorer);
        put(at::CONTEXT, VECTORS_ARE_MARKED);
        put(at::STACK, frame.stack.0);
        put(at::STACK + 8, frame.stack.1.into());
        put(at::STACK + 16, frame.stack.2);
        macro_rules! values {
            ($($name:ident),*) => { [$(self.$name),*] };
        }
        for (place, value) in context!(values).into_iter().enumerate() {
            put(at::GENERAL + 8 * place, value);
        }
        put(at::GENERAL + 8 * at::SEGMENTS, u64::from(USER_CODE) | u64::from(USER_DATA) << 48);
        put(at::GENERAL + 8 * at::VECTOR, vector);
        put(at::MASK, frame.mask);
        bytes[at::INFO..at::END].copy_from_slice(&frame.info);
        let behind = (vector - start) as usize;
        bytes[behind..].copy_from_slice(kept);
        let inside = Self {
            rip: frame.handler,
            rsp: start,
            rdi: frame.signal,
            rsi: start + at::INFO as u64,
            rdx: start + at::CONTEXT as u64,
            rax: 0,
            rflags: FIXED_FLAGS,
            ..*self
        };
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
        // The handler's return took the restorer's address off.
        let start = self.rsp.wrapping_sub(8);
        let mut bytes = [0; at::INFO];
        read(start, &mut bytes)?;
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|byte| bytes[at + byte]));
        let mut restored = *self;
        let mut place = at::GENERAL;
        macro_rules! take {
            ($($name:ident),*) => { $({ restored.$name = word(place); place += 8; })* };
        }
        context!(take);
        let _ = place;
        let kept = match word(at::GENERAL + 8 * at::VECTOR) {
            0 => Vectors::new().kept(),
            vector => Vectors::read_kept(vector, read)?,
        };
        Ok((restored, word(at::MASK), kept))
    }

    /// The register of results.
    pub fn result(&self) -> u64 {
        self.rax
    }
}

/// Nothing: programs bring the code that handlers return to.
///
/// # Errors
///
/// Never.
pub fn map_trampoline(_: &crate::program::memory::Memory) -> crate::program::errno::Outcome<()> {
    Ok(())
}

/// Nothing: programs share nothing of the kernel's.
///
/// # Errors
///
/// Never.
pub fn make_shared() -> crate::program::errno::Outcome<()> {
    Ok(())
}

/// What the CPU can do, as the auxiliary vector says it: programs ask the CPU here, which says by OSXSAVE and XCR0 what is switched on.
pub fn capabilities() -> (u64, u64) {
    (u64::from(core::arch::x86_64::__cpuid(1).edx), 0)
}
