//! The accesses of [`crate::evidence::probe`], and what x86-64 says of their faults.

use super::entry::{Frame, PAGE_FAULT};
use crate::cpu::fault::Cause;
use crate::evidence::probe::{FAULTED, call_in_page_fault, fixup_for};
use core::arch::global_asm;

/// A function that does nothing, as machine code: RET.
pub const RETURN: u64 = 0xc3;

/// If the interrupted code is a probe, makes it return the fault, and says so.
pub fn recover(frame: &mut Frame) -> bool {
    let at = frame.rip;
    let Some(fixup) = fixup_for(at).or_else(|| fixup_of_call(frame)) else { return false };
    call_in_page_fault(at, frame.rsi);
    frame.rip = fixup;
    frame.rax = FAULTED | frame.vector << VECTOR_SHIFT | frame.error_code;
    frame.rdx = frame.fault_address;
    true
}

/// The bits of an error code of a page fault (Intel SDM vol. 3A, figure 4-12).
mod error_code {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const FETCH: u64 = 1 << 4;
    pub const KEY: u64 = 1 << 5;
}

const VECTOR_SHIFT: u32 = 32;

/// Why, and the error code, from what [`recover`] left: the vector and the error code.
pub fn decode(status: u64) -> (Cause, u64) {
    let code = status & u64::from(u32::MAX);
    let is_page_fault = status >> VECTOR_SHIFT == u64::from(PAGE_FAULT);
    (if is_page_fault { cause(code) } else { Cause::Other }, code)
}

/// Decodes the error code of a page fault.
pub fn cause(code: u64) -> Cause {
    if code & error_code::PRESENT == 0 {
        Cause::NotMapped
    } else if code & error_code::KEY != 0 {
        Cause::Key
    } else if code & error_code::FETCH != 0 {
        Cause::Execute
    } else if code & error_code::WRITE != 0 {
        Cause::Write
    } else {
        Cause::Read
    }
}

/// A refused fetch interrupts at its target, not in the probe. The return address that the
/// probe's CALL pushed tells where it came from; dropping it undoes the call.
fn fixup_of_call(frame: &mut Frame) -> Option<u64> {
    let is_refused_fetch = frame.vector == u64::from(PAGE_FAULT)
        && frame.error_code & error_code::FETCH != 0
        && frame.rip == frame.fault_address;
    if !is_refused_fetch {
        return None;
    }
    // SAFETY: the interrupted kernel code ran on the stack that RSP points into.
    let return_address = unsafe { *(frame.rsp as *const u64) };
    let fixup = fixup_for(return_address)?;
    frame.rsp += 8;
    Some(fixup)
}

// Every probe is a leaf that leaves the stack alone, so a fix-up is a plain RET.
global_asm!(
    r#"
    .macro may_fault at, fixup=probe_done
    .pushsection .exception_table, "a"
    .quad \at, \fixup
    .popsection
    .endm

probe_load_u64:
    may_fault 1f
1:  mov rdx, [rdi]
    xor eax, eax
    ret

probe_store_u8:
    may_fault 1f
1:  mov [rdi], sil
    xor eax, eax
    ret

probe_store_u64:
    may_fault 1f
1:  mov [rdi], rsi
    xor eax, eax
    ret

probe_copy:
    may_fault 1f
    mov rcx, rdx
1:  rep movsb
    xor eax, eax
    ret

probe_fetch_add_u64:
    may_fault 1f
1:  lock xadd [rdi], rsi
    mov rdx, rsi
    xor eax, eax
    ret

probe_execute:
    may_fault 1f
    call rdi
1:  xor eax, eax
    ret

    # SMAP refuses user pages unless EFLAGS.AC is set; it is, for this one instruction. Entry code clears it for handlers.
probe_load_user_u64:
    may_fault 1f, probe_user_done
    stac
1:  mov rdx, [rdi]
    xor eax, eax
    clac
    ret

probe_store_user_u64:
    may_fault 1f, probe_user_done
    stac
1:  mov [rdi], rsi
    xor eax, eax
    clac
    ret

probe_page_fault_call:
    may_fault probe_page_fault_call_site
    .global probe_page_fault_call_site
probe_page_fault_call_site:
    mov al, [rdi]
    xor eax, eax

probe_done:
    ret

probe_user_done:
    clac
    ret
"#
);
