//! Flushing translations, here and on the other CPUs.
//!
//! x86-64 has no broadcast: each CPU must be interrupted and asked. One shootdown runs at a
//! time; its request is in one static, each CPU's bit in [`PENDING`] says that it still has
//! to flush, and clearing the bit is the acknowledgement.
//!
//! A CPU that waits with interrupts off - for a lock, or for its own shootdown's turn -
//! answers from its waiting loop ([`answer_pending`]). So a shootdown always ends, whatever
//! locks of type `IrqLock` its caller holds.

use super::ipi;
use crate::cpu::{self, CpuId};
use crate::lock::IrqsOff;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use x86_64::VirtAddr;
use x86_64::instructions::tlb as instruction;
use x86_64::registers::control::{Cr4, Cr4Flags};

const PAGE_SIZE: u64 = crate::memory::boot::PAGE_SIZE;

/// Above this many pages one full flush is cheaper than an INVLPG each; Linux's default.
const MAX_SINGLE_FLUSHES: u64 = 33;

/// What to forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flush {
    /// Translations of the pages that contain `start..end`, of whatever size, and all
    /// cached upper-level entries (INVLPG drops those as well: Intel SDM vol. 3A, 4.10.4.1).
    Range {
        /// First address.
        start: u64,
        /// First address behind.
        end: u64,
    },
    /// Everything that is not global: all translations of user addresses.
    User,
    /// Everything, global entries included.
    All,
}

impl From<kpkeys_pgtable::Flush> for Flush {
    fn from(flush: kpkeys_pgtable::Flush) -> Self {
        use kpkeys_pgtable::Flush as Wanted;
        match flush {
            Wanted::Kernel(range) | Wanted::User(_, range) => {
                // A range that ends with the address space wraps to 0.
                let end = range.end().0.wrapping_sub(1);
                Self::Range { start: range.start().0, end: end.saturating_add(1) }
            }
            Wanted::AllKernel | Wanted::All => Self::All,
            Wanted::AddressSpace(_) => Self::User,
        }
    }
}

impl Flush {
    /// Executes the flush on the running CPU.
    fn execute(self) {
        match self {
            Self::Range { start, end } if pages(start, end) <= MAX_SINGLE_FLUSHES => {
                for page in 0..pages(start, end) {
                    instruction::flush(VirtAddr::new_truncate(
                        first_page(start) + page * PAGE_SIZE,
                    ));
                }
            }
            Self::User => instruction::flush_all(),
            _ => flush_all_with_global(),
        }
    }
}

const fn first_page(start: u64) -> u64 {
    start & !(PAGE_SIZE - 1)
}

const fn pages(start: u64, end: u64) -> u64 {
    end.saturating_sub(first_page(start)).div_ceil(PAGE_SIZE)
}

/// Changing CR4.PGE drops every translation, global ones included, which a write to CR3
/// does not (Intel SDM vol. 3A, 4.10.4.1).
pub(super) fn flush_all_with_global() {
    let _irqs_off = IrqsOff::new();
    let bits = Cr4::read();
    // SAFETY: only the global-page feature is toggled, and restored at once; it changes how
    // long translations are kept, never what they are.
    unsafe {
        Cr4::write(bits ^ Cr4Flags::PAGE_GLOBAL);
        Cr4::write(bits);
    }
}

/// Whether a shootdown is under way.
static BUSY: AtomicBool = AtomicBool::new(false);
/// The shootdown's request.
static START: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);
/// One bit for each CPU that has not flushed yet.
static PENDING: AtomicU64 = AtomicU64::new(0);
/// `START..END` of a request for everything.
const EVERYTHING: (u64, u64) = (0, u64::MAX);
/// `START..END` of a request for everything that is not global; no range is inverted.
const USER: (u64, u64) = (u64::MAX, 0);

/// Flushes on every online CPU and returns how many did, this one included. When
/// it returns, no CPU uses an old translation. Must not be called from an NMI.
pub fn flush_everywhere(flush: kpkeys_pgtable::Flush) -> usize {
    let flush = Flush::from(flush);
    let _irqs_off = IrqsOff::new();
    flush.execute();
    let this = cpu::this().id;
    let others = cpu::online().filter(|cpu| cpu.id != this);
    let mask = others.fold(0u64, |mask, cpu| mask | bit(cpu.id));
    if mask == 0 {
        return 1;
    }
    while BUSY.swap(true, Ordering::Acquire) {
        super::irq::relax();
    }
    publish(flush, mask);
    for cpu in cpu::online().filter(|cpu| mask & bit(cpu.id) != 0) {
        ipi::send_shootdown(cpu);
    }
    while PENDING.load(Ordering::Acquire) != 0 {
        core::hint::spin_loop();
    }
    BUSY.store(false, Ordering::Release);
    1 + mask.count_ones() as usize
}

/// Waits until every other CPU has been outside of any gate at some moment since the call: a gate keeps interrupts off and waits for
/// nothing, so a CPU that answers a shootdown is in none.
pub fn wait_for_gates() {
    flush_everywhere(kpkeys_pgtable::Flush::AllKernel);
}

/// The request must be visible before the bits: `Release` here, `Acquire` in
/// [`answer_pending`]. The page-table stores before it become visible with it.
fn publish(flush: Flush, mask: u64) {
    let (start, end) = match flush {
        Flush::Range { start, end } => (start, end),
        Flush::User => USER,
        Flush::All => EVERYTHING,
    };
    START.store(start, Ordering::Relaxed);
    END.store(end, Ordering::Relaxed);
    PENDING.store(mask, Ordering::Release);
}

/// If a shootdown waits for the running CPU, flushes and acknowledges. Cheap otherwise.
/// Interrupts must be off, or the caller must not mind being moved to another CPU.
pub fn answer_pending() {
    if PENDING.load(Ordering::Relaxed) == 0 {
        return;
    }
    let _irqs_off = IrqsOff::new();
    let mine = bit(cpu::this().id);
    if PENDING.load(Ordering::Acquire) & mine == 0 {
        return;
    }
    let flush = match (START.load(Ordering::Relaxed), END.load(Ordering::Relaxed)) {
        EVERYTHING => Flush::All,
        USER => Flush::User,
        (start, end) => Flush::Range { start, end },
    };
    flush.execute();
    PENDING.fetch_and(!mine, Ordering::Release);
}

const fn bit(cpu: CpuId) -> u64 {
    1 << cpu.0
}
