//! The root register, CR3.
//!
//! Every thread has a root table, and a CPU holds the one of the thread it runs. Threads without an address space of
//! their own run on the kernel's root, so no CPU ever holds on to a root that is released: there is no lazy switching.
//!
//! # Behind an alias
//!
//! The alias is user memory to programs, so their roots lack it (`kpkeys-pgtable`), and the kernel runs on its own root, always. A thread's
//! root is loaded for the way into its program ([`enter_program`]) and for one access to its memory ([`on_threads_root`]), interrupts off;
//! every exception puts the kernel's back first ([`enter_kernel`]), by what the register says. Neither the alias nor anything else that is
//! not global stays in a TLB over these writes (Intel SDM vol. 3A, 4.10.4.1).

use super::tlb;
use crate::lock::IrqsOff;
use crate::memory::boot::PhysAddr;
use crate::memory::paging;
use crate::{protection, sched};
use core::sync::atomic::{AtomicU64, Ordering};
use kpkeys_pgtable::section::Space;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::PhysFrame;

/// Physical address of a root table; 0 stands for the kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootTable(pub u64);

impl RootTable {
    /// The kernel's own.
    pub const KERNEL: Self = Self(0);
}

/// The kernel's own root: the early tables' until [`adopt`], which every CPU does on the early tables, where this can be written.
#[unsafe(link_section = ".settled")]
static KERNEL_ROOT: AtomicU64 = AtomicU64::new(0);

/// What the running CPU's root register holds.
pub fn current() -> PhysAddr {
    PhysAddr(Cr3::read().0.start_address().as_u64())
}

/// The roots that the running CPU has loaded, by whose half each is for.
pub fn loaded() -> impl Iterator<Item = (Space, PhysAddr)> {
    [(Space::User, current())].into_iter()
}

/// Loads what a thread with this root runs on in the kernel: that root, or behind an alias the kernel's own. Interrupts are off.
pub fn load(root: RootTable) {
    load_checked(if protection::has_alias() { RootTable::KERNEL } else { root });
}

/// On the way into the kernel: loads its own root, if programs' lack something, and says whether another was loaded.
pub fn enter_kernel() -> bool {
    if !protection::has_alias() {
        return false;
    }
    if current().0 == KERNEL_ROOT.load(Ordering::Relaxed) {
        return false;
    }
    load_checked(RootTable::KERNEL);
    true
}

/// On the way to the running thread's program: loads its root, if that is not what it runs on in the kernel. Interrupts are off until then.
pub fn enter_program() {
    if protection::has_alias() {
        load_checked(sched::current().root());
    }
}

/// Runs `f` on the running thread's root, where its program's memory is mapped, and an alias is not. Interrupts are off meanwhile.
pub fn on_threads_root<R>(f: impl FnOnce() -> R) -> R {
    let _irqs_off = protection::has_alias().then(IrqsOff::new);
    enter_program();
    let result = f();
    enter_kernel();
    result
}

/// Loads a root table, if it is not loaded already: the kernel's own in place of one that is none by its type.
fn load_checked(root: RootTable) {
    let wanted = match root {
        RootTable::KERNEL => KERNEL_ROOT.load(Ordering::Relaxed),
        RootTable(address) if paging::may_be_loaded(PhysAddr(address)) => address,
        RootTable(address) => {
            paging::refused_root(PhysAddr(address));
            KERNEL_ROOT.load(Ordering::Relaxed)
        }
    };
    if wanted != 0 && wanted != current().0 {
        // SAFETY: whoever named the root promised that it holds the kernel's half (`Thread::set_root`, `adopt`), so
        // everything this CPU uses stays where it is.
        unsafe { write(wanted) };
    }
}

/// Makes `root` the kernel's own root and moves the running CPU to it, dropping every old translation. Every CPU must do it. There is no second
/// root of its half.
///
/// # Safety
///
/// The table must map everything the kernel uses where the present one does, and live for ever.
pub unsafe fn adopt(root: PhysAddr, _: Option<PhysAddr>, _: Option<PhysAddr>) {
    let _irqs_off = IrqsOff::new();
    KERNEL_ROOT.store(root.0, Ordering::Relaxed);
    // SAFETY: forwarded.
    unsafe { write(root.0) };
    tlb::flush_all_with_global();
}

/// # Safety
///
/// The table must map everything the kernel uses where the present one does.
unsafe fn write(root: u64) {
    let frame = PhysFrame::containing_address(x86_64::PhysAddr::new_truncate(root));
    // SAFETY: forwarded.
    unsafe { Cr3::write(frame, Cr3Flags::empty()) };
}
