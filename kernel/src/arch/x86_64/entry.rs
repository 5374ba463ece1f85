//! Entry and return of every exception and interrupt.
//!
//! The CPU pushes the interrupted state; a stub per vector pushes a zero where the CPU
//! pushed no error code, and the vector; the common part pushes the general registers, the
//! fault address and a slot for the protection register, and calls
//! [`exceptions::dispatch`](super::exceptions::dispatch) with the [`Frame`]. The way back
//! undoes it and executes IRETQ.
//!
//! What a program did arrives on the CPU's entry stack, which the task state names and which never changes. Interrupts stay off until
//! the common part has moved the frame to the stack of the running thread, which may be switched away from. Exceptions with stacks of their own
//! stay there.
//!
//! One return does without IRETQ: that of a fault taken inside an NMI handler. IRETQ would
//! let the next NMI in (Intel SDM vol. 3A, 6.7.1 "Handling Multiple NMIs") while the first
//! still uses the NMI stack, and the second would overwrite the first's frame. `dispatch`
//! tells which return is due. So it does where a gate was interrupted: its frame is then read from the CPU's record (`interrupted`), to which the stack
//! pointer is set, and not from the stack.
//!
//! The fault address (CR2) is saved on *every* entry and, for NMIs, restored: an NMI may hit
//! between the delivery of a page fault and the handler's first look at CR2, and may itself
//! fault. EFLAGS.AC and DF belong to the interrupted code; entry clears both.
//!
//! With backend `smap` AC is what opens page tables, and the CPU's delivery of an exception keeps it (Intel SDM vol. 3A, 6.12.1.3). An
//! interrupt's stub starts with CLAC. An exception's, which may arrive in a gate, first takes the flags to a register, for which there is
//! no way but two pushes: to the stack of the gate itself, or one that the task state names. That register, not the frame, says whether a
//! gate was interrupted.

use super::cpu_state::CpuState;
use core::arch::global_asm;
use core::mem::offset_of;

/// Vectors of the architecture.
pub const VECTORS: usize = 256;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// A fault while delivering a fault.
pub const DOUBLE_FAULT: u8 = 8;
/// Page fault.
pub const PAGE_FAULT: u8 = 14;
/// Machine check.
pub const MACHINE_CHECK: u8 = 18;

/// `IA32_GS_BASE` and `IA32_KERNEL_GS_BASE`: Intel SDM vol. 4, table 2-2.
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// The interrupted state as it lies on the handler's stack, lowest address first.
#[derive(Debug)]
#[repr(C)]
pub struct Frame {
    /// The protection register of the interrupted code, where windows may be interrupted; see `interrupted`.
    pub protection: kpkeys::Saved,
    /// CR2 as it was at entry. Means something for page faults only.
    pub fault_address: u64,
    /// General registers.
    pub r15: u64,
    /// General registers.
    pub r14: u64,
    /// General registers.
    pub r13: u64,
    /// General registers.
    pub r12: u64,
    /// General registers.
    pub r11: u64,
    /// General registers.
    pub r10: u64,
    /// General registers.
    pub r9: u64,
    /// General registers.
    pub r8: u64,
    /// General registers.
    pub rbp: u64,
    /// General registers.
    pub rdi: u64,
    /// General registers.
    pub rsi: u64,
    /// General registers.
    pub rdx: u64,
    /// General registers.
    pub rcx: u64,
    /// General registers.
    pub rbx: u64,
    /// General registers.
    pub rax: u64,
    /// Which exception or interrupt.
    pub vector: u64,
    /// The exception's error code, or zero.
    pub error_code: u64,
    /// Pushed by the CPU: where the code was interrupted.
    pub rip: u64,
    /// Pushed by the CPU.
    pub cs: u64,
    /// Pushed by the CPU.
    pub rflags: u64,
    /// Pushed by the CPU.
    pub rsp: u64,
    /// Pushed by the CPU.
    pub ss: u64,
}

/// The way back that is not by IRETQ.
pub const WITHOUT_IRET: u64 = 2;

impl Frame {
    /// Of nothing.
    // SAFETY: every field is a number, or a transparent wrapper of one.
    pub const ZERO: Self = unsafe { core::mem::zeroed() };

    /// Whether a program was interrupted: the privilege level in the saved code segment.
    pub fn is_from_user(&self) -> bool {
        self.cs & 3 == 3
    }
}

/// Bytes from one stub to the next, all of which the longest stubs have.
const STUB_SIZE: u64 = 16;

/// The address of the stub of `vector`.
pub fn stub_address(vector: usize) -> u64 {
    // SAFETY: the symbol is defined below; only its address is used.
    unsafe extern "C" {
        static exception_stubs: u8;
    }
    &raw const exception_stubs as u64 + vector as u64 * STUB_SIZE
}

// Exceptions with an error code: Intel SDM vol. 3A, table 6-1 (8, 10 to 14, 17, 21) and AMD
// APM vol. 2, 8.2 (29, 30). The frame is 24 words, so RSP is 16-byte aligned at the call.
global_asm!(
    r#"
    .balign 16
    .global exception_stubs
exception_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if vector >= 32
    clac
    push 0
    push vector
    push rax
    jmp interrupt_common
    .else
    .if (vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    push vector
    push rax
    pushfq
    pop rax
    clac
    jmp exception_common
    .endif
    .set vector, vector + 1
    .endr

    .macro restore_registers
    add rsp, 16
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    .endm

    .balign 16
interrupt_common:
    xor eax, eax
exception_common:
    cld
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov r12, rax
    mov rax, cr2
    push rax
    push 0
    test byte ptr [rsp + {cs_at}], 3
    jz 2f
    # A program's, which may have changed the GS base: put the kernel's back.
    mov ecx, {kernel_gs_base}
    rdmsr
    mov ecx, {gs_base}
    wrmsr
    mov al, [rsp + {vector_at}]
    cmp al, {nmi}
    je 2f
    cmp al, {double_fault}
    je 2f
    cmp al, {machine_check}
    je 2f
    # From the CPU's entry stack to the thread's.
    mov rsi, rsp
    mov rdi, gs:[{kernel_stack_at}]
    and rdi, -16
    sub rdi, {frame_size}
    mov rdx, rdi
    mov ecx, {frame_size} / 8
    rep movsq
    mov rsp, rdx
2:  mov rdi, rsp
    mov rsi, r12
    xor ebp, ebp
    call {dispatch}
    # How to return stays in a register: ordinary memory does not decide it.
    test rax, rax
    jz 3f
    cmp rax, {without_iret}
    je return_without_iret
    mov rsp, rax
3:  restore_registers
    add rsp, 16
    iretq

    # What `enter_user` ends in: the first argument is the frame to return by.
    .global return_by_frame
return_by_frame:
    mov rsp, rdi
    jmp 3b

    # Rebuild what IRETQ would load as two words on the interrupted stack (RFLAGS below
    # RIP), and let SAHF and RET load them. CS and SS are the kernel's before and after;
    # interrupts stay off, since this is inside an NMI handler, and AC clear: POPF would
    # load both from memory.
return_without_iret:
    mov rcx, [rsp + {rsp_at}]
    mov rdx, [rsp + {rip_at}]
    mov rsi, [rsp + {rflags_at}]
    sub rcx, 16
    mov [rcx + 8], rdx
    mov [rcx], rsi
    mov [rsp + {vector_at}], rcx
    restore_registers
    pop rsp
    push rax
    mov eax, [rsp + 8]
    mov ah, al                  # SF, ZF, AF, PF, CF
    mov al, [rsp + 9]
    shr al, 3
    and al, 1                   # OF
    add al, 127                 # overflows if it was set
    sahf
    pop rax
    lea rsp, [rsp + 8]
    ret
"#,
    dispatch = sym super::exceptions::dispatch,
    gs_base = const GS_BASE,
    kernel_gs_base = const KERNEL_GS_BASE,
    nmi = const NMI,
    double_fault = const DOUBLE_FAULT,
    machine_check = const MACHINE_CHECK,
    kernel_stack_at = const CpuState::KERNEL_STACK,
    frame_size = const size_of::<Frame>(),
    cs_at = const offset_of!(Frame, cs),
    rsp_at = const offset_of!(Frame, rsp),
    rip_at = const offset_of!(Frame, rip),
    rflags_at = const offset_of!(Frame, rflags),
    vector_at = const offset_of!(Frame, vector),
    without_iret = const WITHOUT_IRET,
);
