//! Registers that stand for the protection register in a process.
//!
//! [`MockRegister`] is for measuring: a real register written by a real instruction, followed by a real barrier.
//!
//! | host | register | instruction | barrier |
//! |---|---|---|---|
//! | x86-64 Linux with FSGSBASE | GS base | WRGSBASE | LFENCE |
//! | x86-64 otherwise: on macOS thread-local storage is behind GS | MXCSR, its value unchanged, beside a shadow | LDMXCSR | LFENCE |
//! | arm64, Linux and macOS | FPSR, its value unchanged, beside a shadow | MSR | ISB |
//!
//! [`PanRegister`] stands for PSTATE.PAN, and [`Ttbr0Register`] for `TTBR0_EL1`, where events are counted and nothing is timed.
//!
//! [`ArenaRegister`] is for testing: opening a window makes the arena's tables writable to this process, or to the calling thread where the host has keys,
//! closing it ends that, so that a store outside a window is SIGSEGV.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kpkeys::encoding::{self, Encoding};
use kpkeys::keyed::{Register, Value};
use kpkeys::pan::PAN;
use kpkeys::{Access, Pkey};

use crate::arena::Arena;

thread_local! {
    /// What this thread's mock register would hold, where the real one cannot hold it.
    static SHADOW: Cell<u64> = const { Cell::new(0) };
    /// PSTATE.PAN of the CPU that this thread plays. A CPU starts outside of windows.
    static PAN_FLAG: Cell<u64> = const { Cell::new(PAN) };
    /// Whether that CPU has the window root in `TTBR0_EL1`.
    static WINDOW_ROOT: Cell<u64> = const { Cell::new(0) };
}

/// The mock register of this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MockRegister {
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    GsBase,
    #[cfg(target_arch = "x86_64")]
    Mxcsr,
    #[cfg(target_arch = "aarch64")]
    Fpsr,
}

impl MockRegister {
    /// The register that this host has for it.
    pub fn detect() -> MockRegister {
        MockRegister { kind: Kind::detect() }
    }

    /// The instructions a switch consists of, for people.
    pub fn describe(self) -> &'static str {
        self.kind.describe()
    }
}

#[cfg(target_arch = "x86_64")]
impl Kind {
    #[cfg(not(target_os = "linux"))]
    fn detect() -> Kind {
        Kind::Mxcsr
    }

    #[cfg(target_os = "linux")]
    fn detect() -> Kind {
        /// `AT_HWCAP2`: user space may use the FSGSBASE instructions (Linux, `Documentation/arch/x86/elf_auxvec`).
        const HWCAP2_FSGSBASE: usize = 1 << 1;
        let (_, hwcap2) = rustix::param::linux_hwcap();
        if hwcap2 & HWCAP2_FSGSBASE != 0 { Kind::GsBase } else { Kind::Mxcsr }
    }

    fn describe(self) -> &'static str {
        match self {
            #[cfg(target_os = "linux")]
            Kind::GsBase => "WRGSBASE + LFENCE",
            Kind::Mxcsr => "LDMXCSR + LFENCE (no FSGSBASE on this host)",
        }
    }
}

#[cfg(target_arch = "aarch64")]
impl Kind {
    fn detect() -> Kind {
        Kind::Fpsr
    }

    fn describe(self) -> &'static str {
        "MSR FPSR + ISB"
    }
}

// SAFETY: reads return what this thread last wrote: the GS base holds it, or the thread's shadow does. Both act on this thread
// alone, are inlined, and contain `asm!` that is not `nomem`.
unsafe impl Register for MockRegister {
    const NEEDS_BARRIER: bool = true;

    #[inline(always)]
    fn read(&self) -> u64 {
        match self.kind {
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            Kind::GsBase => gs_base().read(),
            #[allow(
                unreachable_patterns,
                reason = "the only kind on some hosts is matched above on others"
            )]
            _ => SHADOW.get(),
        }
    }

    #[inline(always)]
    fn write(&self, value: Value) {
        match self.kind {
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            Kind::GsBase => gs_base().write(value),
            #[cfg(target_arch = "x86_64")]
            Kind::Mxcsr => {
                SHADOW.set(value.bits());
                let mut mxcsr = 0u32;
                // SAFETY: loading the value that MXCSR holds changes nothing.
                unsafe {
                    std::arch::asm!("stmxcsr [{0}]", "ldmxcsr [{0}]", in(reg) &raw mut mxcsr, options(nostack, preserves_flags));
                }
            }
            #[cfg(target_arch = "aarch64")]
            Kind::Fpsr => {
                SHADOW.set(value.bits());
                // SAFETY: writing the value that FPSR holds changes nothing.
                unsafe {
                    std::arch::asm!("mrs {0}, fpsr", "msr fpsr, {0}", out(reg) _, options(nostack, preserves_flags));
                }
            }
        }
    }

    #[inline(always)]
    fn synchronize(&self) {
        context_barrier();
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[inline(always)]
fn gs_base() -> kpkeys::mock::GsBase {
    // SAFETY: reached only where `Kind::detect` found FSGSBASE to be allowed; on x86-64 Linux, user programs have no other use
    // for the GS segment (thread-local storage is behind FS).
    unsafe { kpkeys::mock::GsBase::new() }
}

/// The nearest thing to an arm64 ISB: LFENCE waits for all earlier instructions.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn context_barrier() {
    // SAFETY: LFENCE orders instructions and has no other effect.
    unsafe { std::arch::asm!("lfence", options(nostack, preserves_flags)) };
}

/// An ISB.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn context_barrier() {
    // SAFETY: ISB synchronises the context and has no other effect.
    unsafe { std::arch::asm!("isb", options(nostack, preserves_flags)) };
}

/// The nearest thing to an arm64 DSB ISHST: MFENCE waits for all earlier stores.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn store_barrier() {
    // SAFETY: MFENCE orders memory accesses and has no other effect.
    unsafe { std::arch::asm!("mfence", options(nostack, preserves_flags)) };
}

/// A DSB ISHST.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn store_barrier() {
    // SAFETY: DSB orders memory accesses and has no other effect.
    unsafe { std::arch::asm!("dsb ishst", options(nostack, preserves_flags)) };
}

/// PSTATE.PAN of the CPU that the calling thread plays.
#[derive(Clone, Copy, Debug)]
pub struct PanRegister;

// SAFETY: reads return what this thread last wrote, and both act on it alone. Nothing is enforced, so there is no access to be
// ordered.
unsafe impl Register for PanRegister {
    const NEEDS_BARRIER: bool = false;

    #[inline(always)]
    fn read(&self) -> u64 {
        PAN_FLAG.get()
    }

    #[inline(always)]
    fn write(&self, value: Value) {
        PAN_FLAG.set(value.bits());
    }

    #[inline(always)]
    fn synchronize(&self) {}
}

/// `TTBR0_EL1` of the CPU that the calling thread plays, as far as windows know it: 1 while it has the window root.
#[derive(Clone, Copy, Debug)]
pub struct Ttbr0Register;

// SAFETY: as for `PanRegister`.
unsafe impl Register for Ttbr0Register {
    const NEEDS_BARRIER: bool = true;

    #[inline(always)]
    fn read(&self) -> u64 {
        WINDOW_ROOT.get()
    }

    #[inline(always)]
    fn write(&self, value: Value) {
        WINDOW_ROOT.set(value.bits());
    }

    #[inline(always)]
    fn synchronize(&self) {}
}

/// Which values of a register open page tables, some or all.
pub trait Opens {
    /// Whether this one does.
    fn opens(value: u64) -> bool;
}

impl<E: Encoding> Opens for E {
    fn opens(value: u64) -> bool {
        [Pkey::PAGE_TABLES, Pkey::USER_TABLES]
            .into_iter()
            .any(|key| encoding::decode::<E>(value, key) == Some(Access::ReadWrite))
    }
}

/// The values of PSTATE.PAN.
#[derive(Clone, Copy, Debug)]
pub struct PanFlag;

impl Opens for PanFlag {
    fn opens(value: u64) -> bool {
        value & PAN == 0
    }
}

/// Whether `TTBR0_EL1` has the window root.
#[derive(Clone, Copy, Debug)]
pub struct RootFlag;

impl Opens for RootFlag {
    fn opens(value: u64) -> bool {
        value & 1 != 0
    }
}

/// A register whose windows are real to this process: it makes the arena's tables writable, or not. One thread at a time.
/// Clones are the same register.
#[derive(Debug)]
pub struct ArenaRegister<E> {
    arena: Arc<Arena>,
    value: Arc<AtomicU64>,
    encoding: PhantomData<E>,
}

impl ArenaRegister<PanFlag> {
    /// Takes an exception as a CPU does whose SCTLR_EL1.SPAN is clear: sets PAN, and returns what it was, for SPSR_EL1.
    pub fn take_exception(&self) -> u64 {
        let interrupted = self.value.swap(PAN, Ordering::Relaxed);
        self.arena.set_tables_writable(false);
        interrupted
    }

    /// Returns from an exception: restores PAN from SPSR_EL1.
    ///
    /// # Safety
    ///
    /// That must be what [`take_exception`](Self::take_exception) returned for the exception that is returned from: anything else may open a window.
    pub unsafe fn exception_return(&self, spsr: u64) {
        self.value.store(spsr & PAN, Ordering::Relaxed);
        self.arena.set_tables_writable(PanFlag::opens(spsr));
    }
}

impl<E: Opens> ArenaRegister<E> {
    /// The register that guards an arena made by [`Arena::guarded`], or [`Arena::aliased`] for [`PanFlag`] and [`RootFlag`].
    pub fn new(arena: Arc<Arena>) -> Self {
        ArenaRegister { arena, value: Arc::new(AtomicU64::new(0)), encoding: PhantomData }
    }
}

impl<E> Clone for ArenaRegister<E> {
    fn clone(&self) -> Self {
        let (arena, value) = (self.arena.clone(), self.value.clone());
        ArenaRegister { arena, value, encoding: PhantomData }
    }
}

// SAFETY: reads return what was last written; `write` is a system call or the write of a register, across which the compiler moves no access. (It is not
// inlined into an instruction, and makes no claim to be: it exists for tests.)
unsafe impl<E: Opens> Register for ArenaRegister<E> {
    const NEEDS_BARRIER: bool = false;

    fn read(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }

    fn write(&self, value: Value) {
        self.value.store(value.bits(), Ordering::Relaxed);
        self.arena.set_tables_writable(E::opens(value.bits()));
    }

    fn synchronize(&self) {}
}
