//! Accesses that survive their own fault.
//!
//! Each probe is a few instructions of assembly, one of which may fault. The address of
//! that instruction stands in the image's exception table beside the address to go on at.
//! The page-fault handler looks the interrupted address up ([`recover`]) and, on a hit,
//! returns to the fix-up with the fault in RAX and RDX. There is no other state: probes may
//! be preempted, nested, and used in interrupt and NMI handlers.

use super::entry::{Frame, PAGE_FAULT};
use crate::fault::{Cause, Fault};
use core::arch::global_asm;
use core::ffi::c_void;

/// Reads eight bytes.
///
/// # Errors
///
/// The fault, when the read is refused.
pub fn load_u64(from: *const u64) -> Result<u64, Fault> {
    // SAFETY: a refused read comes back as a fault; an allowed one has no effect.
    unsafe { probe_load_u64(from) }.into_result()
}

/// Writes one byte.
///
/// # Errors
///
/// The fault, when the write is refused.
///
/// # Safety
///
/// If the write is allowed it happens: `value` at `to` must leave the kernel sound. Attacks
/// write back what they read.
pub unsafe fn store_u8(to: *mut u8, value: u8) -> Result<(), Fault> {
    // SAFETY: a refused write comes back as a fault; the caller answers for an allowed one.
    unsafe { probe_store_u8(to, value) }.into_result().map(drop)
}

/// Writes eight bytes.
///
/// # Errors
///
/// The fault, when the write is refused.
///
/// # Safety
///
/// As [`store_u8`].
pub unsafe fn store_u64(to: *mut u64, value: u64) -> Result<(), Fault> {
    // SAFETY: as in `store_u8`.
    unsafe { probe_store_u64(to, value) }.into_result().map(drop)
}

/// Copies `len` bytes with one string instruction.
///
/// # Errors
///
/// The fault, when a read or write is refused; what came before it is copied.
///
/// # Safety
///
/// As [`store_u8`], for every byte.
pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) -> Result<(), Fault> {
    // SAFETY: as in `store_u8`.
    unsafe { probe_copy(to, from, len) }.into_result().map(drop)
}

/// Adds to eight bytes atomically and returns what was there.
///
/// # Errors
///
/// The fault, when the access is refused.
///
/// # Safety
///
/// As [`store_u8`]; adding zero writes back what is there.
pub unsafe fn fetch_add_u64(to: *mut u64, value: u64) -> Result<u64, Fault> {
    // SAFETY: as in `store_u8`.
    unsafe { probe_fetch_add_u64(to, value) }.into_result()
}

/// Calls `code`.
///
/// # Errors
///
/// The fault, when fetching the first instruction is refused.
///
/// # Safety
///
/// If the fetch is allowed, `code` runs: it must be a function of the C convention that
/// leaves the kernel sound, for instance a lone RET.
pub unsafe fn execute(code: *const u8) -> Result<(), Fault> {
    // SAFETY: a refused fetch comes back as a fault; the caller answers for an allowed one.
    unsafe { probe_execute(code) }.into_result().map(drop)
}

/// Runs `f` with access to user pages, which SMAP refuses otherwise. Handlers that interrupt it run without.
pub fn with_user_access<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: EFLAGS.AC allows accesses and changes nothing else at privilege level 0; entry code clears it for handlers, and a
    // thread switch happens inside one.
    unsafe { core::arch::asm!("stac", options(nostack)) };
    let result = f();
    // SAFETY: as above.
    unsafe { core::arch::asm!("clac", options(nostack)) };
    result
}

/// Runs `function` in a page-fault handler: takes a page fault on purpose, whose handler
/// calls it and then returns here.
pub fn run_in_page_fault(function: &dyn Fn()) {
    let unmapped = crate::stack::some_guard();
    // SAFETY: the guard page is never mapped, so the access faults; `recover` then gets the
    // pointer to `function`, which is borrowed until this call returns.
    let outcome = unsafe { probe_page_fault_call(unmapped, (&raw const function).cast()) };
    assert!(outcome.into_result().is_err(), "a stack's guard page at {unmapped:p} is mapped");
}

/// If the interrupted code is a probe, makes it return the fault, and says so.
pub fn recover(frame: &mut Frame) -> bool {
    let at = frame.rip;
    let Some(fixup) = fixup_for(at).or_else(|| fixup_of_call(frame)) else { return false };
    if at == &raw const probe_page_fault_call_site as u64 {
        // SAFETY: only `run_in_page_fault` gets here, with the pointer it passed in RSI.
        unsafe { (*(frame.rsi as *const &dyn Fn()))() };
    }
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

const FAULTED: u64 = 1 << 63;
const VECTOR_SHIFT: u32 = 32;

/// What a probe leaves in RAX and RDX.
#[repr(C)]
struct Outcome {
    /// Zero, or [`FAULTED`], the vector and the error code.
    status: u64,
    /// The value read, or the fault address.
    value: u64,
}

impl Outcome {
    fn into_result(self) -> Result<u64, Fault> {
        if self.status == 0 {
            return Ok(self.value);
        }
        let code = self.status & u64::from(u32::MAX);
        let is_page_fault = (self.status & !FAULTED) >> VECTOR_SHIFT == u64::from(PAGE_FAULT);
        let cause = if is_page_fault { cause(code) } else { Cause::Other };
        Err(Fault { cause, address: self.value, code })
    }
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

/// A line of the exception table.
#[repr(C)]
struct Entry {
    instruction: u64,
    fixup: u64,
}

fn fixup_for(instruction: u64) -> Option<u64> {
    let start = &raw const exception_table_start;
    let len = (&raw const exception_table_end as usize - start as usize) / size_of::<Entry>();
    // SAFETY: the linker script brackets the entries with these symbols.
    let table = unsafe { core::slice::from_raw_parts(start, len) };
    table.iter().find(|entry| entry.instruction == instruction).map(|entry| entry.fixup)
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

// SAFETY: defined by the assembly below (the functions) and the linker script (the table).
unsafe extern "C" {
    fn probe_load_u64(from: *const u64) -> Outcome;
    fn probe_store_u8(to: *mut u8, value: u8) -> Outcome;
    fn probe_store_u64(to: *mut u64, value: u64) -> Outcome;
    fn probe_copy(to: *mut u8, from: *const u8, len: usize) -> Outcome;
    fn probe_fetch_add_u64(to: *mut u64, value: u64) -> Outcome;
    fn probe_execute(code: *const u8) -> Outcome;
    fn probe_page_fault_call(unmapped: *const u8, function: *const c_void) -> Outcome;
    static probe_page_fault_call_site: u8;
    static exception_table_start: Entry;
    static exception_table_end: Entry;
}

// Every probe is a leaf that leaves the stack alone, so the fix-up of all is a plain RET.
global_asm!(
    r#"
    .macro may_fault at
    .pushsection .exception_table, "a"
    .quad \at, probe_done
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

probe_page_fault_call:
    may_fault probe_page_fault_call_site
    .global probe_page_fault_call_site
probe_page_fault_call_site:
    mov al, [rdi]
    xor eax, eax

probe_done:
    ret
"#
);
