//! Flushing translations, here and on the other CPUs.
//!
//! x86-64 has no broadcast: each CPU must be interrupted and asked, in a [round](rounds).

use super::ipi;
use crate::cpu::rounds::{self, Request};
use crate::lock::IrqsOff;
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

impl From<crate::arch::Flush> for Flush {
    fn from(flush: crate::arch::Flush) -> Self {
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
                    flush_page(first_page(start) + page * PAGE_SIZE);
                }
            }
            Self::User => instruction::flush_all(),
            _ => flush_all_with_global(),
        }
    }
}

/// Forgets one page. (The instruction by hand: the `x86_64` crate's takes addresses of 48 bits.)
fn flush_page(address: u64) {
    // SAFETY: forgetting a translation changes no memory, and none that is still wanted is lost.
    unsafe { core::arch::asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
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

/// A request for everything.
const EVERYTHING: Request = [0, u64::MAX];
/// A request for everything that is not global; no range is inverted.
const USER: Request = [u64::MAX, 0];

impl From<Flush> for Request {
    fn from(flush: Flush) -> Self {
        match flush {
            Flush::Range { start, end } => [start, end],
            Flush::User => USER,
            Flush::All => EVERYTHING,
        }
    }
}

impl From<Request> for Flush {
    fn from(request: Request) -> Self {
        match request {
            EVERYTHING => Self::All,
            USER => Self::User,
            [start, end] => Self::Range { start, end },
        }
    }
}

/// Flushes on every online CPU and returns how many did, this one included. When
/// it returns, no CPU uses an old translation. Must not be called from an NMI.
pub fn flush_everywhere(flush: crate::arch::Flush) -> usize {
    let flush = Flush::from(flush);
    let _irqs_off = IrqsOff::new();
    flush.execute();
    1 + rounds::ask(flush.into(), ipi::send_shootdown)
}

/// Waits until every other CPU has been outside of any gate at some moment since the call: a gate keeps interrupts off and waits for
/// nothing, so a CPU that answers a shootdown is in none.
pub fn wait_for_gates() {
    flush_everywhere(kpkeys_pgtable::Flush::AllKernel);
}

/// If shootdowns wait for the running CPU, flushes and answers.
pub fn answer_pending() {
    rounds::answer(|request| Flush::from(request).execute());
}
