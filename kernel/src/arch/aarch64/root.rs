//! The root registers, `TTBR0_EL1` for the user half and `TTBR1_EL1` for the kernel's.
//!
//! Every thread has a root table for the user half, and a CPU holds the one of the thread it runs. Threads without an address
//! space of their own run on a table that translates nothing, so no CPU ever holds on to a root that is released: there is no lazy
//! switching.
//!
//! # Behind an alias, without E0PD
//!
//! The alias is user memory to EL0, so while a program runs `TTBR1_EL1` holds a second root of the kernel's half, which lacks it. Its leaves are
//! not global, and in this arrangement the identifier comes from `TTBR1_EL1` (`TCR_EL1.A1` stays set): a program's is never the
//! kernel's, which is 0, and no TLB has the alias under it. So that none has a program's translations under the kernel's, the user half is empty
//! while the kernel runs. A thread's root is loaded, with its identifier, on the way to its program ([`enter_program`]) and for one access to its memory
//! ([`on_threads_root`]), with all exceptions masked, and taken away first thing on the way back ([`enter_kernel`]).
//!
//! # Behind an alias, in windows alone
//!
//! With backend `ttbr0` the alias is in the user half, in tables with a root of their own, the *window root*, which `TTBR0_EL1` holds in windows. The kernel closes by loading
//! the table that translates nothing. The user half of threads is taken away as above, and the kernel's half stays: it lacks the alias. Both values that windows write lie in what
//! settled ([`WindowRoots`]). The window root's identifier is its own, so that nothing that a TLB keeps of the alias is used outside of windows; and no thread's root can be
//! the window root.
//!
//! # Without PAN
//!
//! The user half is taken away too, whatever the backend: it is what keeps the kernel from programs' memory.
//!
//! # From one set of kernel tables to the next
//!
//! Boot tables, early tables and final tables map the same memory in blocks and pages of different sizes. A TLB must never hold two
//! translations of one address (Arm ARM, D8.16.1 "Using break-before-make"), and a CPU cannot break the map it runs on. So
//! the boot and early tables' entries are not global, and each set has an address space identifier of its own: until
//! the final tables are in use, `TCR_EL1.A1` takes the identifier from `TTBR1_EL1`, whose write
//! changes root and identifier at once. What a TLB holds of the former set no longer matches then.

use super::backend::are_programs_apart;
use super::boot::entry;
use super::register::{mrs, msr, synchronize};
use super::{asid, irq};
use crate::lock::IrqsOff;
use crate::memory::boot::PhysAddr;
use crate::memory::paging;
use crate::sched;
use crate::start::early_tables;
use crate::start::image;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use kpkeys::ttbr0::Roots;
use kpkeys_pgtable::section::Space;

/// Identifiers of the sets of tables, while `TCR_EL1.A1` is set.
pub const BOOT_ASID: u64 = 1;
const EARLY_ASID: u64 = 2;
const FINAL_ASID: u64 = 3;

/// The kernel's where programs run on another root of its half: no program's.
const KERNEL_ASID: u64 = 0;

/// The kernel's root, and the one that is loaded in its place for programs, or 0. Written on the early tables.
#[unsafe(link_section = ".settled")]
static KERNEL_ROOT: AtomicU64 = AtomicU64::new(0);
#[unsafe(link_section = ".settled")]
static PROGRAMS_KERNEL_ROOT: AtomicU64 = AtomicU64::new(0);

/// What `TTBR0_EL1` holds in windows of `ttbr0`, and outside of them; 0 with other backends. Written on the early tables.
#[unsafe(link_section = ".settled")]
static WINDOW: AtomicU64 = AtomicU64::new(0);
#[unsafe(link_section = ".settled")]
static CLOSED: AtomicU64 = AtomicU64::new(0);

/// These two values, for the backend.
#[derive(Clone, Copy, Debug)]
pub struct WindowRoots;

// SAFETY: both are inlined loads from constant addresses in what settled, which is read-only once protection is on. Then `WINDOW` is the root that `kpkeys-pgtable` made for
// the alias alone, with the identifier that `asid` gives no address space, and no other function of this module writes either: a thread's root may not be it
// (`load_checked`). `CLOSED` is the table that translates nothing, with identifier 0, which is loaded with nothing else.
unsafe impl Roots for WindowRoots {
    #[inline(always)]
    fn window() -> u64 {
        WINDOW.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn closed() -> u64 {
        CLOSED.load(Ordering::Relaxed)
    }
}

/// Settles what windows write until there is a window root: the table that translates nothing, under two identifiers. Nothing has an alias yet.
pub fn settle_windows() {
    if CLOSED.load(Ordering::Relaxed) == 0 {
        set_window(empty());
        CLOSED.store(empty(), Ordering::Relaxed);
    }
}

/// Whether the running CPU is on the kernel's final tables.
pub fn is_final() -> bool {
    mrs!("ttbr1_el1") & ADDRESS == KERNEL_ROOT.load(Ordering::Relaxed)
}

fn set_window(root: u64) {
    WINDOW.store(root | u64::from(asid::WINDOW) << ASID_SHIFT, Ordering::Relaxed);
}

const ASID_SHIFT: u32 = 48;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const TCR_A1: u64 = 1 << 22;

/// Physical address of a root table of the user half; 0 stands for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootTable(pub u64);

impl RootTable {
    /// The kernel's own: no user half.
    pub const KERNEL: Self = Self(0);
}

/// What the running CPU's root register of the user half holds.
pub fn current() -> PhysAddr {
    PhysAddr(mrs!("ttbr0_el1") & ADDRESS)
}

/// The roots that the running CPU has loaded, by whose half each is for. The table that translates nothing is none.
pub fn loaded() -> impl Iterator<Item = (Space, PhysAddr)> {
    let kernel = PhysAddr(mrs!("ttbr1_el1") & ADDRESS);
    let user = (current().0 != empty()).then_some((Space::User, current()));
    [(Space::Kernel, kernel)].into_iter().chain(user)
}

/// Loads what a thread with this root runs on in the kernel: that root, or none where programs' tables lack something. Interrupts are off.
pub fn load(root: RootTable) {
    if !are_programs_apart() {
        load_checked(root);
    }
}

/// Whether the window root is loaded, or would be.
fn is_window(root: u64) -> bool {
    root != 0 && root == WINDOW.load(Ordering::Relaxed) & ADDRESS
}

/// On the way into the kernel: takes the thread's root away and loads the kernel's own, if it is not loaded. A window that was interrupted is left for `interrupted` to close.
pub fn enter_kernel() {
    if !are_programs_apart() || current().0 == empty() || is_window(current().0) {
        return;
    }
    // SAFETY: the empty table always is one, and the kernel's root maps what the programs' does.
    unsafe {
        write_user(empty(), 0);
        if PROGRAMS_KERNEL_ROOT.load(Ordering::Relaxed) != 0 {
            write_kernel(KERNEL_ROOT.load(Ordering::Relaxed), KERNEL_ASID);
        }
    }
    asid::forget();
}

/// On the way to the running thread's program: loads its root, if that is not loaded all the time. All exceptions are masked until then.
pub fn enter_program() {
    if are_programs_apart() {
        load_checked(sched::current().root());
    }
}

/// Loads a root table, if it is not loaded already: none in place of one that is none by its type.
fn load_checked(root: RootTable) {
    let may_be_loaded = |root| !is_window(root) && paging::may_be_loaded(PhysAddr(root));
    let root = if root == RootTable::KERNEL || may_be_loaded(root.0) {
        root
    } else {
        paging::refused_root(PhysAddr(root.0));
        RootTable::KERNEL
    };
    let wanted = if root == RootTable::KERNEL { empty() } else { root.0 };
    if wanted == current().0 {
        return;
    }
    // SAFETY: whoever named the root promised that it is one and lives while it is loaded (`Thread::set_root`); the empty table is
    // always one.
    unsafe {
        match root {
            RootTable::KERNEL => {
                write_user(wanted, 0);
                asid::forget();
            }
            RootTable(address) => asid::with(address, |asid| {
                let asid = u64::from(asid);
                let programs = PROGRAMS_KERNEL_ROOT.load(Ordering::Relaxed);
                if programs != 0 && are_programs_apart() {
                    write_kernel(programs, asid);
                }
                write_user(address, asid);
            }),
        }
    }
}

/// Runs `f` on the running thread's root, where its program's memory is mapped, and an alias is not. All exceptions are masked meanwhile, unless
/// that is loaded all the time.
pub fn on_threads_root<R>(f: impl FnOnce() -> R) -> R {
    if !are_programs_apart() {
        return f();
    }
    let masks = mrs!("daif");
    irq::disable_all();
    enter_program();
    let result = f();
    enter_kernel();
    // SAFETY: these are the masks that were in force.
    unsafe { msr!("daif", masks) };
    result
}

/// Moves the running CPU from the boot tables to the early tables, and takes the user half away.
///
/// # Safety
///
/// The early tables must be built; nothing must be used by a one-to-one address any more.
pub unsafe fn enter_early_tables() {
    let root = early_tables::ROOT.load(Ordering::Acquire);
    // SAFETY: the early tables map the image where the boot tables do, so execution goes on; the stack is part of it.
    unsafe {
        write_kernel(root, EARLY_ASID);
        write_user(empty(), 0);
    }
    forget_all_translations();
}

/// Moves the running CPU to the kernel's final tables, dropping every old translation. Every CPU must do it. `programs` is the second root of the
/// kernel's half, if programs run on one; `window` that of an alias, if it has its own.
///
/// # Safety
///
/// The table must map everything the kernel uses where the present one does, and live for ever; so must the second. No window may be open on any CPU.
pub unsafe fn adopt(root: PhysAddr, programs: Option<PhysAddr>, window: Option<PhysAddr>) {
    let _irqs_off = IrqsOff::new();
    KERNEL_ROOT.store(root.0, Ordering::Relaxed);
    PROGRAMS_KERNEL_ROOT.store(programs.map_or(0, |root| root.0), Ordering::Relaxed);
    if let Some(window) = window {
        set_window(window.0);
    }
    let (asid, a1) = if programs.is_some() { (KERNEL_ASID, TCR_A1) } else { (FINAL_ASID, 0) };
    let tcr = mrs!("tcr_el1") & !TCR_A1 | a1;
    // SAFETY: forwarded. Without A1, identifiers are those of the user half, which is empty on this CPU.
    unsafe {
        write_kernel(root.0, asid);
        forget_all_translations();
        msr!("tcr_el1", tcr);
    }
    synchronize();
    forget_all_translations();
}

/// Physical address of the table that translates nothing.
fn empty() -> u64 {
    image::phys(entry::empty_table()).0
}

/// # Safety
///
/// The table must map everything the kernel uses where the present one does; the identifier must be its own.
unsafe fn write_kernel(root: u64, asid: u64) {
    // SAFETY: forwarded.
    unsafe { msr!("ttbr1_el1", root | asid << ASID_SHIFT) };
    synchronize();
}

/// # Safety
///
/// `root` must be a table of the user half, and stay one while it is loaded; no CPU may have translations of another one under
/// the identifier.
unsafe fn write_user(root: u64, asid: u64) {
    // SAFETY: forwarded.
    unsafe { msr!("ttbr0_el1", root | asid << ASID_SHIFT) };
    synchronize();
}

/// On the running CPU alone.
fn forget_all_translations() {
    // SAFETY: forgetting translations is always sound.
    unsafe { asm!("tlbi vmalle1", "dsb nsh", "isb", options(nostack, preserves_flags)) };
}
