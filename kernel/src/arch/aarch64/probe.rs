//! The accesses of [`crate::evidence::probe`], and what arm64 says of their faults.

use super::entry::Frame;
use super::exceptions::class;
use crate::cpu::fault::Cause;
use crate::evidence::probe::{FAULTED, call_in_page_fault, fixup_for};
use core::arch::global_asm;

/// A function that does nothing, as machine code: RET.
pub const RETURN: u64 = 0xd65f_03c0;

/// If the interrupted code is a probe (or another line of the exception table), makes it return the fault, and says so.
pub fn recover(frame: &mut Frame) -> bool {
    let at = frame.elr;
    let Some(fixup) = fixup_for(at).or_else(|| fixup_of_call(frame)) else { return false };
    call_in_page_fault(at, frame.x[1]);
    frame.elr = fixup;
    frame.x[0] = FAULTED | frame.esr;
    frame.x[1] = frame.far;
    true
}

/// Fields of the syndrome of an abort (Arm ARM, ESR_EL1, "ISS encoding for an exception from a Data Abort").
mod syndrome {
    pub const STATUS: u64 = 0x3f;
    pub const WRITE: u64 = 1 << 6;
    /// A cache maintenance instruction: counts as a write in `WRITE` and is none.
    pub const CACHE_MAINTENANCE: u64 = 1 << 8;
    /// ISS2.Overlay: the fault is by an overlay.
    pub const OVERLAY: u64 = 1 << 38;
}

/// Why, and the syndrome, from what [`recover`] left.
pub fn decode(status: u64) -> (Cause, u64) {
    (cause(status), status)
}

/// Decodes the syndrome of an abort.
pub fn cause(esr: u64) -> Cause {
    let (class, status) = ((esr >> 26) as u8 & 0x3f, esr & syndrome::STATUS);
    let is_fetch = match class {
        class::KERNEL_DATA | class::PROGRAM_DATA => false,
        class::KERNEL_FETCH | class::PROGRAM_FETCH => true,
        _ => return Cause::Other,
    };
    match status {
        // Address size and translation faults of each level.
        0b00_0000..=0b00_0111 => Cause::NotMapped,
        0b00_1100..=0b00_1111 if is_fetch => Cause::Execute,
        0b00_1100..=0b00_1111 if esr & syndrome::OVERLAY != 0 => Cause::Key,
        0b00_1100..=0b00_1111 if is_write(esr) => Cause::Write,
        0b00_1100..=0b00_1111 => Cause::Read,
        _ => Cause::Other,
    }
}

/// Whether the abort is a store's.
pub fn is_write(esr: u64) -> bool {
    let is_fetch = matches!((esr >> 26) as u8 & 0x3f, class::KERNEL_FETCH | class::PROGRAM_FETCH);
    !is_fetch && esr & (syndrome::WRITE | syndrome::CACHE_MAINTENANCE) == syndrome::WRITE
}

/// A refused fetch interrupts at its target, not in the probe. The link register tells where it came from.
fn fixup_of_call(frame: &Frame) -> Option<u64> {
    let is_refused_fetch = frame.class() == class::KERNEL_FETCH && frame.elr == frame.far;
    if is_refused_fetch { fixup_for(frame.x[30]) } else { None }
}

// Every probe but the one that calls leaves the stack alone, so the fix-up is a plain RET. The unprivileged LDTR and STTR have the permissions of EL0: they reach user pages whatever PAN says, and
// nothing else.
global_asm!(
    r#"
    .macro may_fault at, fixup=probe_done
    .pushsection .exception_table, "a"
    .quad \at, \fixup
    .popsection
    .endm

probe_load_u64:
    may_fault 1f
1:  ldr   x1, [x0]
    mov   x0, xzr
    ret

probe_store_u8:
    may_fault 1f
1:  strb  w1, [x0]
    mov   x0, xzr
    ret

probe_store_u64:
    may_fault 1f
1:  str   x1, [x0]
    mov   x0, xzr
    ret

    // Whole words first.
probe_copy:
    may_fault 1f
    may_fault 2f
    may_fault 4f
    may_fault 5f
    cmp   x2, #8
    b.lo  3f
1:  ldr   x3, [x1], #8
2:  str   x3, [x0], #8
    sub   x2, x2, #8
    cmp   x2, #8
    b.hs  1b
3:  cbz   x2, 6f
4:  ldrb  w3, [x1], #1
5:  strb  w3, [x0], #1
    sub   x2, x2, #1
    b     3b
6:  mov   x0, xzr
    ret

probe_fetch_add_u64:
    may_fault 1f
    may_fault 2f
1:  ldaxr x2, [x0]
    add   x3, x2, x1
2:  stlxr w4, x3, [x0]
    cbnz  w4, 1b
    mov   x0, xzr
    mov   x1, x2
    ret

probe_execute:
    may_fault 1f, probe_execute_done
    stp   x29, x30, [sp, #-16]!
    mov   x29, sp
    blr   x0
1:  mov   x0, xzr
probe_execute_done:
    ldp   x29, x30, [sp], #16
    ret

probe_load_user_u64:
    may_fault 1f
1:  ldtr  x1, [x0]
    mov   x0, xzr
    ret

probe_store_user_u64:
    may_fault 1f
1:  sttr  x1, [x0]
    mov   x0, xzr
    ret

probe_page_fault_call:
    may_fault probe_page_fault_call_site
    .global probe_page_fault_call_site
probe_page_fault_call_site:
    ldrb  w1, [x0]
    mov   x0, xzr

probe_done:
    ret
"#
);
