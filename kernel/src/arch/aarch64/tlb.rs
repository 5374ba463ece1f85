//! Flushing translations on all CPUs at once: the instructions of the inner shareable domain (Arm ARM, D8.17).
//!
//! A flush is three steps: DSB ISHST makes the changed entries visible to every table walk, TLBI ...IS tells every CPU, DSB ISH waits until
//! all have done it. ISB then drops what this CPU has already fetched by an old translation. No CPU is interrupted.

use super::{asid, ipi};
use crate::arch::{Flush, Format, PageRange};
use crate::cpu::{self, rounds};
use core::arch::asm;

/// Above this many pages one flush of everything is cheaper than an instruction each; Linux's limit.
const MAX_SINGLE_FLUSHES: usize = 512;

const ASID_SHIFT: u32 = 48;

/// Executes a TLBI with an operand.
macro_rules! tlbi {
    ($operation:literal, $operand:expr) => {{
        let operand: u64 = $operand;
        // SAFETY: forgetting translations is always sound.
        unsafe {
            asm!(concat!("tlbi ", $operation, ", {}"), in(reg) operand, options(nostack, preserves_flags))
        }
    }};
}

/// Flushes on every online CPU and returns how many there are. When it returns, no CPU uses an old translation.
pub fn flush_everywhere(flush: Flush) -> usize {
    order_stores();
    match flush {
        Flush::Kernel(range) if range.pages() <= MAX_SINGLE_FLUSHES => {
            // Kernel translations are global: they match under every identifier.
            pages(range).for_each(|page| tlbi!("vaae1is", page));
        }
        Flush::Kernel(_) | Flush::AllKernel | Flush::All => flush_all(),
        Flush::User(root, range) => flush_user(root.0, Some(range)),
        Flush::AddressSpace(root) => flush_user(root.0, None),
    }
    complete();
    cpu::online().count()
}

/// Flushes every translation on every CPU.
pub fn flush_all_everywhere() {
    order_stores();
    flush_all();
    complete();
}

/// The stores were ordered before this looks the identifier up: a root without one, or that gets another meanwhile, is walked afresh
/// and the walk finds the new entries.
fn flush_user(root: u64, range: Option<PageRange>) {
    let Some(asid) = asid::of_root(root) else { return };
    let asid = u64::from(asid) << ASID_SHIFT;
    match range {
        Some(range) if range.pages() <= MAX_SINGLE_FLUSHES => {
            pages(range).for_each(|page| tlbi!("vae1is", asid | page));
        }
        _ => tlbi!("aside1is", asid),
    }
}

/// The pages of a range as TLBI takes them, whatever their size: bits 55:12 of the address in bits 43:0 of the operand.
fn pages(range: PageRange) -> impl Iterator<Item = u64> {
    const PAGE: u64 = (1 << 44) - 1;
    (0..range.pages()).map(move |page| range.start().offset_pages::<Format>(page).0 >> 12 & PAGE)
}

fn flush_all() {
    // SAFETY: forgetting translations is always sound.
    unsafe { asm!("tlbi vmalle1is", options(nostack, preserves_flags)) };
}

fn order_stores() {
    // SAFETY: barriers have no effect but to order.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
}

fn complete() {
    // SAFETY: barriers have no effect but to order.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Waits until every other CPU has been outside of any gate at some moment since the call, by an interrupt to each: a gate keeps
/// interrupts off. (Hardware carries flushes to the other CPUs, so that no flush tells.)
pub fn wait_for_gates() {
    rounds::ask([0; 2], ipi::send_call);
}

/// Says that this CPU is in no gate, if another waits for that: in the handler of its interrupt, and in each loop that waits with
/// interrupts off for what the other may hold.
pub fn answer_pending() {
    rounds::answer(|_| ());
}
