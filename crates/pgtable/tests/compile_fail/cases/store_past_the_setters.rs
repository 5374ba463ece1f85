//! The word behind a slot is out of reach.
//! expect: E0616

use kpkeys_pgtable::table::Slot;

pub fn poke(slot: Slot<'_>) -> u64 {
    #[cfg(feature = "misuse")]
    slot.0.store(0, std::sync::atomic::Ordering::Relaxed);
    slot.load().0
}

fn main() {}
