//! Accesses that survive their own fault.
//!
//! Each probe is a few instructions of the architecture's assembly (`arch::*::probe`), one of which may fault. The address of
//! that instruction stands in the image's exception table beside the address to go on at.
//! The fault handler looks the interrupted address up ([`fixup_for`]) and, on a hit,
//! returns to the fix-up with the fault in the registers of the result. There is no other state: probes may
//! be preempted, nested, and used in interrupt and NMI handlers.

use crate::arch::probe::decode;
use crate::arch::root;
use crate::cpu::fault::Fault;
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

/// Copies `len` bytes by the architecture's shortest loop.
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

/// Reads eight bytes of a user page of the running thread's address space, as user mode may.
///
/// # Errors
///
/// The fault, when the read is refused.
pub fn load_user_u64(from: *const u64) -> Result<u64, Fault> {
    // SAFETY: as in `load_u64`.
    root::on_threads_root(|| unsafe { probe_load_user_u64(from) }).into_result()
}

/// Writes eight bytes to a user page of the running thread's address space, as user mode may.
///
/// # Errors
///
/// The fault, when the write is refused.
///
/// # Safety
///
/// As [`store_u8`].
pub unsafe fn store_user_u64(to: *mut u64, value: u64) -> Result<(), Fault> {
    // SAFETY: as in `store_u8`.
    root::on_threads_root(|| unsafe { probe_store_user_u64(to, value) }).into_result().map(drop)
}

/// Runs `function` in a page-fault handler: takes a page fault on purpose, whose handler
/// calls it and then returns here.
pub fn run_in_page_fault(function: &dyn Fn()) {
    let unmapped = crate::cpu::stack::some_guard();
    // SAFETY: the guard page is never mapped, so the access faults; `recover` then gets the
    // pointer to `function`, which is borrowed until this call returns.
    let outcome = unsafe { probe_page_fault_call(unmapped, (&raw const function).cast()) };
    assert!(outcome.into_result().is_err(), "a stack's guard page at {unmapped:p} is mapped");
}

/// Where a probe that was interrupted at this instruction goes on; `None` if it is no probe's. The fault handler puts
/// [`FAULTED`] and what [`decode`] reads into the first register of the result, and the fault's address into the second.
pub fn fixup_for(instruction: u64) -> Option<u64> {
    let start = &raw const exception_table_start;
    let len = (&raw const exception_table_end as usize - start as usize) / size_of::<Entry>();
    // SAFETY: the linker script brackets the entries with these symbols.
    let table = unsafe { core::slice::from_raw_parts(start, len) };
    table.iter().find(|entry| entry.instruction == instruction).map(|entry| entry.fixup)
}

/// If the instruction is the one that [`run_in_page_fault`] faults at, calls its function. `argument` is the second register
/// of arguments, as it was interrupted.
pub fn call_in_page_fault(instruction: u64, argument: u64) {
    if instruction == &raw const probe_page_fault_call_site as u64 {
        // SAFETY: only `run_in_page_fault` gets here, with the pointer it passed as the second argument.
        unsafe { (*(argument as *const &dyn Fn()))() };
    }
}

/// A line of the exception table.
#[repr(C)]
struct Entry {
    instruction: u64,
    fixup: u64,
}

/// Set in the status of a probe that faulted.
pub const FAULTED: u64 = 1 << 63;

/// What a probe returns, in two registers.
#[repr(C)]
struct Outcome {
    /// Zero, or [`FAULTED`] and what the architecture says of the fault.
    status: u64,
    /// The value read, or the fault address.
    value: u64,
}

impl Outcome {
    fn into_result(self) -> Result<u64, Fault> {
        if self.status == 0 {
            return Ok(self.value);
        }
        let (cause, code) = decode(self.status & !FAULTED);
        Err(Fault { cause, address: self.value, code })
    }
}

// SAFETY: defined by the architecture's assembly (the functions) and the linker script (the table).
unsafe extern "C" {
    fn probe_load_u64(from: *const u64) -> Outcome;
    fn probe_store_u8(to: *mut u8, value: u8) -> Outcome;
    fn probe_store_u64(to: *mut u64, value: u64) -> Outcome;
    fn probe_copy(to: *mut u8, from: *const u8, len: usize) -> Outcome;
    fn probe_fetch_add_u64(to: *mut u64, value: u64) -> Outcome;
    fn probe_execute(code: *const u8) -> Outcome;
    fn probe_load_user_u64(from: *const u64) -> Outcome;
    fn probe_store_user_u64(to: *mut u64, value: u64) -> Outcome;
    fn probe_page_fault_call(unmapped: *const u8, function: *const c_void) -> Outcome;
    static probe_page_fault_call_site: u8;
    static exception_table_start: Entry;
    static exception_table_end: Entry;
}
