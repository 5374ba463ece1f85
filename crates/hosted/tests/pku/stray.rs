//! A store that may fault: whether it did, and what Linux says of the fault.

use std::arch::{asm, global_asm};
use std::cell::Cell;
use std::mem;
use std::sync::Once;

use kpkeys::encoding::{self, Pkrs};
use kpkeys::pku::Pku;
use kpkeys::{Access, Pkey};

/// `si_code` of a fault by a key (Linux, `include/uapi/asm-generic/siginfo.h`).
pub const SEGV_PKUERR: i32 = 4;

/// What a signal handler saw of a store that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// `si_code`.
    pub code: i32,
    /// The key of the page.
    pub key: u32,
    /// The address.
    pub address: usize,
    /// What the handler may do with page tables.
    pub in_handler: Option<Access>,
}

thread_local! {
    static REFUSED: Cell<Option<Refused>> = const { Cell::new(None) };
}

global_asm!(
    ".globl kpkeys_stray_store",
    "kpkeys_stray_store:",
    "mov qword ptr [rdi], rsi",
    ".globl kpkeys_stray_store_end",
    "kpkeys_stray_store_end:",
    "ret",
);

unsafe extern "C" {
    /// Stores a word.
    fn kpkeys_stray_store(to: *mut u64, value: u64);
    /// Where it goes on after the store.
    fn kpkeys_stray_store_end();
}

/// Stores a word as code does that knows nothing of windows.
pub fn store(to: *mut u64, value: u64) -> Result<(), Refused> {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(handle_faults);
    REFUSED.set(None);
    // SAFETY: the address is a word of an arena that belongs to the test; where the store is refused the handler skips it.
    unsafe { kpkeys_stray_store(to, value) };
    REFUSED.take().map_or(Ok(()), Err)
}

fn handle_faults() {
    // SAFETY: all zeroes is a value of this type; the handler touches what a handler may: its arguments, this thread's `REFUSED`, and
    // registers.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = refused as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()), 0);
    }
}

extern "C" fn refused(_signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    /// Where `si_pkey` is: behind `si_addr` and the padding of an address bound (Linux, `include/uapi/asm-generic/siginfo.h`).
    const SI_PKEY: usize = 32;
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: Linux hands both to a handler with SA_SIGINFO, and `si_addr` and `si_pkey` are there for SIGSEGV, inside the 128 bytes of the former.
    unsafe {
        let at = &mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize];
        if *at != kpkeys_stray_store as *const () as i64 {
            // Somebody else's: it happens again, and is fatal.
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            return;
        }
        *at = kpkeys_stray_store_end as *const () as i64;
        REFUSED.set(Some(Refused {
            code: (*info).si_code,
            key: info.byte_add(SI_PKEY).cast::<u32>().read(),
            address: (*info).si_addr().addr(),
            in_handler: encoding::decode::<Pkrs>(pkru().into(), Pkey::PAGE_TABLES),
        }));
    }
}

/// What the calling thread may do with page tables now.
pub fn access(backend: &Pku) -> Option<Access> {
    backend.access(Pkey::PAGE_TABLES)
}

fn pkru() -> u32 {
    let value;
    // SAFETY: there was a fault by a key, so the host has the instruction; it wants ECX to be zero, and reads.
    unsafe { asm!("rdpkru", in("ecx") 0, out("eax") value, out("edx") _, options(nostack)) };
    value
}
