//! Stacks with a guard page below each.
//!
//! They lie in an image section of their own, as slots of [`SLOT_SIZE`]. The lowest page of
//! each slot is never mapped (`image::regions` leaves it out), so a stack that overflows
//! faults at once instead of running into its neighbour.

use super::MAX_CPUS;
use crate::lock::IrqLock;
use crate::memory::boot::PAGE_SIZE;
use crate::start::settled::Settled;
use core::cell::UnsafeCell;

/// Bytes of a slot, guard page included: a power of two, with at least 28 KiB above the guard page.
pub const SLOT_SIZE: usize = (PAGE_SIZE as usize + 28 * 1024).next_power_of_two();
/// Slots of a machine that has as many CPUs: of each up to five (its first thread and, on x86-64, four for exceptions), the rest threads'.
const fn slots_of(cpus: usize) -> usize {
    128 + 8 * cpus
}

/// Slots that the image has addresses for.
const MOST_SLOTS: usize = slots_of(MAX_CPUS);
/// Bytes of the guard page. A slot is aligned to its size, so an address is in a guard page if the bits between the two sizes are
/// zero: arm64's exception entry looks.
pub const GUARD_SIZE: usize = PAGE_SIZE as usize;

#[cfg_attr(feature = "pages-64k", repr(C, align(131_072)))]
#[cfg_attr(feature = "pages-16k", repr(C, align(65536)))]
#[cfg_attr(not(any(feature = "pages-16k", feature = "pages-64k")), repr(C, align(32768)))]
struct Slots(UnsafeCell<[[u8; SLOT_SIZE]; MOST_SLOTS]>);

// SAFETY: a slot is only reached through the one `Stack` that owns it.
unsafe impl Sync for Slots {}

#[unsafe(link_section = ".stacks")]
static SLOT_MEMORY: Slots = Slots(UnsafeCell::new([[0; SLOT_SIZE]; MOST_SLOTS]));

/// Whether each slot is in use.
static IN_USE: IrqLock<[bool; MOST_SLOTS]> = IrqLock::new([false; MOST_SLOTS]);

/// How many there are.
#[unsafe(link_section = ".settled")]
static SLOTS: Settled<usize> = Settled::new();

const _: () = assert!(align_of::<Slots>() == SLOT_SIZE);

/// A stack; dropping it gives the slot back.
#[derive(Debug)]
pub struct Stack(Slot);

/// The place of a stack, whether anyone owns it or not.
#[derive(Clone, Copy, Debug)]
pub struct Slot(usize);

impl Stack {
    /// A stack nobody else has; `None` when all are taken.
    pub fn take() -> Option<Self> {
        let mut in_use = IN_USE.lock();
        let slot = in_use[..slots()].iter().position(|is| !is)?;
        in_use[slot] = true;
        Some(Self(Slot(slot)))
    }

    /// First address above the stack: the initial stack pointer, on a page's boundary.
    pub fn top(&self) -> usize {
        self.0.top()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        IN_USE.lock()[self.0.0] = false;
    }
}

impl Slot {
    fn start(self) -> usize {
        SLOT_MEMORY.0.get() as usize + self.0 * SLOT_SIZE
    }

    /// Lowest usable address; the guard page ends here.
    pub fn bottom(self) -> usize {
        self.start() + GUARD_SIZE
    }

    /// First address above.
    pub fn top(self) -> usize {
        self.start() + SLOT_SIZE
    }
}

/// Makes as many slots as so many CPUs need. What the image has behind [`end`] is memory like any other from then on.
pub fn make_for(cpus: usize) {
    SLOTS.settle(|| slots_of(cpus.min(MAX_CPUS)));
}

/// How many slots there are; until the CPUs have been counted those of one.
fn slots() -> usize {
    SLOTS.get().copied().unwrap_or(slots_of(1))
}

/// The first address behind the last slot, where the image ends.
pub fn end() -> usize {
    Slot(slots()).start()
}

/// Every slot.
pub fn all() -> impl Iterator<Item = Slot> {
    (0..slots()).map(Slot)
}

/// Whether `address` lies in a guard page.
pub fn is_guard(address: u64) -> bool {
    all().any(|slot| (slot.start() as u64..slot.bottom() as u64).contains(&address))
}

/// An address that is never mapped: a guard page's.
pub fn some_guard() -> *const u8 {
    SLOT_MEMORY.0.get().cast()
}
